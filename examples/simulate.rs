//! Runs the simulation over many seeds, or one again with all that happened in it.
//!
//! ```text
//! cargo simulate                        new seeds, until it is interrupted or one fails
//! cargo simulate --seconds 60           for a minute
//! cargo simulate --from 0 --seeds 1000  these seeds
//! cargo simulate --seed 17              this one, with a trace
//! cargo simulate --keep-going           counts failures instead of ending at the first
//! cargo simulate --threads 1            on one processor instead of all
//! cargo simulate --branches             says how often each branch of the server was taken, and
//!                                       fails if one never was
//! ```

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipc_framework::simulation::{branches, run_seed};

#[derive(Default)]
struct Options {
    seed: Option<u64>,
    from: Option<u64>,
    seeds: Option<u64>,
    seconds: Option<u64>,
    threads: Option<u64>,
    keep_going: bool,
    branches: bool,
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options::default();
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        let place = match argument.as_str() {
            "--seed" => &mut options.seed,
            "--from" => &mut options.from,
            "--seeds" => &mut options.seeds,
            "--seconds" => &mut options.seconds,
            "--threads" => &mut options.threads,
            "--keep-going" => {
                options.keep_going = true;
                continue;
            }
            "--branches" => {
                options.branches = true;
                continue;
            }
            _ => return Err(format!("{argument:?} is no option; see examples/simulate.rs")),
        };
        let number = arguments.next().and_then(|number| number.parse().ok());
        *place = Some(number.ok_or_else(|| format!("{argument} takes a number"))?);
    }
    Ok(options)
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Options { seed: Some(seed), .. }) => replay(seed),
        Ok(options) => simulate(&options),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn replay(seed: u64) -> ExitCode {
    let outcome = run_seed(seed, true);
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("{} turns, {} frames, hash {:016x}", outcome.turns, outcome.frames, outcome.hash);
    match outcome.violation {
        Some(violation) => {
            println!("seed {seed} fails: {violation}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn simulate(options: &Options) -> ExitCode {
    // The standard library's own source of randomness is enough for a place to begin.
    let from = options.from.unwrap_or_else(|| RandomState::new().hash_one(0) >> 16);
    println!("from seed {from}");
    let began = Instant::now();
    let processors = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let run = Run {
        next: AtomicU64::new(from),
        end: from.saturating_add(options.seeds.unwrap_or(u64::MAX)),
        until: options.seconds.map(|seconds| began + Duration::from_secs(seconds)),
        is_over: AtomicBool::new(false),
        keep_going: options.keep_going,
    };
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let threads = options.threads.unwrap_or(processors).max(1);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| run.work())).collect();
        for thread in threads {
            tally.add(thread.join().expect("a seed's panic is its violation"));
        }
    });
    let Tally { seeds, turns, frames, taken, failures } = tally;
    if options.branches {
        let mut taken: Vec<_> = taken.iter().zip(branches()).collect();
        taken.sort();
        for (count, name) in &taken {
            println!("{count:12}  {name}");
        }
        if taken.first().is_some_and(|(count, _)| **count == 0) {
            println!("some branches were never taken");
            return ExitCode::FAILURE;
        }
    }
    for seed in failures.keys() {
        println!("replay it with: cargo simulate --seed {seed}");
    }
    println!(
        "{seeds} seeds, {turns} turns, {frames} frames received, {} failures; \
         {:.0} seeds a second",
        failures.len(),
        seeds as f64 / began.elapsed().as_secs_f64()
    );
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The state that the threads share. Each takes the next seed until there are no more.
struct Run {
    next: AtomicU64,
    end: u64,
    until: Option<Instant>,
    is_over: AtomicBool,
    keep_going: bool,
}

#[derive(Default)]
struct Tally {
    seeds: u64,
    turns: u64,
    frames: u64,
    taken: Vec<u64>,
    failures: BTreeMap<u64, String>,
}

impl Run {
    fn work(&self) -> Tally {
        let mut tally = Tally::default();
        while !self.is_over.load(Ordering::Relaxed)
            && self.until.is_none_or(|until| Instant::now() < until)
        {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.end {
                break;
            }
            let outcome = run_seed(seed, false);
            tally.seeds += 1;
            tally.turns += outcome.turns;
            tally.frames += outcome.frames;
            tally.add_taken(&outcome.branches);
            if let Some(violation) = outcome.violation {
                println!("seed {seed} fails: {violation}");
                tally.failures.insert(seed, violation);
                self.is_over.fetch_or(!self.keep_going, Ordering::Relaxed);
            }
        }
        tally
    }
}

impl Tally {
    fn add(&mut self, mut other: Self) {
        self.seeds += other.seeds;
        self.turns += other.turns;
        self.frames += other.frames;
        self.add_taken(&other.taken);
        self.failures.append(&mut other.failures);
    }

    fn add_taken(&mut self, counts: &[u64]) {
        self.taken.resize(branches().len(), 0);
        self.taken.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
}
