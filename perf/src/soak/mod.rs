//! Mixed load and faults against the built server for a given time; every answer is checked.

mod load;
mod peer;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use self::load::{ROLES, Role};
use self::peer::Target;
use crate::machine::Machine;
use crate::pin::Cpus;
use crate::proc;

/// Load a server with everything at once, faults too, and check every answer
#[derive(Args, Debug)]
pub(crate) struct Soak {
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    minutes: Option<u64>,
    #[arg(long, value_name = "N", default_value_t = 20)]
    seconds: u64,
    /// The schedule of each role follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A built `ipc` [default: target/release/ipc, else target/debug/ipc]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    /// Leave soak.json and soak.md here
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    seed: u64,
    seconds: u64,
    machine: String,
    counts: BTreeMap<&'static str, usize>,
    samples: Vec<Sample>,
}

impl Outcome {
    fn page(&self) -> String {
        let head = format!(
            "# A soak of {} s\n\n{}, seed {}. Every answer was as promised; nothing was lost.\n",
            self.seconds, self.machine, self.seed
        );
        let rows = self.counts.iter().map(|(what, count)| format!("| {what} | {count} |\n"));
        let tenths = self.samples.chunks(self.samples.len().div_ceil(10).max(1)).map(|part| {
            let seconds = part[0].milliseconds / 1000;
            let descriptors = part.iter().map(|sample| sample.descriptors).max().unwrap_or(0);
            format!("| {seconds} s | {} | {descriptors} |\n", median(part) >> 10)
        });
        [head, "\n| what | count |\n|---|---|\n".to_owned()]
            .into_iter()
            .chain(rows)
            .chain([
                "\n| from | VmRSS in KiB, median | descriptors, most |\n|---|---|---|\n".to_owned()
            ])
            .chain(tenths)
            .collect()
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    milliseconds: u64,
    resident_bytes: u64,
    descriptors: usize,
}

#[derive(Debug, Default)]
struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    fn add(&mut self, what: &'static str, count: usize) {
        *self.0.entry(what).or_default() += count;
    }
}

/// `SplitMix64`: small, and the same everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for end in (1..all.len()).rev() {
            all.swap(end, self.below(end + 1));
        }
    }
}

/// Two threads of each role: their peers share the server, not their scripts.
const THREADS_PER_ROLE: usize = 2;
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// A reload each so many samples.
const RELOAD_EVERY: usize = 8;
/// What the median of the last quarter may be above that of the second: room for buffers that
/// a rarer mix fills later, far below what a leak of one message a round would be.
const GROWTH_MAX: f64 = 1.15;
const GROWTH_BYTES_MAX: u64 = 8 << 20;
/// As many make a curve; all of a long soak would make a record that nobody opens.
const SAMPLES_KEPT_MAX: usize = 500;
const SETTLE_MAX: Duration = Duration::from_secs(30);

impl Soak {
    pub(crate) fn run(&self, root: &Path) -> Result<(), String> {
        let broken = |what: String| format!("soak --seed {}: {what}", self.seed);
        let outcome = self.outcome(root).map_err(broken)?;
        let text = serde_json::to_string(&outcome).map_err(|error| error.to_string())?;
        if let Some(directory) = &self.output {
            let written = fs::create_dir_all(directory)
                .and_then(|()| fs::write(directory.join("soak.json"), &text))
                .and_then(|()| fs::write(directory.join("soak.md"), outcome.page()));
            written.map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        if self.json {
            println!("{text}");
            return Ok(());
        }
        for (what, count) in &outcome.counts {
            println!("{count:>10}  {what}");
        }
        println!("every answer as promised in {} s, seed {}", outcome.seconds, outcome.seed);
        Ok(())
    }

    fn outcome(&self, root: &Path) -> Result<Outcome, String> {
        let seconds = self.minutes.map_or(self.seconds, |minutes| minutes * 60);
        let mut server = Server::start(&self.program(root)?, self.seed)?;
        let idle = server.sample(Duration::ZERO)?;
        let stop = AtomicBool::new(false);
        let first_broken = Mutex::new(None);
        let total = Mutex::new(Tally::default());
        let targets = server.targets.clone();
        let samples = thread::scope(|scope| {
            for (index, (name, role)) in ROLES.into_iter().enumerate() {
                for number in 0..THREADS_PER_ROLE {
                    let (stop, total, first_broken) = (&stop, &total, &first_broken);
                    let targets = &targets;
                    let stream = (index * THREADS_PER_ROLE + number) as u64;
                    let random = Random(self.seed ^ (stream << 48));
                    let name = format!("{name}-{number}");
                    scope.spawn(move || {
                        if let Err(what) = repeat(role, targets, &name, random, stop, total) {
                            stop.store(true, Ordering::Relaxed);
                            let mut first = lock(first_broken);
                            first.get_or_insert(format!("{name}: {what}"));
                        }
                    });
                }
            }
            let samples = server.watch(Duration::from_secs(seconds), &stop, &total);
            stop.store(true, Ordering::Relaxed);
            samples
        });
        // That it is gone says more than what a peer saw of that.
        server.sample(Duration::ZERO)?;
        if let Some(what) = lock(&first_broken).take() {
            return Err(what);
        }
        let mut samples = samples?;
        check_growth(&samples)?;
        server.until_descriptors(idle.descriptors)?;
        server.end()?;
        let stride = samples.len().div_ceil(SAMPLES_KEPT_MAX).max(1);
        samples = samples.into_iter().step_by(stride).collect();
        let counts = std::mem::take(&mut lock(&total).0);
        let machine = Machine::look(root, Cpus::choose(None, None)?).slug();
        Ok(Outcome { seed: self.seed, seconds, machine, counts, samples })
    }

    fn program(&self, root: &Path) -> Result<PathBuf, String> {
        let built = ["target/release/ipc", "target/debug/ipc"].map(|path| root.join(path));
        let found = self.server.clone().or_else(|| built.into_iter().find(|path| path.exists()));
        found.ok_or_else(|| "no server is built: cargo build --features cli".to_owned())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn repeat(
    role: Role,
    targets: &[Target],
    name: &str,
    mut random: Random,
    stop: &AtomicBool,
    total: &Mutex<Tally>,
) -> Result<(), String> {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut tally = Tally::default();
        role(targets, &format!("{name}-{round}"), &mut random, &mut tally)
            .map_err(|what| format!("round {round}: {what}"))?;
        let mut total = lock(total);
        tally.0.into_iter().for_each(|(what, count)| total.add(what, count));
        round += 1;
    }
    Ok(())
}

fn median(samples: &[Sample]) -> u64 {
    let mut all: Vec<u64> = samples.iter().map(|sample| sample.resident_bytes).collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or(0)
}

fn check_growth(samples: &[Sample]) -> Result<(), String> {
    let quarter = samples.len() / 4;
    let before = median(&samples[quarter..quarter * 2]);
    let after = median(&samples[samples.len() - quarter..]);
    let bound = (before as f64 * GROWTH_MAX) as u64 + GROWTH_BYTES_MAX;
    if after <= bound {
        return Ok(());
    }
    Err(format!("memory grows: {before} B in the second quarter, {after} B in the last"))
}

#[derive(Debug)]
struct Server {
    child: Child,
    targets: Vec<Target>,
    /// Kept open: it would be told that nobody reads what it prints.
    _output: BufReader<std::process::ChildStdout>,
}

impl Server {
    fn start(program: &Path, seed: u64) -> Result<Self, String> {
        let name = format!("ipc-soak-{}-{seed}.sock", std::process::id());
        let unix = std::env::temp_dir().join(name);
        let mut child = Command::new(program)
            .args(["serve", "--demo", "--port", "0", "--unix"])
            .arg(&unix)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut targets = Vec::new();
        let mut line = String::new();
        // The Unix socket is the last that it names.
        while !targets.iter().any(|target| matches!(target, Target::Unix(_))) {
            line.clear();
            if !matches!(output.read_line(&mut line), Ok(1..)) {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{} does not listen", program.display()));
            }
            let address = line.trim().strip_prefix("listening on ").unwrap_or_default();
            if let Some(path) = address.strip_prefix("unix:") {
                targets.push(Target::Unix(path.into()));
            } else if let Ok(address) = address.parse() {
                targets.push(Target::Tcp(address));
            }
        }
        Ok(Self { child, targets, _output: output })
    }

    fn sample(&mut self, at: Duration) -> Result<Sample, String> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(format!("the server ended by itself: {status}"));
        }
        let pid = Pid::from_child(&self.child);
        let resident_bytes = proc::resident_bytes(pid).ok_or("no VmRSS of the server")?;
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        let descriptors = descriptors.map_err(|error| format!("descriptors: {error}"))?.count();
        Ok(Sample { milliseconds: at.as_millis() as u64, resident_bytes, descriptors })
    }

    fn watch(
        &mut self,
        duration: Duration,
        stop: &AtomicBool,
        total: &Mutex<Tally>,
    ) -> Result<Vec<Sample>, String> {
        let begin = Instant::now();
        let mut samples = Vec::new();
        while begin.elapsed() < duration && !stop.load(Ordering::Relaxed) {
            thread::sleep(SAMPLE_INTERVAL);
            let sample = self.sample(begin.elapsed())?;
            samples.push(sample);
            if samples.len() % RELOAD_EVERY == 0 {
                self.signal(Signal::HUP)?;
                lock(total).add("faults: reload by SIGHUP", 1);
                if std::io::stderr().is_terminal() {
                    let mebibytes = sample.resident_bytes >> 20;
                    eprint!("\r{} s, {mebibytes} MiB   ", begin.elapsed().as_secs());
                }
            }
        }
        Ok(samples)
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        let sent = kill_process(Pid::from_child(&self.child), signal);
        sent.map_err(|error| format!("cannot signal the server: {error}"))
    }

    fn until_descriptors(&mut self, idle: usize) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let now = self.sample(Duration::ZERO)?.descriptors;
            if now <= idle {
                return Ok(());
            }
            if begin.elapsed() > SETTLE_MAX {
                return Err(format!("{now} descriptors are open after all left, {idle} before"));
            }
            thread::sleep(SAMPLE_INTERVAL);
        }
    }

    fn end(mut self) -> Result<(), String> {
        self.signal(Signal::TERM)?;
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("SIGTERM ended the server with {status}"))
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for target in &self.targets {
            if let Target::Unix(path) = target {
                let _ = fs::remove_file(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(resident_bytes: impl Fn(u64) -> u64) -> Vec<Sample> {
        let sample =
            |at| Sample { milliseconds: at, resident_bytes: resident_bytes(at), descriptors: 9 };
        (0..80).map(sample).collect()
    }

    #[test]
    fn memory_that_grows_to_the_end_is_seen() {
        assert!(check_growth(&samples(|at| (10 + at) << 20)).is_err());
    }

    #[test]
    fn memory_that_settles_after_the_warm_up_passes() {
        assert_eq!(check_growth(&samples(|at| at.min(20) << 20)), Ok(()));
    }
}
