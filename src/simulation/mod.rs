//! The real event loop on a simulated operating system, driven by a seed.
//!
//! A run is a few hundred things that happen, chosen by a seed or by a fuzzer's bytes: clients
//! connect, speak, stall, vanish and take over one another's ids; bytes arrive in pieces; calls
//! fail; time passes. A [model](self) of the protocol, which shares no code with the server,
//! holds against its promises what every client receives. The same seed makes the same run,
//! byte by byte. `src/simulation/README.md` says more.
//!
//! It is there with the feature `simulation`, which is not part of the stable interface.

mod acts;
mod calls;
mod checks;
mod decisions;
mod embedded;
mod ending;
mod keeping;
mod kernel;
mod links;
mod model;
mod peer;
mod pipe;
mod probes;
mod scenario;
mod speech;
mod stream;
mod system;
#[cfg(test)]
mod tests;
mod trace;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use self::decisions::Decisions;
use self::kernel::Kernel;
use self::trace::Trace;
use self::world::World;

/// The outcome of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of everything that happened: equal runs have equal hashes.
    pub hash: u64,
    /// Turns of the event loop.
    pub turns: u64,
    /// Frames that clients received.
    pub frames: u64,
    /// How often each of [`branches`] was taken.
    pub branches: Vec<u64>,
    /// The promise that was broken.
    pub violation: Option<String>,
    /// The events of the run, line by line, if they were asked for.
    pub trace: Vec<String>,
}

/// Names the branches of the broker and the loop that are counted, because a branch that no run
/// takes is not tested by the simulation.
///
/// ```
/// use ipc_framework::simulation::{branches, run_seed};
///
/// assert_eq!(run_seed(7, false).branches.len(), branches().len());
/// ```
pub fn branches() -> &'static [&'static str] {
    crate::branches::BRANCHES
}

/// Runs the run of a seed.
///
/// ```
/// let outcome = ipc_framework::simulation::run_seed(7, false);
/// assert_eq!(outcome.violation, None);
/// assert_eq!(outcome, ipc_framework::simulation::run_seed(7, false));
/// ```
pub fn run_seed(seed: u64, with_trace: bool) -> Outcome {
    run(Decisions::seeded(seed), with_trace)
}

/// Runs the run of a fuzzer's bytes: each byte is a choice, and the run ends with them.
///
/// ```
/// let outcome = ipc_framework::simulation::run_bytes(b"any bytes will do", false);
/// assert_eq!(outcome.violation, None);
/// ```
pub fn run_bytes(bytes: &[u8], with_trace: bool) -> Outcome {
    run(Decisions::given(bytes), with_trace)
}

fn run(decisions: Decisions, with_trace: bool) -> Outcome {
    const LISTENERS: usize = 2;
    // Those that something else on this thread took do not count.
    let _ = crate::branches::take();
    let kernel = Kernel::new(decisions, Trace::new(with_trace), LISTENERS);
    let mut world = match World::new(kernel) {
        Ok(world) => world,
        Err(error) => unreachable!("nothing fails before the first step: {error}"),
    };
    let violation = match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(result) => result.err(),
        Err(panic) => {
            let said = panic.downcast_ref::<&str>().copied();
            let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            Some(format!("a panic: {}", said.unwrap_or("without a message")))
        }
    };
    let (turns, frames) = (world.turns, world.model.frames_received);
    let trace = std::mem::replace(&mut world.kernel.borrow_mut().trace, Trace::new(false));
    let branches = crate::branches::take();
    Outcome { hash: trace.hash(), turns, frames, branches, violation, trace: trace.into_lines() }
}
