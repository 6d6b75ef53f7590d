//! Orders to the driver and news for the hooks.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use super::keys::ConnectionKey;
use super::peer::{PackedPeer, Peer};

/// A connection as its hooks and the listings show it.
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
    /// The id that it chose. Peers are never shown one another's.
    pub connection_id: &'a str,
    /// The other end, as the operating system knows it.
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

/// An order to the driver about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send what is queued, by [`Broker::flush`](crate::broker::Broker::flush).
    Flush(ConnectionKey),
    /// Call [`Broker::receive`](crate::broker::Broker::receive) in the next turn, with nothing if
    /// nothing was read.
    Resume(ConnectionKey),
    /// Shut the write side, go on reading and dropping.
    FinishWrite(ConnectionKey),
    /// Drop the socket. The key is free from now on.
    Close(ConnectionKey),
}

/// The way in which a peer went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUp {
    /// It will send no more, and may still read.
    EndOfStream,
    /// The connection is broken.
    Reset,
}

/// The state of a connection after bytes of it were received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The driver should go on reading. If not, an [`Action::Resume`] says when.
    pub reads_on: bool,
    /// The last bytes are a length prefix alone, as of a peer that writes header and body apart.
    /// Many kernels send the body only once the header is acknowledged, so a driver that can
    /// should acknowledge it at once.
    pub bare_header: bool,
}

/// The part that was done of what other threads asked for, or of what was due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Things that were done.
    pub steps: usize,
    /// There may be more of them, for the next turn.
    pub has_more: bool,
}

/// The bytes that a transport took from a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// All of the queue, or what fitted.
    pub bytes: usize,
    /// The transport keeps some of them, as one that encrypts does. While it does, the connection
    /// is not at its end.
    pub holds: bool,
}

/// The state of a queue after it was flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Bytes that are left.
    pub unsent_bytes: usize,
    /// The peer writes header and body apart, see [`Received::bare_header`].
    pub splits_writes: bool,
}

/// Things to be done once the current call, or the current loop over connections, is over.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    /// For the driver, in order.
    pub(crate) actions: VecDeque<Action>,
    /// For the hooks, in order.
    pub(crate) events: Vec<ConnectionEvent>,
    /// Connections to be closed once nobody iterates over them.
    pub(crate) doomed: Vec<ConnectionKey>,
    /// Connections that were closed with bytes in their queue.
    #[cfg(feature = "simulation")]
    pub(crate) unsent: Vec<ConnectionKey>,
    /// Changes to the handlers, to be made once none of them runs. Their type stands above this
    /// room.
    pub(crate) handler_changes: Vec<Box<dyn Any + Send>>,
}
