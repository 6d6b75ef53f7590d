//! What an event loop of Python learns of the requests that it works on, without the GIL where it
//! happens.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use pyo3::prelude::*;

use crate::errors;

/// The numbers of requests about which there is news, and a descriptor that is readable while there
/// are some.
struct Numbers {
    waiting: Mutex<Vec<u64>>,
    inner: UnixStream,
    outer: UnixStream,
}

/// A request whose news go to an event loop.
#[derive(Clone)]
pub(crate) struct Watch {
    numbers: Weak<Numbers>,
    number: u64,
}

impl Watch {
    /// Has the loop look at the request.
    pub(crate) fn tell(&self) {
        let Some(numbers) = self.numbers.upgrade() else { return };
        let mut waiting = numbers.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.last() == Some(&self.number) {
            // A requester may give its credit one by one.
            return;
        }
        waiting.push(self.number);
        let is_first = waiting.len() == 1;
        drop(waiting);
        if is_first {
            // If the pipe is full it is readable already.
            let _ = { &numbers.inner }.write(&[0]);
        }
    }
}

/// The news for one event loop.
#[pyclass(frozen, module = "ipc_framework._native")]
pub(crate) struct Notices(Arc<Numbers>);

impl Notices {
    pub(crate) fn watch(&self, number: u64) -> Watch {
        Watch { numbers: Arc::downgrade(&self.0), number }
    }
}

#[pymethods]
impl Notices {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        let pair = || -> std::io::Result<(UnixStream, UnixStream)> {
            let (inner, outer) = UnixStream::pair()?;
            inner.set_nonblocking(true)?;
            outer.set_nonblocking(true)?;
            Ok((inner, outer))
        };
        let (inner, outer) =
            pair().map_err(|error| errors::system(py, "pair of sockets", &error))?;
        Ok(Self(Arc::new(Numbers { waiting: Mutex::default(), inner, outer })))
    }

    /// Returns the descriptor that is readable while there are news.
    fn fileno(&self) -> i32 {
        self.0.outer.as_raw_fd()
    }

    /// Takes the numbers of the requests about which there are news.
    fn take(&self) -> Vec<u64> {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing else is written to it.
        let _ = { &self.0.outer }.read(&mut [0; 8]);
        std::mem::take(&mut *waiting)
    }
}
