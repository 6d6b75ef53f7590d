//! A thread that blocks for an answer, which is handed to it directly.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ipc_framework::client::{RequestId, WeakClient};
use pyo3::prelude::*;

use super::errors::{Failure, undecodable};
use super::inbox::Answer;
use crate::inside::{Inside, SIGNALS};

/// A place for the answer to one request.
#[derive(Default)]
pub(super) struct Room {
    answer: Mutex<Option<Result<Answer, Failure>>>,
    filled: Condvar,
}

impl Room {
    pub(super) fn fill(&self, answer: Result<Answer, Failure>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.filled.notify_one();
    }

    fn wait(&self, longest: Duration) -> Option<Result<Answer, Failure>> {
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let is_empty = |answer: &mut Option<_>| answer.is_none();
        let woken = self.filled.wait_timeout_while(answer, longest, is_empty);
        woken.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

/// Waits for one answer. Made before the request is sent by `Client.ask`.
#[pyclass(frozen, module = "ipc_framework._native")]
#[derive(Default)]
pub(super) struct Waiter {
    pub(super) room: Arc<Room>,
    pub(super) asked: OnceLock<(WeakClient, RequestId)>,
}

#[pymethods]
impl Waiter {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Returns whether a request was sent with it.
    #[getter]
    fn is_used(&self) -> bool {
        self.asked.get().is_some()
    }

    /// Blocks until the answer comes or cannot come any more; None if the time is over.
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.answer(&Inside::enter(py))
    }
}

impl Waiter {
    /// See [`wait`](Self::wait).
    pub(super) fn answer<'py>(&self, inside: &Inside<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = inside.py();
        match self.settled(inside)? {
            Ok(answer) => answer.into_py(py).map_err(|error| undecodable(py, error)),
            Err(failure) if failure.is_deadline() => Ok(None),
            Err(failure) => Err(failure.into_py(py)),
        }
    }

    /// Blocks until the server has taken a publication. Returns its place, if it has one.
    pub(super) fn wait_for_place<'py>(
        &self,
        inside: &Inside<'py>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = inside.py();
        match self.settled(inside)? {
            Ok(answer) => answer.into_py(py),
            Err(failure) => Err(failure.into_py(py)),
        }
    }

    fn settled(&self, inside: &Inside<'_>) -> PyResult<Result<Answer, Failure>> {
        loop {
            if let Some(answer) = inside.detached(|| self.room.wait(SIGNALS)) {
                return Ok(answer);
            }
            if let Err(interrupt) = inside.py().check_signals() {
                if let Some((client, request)) = self.asked.get()
                    && let Some(client) = client.upgrade()
                {
                    inside.detached(|| client.cancel(*request));
                }
                return Err(interrupt);
            }
        }
    }
}
