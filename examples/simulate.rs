//! Runs the simulation over many seeds, or one again with all that happened in it.
//!
//! ```text
//! cargo simulate                        new seeds, until it is interrupted or one fails
//! cargo simulate --seconds 60           for a minute
//! cargo simulate --from 0 --seeds 1000  these seeds
//! cargo simulate --seed 17              this one, with a trace
//! cargo simulate --keep-going           counts failures instead of ending at the first
//! ```

use std::hash::{BuildHasher, RandomState};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ipc_framework::simulation::{Outcome, run_seed};

#[derive(Default)]
struct Options {
    seed: Option<u64>,
    from: Option<u64>,
    seeds: Option<u64>,
    seconds: Option<u64>,
    keep_going: bool,
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
            "--keep-going" => {
                options.keep_going = true;
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
    let time = Duration::from_secs(options.seconds.unwrap_or(u64::MAX));
    let (mut seeds, mut turns, mut frames, mut failures) = (0, 0, 0, 0);
    while seeds < options.seeds.unwrap_or(u64::MAX) && began.elapsed() < time {
        let seed = from + seeds;
        let outcome: Outcome = run_seed(seed, false);
        seeds += 1;
        turns += outcome.turns;
        frames += outcome.frames;
        if let Some(violation) = outcome.violation {
            failures += 1;
            println!("seed {seed} fails: {violation}");
            println!("replay it with: cargo simulate --seed {seed}");
            if !options.keep_going {
                break;
            }
        }
    }
    let per_second = seeds as f64 / began.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds, {turns} turns, {frames} frames received, {failures} failures; \
         {per_second:.0} seeds a second"
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
