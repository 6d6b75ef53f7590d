//! Answers in parts that other threads send.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::Serialize;

use super::handle;
use super::responder::Remote;
use crate::broker::flow::{requests, streams};
use crate::broker::state::keys::RequestKey;
use crate::broker::state::mailbox::Letter;
use crate::broker::state::refusal::{self, Refusal};
use crate::broker::state::watch::{Blocked, Watch};
use crate::handler_error::HandlerError;
use crate::proto::{Attached, Json, JsonError};

/// Sends the parts of an answer from any thread, at the pace of the requester.
///
/// A requester that asked for no stream gets one answer at the end: the array of all parts. If the
/// sender is dropped before [`PartSender::end`], the request is answered `handler_failed`.
///
/// ```
/// # fn main() -> Result<(), ipc_framework::Error> {
/// # let mut config = ipc_framework::Config::default();
/// # config.port = 0;
/// # let mut server = ipc_framework::Server::bind(config)?;
/// server.application("llm", "A model").channel("count").on_request(|request| {
///     let to: u32 = request.payload()?;
///     let (reply, mut parts) = request.stream()?;
///     std::thread::spawn(move || {
///         for number in 0..to {
///             // Waits until the requester takes another part, and fails once it is gone.
///             if parts.send(&number).is_err() {
///                 return;
///             }
///         }
///         parts.end();
///     });
///     Ok(reply)
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PartSender {
    request: Option<RequestKey>,
    remote: Arc<Remote>,
    watch: Arc<Watch>,
    parts: Parts,
}

#[derive(Debug)]
enum Parts {
    Sent,
    /// The array that a requester without a stream gets.
    Collected {
        json: String,
        attached: Option<Box<Attached>>,
        count: u64,
        bytes_max: usize,
    },
}

impl PartSender {
    pub(super) fn new(
        request: RequestKey,
        remote: Arc<Remote>,
        watch: Arc<Watch>,
        is_stream: bool,
        bytes_max: usize,
    ) -> Self {
        let parts = if is_stream {
            Parts::Sent
        } else {
            Parts::Collected { json: String::new(), attached: None, count: 0, bytes_max }
        };
        Self { request: Some(request), remote, watch, parts }
    }

    /// Sends a part, and waits until the requester takes one. It must not be called on the thread of
    /// the loop, which would wait for itself; where it would wait there, it fails with
    /// [`PartError::OnLoop`].
    ///
    /// # Errors
    /// If the request is over, or the value cannot be sent.
    pub fn send<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), PartError> {
        self.send_json(Json::from_serialize(part).map_err(PartError::NotJson)?)
    }

    /// Does the same as [`PartSender::send`] with JSON text.
    ///
    /// # Errors
    /// The same.
    pub fn send_json(&mut self, part: Json<'static>) -> Result<(), PartError> {
        if matches!(self.parts, Parts::Sent) && !handle::is_inside(&self.remote) {
            // The next look finds the same.
            let _ = self.watch.wait(None);
        }
        if self.try_send_json(part)? { Ok(()) } else { Err(PartError::OnLoop) }
    }

    /// Sends a part if the requester takes one now, and returns whether it does. Otherwise nothing is
    /// sent; [`PartSender::wait`] and [`PartSender::poll_ready`] tell when to try again.
    ///
    /// # Errors
    /// If the request is over, or the value cannot be sent.
    pub fn try_send<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<bool, PartError> {
        self.try_send_json(Json::from_serialize(part).map_err(PartError::NotJson)?)
    }

    /// Does the same as [`PartSender::try_send`] with JSON text.
    ///
    /// # Errors
    /// The same.
    pub fn try_send_json(&mut self, part: Json<'static>) -> Result<bool, PartError> {
        let Some(request) = self.request else { return Err(PartError::Cancelled) };
        match &mut self.parts {
            Parts::Collected { .. } if self.watch.is_cancelled() => Err(PartError::Cancelled),
            Parts::Collected { json, attached, count, bytes_max } => {
                let so_far = json.len() + attached.as_ref().map_or(0, |all| all.bytes());
                if so_far + part.bytes() + 2 > *bytes_max {
                    self.answer(Err(refusal::stream_too_large()));
                    return Err(PartError::TooLarge);
                }
                json.push(if json.is_empty() { '[' } else { ',' });
                json.push_str(part.as_str());
                if part.carried().is_some() {
                    attached.get_or_insert_default().add(*count, &part.attachments());
                }
                *count += 1;
                Ok(true)
            }
            Parts::Sent => {
                let bytes = part.bytes();
                match self.watch.take_credit(bytes) {
                    Ok(()) => {}
                    Err(Blocked::NoCredit) => return Ok(false),
                    Err(Blocked::Over) => return Err(PartError::Cancelled),
                }
                let watch = self.watch.clone();
                let pass = Box::new(move |core: &mut _| {
                    watch.note_taken(bytes);
                    streams::pass_own(core, request, &part);
                });
                self.remote.send(bytes, Letter::Command(pass));
                Ok(true)
            }
        }
    }

    /// Waits until the requester takes a part. Returns whether it does; if not, the time is up.
    ///
    /// # Errors
    /// If the request is over.
    pub fn wait(&self, timeout: Duration) -> Result<bool, PartError> {
        if matches!(self.parts, Parts::Collected { .. }) {
            return if self.is_cancelled() { Err(PartError::Cancelled) } else { Ok(true) };
        }
        match self.watch.wait(Some(timeout)) {
            Ok(()) => Ok(true),
            Err(Blocked::NoCredit) => Ok(false),
            Err(Blocked::Over) => Err(PartError::Cancelled),
        }
    }

    /// Does the same as [`PartSender::wait`] in a future: it is ready when
    /// [`PartSender::try_send`] has credit, or when the request is over.
    ///
    /// # Errors
    /// If the request is over.
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), PartError>> {
        if matches!(self.parts, Parts::Collected { .. }) && !self.is_cancelled() {
            return Poll::Ready(Ok(()));
        }
        match self.watch.poll(context.waker()) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(Blocked::NoCredit) => Poll::Pending,
            Err(Blocked::Over) => Poll::Ready(Err(PartError::Cancelled)),
        }
    }

    /// Returns whether the request ended before its answer: its requester cancelled it or left, its
    /// time is up, or the server ends.
    pub fn is_cancelled(&self) -> bool {
        self.watch.is_cancelled()
    }

    /// Calls a function on the thread of the loop as soon as the request is cancelled, or here and
    /// now if it is already. The function must not wait.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        self.watch.on_cancel(Box::new(hook));
    }

    /// Ends the answer.
    pub fn end(mut self) {
        match &mut self.parts {
            Parts::Collected { json, attached, .. } => {
                json.push_str(if json.is_empty() { "[]" } else { "]" });
                let (json, attached) = (std::mem::take(json), attached.take());
                let all = Json::parse(json).and_then(|all| match attached {
                    Some(attached) => attached.join(all),
                    None => Ok(all),
                });
                self.answer(all.map_err(|_| refusal::stream_too_large()));
            }
            Parts::Sent => {
                let Some(request) = self.request.take() else { return };
                self.remote.post(move |core| streams::finish_own(core, request));
            }
        }
    }

    /// Answers with one value in place of parts, which a requester of a stream gets as its only part.
    pub fn reply_json(mut self, payload: Json<'static>) {
        self.answer(Ok(payload));
    }

    /// Ends the answer with an error: [`HandlerError::app`], or one that the requester gets as
    /// `handler_failed`.
    pub fn fail(mut self, error: impl Into<HandlerError>) {
        let error = error.into();
        match error.payload() {
            Some(payload) => self.answer(Ok(payload.clone())),
            None => self.answer(Err(refusal::handler_failed(error.text()))),
        }
    }

    fn answer(&mut self, answer: Result<Json<'static>, Refusal>) {
        let Some(request) = self.request.take() else { return };
        self.remote.post(move |core| requests::answer_deferred(core, request, answer));
    }
}

impl Drop for PartSender {
    fn drop(&mut self) {
        self.answer(Err(refusal::handler_dropped()));
    }
}

/// The reason why a part was not sent.
///
/// ```
/// use ipc_framework::PartError;
///
/// assert!(PartError::Cancelled.to_string().contains("is over"));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum PartError {
    /// The request is over. Send no more, and end the work for it.
    Cancelled,
    /// The requester takes no part now, and the thread of the loop cannot wait until it does.
    OnLoop,
    /// The value cannot be written as JSON.
    NotJson(JsonError),
    /// All parts together fit into no frame, and the requester asked for no stream.
    TooLarge,
}

impl fmt::Display for PartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("the request is over; end the work for it"),
            Self::OnLoop => f.write_str(
                "the requester takes no part now, and the loop cannot wait for it; send parts from \
                 another thread",
            ),
            Self::NotJson(error) => error.fmt(f),
            Self::TooLarge => f.write_str(
                "the parts together exceed the limit for a frame, and the requester asked for no \
                 stream; send less, or have it ask for one",
            ),
        }
    }
}

impl std::error::Error for PartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotJson(error) => Some(error),
            _ => None,
        }
    }
}
