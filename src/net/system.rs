//! The event loop's interface to the operating system. Through it the same loop runs on the real
//! system and on a simulated one.
//!
//! All calls are dispatched statically, so the traits cost nothing at run time.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::time::Duration;

use crate::broker::Peer;

/// The token of the waker, by which other threads interrupt a poll. Listeners have the tokens
/// below it, connections count from zero.
pub(crate) const WAKER: usize = usize::MAX;

/// An event queue, listening sockets and clocks.
pub(crate) trait System {
    type Listener: Debug;
    type Stream: Stream;
    /// A reserve descriptor for the time when the process has no other left.
    type Spare: Debug;

    /// Waits until something happens, at most for `timeout`, and appends the events. Returns
    /// whether there may be more of them, which the next call reports.
    ///
    /// Events are edge-triggered: a state is reported once, and again only after it has changed or
    /// the interest in it has. Spurious events are allowed.
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<bool>;

    /// Reports connections that wait to be accepted from now on.
    fn watch_listener(&mut self, listener: &mut Self::Listener, token: usize) -> io::Result<()>;

    /// Accepts the next connection. Returns its peer as well.
    fn accept(&mut self, listener: &mut Self::Listener) -> io::Result<(Self::Stream, Peer)>;

    /// Makes the stream of a link to other servers, and gives its other end to whoever holds those of this
    /// application.
    fn attach(&mut self, application: &str) -> io::Result<Self::Stream>;

    /// Returns whether the listener's connections begin with a TLS handshake.
    fn has_handshakes(listener: &Self::Listener) -> bool;

    /// Opens a reserve descriptor, if there is one left.
    fn spare(&mut self) -> Option<Self::Spare>;

    /// Sets the stream's options and reports from now on when it can be read.
    fn watch(&mut self, stream: &mut Self::Stream, token: usize) -> io::Result<()>;

    /// Begins or ends to report writability. If it begins, a stream that is writable already is
    /// reported too.
    fn watch_writable(
        &mut self,
        stream: &mut Self::Stream,
        token: usize,
        wanted: bool,
    ) -> io::Result<()>;

    /// Polls for a loop that has something to do anyway, and does not wait.
    fn look(&mut self, events: &mut Vec<Event>) -> io::Result<bool> {
        self.poll(events, Some(Duration::ZERO))
    }

    /// Polls for a loop that looks again and again instead of waiting. It may leave out for some looks
    /// what is expensive to look at.
    fn spin(&mut self, events: &mut Vec<Event>) -> io::Result<bool> {
        self.look(events)
    }

    /// Returns whether something may have happened that a poll would find, and that would not end a wait
    /// for the descriptor of the event queue.
    fn is_awake(&self) -> bool {
        false
    }

    /// Gives a stream rings in shared memory, of so many bytes each. `turn_over` says from where on it
    /// uses them. Returns the bytes of memory that they take together.
    fn share(
        &mut self,
        stream: &mut Self::Stream,
        token: usize,
        ring_bytes: usize,
    ) -> io::Result<usize>;

    /// Forgets what it knows of a stream, which is closed next.
    fn forget(&mut self, token: usize) {
        let _ = token;
    }

    /// Returns the time since the system was created, which never goes back.
    fn monotonic(&self) -> Duration;

    /// Returns the time since the Unix epoch, which may jump.
    fn wall_clock(&self) -> Duration;
}

/// A connected socket, with or without TLS, or a simulated one. When it is dropped, it is closed
/// and no longer watched.
pub(crate) trait Stream: Debug {
    /// Reads bytes that have arrived. If they do not fill the buffer, none are left, and an event
    /// reports further bytes or the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes as much of the slices as the stream has room for. After a short write, an event
    /// reports that it has room again.
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Writes as much of one slice as the stream has room for. Most queues have no other.
    fn write_one(&mut self, slice: &[u8]) -> io::Result<usize> {
        self.write(&[IoSlice::new(slice)])
    }

    fn shutdown_write(&mut self);

    /// Goes over to the rings that it was given, behind so many bytes of the queue and those of the
    /// answer, which takes the descriptors along.
    fn turn_over(&mut self, before_bytes: usize, answer_bytes: usize) {
        let _ = (before_bytes, answer_bytes);
    }

    /// Acknowledges the peer's bytes now, rather than together with an answer.
    fn acknowledge_at_once(&mut self);

    /// Sends bytes that `write` took and the stream has kept. Returns whether all of them have been
    /// handed to the system.
    fn flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    /// Returns whether the next read returns bytes or the end, although the last one did not fill
    /// the buffer.
    fn holds_more(&self) -> bool {
        false
    }

    /// Returns the cost of the last read, which returned `brought_bytes`, as the number of bytes
    /// that a plain copy reads in the same time.
    fn read_cost_bytes(&self, brought_bytes: usize) -> usize {
        brought_bytes
    }

    /// Returns whether a flush is due that no event reports: because a read has produced bytes to
    /// send, or has made room for bytes that could not be written before.
    fn wants_flush(&self) -> bool {
        false
    }

    /// Returns whether the next read may be a step of a TLS handshake, which takes as long as a
    /// hundred other reads.
    fn is_handshaking(&self) -> bool {
        false
    }

    /// Returns the steps of the handshake since the last call. A step that is not complete does not
    /// count.
    fn take_handshake_steps(&mut self) -> usize {
        0
    }

    /// Returns the memory that the stream needs in addition to that of every connection.
    fn held_bytes(&self) -> usize {
        0
    }
}

/// An event of a listener or a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// The token that was given to `watch`.
    pub(crate) token: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer has shut its write side or the connection is broken. A read tells which.
    pub(crate) finished: bool,
}
