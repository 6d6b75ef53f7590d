//! A connection on a Unix socket that goes over to shared memory.
//!
//! The answer to its request is the last that goes over the socket, and takes the descriptors along. From
//! then on the socket only tells of the peer's end.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use ipc_framework_rings::{Broken, Descriptors, End, Watch};
use mio::net::UnixStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use smallvec::SmallVec;

use super::rings::{Line, Watched};

/// The rings of a connection, and what still goes over the socket before them.
#[derive(Debug)]
pub(super) struct Ring {
    /// Dropped before the descriptor that it is about is closed.
    _registered: Registered,
    end: End,
    line: Arc<Line>,
    turning: Option<Turning>,
    /// The socket has ended.
    is_over: bool,
}

/// A connection whose answer is not sent yet.
#[derive(Debug)]
struct Turning {
    before_bytes: usize,
    answer_bytes: usize,
    /// Until the first bytes of the answer are sent.
    descriptors: Option<Descriptors>,
}

/// The entry of a ring in the event queue. The peer has the descriptor as well, so that closing it here
/// would leave the entry there.
#[derive(Debug)]
struct Registered {
    registry: Arc<Registry>,
    watch: Watch,
}

impl Registered {
    fn new(registry: Arc<Registry>, watch: Watch, token: Token) -> io::Result<Self> {
        let descriptor = watch.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE)?;
        Ok(Self { registry, watch })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // It fails only if the queue is gone.
        let _ = self.registry.deregister(&mut SourceFd(&self.watch.as_fd().as_raw_fd()));
    }
}

impl Watched for Watch {
    #[inline]
    fn is_ready(&self) -> bool {
        Watch::is_ready(self)
    }

    fn sleep(&self) -> bool {
        Watch::sleep(self)
    }

    fn awake(&self) {
        Watch::awake(self);
    }
}

/// The slices of one write that are cut to the bytes that go to one place.
type Cut<'a> = SmallVec<[IoSlice<'a>; 4]>;

impl Ring {
    /// Makes the rings. Until `turn_over` says where, the connection stays on the socket.
    pub(super) fn new(
        ring_bytes: usize,
        registry: Arc<Registry>,
        token: Token,
        watch: impl FnOnce(Watch) -> Arc<Line>,
    ) -> io::Result<Self> {
        let (end, descriptors) = End::create(ring_bytes)?;
        let registered = Registered::new(registry, end.watch(), token)?;
        let line = watch(end.watch());
        let turning =
            Turning { before_bytes: usize::MAX, answer_bytes: 0, descriptors: Some(descriptors) };
        Ok(Self { _registered: registered, end, line, turning: Some(turning), is_over: false })
    }

    /// Goes over to the rings after so many bytes, and those of the answer, which take the descriptors
    /// along.
    pub(super) fn turn_over(&mut self, before_bytes: usize, answer_bytes: usize) {
        if let Some(turning) = &mut self.turning {
            (turning.before_bytes, turning.answer_bytes) = (before_bytes, answer_bytes);
        }
    }

    /// Returns whether it is still on the socket.
    pub(super) fn is_turning(&self) -> bool {
        self.turning.is_some()
    }

    /// Returns whether a write would find room.
    pub(super) fn has_room(&self) -> bool {
        self.end.room() > 0
    }

    #[inline]
    pub(super) fn read(&mut self, socket: &mut UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
        if self.turning.is_some() {
            return read_while_turning(socket);
        }
        let bytes = self.end.read(buffer).map_err(broken)?;
        if bytes < buffer.len() {
            self.line.note_drained();
        }
        if bytes > 0 { Ok(bytes) } else { self.read_socket(socket, buffer) }
    }

    /// Looks at the socket, because the ring is empty.
    fn read_socket(&mut self, socket: &mut UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_over {
            return Ok(0);
        }
        if !self.line.socket_spoke() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match socket.read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.line.note_socket(false);
                return Err(error);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            // The end, an error, or a byte: each ends the connection. Bytes may have come into the ring
            // before that and after the look at it.
            Ok(_) | Err(_) => self.is_over = true,
        }
        self.end.read(buffer).map_err(broken)
    }

    #[inline]
    pub(super) fn write(
        &mut self,
        socket: &mut UnixStream,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        if self.turning.is_some() {
            return self.write_while_turning(socket, slices);
        }
        if self.line.is_hung_up() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.end.write(slices).map_err(broken)
    }

    #[cold]
    fn write_while_turning(
        &mut self,
        socket: &mut UnixStream,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let whole: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut done = 0;
        while done < whole {
            let Some(turning) = &mut self.turning else {
                let rest = cut(slices, done, whole);
                return Ok(done + self.end.write(&rest).map_err(broken)?);
            };
            let (left, is_answer) = match turning.before_bytes {
                0 => (&mut turning.answer_bytes, true),
                _ => (&mut turning.before_bytes, false),
            };
            let part = cut(slices, done, *left);
            let sent = match turning.descriptors.as_ref().filter(|_| is_answer) {
                Some(descriptors) => send_with(socket, &part, descriptors),
                None => socket.write_vectored(&part),
            };
            let bytes = match sent {
                Ok(bytes) => bytes,
                Err(error) if done == 0 => return Err(error),
                // What was sent counts, and the next write finds the error again.
                Err(_) => return Ok(done),
            };
            *left -= bytes;
            done += bytes;
            if is_answer && bytes > 0 {
                turning.descriptors = None;
                if turning.answer_bytes == 0 {
                    self.turning = None;
                    // An end that was reported earlier is not reported again.
                    self.line.note_socket(true);
                }
            }
        }
        Ok(done)
    }

    /// Returns whether the next read looks at the socket.
    pub(super) fn holds_more(&self) -> bool {
        self.line.socket_spoke()
    }
}

/// Reads the socket before the answer is sent. Only the end may come.
#[cold]
fn read_while_turning(socket: &mut UnixStream) -> io::Result<usize> {
    match socket.read(&mut [0])? {
        0 => Ok(0),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the peer has sent something behind 'share_memory' before its answer",
        )),
    }
}

fn broken(why: Broken) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Returns the slices without their first `skipped` bytes, and `bytes_max` of the rest at most.
fn cut<'a>(slices: &'a [IoSlice<'_>], mut skipped: usize, mut bytes_max: usize) -> Cut<'a> {
    let mut rest = Cut::new();
    for slice in slices {
        let from = skipped.min(slice.len());
        skipped -= from;
        let slice = &slice[from..];
        let slice = &slice[..slice.len().min(bytes_max)];
        bytes_max -= slice.len();
        if !slice.is_empty() {
            rest.push(IoSlice::new(slice));
        }
    }
    rest
}

/// Sends bytes with the descriptors, in the order that the protocol says.
fn send_with(
    socket: &UnixStream,
    slices: &[IoSlice<'_>],
    descriptors: &Descriptors,
) -> io::Result<usize> {
    let Descriptors { memory, to_server, to_client } = descriptors;
    let descriptors = [memory.as_fd(), to_server.as_fd(), to_client.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    let has_room = along.push(SendAncillaryMessage::ScmRights(&descriptors));
    debug_assert!(has_room, "the space is for three descriptors");
    // The standard library sends with this flag as well, where there is one.
    #[cfg(target_os = "linux")]
    let flags = SendFlags::NOSIGNAL;
    #[cfg(not(target_os = "linux"))]
    let flags = SendFlags::empty();
    Ok(sendmsg(socket, slices, &mut along, flags)?)
}
