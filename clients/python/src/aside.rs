//! Code of Python in the middle of something that no exception from elsewhere may end.

use pyo3::prelude::*;

/// Runs code of Python where the handlers of signals do not run, which is on any thread but the main one. They
/// run soon after, where the program gets what they raise. The caller is [inside](crate::inside).
pub(crate) fn aside<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(Python<'_>) -> PyResult<T> + Send,
) -> PyResult<T> {
    py.detach(|| {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("ipc-work".into());
            let thread = thread.spawn_scoped(scope, || Python::attach(work))?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}
