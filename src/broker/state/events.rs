//! Actions for the driver and events for the hooks.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use super::keys::ConnectionKey;
use super::peer::{PackedPeer, Peer};
use super::topic::verdicts::Undecided;

/// The description of a connection in hooks and listings.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config::default().port(0))?;
/// server.on_connect(|info, _| println!("{} of {} is here", info.connection_id, info.app_id));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo<'a> {
    /// The key that addresses it.
    pub key: ConnectionKey,
    /// The application it belongs to.
    pub app_id: &'a str,
    /// The id that it chose. A peer never sees the ids of others.
    pub connection_id: &'a str,
    /// The other end, as far as the operating system knows it.
    pub peer: Peer,
}

#[derive(Debug)]
pub(crate) struct ConnectionEvent {
    pub(crate) opened: bool,
    pub(crate) key: ConnectionKey,
    pub(crate) app_id: Arc<str>,
    pub(crate) connection_id: Arc<str>,
    pub(crate) peer: PackedPeer,
}

/// An action that the driver has to carry out on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the queue, by [`Broker::flush`](crate::broker::Broker::flush). The action is not repeated
    /// before that is called.
    Flush(ConnectionKey),
    /// Call [`Broker::receive`](crate::broker::Broker::receive) in the next turn, without bytes if
    /// none were read.
    Resume(ConnectionKey),
    /// Shut the write side, but go on reading, and drop the bytes.
    FinishWrite(ConnectionKey),
    /// Make rings in shared memory, by [`Broker::share`](crate::broker::Broker::share). It comes only if
    /// [`Limits::shared_memory`](crate::Limits::shared_memory) is set.
    Share(ConnectionKey),
    /// Drop the socket. The key's index may be reused from now on.
    Close(ConnectionKey),
    /// Make a socket for a link that the broker has opened itself, and [flush](Self::Flush) it. Only a broker
    /// that is joined with others says so, by the library's own driver.
    Attach(ConnectionKey),
}

/// The way in which a peer went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUp {
    /// It sends no more, but may still read.
    EndOfStream,
    /// The connection is broken.
    Reset,
}

/// The state of a connection after [`Broker::receive`](crate::broker::Broker::receive).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The driver should go on reading. If not, an [`Action::Resume`] says when.
    pub reads_on: bool,
    /// The last bytes are a length prefix alone, as if the peer writes header and body separately.
    /// Many kernels send the body only once the header is acknowledged, so a driver that can
    /// acknowledge it at once should do so.
    pub bare_header: bool,
    /// A long message has begun. A driver saves the copying of its rest if it reads into
    /// [`Broker::room`](crate::broker::Broker::room).
    pub has_room: bool,
}

/// The progress with the commands of other threads, or with timers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The number of commands or timers that were carried out.
    pub steps: usize,
    /// There may be more of them for the next turn.
    pub has_more: bool,
}

/// The bytes that a transport took from a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The number of bytes that the transport took.
    pub bytes: usize,
    /// The transport keeps some of them, as TLS does. Until they are sent, the connection is not
    /// closed.
    pub holds: bool,
}

/// The place in a queue at which a connection goes over to shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turnover {
    /// Bytes of the queue that still go over the socket before the answer.
    pub before_bytes: usize,
    /// Bytes of the answer, with which the descriptors go. All that follows them goes over the ring.
    pub answer_bytes: usize,
}

/// A request for shared memory, which waits for the driver.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) key: ConnectionKey,
    /// The id of the request, as JSON text without the quotes.
    pub(crate) message_id: Box<str>,
}

/// The state of a queue after it was flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Bytes that are left.
    pub unsent_bytes: usize,
    /// The peer writes header and body separately, see [`Received::bare_header`].
    pub splits_writes: bool,
}

/// Work that is postponed to the end of the current call, or of the current loop over connections.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    /// Connections that the driver has to flush, in order and before all other actions.
    pub(crate) flushes: VecDeque<ConnectionKey>,
    /// All other actions for the driver, in order.
    pub(crate) actions: VecDeque<Action>,
    /// Events for the hooks, in order.
    pub(crate) events: Vec<ConnectionEvent>,
    /// Requests for shared memory: one of a connection at most.
    pub(crate) sharing: Vec<Asked>,
    /// Connections to close once no loop over connections is running.
    pub(crate) doomed: Vec<ConnectionKey>,
    /// Connections that were closed with bytes in their queue. They are recorded once somebody has
    /// asked for them, since nobody else empties the list.
    #[cfg(any(all(test, feature = "net"), feature = "simulation"))]
    pub(crate) unsent: Option<Vec<ConnectionKey>>,
    /// Publications that wait until the filter has been asked about their channel.
    pub(crate) undecided: VecDeque<Undecided>,
    /// The filter is being asked about one of them.
    pub(crate) is_deciding: bool,
    /// Changes to the handlers, to make once no handler is running. Their type belongs to a layer
    /// above this one.
    pub(crate) handler_changes: Vec<Box<dyn Any + Send>>,
}

impl Agenda {
    /// Returns whether the driver has nothing to do.
    #[inline]
    pub(crate) fn has_no_actions(&self) -> bool {
        self.flushes.is_empty() && self.actions.is_empty()
    }

    /// Returns whether there is nothing to do before the driver's actions. It is asked after each read, so
    /// that it takes one branch for all.
    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        self.doomed.len() | self.events.len() | self.undecided.len() == 0
    }

    /// Takes the next action for the driver.
    #[inline]
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.flushes.pop_front().map(Action::Flush).or_else(|| self.actions.pop_front())
    }
}
