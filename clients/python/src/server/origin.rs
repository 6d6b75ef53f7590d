//! The origin of a message and its state, by which its handler answers; and the requests without
//! an answer.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ipc_framework::proto::system::Failure;
use ipc_framework::{
    ConnectionKey, Envelope, ErrorCode, HandlerError, Json, Message, MessageType, Responder,
};
use pyo3::prelude::*;

use super::connections::ConnectionTable;
use super::turn::Door;
use crate::parts::{Parts, TOO_LARGE};
use crate::{errors, json};

/// The origins of one server: what they share, and the requests among them without an answer.
pub(super) struct Origins {
    door: Arc<Door>,
    connections: Arc<ConnectionTable>,
    request_timeout: Option<Duration>,
    pending: Mutex<Pending>,
}

/// The number of answered requests that are not worth removing from those that are waited for.
const ANSWERED_MAX: usize = 64;

/// Requests without an answer, by their ids: a response that a program builds by hand says which
/// one it answers, and nothing else.
#[derive(Default)]
struct Pending {
    by_id: HashMap<Box<str>, Vec<Arc<Origin>>>,
    /// The requests whose handlers have returned, in the order of their deadlines if there are any.
    returned: VecDeque<(Option<Instant>, Weak<Origin>)>,
    is_stopping: bool,
}

/// One message that a handler is working on.
pub(super) struct Origin {
    origins: Arc<Origins>,
    from: ConnectionKey,
    app_id: Box<str>,
    message_id: Box<str>,
    state: Mutex<State>,
    /// The parts that its handler has yielded.
    parts: Mutex<Option<Box<Parts>>>,
    is_request: bool,
    /// Set while a coroutine works on it.
    is_held: AtomicBool,
}

/// The state of a message, as its handler has left it so far.
pub(super) enum State {
    /// Nothing, and the loop's thread waits for it.
    Open,
    /// Nothing yet, and the loop has gone on.
    Deferred(Responder),
    /// It returned this value, which the loop's thread is to send.
    Replied(Json<'static>),
    Failed(HandlerError),
    /// It left the message to the next handler.
    PassedOn,
    Settled,
}

impl Origins {
    pub(super) fn new(
        door: Arc<Door>,
        connections: Arc<ConnectionTable>,
        request_timeout: Option<Duration>,
    ) -> Arc<Self> {
        Arc::new(Self { door, connections, request_timeout, pending: Mutex::default() })
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the origin of a message. Until a request is answered, [`find`](Self::find) finds it.
    pub(super) fn of(self: &Arc<Self>, from: ConnectionKey, message: &Envelope<'_>) -> Arc<Origin> {
        let origin = Arc::new(Origin {
            origins: self.clone(),
            from,
            app_id: message.app_id().decode().into(),
            message_id: message.message_id().decode().into(),
            state: Mutex::new(State::Open),
            parts: Mutex::new(None),
            is_request: message.message_type() == MessageType::Request,
            is_held: AtomicBool::new(false),
        });
        if origin.is_request {
            let mut pending = self.pending();
            pending.by_id.entry(origin.message_id.clone()).or_default().push(origin.clone());
        }
        origin
    }

    /// Returns the request that a response answers. Several requesters may use the same id: the
    /// connection tells them apart, and otherwise the oldest request is answered first.
    pub(super) fn find(
        &self,
        message_id: &str,
        app_id: &str,
        from: Option<ConnectionKey>,
    ) -> Option<Arc<Origin>> {
        let is_meant = |origin: &&Arc<Origin>| {
            &*origin.app_id == app_id && from.is_none_or(|from| origin.from == from)
        };
        self.pending().by_id.get(message_id)?.iter().find(is_meant).cloned()
    }

    /// Stops waiting for requests that nothing is known to work on, now and from now on.
    pub(super) fn stop(&self) {
        let mut pending = self.pending();
        pending.is_stopping = true;
        let returned = pending.returned.drain(..).filter_map(|(_, origin)| origin.upgrade());
        let abandoned: Vec<_> = returned.filter(|origin| !origin.is_held()).collect();
        drop(pending);
        for origin in abandoned {
            origin.abandon();
        }
    }

    /// Forgets the requests of a connection that has left and that would be waited for without end.
    pub(super) fn forget(&self, connection: ConnectionKey) {
        if self.request_timeout.is_some() {
            return;
        }
        let mut pending = self.pending();
        let returned = pending.returned.iter().filter_map(|(_, origin)| origin.upgrade());
        let of_it: Vec<_> = returned.filter(|origin| origin.from == connection).collect();
        for origin in &of_it {
            pending.remove(origin);
        }
    }

    /// Forgets a request.
    pub(super) fn remove(&self, origin: &Origin) {
        self.pending().remove(origin);
    }
}

impl Pending {
    /// Keeps a request whose handler has returned without an answer, which something else may
    /// give. After `timeout` the requester has been told that nothing did. A server that stops
    /// waits for coroutines only, and then this returns false for others.
    fn await_answer(&mut self, origin: &Arc<Origin>, timeout: Option<Duration>) -> bool {
        if self.is_stopping {
            return origin.is_held();
        }
        let now = Instant::now();
        while let Some((deadline, oldest)) = self.returned.front()
            && (deadline.is_some_and(|deadline| deadline <= now) || oldest.strong_count() == 0)
        {
            let oldest = oldest.upgrade();
            self.returned.pop_front();
            if let Some(oldest) = oldest {
                self.remove(&oldest);
            }
        }
        if self.returned.len() > 2 * self.by_id.len() + ANSWERED_MAX {
            // One that waits long would keep all answered ones behind it.
            self.returned.retain(|(_, origin)| origin.strong_count() > 0);
        }
        let deadline = timeout.and_then(|timeout| now.checked_add(timeout));
        self.returned.push_back((deadline, Arc::downgrade(origin)));
        true
    }

    fn remove(&mut self, origin: &Origin) {
        let Some(same_id) = self.by_id.get_mut(&origin.message_id) else { return };
        same_id.retain(|other| !std::ptr::eq(Arc::as_ptr(other), origin));
        if same_id.is_empty() {
            self.by_id.remove(&origin.message_id);
        }
    }
}

impl Origin {
    /// Returns whether a response with this id, to this connection if one is named, answers it.
    pub(super) fn is_answered_by(&self, reply_to: &str, to: Option<ConnectionKey>) -> bool {
        *self.message_id == *reply_to && to.is_none_or(|to| to == self.from)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the handler did, on the loop's thread after it returned. If the handler did
    /// nothing, `defer` prepares a later answer, and no answer can come meanwhile.
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

    /// Returns whether it can still be answered.
    fn is_pending(&self) -> bool {
        matches!(*self.lock(), State::Open | State::Deferred(_))
    }

    fn is_held(&self) -> bool {
        self.is_held.load(Ordering::SeqCst)
    }

    /// Notes that its handler has returned, or that its coroutine has begun. It may be answered
    /// later.
    pub(super) fn returned(self: &Arc<Self>) {
        if !self.is_request || !self.is_pending() {
            return;
        }
        let timeout = self.origins.request_timeout;
        let may_wait = self.origins.pending().await_answer(self, timeout);
        if !may_wait {
            self.abandon();
        }
    }

    /// Answers with a message that the program built. If it was answered already the message is
    /// sent all the same, as by the published server.
    pub(super) fn answer(&self, py: Python<'_>, message: Message) -> PyResult<()> {
        let before = std::mem::replace(&mut *self.lock(), State::Settled);
        self.origins.remove(self);
        match before {
            State::Deferred(responder) => {
                responder.reply_json(message.payload);
                Ok(())
            }
            _ => self.origins.door.send(py, self.from, message),
        }
    }

    fn settle(&self, outcome: State) {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Settled) {
            State::Open => *state = outcome,
            State::Deferred(responder) => match outcome {
                State::Replied(payload) => responder.reply_json(payload),
                State::Failed(error) => responder.refuse(&error),
                _ => responder.fail("nobody serves requests on it"),
            },
            done => *state = done,
        }
        drop(state);
        self.origins.remove(self);
    }

    /// Answers with a value, unless it is answered.
    pub(super) fn reply(&self, payload: Json<'static>) {
        self.settle(State::Replied(payload));
    }

    /// Answers `handler_failed`, unless it is answered.
    pub(super) fn refuse(&self, text: &str) {
        self.settle(State::Failed(HandlerError::new(text)));
    }

    /// Ends the wait for an answer on which nothing is known to work.
    fn abandon(&self) {
        self.refuse("the server is stopping, and nobody has answered");
    }
}

/// The origin of a message. Messages carry it as `_origin`, and so do the responses that are made
/// from them.
#[pyclass(frozen, name = "Origin", module = "ipc_framework._native")]
pub(crate) struct PyOrigin(pub(super) Arc<Origin>);

#[pymethods]
impl PyOrigin {
    /// The id of the message.
    #[getter]
    fn message_id(&self) -> &str {
        &self.0.message_id
    }

    /// The id of the connection that sent it, while that is connected.
    #[getter]
    fn connection_id(&self) -> Option<String> {
        self.0.origins.connections.lock().id_of(self.0.from)
    }

    /// Answers, unless it is answered.
    fn reply(&self, payload: &Bound<'_, PyAny>) -> PyResult<()> {
        self.0.reply(json::from_python(payload)?);
        Ok(())
    }

    /// Adds a part to the answer. Returns false if no more of them are wanted.
    fn add_part(&self, payload: &Bound<'_, PyAny>) -> PyResult<bool> {
        let part = json::from_python(payload)?;
        if !self.0.is_pending() {
            return Ok(false);
        }
        let mut parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes_max = self.0.origins.door.frame_bytes_max();
        if parts.get_or_insert_with(|| Box::new(Parts::new(bytes_max))).add(&part) {
            return Ok(true);
        }
        let refused = Failure::new(ErrorCode::LimitExceeded, TOO_LARGE);
        match Json::from_serialize(&refused) {
            Ok(refused) => self.0.reply(refused),
            Err(_) => self.0.refuse(TOO_LARGE),
        }
        Ok(false)
    }

    /// Answers with the parts that were added, unless it is answered.
    fn end_parts(&self) -> PyResult<()> {
        let parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.0.reply(parts.map_or_else(|| Parts::new(0), |parts| *parts).finish()?);
        Ok(())
    }

    /// Answers `handler_failed`, unless it is answered.
    fn fail(&self, text: String) {
        self.0.settle(State::Failed(HandlerError::new(text)));
    }

    /// Answers with an error of the application, unless it is answered.
    fn refuse(&self, code: &str, text: String, details: &Bound<'_, PyAny>) -> PyResult<()> {
        self.0.settle(State::Failed(errors::of_application(code, text, details)?));
        Ok(())
    }

    /// A coroutine works on it from now on, and a server that stops waits for it.
    fn hold(&self) {
        self.0.is_held.store(true, Ordering::SeqCst);
    }

    /// The coroutine has ended.
    fn release(&self) {
        self.0.is_held.store(false, Ordering::SeqCst);
        let is_stopping = self.0.origins.pending().is_stopping;
        if is_stopping {
            self.0.abandon();
        }
    }

    /// Its handler has returned, on a thread of Python.
    fn returned(&self) {
        self.0.returned();
    }

    /// Leaves it to the workers, or to what the server does by itself.
    fn pass_on(&self) {
        self.0.settle(State::PassedOn);
    }
}
