//! The repository tests its own tidiness.

mod comments;
mod commit_messages;
mod map;
mod order;
mod release;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LINES_MAX: usize = 700;
const LINE_CHARS_MAX: usize = 120;
/// Names that the sans-IO parts may not use.
const IMPURE: [&str; 8] =
    ["mio", "std::net", "std::io", "Instant::now", "SystemTime", "socket2", "getrandom", "std::os"];
/// Written in parts, so that this file does not contain them.
const FORBIDDEN: [&str; 6] = [
    concat!("/", "work/"),
    concat!("/", "root/"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("unimple", "mented!"),
    concat!("to", "do!"),
];
/// The registry of all crates.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns every text file of the repository, with its path from the root.
fn files() -> Vec<(PathBuf, String)> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let paths: Vec<PathBuf> = match listed {
        Ok(listed) if listed.status.success() => {
            let names = String::from_utf8(listed.stdout).unwrap();
            names.split_terminator('\0').map(PathBuf::from).collect()
        }
        // A published package is no repository.
        _ => walk(root()),
    };
    let text = |path: PathBuf| {
        // A file that was deleted and not committed yet is still listed, and a picture is no text.
        let text = String::from_utf8(fs::read(root().join(&path)).ok()?).ok()?;
        Some((path, text))
    };
    let files: Vec<_> = paths.into_iter().filter_map(text).collect();
    assert!(files.iter().any(|(path, _)| path == Path::new("tests/it/tidy.rs")), "{files:?}");
    files
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') || ["target", "node_modules"].contains(&&*name) {
            continue;
        }
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
    found
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|found| extensions.iter().any(|extension| found == *extension))
}

/// Fails with all complaints at once, each as `path:line: complaint`.
fn check(complain: impl Fn(&Path, &str) -> Vec<(usize, String)>) {
    let mut complaints = Vec::new();
    for (path, text) in files() {
        for (line, what) in complain(&path, &text) {
            complaints.push(format!("{}:{line}: {what}", path.display()));
        }
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line))
}

/// Returns the text without its `//` comments, with the same number of lines.
fn without_comments(text: &str) -> String {
    let code = |line: &str| line.split_once("//").map_or(line, |(code, _)| code).to_owned();
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

/// Returns the full paths that a `use` names: `std::{fs, io::{self, Read}}` names `std::io`.
fn imports(tree: &str) -> Vec<String> {
    fn expand(prefix: &str, tree: &str, found: &mut Vec<String>) {
        let Some((head, group)) = tree.split_once('{') else {
            return found.push(format!("{prefix}{}", tree.trim()));
        };
        let prefix = format!("{prefix}{}", head.trim());
        let group = group.trim_end().strip_suffix('}').unwrap_or(group);
        let (mut depth, mut start) = (0, 0);
        for (at, char) in group.char_indices().chain([(group.len(), ',')]) {
            match char {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    expand(&prefix, &group[start..at], found);
                    start = at + 1;
                }
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    let flat: String = tree.split_whitespace().collect::<Vec<_>>().join(" ");
    expand("", &flat, &mut found);
    found
}

/// Returns whether the code names `path` as a whole: `mious` and `simio` do not name `mio`.
fn names(code: &str, path: &str) -> bool {
    let is_word = |char: char| char.is_alphanumeric() || char == '_';
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + path.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn impurities(text: &str) -> Vec<(usize, String)> {
    let code = without_comments(text);
    let mut found = Vec::new();
    for (line, code) in numbered(&code) {
        let named = IMPURE.iter().filter(|path| names(code, path));
        found.extend(named.map(|path| (line, format!("names {path}"))));
    }
    for (at, _) in code.match_indices("use ") {
        let line = code[..at].matches('\n').count() + 1;
        let tree = code[at + 4..].split(';').next().unwrap_or_default();
        for import in imports(tree).iter().filter(|_| tree.contains('{')) {
            let named = IMPURE.iter().filter(|path| names(import, path));
            found.extend(named.map(|path| (line, format!("imports {path}"))));
        }
    }
    found
}

#[test]
fn impurities_are_found_however_they_are_written() {
    for pure in ["// std::io is not used", "use std::{fmt, ops};", "let simio = miou;", ""] {
        assert_eq!(impurities(pure), [], "{pure}");
    }
    for impure in [
        "fn f(_: std::io::Error) {}",
        "use mio;",
        "use std::{fmt, io};",
        "use std::{\n    fmt::{self, Write},\n    net::{IpAddr, Ipv4Addr},\n};",
        "use std::io::{self, Read};",
        "pub use ::std::{net::*};",
        "let now = Instant::now(); // here",
    ] {
        assert_ne!(impurities(impure), [], "{impure}");
    }
}

#[test]
fn the_protocol_and_the_broker_do_no_input_or_output() {
    let mut seen = [false; 2];
    for (path, _) in files() {
        seen[0] |= path.starts_with("src/proto") && path.ends_with("frame.rs");
        seen[1] |= path.starts_with("src/broker") && path.ends_with("core.rs");
    }
    assert_eq!(seen, [true; 2], "the rooms have moved; search them where they are");
    check(|path, text| {
        let is_pure = path.starts_with("src/proto") || path.starts_with("src/broker");
        if is_pure && has_extension(path, &["rs"]) { impurities(text) } else { Vec::new() }
    });
}

#[test]
fn no_file_and_no_line_is_too_long() {
    check(|path, text| {
        let mut complaints = Vec::new();
        let lines = text.lines().count();
        if has_extension(path, &["rs", "py", "js", "mjs", "ts"]) && lines > LINES_MAX {
            complaints.push((lines, format!("{lines} lines, over {LINES_MAX}")));
        }
        if has_extension(path, &["rs", "py"]) {
            let long = numbered(text).filter(|(_, line)| line.chars().count() > LINE_CHARS_MAX);
            complaints
                .extend(long.map(|(at, line)| (at, format!("{} wide", line.chars().count()))));
        }
        complaints
    });
}

#[test]
fn nothing_unfinished_and_no_path_of_one_machine_is_left() {
    check(|_, text| {
        let found = numbered(text).flat_map(|(line, text)| {
            let words = FORBIDDEN.iter().filter(move |word| text.contains(**word));
            words.map(move |word| (line, format!("holds {word}")))
        });
        found.collect()
    });
}

#[test]
fn every_crate_comes_from_the_one_index() {
    check(|path, text| {
        if !path.ends_with("Cargo.lock") {
            return Vec::new();
        }
        let sources = numbered(text).filter(|(_, line)| line.starts_with("source = "));
        let foreign = sources.filter(|(_, line)| *line != format!("source = \"{REGISTRY}\""));
        foreign.map(|(at, line)| (at, line.to_owned())).collect()
    });
}

/// Returns the lines that relax a lint without a reason.
fn unreasoned(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let relaxes = |line: &str| {
        ["#[allow(", "#[expect(", "#![allow(", "#![expect("].iter().any(|a| line.starts_with(a))
    };
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| relaxes(line)) {
        let end = lines[at..].iter().position(|line| line.ends_with(")]")).unwrap_or_default();
        let has_reason = lines[at..=at + end].iter().any(|line| line.contains("reason ="));
        let is_explained = at > 0 && lines[at - 1].starts_with("//");
        if !has_reason && !is_explained {
            found.push((at + 1, format!("gives no reason for {line}")));
        }
    }
    found
}

#[test]
fn every_relaxed_lint_has_its_reason() {
    for good in [
        "#[expect(dead_code, reason = \"for later\")]",
        "    #[allow(\n        dead_code,\n        reason = \"for later\"\n    )]\n    fn f() {}",
        "// For later.\n#[allow(dead_code)]",
    ] {
        assert_eq!(unreasoned(good), [], "{good}");
    }
    for bad in [
        "#[allow(dead_code)]",
        "#[expect(\n    dead_code\n)]\n#[expect(unused, reason = \"of another\")]",
        "fn f() {}\n#![allow(dead_code)]",
    ] {
        assert_ne!(unreasoned(bad), [], "{bad}");
    }
    check(|path, text| {
        if has_extension(path, &["rs"]) && !path.ends_with("tidy.rs") {
            unreasoned(text)
        } else {
            Vec::new()
        }
    });
}
