//! What Python is told of a request that it works on: that nobody waits for the answer any more, and
//! that there may be credit for more parts.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Wake;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::inside::{Inside, SIGNALS};
use crate::notices::Watch;

/// Those who want to know. They are told on the thread on which it happens, without the GIL.
#[derive(Default)]
pub(crate) struct Listeners {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_cancelled: bool,
    /// The number of times that credit came.
    credits: u64,
    watch: Option<Watch>,
}

impl Listeners {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn cancel(&self) {
        self.change(|state| state.is_cancelled = true);
    }

    /// There may be credit for more parts.
    pub(crate) fn add_credit(&self) {
        self.change(|state| state.credits += 1);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let watch = state.watch.clone();
        drop(state);
        self.changed.notify_all();
        if let Some(watch) = watch {
            watch.tell();
        }
    }

    /// Has an event loop told, at once if there is news already.
    pub(crate) fn watch(&self, watch: Watch) {
        let mut state = self.lock();
        let is_cancelled = state.is_cancelled;
        state.watch = Some(watch.clone());
        drop(state);
        if is_cancelled {
            watch.tell();
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.lock().is_cancelled
    }

    pub(crate) fn credits(&self) -> u64 {
        self.lock().credits
    }

    /// Waits until there is more credit than `seen`, or nobody waits any more.
    pub(crate) fn wait_credit(&self, seen: u64) {
        let goes_on = |state: &mut State| state.credits == seen && !state.is_cancelled;
        drop(self.changed.wait_while(self.lock(), goes_on));
    }

    /// Waits until nobody waits for the answer any more. Returns whether that is so.
    fn wait_cancelled(&self, longest: Duration) -> bool {
        let goes_on = |state: &mut State| !state.is_cancelled;
        let woken = self.changed.wait_timeout_while(self.lock(), longest, goes_on);
        woken.unwrap_or_else(PoisonError::into_inner).0.is_cancelled
    }
}

impl Wake for Listeners {
    fn wake(self: Arc<Self>) {
        self.add_credit();
    }
}

/// The event of a request for whose answer nobody waits any more.
#[pyclass(frozen, module = "ipc_framework._native")]
pub(crate) struct Cancelled(pub(crate) Arc<Listeners>);

#[pymethods]
impl Cancelled {
    fn is_set(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until it is set; for ever without a timeout. Returns whether it is set.
    #[pyo3(signature = (timeout))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let inside = Inside::enter(py);
        // A time that is too long for a duration is for ever.
        let limit = timeout.and_then(|limit| Duration::try_from_secs_f64(limit.max(0.0)).ok());
        let begin = Instant::now();
        loop {
            let left = limit.map_or(SIGNALS, |limit| limit.saturating_sub(begin.elapsed()));
            if inside.detached(|| self.0.wait_cancelled(left.min(SIGNALS))) {
                return Ok(true);
            }
            if limit.is_some_and(|limit| limit <= begin.elapsed()) {
                return Ok(false);
            }
            py.check_signals()?;
        }
    }
}
