//! The record of a soak: soak.json, and soak.md and memory.svg made from it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::account::{Account, Outcomes};
use super::expected::Compared;
use super::samples::{Sample, median_bytes, thin_out};
use crate::machine::Machine;
use crate::pin::Cpus;
use crate::record::over_time;

#[derive(Debug, Serialize)]
pub(super) struct Record {
    seed: u64,
    seconds: u64,
    command: String,
    date: String,
    machine: Option<Machine>,
    outcomes: BTreeMap<&'static str, Outcomes>,
    faults: BTreeMap<&'static str, u64>,
    counters: Vec<Compared>,
    samples: Vec<Sample>,
}

impl Record {
    pub(super) fn new(
        root: &Path,
        seed: u64,
        seconds: u64,
        account: Account,
        counters: Vec<Compared>,
        samples: &[Sample],
    ) -> Self {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let profile = if cfg!(debug_assertions) { "" } else { "--release " };
        Self {
            seed,
            seconds,
            command: format!("cargo run {profile}-p perf -- {}", words.join(" ")),
            date: jiff::Zoned::now().date().to_string(),
            // A machine with one processor can run a soak as well, without pinning.
            machine: Cpus::choose(None, None).ok().map(|cpus| Machine::look(root, cpus)),
            outcomes: account.outcomes,
            faults: account.faults,
            counters,
            samples: thin_out(samples),
        }
    }

    pub(super) fn json(&self) -> Result<String, String> {
        serde_json::to_string(self).map_err(|error| error.to_string())
    }

    pub(super) fn save(&self, directory: &Path) -> Result<(), String> {
        fs::create_dir_all(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        for (name, text) in [
            ("soak.json", self.json()? + "\n"),
            ("soak.md", self.page()),
            ("memory.svg", self.plot()),
        ] {
            let path = directory.join(name);
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }

    fn messages(&self) -> u64 {
        self.outcomes.values().map(|outcomes| outcomes.sent).sum()
    }

    /// Returns a summary for a terminal.
    pub(super) fn summary(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        for (kind, outcomes) in &self.outcomes {
            let _ = writeln!(text, "{:>10}  {kind}{}", outcomes.sent, ends(outcomes));
        }
        for (what, count) in &self.faults {
            let _ = writeln!(text, "{count:>10}  {what}");
        }
        let equal = self.counters.iter().filter(|compared| compared.most == Some(compared.least));
        let (equal, all) = (equal.count(), self.counters.len());
        let _ = writeln!(
            text,
            "the server counted what its peers saw: {equal} counters to the last one, {} within \
             bounds",
            all - equal
        );
        let _ = writeln!(
            text,
            "nothing was lost without a word in {} s, seed {}",
            self.seconds, self.seed
        );
        text
    }

    fn page(&self) -> String {
        let mut page = format!("# A soak of {} s\n\n", self.seconds);
        let machine = self.machine.as_ref().map_or_else(String::new, |machine| {
            let Machine { cpu, cores, kernel, rustc, commit, is_dirty, .. } = machine;
            let dirty = if *is_dirty { ", changed" } else { "" };
            format!("{cpu}, {cores} cores; {kernel}; {rustc}; commit {commit}{dirty}. ")
        });
        let _ = writeln!(
            page,
            "{}: `{}`. {machine}Seed {}. {} messages; every one was answered, refused with a code, \
             or lost for a reason that is known. Nothing came twice, to somebody else, altered or \
             out of order.\n",
            self.date,
            self.command,
            self.seed,
            self.messages()
        );
        page.push_str("| messages | sent | answered or arrived | refused | lost |\n");
        page.push_str("|---|---|---|---|---|\n");
        for (kind, Outcomes { sent, done, refused, lost }) in &self.outcomes {
            let _ = writeln!(
                page,
                "| {kind} | {sent} | {done} | {} | {} |",
                listed(refused),
                listed(lost)
            );
        }
        page.push_str("\n| fault | times |\n|---|---|\n");
        for (what, count) in &self.faults {
            let _ = writeln!(page, "| {what} | {count} |");
        }
        page.push_str("\n## The server's own counters\n\nOf the server that was not restarted.\n");
        page.push_str("A range where a peer left without being able to know.\n\n");
        page.push_str("| counter | has to be | is |\n|---|---|---|\n");
        for compared in &self.counters {
            let Compared { counter, seen, .. } = compared;
            let _ = writeln!(page, "| {counter} | {} | {seen} |", compared.bound());
        }
        page.push_str("\n## Memory\n\n![VmRSS over time](memory.svg)\n\n");
        page.push_str("| from | VmRSS in KiB, median | descriptors, most |\n|---|---|---|\n");
        for part in self.samples.chunks(self.samples.len().div_ceil(10).max(1)) {
            let descriptors = part.iter().map(|sample| sample.descriptors).max().unwrap_or(0);
            let seconds = part[0].milliseconds / 1000;
            let _ =
                writeln!(page, "| {seconds} s | {} | {descriptors} |", median_bytes(part) >> 10);
        }
        page
    }

    fn plot(&self) -> String {
        let points: Vec<(f64, f64)> = self
            .samples
            .iter()
            .map(|sample| {
                let mebibytes = sample.resident_bytes as f64 / f64::from(1 << 20);
                (sample.milliseconds as f64 / 1_000.0, mebibytes)
            })
            .collect();
        over_time(&points, "VmRSS in MiB")
    }
}

fn listed<K: std::fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    let all = counts.iter().map(|(what, count)| format!("{count} {what}"));
    all.collect::<Vec<_>>().join(", ")
}

/// Lists the refused and lost messages by their reasons.
fn ends(outcomes: &Outcomes) -> String {
    let ends: Vec<String> = [("refused", &outcomes.refused), ("lost", &outcomes.lost)]
        .into_iter()
        .filter(|(_, counts)| !counts.is_empty())
        .map(|(how, counts)| format!("{how}: {}", listed(counts)))
        .collect();
    if ends.is_empty() { String::new() } else { format!("; {}", ends.join("; ")) }
}
