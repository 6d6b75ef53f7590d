//! Accepting from all listeners, without ever giving up.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::system::{System, WAKER};
use crate::broker::Peer;

/// After an accept error that repeating cannot mend at once.
const RETRY_AFTER: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Listeners<S: System> {
    open: Vec<Watched<S::Listener>>,
    /// Behind the one that was used last, so that they take turns.
    next: usize,
    /// A descriptor held back: when there are no others left, it is given up for as long as
    /// it takes to accept a connection and close it.
    spare: Option<S::Spare>,
}

#[derive(Debug)]
struct Watched<L> {
    listener: L,
    /// The kernel reported connections, and no accept has come to their end yet.
    ready: bool,
    /// Accepting has failed, and is not tried again before.
    retry_at: Option<Duration>,
}

pub(super) enum Accepted<T> {
    Stream(T, Peer),
    /// There was no descriptor for it, so it was closed.
    Shed,
    /// It broke before it was accepted.
    Failed,
    Nothing,
}

impl<S: System> Listeners<S> {
    pub(super) fn new(listeners: Vec<S::Listener>, system: &mut S) -> io::Result<Self> {
        let mut open = Vec::new();
        for (at, mut listener) in listeners.into_iter().enumerate() {
            system.watch_listener(&mut listener, token(at))?;
            open.push(Watched { listener, ready: false, retry_at: None });
        }
        Ok(Self { open, next: 0, spare: system.spare() })
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
        self.open.iter().any(|watched| watched.ready && watched.retry_at.is_none())
    }

    /// When accepting is tried again after an error.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        self.open
            .iter()
            .filter(|watched| watched.ready)
            .filter_map(|watched| watched.retry_at)
            .min()
    }

    /// Accepts from the next listener where somebody waits; if `may_handshake` is false, not from
    /// those whose connections begin with a handshake.
    pub(super) fn accept(
        &mut self,
        system: &mut S,
        now: Duration,
        may_handshake: bool,
    ) -> Accepted<S::Stream> {
        for step in 0..self.open.len() {
            let at = (self.next + step) % self.open.len();
            let watched = &mut self.open[at];
            if !watched.ready {
                continue;
            }
            watched.retry_at = watched.retry_at.filter(|at| now < *at);
            let is_free = may_handshake || !S::has_handshakes(&watched.listener);
            if watched.retry_at.is_some() || !is_free {
                continue;
            }
            let accepted = match system.accept(&mut watched.listener) {
                Ok((stream, peer)) => Accepted::Stream(stream, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    watched.ready = false;
                    continue;
                }
                Err(error) if is_of_the_peer(&error) => Accepted::Failed,
                Err(error) if is_out_of_descriptors(&error) => self.shed(at, system, now),
                // Out of memory, or a firewall: it may pass, and it is this one's alone.
                Err(error) => {
                    crate::trace::not_accepted(&error.to_string());
                    watched.retry_at = Some(now + RETRY_AFTER);
                    continue;
                }
            };
            self.next = at + 1;
            return accepted;
        }
        Accepted::Nothing
    }

    /// Accepts one connection at the cost of the spare descriptor, and closes it.
    fn shed(&mut self, at: usize, system: &mut S, now: Duration) -> Accepted<S::Stream> {
        drop(self.spare.take());
        let shed = system.accept(&mut self.open[at].listener).is_ok();
        self.spare = system.spare();
        if !shed || self.spare.is_none() {
            // Somebody else took the descriptor; descriptors come back as connections close.
            self.open.iter_mut().for_each(|each| each.retry_at = Some(now + RETRY_AFTER));
        }
        if shed { Accepted::Shed } else { Accepted::Nothing }
    }

    /// Stops listening: the kernel refuses from here on, and a Unix socket's path is free.
    pub(super) fn close(&mut self) {
        self.open.clear();
    }
}

/// Below the waker's token, far above any connection's.
fn token(at: usize) -> usize {
    WAKER - 1 - at
}

/// The connection broke before it was accepted: the next one may be well.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    // These two have no kind of their own.
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
