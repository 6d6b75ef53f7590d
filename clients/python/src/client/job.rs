//! A request to serve, on its way through Python.

use std::sync::{Mutex, PoisonError};

use ipc_framework::client::Responder;
use pyo3::prelude::*;

use super::errors::raise;
use crate::inside::Inside;
use crate::json;

/// Answers one request, once; later answers do nothing. Dropped without an answer, it answers
/// `handler_failed`.
#[pyclass(frozen, module = "ipc_framework._native")]
pub(super) struct Job {
    responder: Mutex<Option<Responder>>,
    /// The process that answers: in a forked child that is the parent.
    process_id: u32,
}

impl Job {
    pub(super) fn new(responder: Responder) -> Self {
        Self { responder: Mutex::new(Some(responder)), process_id: std::process::id() }
    }

    fn take(&self) -> Option<Responder> {
        let taken = self.responder.lock().unwrap_or_else(PoisonError::into_inner).take();
        if self.process_id == std::process::id() {
            return taken;
        }
        std::mem::forget(taken);
        None
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        drop(self.take());
    }
}

#[pymethods]
impl Job {
    /// Returns whether an answer can be queued at once. Otherwise it would block its caller until
    /// the server has read enough.
    #[getter]
    fn has_room(&self) -> bool {
        let responder = self.responder.lock().unwrap_or_else(PoisonError::into_inner);
        responder.as_ref().is_none_or(Responder::has_room)
    }

    /// Answers with a value. If the value cannot be JSON this raises, and the request stays open.
    fn answer(&self, py: Python<'_>, payload: &Bound<'_, PyAny>) -> PyResult<()> {
        let inside = Inside::enter(py);
        let payload = json::from_python(payload)?;
        let Some(responder) = self.take() else { return Ok(()) };
        inside.detached(|| responder.reply(&payload)).map_err(|error| raise(py, &error))
    }

    /// Answers `handler_failed`.
    fn fail(&self, py: Python<'_>, text: &str) -> PyResult<()> {
        let inside = Inside::enter(py);
        let Some(responder) = self.take() else { return Ok(()) };
        inside.detached(|| responder.fail(text)).map_err(|error| raise(py, &error))
    }
}
