//! The mailbox, by which other threads reach the loop: letters that the loop's thread processes.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};

/// The most payload bytes of other threads that wait here. More are refused, because nothing else
/// holds back a thread that publishes faster than the loop can send.
pub(crate) const MAILBOX_BYTES_MAX: usize = 64 << 20;
/// The bytes that a letter counts for in addition to its payload.
const LETTER_BYTES: usize = 256;

/// A command for the loop.
pub(crate) enum Letter<T, P> {
    Command(Box<dyn FnOnce(&mut T) + Send>),
    /// A publication, which is the most frequent command and needs no closure.
    Publication(P),
}

type Waker = Box<dyn Fn() + Send + Sync>;

/// The side that other threads hold.
pub(crate) struct Remote<T, P> {
    sender: Sender<(usize, Letter<T, P>)>,
    waker: OnceLock<Waker>,
    /// The loop was woken and has not read the mailbox yet, so it needs no further wake-up.
    woken: AtomicBool,
    waiting_bytes: AtomicUsize,
    stopped: AtomicBool,
}

impl<T, P> Remote<T, P> {
    pub(crate) fn new() -> (Arc<Self>, Mailbox<T, P>) {
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

    /// Returns whether there is room for a command that carries `payload_bytes`. For one that is
    /// larger than the whole mailbox there is, once nothing else waits.
    pub(crate) fn has_room(&self, payload_bytes: usize) -> bool {
        let waiting = self.waiting_bytes.load(Ordering::Relaxed);
        waiting == 0 || waiting + payload_bytes + LETTER_BYTES <= MAILBOX_BYTES_MAX
    }

    pub(crate) fn post(&self, command: impl FnOnce(&mut T) + Send + 'static) {
        self.send(0, Letter::Command(Box::new(command)));
    }

    pub(crate) fn send(&self, payload_bytes: usize, letter: Letter<T, P>) {
        let bytes = payload_bytes + LETTER_BYTES;
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        // The loop has ended, so nobody processes the letter.
        if self.sender.send((bytes, letter)).is_err() {
            return;
        }
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Some(wake) = self.waker.get()
        {
            wake();
        }
    }
}

impl<T, P> fmt::Debug for Remote<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("stopped", &self.is_stopped()).finish_non_exhaustive()
    }
}

/// The loop's side.
pub(crate) struct Mailbox<T, P> {
    /// `None` once the server has ended. The letters that still wait are dropped then, and threads
    /// that wait for their answers get an error.
    receiver: Option<Receiver<(usize, Letter<T, P>)>>,
    remote: Arc<Remote<T, P>>,
}

impl<T, P> Mailbox<T, P> {
    /// Acknowledges a wake-up. Letters that are posted from here on wake the loop again. It reads the mark as
    /// well, so that it sees every letter whose sender found the mark set and did not wake it.
    pub(crate) fn acknowledge(&self) {
        self.remote.woken.swap(false, Ordering::AcqRel);
    }

    /// Closes the mailbox of a server that has ended.
    pub(crate) fn close(&mut self) {
        self.remote.stopped.store(true, Ordering::Release);
        self.receiver = None;
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.remote.waiting_bytes.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn next(&self) -> Option<Letter<T, P>> {
        let (bytes, letter) = self.receiver.as_ref()?.try_recv().ok()?;
        self.remote.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Some(letter)
    }
}

/// A server that is dropped has ended.
impl<T, P> Drop for Mailbox<T, P> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<T, P> fmt::Debug for Mailbox<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailbox")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread;

    use super::*;

    /// It would be refused for ever otherwise, by an error that says to try again.
    #[test]
    fn a_letter_that_is_larger_than_the_mailbox_has_room_once_nothing_waits() {
        let (remote, mailbox) = Remote::<(), ()>::new();
        assert!(remote.has_room(MAILBOX_BYTES_MAX + 1));
        remote.send(1, Letter::Publication(()));
        assert!(!remote.has_room(MAILBOX_BYTES_MAX));
        assert!(remote.has_room(1));
        assert!(mailbox.next().is_some());
        assert!(remote.has_room(MAILBOX_BYTES_MAX));
    }

    /// The loop may look into the mailbox as soon as it is woken, and sleep again.
    #[test]
    fn a_letter_is_there_when_the_loop_is_woken() {
        let (remote, mailbox) = Remote::<(), ()>::new();
        let (woken, wakes) = channel();
        let (finds, found) = channel();
        let found = Mutex::new(found);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = seen.clone();
        remote.set_waker(move || {
            woken.send(()).unwrap();
            let is_there = found.lock().unwrap().recv().unwrap();
            record.lock().unwrap().push(is_there);
        });
        thread::scope(|scope| {
            scope.spawn(move || {
                for () in wakes.iter().take(2) {
                    mailbox.acknowledge();
                    finds.send(mailbox.next().is_some()).unwrap();
                }
            });
            remote.send(1, Letter::Publication(()));
            remote.post(|()| ());
        });
        assert_eq!(*seen.lock().unwrap(), [true, true]);
    }
}
