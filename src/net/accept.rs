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

#[cfg(test)]
mod tests {
    use super::super::fake::{Backlog, Fake};
    use super::*;

    /// Listeners, each of whose backlogs is ready.
    fn ready(system: &mut Fake, backlogs: Vec<Backlog>) -> Listeners<Fake> {
        let count = backlogs.len();
        let mut listeners = Listeners::new(backlogs, system).unwrap();
        assert!((0..count).all(|at| listeners.note_ready(token(at))));
        listeners
    }

    fn failing(error: Errno) -> Backlog {
        let next = (0..100).map(|_| Err(error.into())).collect();
        Backlog { next, ..Backlog::default() }
    }

    fn asked(listeners: &Listeners<Fake>) -> Vec<usize> {
        listeners.open.iter().map(|watched| watched.listener.asked).collect()
    }

    #[test]
    fn a_listener_that_fails_rests_and_the_others_go_on() {
        let mut system = Fake { has_spare: true, ..Fake::default() };
        for error in [Errno::NOMEM, Errno::NOBUFS, Errno::PERM] {
            let works = Backlog { next: [Ok(()), Ok(())].into(), ..Backlog::default() };
            let mut listeners = ready(&mut system, vec![failing(error), works]);
            let now = Duration::from_secs(9);
            for _ in 0..2 {
                let accepted = listeners.accept(&mut system, now, true);
                assert!(matches!(accepted, Accepted::Stream(..)));
            }
            for _ in 0..10 {
                let accepted = listeners.accept(&mut system, now + RETRY_AFTER / 2, true);
                assert!(matches!(accepted, Accepted::Nothing));
            }
            assert_eq!(asked(&listeners), [1, 3], "{error}");
            assert!(!listeners.has_backlog(), "the loop sleeps until it is tried again");
            assert_eq!(listeners.retry_at(), Some(now + RETRY_AFTER));
            listeners.accept(&mut system, now + RETRY_AFTER, true);
            assert_eq!(asked(&listeners), [2, 3], "{error}");
            assert_eq!(listeners.retry_at(), Some(now + 2 * RETRY_AFTER));
        }
    }

    #[test]
    fn a_connection_that_broke_costs_nobody_time() {
        let mut system = Fake { has_spare: true, ..Fake::default() };
        for error in [Errno::CONNABORTED, Errno::CONNRESET, Errno::INTR] {
            let next = [Err(error.into()), Ok(())].into();
            let mut listeners = ready(&mut system, vec![Backlog { next, ..Backlog::default() }]);
            assert!(matches!(
                listeners.accept(&mut system, Duration::ZERO, true),
                Accepted::Failed
            ));
            assert!(listeners.has_backlog() && listeners.retry_at().is_none());
            assert!(matches!(
                listeners.accept(&mut system, Duration::ZERO, true),
                Accepted::Stream(..)
            ));
        }
    }

    #[test]
    fn without_descriptors_the_spare_one_closes_whoever_waits_and_all_listeners_rest() {
        for has_spare in [true, false] {
            let mut system = Fake { has_spare: true, ..Fake::default() };
            let next = || [Err(Errno::MFILE.into()), Ok(())].into();
            let backlogs = [(); 2].map(|()| Backlog { next: next(), ..Backlog::default() });
            let mut listeners = ready(&mut system, backlogs.into());
            system.has_spare = has_spare;
            let accepted = listeners.accept(&mut system, Duration::ZERO, true);
            assert!(matches!(accepted, Accepted::Shed));
            assert_eq!(asked(&listeners), [2, 0]);
            // Another thread may take the descriptor that the shed connection gave back.
            let retry_at = (!has_spare).then_some(RETRY_AFTER);
            assert_eq!((listeners.has_backlog(), listeners.retry_at()), (has_spare, retry_at));
        }
    }

    #[test]
    fn while_handshakes_wait_no_other_is_begun() {
        let mut system = Fake::default();
        let backlog = |has_handshakes| {
            let next = [Ok(()), Ok(())].into();
            Backlog { next, has_handshakes, ..Backlog::default() }
        };
        let mut listeners = ready(&mut system, vec![backlog(true), backlog(false)]);
        for _ in 0..3 {
            listeners.accept(&mut system, Duration::ZERO, false);
        }
        assert_eq!(asked(&listeners), [0, 3]);
        assert!(listeners.has_backlog(), "it is asked again in the next turn");
        listeners.accept(&mut system, Duration::ZERO, true);
        assert_eq!(asked(&listeners), [1, 3]);
    }
}
