//! A request to serve, on its way through Python.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ipc_framework::ErrorCode;
use ipc_framework::client::Responder;
use pyo3::prelude::*;

use super::errors::raise;
use crate::inside::Inside;
use crate::parts::{Parts, TOO_LARGE};
use crate::{errors, json};

/// Answers one request, once; later answers do nothing. Dropped without an answer, it answers
/// `handler_failed`.
#[pyclass(frozen, module = "ipc_framework._native")]
pub(super) struct Job {
    responder: Mutex<Option<Responder>>,
    parts: Mutex<Parts>,
    /// The process that answers: in a forked child that is the parent.
    process_id: u32,
}

impl Job {
    pub(super) fn new(responder: Responder, frame_bytes_max: usize) -> Self {
        let parts = Mutex::new(Parts::new(frame_bytes_max));
        Self { responder: Mutex::new(Some(responder)), parts, process_id: std::process::id() }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Adds a part to the answer. Returns false if no more of them are wanted. If the value cannot
    /// be JSON this raises, and the request stays open.
    fn add_part(&self, py: Python<'_>, payload: &Bound<'_, PyAny>) -> PyResult<bool> {
        let inside = Inside::enter(py);
        let part = json::from_python(payload)?;
        if self.parts().add(&part) {
            return Ok(true);
        }
        let Some(responder) = self.take() else { return Ok(false) };
        let refused = inside.detached(|| responder.fail_with(ErrorCode::LimitExceeded, TOO_LARGE));
        refused.map(|()| false).map_err(|error| raise(py, &error))
    }

    /// Answers with the parts that were added. Does nothing after it was answered.
    fn end_parts(&self, py: Python<'_>) -> PyResult<()> {
        let inside = Inside::enter(py);
        let parts = std::mem::replace(&mut *self.parts(), Parts::new(0)).finish()?;
        let Some(responder) = self.take() else { return Ok(()) };
        inside.detached(|| responder.reply(&parts)).map_err(|error| raise(py, &error))
    }

    /// Answers with an error of the application.
    fn refuse(
        &self,
        py: Python<'_>,
        code: &str,
        text: String,
        details: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let inside = Inside::enter(py);
        let error = errors::of_application(code, text, details)?;
        let Some(responder) = self.take() else { return Ok(()) };
        inside.detached(|| responder.refuse(&error)).map_err(|error| raise(py, &error))
    }

    /// Answers `handler_failed`.
    fn fail(&self, py: Python<'_>, text: &str) -> PyResult<()> {
        let inside = Inside::enter(py);
        let Some(responder) = self.take() else { return Ok(()) };
        inside.detached(|| responder.fail(text)).map_err(|error| raise(py, &error))
    }
}
