//! Opens links to other servers: connections that the process makes to its own server. Other threads open
//! some, and the broker itself opens others.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::stream::SocketStream;

/// Makes the streams of links that the broker opens itself, and gives their other ends away, with the
/// application of each.
pub(super) struct Attacher<T>(Option<Attach<T>>);

type Attach<T> = Box<dyn FnMut(&str) -> io::Result<T> + Send>;

impl<T> fmt::Debug for Attacher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attacher").field("is_set", &self.0.is_some()).finish()
    }
}

impl<T> Default for Attacher<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Attacher<T> {
    #[cfg_attr(
        not(any(test, feature = "nats", feature = "simulation")),
        expect(dead_code, reason = "only who joins others has links")
    )]
    pub(super) fn set(&mut self, attach: impl FnMut(&str) -> io::Result<T> + Send + 'static) {
        self.0 = Some(Box::new(attach));
    }

    #[cold]
    pub(super) fn attach(&mut self, application: &str) -> io::Result<T> {
        self.0
            .as_mut()
            .map_or(Err(io::ErrorKind::NotConnected.into()), |attach| attach(application))
    }
}

/// The stream of a link, and its other end, which blocks.
pub(super) fn pair() -> io::Result<(SocketStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((SocketStream::unix(mio::net::UnixStream::from_std(ours)), theirs))
}

/// Links that were opened and that the loop has not taken yet: the loop's side.
#[derive(Debug)]
pub(super) struct OpenedLinks<T>(Arc<Opened<T>>);

#[derive(Debug)]
struct Opened<T> {
    /// There are some, so that the loop need not look otherwise.
    are_any: AtomicBool,
    /// `None` once the loop has ended.
    streams: Mutex<Option<Vec<T>>>,
}

impl<T> OpenedLinks<T> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Opened {
            are_any: AtomicBool::new(false),
            streams: Mutex::new(Some(Vec::new())),
        }))
    }

    #[inline]
    pub(super) fn are_any(&self) -> bool {
        self.0.are_any.load(Ordering::Acquire)
    }

    #[cold]
    pub(super) fn take(&self) -> Vec<T> {
        self.0.are_any.store(false, Ordering::Release);
        self.0.change(|streams| streams.as_mut().map(std::mem::take)).unwrap_or_default()
    }
}

impl<T> Drop for OpenedLinks<T> {
    fn drop(&mut self) {
        self.0.change(Option::take);
    }
}

impl<T> Opened<T> {
    fn change<R>(&self, change: impl FnOnce(&mut Option<Vec<T>>) -> R) -> R {
        change(&mut self.streams.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Opens links from any thread. They are connections with [`Peer::Link`](crate::Peer::Link), which see.
#[derive(Clone)]
pub(crate) struct LinkOpener {
    opened: Arc<Opened<SocketStream>>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for LinkOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkOpener")
    }
}

impl LinkOpener {
    pub(super) fn new(
        opened: &OpenedLinks<SocketStream>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self { opened: opened.0.clone(), wake: Arc::new(wake) }
    }

    /// Opens a link, and returns its other end, which speaks as a client does: first a connect, whose
    /// `connection_id` begins with `$link/`. What is written to it is read from the loop's next turn on.
    ///
    /// # Errors
    /// If the process has no descriptors left, or the server has ended.
    pub(crate) fn open(&self) -> io::Result<UnixStream> {
        let (stream, theirs) = pair()?;
        let is_open = self
            .opened
            .change(|streams| streams.as_mut().map(|streams| streams.push(stream)).is_some());
        if !is_open {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.opened.are_any.store(true, Ordering::Release);
        (self.wake)();
        Ok(theirs)
    }
}
