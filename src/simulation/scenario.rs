//! The kind of a run: the limits of the server, the manners of the clients, the faults of the
//! kernel.

use std::time::Duration;

use super::decisions::Decisions;
use crate::broker::TurnLimits;
use crate::{Access, HistoryRule, Limits, Token};

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
/// Channels for subscribers, and channels that workers serve. Some ids are long, or are written with
/// escapes.
pub(super) const TOPICS: [&str; 2] = ["news", "the \"sport\" of the \u{e9}lite"];
pub(super) const JOBS: [&str; 2] =
    ["square", "cube, with an id that is longer than the sixty-four bytes that most fit into"];
pub(super) const CLIENT_IDS: [&str; 5] = [
    "ann",
    "bob",
    "cat",
    "dan",
    "eve, whose id is longer than most ids, and is \\escaped\\ as well",
];
/// Channels that are long gone when the process removes them, with their subscribers.
pub(super) const FLEETING: &str = "fleeting";

/// The channels that have a history, where any has, and the age of their oldest message. Clients follow
/// the first one. All hear both through a pattern, but where the filter of the process hides the
/// second one from some.
pub(super) const KEPT_CHANNELS: [&str; 2] = [KEPT, HIDDEN];
pub(super) const KEPT: &str = "kept.prices";
pub(super) const HIDDEN: &str = "kept.costs";
pub(super) const HISTORY_AGE: Duration = Duration::from_secs(300);

/// The tokens of the first application, of which one is asked for at a time.
pub(super) const TOKENS: [&str; 2] = ["the first secret", "the second secret"];
/// The only user who is admitted where users are told apart.
pub(super) const ADMITTED_USER: u32 = 7;

/// Bytes by which a message may get longer on its way, because of another id.
pub(super) const GROWTH_BYTES_MAX: usize = 60;
/// The limit on frames that a reload sets. No message is larger but those that try the limit.
pub(super) const LOWER_FRAME_BYTES_MAX: usize = 16_500;

/// The bytes of the loop's buffer.
pub(super) const READ_BYTES_MAX: usize = 1_024;

/// Returns the channel of a topic by its number. Those that have a history come last.
pub(super) fn channel_of(topic: usize) -> Option<&'static str> {
    TOPICS.iter().chain(&KEPT_CHANNELS).nth(topic).copied()
}

/// Returns whether the filter refuses the hidden channel to clients with the id of this number.
pub(super) fn is_hidden_from(id: usize) -> bool {
    id % 2 == 1
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(super) struct Scenario {
    /// The limits at the begin.
    pub(super) first_limits: Limits,
    /// The limits, of each the largest that any reload has set.
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
    /// The first application asks for a token.
    pub(super) has_tokens: bool,
    /// The first listener is a Unix socket on which one user is admitted.
    pub(super) has_users: bool,
    /// The server gets other limits and tokens while it runs.
    pub(super) has_reloads: bool,
    /// More connections come at once than the server refuses in words.
    pub(super) has_crowd: bool,
    /// The process publishes more large messages at once than one write takes.
    pub(super) has_wide_pipes: bool,
    /// Everybody publishes and asks much, and reads slowly.
    pub(super) is_pressing: bool,
    /// Most clients speak `call`, and say little else.
    pub(super) is_calling: bool,
    /// Channels have a history, and many clients follow them.
    pub(super) is_keeping: bool,
    /// The server shares its applications with others.
    pub(super) has_links: bool,
    /// The process has a filter, which hides one of those channels.
    pub(super) has_filter: bool,
}

impl Scenario {
    pub(super) fn choose(decisions: &mut Decisions) -> Self {
        let is_calm = decisions.below(4) == 0;
        let is_calling = decisions.below(3) == 2;
        let is_tight = !is_calm && !is_calling && decisions.below(6) == 5;
        let has_few_descriptors = !is_calm && decisions.below(6) == 5;
        let has_bursts = !is_calm && decisions.below(6) == 5;
        let has_handshakes = decisions.below(2) == 1;
        let rushed = decisions.below(12);
        let rushed_listener = (!is_calm && rushed < 2).then_some(rushed);
        let steps_max = (decisions.below(4) == 3).then(|| 1 + decisions.below(12));
        let has_tokens = !is_calm && decisions.below(6) == 5;
        let has_users = !is_calm && decisions.below(6) == 5;
        let has_reloads = !is_calm && decisions.below(if is_tight { 2 } else { 4 }) == 1;
        let is_pressing = !is_calm && decisions.below(6) == 5;
        let has_crowd = !is_calm && !is_tight && decisions.below(50) == 49;
        let has_wide_pipes = !is_tight && !has_bursts && decisions.below(40) == 39;
        // Either of subscriptions and services, or of channels.
        let limited = decisions.below(10);
        let has_few_subscriptions = !is_calm && limited == 8;
        let has_few_channels = !is_calm && limited == 9;
        let defaults = TurnLimits::default();
        let frames_max = [defaults.frames_per_connection_max, 8, 3][decisions.below(5) / 2];
        let work_max = [defaults.work_max, 64, 32, 16][decisions.below(6).saturating_sub(2)];
        let commands_max = [defaults.commands_max, 2][decisions.below(3) / 2];
        let commands_max = if has_wide_pipes { defaults.commands_max } else { commands_max };
        // Small, so that their edges are met all the time.
        let turn = TurnLimits {
            // A share that takes hundreds of turns would hide a connection that is passed over.
            frames_per_connection_max: if steps_max.is_some() { 8 } else { frames_max },
            read_bytes_max: READ_BYTES_MAX,
            work_max,
            commands_max,
            accepts_max: if has_crowd { 10 } else { 2 },
            handshake_steps_max: 1,
            ..defaults
        };
        let limits = Limits {
            turn,
            connections_max: if is_calm || is_calling {
                16
            } else {
                [6, 3, 2, 16][decisions.below(4)]
            },
            frame_bytes_max: 20_000,
            queue_high_water_bytes: if is_calm || has_wide_pipes {
                1 << 20
            } else if is_pressing {
                [2_000, 500][decisions.below(2)]
            } else {
                [2_000, 500, 8_000, 60_000][decisions.below(4)]
            },
            memory_bytes_max: if is_tight { 64 << 10 } else { 1 << 30 },
            channels_per_connection_max: if has_few_channels { 3 } else { 4_096 },
            subscriptions_per_connection_max: if has_few_subscriptions { 1 } else { 4_096 },
            services_per_connection_max: if has_few_subscriptions { 1 } else { 256 },
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
        let is_keeping = decisions.below(3) == 2;
        let mut limits = limits;
        if is_keeping {
            let messages = [3, 8, 40][decisions.below(3)];
            limits.retained_values_max = 1;
            limits.histories = APPS
                .map(|app| HistoryRule::new(app, "kept.*").messages(messages).age(HISTORY_AGE))
                .into();
        }
        let has_filter = is_keeping && decisions.below(2) == 1;
        let has_links = decisions.below(4) == 3;
        Self {
            first_limits: limits.clone(),
            limits,
            faults,
            is_calm,
            is_tight,
            has_few_descriptors,
            has_handshakes,
            rushed_listener,
            has_bursts,
            steps: 60 + decisions.below(if is_calling { 700 } else { 400 }),
            clients_max: 3 + decisions.below(5),
            ends_in_drain: decisions.below(3) == 2,
            steps_max,
            has_tokens,
            has_users,
            has_reloads,
            has_crowd,
            has_wide_pipes,
            is_pressing,
            is_calling,
            is_keeping,
            has_filter,
            has_links,
        }
    }

    /// Returns whether a few answers put a queue over its mark.
    pub(super) fn has_low_mark(&self) -> bool {
        self.first_limits.queue_high_water_bytes < 2_000
    }

    /// Returns the rules for connecting, with the token that is asked for.
    pub(super) fn access(&self, token: usize) -> Access {
        let mut access = Access::default();
        if self.has_tokens {
            access = access.application(APPS[0], Token::new(TOKENS[token]));
        }
        if self.has_users {
            access = access.uids([ADMITTED_USER]);
        }
        access
    }
}
