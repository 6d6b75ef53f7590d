//! One side of a connection: the ring it reads, the ring it writes, and how both sides sleep.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::Broken;

/// What the server sends to the client, in this order. They are closed when they are dropped.
#[derive(Debug)]
pub struct Descriptors {
    /// The memory of both rings.
    pub memory: OwnedFd,
    /// Wakes the server up.
    pub to_server: OwnedFd,
    /// Wakes the client up.
    pub to_client: OwnedFd,
}

/// One side of a connection: it writes into one ring and reads from the other.
#[derive(Debug)]
pub struct End {
    watch: Watch,
}

impl End {
    /// Makes the memory with two empty rings of so many bytes each, as the server. The descriptors are
    /// for the client, and can be dropped once they are sent.
    ///
    /// # Errors
    /// That of the system if it has no memory or no descriptor left; [`io::ErrorKind::InvalidInput`] if
    /// rings cannot have this size, [`io::ErrorKind::Unsupported`] where there is no such memory.
    pub fn create(ring_bytes: usize) -> io::Result<(Self, Descriptors)> {
        todo!("{ring_bytes}")
    }

    /// Opens the rings that a server has made, as the client.
    ///
    /// # Errors
    /// As [`create`](Self::create), and [`io::ErrorKind::InvalidData`] if the memory has another size or
    /// can still be given another size, which would end this process with SIGBUS.
    pub fn open(descriptors: Descriptors, ring_bytes: usize) -> io::Result<Self> {
        let Descriptors { memory, to_server, to_client } = descriptors;
        todo!("{ring_bytes} {memory:?} {to_server:?} {to_client:?}")
    }

    /// Returns the bytes of memory that both rings take together, pages for their indices included.
    pub const fn memory_bytes(ring_bytes: usize) -> usize {
        4096 + 2 * ring_bytes
    }

    /// Reads bytes that have arrived; zero if there are none. If they do not fill the room, none are
    /// left. Wakes the other side up if it waits for room.
    ///
    /// # Errors
    /// [`Broken`], after which this end is of no use.
    pub fn read(&mut self, room: &mut [u8]) -> Result<usize, Broken> {
        todo!("{}", room.len())
    }

    /// Writes as much of the slices as there is room for, and wakes the other side up if it sleeps. After
    /// a short write, [`Watch::is_ready`] is true once there is room again.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&mut self, slices: &[IoSlice<'_>]) -> Result<usize, Broken> {
        todo!("{}", slices.len())
    }

    /// Returns whether there are bytes to read; also if the next read finds that the ring is broken.
    pub fn has_bytes(&self) -> bool {
        todo!()
    }

    /// Returns how many bytes can be written at once.
    pub fn room(&self) -> usize {
        todo!()
    }

    /// Returns what an event loop keeps of this end.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }
}

/// What an event loop needs of an [`End`] that somebody else reads and writes: whether there is
/// something to do, and a descriptor to sleep on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watch {
    own: Arc<OwnedFd>,
}

impl Watch {
    /// Returns whether there are bytes to read, or room after a short write. Takes no system call.
    pub fn is_ready(&self) -> bool {
        todo!()
    }

    /// Tells the other side that this one sleeps, and looks again. Returns false if there is something to
    /// do, and this side must not sleep.
    pub fn sleep(&self) -> bool {
        todo!()
    }

    /// Ends a sleep: the other side need not wake this one up. Not needed after [`sleep`](Self::sleep)
    /// has returned false.
    pub fn awake(&self) {
        todo!()
    }
}

/// Becomes readable when the other side ends a sleep. An event loop watches it by edge and never reads
/// it.
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }
}
