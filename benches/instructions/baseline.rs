//! The accepted counts, and the comparison with new ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use serde_json::{Value, json};

use super::callgrind;

/// Changes up to this are ignored: hash seeds and addresses of memory make as much difference.
const TOLERANCE_PERCENT: u64 = 2;
/// Changes of so few instructions are ignored, too, which matters for the shortest scenarios.
const TOLERANCE_INSTRUCTIONS: u64 = 10;
const ACCEPT: &str = "cargo bench --features tls --bench instructions -- --accept";

/// Counts, and the tools that they were taken with.
#[derive(Debug)]
pub(super) struct Baseline {
    /// The version of each tool. The compiler makes the code, the C library copies memory, and
    /// valgrind decides which processor both see.
    taken_with: BTreeMap<String, String>,
    /// Instructions of one round, by scenario.
    counts: BTreeMap<String, u64>,
}

impl Baseline {
    /// Wraps counts that were just taken on this machine.
    pub(super) fn of(counts: impl Iterator<Item = (String, u64)>) -> Result<Self, String> {
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        let taken_with = [
            ("rustc", version("rustc", "--version")?),
            ("libc", version("getconf", "GNU_LIBC_VERSION")?),
            ("valgrind", version("valgrind", "--version")?),
            ("target", target),
        ];
        let taken_with = taken_with.into_iter().map(|(tool, found)| (tool.to_owned(), found));
        Ok(Self { taken_with: taken_with.collect(), counts: counts.collect() })
    }

    /// Reads the accepted counts.
    pub(super) fn load() -> Result<Self, String> {
        let path = path();
        let complain = |what: &dyn std::fmt::Display| {
            format!("{}: {what}; to take a new baseline: {ACCEPT}", path.display())
        };
        let text = fs::read_to_string(&path).map_err(|error| complain(&error))?;
        let value: Value = serde_json::from_str(&text).map_err(|error| complain(&error))?;
        let part = |name: &str| value[name].as_object().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Self {
            taken_with: part("taken_with").map(|(tool, v)| (tool.clone(), text(v))).collect(),
            counts: part("instructions")
                .map(|(name, count)| (name.clone(), count.as_u64().unwrap_or_default()))
                .collect(),
        })
    }

    fn store(&self) -> Result<(), String> {
        let value = json!({"taken_with": self.taken_with, "instructions": self.counts});
        fs::write(path(), format!("{value:#}\n"))
            .map_err(|error| format!("{}: {error}", path().display()))
    }

    /// Makes these counts the accepted ones. If they are not all, the others stay; those must have
    /// been counted with the same tools.
    pub(super) fn accept(mut self, is_whole: bool) -> Result<ExitCode, String> {
        if !is_whole {
            let mut all = Self::load()?;
            if all.taken_with != self.taken_with {
                return Err(format!("the rest was counted with other tools; take all: {ACCEPT}"));
            }
            all.counts.append(&mut self.counts);
            self = all;
        }
        self.store()?;
        println!("accepted: {}", path().display());
        Ok(ExitCode::SUCCESS)
    }

    /// Prints what has changed since `self` was accepted. A scenario fails if it got dearer or has no
    /// counterpart; one that got cheaper is only reported.
    pub(super) fn compare(&self, now: &Self, is_whole: bool) -> ExitCode {
        let tools_differ = self.taken_with != now.taken_with;
        let (mut failures, mut cheaper) = (0, 0);
        println!("{:<38} {:>12} {:>12} {:>8}", "instructions a round", "before", "now", "");
        for (name, &count) in &now.counts {
            let Some(&before) = self.counts.get(name) else {
                failures += 1;
                println!("{name:<38} {:>12} {count:>12}  NEW: not in the baseline", "-");
                continue;
            };
            let change = (count as f64 / before as f64 - 1.0) * 100.0;
            let slack = before * TOLERANCE_PERCENT / 100 + TOLERANCE_INSTRUCTIONS;
            let verdict = match count {
                _ if count > before + slack => {
                    failures += 1;
                    "  DEARER"
                }
                _ if count + slack < before => {
                    cheaper += 1;
                    "  cheaper"
                }
                _ => "",
            };
            println!("{name:<38} {before:>12} {count:>12} {change:>+7.2}%{verdict}");
        }
        for name in self.counts.keys().filter(|name| is_whole && !now.counts.contains_key(*name)) {
            failures += 1;
            println!("{name:<38} GONE: in the baseline, and no benchmark any more");
        }
        println!("\nprofiles for callgrind_annotate: {}", callgrind::profiles().display());
        if tools_differ {
            return self.judge_other_tools(now);
        }
        if cheaper > 0 {
            println!(
                "{cheaper} got cheaper. Accept that, or what makes them dearer again goes \
                 unnoticed: {ACCEPT}"
            );
        }
        if failures > 0 {
            println!(
                "FAILED: {failures} of {} are over the baseline by more than {TOLERANCE_PERCENT} % \
                 and {TOLERANCE_INSTRUCTIONS} instructions, or not the ones it has. If that is \
                 the price of something worth it, say so in the commit and accept it: {ACCEPT}",
                now.counts.len()
            );
            return ExitCode::FAILURE;
        }
        println!("{} passed, 0 failed", now.counts.len());
        ExitCode::SUCCESS
    }

    /// Counts of two compilers cannot be compared. On a developer's machine that is only said; in CI
    /// nobody would read it, so it fails there.
    fn judge_other_tools(&self, now: &Self) -> ExitCode {
        println!("NOT JUDGED: the baseline was taken with other tools.");
        for (tool, found) in &now.taken_with {
            let before = self.taken_with.get(tool).map_or("nothing", |before| before);
            if before != found {
                println!("  {tool}: {before} then, {found} now");
            }
        }
        println!("To judge changes with these, take a baseline of the code before them: {ACCEPT}");
        if std::env::var_os("CI").is_some() {
            println!("FAILED: CI must not go on without a baseline that it can compare with.");
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/baseline.json")
}

fn version(command: &str, argument: &str) -> Result<String, String> {
    let output = Command::new(command)
        .arg(argument)
        .output()
        .map_err(|error| format!("{command} {argument}: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
