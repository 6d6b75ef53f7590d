//! Runs this program once more, under callgrind.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::scenarios::Scenario;

/// The argument of the program that runs under callgrind.
pub(super) const COUNTED: &str = "--counted";
/// The name of the function whose inside is counted, as callgrind writes it. It is no pattern,
/// because two options with the same pattern do not both take effect.
const FUNCTION: &str = "instructions::counted_rounds";

/// The instructions of each scenario, all its rounds together.
///
/// One run serves them all: callgrind counts only inside of one function and writes a
/// profile whenever that function returns.
pub(super) fn totals(filters: &[String], scenarios: &[Scenario]) -> Result<Vec<u64>, String> {
    let directory = profiles();
    // A profile of an earlier run must not be taken for one of this run.
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let out = directory.join("out");
    let this = std::env::current_exe().map_err(|error| format!("who am I? {error}"))?;
    let status = Command::new("valgrind")
        // Otherwise a profile abbreviates names that only an earlier profile writes out.
        .args(["--tool=callgrind", "--quiet", "--compress-strings=no"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(format!("--toggle-collect={FUNCTION}"))
        .arg(format!("--dump-after={FUNCTION}"))
        .arg(this)
        .arg(COUNTED)
        .args(filters)
        // The environment lies at the start of the stack, and its size would move the rest.
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .status()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => MISSING.to_owned(),
            _ => format!("valgrind does not start: {error}"),
        })?;
    if !status.success() {
        return Err(format!("valgrind ended with {status}; what it said stands above"));
    }
    scenarios.iter().enumerate().map(|(at, scenario)| total(&directory, at + 1, scenario)).collect()
}

/// The count of the profile with this number. The profile is kept under the scenario's name.
fn total(directory: &Path, number: usize, scenario: &Scenario) -> Result<u64, String> {
    let numbered = directory.join(format!("out.{number}"));
    let named = directory.join(format!("{}.out", scenario.name.replace('/', "-")));
    let complain = |error: std::io::Error| format!("{}: {error}", numbered.display());
    let profile = fs::read_to_string(&numbered).map_err(complain)?;
    fs::write(&named, without_callers(&profile)).map_err(complain)?;
    fs::remove_file(&numbered).map_err(complain)?;
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.and_then(|total| total.trim().parse().ok()).filter(|total| *total > 0);
    total.ok_or_else(|| format!("{} counts nothing", named.display()))
}

/// Removes the functions that were on the stack when the profile was written. They are in it with no
/// calls and the cost of everything, which `callgrind_annotate` takes for a cost of their own.
fn without_callers(profile: &str) -> String {
    let mut kept = String::with_capacity(profile.len());
    let mut lines = profile.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("calls=0 ") {
            // The next line has the cost of the call.
            lines.next();
            continue;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// The directory of the profiles, for `callgrind_annotate`.
pub(super) fn profiles() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("instructions")
}

const MISSING: &str = "valgrind is not installed, and nothing else counts instructions; on Debian \
                       and Ubuntu: apt-get install valgrind";
