//! Where a message came from, and what became of it: what its handler answers by.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipc_framework::{ConnectionKey, Json, Message, MessageType, Responder};
use pyo3::prelude::*;

use super::shared::Shared;
use crate::json;

/// One message that a handler has in hand.
pub(super) struct Origin {
    shared: Arc<Shared>,
    pub(super) from: ConnectionKey,
    pub(super) app_id: Box<str>,
    pub(super) message_id: Box<str>,
    state: Mutex<State>,
    is_request: bool,
    /// Whether a coroutine works on it.
    is_held: AtomicBool,
}

/// What its handler has done with it so far.
pub(super) enum State {
    /// Nothing, and the loop's thread waits for it.
    Open,
    /// Nothing yet, and the loop has gone on.
    Deferred(Responder),
    /// It returned this, and the loop's thread is to send it.
    Replied(Json<'static>),
    Failed(String),
    /// Whoever comes next is to have it.
    PassedOn,
    Settled,
}

impl Origin {
    pub(super) fn new(
        shared: &Arc<Shared>,
        from: ConnectionKey,
        message: &ipc_framework::Envelope<'_>,
    ) -> Arc<Self> {
        let origin = Arc::new(Self {
            shared: shared.clone(),
            from,
            app_id: message.app_id().decode().into(),
            message_id: message.message_id().decode().into(),
            state: Mutex::new(State::Open),
            is_request: message.message_type() == MessageType::Request,
            is_held: AtomicBool::new(false),
        });
        if origin.is_request {
            shared.pending().insert(&origin);
        }
        origin
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the handler did, for the loop's thread after it returned. Where it did nothing,
    /// `defer` says how it is answered later, and nobody answers meanwhile.
    pub(super) fn conclude(&self, defer: impl FnOnce() -> State) -> State {
        let mut state = self.lock();
        let done = std::mem::replace(&mut *state, State::Settled);
        if matches!(done, State::Open) {
            let next = defer();
            let told = match &next {
                State::Deferred(_) => State::Open,
                _ => State::Settled,
            };
            *state = next;
            return told;
        }
        done
    }

    pub(super) fn defer(&self, responder: Responder) {
        *self.lock() = State::Deferred(responder);
    }

    /// Whether it can still be answered.
    fn is_pending(&self) -> bool {
        matches!(*self.lock(), State::Open | State::Deferred(_))
    }

    pub(super) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::SeqCst)
    }

    /// Its handler has returned, and the coroutine, if it is one, begun. It may be answered later.
    pub(super) fn returned(self: &Arc<Self>) {
        if !self.is_request || !self.is_pending() {
            return;
        }
        let may_wait = self.shared.pending().await_answer(self, self.shared.request_timeout);
        if !may_wait {
            self.abandon();
        }
    }

    /// Answers with a message of the program's own making; with one more than that, if it
    /// was answered already, as the published server does.
    pub(super) fn answer(&self, py: Python<'_>, message: Message) -> PyResult<()> {
        let before = std::mem::replace(&mut *self.lock(), State::Settled);
        self.shared.pending().remove(self);
        match before {
            State::Deferred(responder) => {
                responder.reply_json(message.payload);
                Ok(())
            }
            _ => self.shared.send(py, self.from, message),
        }
    }

    fn settle(&self, outcome: State) {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Settled) {
            State::Open => *state = outcome,
            State::Deferred(responder) => match outcome {
                State::Replied(payload) => responder.reply_json(payload),
                State::Failed(text) => responder.fail(&text),
                _ => responder.fail("nobody serves requests on it"),
            },
            done => *state = done,
        }
        drop(state);
        self.shared.pending().remove(self);
    }

    /// Answers `handler_failed`, unless it is answered.
    pub(super) fn refuse(&self, text: &str) {
        self.settle(State::Failed(text.to_owned()));
    }

    /// Ends the wait for an answer that nobody is known to work on.
    pub(super) fn abandon(&self) {
        self.refuse("the server is stopping, and nobody has answered");
    }
}

/// Where a message came from. Messages carry it along as `_origin`, and so do the responses
/// that are made of them.
#[pyclass(frozen, name = "Origin", module = "ipc_framework._native")]
pub(crate) struct PyOrigin(pub(super) Arc<Origin>);

#[pymethods]
impl PyOrigin {
    /// The id of the message.
    #[getter]
    fn message_id(&self) -> &str {
        &self.0.message_id
    }

    /// The id of the connection it came from, while that is there.
    #[getter]
    fn connection_id(&self) -> Option<String> {
        self.0.shared.connections().id_of(self.0.from)
    }

    /// Answers, unless it is answered.
    fn reply(&self, payload: &Bound<'_, PyAny>) -> PyResult<()> {
        self.0.settle(State::Replied(json::from_python(payload)?));
        Ok(())
    }

    /// Answers `handler_failed`, unless it is answered.
    fn fail(&self, text: String) {
        self.0.settle(State::Failed(text));
    }

    /// A coroutine works on it from now on: a server that stops waits for it.
    fn hold(&self) {
        self.0.is_held.store(true, Ordering::SeqCst);
    }

    /// The coroutine has ended.
    fn release(&self) {
        self.0.is_held.store(false, Ordering::SeqCst);
        if self.0.shared.pending().is_stopping() {
            self.0.abandon();
        }
    }

    /// Its handler has returned, on a thread of Python's.
    fn returned(&self) {
        self.0.returned();
    }

    /// Leaves it to the workers, or to what the server does by itself.
    fn pass_on(&self) {
        self.0.settle(State::PassedOn);
    }
}
