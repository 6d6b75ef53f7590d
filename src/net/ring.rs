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

    // Inlined, it would keep the compiler from inlining the read of a plain socket, which each message passes.
    #[inline(never)]
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

    // As above.
    #[inline(never)]
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::IoSliceMut;
    use std::os::fd::OwnedFd;
    use std::os::unix::net;
    use std::time::Duration;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::super::mio_system::MioSystem;
    use super::super::stream::SocketStream;
    use super::super::system::{Event, Stream, System};
    use super::*;

    const RING_BYTES: usize = 4_096;
    const TOKEN: usize = 3;
    const HANG: Duration = Duration::from_secs(60);

    fn stream(system: &mut MioSystem) -> (SocketStream, net::UnixStream) {
        let (ours, theirs) = net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut stream = SocketStream::unix(UnixStream::from_std(ours));
        system.watch(&mut stream, TOKEN).unwrap();
        let taken = system.share(&mut stream, TOKEN, RING_BYTES).unwrap();
        assert!(taken >= 2 * RING_BYTES);
        (stream, theirs)
    }

    /// Reads what is there, and the descriptors that come along.
    fn receive(socket: &net::UnixStream, bytes: &mut Vec<u8>, descriptors: &mut Vec<OwnedFd>) {
        let mut buffer = vec![0; 10_000];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut along = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let Ok(got) = recvmsg(socket, &mut slices, &mut along, RecvFlags::CMSG_CLOEXEC) else {
            return;
        };
        for message in along.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        bytes.extend_from_slice(&buffer[..got.bytes]);
    }

    fn open(descriptors: Vec<OwnedFd>, socket: &net::UnixStream) -> End {
        let [memory, to_server, to_client] = descriptors.try_into().expect("three descriptors");
        End::open(Descriptors { memory, to_server, to_client }, RING_BYTES, socket).unwrap()
    }

    /// Goes over at once, and returns the client's end.
    fn turned(system: &mut MioSystem) -> (SocketStream, net::UnixStream, End) {
        let (mut stream, theirs) = stream(system);
        stream.turn_over(0, 6);
        assert_eq!(stream.write_one(b"answer").unwrap(), 6);
        let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
        receive(&theirs, &mut bytes, &mut descriptors);
        assert_eq!(bytes, b"answer");
        let end = open(descriptors, &theirs);
        (stream, theirs, end)
    }

    fn poll(system: &mut MioSystem, timeout: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        system.poll(&mut events, Some(timeout)).unwrap();
        events
    }

    /// The kernel takes the queue in pieces, wherever they end.
    #[test]
    fn the_answer_is_the_last_on_the_socket_and_brings_the_descriptors_however_writes_are_cut() {
        for before_bytes in [0, 1, 100, 1 << 20] {
            let mut system = MioSystem::new(16).unwrap();
            let (mut stream, theirs) = stream(&mut system);
            stream.turn_over(before_bytes, 6);
            let (before, behind) = (vec![b'b'; before_bytes], vec![b'r'; 1_000]);
            let queue = [&before[..], b"ans", b"wer", &behind[..]].concat();
            let (mut sent, mut bytes, mut descriptors) = (0, Vec::new(), Vec::new());
            while sent < queue.len() {
                // Slices that begin and end anywhere.
                let middle = sent + (queue.len() - sent) / 3;
                let slices = [IoSlice::new(&queue[sent..middle]), IoSlice::new(&queue[middle..])];
                match stream.write(&slices) {
                    Ok(taken) => sent += taken,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
                receive(&theirs, &mut bytes, &mut descriptors);
            }
            while bytes.len() < before_bytes + 6 {
                receive(&theirs, &mut bytes, &mut descriptors);
            }
            assert_eq!(bytes, [&before[..], b"answer"].concat());
            let mut end = open(descriptors, &theirs);
            let mut ring = [0; 2 * RING_BYTES];
            assert_eq!(end.read(&mut ring).unwrap(), 1_000);
            assert_eq!(ring[..1_000], behind);
        }
    }

    #[test]
    fn a_sleeping_loop_is_woken_by_bytes_and_by_room() {
        let mut system = MioSystem::new(16).unwrap();
        let (mut stream, _theirs, mut end) = turned(&mut system);
        // The registration of the socket and the first look are over.
        poll(&mut system, Duration::ZERO);
        let mut buffer = [0; 64];
        let kind = |result: io::Result<usize>| result.unwrap_err().kind();
        assert_eq!(kind(stream.read(&mut buffer)), io::ErrorKind::WouldBlock);
        poll(&mut system, Duration::ZERO);
        assert!(!system.is_awake());
        end.write(&[IoSlice::new(b"bytes")]).unwrap();
        let events = poll(&mut system, HANG);
        assert!(events.iter().any(|event| event.token == TOKEN && event.readable), "{events:?}");
        // Left unread, it keeps nobody awake, and room is reported all the same.
        let full = vec![b'f'; 2 * RING_BYTES];
        assert_eq!(stream.write_one(&full).unwrap(), RING_BYTES);
        system.watch_writable(&mut stream, TOKEN, true).unwrap();
        assert_eq!(poll(&mut system, Duration::from_millis(20)), []);
        assert_eq!(end.read(&mut vec![0; 2 * RING_BYTES]).unwrap(), RING_BYTES);
        let events = poll(&mut system, HANG);
        assert!(events.iter().any(|event| event.token == TOKEN && event.writable), "{events:?}");
        assert_eq!(stream.read(&mut buffer).unwrap(), 5);
    }

    #[test]
    fn a_spinning_loop_finds_bytes_without_the_kernel_and_sockets_in_bounded_looks() {
        let mut system = MioSystem::new(16).unwrap();
        let (mut stream, _theirs, mut end) = turned(&mut system);
        poll(&mut system, Duration::ZERO);
        let _ = stream.read(&mut [0; 64]);
        let wake = system.waker();
        wake();
        let mut looks = 0;
        let mut events = Vec::new();
        while !events.iter().any(|event: &Event| event.token == super::super::system::WAKER) {
            end.write(&[IoSlice::new(b"x")]).unwrap();
            events.clear();
            system.spin(&mut events).unwrap();
            let _ = stream.read(&mut [0; 64]);
            looks += 1;
            assert!(looks <= super::super::rings::PASSED_OVER_MAX, "sockets starve");
        }
    }

    #[test]
    fn the_end_of_the_socket_is_read_behind_the_ring_even_if_it_came_before() {
        let mut system = MioSystem::new(16).unwrap();
        let (mut stream, theirs, mut end) = turned(&mut system);
        end.write(&[IoSlice::new(b"last")]).unwrap();
        drop(theirs);
        let mut buffer = [0; 64];
        assert_eq!(stream.read(&mut buffer).unwrap(), 4);
        assert!(stream.holds_more());
        assert_eq!(stream.read(&mut buffer).unwrap(), 0);
        assert_eq!(stream.read(&mut buffer).unwrap(), 0);
        let events = poll(&mut system, HANG);
        assert!(events.iter().any(|event| event.finished), "{events:?}");
        let error = stream.write_one(b"nobody reads it").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    /// A connection that is held back is not read, so the write that waits for room is what finds the end.
    #[test]
    fn a_write_that_waits_for_room_is_tried_again_when_the_peer_is_gone() {
        let mut system = MioSystem::new(16).unwrap();
        let (mut stream, theirs, _end) = turned(&mut system);
        let full = vec![b'f'; 2 * RING_BYTES];
        assert_eq!(stream.write_one(&full).unwrap(), RING_BYTES);
        system.watch_writable(&mut stream, TOKEN, true).unwrap();
        poll(&mut system, Duration::ZERO);
        drop(theirs);
        let events = poll(&mut system, HANG);
        assert!(events.iter().any(|event| event.token == TOKEN && event.writable), "{events:?}");
        assert_eq!(stream.write_one(&full).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    /// The peer keeps the descriptor on which the loop slept, and may use it as long as it likes.
    #[test]
    fn the_descriptor_of_a_closed_connection_is_not_watched_any_more() {
        let mut system = MioSystem::new(16).unwrap();
        let (stream, _theirs, mut end) = turned(&mut system);
        poll(&mut system, Duration::ZERO);
        system.forget(TOKEN);
        drop(stream);
        end.write(&[IoSlice::new(b"nobody is there")]).unwrap();
        // An event of nobody's would still end the sleep.
        let (began, sleep) = (std::time::Instant::now(), Duration::from_millis(20));
        assert_eq!(poll(&mut system, sleep), []);
        assert!(began.elapsed() >= sleep, "it was woken");
    }

    #[test]
    fn only_unix_sockets_share_memory_and_only_once() {
        let mut system = MioSystem::new(16).unwrap();
        let (mut stream, _theirs) = stream(&mut system);
        let error = system.share(&mut stream, TOKEN, RING_BYTES).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
