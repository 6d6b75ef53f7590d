//! Accepts connections from all listeners in turn. No error stops it for good.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::system::{System, WAKER};
use crate::branches::{self, Branch};
use crate::broker::Peer;

/// The pause after an accept error that an immediate retry would only repeat.
const RETRY_AFTER: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Listeners<S: System> {
    open: Vec<Watched<S::Listener>>,
    /// Some of them may be ready. In most turns none is, and then none is looked at.
    any_ready: bool,
    /// The listener that is asked first: the one after the last that accepted, so that they take
    /// turns.
    next: usize,
    /// A reserve descriptor. When the process has no other left, it is closed for as long as it
    /// takes to accept a connection and close it.
    spare: Option<S::Spare>,
}

#[derive(Debug)]
struct Watched<L> {
    listener: L,
    /// The kernel reported connections, and no accept has returned `WouldBlock` since.
    ready: bool,
    /// An accept has failed, and the next one waits until then.
    retry_at: Option<Duration>,
}

pub(super) enum Accepted<T> {
    Stream(T, Peer),
    /// The process had no descriptor for the connection, so the connection was closed.
    Shed,
    /// The connection broke before it was accepted.
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
        Ok(Self { open, any_ready: false, next: 0, spare: system.spare() })
    }

    /// Records an event. Returns whether the token is a listener's.
    #[inline]
    pub(super) fn note_ready(&mut self, event: usize) -> bool {
        let Some(watched) = self.open.get_mut(token(event)) else { return false };
        (watched.ready, self.any_ready) = (true, true);
        true
    }

    /// Returns whether a connection waits, to be accepted now or at the next retry.
    #[inline]
    pub(super) fn any_ready(&self) -> bool {
        self.any_ready
    }

    /// Returns whether a connection waits that can be accepted at once.
    #[inline]
    pub(super) fn has_backlog(&self) -> bool {
        self.any_ready
            && self.open.iter().any(|watched| watched.ready && watched.retry_at.is_none())
    }

    /// Returns the time of the next retry after an accept error.
    #[inline]
    pub(super) fn retry_at(&self) -> Option<Duration> {
        if !self.any_ready {
            return None;
        }
        self.open
            .iter()
            .filter(|watched| watched.ready)
            .filter_map(|watched| watched.retry_at)
            .min()
    }

    /// Accepts from the next listener that has a connection waiting. If `may_handshake` is false,
    /// it passes over listeners whose connections begin with a TLS handshake.
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
                // Memory is short, or a firewall refused: such errors may pass, and they concern
                // this listener alone.
                Err(error) => {
                    branches::note(Branch::AcceptFailed);
                    crate::trace::not_accepted(&error.to_string());
                    watched.retry_at = Some(now + RETRY_AFTER);
                    continue;
                }
            };
            self.next = at + 1;
            return accepted;
        }
        self.any_ready = self.open.iter().any(|watched| watched.ready);
        Accepted::Nothing
    }

    /// Accepts one connection at the cost of the spare descriptor, and closes it.
    fn shed(&mut self, at: usize, system: &mut S, now: Duration) -> Accepted<S::Stream> {
        drop(self.spare.take());
        let shed = system.accept(&mut self.open[at].listener).is_ok();
        self.spare = system.spare();
        if !shed || self.spare.is_none() {
            // Another thread took the descriptor. Descriptors come back as connections close.
            self.open.iter_mut().for_each(|each| each.retry_at = Some(now + RETRY_AFTER));
        }
        if shed { Accepted::Shed } else { Accepted::Nothing }
    }

    /// Stops listening. The kernel refuses connections from here on, and the path of a Unix socket
    /// is removed.
    pub(super) fn close(&mut self) {
        self.open.clear();
        self.any_ready = false;
    }
}

/// Returns the token of the listener at a position, and the position of the one with a token. Tokens
/// are below the waker's and far above any connection's.
fn token(at: usize) -> usize {
    (WAKER - 1).wrapping_sub(at)
}

/// Returns whether the error concerns one connection, which broke before it was accepted, so that
/// the next accept may succeed.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    // `io::ErrorKind` has no variants for these two.
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
