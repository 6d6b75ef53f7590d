//! Counts the instructions of the parts with callgrind, and compares them with a baseline:
//!
//! ```sh
//! cargo bench --features tls --bench instructions                # compares with the baseline
//! cargo bench --features tls --bench instructions -- fan_out     # some, by a part of their names
//! cargo bench --features tls --bench instructions -- --accept    # makes these the baseline
//! ```
//!
//! A busy machine does not change a count, so that a count shows small changes that a clock does not
//! show. It is no time: the work of the kernel, cache misses and mispredictions are not in it.

mod baseline;
mod callgrind;
#[path = "../scenarios/mod.rs"]
mod scenarios;

use std::hint::black_box;
use std::process::ExitCode;

use baseline::Baseline;
use scenarios::{Round, Scenario, Work};

/// Rounds that one count is the mean of: enough to even out what happens now and then.
const ROUNDS: usize = 500;
/// Frames or bytes after which a scenario with large rounds ends.
const FRAMES_MAX: usize = 10_000;
const BYTES_MAX: usize = 4 << 20;

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(code) => code,
        Err(complaint) => {
            eprintln!("instructions: {complaint}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Vec<String>) -> Result<ExitCode, String> {
    let mut take = |flag: &str| {
        let before = arguments.len();
        arguments.retain(|argument| argument != flag);
        arguments.len() < before
    };
    let (is_counted, is_bench, accept) =
        (take(callgrind::COUNTED), take("--bench"), take("--accept"));
    if let Some(flag) = arguments.iter().find(|argument| argument.starts_with("--")) {
        return Err(format!("there is no {flag}; there is --accept, and a part of a name"));
    }
    let is_wanted = |scenario: &Scenario| {
        arguments.is_empty() || arguments.iter().any(|part| scenario.name.contains(&**part))
    };
    let wanted: Vec<Scenario> = scenarios::all().into_iter().filter(is_wanted).collect();
    if wanted.is_empty() {
        return Err(format!("no benchmark has {arguments:?} in its name"));
    }
    if is_counted {
        wanted.iter().for_each(count);
        return Ok(ExitCode::SUCCESS);
    }
    if !is_bench {
        // `cargo test --benches` checks that all scenarios still run.
        for scenario in &wanted {
            scenario.set_up()();
        }
        println!("{} passed, 0 failed", wanted.len());
        return Ok(ExitCode::SUCCESS);
    }
    let totals = callgrind::totals(&arguments, &wanted)?;
    let counts = wanted.iter().zip(totals).map(|(scenario, total)| {
        let rounds = rounds(scenario) as u64;
        (scenario.name.to_owned(), (total + rounds / 2) / rounds)
    });
    let now = Baseline::of(counts)?;
    let is_whole = arguments.is_empty();
    if accept { now.accept(is_whole) } else { Ok(Baseline::load()?.compare(&now, is_whole)) }
}

/// Runs a scenario under callgrind, which counts the inside of [`counted_rounds`] only.
fn count(scenario: &Scenario) {
    let mut round = scenario.set_up();
    let rounds = rounds(scenario);
    // Buffers and tables grow to their size before anything is counted.
    for _ in 0..rounds {
        round();
    }
    counted_rounds(rounds, &mut round);
}

/// Callgrind knows this function by its name, see [`callgrind`].
#[inline(never)]
fn counted_rounds(rounds: usize, round: &mut Round) {
    for _ in 0..black_box(rounds) {
        round();
    }
}

fn rounds(scenario: &Scenario) -> usize {
    let most = match scenario.work {
        Work::Bytes(bytes) => BYTES_MAX / bytes,
        Work::Frames(frames) => FRAMES_MAX / frames,
    };
    most.clamp(4, ROUNDS)
}
