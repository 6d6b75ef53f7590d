//! What another thread that answers a request knows of it: whether it is over, and how many parts of
//! its answer may be sent.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

/// The most parts of one stream that wait for the loop, and the bytes at which no more do. They would
/// wait there without any gain, and take memory that no budget knows.
const WAITING_MAX: u32 = 64;
const WAITING_BYTES_MAX: usize = 1 << 20;

#[derive(Default)]
pub(crate) struct Watch {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The request ended before its answer.
    is_cancelled: bool,
    /// Nobody takes an answer any more.
    is_over: bool,
    credit: u32,
    /// Parts that the loop has not taken yet.
    waiting: u32,
    waiting_bytes: usize,
    waker: Option<Waker>,
    hooks: Vec<Box<dyn FnOnce() + Send>>,
}

impl State {
    fn may_send(&self) -> bool {
        self.credit > 0 && self.waiting < WAITING_MAX && self.waiting_bytes < WAITING_BYTES_MAX
    }
}

/// The reason why a part cannot be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    Over,
    NoCredit,
}

impl Watch {
    pub(crate) fn with_credit(credit: u32) -> Self {
        let watch = Self::default();
        watch.state().credit = credit;
        watch
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Hooks run outside of the lock, so that nothing panics within it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.state().is_cancelled
    }

    /// Calls a function when the request is cancelled, or at once if it is already.
    pub(crate) fn on_cancel(&self, hook: Box<dyn FnOnce() + Send>) {
        let mut state = self.state();
        if !state.is_cancelled {
            state.hooks.push(hook);
            return;
        }
        drop(state);
        hook();
    }

    /// Records that the request ended before its answer. A panic of a hook is the embedder's, and must
    /// not end the loop. Returns how many there were.
    pub(crate) fn cancel(&self) -> usize {
        let mut state = self.state();
        state.is_cancelled = true;
        state.is_over = true;
        let (hooks, waker) = (std::mem::take(&mut state.hooks), state.waker.take());
        drop(state);
        self.changed.notify_all();
        wake(waker);
        hooks.into_iter().filter_map(|hook| catch_unwind(AssertUnwindSafe(hook)).err()).count()
    }

    /// Records that the request is over.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.is_over = true;
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        wake(waker);
    }

    /// Allows more parts.
    pub(crate) fn add_credit(&self, credit: u32) {
        self.change(|state| state.credit += credit);
    }

    /// Records that the loop took a part.
    pub(crate) fn note_taken(&self, bytes: usize) {
        self.change(|state| {
            state.waiting -= 1;
            state.waiting_bytes -= bytes;
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        let could_send = state.may_send();
        change(&mut state);
        if could_send || !state.may_send() {
            return;
        }
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        wake(waker);
    }

    /// Uses the credit for one part, if there is some.
    pub(crate) fn take_credit(&self, bytes: usize) -> Result<(), Blocked> {
        let mut state = self.state();
        if state.is_over {
            return Err(Blocked::Over);
        }
        if !state.may_send() {
            return Err(Blocked::NoCredit);
        }
        state.credit -= 1;
        state.waiting += 1;
        state.waiting_bytes += bytes;
        Ok(())
    }

    /// Waits until a part can be sent, with a timeout or without one.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Result<(), Blocked> {
        let is_blocked = |state: &mut State| !state.is_over && !state.may_send();
        let state = self.state();
        let state = match timeout {
            None => {
                let waited = self.changed.wait_while(state, is_blocked);
                waited.unwrap_or_else(PoisonError::into_inner)
            }
            Some(timeout) => {
                let waited = self.changed.wait_timeout_while(state, timeout, is_blocked);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        if state.is_over {
            return Err(Blocked::Over);
        }
        if state.may_send() { Ok(()) } else { Err(Blocked::NoCredit) }
    }

    /// Returns whether a part can be sent, or has `waker` woken when that changes.
    pub(crate) fn poll(&self, waker: &Waker) -> Result<(), Blocked> {
        let mut state = self.state();
        if state.is_over {
            return Err(Blocked::Over);
        }
        if state.may_send() {
            return Ok(());
        }
        state.waker = Some(waker.clone());
        Err(Blocked::NoCredit)
    }
}

/// Wakes a task. A panic of its executor must not end the loop.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("is_over", &self.state().is_over).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_that_waits_goes_on_with_credit_and_at_the_end() {
        let watch = Arc::new(Watch::with_credit(1));
        assert_eq!(watch.take_credit(1), Ok(()));
        assert_eq!(watch.take_credit(1), Err(Blocked::NoCredit));
        let waits = |watch: &Arc<Watch>| {
            let watch = watch.clone();
            thread::spawn(move || watch.wait(None))
        };
        let waiting = waits(&watch);
        watch.add_credit(1);
        assert_eq!(waiting.join().unwrap(), Ok(()));
        assert_eq!(watch.take_credit(1), Ok(()));
        let waiting = waits(&watch);
        watch.close();
        assert_eq!(waiting.join().unwrap(), Err(Blocked::Over));
        assert_eq!((watch.take_credit(1), watch.is_cancelled()), (Err(Blocked::Over), false));
    }

    /// Counts how often a task is woken.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl std::task::Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_task_that_waits_is_woken_once_by_whatever_it_waits_for() {
        let ends: [fn(&Watch); 4] = [
            |watch| watch.add_credit(1),
            |watch| watch.note_taken(WAITING_BYTES_MAX),
            Watch::close,
            |watch| assert_eq!(watch.cancel(), 0),
        ];
        for (at, end) in ends.into_iter().enumerate() {
            // The second one has credit, and waits until the loop has taken its parts.
            let (credit, bytes) = if at == 1 { (2, WAITING_BYTES_MAX) } else { (1, 1) };
            let watch = Watch::with_credit(credit);
            assert_eq!(watch.take_credit(bytes), Ok(()));
            let woken = Arc::new(Wakes::default());
            let waker = Waker::from(woken.clone());
            assert_eq!(watch.poll(&waker), Err(Blocked::NoCredit), "{at}");
            end(&watch);
            assert_eq!(woken.0.load(Ordering::Relaxed), 1, "{at}");
            let is_over = at > 1;
            assert_eq!(watch.poll(&waker), if is_over { Err(Blocked::Over) } else { Ok(()) });
            watch.close();
            assert_eq!(woken.0.load(Ordering::Relaxed), 1, "it did not wait any more");
            assert_eq!(watch.poll(&waker), Err(Blocked::Over));
        }
    }

    #[test]
    fn a_late_hook_may_ask_whether_its_request_was_cancelled() {
        let watch = Arc::new(Watch::default());
        watch.cancel();
        let (answer, answered) = std::sync::mpsc::channel();
        // On a thread of its own, which a hook that waits for itself would hold up for ever.
        thread::spawn(move || {
            let own = watch.clone();
            watch.on_cancel(Box::new(move || answer.send(own.is_cancelled()).unwrap()));
        });
        assert_eq!(answered.recv_timeout(Duration::from_secs(10)), Ok(true));
    }

    #[test]
    fn a_wait_has_an_end() {
        let watch = Watch::with_credit(0);
        assert_eq!(watch.wait(Some(Duration::from_millis(5))), Err(Blocked::NoCredit));
    }

    #[test]
    fn a_window_bounds_what_waits_for_the_loop() {
        let watch = Watch::with_credit(1_000);
        let sent = std::iter::from_fn(|| watch.take_credit(1).ok()).count();
        assert_eq!(sent, WAITING_MAX as usize);
        watch.note_taken(1);
        assert_eq!(watch.take_credit(1), Ok(()));
    }

    #[test]
    fn a_window_of_bytes_bounds_large_parts() {
        let watch = Watch::with_credit(9);
        assert_eq!(watch.take_credit(WAITING_BYTES_MAX), Ok(()));
        assert_eq!(watch.take_credit(1), Err(Blocked::NoCredit));
        watch.note_taken(WAITING_BYTES_MAX);
        assert_eq!(watch.take_credit(1), Ok(()));
    }

    #[test]
    fn hooks_run_once_and_a_panic_of_one_stops_no_other() {
        let watch = Watch::default();
        let calls = Arc::new(AtomicUsize::new(0));
        let hook = || {
            let calls = calls.clone();
            Box::new(move || {
                calls.fetch_add(1, Ordering::Relaxed);
            })
        };
        watch.on_cancel(hook());
        watch.on_cancel(Box::new(|| panic!("an embedder's mistake")));
        watch.on_cancel(hook());
        assert_eq!((watch.cancel(), calls.load(Ordering::Relaxed)), (1, 2));
        assert_eq!((watch.cancel(), calls.load(Ordering::Relaxed)), (0, 2));
        watch.on_cancel(hook());
        assert_eq!(calls.load(Ordering::Relaxed), 3);
    }
}
