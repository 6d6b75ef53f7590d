//! The origin of a message and its state, by which its handler answers; and the requests without
//! an answer.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use ipc_framework::proto::system::Failure;
use ipc_framework::{
    ConnectionKey, Envelope, ErrorCode, HandlerError, Json, Message, MessageType, Request,
};
use pyo3::prelude::*;

use super::connections::ConnectionTable;
use super::reply::Reply;
use super::turn::Door;
use crate::cancelled::{Cancelled, Listeners};
use crate::notices::Notices;
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
    parts: Mutex<Yielded>,
    listeners: OnceLock<Arc<Listeners>>,
    /// The time at which the requester gives up, if it has said when.
    deadline: Option<Instant>,
    is_request: bool,
    /// Set if the requester gets parts as they come.
    takes_stream: bool,
    /// Set while a coroutine works on it.
    is_held: AtomicBool,
}

/// The parts that a handler has yielded, and that are not sent yet.
#[derive(Default)]
struct Yielded {
    /// All of them, for a requester that takes one answer.
    collected: Option<Box<Parts>>,
    /// The one that waits for credit.
    waiting: Option<Json<'static>>,
}

/// The state of a message, as its handler has left it so far.
pub(super) enum State {
    /// Nothing, and the loop's thread waits for it.
    Open,
    /// Nothing yet, and the loop has gone on.
    Deferred(Reply),
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

    /// Returns the origin of a request. Until it is answered, [`find`](Self::find) finds it.
    pub(super) fn of_request(self: &Arc<Self>, request: &Request<'_>) -> Arc<Origin> {
        let mut origin = self.new_origin(request.from(), request.message());
        origin.deadline = request.remaining().and_then(|left| Instant::now().checked_add(left));
        origin.takes_stream = request.takes_stream();
        let origin = Arc::new(origin);
        let mut pending = self.pending();
        pending.by_id.entry(origin.message_id.clone()).or_default().push(origin.clone());
        drop(pending);
        origin
    }

    /// Returns the origin of a message that is no request for a handler.
    pub(super) fn of(self: &Arc<Self>, from: ConnectionKey, message: &Envelope<'_>) -> Arc<Origin> {
        Arc::new(self.new_origin(from, message))
    }

    fn new_origin(self: &Arc<Self>, from: ConnectionKey, message: &Envelope<'_>) -> Origin {
        Origin {
            origins: self.clone(),
            from,
            app_id: message.app_id().decode().into(),
            message_id: message.message_id().decode().into(),
            state: Mutex::new(State::Open),
            parts: Mutex::default(),
            listeners: OnceLock::new(),
            deadline: None,
            takes_stream: false,
            is_request: message.message_type() == MessageType::Request,
            is_held: AtomicBool::new(false),
        }
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

    /// Returns those who want to know when it is cancelled, which has a price from then on.
    pub(super) fn listeners(&self) -> &Arc<Listeners> {
        if let Some(listeners) = self.listeners.get() {
            return listeners;
        }
        // The state cannot change meanwhile, so that either this or `defer` connects them.
        let state = self.lock();
        self.listeners.get_or_init(|| {
            let listeners = Arc::<Listeners>::default();
            if let State::Deferred(reply) = &*state {
                connect(reply, &listeners);
            }
            listeners
        })
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.listeners.get().is_some_and(|listeners| listeners.is_cancelled())
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
            self.enter(&mut state, next);
            return told;
        }
        done
    }

    pub(super) fn defer(&self, reply: Reply) {
        self.enter(&mut self.lock(), State::Deferred(reply));
    }

    /// Changes the state, and tells whoever waits for the loop to go on.
    fn enter(&self, state: &mut State, next: State) {
        *state = next;
        if let Some(listeners) = self.listeners.get() {
            if let State::Deferred(reply) = &*state {
                connect(reply, listeners);
            }
            listeners.add_credit();
        }
    }

    fn yielded(&self) -> MutexGuard<'_, Yielded> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends or collects the part that waits, if there is one. Returns whether more are wanted, and
    /// nothing if it still waits.
    fn flush_part(&self) -> Option<bool> {
        let listeners = self.listeners();
        let mut yielded = self.yielded();
        let Some(part) = yielded.waiting.take() else { return Some(!listeners.is_cancelled()) };
        let mut state = self.lock();
        match &mut *state {
            State::Open if self.takes_stream => {
                yielded.waiting = Some(part);
                None
            }
            State::Deferred(Reply::Parts(sender)) => {
                let waker = Waker::from(Arc::clone(listeners));
                match sender.poll_ready(&mut TaskContext::from_waker(&waker)) {
                    Poll::Ready(Ok(())) => Some(sender.try_send_json(part).unwrap_or(false)),
                    Poll::Ready(Err(_)) => Some(false),
                    Poll::Pending => {
                        yielded.waiting = Some(part);
                        None
                    }
                }
            }
            State::Open | State::Deferred(_) if listeners.is_cancelled() => Some(false),
            State::Open | State::Deferred(_) => {
                drop(state);
                let bytes_max = self.origins.door.frame_bytes_max();
                let new = || Box::new(Parts::new(bytes_max));
                let has_room = yielded.collected.get_or_insert_with(new).add(part);
                if !has_room {
                    self.refuse_as(ErrorCode::LimitExceeded, TOO_LARGE);
                }
                Some(has_room)
            }
            _ => Some(false),
        }
    }

    /// Waits until the part that waits is sent. Returns whether more are wanted.
    fn wait_part(&self) -> bool {
        let listeners = self.listeners();
        loop {
            let seen = listeners.credits();
            if let Some(is_wanted) = self.flush_part() {
                return is_wanted;
            }
            listeners.wait_credit(seen);
        }
    }

    /// Ends a stream without an error. Returns false if the requester takes one answer.
    fn finish_stream(&self) -> bool {
        let listeners = self.listeners();
        loop {
            let seen = listeners.credits();
            let mut state = self.lock();
            match std::mem::replace(&mut *state, State::Settled) {
                State::Open if self.takes_stream => *state = State::Open,
                State::Deferred(Reply::Parts(sender)) => {
                    drop(state);
                    self.origins.remove(self);
                    sender.end();
                    return true;
                }
                other => {
                    *state = other;
                    return false;
                }
            }
            drop(state);
            // The loop's thread is about to go on.
            listeners.wait_credit(seen);
        }
    }

    /// Answers with an error of the server's own codes.
    pub(super) fn refuse_as(&self, code: ErrorCode, text: &str) {
        match Json::from_serialize(&Failure::new(code, text)) {
            Ok(refused) => self.reply(refused),
            Err(_) => self.refuse(text),
        }
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
            State::Deferred(reply) => {
                reply.reply(message.payload);
                Ok(())
            }
            _ => self.origins.door.send(py, self.from, message),
        }
    }

    fn settle(&self, outcome: State) {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Settled) {
            State::Open => *state = outcome,
            State::Deferred(reply) => match outcome {
                State::Replied(payload) => reply.reply(payload),
                State::Failed(error) => reply.refuse(error),
                _ => reply.refuse(HandlerError::new("nobody serves requests on it")),
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

fn connect(reply: &Reply, listeners: &Arc<Listeners>) {
    let listeners = Arc::clone(listeners);
    reply.on_cancel(move || listeners.cancel());
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
        self.0.reply(json::payload(payload)?);
        Ok(())
    }

    /// Adds a part to the answer. Returns false if no more of them are wanted, and None if it waits
    /// for credit; then no other one may be added.
    fn add_part(&self, payload: &Bound<'_, PyAny>) -> PyResult<Option<bool>> {
        let part = json::payload(payload)?;
        self.0.yielded().waiting = Some(part);
        Ok(self.0.flush_part())
    }

    /// Returns whether an answer can be sent at once: the loop takes it whatever waits there.
    #[getter]
    #[expect(clippy::unused_self, reason = "a request of a client's worker has the same property")]
    fn has_room(&self) -> bool {
        true
    }

    /// Returns whether nobody waits for the answer any more.
    #[getter]
    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Returns the seconds until the requester gives up, if it has said when.
    #[getter]
    fn remaining(&self) -> Option<f64> {
        let deadline = self.0.deadline?;
        Some(deadline.saturating_duration_since(Instant::now()).as_secs_f64())
    }

    /// Returns the event that is set when nobody waits for the answer any more.
    fn cancelled(&self) -> Cancelled {
        Cancelled(Arc::clone(self.0.listeners()))
    }

    /// Has an event loop told when nobody waits for the answer any more, and when there is credit.
    fn watch(&self, notices: &Bound<'_, Notices>, number: u64) {
        self.0.listeners().watch(notices.get().watch(number));
    }

    /// Sends the part that waits. Returns what `add_part` returns.
    fn flush_part(&self) -> Option<bool> {
        self.0.flush_part()
    }

    /// Blocks until the part that waits is sent. Returns whether more of them are wanted.
    fn wait_part(&self, py: Python<'_>) -> bool {
        py.detach(|| self.0.wait_part())
    }

    /// Ends the stream, or answers with the parts that were added, unless it is answered.
    fn end_parts(&self, py: Python<'_>) -> PyResult<()> {
        if py.detach(|| self.0.finish_stream()) {
            return Ok(());
        }
        let parts = self.0.yielded().collected.take();
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
