//! The numbers of the memory budget: the sizes of table entries, and the present shortage.

use std::time::Duration;

use serde::Serialize;

use super::connection::{Connection, Held};
use super::counters::Counters;
use super::events::{Action, Agenda};
use super::keys::ConnectionKey;
use super::refusal::{self, Refusal};
use super::timers::TimerKey;
use crate::branches::{self, Branch};
use crate::proto::ErrorCode;

/// The largest size of an entry of each table without its ids, which is when the table has just
/// grown. tests/alloc/budget.rs compares these with the allocator.
pub(crate) const CONNECTION_BYTES: usize = 1_536;
pub(crate) const APPLICATION_BYTES: usize = 768;
pub(crate) const CHANNEL_BYTES: usize = 816;
pub(crate) const REPLAY_BYTES: usize = 256;
pub(crate) const TOPIC_BYTES: usize = 288;
/// With its timer, and without its messages.
pub(crate) const HISTORY_BYTES: usize = 256;
pub(crate) const SUBSCRIPTION_BYTES: usize = 64;
pub(crate) const REQUEST_BYTES: usize = 480;
pub(crate) const CALL_BYTES: usize = 320;
pub(crate) const OWED_BYTES: usize = 96;

/// The measures that the server takes when its memory runs short, see
/// [`Limits::memory_bytes_max`](crate::Limits::memory_bytes_max).
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ipc_framework::MemoryPressure;
///
/// let mut server = Server::bind(Config::default().port(0))?;
/// assert_eq!(server.get_stats().memory_pressure, MemoryPressure::None);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryPressure {
    /// None: there is enough memory.
    #[default]
    None,
    /// New connections, channels and subscriptions are refused.
    Refusing,
    /// Unfinished messages and publications wait, too.
    Pausing,
}

/// The present state of the budget.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    pub(crate) pressure: MemoryPressure,
    /// Memory of the entries of all tables, but for those of the router.
    pub(crate) tables_bytes: usize,
    /// The part of that which all rings in shared memory take.
    pub(crate) rings_bytes: usize,
    /// Connections that wait for memory. The key of one that left meanwhile finds nothing.
    pub(crate) paused: Vec<ConnectionKey>,
    /// The end of the time that connections may wait.
    pub(crate) grace: Option<TimerKey>,
    /// The last end of such a time.
    pub(crate) grace_ended: Option<Duration>,
    /// The former whole, if it was lowered below the memory that is held, until the grace is over.
    pub(crate) former_bytes_max: Option<usize>,
}

impl Budget {
    pub(crate) fn is_pausing(&self) -> bool {
        self.pressure == MemoryPressure::Pausing
    }

    /// Refuses a new connection, channel or subscription while memory is short, and counts it.
    pub(crate) fn take_on(&self, code: ErrorCode, counters: &mut Counters) -> Result<(), Refusal> {
        if self.pressure == MemoryPressure::None {
            return Ok(());
        }
        counters.memory_refusals += 1;
        Err(refusal::short_of_memory(code))
    }

    /// Holds a connection back until there is memory again, unless something else holds it already.
    /// In that case, memory is checked again when that lets it go on.
    pub(crate) fn pause(
        &mut self,
        key: ConnectionKey,
        connection: &mut Connection,
        counters: &mut Counters,
    ) {
        if matches!(connection.held, Held::No | Held::NextTurn) {
            branches::note(Branch::MemoryPaused);
            connection.held = Held::Memory;
            self.paused.push(key);
            counters.memory_pauses += 1;
        }
    }

    /// Lets a connection go on that leaves while it waits for memory. Its entry in the list is skipped
    /// when there is memory again.
    pub(crate) fn forget(key: ConnectionKey, connection: &mut Connection, agenda: &mut Agenda) {
        if connection.held == Held::Memory {
            connection.held = Held::No;
            // Its socket was not read meanwhile, so an end of the stream may not have been noticed.
            agenda.actions.push_back(Action::Resume(key));
        }
    }
}
