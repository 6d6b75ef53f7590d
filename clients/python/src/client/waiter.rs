//! A thread that blocks for an answer, which is handed to it directly.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ipc_framework::Message;
use ipc_framework::client::{RequestId, WeakClient};
use pyo3::prelude::*;

use super::errors::{Failure, undecodable};
use crate::inside::{Inside, SIGNALS};
use crate::message;

type Answer = Result<Message, Failure>;

/// A place for the answer to one request.
#[derive(Default)]
pub(super) struct Room {
    answer: Mutex<Option<Answer>>,
    filled: Condvar,
}

impl Room {
    pub(super) fn fill(&self, answer: Answer) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.filled.notify_one();
    }

    fn wait(&self, longest: Duration) -> Option<Answer> {
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let is_empty = |answer: &mut Option<Answer>| answer.is_none();
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
        loop {
            if let Some(answer) = inside.detached(|| self.room.wait(SIGNALS)) {
                return match answer {
                    Ok(message) => message::to_python(py, &(&message).into())
                        .map(Some)
                        .map_err(|error| undecodable(py, error)),
                    Err(failure) if failure.is_deadline() => Ok(None),
                    Err(failure) => Err(failure.into_py(py)),
                };
            }
            if let Err(interrupt) = py.check_signals() {
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
