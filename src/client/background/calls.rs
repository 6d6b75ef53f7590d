//! Requests with options, and what their server is told about them later: cancels and credit.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use uuid::Uuid;

use super::outbox::Kind;
use super::shared::{Limit, Shared};
use super::state::Link;
use super::waiter::{Slot, Waiter};
use crate::client::error::{Error, Execution};
use crate::client::payload::Payload;
use crate::client::request_options::{RequestOptions, Terms};
use crate::client::wire::encoder::Heading;
use crate::proto::system::{Cancel, Credit, SYSTEM};
use crate::proto::{Message, MessageType};

impl Shared {
    /// Sends a request with options, whose answer goes to `waiter`. The driver watches its deadline.
    pub(crate) fn ask_with<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        options: &RequestOptions,
        waiter: Waiter,
    ) -> Result<Uuid, Error> {
        let terms = self.terms(options, &waiter)?;
        let heading = Heading::request(channel_id, terms.meta.as_deref());
        self.ask(heading, payload, Kind::AnyConnection, waiter, watched(&terms))
    }

    /// Sends a request without changing it, with options. See [`ask_with`](Self::ask_with).
    pub(crate) fn ask_message_with(
        &self,
        message: &Message,
        id: Uuid,
        options: &RequestOptions,
        waiter: Waiter,
    ) -> Result<Uuid, Error> {
        let terms = self.terms(options, &waiter)?;
        self.ask_message(message, terms.meta.as_deref(), id, waiter, watched(&terms))
    }

    /// Sends a request with options, and blocks until its answer comes.
    pub(crate) fn ask_and_wait_with<T: Payload + ?Sized>(
        self: &Arc<Self>,
        channel_id: &str,
        payload: &T,
        options: &RequestOptions,
    ) -> Result<Message, Error> {
        if self.is_driver() {
            return Err(Error::OnClientThread);
        }
        let slot = Arc::new(Slot::default());
        let waiter = Waiter::Slot(Arc::clone(&slot));
        let terms = self.terms(options, &waiter)?;
        let heading = Heading::request(channel_id, terms.meta.as_deref());
        let Terms { begin, deadline, is_given, .. } = terms;
        let limit = Limit { deadline, is_watched: false, is_given };
        let id = self.ask(heading, payload, Kind::AnyConnection, waiter, limit)?;
        let cancel = options.cancel.as_ref();
        let listening = cancel.map(|token| token.listen(self.canceller(id)));
        let answer = self.wait_for(&slot, id, begin, deadline);
        drop(listening);
        answer
    }

    /// Sends a publication without changing it, of which the server says when it has taken it.
    pub(crate) fn ask_publication(
        &self,
        message: &Message,
        meta: Option<&[u8]>,
        deadline: Option<Instant>,
        tell: impl FnOnce(Result<Message, Error>) + Send + 'static,
    ) -> Result<Uuid, Error> {
        let mut encoder = self.encoder()?;
        let fresh = encoder.message(message, meta)?;
        let id = fresh.or_else(|| Uuid::try_parse(&message.message_id).ok());
        let id = id.ok_or(Error::BadId { field: "message_id" })?;
        let waiter = Waiter::Callback(Box::new(tell));
        // When its time is up there is nothing to cancel.
        let limit = Limit { deadline, is_watched: true, is_given: true };
        self.ask_encoded(&mut encoder, id, Kind::AnyConnection, waiter, limit)
    }

    fn terms(&self, options: &RequestOptions, waiter: &Waiter) -> Result<Terms, Error> {
        let is_stream = matches!(waiter, Waiter::Stream(_));
        let extensions = self.lock().extensions;
        options.terms(extensions, self.options.connection.timeout, is_stream)
    }

    /// Returns what cancels the request when its token is cancelled.
    pub(crate) fn canceller(self: &Arc<Self>, id: Uuid) -> impl FnOnce() + Send + 'static {
        let shared = Arc::downgrade(self);
        move || {
            if let Some(shared) = shared.upgrade() {
                shared.end_request(id, |execution| Error::Cancelled { execution });
            }
        }
    }

    /// Stops waiting for an answer. A request that has not left is then not sent, and of one that
    /// has left the server is told. Returns false if the answer has already come.
    pub(crate) fn cancel(&self, id: Uuid) -> bool {
        let forgotten = self.forget(id);
        forgotten.is_some()
    }

    /// Ends a request with an error for its waiter.
    pub(crate) fn end_request(&self, id: Uuid, error: impl FnOnce(Execution) -> Error) {
        if let Some((waiter, execution)) = self.forget(id) {
            waiter.tell(Err(error(execution)));
        }
    }

    /// Ends a request whose server breaks the rules of streams.
    pub(crate) fn end_broken(&self, id: Uuid, what: &str) {
        self.end_request(id, |_| Error::broken_stream(what));
    }

    fn forget(&self, id: Uuid) -> Option<(Waiter, Execution)> {
        let mut state = self.lock();
        let is_begun = state.outbox.begun() == Some(id);
        let forgotten = state.pending.forget(id)?;
        let generation = state.generation;
        drop(state);
        let execution = if is_begun { Execution::Possible } else { forgotten.execution };
        if execution == Execution::Possible {
            self.send_cancel(id, generation);
        }
        Some((forgotten.waiter, execution))
    }

    /// Tells the server that nobody waits for the answer to a request of the connection with this
    /// generation. A later connection has no such request.
    pub(crate) fn send_cancel(&self, id: Uuid, generation: u64) {
        let mut text = Uuid::encode_buffer();
        let cancel = Cancel::new(id.hyphenated().encode_lower(&mut text));
        self.tell_server(&cancel, |generation_now, _| generation_now == generation);
    }

    /// Lets the worker send more parts of a stream.
    pub(crate) fn give_credit(&self, id: Uuid, credit: u32) {
        let mut text = Uuid::encode_buffer();
        let credit = Credit::new(id.hyphenated().encode_lower(&mut text), credit);
        self.tell_server(&credit, |_, is_pending| is_pending(id));
    }

    /// Sends a notification to the server itself, if it knows the extension and the condition on the
    /// generation and the requests in flight holds.
    fn tell_server<T: Serialize>(
        &self,
        payload: &T,
        holds: impl FnOnce(u64, &dyn Fn(Uuid) -> bool) -> bool,
    ) {
        if !self.lock().has_call() {
            return;
        }
        // Without an encoder, or on a lost connection, nothing is told; the server finds out when
        // the connection ends.
        let Ok(mut encoder) = self.encoder() else { return };
        let heading = Heading::new(MessageType::Notification, SYSTEM);
        if encoder.value(heading, payload).is_err() {
            return;
        }
        let mut state = self.lock();
        let is_open = matches!(state.link, Link::Up(_) | Link::Leaving(_));
        let holds = holds(state.generation, &|id| state.pending.contains(id));
        if is_open && state.has_call() && holds {
            let _ = self.dispatch(&mut state, &mut encoder, Kind::Control, None);
        }
    }
}

fn watched(terms: &Terms) -> Limit {
    Limit { deadline: terms.deadline, is_watched: true, is_given: terms.is_given }
}
