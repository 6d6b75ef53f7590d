//! One side of a connection: the ring it reads, the ring it writes, and how both sides sleep.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use crate::memory::Memory;
use crate::ring::{Common, Reader, Reading, Ring, Writer, Writing};
use crate::{Broken, is_ring_size};

#[cfg(test)]
mod tests;

/// The words of both rings come first, and take a page together.
const RINGS_START: usize = 4096;

/// The sources of the events of the client's descriptor.
const FROM_SERVER: u64 = 0;
const FROM_SOCKET: u64 = 1;

/// The descriptors that the server sends to the client, in this order. They are closed when they are dropped.
#[derive(Debug)]
pub struct Descriptors {
    /// The memory of both rings, a sealed memfd.
    pub memory: OwnedFd,
    /// An eventfd that the client writes to wake the server up.
    pub to_server: OwnedFd,
    /// An epoll instance that has an event when the server wakes the client up. The eventfd that it watches
    /// stays with the server: a client that had it could take its `O_NONBLOCK` away, which belongs to the
    /// open file and not to the descriptor, fill it, and so stop the server in its next write.
    pub to_client: OwnedFd,
}

/// One side of a connection: it writes into one ring and reads from the other.
#[derive(Debug)]
pub struct End {
    watch: Watch,
    reader: Reader<Link>,
    writer: Writer<Link>,
}

impl End {
    /// Makes the memory with two empty rings of so many bytes each, as the server. The descriptors are
    /// for the client, and can be dropped once they are sent.
    ///
    /// # Errors
    /// That of the system if it has no memory or no descriptor left; [`ErrorKind::InvalidInput`] if rings
    /// cannot have this size; [`ErrorKind::Unsupported`] where there is no such memory.
    pub fn create(ring_bytes: usize) -> io::Result<(Self, Descriptors)> {
        check_size(ring_bytes)?;
        let (memory, descriptor) = Memory::create(Self::memory_bytes(ring_bytes))?;
        let to_server = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let wakes_client = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let to_client = epoll::create(CreateFlags::CLOEXEC)?;
        let data = EventData::new_u64(FROM_SERVER);
        epoll::add(&to_client, &wakes_client, data, EventFlags::IN | EventFlags::ET)?;
        let own = to_server.try_clone()?;
        let [input, output] = rings(ring_bytes);
        let end = Self::new(Link { memory, peer: wakes_client }, own, input, output);
        Ok((end, Descriptors { memory: descriptor, to_server, to_client }))
    }

    /// Opens the rings that a server has made, as the client. The socket is that over which the descriptors
    /// came: a sleep ends with the connection, too.
    ///
    /// # Errors
    /// As [`create`](Self::create), and [`ErrorKind::InvalidData`] if the memory has another size or can still
    /// be given another size, which would end this process with SIGBUS.
    pub fn open(
        descriptors: Descriptors,
        ring_bytes: usize,
        socket: impl AsFd,
    ) -> io::Result<Self> {
        check_size(ring_bytes)?;
        let Descriptors { memory, to_server, to_client } = descriptors;
        let memory = Memory::open(&memory, Self::memory_bytes(ring_bytes))?;
        epoll::add(&to_client, socket, EventData::new_u64(FROM_SOCKET), EventFlags::IN)?;
        let [output, input] = rings(ring_bytes);
        Ok(Self::new(Link { memory, peer: to_server }, to_client, input, output))
    }

    fn new(link: Link, own: OwnedFd, input: Ring, output: Ring) -> Self {
        let link = Arc::new(link);
        let reading = Arc::new(Reading::new(Arc::clone(&link), input));
        let writing = Arc::new(Writing::new(link, output));
        Self {
            reader: Reader::new(Arc::clone(&reading)),
            writer: Writer::new(Arc::clone(&writing)),
            watch: Watch { reading, writing, own: own.into() },
        }
    }

    /// Returns the bytes of memory that both rings take together, with that of their indices.
    pub const fn memory_bytes(ring_bytes: usize) -> usize {
        RINGS_START + 2 * ring_bytes
    }

    /// Reads bytes that have arrived; zero if there are none. If they do not fill the room, none are
    /// left. Wakes the other side up if it waits for room.
    ///
    /// # Errors
    /// [`Broken`], after which this end is of no use.
    #[inline]
    pub fn read(&mut self, room: &mut [u8]) -> Result<usize, Broken> {
        self.watch.check()?;
        self.reader.read(room)
    }

    /// Writes as much of the slices as there is room for, and wakes the other side up if it sleeps. After
    /// a short write, [`Watch::is_ready`] is true once there is room again.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[inline]
    pub fn write(&mut self, slices: &[IoSlice<'_>]) -> Result<usize, Broken> {
        self.watch.check()?;
        self.writer.write(slices)
    }

    /// Returns whether there are bytes to read; also if the next read finds that the ring is broken.
    #[inline]
    pub fn has_bytes(&self) -> bool {
        self.watch.has_bytes()
    }

    /// Returns how many bytes can be written at once.
    pub fn room(&self) -> usize {
        self.watch.check().map_or(0, |()| self.watch.writing.room())
    }

    /// Returns what an event loop keeps of this end.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }
}

fn check_size(ring_bytes: usize) -> io::Result<()> {
    if is_ring_size(ring_bytes) {
        return Ok(());
    }
    let text = format!("rings have a power of two as their size, and not {ring_bytes} bytes");
    Err(io::Error::new(ErrorKind::InvalidInput, text))
}

/// Returns where the rings are: the one to the server, and the one to the client.
fn rings(ring_bytes: usize) -> [Ring; 2] {
    [0, 1].map(|at| Ring {
        words: at * Ring::WORDS_BYTES,
        start: RINGS_START + at * ring_bytes,
        bytes: ring_bytes,
    })
}

/// The part that an event loop needs of an [`End`] that somebody else reads and writes: whether there is
/// something to do, and a descriptor to sleep on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watch {
    reading: Arc<Reading<Link>>,
    writing: Arc<Writing<Link>>,
    own: Arc<OwnedFd>,
}

impl Watch {
    /// Fails in a forked child, which has nothing of the memory.
    #[inline]
    fn check(&self) -> Result<(), Broken> {
        if self.reading.common.memory.is_here() { Ok(()) } else { Err(Broken) }
    }

    /// As [`End::has_bytes`].
    #[inline]
    pub fn has_bytes(&self) -> bool {
        self.check().is_err() || self.reading.has_bytes()
    }

    /// Returns whether there are bytes to read, or room after a short write: half a ring, because less is not
    /// worth a turn. Takes no system call.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.has_bytes() || self.has_room_again()
    }

    /// Returns whether there is room again after a short write.
    pub fn has_room_again(&self) -> bool {
        self.check().is_err() || self.writing.has_room_again()
    }

    /// Returns how many bytes can be read.
    pub fn unread_bytes(&self) -> usize {
        self.check().map_or(0, |()| self.reading.unread_bytes())
    }

    /// Tells the other side that this one sleeps, and looks again. Returns false if there is something to
    /// do, and this side must not sleep.
    pub fn sleep(&self) -> bool {
        if !self.sleep_for_bytes() {
            return false;
        }
        if self.has_room_again() {
            self.awake();
            return false;
        }
        true
    }

    /// As [`sleep`](Self::sleep), but does not look for room. A short write has told the other side already
    /// that this one waits for room.
    pub fn sleep_for_bytes(&self) -> bool {
        if self.check().is_err() {
            return false;
        }
        self.reading.announce_sleep();
        if self.reading.has_bytes() {
            self.reading.end_sleep();
            return false;
        }
        true
    }

    /// Ends a sleep: the other side need not wake this one up. Not needed after [`sleep`](Self::sleep)
    /// has returned false.
    pub fn awake(&self) {
        if self.check().is_ok() {
            self.reading.end_sleep();
        }
    }

    /// Sleeps as the client, after [`sleep`](Self::sleep) has returned true, until the server ends that, the
    /// socket has something, or the time is over. May return early. Returns whether it was the socket.
    ///
    /// # Errors
    /// Those of the system: [`ErrorKind::Interrupted`] after a signal, and [`ErrorKind::InvalidInput`] at the
    /// server, whose descriptor is for an event loop.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        // A timeout that no clock can express is none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = Vec::with_capacity(2);
        epoll::wait(&self.own, rustix::buffer::spare_capacity(&mut events), timeout.as_ref())?;
        Ok(events.iter().any(|event| { event.data }.u64() == FROM_SOCKET))
    }
}

/// Becomes readable when the other side ends a sleep. An event loop watches it by edge and never reads
/// it.
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }
}

/// The memory, and the descriptor that wakes the other side up.
#[derive(Debug)]
struct Link {
    memory: Memory,
    peer: OwnedFd,
}

impl Common for Link {
    #[inline]
    fn load(&self, word: usize) -> u32 {
        self.memory.word(word).load(Ordering::Acquire)
    }

    #[inline]
    fn store(&self, word: usize, value: u32) {
        self.memory.word(word).store(value, Ordering::Release);
    }

    fn take(&self, word: usize) -> u32 {
        self.memory.word(word).swap(0, Ordering::AcqRel)
    }

    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline]
    fn copy_in(&self, at: usize, from: &[u8]) {
        self.memory.copy_in(at, from);
    }

    #[inline]
    fn copy_out(&self, at: usize, into: &mut [u8]) {
        self.memory.copy_out(at, into);
    }

    fn wake(&self) {
        // It fails only if it was woken so often before that nothing needs to be added.
        let _ = rustix::io::write(&self.peer, &1u64.to_ne_bytes());
    }
}
