//! One connected socket: reads, writes, and what the loop remembers of it.

use std::io::{self, IoSlice};

use smallvec::SmallVec;

use super::system::{Stream, System};
use crate::broker::{Broker, ConnectionKey};

/// Slices handed to one `writev`: with chunks of 64 KiB more than any send buffer takes.
const SLICES_MAX: usize = 32;

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(super) struct Socket<T> {
    stream: T,
    key: ConnectionKey,
    /// The kernel reported bytes, and no read has come to their end yet.
    readable: bool,
    /// The peer has shut its side: only a read of nothing is the end.
    peer_finished: bool,
    /// It stands in the loop's ready list.
    listed: bool,
    /// The broker has kept bytes to look at again.
    resumed: bool,
    wants_writable: bool,
    /// The stream has taken bytes that the kernel has not, and the broker knows it.
    holds: bool,
    /// The peer writes header and body apart and waits for our ACK in between.
    splits_writes: bool,
}

pub(super) enum Received {
    Bytes(usize),
    Nothing,
    End,
    Broken(io::Error),
}

pub(super) enum Flushed {
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
            wants_writable: false,
            holds: false,
            splits_writes: false,
        })
    }

    pub(super) fn key(&self) -> ConnectionKey {
        self.key
    }

    pub(super) fn is_readable(&self) -> bool {
        self.readable
    }

    pub(super) fn note_readable(&mut self, peer_finished: bool) {
        self.readable = true;
        self.peer_finished |= peer_finished;
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

    /// Puts it into the loop's ready list, unless it stands there.
    pub(super) fn enlist(&mut self, ready: &mut Vec<ConnectionKey>) {
        if !std::mem::replace(&mut self.listed, true) {
            ready.push(self.key);
        }
    }

    /// It was taken from the ready list. Returns whether the broker has kept something.
    pub(super) fn leave_list(&mut self) -> bool {
        self.listed = false;
        std::mem::take(&mut self.resumed)
    }

    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Received {
        match self.stream.read(buffer) {
            Ok(0) => {
                self.readable = false;
                Received::End
            }
            Ok(bytes) => {
                // A short read has emptied the socket: the read that would say so is saved.
                self.readable =
                    bytes == buffer.len() || self.peer_finished || self.stream.holds_more();
                Received::Bytes(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Received::Nothing
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Received::Nothing,
            Err(error) => {
                self.readable = false;
                Received::Broken(error)
            }
        }
    }

    /// A length prefix came alone: its body follows once the prefix is acknowledged, which
    /// the kernel would put off for 40 ms.
    pub(super) fn expect_split_writes(&mut self) {
        self.splits_writes = true;
        self.stream.acknowledge_at_once();
    }

    /// Sends what the broker has for this connection, in one `writev` where it fits.
    pub(super) fn flush(
        &mut self,
        broker: &mut Broker,
        system: &mut impl System<Stream = T>,
    ) -> Flushed {
        loop {
            let mut slices: SmallVec<[IoSlice<'_>; SLICES_MAX]> = SmallVec::new();
            slices.extend(broker.output(self.key).take(SLICES_MAX).map(IoSlice::new));
            let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
            let sent = if wanted == 0 { Ok(0) } else { self.stream.write(&slices) };
            let sent = match sent {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Flushed::Broken,
            };
            drop(slices);
            let Ok(is_flushed) = self.stream.flush() else { return Flushed::Broken };
            if self.holds == is_flushed {
                self.holds = !is_flushed;
                broker.note_transport(self.key, self.holds);
            }
            broker.transmitted(self.key, sent);
            if sent < wanted || self.holds {
                return self.want_writable(true, system, Flushed::Blocked);
            }
            if broker.output(self.key).next().is_none() {
                if self.splits_writes && wanted > 0 {
                    // Sending has switched the kernel back to delayed acknowledgements.
                    self.stream.acknowledge_at_once();
                }
                return self.want_writable(false, system, Flushed::Done);
            }
        }
    }

    /// Asks for writability after a short write only: on Unix sockets it would otherwise
    /// wake the loop for every message.
    fn want_writable(
        &mut self,
        wants: bool,
        system: &mut impl System<Stream = T>,
        flushed: Flushed,
    ) -> Flushed {
        if wants == self.wants_writable {
            return flushed;
        }
        match system.watch_writable(&mut self.stream, self.key.index(), wants) {
            Ok(()) => {
                self.wants_writable = wants;
                flushed
            }
            Err(_) => Flushed::Broken,
        }
    }

    /// Shuts the write side. What still comes in is read and dropped until the peer ends.
    pub(super) fn finish_write(&mut self) {
        self.stream.shutdown_write();
        self.readable = true;
    }
}
