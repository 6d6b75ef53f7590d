//! A request to serve, on its way through Python.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ipc_framework::client::{Call, Error, PartSender, Responder};
use ipc_framework::{HandlerError, Json};
use pyo3::prelude::*;

use super::errors::raise;
use crate::cancelled::{Cancelled, Listeners};
use crate::inside::Inside;
use crate::notices::Notices;
use crate::{errors, json};

/// Answers one request, once; later answers do nothing. Dropped without an answer, it answers
/// `handler_failed`.
#[pyclass(frozen, module = "ipc_framework._native")]
pub(super) struct Job {
    answer: Mutex<Answer>,
    call: Call,
    listeners: OnceLock<Arc<Listeners>>,
    /// The process that answers: in a forked child that is the parent.
    process_id: u32,
}

enum Answer {
    Open(Responder),
    Parts {
        sender: PartSender,
        /// The part that waits for credit.
        waiting: Option<Json<'static>>,
    },
    Done,
}

impl Job {
    pub(super) fn new(responder: Responder) -> Self {
        let call = responder.call();
        let (answer, listeners) = (Mutex::new(Answer::Open(responder)), OnceLock::new());
        Self { answer, call, listeners, process_id: std::process::id() }
    }

    fn lock(&self) -> MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Answer {
        let taken = std::mem::replace(&mut *self.lock(), Answer::Done);
        if self.process_id == std::process::id() {
            return taken;
        }
        std::mem::forget(taken);
        Answer::Done
    }

    fn listeners(&self) -> &Arc<Listeners> {
        self.listeners.get_or_init(|| {
            let listeners = Arc::<Listeners>::default();
            let told = Arc::clone(&listeners);
            self.call.on_cancel(move || told.cancel());
            listeners
        })
    }

    /// Makes room for a part, which waits until it can be sent.
    fn put(&self, part: Json<'static>) {
        let mut answer = self.lock();
        *answer = match std::mem::replace(&mut *answer, Answer::Done) {
            Answer::Open(responder) => {
                let sender = responder.parts();
                if let Some(listeners) = self.listeners.get() {
                    let listeners = Arc::clone(listeners);
                    sender.on_credit(move || listeners.add_credit());
                }
                Answer::Parts { sender, waiting: Some(part) }
            }
            Answer::Parts { sender, .. } => Answer::Parts { sender, waiting: Some(part) },
            Answer::Done => Answer::Done,
        };
    }

    /// Sends the part that waits, if there is room and credit for it. Returns whether more are
    /// wanted, and nothing if it still waits.
    fn flush(&self) -> Result<Option<bool>, Error> {
        let mut answer = self.lock();
        let Answer::Parts { sender, waiting } = &mut *answer else { return Ok(Some(false)) };
        let Some(part) = waiting else { return Ok(Some(!sender.is_cancelled())) };
        let sent = if sender.has_room() { sender.try_send(part) } else { Ok(false) };
        let is_wanted = match sent {
            Ok(true) => Some(true),
            Ok(false) => return Ok(None),
            Err(Error::Cancelled { .. }) => Some(false),
            Err(error) => {
                return if self.is_refused(&error) { Ok(Some(false)) } else { Err(error) };
            }
        };
        *waiting = None;
        Ok(is_wanted)
    }

    /// Waits until the part that waits is sent. Returns whether more are wanted.
    fn wait(&self) -> Result<bool, Error> {
        let mut answer = self.lock();
        let Answer::Parts { sender, waiting } = &mut *answer else { return Ok(false) };
        let Some(part) = waiting.take() else { return Ok(!sender.is_cancelled()) };
        match sender.send(&part) {
            Ok(()) => Ok(true),
            Err(Error::Cancelled { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns whether the requester, who takes one answer, was told that the parts are too large.
    fn is_refused(&self, error: &Error) -> bool {
        matches!(error, Error::TooLarge { .. }) && !self.call.wants_parts()
    }

    fn fail_with(&self, py: Python<'_>, inside: &Inside<'_>, error: &HandlerError) -> PyResult<()> {
        let answer = self.take();
        let failed = inside.detached(|| match answer {
            Answer::Open(responder) => responder.refuse(error),
            Answer::Parts { sender, .. } => sender.fail(error),
            Answer::Done => Ok(()),
        });
        failed.map_err(|error| raise(py, &error))
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
        match &*self.lock() {
            Answer::Open(responder) => responder.has_room(),
            Answer::Parts { sender, .. } => sender.has_room(),
            Answer::Done => true,
        }
    }

    /// Returns whether nobody waits for the answer any more.
    #[getter]
    fn is_cancelled(&self) -> bool {
        self.call.is_cancelled()
    }

    /// Returns the seconds until the requester gives up, if it has said when.
    #[getter]
    fn remaining(&self) -> Option<f64> {
        self.call.remaining().map(|left| left.as_secs_f64())
    }

    /// Returns the event that is set when nobody waits for the answer any more.
    fn cancelled(&self) -> Cancelled {
        Cancelled(Arc::clone(self.listeners()))
    }

    /// Has an event loop told when nobody waits for the answer any more, and when there is credit.
    fn watch(&self, notices: &Bound<'_, Notices>, number: u64) {
        self.listeners().watch(notices.get().watch(number));
    }

    /// Answers with a value. If the value cannot be JSON this raises, and the request stays open.
    fn answer(&self, py: Python<'_>, payload: &Bound<'_, PyAny>) -> PyResult<()> {
        let inside = Inside::enter(py);
        let payload = json::payload(payload)?;
        let Answer::Open(responder) = self.take() else { return Ok(()) };
        inside.detached(|| responder.reply(&payload)).map_err(|error| raise(py, &error))
    }

    /// Adds a part to the answer. Returns false if no more of them are wanted, and None if it waits
    /// for credit; then no other one may be added. If the value cannot be JSON this raises, and the
    /// request stays open.
    fn add_part(&self, py: Python<'_>, payload: &Bound<'_, PyAny>) -> PyResult<Option<bool>> {
        let inside = Inside::enter(py);
        let part = json::payload(payload)?;
        let added = inside.detached(|| {
            self.put(part);
            self.flush()
        });
        added.map_err(|error| raise(py, &error))
    }

    /// Sends the part that waits. Returns what `add_part` returns.
    fn flush_part(&self, py: Python<'_>) -> PyResult<Option<bool>> {
        let inside = Inside::enter(py);
        inside.detached(|| self.flush()).map_err(|error| raise(py, &error))
    }

    /// Blocks until the part that waits is sent. Returns whether more of them are wanted.
    fn wait_part(&self, py: Python<'_>) -> PyResult<bool> {
        let inside = Inside::enter(py);
        inside.detached(|| self.wait()).map_err(|error| raise(py, &error))
    }

    /// Ends the answer after its last part. Does nothing after it was answered.
    fn end_parts(&self, py: Python<'_>) -> PyResult<()> {
        let inside = Inside::enter(py);
        let answer = self.take();
        let ended = inside.detached(|| match answer {
            Answer::Open(responder) => responder.parts().end(),
            Answer::Parts { sender, .. } => sender.end(),
            Answer::Done => Ok(()),
        });
        ended.map_err(|error| raise(py, &error))
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
        self.fail_with(py, &inside, &errors::of_application(code, text, details)?)
    }

    /// Answers `handler_failed`.
    fn fail(&self, py: Python<'_>, text: String) -> PyResult<()> {
        let inside = Inside::enter(py);
        self.fail_with(py, &inside, &HandlerError::new(text))
    }
}
