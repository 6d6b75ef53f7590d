//! One connected socket: its reads, its writes, and the loop's notes about it.

use std::io::{self, IoSlice};

use smallvec::SmallVec;

use super::system::{Event, Stream, System};
use crate::branches::{self, Branch};
use crate::broker::{Broker, ConnectionKey, Turnover, Written};

/// The most slices of one `writev`. With chunks of 64 KiB, that is more than any send buffer takes.
const SLICES_MAX: usize = 32;

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(super) struct Socket<T> {
    stream: T,
    key: ConnectionKey,
    /// The kernel reported bytes, and no read has emptied the socket since.
    readable: bool,
    /// The peer has shut its write side, so that reads go on until one returns zero bytes.
    peer_finished: bool,
    /// The socket is in the loop's ready list.
    listed: bool,
    /// The broker holds received bytes that it can process now.
    resumed: bool,
    /// The kernel reported room, and the socket has not been served since.
    writable: bool,
    wants_writable: bool,
    /// Timers wait until it was read.
    owed_a_read: bool,
    /// The broker has room for the rest of a message.
    pub(super) has_room: bool,
}

pub(super) enum Read {
    Bytes(usize),
    Nothing,
    End,
    Broken(io::Error),
}

pub(super) enum Flush {
    Done,
    Blocked,
    Broken,
}

impl<T: Stream> Socket<T> {
    pub(super) fn new(
        mut stream: T,
        key: ConnectionKey,
        system: &mut impl System<Stream = T>,
    ) -> io::Result<Self> {
        system.watch(&mut stream, key.index())?;
        Ok(Self {
            stream,
            key,
            readable: false,
            peer_finished: false,
            listed: false,
            resumed: false,
            writable: false,
            wants_writable: false,
            owed_a_read: false,
            has_room: false,
        })
    }

    /// Makes rings in shared memory for the connection. Returns the memory that they take.
    #[cold]
    pub(super) fn share(
        &mut self,
        ring_bytes: usize,
        system: &mut impl System<Stream = T>,
    ) -> io::Result<usize> {
        system.share(&mut self.stream, self.key.index(), ring_bytes)
    }

    /// See [`Stream::turn_over`].
    pub(super) fn turn_over(&mut self, turnover: Turnover) {
        self.stream.turn_over(turnover.before_bytes, turnover.answer_bytes);
    }

    pub(super) fn key(&self) -> ConnectionKey {
        self.key
    }

    pub(super) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Records an event of the system.
    pub(super) fn note(&mut self, event: &Event) {
        self.readable |= event.readable;
        self.writable |= event.writable;
        self.peer_finished |= event.finished;
    }

    /// Has the socket read once more, whether the system reports bytes or not.
    pub(super) fn note_readable(&mut self) {
        self.readable = true;
    }

    /// Returns whether timers wait for it to be read, which they do from now on if they `begin` to
    /// wait.
    pub(super) fn is_owed_a_read(&mut self, begin: bool) -> bool {
        self.owed_a_read = self.readable && (begin || self.owed_a_read);
        self.owed_a_read
    }

    pub(super) fn wants_flush(&self) -> bool {
        self.stream.wants_flush()
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.stream.is_handshaking()
    }

    pub(super) fn note_resumed(&mut self) {
        self.resumed = true;
    }

    pub(super) fn take_handshake_steps(&mut self) -> usize {
        self.stream.take_handshake_steps()
    }

    pub(super) fn read_cost_bytes(&self, brought_bytes: usize) -> usize {
        self.stream.read_cost_bytes(brought_bytes)
    }

    /// Adds the socket to the loop's ready list, unless it is there already.
    pub(super) fn enlist(&mut self, ready: &mut Vec<ConnectionKey>) {
        if !std::mem::replace(&mut self.listed, true) {
            ready.push(self.key);
        }
    }

    /// Records that the socket has left the ready list. Returns whether the broker holds received
    /// bytes that it can process now, and whether the kernel has room to write again.
    pub(super) fn leave_list(&mut self) -> (bool, bool) {
        self.listed = false;
        (std::mem::take(&mut self.resumed), std::mem::take(&mut self.writable))
    }

    #[expect(
        clippy::inline_always,
        reason = "each message passes here, and a call costs 40 instructions"
    )]
    #[inline(always)]
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Read {
        let was_owed = std::mem::take(&mut self.owed_a_read);
        match self.stream.read(buffer) {
            Ok(0) => {
                self.readable = false;
                Read::End
            }
            Ok(bytes) => {
                // A short read has emptied the socket, so no further read is needed to find out.
                self.readable =
                    bytes == buffer.len() || self.peer_finished || self.stream.holds_more();
                branches::note_if(Branch::EndWithLastBytes, || {
                    self.peer_finished && bytes < buffer.len()
                });
                Read::Bytes(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Read::Nothing
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                // A signal came before anything was read, unless it has cost something.
                self.owed_a_read = was_owed && self.stream.read_cost_bytes(0) == 0;
                Read::Nothing
            }
            Err(error) => {
                self.readable = false;
                Read::Broken(error)
            }
        }
    }

    /// Acknowledges a length prefix that came alone. Its body follows once the prefix is
    /// acknowledged, which the kernel would otherwise delay by 40 ms.
    pub(super) fn acknowledge_at_once(&mut self) {
        self.stream.acknowledge_at_once();
    }

    /// Sends the connection's queue, in one `writev` where it fits.
    pub(super) fn flush(
        &mut self,
        broker: &mut Broker,
        system: &mut impl System<Stream = T>,
    ) -> Flush {
        loop {
            let (stream, mut wanted, mut is_blocked) = (&mut self.stream, 0, false);
            let flushed = broker.flush(self.key, |queue| {
                let bytes = if let Some(piece) = queue.only_slice() {
                    wanted = piece.len();
                    retried(|| stream.write_one(piece))?
                } else {
                    let mut slices = SmallVec::<[_; SLICES_MAX]>::new();
                    slices.extend(queue.slices().take(SLICES_MAX).map(IoSlice::new));
                    wanted = slices.iter().map(|slice| slice.len()).sum();
                    if wanted == 0 { 0 } else { retried(|| stream.write(&slices))? }
                };
                let holds = !stream.flush()?;
                is_blocked = bytes < wanted || holds;
                io::Result::Ok(Written { bytes, holds })
            });
            let Ok(flushed) = flushed else { return Flush::Broken };
            if is_blocked {
                branches::note(Branch::WriteBlocked);
                return self.want_writable(true, system, Flush::Blocked);
            }
            if flushed.unsent_bytes == 0 {
                if flushed.splits_writes && wanted > 0 {
                    // A send switches the kernel back to delayed acknowledgements.
                    self.stream.acknowledge_at_once();
                }
                return self.want_writable(false, system, Flush::Done);
            }
            branches::note(Branch::SlicesLeft);
        }
    }

    /// Watches for writability only after a short write: a Unix socket would otherwise wake the
    /// loop for every message.
    #[inline]
    fn want_writable(
        &mut self,
        wants: bool,
        system: &mut impl System<Stream = T>,
        flushed: Flush,
    ) -> Flush {
        if wants == self.wants_writable {
            return flushed;
        }
        match system.watch_writable(&mut self.stream, self.key.index(), wants) {
            Ok(()) => {
                self.wants_writable = wants;
                flushed
            }
            Err(_) => Flush::Broken,
        }
    }

    /// Shuts the write side. Bytes that still arrive are read and dropped until the peer closes.
    pub(super) fn finish_write(&mut self) {
        self.stream.shutdown_write();
        self.readable = true;
    }
}

/// Returns the number of bytes that the stream took, which may be zero.
#[inline]
fn retried(mut write: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match write() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
