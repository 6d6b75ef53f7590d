//! The kind of a run: the limits of the server, the manners of the clients, the faults of the
//! kernel.

use std::time::Duration;

use super::decisions::Decisions;
use crate::Limits;
use crate::broker::TurnLimits;

/// The chances of the kernel's faults, in a thousand.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) interrupted: usize,
    /// More bytes arrive in the middle of a turn.
    pub(super) arrival: usize,
    /// A write takes fewer bytes than would fit.
    pub(super) short_write: usize,
    /// Readiness is reported falsely.
    pub(super) spurious: usize,
    /// One poll does not return all events.
    pub(super) few_events: usize,
    /// An accept fails although a connection waits.
    pub(super) accept: usize,
    /// A socket cannot be watched.
    pub(super) watch: usize,
}

pub(super) const APPS: [&str; 2] = ["red", "blue"];
/// Channels for subscribers, and channels that workers serve.
pub(super) const TOPICS: [&str; 2] = ["news", "sport"];
pub(super) const JOBS: [&str; 2] = ["square", "cube"];
pub(super) const CLIENT_IDS: [&str; 5] = ["ann", "bob", "cat", "dan", "eve"];

/// The bytes of the loop's buffer.
pub(super) const READ_BYTES_MAX: usize = 1_024;

#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(super) struct Scenario {
    pub(super) limits: Limits,
    pub(super) faults: Faults,
    /// No client leaves, stalls or misbehaves: nothing may be lost, and everything is counted.
    pub(super) is_calm: bool,
    /// Memory may run out, and the connection that holds the most is closed.
    pub(super) is_tight: bool,
    pub(super) has_few_descriptors: bool,
    /// The connections of the second listener begin with a handshake.
    pub(super) has_handshakes: bool,
    /// The listener to which connections come all the time that are closed at once.
    pub(super) rushed_listener: Option<usize>,
    /// The process publishes more at once than a queue takes.
    pub(super) has_bursts: bool,
    pub(super) steps: usize,
    pub(super) clients_max: usize,
    pub(super) ends_in_drain: bool,
    /// The steps that a turn may take, where it has a budget.
    pub(super) steps_max: Option<usize>,
}

impl Scenario {
    pub(super) fn choose(decisions: &mut Decisions) -> Self {
        let is_calm = decisions.below(4) == 0;
        let is_tight = !is_calm && decisions.below(8) == 7;
        let has_few_descriptors = !is_calm && decisions.below(6) == 5;
        let has_bursts = !is_calm && decisions.below(6) == 5;
        let has_handshakes = decisions.below(2) == 1;
        let rushed = decisions.below(12);
        let rushed_listener = (!is_calm && rushed < 2).then_some(rushed);
        let steps_max = (decisions.below(4) == 3).then(|| 1 + decisions.below(12));
        let frames_max = TurnLimits::default().frames_per_connection_max;
        // Small, so that their edges are met all the time.
        let turn = TurnLimits {
            // A share that takes hundreds of turns would hide a connection that is passed over.
            frames_per_connection_max: if steps_max.is_some() { 8 } else { frames_max },
            read_bytes_max: READ_BYTES_MAX,
            accepts_max: 2,
            handshake_steps_max: 1,
            ..TurnLimits::default()
        };
        let limits = Limits {
            turn,
            connections_max: if is_calm { 16 } else { [6, 3, 16][decisions.below(3)] },
            frame_bytes_max: 20_000,
            queue_high_water_bytes: if is_calm {
                1 << 20
            } else {
                [2_000, 500, 8_000, 60_000][decisions.below(4)]
            },
            memory_bytes_max: if is_tight { 64 << 10 } else { 1 << 30 },
            pending_per_connection_max: if is_calm || decisions.below(4) < 3 { 1_024 } else { 2 },
            idle_timeout: (!is_calm && decisions.below(6) == 5).then(|| Duration::from_secs(60)),
            ..Limits::default()
        };
        let faults = Faults {
            interrupted: decisions.below(2) * 50,
            arrival: decisions.below(2) * 300,
            short_write: decisions.below(3) * 100,
            spurious: decisions.below(2) * 100,
            few_events: decisions.below(2) * 500,
            accept: decisions.below(2) * 100,
            watch: if is_calm { 0 } else { decisions.below(3) / 2 * 20 },
        };
        Self {
            limits,
            faults,
            is_calm,
            is_tight,
            has_few_descriptors,
            has_handshakes,
            rushed_listener,
            has_bursts,
            steps: 60 + decisions.below(400),
            clients_max: 3 + decisions.below(5),
            ends_in_drain: decisions.below(3) == 2,
            steps_max,
        }
    }
}
