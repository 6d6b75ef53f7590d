//! Threads inside this module, and the end of the interpreter.
//!
//! When a thread requests the GIL from an interpreter that is being finalized, Python ends the
//! thread there by unwinding it, and frames of this module in between abort the process. So no
//! thread may be on its way through this module when finalization goes on: threads that work
//! without the GIL, or come in later, sleep until the process is gone, as Python 3.14 does it.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::errors;

/// Time between checks for signals in a waiting thread.
pub(crate) const SIGNALS: Duration = Duration::from_millis(100);

/// The thread that finalizes. It alone may still come in.
static ENDING: OnceLock<ThreadId> = OnceLock::new();
/// Number of threads inside that have the GIL, or wait for it.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);
/// Time that finalization waits for them. A thread in Python code that does not return is left
/// behind.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Marks a thread as inside. Every function that calls Python code, or that may block, begins by
/// entering.
pub(crate) struct Inside<'py> {
    py: Python<'py>,
}

impl<'py> Inside<'py> {
    pub(crate) fn enter(py: Python<'py>) -> Self {
        if is_over() {
            py.detach(sleep);
        }
        ACTIVE.fetch_add(1, Ordering::SeqCst);
        Self { py }
    }

    pub(crate) fn py(&self) -> Python<'py> {
        self.py
    }

    /// Runs `work` without the GIL.
    pub(crate) fn detached<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.py.detach(|| {
            ACTIVE.fetch_sub(1, Ordering::SeqCst);
            let done = work();
            // The order matters: either finalization sees this thread, or this thread sees
            // finalization.
            ACTIVE.fetch_add(1, Ordering::SeqCst);
            if is_over() {
                ACTIVE.fetch_sub(1, Ordering::SeqCst);
                sleep();
            }
            done
        })
    }
}

impl Inside<'_> {
    /// Runs work that no signal can interrupt on a thread of its own, and waits for it at most for
    /// `limit`. After that, or after a signal, the work goes on and its result is dropped.
    pub(crate) fn interruptible<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> PyResult<Option<T>> {
        let (tell, told) = channel();
        let run = move || {
            // The waiting thread may have given up.
            let _ = tell.send(work());
        };
        let thread = std::thread::Builder::new().name("ipc-work".into()).spawn(run);
        thread.map_err(|error| errors::system(self.py, "thread", &error))?;
        // `detached` needs a value that threads may share.
        let told = Mutex::new(told);
        let begin = Instant::now();
        loop {
            let left = limit.saturating_sub(begin.elapsed());
            let done = self.detached(|| {
                let told = told.lock().unwrap_or_else(PoisonError::into_inner);
                told.recv_timeout(left.min(SIGNALS)).ok()
            });
            if done.is_some() || left.is_zero() {
                return Ok(done);
            }
            self.py.check_signals()?;
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        ACTIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

fn is_over() -> bool {
    ENDING.get().is_some_and(|ending| *ending != std::thread::current().id())
}

fn sleep() {
    loop {
        std::thread::park();
    }
}

/// Begins finalization. Called by the thread that finalizes, when nothing of this module is needed
/// any more.
#[pyfunction]
pub(crate) fn begin_end(py: Python<'_>) {
    // A second call comes from the same thread.
    let _ = ENDING.set(std::thread::current().id());
    py.detach(|| {
        let begin = Instant::now();
        while ACTIVE.load(Ordering::SeqCst) > 0 && begin.elapsed() < WAIT_MAX {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

/// Resets the state in a forked child, which has only its own thread. Returns the child's copies of
/// its parent's sockets, for Python to close: what owns them here is never dropped.
#[pyfunction]
pub(crate) fn after_fork() -> Vec<RawFd> {
    ACTIVE.store(0, Ordering::SeqCst);
    ipc_framework::forked_sockets()
}
