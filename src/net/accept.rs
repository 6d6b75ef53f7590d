//! Accepting from all listeners, without ever giving up.

use std::io;
use std::time::Duration;

use super::system::System;

/// After an accept error that repeating cannot mend at once.
const RETRY_AFTER: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Listeners<S: System> {
    open: Vec<Watched<S::Listener>>,
    /// A descriptor held back: when there are no others left, it is given up for as long as
    /// it takes to accept a connection and close it.
    spare: Option<S::Spare>,
    retry_at: Option<Duration>,
}

#[derive(Debug)]
struct Watched<L> {
    listener: L,
    /// The kernel reported connections, and no accept has come to their end yet.
    ready: bool,
}

pub(super) enum Accepted<T> {
    Stream(T),
    /// There was no descriptor for it, so it was closed.
    Shed,
    Nothing,
}

impl<S: System> Listeners<S> {
    pub(super) fn new(listeners: Vec<S::Listener>, system: &mut S) -> io::Result<Self> {
        let mut open = Vec::new();
        for (at, mut listener) in listeners.into_iter().enumerate() {
            system.watch_listener(&mut listener, token(at))?;
            open.push(Watched { listener, ready: false });
        }
        Ok(Self { open, spare: system.spare(), retry_at: None })
    }

    /// Takes note of an event. Returns whether the token is a listener's.
    pub(super) fn note_ready(&mut self, event: usize) -> bool {
        let at = (0..self.open.len()).find(|at| token(*at) == event);
        if let Some(at) = at {
            self.open[at].ready = true;
        }
        at.is_some()
    }

    /// Whether somebody waits who could be accepted at once.
    pub(super) fn has_backlog(&self) -> bool {
        self.retry_at.is_none() && self.open.iter().any(|watched| watched.ready)
    }

    /// When accepting is tried again after an error.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        self.retry_at
    }

    pub(super) fn accept(&mut self, system: &mut S, now: Duration) -> Accepted<S::Stream> {
        if self.retry_at.is_some_and(|at| now < at) {
            return Accepted::Nothing;
        }
        self.retry_at = None;
        while let Some(watched) = self.open.iter_mut().find(|watched| watched.ready) {
            match system.accept(&mut watched.listener) {
                Ok(stream) => return Accepted::Stream(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => watched.ready = false,
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) if is_out_of_descriptors(&error) => return self.shed(system, now),
                // Out of memory, or a firewall: it may pass.
                Err(_) => {
                    self.retry_at = Some(now + RETRY_AFTER);
                    return Accepted::Nothing;
                }
            }
        }
        Accepted::Nothing
    }

    /// Accepts one connection at the cost of the spare descriptor, and closes it.
    fn shed(&mut self, system: &mut S, now: Duration) -> Accepted<S::Stream> {
        drop(self.spare.take());
        let ready = self.open.iter_mut().find(|watched| watched.ready);
        let shed = ready.is_some_and(|watched| system.accept(&mut watched.listener).is_ok());
        self.spare = system.spare();
        if shed && self.spare.is_some() {
            Accepted::Shed
        } else {
            // Somebody else took the descriptor; descriptors come back as connections close.
            self.retry_at = Some(now + RETRY_AFTER);
            Accepted::Nothing
        }
    }

    /// Stops listening: the kernel refuses from here on, and a Unix socket's path is free.
    pub(super) fn close(&mut self) {
        self.open.clear();
        self.retry_at = None;
    }
}

/// Below the waker's token, far above any connection's.
fn token(at: usize) -> usize {
    super::WAKER - 1 - at
}

/// The connection broke before it was accepted: the next one may be well.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    // EMFILE and ENFILE have no kind of their own.
    matches!(error.raw_os_error(), Some(23 | 24))
}
