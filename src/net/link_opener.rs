//! Opens links to other servers: connections that the process makes to its own server. Other threads open
//! some, and the broker itself opens others.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::stream::SocketStream;

/// Takes the other ends of links that the broker opens itself, with the application of each.
#[derive(Default)]
pub(super) struct Attached(Option<Take>);

type Take = Box<dyn FnMut(&str, UnixStream) + Send>;

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("is_set", &self.0.is_some()).finish()
    }
}

impl Attached {
    #[cfg(any(test, feature = "nats"))]
    pub(super) fn set(&mut self, take: impl FnMut(&str, UnixStream) + Send + 'static) {
        self.0 = Some(Box::new(take));
    }

    /// Makes a link. Returns the loop's end.
    #[cold]
    pub(super) fn attach(&mut self, application: &str) -> io::Result<SocketStream> {
        let take = self.0.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let (ours, theirs) = pair()?;
        take(application, theirs);
        Ok(ours)
    }
}

/// The stream of a link, and its other end, which blocks.
fn pair() -> io::Result<(SocketStream, UnixStream)> {
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
