//! One connected socket: reads, writes, and what the loop remembers of it.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use smallvec::SmallVec;
use socket2::SockRef;

use crate::broker::{Broker, ConnectionKey};

/// Kernel memory a stalled peer can bind on our side: TCP would take 4 MB by itself.
const TCP_SEND_BUFFER_BYTES: usize = 256 << 10;
/// A Unix socket's own 42 KB would cost a wake-up for every few large frames.
const UNIX_SEND_BUFFER_BYTES: usize = 256 << 10;
/// Slices handed to one `writev`: with chunks of 64 KiB more than any send buffer takes.
const SLICES_MAX: usize = 32;

#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(super) struct Socket {
    stream: Stream,
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
    /// The peer writes header and body apart and waits for our ACK in between.
    splits_writes: bool,
}

pub(super) enum Received {
    Bytes(usize),
    Nothing,
    End,
    Broken,
}

pub(super) enum Flushed {
    Done,
    Blocked,
    Broken,
}

impl Socket {
    pub(super) fn new(
        mut stream: Stream,
        key: ConnectionKey,
        registry: &Registry,
    ) -> io::Result<Self> {
        stream.prepare()?;
        registry.register(stream.source(), Token(key.index()), Interest::READABLE)?;
        Ok(Self {
            stream,
            key,
            readable: false,
            peer_finished: false,
            listed: false,
            resumed: false,
            wants_writable: false,
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

    pub(super) fn note_resumed(&mut self) {
        self.resumed = true;
    }

    /// Returns whether it has to be put into the ready list.
    pub(super) fn enlist(&mut self) -> bool {
        !std::mem::replace(&mut self.listed, true)
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
                self.readable = bytes == buffer.len() || self.peer_finished;
                Received::Bytes(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Received::Nothing
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Received::Nothing,
            Err(_) => {
                self.readable = false;
                Received::Broken
            }
        }
    }

    /// A length prefix came alone: its body follows once the prefix is acknowledged, which
    /// the kernel would put off for 40 ms.
    pub(super) fn expect_split_writes(&mut self) {
        self.splits_writes = true;
        self.acknowledge_at_once();
    }

    fn acknowledge_at_once(&self) {
        if let Stream::Tcp(stream) = &self.stream {
            set_quickack(&SockRef::from(stream), true);
        }
    }

    /// Sends what the broker has for this connection, in one `writev` where it fits.
    pub(super) fn flush(&mut self, broker: &mut Broker, registry: &Registry) -> Flushed {
        loop {
            let mut slices: SmallVec<[IoSlice<'_>; SLICES_MAX]> = SmallVec::new();
            slices.extend(broker.output(self.key).take(SLICES_MAX).map(IoSlice::new));
            let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
            let sent = match (wanted, self.stream.write(&slices)) {
                (0, _) => 0,
                (_, Ok(sent)) => sent,
                (_, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => 0,
                (_, Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                (_, Err(_)) => return Flushed::Broken,
            };
            drop(slices);
            broker.transmitted(self.key, sent);
            if sent < wanted {
                return self.want_writable(true, registry, Flushed::Blocked);
            }
            if broker.output(self.key).next().is_none() {
                if self.splits_writes && wanted > 0 {
                    // Sending has switched the kernel back to delayed acknowledgements.
                    self.acknowledge_at_once();
                }
                return self.want_writable(false, registry, Flushed::Done);
            }
        }
    }

    /// Asks for writability after a short write only: on Unix sockets it would otherwise
    /// wake the loop for every message.
    fn want_writable(&mut self, wants: bool, registry: &Registry, flushed: Flushed) -> Flushed {
        if wants == self.wants_writable {
            return flushed;
        }
        let interest =
            if wants { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let token = Token(self.key.index());
        match registry.reregister(self.stream.source(), token, interest) {
            Ok(()) => {
                self.wants_writable = wants;
                flushed
            }
            Err(_) => Flushed::Broken,
        }
    }

    /// Shuts the write side. What still comes in is read and dropped until the peer ends.
    pub(super) fn finish_write(&mut self) {
        // If it is shut already, the next read says so.
        let _ = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
        self.readable = true;
    }
}

impl Stream {
    fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                let socket = SockRef::from(stream);
                set_quickack(&socket, false);
                socket.set_send_buffer_size(TCP_SEND_BUFFER_BYTES)
            }
            Self::Unix(stream) => {
                SockRef::from(stream).set_send_buffer_size(UNIX_SEND_BUFFER_BYTES)
            }
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match (self, slices) {
            (_, []) => Ok(0),
            (Self::Tcp(stream), [slice]) => stream.write(slice),
            (Self::Unix(stream), [slice]) => stream.write(slice),
            (Self::Tcp(stream), slices) => stream.write_vectored(slices),
            (Self::Unix(stream), slices) => stream.write_vectored(slices),
        }
    }
}

/// Whether the kernel acknowledges at once, or waits for an answer to send along.
///
/// A connection starts without: who writes header and body apart then waits with the body
/// of its very first message, and shows its habit. Others do not wait and see no difference.
/// Only a hint: without it a peer is slow, not wrong.
#[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "Linux alone has it"))]
pub(super) fn set_quickack(socket: &SockRef<'_>, enabled: bool) {
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_quickack(enabled);
}
