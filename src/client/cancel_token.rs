//! The sign that somebody no longer wants an answer, and those who listen for it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::background::shield::shielded;

type Listener = Box<dyn FnOnce() + Send>;

/// A sign that is given once. Listeners run on the thread that gives it.
#[derive(Default)]
pub(crate) struct Cancellation {
    is_cancelled: AtomicBool,
    listeners: Mutex<Listeners>,
}

#[derive(Default)]
struct Listeners {
    waiting: Vec<(u64, Listener)>,
    last_key: u64,
}

impl Cancellation {
    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    /// Gives the sign. Must not be called with a lock held, because a listener may do anything.
    pub(crate) fn cancel(&self) {
        let mut listeners = self.lock();
        self.is_cancelled.store(true, Ordering::Release);
        let waiting = std::mem::take(&mut listeners.waiting);
        drop(listeners);
        for (_, listener) in waiting {
            shielded(listener);
        }
    }

    /// Calls the listener when the sign is given, or at once if it has been. Returns a key with
    /// which the listener is removed.
    pub(crate) fn listen(&self, listener: impl FnOnce() + Send + 'static) -> u64 {
        let mut listeners = self.lock();
        if !self.is_cancelled() {
            listeners.last_key += 1;
            let key = listeners.last_key;
            listeners.waiting.push((key, Box::new(listener)));
            return key;
        }
        drop(listeners);
        shielded(listener);
        0
    }

    fn forget(&self, key: u64) {
        let mut listeners = self.lock();
        let at = listeners.waiting.iter().position(|(of, _)| *of == key);
        let listener = at.map(|at| listeners.waiting.swap_remove(at));
        drop(listeners);
        drop(listener);
    }

    /// Removes all listeners, for which nothing is left to be cancelled.
    pub(crate) fn forget_all(&self) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        drop(waiting);
    }

    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancellation").field("is_cancelled", &self.is_cancelled()).finish()
    }
}

/// Cancels the requests that were sent with it, see
/// [`RequestOptions::cancel`](super::RequestOptions). Clones are the same token; it cannot be reset.
///
/// ```
/// use ipc_framework::client::{CancelToken, RequestOptions};
///
/// let token = CancelToken::new();
/// let options = RequestOptions::default().cancel(token.clone());
/// token.cancel(); // from any thread
/// assert!(options.cancel.unwrap().is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct CancelToken {
    cancellation: Arc<Cancellation>,
}

impl CancelToken {
    /// Makes a token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels all requests that were sent with this token and have no answer yet, and those that
    /// will be sent with it.
    pub fn cancel(&self) {
        self.cancellation.cancel();
    }

    /// Returns whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancellation.is_cancelled()
    }

    /// Calls the listener when the token is cancelled, or at once if it is already. The listener is
    /// removed when the guard is dropped.
    pub(crate) fn listen(&self, listener: impl FnOnce() + Send + 'static) -> Listening {
        let key = self.cancellation.listen(listener);
        Listening { token: self.clone(), key }
    }
}

/// A listener of a token. It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Listening {
    token: CancelToken,
    key: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.token.cancellation.forget(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_listener_is_called_once_unless_it_was_removed_before() {
        let token = CancelToken::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let listener = || {
            let calls = Arc::clone(&calls);
            move || {
                calls.fetch_add(1, Ordering::SeqCst);
            }
        };
        let kept = token.listen(listener());
        drop(token.listen(listener()));
        let panics = token.listen(|| panic!("it must not keep the others from being called"));
        assert_eq!(Arc::strong_count(&calls), 2);
        token.clone().cancel();
        token.cancel();
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        let late = token.listen(listener());
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        drop((kept, panics, late));
        assert_eq!(Arc::strong_count(&calls), 1);
    }
}
