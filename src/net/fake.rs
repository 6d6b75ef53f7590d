//! A system of which a test sets each answer, for parts of the loop that are tested without it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use super::system::{Event, Stream, System};
use crate::broker::Peer;

#[derive(Debug, Default)]
pub(super) struct Fake {
    pub(super) monotonic: Cell<Duration>,
    pub(super) wall_clock: Cell<Duration>,
    /// How often the wall clock was read.
    pub(super) wall_reads: Cell<usize>,
    /// Whether there is a reserve descriptor.
    pub(super) has_spare: bool,
}

/// A listener, and what its next accepts return. Then nobody waits.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pub(super) next: VecDeque<io::Result<()>>,
    pub(super) has_handshakes: bool,
    pub(super) asked: usize,
}

#[derive(Debug)]
pub(super) struct Nothing;

impl System for Fake {
    type Listener = Backlog;
    type Stream = Nothing;
    type Spare = ();

    fn poll(&mut self, _: &mut Vec<Event>, _: Option<Duration>) -> io::Result<bool> {
        Ok(false)
    }

    fn watch_listener(&mut self, _: &mut Backlog, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn accept(&mut self, listener: &mut Backlog) -> io::Result<(Nothing, Peer)> {
        listener.asked += 1;
        let next = listener.next.pop_front();
        next.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
            .map(|()| (Nothing, Peer::Unknown))
    }

    fn attach(&mut self, _: &str) -> io::Result<Nothing> {
        Ok(Nothing)
    }

    fn has_handshakes(listener: &Backlog) -> bool {
        listener.has_handshakes
    }

    fn spare(&mut self) -> Option<()> {
        self.has_spare.then_some(())
    }

    fn watch(&mut self, _: &mut Nothing, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn watch_writable(&mut self, _: &mut Nothing, _: usize, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn share(&mut self, _: &mut Nothing, _: usize, _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn monotonic(&self) -> Duration {
        self.monotonic.get()
    }

    fn wall_clock(&self) -> Duration {
        self.wall_reads.set(self.wall_reads.get() + 1);
        self.wall_clock.get()
    }
}

impl Stream for Nothing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn write(&mut self, _: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(0)
    }

    fn shutdown_write(&mut self) {}

    fn acknowledge_at_once(&mut self) {}
}
