//! What the event loop asks of the operating system, so that the same loop runs on the real
//! one and on a simulated one.
//!
//! All of it is called statically: the trait costs nothing at run time.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::time::Duration;

use crate::broker::Peer;

/// The token of the waker, by which other threads interrupt a poll. Listeners have the tokens
/// below it, connections count from zero.
pub(crate) const WAKER: usize = usize::MAX;

/// Event queue, listening sockets and clock.
pub(crate) trait System {
    type Listener: Debug;
    type Stream: Stream;
    /// A descriptor held back for the time when there are no others.
    type Spare: Debug;

    /// Waits until something happens, at most for `timeout`, and appends what it was. Returns
    /// whether there may be more events, which the next call reports.
    ///
    /// Edge-triggered: what was reported once is reported again only after it has changed, or
    /// after the interest in it was changed. Reports of what is not so are allowed.
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<bool>;

    /// Reports connections that wait to be accepted.
    fn watch_listener(&mut self, listener: &mut Self::Listener, token: usize) -> io::Result<()>;

    /// The next connection, and its other end.
    fn accept(&mut self, listener: &mut Self::Listener) -> io::Result<(Self::Stream, Peer)>;

    /// Whether the listener's connections begin with a handshake.
    fn has_handshakes(listener: &Self::Listener) -> bool;

    fn spare(&mut self) -> Option<Self::Spare>;

    /// Prepares a stream for its use here, and reports when it can be read.
    fn watch(&mut self, stream: &mut Self::Stream, token: usize) -> io::Result<()>;

    /// Reports writability as well, or no longer. If it is writable already, that is reported.
    fn watch_writable(
        &mut self,
        stream: &mut Self::Stream,
        token: usize,
        wanted: bool,
    ) -> io::Result<()>;

    /// Since the system was made; never goes back.
    fn monotonic(&self) -> Duration;

    /// Since the Unix epoch; may jump.
    fn wall_clock(&self) -> Duration;
}

/// A connected socket, or what stands for one: whatever encrypts is a stream of its own.
/// Dropped, it is closed and watched no more.
pub(crate) trait Stream: Debug {
    /// Reads what has arrived. Fewer bytes than have room mean that nothing is left: more, or
    /// the end, is reported as an event.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes what fits, from at least one slice. Less than all is written only where no more
    /// fits: once it does, that is reported as an event.
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    fn shutdown_write(&mut self);

    /// Has the peer's bytes acknowledged now, rather than together with an answer.
    fn acknowledge_at_once(&mut self);

    /// Sends what it took and keeps itself. Returns whether the system has all of it now.
    fn flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    /// Whether the next read brings something, or the end, although the last one brought less
    /// than had room.
    fn holds_more(&self) -> bool {
        false
    }

    /// What the last read cost, in bytes of one that only copies. It has brought so many.
    fn read_cost_bytes(&self, brought_bytes: usize) -> usize {
        brought_bytes
    }

    /// Whether what could not be written before can be now, which no event reports, or a read has
    /// left something to be sent.
    fn wants_flush(&self) -> bool {
        false
    }

    /// Whether the next read may be a step of a handshake, and cost as much as a hundred others.
    fn is_handshaking(&self) -> bool {
        false
    }

    /// Steps of the handshake since the last call. Reading a part of a step is none.
    fn take_handshake_steps(&mut self) -> usize {
        0
    }

    /// What it holds beside what every connection takes.
    fn held_bytes(&self) -> usize {
        0
    }
}

/// What happened to a listener or a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// As it was given to `watch`.
    pub(crate) token: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer has shut its side or the connection is broken; reading tells which.
    pub(crate) finished: bool,
}
