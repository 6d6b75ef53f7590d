//! The memory budget: what is held in all, and what happens when that runs short.
//!
//! In this order, by parts of [`Limits::memory_bytes_max`](super::Limits):
//! 1. over three quarters nothing new comes in: connections, channels, subscriptions; whose message
//!    is unfinished for long is closed;
//! 2. over seven eighths unfinished messages and publications wait, until it is below three
//!    quarters again or the grace of slow consumers is over;
//! 3. then, or at once over the whole, whoever holds the most is closed, and the next one.
//!
//! A whole that is lowered below what is held begins with the second, and with its grace.

use std::time::Duration;

use serde::Serialize;

use crate::broker::state::connection::Connection;
use crate::broker::state::core::{Core, Refusal};
use crate::broker::state::events::Action;
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::timers::{Due, TimerKey};
use crate::proto::ErrorCode;

/// What an entry of each table takes at most beside its ids, when the table has just grown:
/// tests/alloc/budget.rs holds it against the allocator.
pub(crate) const CONNECTION_BYTES: usize = 1_536;
pub(crate) const APPLICATION_BYTES: usize = 768;
pub(crate) const CHANNEL_BYTES: usize = 768;
pub(crate) const SUBSCRIPTION_BYTES: usize = 64;
pub(crate) const REQUEST_BYTES: usize = 480;

/// Up to here an unfinished message does not wait: who writes header and body apart is not to
/// be held up for a header.
const SMALL_BYTES_MAX: usize = 4 << 10;

/// An unfinished message may take so many graces while others are refused for want of memory.
const UNFINISHED_GRACES_MAX: u32 = 6;

/// Where memory is short again soon after others were closed for it, those who hold it are many:
/// they get a part of the grace only.
const GRACE_PARTS: u32 = 10;

/// What the server does because its memory runs short, see
/// [`Limits::memory_bytes_max`](crate::Limits::memory_bytes_max).
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ipc_framework::MemoryPressure;
///
/// let mut server = Server::bind(Config { port: 0, ..Config::default() })?;
/// assert_eq!(server.get_stats().memory_pressure, MemoryPressure::None);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryPressure {
    /// Nothing: there is enough.
    #[default]
    None,
    /// New connections, channels and subscriptions are refused.
    Refusing,
    /// Unfinished messages and publications wait, too.
    Pausing,
}

/// The budget as it stands.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    pub(crate) pressure: MemoryPressure,
    /// What the entries of the tables take, but for those of the router.
    pub(crate) tables_bytes: usize,
    /// Who waits for memory. The key of one that left meanwhile finds nothing.
    paused: Vec<ConnectionKey>,
    /// When those who wait have waited long enough.
    grace: Option<TimerKey>,
    /// When they last had.
    grace_ended: Option<Duration>,
    /// What the whole was before it was lowered below what is held, until the grace is over.
    former_bytes_max: Option<usize>,
}

impl Core {
    /// Everything that peers make the server hold.
    pub(crate) fn memory_bytes(&self) -> usize {
        let buffers = self.pool.gauge().bytes() + self.pool.free_bytes();
        buffers + self.router.bytes + self.budget.tables_bytes
    }

    fn refuse_above_bytes(&self) -> usize {
        self.limits.memory_bytes_max / 4 * 3
    }

    /// Looks whether the budget still holds. Called after everything that may add to it.
    pub(crate) fn mind_memory(&mut self) {
        let is_ample = self.memory_bytes() <= self.refuse_above_bytes();
        if !is_ample || self.budget.pressure != MemoryPressure::None {
            self.apply_pressure();
        }
    }

    #[cold]
    fn apply_pressure(&mut self) {
        // What is kept for speed goes first.
        self.pool.trim();
        self.shed_down_to(self.whole_bytes());
        let held_bytes = self.memory_bytes();
        self.budget.former_bytes_max.take_if(|_| held_bytes <= self.limits.memory_bytes_max);
        let pause_above_bytes = self.limits.memory_bytes_max / 8 * 7;
        let before = self.budget.pressure;
        let after = if held_bytes > pause_above_bytes {
            MemoryPressure::Pausing
        } else if held_bytes <= self.refuse_above_bytes() {
            MemoryPressure::None
        } else {
            // Who waits goes on only when there is room for more than the next read.
            before.max(MemoryPressure::Refusing)
        };
        if before == after {
            return;
        }
        self.budget.pressure = after;
        if after > before {
            crate::trace::memory_short(held_bytes, self.limits.memory_bytes_max);
        }
        if after != MemoryPressure::None && after > before {
            self.arm_memory_grace();
        }
        if after == MemoryPressure::Pausing {
            for key in self.connections.keys() {
                self.mind_unfinished(key);
            }
        } else if before == MemoryPressure::Pausing {
            for key in std::mem::take(&mut self.budget.paused) {
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.paused = false;
                    connection.unfinished_since = self.now.monotonic;
                    self.actions.push_back(Action::Resume(key));
                }
            }
        }
    }

    /// Over this much there is no grace.
    fn whole_bytes(&self) -> usize {
        self.budget.former_bytes_max.unwrap_or(self.limits.memory_bytes_max)
    }

    /// The whole is not what it was. Where more is held than there may be now, that begins with
    /// waiting, too, and with a grace of its own.
    pub(crate) fn begin_memory_max(&mut self, before_bytes_max: usize) {
        let now_bytes_max = self.limits.memory_bytes_max;
        self.budget.former_bytes_max.take_if(|former| *former <= now_bytes_max);
        self.pool.trim();
        if before_bytes_max <= now_bytes_max || self.memory_bytes() <= now_bytes_max {
            return;
        }
        self.budget.former_bytes_max.get_or_insert(before_bytes_max);
        self.budget.grace_ended = None;
        if self.is_pausing() {
            self.arm_memory_grace();
        }
    }

    fn arm_memory_grace(&mut self) {
        let whole = self.limits.slow_consumer_grace;
        let ended = self.budget.grace_ended;
        let is_again = ended.is_some_and(|at| self.now.monotonic < at.saturating_add(whole));
        let deadline = self.deadline_in(if is_again { whole / GRACE_PARTS } else { whole });
        if let Some(earlier) = self.budget.grace.replace(self.timers.arm(deadline, Due::Memory)) {
            self.timers.disarm(earlier);
        }
    }

    /// Those who wait have not helped it: room is made for them at the cost of the largest.
    pub(crate) fn end_memory_grace(&mut self) {
        self.budget.grace = None;
        self.budget.former_bytes_max = None;
        match self.budget.pressure {
            MemoryPressure::None => return,
            MemoryPressure::Refusing => self.shed_unfinished(),
            MemoryPressure::Pausing => {
                self.budget.grace_ended = Some(self.now.monotonic);
                self.shed_down_to(self.refuse_above_bytes());
            }
        }
        self.apply_pressure();
        let may_end = match self.budget.pressure {
            MemoryPressure::None => false,
            MemoryPressure::Refusing => self.connections.iter().any(|(_, c)| c.holds_unfinished()),
            // What is left is nobody's fault, and may be given back by itself.
            MemoryPressure::Pausing => true,
        };
        if may_end && self.budget.grace.is_none() {
            self.arm_memory_grace();
        }
    }

    /// Closes those whose message does not come to its end while others are refused for it.
    fn shed_unfinished(&mut self) {
        let patience = self.limits.slow_consumer_grace * UNFINISHED_GRACES_MAX;
        let began_before = self.now.monotonic.checked_sub(patience);
        for key in self.connections.keys() {
            let Some(connection) = self.connections.get(key) else { continue };
            let is_late = began_before.is_some_and(|before| connection.unfinished_since <= before);
            // Whoever is held back cannot help it.
            if is_late && connection.may_proceed() && connection.holds_unfinished() {
                let held_bytes = connection.held_bytes();
                self.shed(key, held_bytes, &unfinished(patience));
            }
        }
    }

    /// While memory is short, the rest of an unfinished message stays with its sender, or has to
    /// come soon.
    pub(crate) fn mind_unfinished(&mut self, key: ConnectionKey) {
        let pressure = self.budget.pressure;
        if pressure == MemoryPressure::None
            || !self.connections.get(key).is_some_and(Connection::holds_unfinished)
        {
            return;
        }
        if pressure == MemoryPressure::Pausing {
            self.pause(key);
        } else if self.budget.grace.is_none() {
            self.arm_memory_grace();
        }
    }

    /// Holds a connection back until there is memory again.
    pub(crate) fn pause(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if !std::mem::replace(&mut connection.paused, true) {
            self.budget.paused.push(key);
            self.counters.memory_pauses += 1;
        }
    }

    pub(crate) fn is_pausing(&self) -> bool {
        self.budget.pressure == MemoryPressure::Pausing
    }

    /// Whether anything new has to be refused; counts that it is.
    pub(crate) fn refuses_for_memory(&mut self) -> bool {
        let refuses = self.budget.pressure != MemoryPressure::None;
        self.counters.memory_refusals += u64::from(refuses);
        refuses
    }

    /// Closes whoever holds the most, which is not who happened to add the last byte, and the
    /// next one, until no more than this is held or nobody holds anything.
    fn shed_down_to(&mut self, bytes_max: usize) {
        while self.memory_bytes() > bytes_max {
            let mut holders: Vec<(usize, ConnectionKey)> = self
                .connections
                .iter()
                .map(|(key, connection)| (connection.held_bytes(), key))
                .filter(|(held_bytes, _)| *held_bytes > 0)
                .collect();
            if holders.is_empty() {
                return;
            }
            holders
                .sort_unstable_by_key(|(held_bytes, key)| (std::cmp::Reverse(*held_bytes), *key));
            for (held_bytes, key) in holders {
                if self.memory_bytes() <= bytes_max {
                    return;
                }
                self.shed(key, held_bytes, &out_of_memory());
                self.pool.trim();
            }
        }
    }

    fn shed(&mut self, key: ConnectionKey, held_bytes: usize, why: &Refusal) {
        let Some(connection) = self.connections.get(key) else { return };
        crate::trace::out_of_memory(key.index(), held_bytes);
        if connection.takes_messages() && connection.send.is_empty() {
            self.counters.memory_sheds += 1;
            self.report(key, why);
            self.begin_close(key);
        } else {
            // It was told already, or what it holds is what it does not read.
            self.counters.memory_sheds += u64::from(connection.is_live());
            self.close_now(key);
        }
    }
}

impl Connection {
    /// Whether it keeps room for a message that is not there yet. Who has not introduced itself
    /// holds little, and not for long.
    fn holds_unfinished(&self) -> bool {
        self.session().is_some() && self.recv.capacity() > SMALL_BYTES_MAX
    }

    /// What it binds of the budget beyond what every connection takes.
    fn held_bytes(&self) -> usize {
        let tables_bytes = self.session().map_or(0, |session| {
            session.created.len() * CHANNEL_BYTES
                + session.subscriptions.len() * SUBSCRIPTION_BYTES
                + session.requests.len() * REQUEST_BYTES
                + session.message_id_bytes
        });
        self.recv.capacity() + self.send.len() + tables_bytes
    }
}

fn out_of_memory() -> Refusal {
    Refusal::new(
        ErrorCode::LimitExceeded,
        "the server has no memory left and this connection holds the most of it; connect again \
         later and send smaller messages, or raise the server's --max-memory",
    )
}

fn unfinished(patience: Duration) -> Refusal {
    let text = format!(
        "the server is short of memory, and this message has been unfinished for over {} s; send \
         it again in one go or in smaller parts, or raise the server's --max-memory",
        patience.as_secs()
    );
    Refusal::new(ErrorCode::LimitExceeded, text)
}

pub(crate) fn short_of_memory(code: ErrorCode) -> Refusal {
    Refusal::new(
        code,
        "the server is short of memory and takes on nothing new; try again later, or raise its \
         --max-memory",
    )
}
