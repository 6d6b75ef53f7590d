//! The rings of a connection that shares memory with its server, which are read and written as a socket is.
//! The socket itself only tells of the server's end.

use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc_framework_rings::{Broken, Descriptors, End, Watch};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use socket2::Socket as Inner;

/// Times that a reader which never sleeps looks at its ring before it looks at the clock.
const LOOKS: u32 = 32;
/// Times that it looks at the clock before it looks at the socket, which takes a system call.
const CLOCKS: u32 = 1024;
/// Writes between two looks at the socket: what is written into a ring that nobody reads is lost.
const WRITES: u32 = 64;

/// Descriptors that come do not go to programs that this one starts.
#[cfg(target_os = "linux")]
const CLOSED_ON_EXEC: RecvFlags = RecvFlags::CMSG_CLOEXEC;
/// Nobody asks for descriptors where there are no rings.
#[cfg(not(target_os = "linux"))]
const CLOSED_ON_EXEC: RecvFlags = RecvFlags::empty();

#[derive(Debug)]
pub(crate) struct Rings {
    /// Threads that write and the one that reads take turns, each for the time of a copy.
    locked: Mutex<Locked>,
    watch: Watch,
    /// How long a write waits for room; a write of `None` does not.
    write_timeout: Option<Duration>,
    /// How often a reader that never sleeps has looked at the clock.
    clocks: u32,
}

#[derive(Debug)]
struct Locked {
    end: End,
    /// Since the last look at the socket.
    writes: u32,
}

impl Rings {
    /// Opens what the server has sent.
    pub(super) fn open(
        socket: &Inner,
        descriptors: Descriptors,
        ring_bytes: usize,
        write_timeout: Option<Duration>,
    ) -> io::Result<Self> {
        let end = End::open(descriptors, ring_bytes, socket)?;
        let watch = end.watch();
        let locked = Mutex::new(Locked { end, writes: 0 });
        Ok(Self { locked, watch, write_timeout, clocks: 0 })
    }

    pub(super) fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write_timeout = timeout;
    }

    fn lock(&self) -> MutexGuard<'_, Locked> {
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is there, if there is something.
    fn take(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        let bytes = self.lock().end.read(room).map_err(broken)?;
        Ok((bytes > 0).then_some(bytes))
    }

    /// Reads what came before the end, or returns that.
    fn take_last(&self, room: &mut [u8], end: io::Result<usize>) -> io::Result<usize> {
        self.take(room)?.map_or(end, Ok)
    }

    /// Reads available bytes without waiting. If there are none, the server wakes this side up once there are.
    pub(super) fn try_read(&self, socket: &Inner, room: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(bytes) = self.take(room)? {
                return Ok(bytes);
            }
            // Old events are taken before the flag is set: one that comes after it is still to be seen.
            if self.watch.wait(Some(Duration::ZERO))?
                && let Some(end) = end_of(socket)
            {
                return self.take_last(room, end);
            }
            if self.watch.sleep_for_bytes() {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
    }

    /// Reads available bytes, and waits for them until the timeout.
    pub(super) fn read(
        &self,
        socket: &Inner,
        room: &mut [u8],
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        let mut deadline = None;
        loop {
            if let Some(bytes) = self.take(room)? {
                return Ok(bytes);
            }
            let left = left_until(&mut deadline, timeout);
            if !self.watch.sleep_for_bytes() {
                continue;
            }
            let woken = self.watch.wait(left);
            self.watch.awake();
            if woken? && let Some(end) = end_of(socket) {
                return self.take_last(room, end);
            }
            if left == Some(Duration::ZERO) {
                return self.take_last(room, Err(ErrorKind::WouldBlock.into()));
            }
        }
    }

    /// Reads available bytes, and looks for them a while without a system call.
    pub(super) fn spin(&mut self, socket: &Inner, room: &mut [u8]) -> io::Result<usize> {
        for _ in 0..LOOKS {
            if self.watch.has_bytes()
                && let Some(bytes) = self.take(room)?
            {
                self.clocks = 0;
                return Ok(bytes);
            }
            std::hint::spin_loop();
        }
        self.clocks += 1;
        if self.clocks >= CLOCKS {
            self.clocks = 0;
            if let Some(end) = end_of(socket) {
                return self.take_last(room, end);
            }
        }
        Err(ErrorKind::WouldBlock.into())
    }

    /// Writes as much as there is room for, and waits until there is some.
    pub(super) fn write(&self, socket: &Inner, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut deadline = None;
        loop {
            let mut locked = self.lock();
            locked.writes += 1;
            if locked.writes >= WRITES {
                locked.writes = 0;
                check_open(socket)?;
            }
            let bytes = locked.end.write(slices).map_err(broken)?;
            drop(locked);
            if bytes > 0 || slices.iter().all(|slice| slice.is_empty()) {
                return Ok(bytes);
            }
            if self.write_timeout.is_none() {
                return Err(ErrorKind::WouldBlock.into());
            }
            // The write has told the server that this side waits for room.
            while !self.watch.has_room_again() {
                let left = left_until(&mut deadline, self.write_timeout);
                match self.watch.wait(left) {
                    Ok(true) => check_open(socket)?,
                    Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                    _ => {}
                }
                if left == Some(Duration::ZERO) && !self.watch.has_room_again() {
                    return Err(ErrorKind::WouldBlock.into());
                }
            }
        }
    }

    /// Returns how many bytes nobody has read.
    pub(super) fn unread_bytes(&self) -> u64 {
        self.watch.unread_bytes() as u64
    }
}

/// Readable when there is something to read, room again, or the socket's end, once a read has found nothing.
impl AsFd for Rings {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

fn broken(why: Broken) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

/// Returns the time that is left of a timeout which begins with the first call.
fn left_until(deadline: &mut Option<Instant>, timeout: Option<Duration>) -> Option<Duration> {
    let timeout = timeout?;
    if deadline.is_none() {
        *deadline = Instant::now().checked_add(timeout);
        return Some(timeout);
    }
    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
}

/// Returns how the connection has ended, if it has: no bytes more, or an error.
fn end_of(socket: &Inner) -> Option<io::Result<usize>> {
    match rustix::net::recv(socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Some(Ok(0)),
        Ok(_) => {
            let text = "the server sent bytes over the socket, although both share memory";
            Some(Err(io::Error::new(ErrorKind::InvalidData, text)))
        }
        Err(Errno::WOULDBLOCK | Errno::INTR) => None,
        Err(error) => Some(Err(error.into())),
    }
}

fn check_open(socket: &Inner) -> io::Result<()> {
    match end_of(socket) {
        None => Ok(()),
        Some(Ok(_)) => Err(ErrorKind::BrokenPipe.into()),
        Some(Err(error)) => Err(error),
    }
}

/// Reads bytes of a socket and the descriptors that come along.
pub(super) fn receive(
    socket: &Inner,
    room: &mut [u8],
    came: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut along = RecvAncillaryBuffer::new(&mut space);
    let mut room = [io::IoSliceMut::new(room)];
    let received = rustix::net::recvmsg(socket, &mut room, &mut along, CLOSED_ON_EXEC)?;
    for message in along.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            came.extend(descriptors);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        // Some are missing, so what came is of no use.
        came.clear();
    }
    Ok(received.bytes)
}
