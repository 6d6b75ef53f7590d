//! Native work that holds no GIL, and the end of the interpreter.
//!
//! A thread that wants the GIL back from an interpreter that is being finalized is ended by
//! Python there and then, by unwinding through frames that are not its own, which aborts the
//! process. So threads do not come back once the end has begun: they sleep until the process
//! is gone, as Python 3.14 has them do.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ThreadId;
use std::time::Duration;

use pyo3::prelude::*;

/// The thread that finalizes, which comes back all the same.
static ENDING: OnceLock<ThreadId> = OnceLock::new();
/// Threads that are on their way back: they get the GIL before the end goes on.
static RETURNING: AtomicUsize = AtomicUsize::new(0);

/// Runs `work` without the GIL. All of this module's work that may block goes through here.
pub(crate) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    struct Returning;
    impl Drop for Returning {
        fn drop(&mut self) {
            RETURNING.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let (done, _returning) = py.detach(|| {
        let done = work();
        // In this order: either the end sees this thread, or this thread sees the end.
        RETURNING.fetch_add(1, Ordering::SeqCst);
        if ENDING.get().is_some_and(|ending| *ending != std::thread::current().id()) {
            RETURNING.fetch_sub(1, Ordering::SeqCst);
            loop {
                std::thread::park();
            }
        }
        (done, Returning)
    });
    done
}

/// To be called by the thread that finalizes, when nothing of this module is needed any more.
#[pyfunction]
pub(crate) fn begin_end(py: Python<'_>) {
    // A second call is by the same thread.
    let _ = ENDING.set(std::thread::current().id());
    py.detach(|| {
        while RETURNING.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

/// In a forked child there is no thread but its own.
#[pyfunction]
pub(crate) fn after_fork() {
    RETURNING.store(0, Ordering::SeqCst);
}
