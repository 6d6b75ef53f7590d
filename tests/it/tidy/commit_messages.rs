//! Messages of commits speak of the project, not of the machine on which they were written.

use std::io::Write;
use std::process::Command;

use super::root;

/// The last commit that had landed when this check was written. Some merges before it name such
/// paths, and stay as they are.
const CHECKED_AFTER: &str = "f8e3fb9bbfba8217eace5bac3d48caef27dbf073";

/// Directories of one machine. Written apart, so that this file does not hold them.
const DIRECTORIES: [&str; 8] = [
    concat!("/", "tmp/"),
    concat!("/", "work/"),
    concat!("/", "home/"),
    concat!("/", "root/"),
    concat!("/", "Users/"),
    concat!("/", "mnt/"),
    concat!("/", "workspace/"),
    concat!("/", "private/"),
];

/// The first directory of a machine that a message names: `/tmp/x`, but not `target/tmp/x`.
fn machine_path(message: &str) -> Option<&'static str> {
    let is_name = |char: char| char.is_alphanumeric() || "_-.~".contains(char);
    DIRECTORIES.into_iter().find(|directory| {
        let mut found = message.match_indices(directory);
        found.any(|(at, _)| !message[..at].chars().next_back().is_some_and(is_name))
    })
}

/// Returns the output of git, or the reason why there is none.
fn git(arguments: &[&str]) -> Result<String, String> {
    let run = Command::new("git").args(arguments).current_dir(root()).output();
    let output = run.map_err(|error| format!("git does not run: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("git {}: {}", arguments.join(" "), said.trim()))
    }
}

/// Every commit since the landing, as its hash and its message.
fn commits() -> Result<Vec<(String, String)>, String> {
    if git(&["rev-parse", "--is-shallow-repository"])?.trim() != "false" {
        return Err("this clone is shallow; fetch all of its history".to_owned());
    }
    git(&["merge-base", "--is-ancestor", CHECKED_AFTER, "HEAD"])
        .map_err(|_| format!("the history does not contain {CHECKED_AFTER}"))?;
    let range = format!("{CHECKED_AFTER}..HEAD");
    let log = git(&["log", "--format=%h%x00%B%x01", &range])?;
    let entries = log.split('\u{1}').filter_map(|entry| entry.trim_start().split_once('\0'));
    Ok(entries.map(|(hash, message)| (hash.to_owned(), message.to_owned())).collect())
}

#[test]
fn no_commit_message_names_a_path_of_one_machine() {
    let commits = match commits() {
        Ok(commits) => commits,
        Err(why) => {
            // Written directly, because the test harness would capture it.
            let _ = writeln!(std::io::stderr(), "commit messages are not checked: {why}");
            return;
        }
    };
    let found: Vec<String> = commits
        .iter()
        .filter_map(|(hash, message)| Some(format!("{hash} names {}", machine_path(message)?)))
        .collect();
    assert!(
        found.is_empty(),
        "reword these before they land, with `git rebase --interactive`:\n{}",
        found.join("\n")
    );
}

#[test]
fn a_path_of_a_machine_is_told_from_one_of_the_repository() {
    for directory in DIRECTORIES {
        for message in [
            format!("Merge branch 'main' of {directory}clone"),
            format!("{directory}socket"),
            format!("Listen on unix:{directory}ipc.sock\n\nIt did not."),
        ] {
            assert_eq!(machine_path(&message), Some(directory), "{message}");
        }
        for message in [
            format!("Keep the counts in target{directory}instructions"),
            format!("Use ..{directory}x"),
            directory.trim_start_matches('/').to_owned(),
        ] {
            assert_eq!(machine_path(&message), None, "{message}");
        }
    }
}
