//! The way into the loop from other threads: closures over a `T` that run on the loop's thread.

#![cfg_attr(
    not(feature = "net"),
    allow(dead_code, reason = "other threads come in through `Handle`, which is part of `net`")
)]

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};

/// Payload bytes of other threads that may wait here. More is refused, for nothing else holds back a
/// thread that publishes faster than the loop can send.
pub(crate) const MAILBOX_BYTES_MAX: usize = 64 << 20;
/// Charged for each closure beside its payload.
const COMMAND_BYTES: usize = 256;

type Command<T> = Box<dyn FnOnce(&mut T) + Send>;
type Waker = Box<dyn Fn() + Send + Sync>;

/// The side that other threads hold.
pub(crate) struct Remote<T> {
    sender: Sender<(usize, Command<T>)>,
    waker: OnceLock<Waker>,
    /// The loop was woken and has not looked yet: one wake-up is enough.
    woken: AtomicBool,
    waiting_bytes: AtomicUsize,
    stopped: AtomicBool,
}

impl<T> Remote<T> {
    pub(crate) fn new() -> (Arc<Self>, Mailbox<T>) {
        let (sender, receiver) = channel();
        let remote = Arc::new(Self {
            sender,
            waker: OnceLock::new(),
            woken: AtomicBool::new(false),
            waiting_bytes: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        (remote.clone(), Mailbox { receiver: Some(receiver), remote })
    }

    /// Sets the function that interrupts the loop's sleep.
    pub(crate) fn set_waker(&self, waker: impl Fn() + Send + Sync + 'static) {
        // A broker has one loop and sets it once.
        let _ = self.waker.set(Box::new(waker));
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Returns whether there is room for a command that carries `payload_bytes`.
    pub(crate) fn has_room(&self, payload_bytes: usize) -> bool {
        let waiting = self.waiting_bytes.load(Ordering::Relaxed);
        waiting + payload_bytes + COMMAND_BYTES <= MAILBOX_BYTES_MAX
    }

    pub(crate) fn post(&self, command: impl FnOnce(&mut T) + Send + 'static) {
        self.post_sized(0, command);
    }

    pub(crate) fn post_sized(
        &self,
        payload_bytes: usize,
        command: impl FnOnce(&mut T) + Send + 'static,
    ) {
        let bytes = payload_bytes + COMMAND_BYTES;
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        // The loop is gone: there is nobody left to answer.
        if self.sender.send((bytes, Box::new(command))).is_err() {
            return;
        }
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Some(wake) = self.waker.get()
        {
            wake();
        }
    }
}

impl<T> fmt::Debug for Remote<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("stopped", &self.is_stopped()).finish_non_exhaustive()
    }
}

/// The loop's side.
pub(crate) struct Mailbox<T> {
    /// `None` once the server has ended: the closures that still wait are dropped, and threads
    /// that wait for their answers learn that there will be none.
    receiver: Option<Receiver<(usize, Command<T>)>>,
    remote: Arc<Remote<T>>,
}

impl<T> Mailbox<T> {
    /// Forgets that it was woken; whatever is posted from here on wakes again.
    pub(crate) fn acknowledge(&self) {
        self.remote.woken.store(false, Ordering::Release);
    }

    /// The server has ended: nothing is taken any more.
    pub(crate) fn close(&mut self) {
        self.remote.stopped.store(true, Ordering::Release);
        self.receiver = None;
    }

    pub(crate) fn next(&self) -> Option<Command<T>> {
        let (bytes, command) = self.receiver.as_ref()?.try_recv().ok()?;
        self.remote.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Some(command)
    }
}

impl<T> fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailbox")
    }
}
