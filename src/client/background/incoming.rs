//! The meaning of a received frame, and its delivery.

use std::sync::{Arc, MutexGuard, PoisonError};

use serde::Deserialize;
use uuid::Uuid;

use super::job::{Extras, Job};
use super::parts::Parts;
use super::routes::Sink;
use super::shared::Shared;
use super::shield::shielded;
use super::state::{Service, State};
use super::waiter::Waiter;
use crate::client::error::Error;
use crate::client::wire::answer;
use crate::client::wire::frames::Received;
use crate::proto::Message;
use crate::proto::system::{CancelReason, SYSTEM};
use crate::proto::{Envelope, ErrorCode, MessageType, Meta};

/// A received frame, with the part of the client that it is for.
pub(crate) enum Incoming {
    Answer(Waiter, Result<Message, Error>),
    /// An answer for which no request waits, and its error if it refuses a message that we sent.
    Unasked(Vec<Sink>, Message, Option<Error>),
    Message(Vec<Sink>, Message),
    /// A part of a stream, the request that it answers, and its number.
    Part(Arc<Parts>, Uuid, u64, Message),
    /// The end of a stream, whose parts came before this number.
    End(Arc<Parts>, u64),
    /// A request whose answer breaks the rules of streams.
    Broken(Uuid, String),
    Job(Arc<dyn Service>, Message, Job),
    /// A cancel of a request that this client serves, by the channel's worker.
    Cancel(Arc<Job>, Option<Arc<dyn Service>>, CancelReason),
    /// A number of parts that a requester takes more.
    Credit(Arc<Job>, u32),
    /// A request on a channel that this client does not serve.
    Unserved(Message),
    /// A message whose attachments are not usable, and that answers nothing.
    Unusable {
        channel_id: String,
        message_id: String,
        is_request: bool,
        error: Error,
    },
    Leave,
    LastWords(Error),
    Nothing,
}

pub(crate) fn classify(shared: &Shared, envelope: &Received<'_>) -> Incoming {
    if let Some(error) = envelope.fault() {
        return faulty(shared, envelope, error);
    }
    if envelope.meta().is_some()
        && let Some(incoming) = extended(shared, envelope)
    {
        return incoming;
    }
    let error = answer::error_of(envelope);
    if let Some(reply_to) = envelope.reply_to() {
        return answered(shared, envelope, &reply_to.decode(), error);
    }
    match error {
        Some(Error::Answered { code: ErrorCode::ShuttingDown, .. }) => return Incoming::Leave,
        Some(error @ Error::Answered { code, .. }) if code.closes_connection() => {
            return Incoming::LastWords(error);
        }
        Some(error) => {
            let sinks = shared.lock().rest_sink();
            return Incoming::Unasked(sinks, envelope.owned(), Some(error));
        }
        None => {}
    }
    let channel_id = envelope.channel_id().decode();
    let publication = envelope.publication();
    let mut state = shared.lock();
    let is_job =
        matches!(envelope.message_type(), MessageType::Request | MessageType::Notification);
    if is_job && let Some(worker) = state.served.get(&*channel_id) {
        let (worker, generation) = (Arc::clone(worker), state.generation);
        drop(state);
        let message = envelope.owned();
        let job = Job::new(&message, Extras::of(envelope), generation);
        return Incoming::Job(worker, message, job);
    }
    let is_notification = envelope.message_type() == MessageType::Notification;
    if is_notification && channel_id == SYSTEM && state.has_call() {
        return told(&state, envelope);
    }
    let position = publication.as_ref().and_then(|publication| publication.position.as_ref());
    let sinks = state.routes.sinks(&channel_id, envelope, position);
    let sinks = sinks.unwrap_or_else(|| state.rest_sink());
    drop(state);
    match envelope.message_type() {
        _ if !sinks.is_empty() => Incoming::Message(sinks, envelope.owned_with(publication)),
        MessageType::Request => Incoming::Unserved(envelope.owned()),
        _ => Incoming::Nothing,
    }
}

/// Returns the meaning of a message whose attachments are not usable. It is an error of that message, and the
/// connection goes on.
#[cold]
fn faulty(shared: &Shared, envelope: &Envelope<'_>, error: Error) -> Incoming {
    let reply_to = envelope.reply_to().map(|id| id.decode().into_owned());
    if let Some(id) = reply_to.as_ref().and_then(|id| Uuid::try_parse(id).ok()) {
        let mut state = shared.lock();
        if matches!(state.pending.waiter(id), Some(Waiter::Stream(_))) {
            return Incoming::Broken(id, error.to_string());
        }
        if let Some(waiter) = state.pending.answered(id) {
            drop(state);
            return Incoming::Answer(waiter, Err(error));
        }
    }
    let channel_id = envelope.channel_id().decode().into_owned();
    let message_id = envelope.message_id().decode().into_owned();
    let is_request = envelope.message_type() == MessageType::Request;
    Incoming::Unusable { channel_id, message_id, is_request, error }
}

/// A notification of the server about a request that this client serves.
#[derive(Deserialize)]
struct Told {
    action: String,
    message_id: String,
    reason: Option<String>,
    n: Option<u32>,
}

fn told(state: &State, envelope: &Envelope<'_>) -> Incoming {
    let Ok(told) = envelope.payload().decode_text::<Told>() else { return Incoming::Nothing };
    let job = Uuid::try_parse(&told.message_id).ok().and_then(|id| state.running.get(&id));
    // What is told of a request that was answered meanwhile is of no use.
    let Some(job) = job.map(Arc::clone) else { return Incoming::Nothing };
    match (&*told.action, told.n) {
        ("cancel", _) => {
            let reason = told.reason.as_deref().map_or(CancelReason::Gone, CancelReason::from_wire);
            let worker = state.served.get(job.channel_id()).map(Arc::clone);
            Incoming::Cancel(job, worker, reason)
        }
        ("credit", Some(credit)) => Incoming::Credit(job, credit),
        _ => Incoming::Nothing,
    }
}

/// Returns the meaning of a response that has a number in its `meta`. A part is never an error,
/// whatever its payload.
#[cold]
fn extended(shared: &Shared, envelope: &Received<'_>) -> Option<Incoming> {
    let (meta, reply_to) = (envelope.meta()?, envelope.reply_to()?);
    if envelope.message_type() != MessageType::Response {
        return None;
    }
    let id = Uuid::try_parse(&reply_to.decode());
    let meta = match Meta::parse_known(meta.as_str()) {
        Ok(meta) => meta,
        Err(fault) => return Some(Incoming::Broken(id.ok()?, fault.to_string())),
    };
    let seq = meta.seq?;
    // Parts that were on their way when the stream was cancelled still come.
    let Ok(id) = id else { return Some(Incoming::Nothing) };
    let mut state = shared.lock();
    let parts = match state.pending.waiter(id) {
        None => return Some(Incoming::Nothing),
        Some(Waiter::Stream(parts)) => Arc::clone(parts),
        Some(_) => {
            let what = "a part of an answer to a request that takes none".to_owned();
            return Some(Incoming::Broken(id, what));
        }
    };
    if meta.end {
        let waiter = state.pending.answered(id);
        drop(state);
        drop(waiter);
        return Some(Incoming::End(parts, seq));
    }
    state.pending.note_part(id);
    drop(state);
    Some(Incoming::Part(parts, id, seq, envelope.owned()))
}

fn answered(
    shared: &Shared,
    envelope: &Received<'_>,
    reply_to: &str,
    error: Option<Error>,
) -> Incoming {
    let mut state = shared.lock();
    if let Ok(id) = Uuid::try_parse(reply_to) {
        // The server has not looked at the request, so the caller need not know.
        let is_unseen =
            matches!(error, Some(Error::Answered { code: ErrorCode::ShuttingDown, .. }));
        if is_unseen && state.move_on(id) {
            return Incoming::Nothing;
        }
        let error = error.map(|error| state.pending.error_of(id, error));
        if let Some(waiter) = state.pending.answered(id) {
            drop(state);
            let error = error.filter(|_| !matches!(waiter, Waiter::AsItCame(_)));
            let answer = error.map_or_else(|| Ok(envelope.owned()), Err);
            return Incoming::Answer(waiter, answer);
        }
        return unasked(state, envelope, error);
    }
    unasked(state, envelope, error)
}

/// Returns the meaning of an answer for which no request waits.
fn unasked(
    state: MutexGuard<'_, State>,
    envelope: &Received<'_>,
    error: Option<Error>,
) -> Incoming {
    // This client has cancelled it, or its time was up on both sides.
    if error.as_ref().is_some_and(|error| error.code() == Some(ErrorCode::Cancelled.as_str())) {
        return Incoming::Nothing;
    }
    let sinks = state.rest_sink();
    drop(state);
    // Only requests are answered with these, so the request's timeout has passed here already.
    let is_late = |error: &Error| {
        use ErrorCode::{HandlerFailed, NoHandler, Timeout, WorkerLost};
        match error {
            Error::Answered { code, .. } => {
                matches!(code, NoHandler | HandlerFailed | WorkerLost | Timeout)
            }
            error => error.is_application(),
        }
    };
    let refused = error.filter(|error| !is_late(error));
    Incoming::Unasked(sinks, envelope.owned(), refused)
}

/// Hands a message to its listeners. Most channels have one, which needs no copy.
pub(crate) fn deliver(mut sinks: Vec<Sink>, message: Message) {
    let last = sinks.pop();
    for sink in &sinks {
        hand(sink, message.clone());
    }
    if let Some(last) = last {
        hand(&last, message);
    }
}

fn hand(sink: &Sink, message: Message) {
    match sink {
        Sink::Inbox(inbox) => inbox.put(message),
        Sink::Handler(handler) => {
            let mut handler = handler.lock().unwrap_or_else(PoisonError::into_inner);
            shielded(|| handler(message));
        }
    }
}
