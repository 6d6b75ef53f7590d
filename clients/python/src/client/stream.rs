//! The parts of an answer, on their way to whoever reads them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use ipc_framework::Message;
use ipc_framework::client::{Error, RequestStream};
use pyo3::prelude::*;
use pyo3::types::PyBool;

use super::errors::{raise, undecodable};
use crate::inside::{Inside, SIGNALS};
use crate::message;

/// Cancels its request when it is dropped before its end.
#[pyclass(frozen, module = "ipc_framework._native")]
pub(super) struct Stream {
    parts: Mutex<Option<RequestStream>>,
    /// The process that reads: in a forked child that is the parent.
    process_id: u32,
}

impl Stream {
    pub(super) fn new(parts: RequestStream) -> Self {
        Self { parts: Mutex::new(Some(parts)), process_id: std::process::id() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<RequestStream>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_parents(&self) -> bool {
        self.process_id != std::process::id()
    }
}

#[pymethods]
impl Stream {
    /// Blocks until the next part comes; None at the end.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let inside = Inside::enter(py);
        if self.is_parents() {
            return Ok(None);
        }
        loop {
            let taken = inside.detached(|| match &*self.lock() {
                Some(parts) => parts.next_timeout(SIGNALS),
                None => Poll::Ready(None),
            });
            match taken {
                Poll::Ready(part) => return self.part(&inside, part),
                Poll::Pending => py.check_signals()?,
            }
        }
    }

    /// Returns the next part if it has come, and False otherwise; None at the end.
    fn take_now<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let inside = Inside::enter(py);
        if self.is_parents() {
            return Ok(None);
        }
        let taken = self.lock().as_ref().map_or(Poll::Ready(None), RequestStream::try_next);
        match taken {
            Poll::Ready(part) => self.part(&inside, part),
            Poll::Pending => Ok(Some(PyBool::new(py, false).to_owned().into_any())),
        }
    }

    /// Cancels the request, unless all of the answer has come.
    fn cancel(&self, py: Python<'_>) {
        let inside = Inside::enter(py);
        if !self.is_parents() {
            let parts = self.lock().take();
            inside.detached(|| drop(parts));
        }
    }
}

impl Stream {
    fn part<'py>(
        &self,
        inside: &Inside<'py>,
        part: Option<Result<Message, Error>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = inside.py();
        match part {
            None => {
                drop(self.lock().take());
                Ok(None)
            }
            Some(Ok(part)) => message::to_python(py, &(&part).into())
                .map(Some)
                .map_err(|error| undecodable(py, error)),
            Some(Err(error)) => Err(raise(py, &error)),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.is_parents() {
            // A copy of it must not cancel its parent's request.
            std::mem::forget(self.lock().take());
        }
    }
}
