//! The same names for systems without rings: nothing can be made there.

use std::convert::Infallible;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::Broken;

/// The descriptors that the server sends to the client, in this order.
#[derive(Debug)]
pub struct Descriptors {
    /// The memory of both rings.
    pub memory: OwnedFd,
    /// Wakes the server up.
    pub to_server: OwnedFd,
    /// Wakes the client up.
    pub to_client: OwnedFd,
}

/// One side of a connection; on this system there is none.
#[derive(Debug)]
pub struct End(Infallible);

#[expect(clippy::missing_errors_doc, reason = "nothing of it can be called, or all of it fails")]
impl End {
    /// Returns [`ErrorKind::Unsupported`].
    pub fn create(_ring_bytes: usize) -> io::Result<(Self, Descriptors)> {
        Err(ErrorKind::Unsupported.into())
    }

    /// Returns [`ErrorKind::Unsupported`].
    pub fn open(
        _descriptors: Descriptors,
        _ring_bytes: usize,
        _socket: impl AsFd,
    ) -> io::Result<Self> {
        Err(ErrorKind::Unsupported.into())
    }

    /// Returns the bytes of memory that both rings would take together.
    pub const fn memory_bytes(ring_bytes: usize) -> usize {
        2 * ring_bytes
    }

    /// Cannot be called.
    pub fn read(&mut self, _room: &mut [u8]) -> Result<usize, Broken> {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn write(&mut self, _slices: &[IoSlice<'_>]) -> Result<usize, Broken> {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn has_bytes(&self) -> bool {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn room(&self) -> usize {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn watch(&self) -> Watch {
        match self.0 {}
    }
}

/// The part that an event loop needs of an [`End`]; on this system there is none.
#[derive(Clone, Debug)]
pub struct Watch(Infallible);

#[expect(clippy::missing_errors_doc, reason = "nothing of it can be called")]
impl Watch {
    /// Cannot be called.
    pub fn has_bytes(&self) -> bool {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn is_ready(&self) -> bool {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn has_room_again(&self) -> bool {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn unread_bytes(&self) -> usize {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn sleep_for_bytes(&self) -> bool {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn sleep(&self) -> bool {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn awake(&self) {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn wait(&self, _timeout: Option<Duration>) -> io::Result<bool> {
        match self.0 {}
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }
}
