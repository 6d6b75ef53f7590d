//! The message that a handler gets, and its ways to answer it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::{self, Context, SendError};
use super::part_sender::PartSender;
use super::responder::{Remote, Responder};
use crate::broker::flow::attachments::{self, Receiver, Rewrite, TooLarge};
use crate::broker::flow::forms::Publication;
use crate::broker::flow::{answers, calls, queues, requests};
use crate::broker::state::core::Core;
use crate::broker::state::encoder::Address;
use crate::broker::state::keys::{ChannelKey, ConnectionKey, RequestKey};
use crate::broker::state::refusal::{self, Refusal};
use crate::broker::state::watch::Watch;
use crate::handler_error::HandlerError;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::{
    Attachments, DecodeError, Envelope, Head, Json, Message, MessageType, Meta, OutFrame, Stamp,
    escaped,
};

/// The result of a request handler: the proof that it handled the request, or an error.
pub type RequestResult<'a> = Result<Reply<'a>, HandlerError>;

/// The way in which a handler handled its message. The handler's [`Delivery`] borrows this from the
/// caller of the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dealt {
    Not,
    Answered,
    /// It answers later, or never.
    Later,
    /// It leaves the message to the next handler, or to the workers.
    PassedOn,
}

/// The decision of a filter on a publication or subscription, see
/// [`Broker::filter`](crate::broker::Broker::filter).
///
/// ```
/// # use ipc_framework::{Config, Server, Verdict};
/// # fn main() -> Result<(), ipc_framework::Error> {
/// let mut server = Server::bind(Config::default().port(0))?;
/// server.filter(|delivery| match delivery.json().as_str().len() {
///     0..=1_000 => Ok(Verdict::CarryOut),
///     _ => Ok(Verdict::Drop),
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Carry it out.
    CarryOut,
    /// Drop it without an error, because the filter has handled it.
    Drop,
}

/// A message and its origin, before the state is added.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) envelope: &'a Envelope<'a>,
    pub(crate) from: ConnectionKey,
    pub(crate) channel: ChannelKey,
    /// What its `meta` asks for.
    pub(crate) meta: Option<&'a Meta<'a>>,
}

impl<'a> Parts<'a> {
    /// The message as a publication, with the body that it was read from.
    #[inline]
    pub(crate) fn publication(self, core: &Core, body: &'a [u8]) -> Publication<'a> {
        let is_of_link = core.connections.is_link(self.from);
        Publication { envelope: self.envelope, body, meta: self.meta, position: None, is_of_link }
    }

    pub(super) fn with(
        self,
        core: &'a mut Core,
        dealt: &'a mut Dealt,
        remote: &'a Arc<Remote>,
    ) -> Delivery<'a> {
        Delivery { parts: self, context: Context::new(core), dealt, remote }
    }
}

/// A notification or response for a handler: a borrowed message, and everything that a handler may
/// do.
///
/// ```
/// # fn main() -> Result<(), ipc_framework::Error> {
/// # let mut config = ipc_framework::Config::default();
/// # config.port = 0;
/// # let mut server = ipc_framework::Server::bind(config)?;
/// server.application("monitoring", "Monitoring").channel("metrics").on_notification(|mut note| {
///     let value: f64 = note.payload()?;
///     if value > 80.0 {
///         note.publish("alerts", &serde_json::json!({"high": value}))?;
///     }
///     Ok(())
/// });
/// # Ok(())
/// # }
/// ```
pub struct Delivery<'a> {
    parts: Parts<'a>,
    context: Context<'a>,
    dealt: &'a mut Dealt,
    remote: &'a Arc<Remote>,
}

impl<'a> Delivery<'a> {
    /// Returns the message, which is borrowed from its frame.
    pub fn message(&self) -> &Envelope<'a> {
        self.parts.envelope
    }

    /// Decodes the payload. A [`Blob`](crate::Blob) or [`Tensor`](crate::Tensor) in it is
    /// [`Owned`](crate::Owned), or borrowed from [`json`](Self::json) by
    /// [`decode_borrowed`](Json::decode_borrowed).
    ///
    /// # Errors
    /// If the payload does not have the shape of `T`.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        self.json().decode()
    }

    /// Returns the attachments of the payload: bytes and tensors in place of some of its nulls.
    pub fn attachments(&self) -> Attachments<'a> {
        self.parts.envelope.attachments().unwrap_or_default()
    }

    /// Returns the payload as the sender wrote it, with its attachments.
    pub fn json(&self) -> Json<'a> {
        self.parts.envelope.payload()
    }

    /// Returns the connection that sent the message.
    pub fn from(&self) -> ConnectionKey {
        self.parts.from
    }

    /// Returns the time that the requester gives the request, from now on, or `None` if it gave none.
    /// The server's own [`Limits::request_timeout`](crate::Limits::request_timeout) may be shorter.
    pub fn remaining(&self) -> Option<Duration> {
        let deadline = self.deadline()?;
        Some(deadline.saturating_sub(self.context.core.turn.now.monotonic))
    }

    /// Returns the point in time at which the requester gives up, in
    /// [`Now::monotonic`](crate::broker::Now::monotonic), or `None` if it gave no time.
    pub fn deadline(&self) -> Option<Duration> {
        let ttl_millis = self.parts.meta?.ttl_millis?;
        Some(calls::deadline(self.context.core, ttl_millis))
    }

    /// Publishes a value to a channel of the message's own application. Returns the number of
    /// subscribers that it was queued for.
    ///
    /// # Errors
    /// The same as [`Context::publish`].
    pub fn publish<T: Serialize + ?Sized>(
        &mut self,
        channel_id: &str,
        payload: &T,
    ) -> Result<usize, SendError> {
        self.send_to_subscribers(MessageType::Publish, channel_id, payload)
    }

    /// Does the same as [`Delivery::publish`] with a message of type `notification`.
    ///
    /// # Errors
    /// The same as [`Context::publish`].
    pub fn notify<T: Serialize + ?Sized>(
        &mut self,
        channel_id: &str,
        payload: &T,
    ) -> Result<usize, SendError> {
        self.send_to_subscribers(MessageType::Notification, channel_id, payload)
    }

    fn send_to_subscribers<T: Serialize + ?Sized>(
        &mut self,
        message_type: MessageType,
        channel_id: &str,
        payload: &T,
    ) -> Result<usize, SendError> {
        let payload = Json::from_serialize(payload).map_err(SendError::NotJson)?;
        let app_id = self.parts.envelope.app_id();
        let app_name = app_id.decode();
        let found = context::find(&mut *self.context.core, &app_name, channel_id)?;
        let Some(channel) = found else { return Ok(0) };
        let address = Address { app_id: app_id.raw(), channel_id: &escaped(channel_id) };
        context::publish(self.context.core, channel, address, message_type, &payload)
    }

    /// Returns the context, for everything else: other applications, broadcasts, listings.
    pub fn context(&mut self) -> &mut Context<'a> {
        &mut self.context
    }

    /// Passes the message to the next handler: from a channel's own handler to the fallback, see
    /// [`Broker::fallback`](crate::broker::Broker::fallback), and from there to the workers.
    ///
    /// # Errors
    /// There are none. The type is that of a handler's result.
    pub fn pass_on(self) -> Result<(), HandlerError> {
        *self.dealt = Dealt::PassedOn;
        Ok(())
    }

    /// Returns an owned answer to this message, for [`Context::send_to_connection`].
    pub fn create_response(&self, payload: Json<'static>) -> Message {
        let envelope = self.parts.envelope;
        Message {
            reply_to: Some(envelope.message_id().decode().into_owned()),
            ..Message::new(
                MessageType::Response,
                envelope.app_id().decode(),
                envelope.channel_id().decode(),
                payload,
            )
        }
    }
}

impl fmt::Debug for Delivery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("message", self.message()).finish_non_exhaustive()
    }
}

/// A request for a handler. It is answered once, because each way of answering consumes it.
///
/// ```
/// # fn main() -> Result<(), ipc_framework::Error> {
/// # let mut config = ipc_framework::Config::default();
/// # config.port = 0;
/// # let mut server = ipc_framework::Server::bind(config)?;
/// server.application("math", "Arithmetic").channel("square").on_request(|request| {
///     let x: f64 = request.payload()?;
///     if !x.is_finite() {
///         return Err("give me a finite number".into());
///     }
///     request.reply(&(x * x))
/// });
/// # Ok(())
/// # }
/// ```
pub struct Request<'a> {
    delivery: Delivery<'a>,
}

impl<'a> From<Delivery<'a>> for Request<'a> {
    fn from(delivery: Delivery<'a>) -> Self {
        Self { delivery }
    }
}

impl<'a> Request<'a> {
    /// Answers with any value.
    ///
    /// # Errors
    /// If the value cannot be written as JSON, or the frame exceeds the limit.
    pub fn reply<T: Serialize + ?Sized>(self, payload: &T) -> RequestResult<'a> {
        let Delivery { parts, context, dealt, .. } = self.delivery;
        let core = context.into_core();
        let address = Address::of(parts.envelope);
        let reply_to = Some(parts.envelope.message_id().raw().as_bytes());
        let answer = match answers::encode(core, address, MessageType::Response, reply_to, payload)?
        {
            Ok(answer) => answer,
            Err(attached) => return reply_attached(core, parts, dealt, &attached),
        };
        let replied = finish(core, parts.from, dealt, &answer.frame());
        core.encoder.recycle(answer);
        replied
    }

    /// Answers with JSON text, which is copied unchanged.
    ///
    /// # Errors
    /// If the frame exceeds the limit.
    pub fn reply_json(self, payload: &Json<'_>) -> RequestResult<'a> {
        let Delivery { parts, context, dealt, .. } = self.delivery;
        let core = context.into_core();
        if payload.carried().is_some() {
            return reply_attached(core, parts, dealt, payload);
        }
        let stamp = core.encoder.stamp(core.turn.now.unix);
        let head = answer_head(parts.envelope, &stamp);
        let answer = OutFrame::own(&head, payload.as_str().as_bytes(), &mut core.pool);
        finish(core, parts.from, dealt, &answer)
    }

    /// Answers later, from any thread. Other requests are answered meanwhile, so such an answer may
    /// come after those to later requests.
    ///
    /// # Errors
    /// If too many requests wait for their answers. The requester gets an error as well.
    pub fn defer(self) -> Result<(Reply<'a>, Responder), HandlerError> {
        let Delivery { parts, context, dealt, remote } = self.delivery;
        let core = context.into_core();
        *dealt = Dealt::Later;
        match begin_deferred(core, parts) {
            Ok(request) => Ok((Reply(PhantomData), Responder::new(request, remote.clone()))),
            Err(why) => {
                answers::refuse(core, parts.from, parts.envelope, &why);
                Err(HandlerError::new(why.text))
            }
        }
    }

    /// Returns whether the requester takes an answer in parts, and gets them as they come.
    pub fn takes_stream(&self) -> bool {
        self.parts.meta.is_some_and(|meta| meta.stream.is_some())
    }

    /// Answers in parts, from any thread. A requester that asked for a stream gets them as they come,
    /// as many as it gives credit for; any other one gets the array of all of them at the end.
    ///
    /// # Errors
    /// If too many requests wait for their answers. The requester gets an error as well.
    pub fn stream(self) -> Result<(Reply<'a>, PartSender), HandlerError> {
        let Delivery { parts, context, dealt, remote } = self.delivery;
        let core = context.into_core();
        *dealt = Dealt::Later;
        match begin_deferred(core, parts) {
            Ok(request) => {
                let credit = parts.meta.and_then(|meta| meta.stream);
                let watch = Arc::new(Watch::with_credit(credit.unwrap_or(0)));
                calls::watch(core, request, watch.clone());
                let envelope = parts.envelope;
                let ids = [envelope.app_id(), envelope.channel_id(), envelope.message_id()];
                let ids_bytes = ids.map(|id| id.raw().len()).iter().sum::<usize>();
                let bytes_max = core.limits.frame_bytes_max.saturating_sub(HEAD_BYTES + ids_bytes);
                let is_stream = credit.is_some();
                let sender = PartSender::new(request, remote.clone(), watch, is_stream, bytes_max);
                Ok((Reply(PhantomData), sender))
            }
            Err(why) => {
                answers::refuse(core, parts.from, parts.envelope, &why);
                Err(HandlerError::new(why.text))
            }
        }
    }

    /// Leaves the request without an answer, so that its sender waits until its own timeout. This is
    /// for handlers that answer later by [`Context::send_to_connection`].
    pub fn leave_unanswered(self) -> Reply<'a> {
        *self.delivery.dealt = Dealt::Later;
        Reply(PhantomData)
    }

    /// Records that the handler has answered it by [`Context::send_to_connection`], with a message of
    /// its own.
    pub fn answered(self) -> Reply<'a> {
        *self.delivery.dealt = Dealt::Answered;
        Reply(PhantomData)
    }

    /// Passes the request to the next handler: from a channel's own handler to the fallback, see
    /// [`Broker::fallback`](crate::broker::Broker::fallback), and from there to the workers. If there
    /// is none, it is answered `no_handler`.
    pub fn pass_on(self) -> Reply<'a> {
        *self.delivery.dealt = Dealt::PassedOn;
        Reply(PhantomData)
    }
}

/// Returns the head of an answer to a message.
#[inline]
fn answer_head<'a>(envelope: &Envelope<'a>, stamp: &'a Stamp) -> Head<'a> {
    Head {
        message_id: stamp.id(),
        app_id: envelope.app_id().raw(),
        channel_id: envelope.channel_id().raw(),
        message_type: MessageType::Response,
        timestamp: stamp.time(),
        reply_to: Some(envelope.message_id().raw().as_bytes()),
        meta: None,
    }
}

/// Answers with a payload that has attachments, in the form that the requester takes.
#[cold]
fn reply_attached<'a>(
    core: &mut Core,
    parts: Parts<'_>,
    dealt: &mut Dealt,
    payload: &Json<'_>,
) -> RequestResult<'a> {
    let stamp = core.encoder.stamp(core.turn.now.unix);
    let rewrite = Rewrite::own(answer_head(parts.envelope, &stamp), Meta::default(), payload);
    let to = Receiver::of(core, parts.from);
    let frame = match rewrite.frame(to, &mut core.pool) {
        Ok(frame) => frame,
        Err(TooLarge::WithItsId { .. } | TooLarge::Json { .. }) => {
            return Err(HandlerError::new(refusal::answer_over_frame(core.limits.frame_bytes_max)));
        }
        Err(too_large @ TooLarge::InBase64 { .. }) => {
            // It is not the handler that failed.
            let why = too_large.to_answer(to);
            *dealt = Dealt::Answered;
            answers::refuse(core, parts.from, parts.envelope, &why);
            return Err(HandlerError::new(why.text));
        }
    };
    attachments::note_work(core, to, &frame);
    finish(core, parts.from, dealt, &frame)
}

/// An answer without its payload and the ids of its request.
const HEAD_BYTES: usize = 256;

fn begin_deferred(core: &mut Core, parts: Parts<'_>) -> Result<RequestKey, Refusal> {
    let request = requests::begin(core, parts.from, parts.channel, parts.envelope, None)?;
    if let Some(meta) = parts.meta {
        calls::attach(core, request, meta);
    }
    Ok(request)
}

fn finish<'a>(
    core: &mut Core,
    to: ConnectionKey,
    dealt: &mut Dealt,
    answer: &OutFrame<'_>,
) -> RequestResult<'a> {
    if answer.len() > HEADER_BYTES + core.limits.frame_bytes_max {
        return Err(HandlerError::new(refusal::answer_over_frame(core.limits.frame_bytes_max)));
    }
    *dealt = Dealt::Answered;
    queues::push(core, to, answer);
    Ok(Reply(PhantomData))
}

impl<'a> Deref for Request<'a> {
    type Target = Delivery<'a>;

    fn deref(&self) -> &Self::Target {
        &self.delivery
    }
}

impl DerefMut for Request<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.delivery
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("message", self.message()).finish_non_exhaustive()
    }
}

/// The proof that a request was handled. Only methods of [`Request`] create one.
#[derive(Debug)]
pub struct Reply<'a>(PhantomData<&'a ()>);
