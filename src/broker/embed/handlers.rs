//! Handlers inside the process: what they are given and how they answer.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::{Context, SendError};
use crate::broker::state::arena::Arena;
use crate::broker::state::core::{Core, Refusal};
use crate::broker::state::encoder::Address;
use crate::broker::state::events::ConnectionInfo;
use crate::broker::state::keys::{ChannelKey, ConnectionKey, Key, RequestKey};
use crate::broker::state::mailbox::Remote;
use crate::handler_error::HandlerError;
use crate::proto::{DecodeError, Envelope, ErrorCode, Head, Json, JsonError, Message, MessageType};

/// What a request handler returns: the proof that it dealt with the request, or an error.
pub type RequestResult<'a> = Result<Reply<'a>, HandlerError>;

pub(crate) type RequestHandler =
    Box<dyn for<'a> FnMut(Request<'a>) -> RequestResult<'a> + Send + 'static>;
pub(crate) type DeliveryHandler =
    Box<dyn for<'a> FnMut(Delivery<'a>) -> Result<(), HandlerError> + Send + 'static>;
pub(crate) type ConnectionHook =
    Box<dyn FnMut(&ConnectionInfo<'_>, &mut Context<'_>) + Send + 'static>;
pub(crate) type Filter =
    Box<dyn FnMut(&mut Delivery<'_>) -> Result<Verdict, HandlerError> + Send + 'static>;

pub(crate) type HandlersKey = Key<HandlersKind>;
#[derive(Debug)]
pub(crate) enum HandlersKind {}

/// The handlers of one channel, by message type.
#[derive(Default)]
pub(crate) struct ChannelHandlers {
    pub(crate) request: Option<RequestHandler>,
    pub(crate) notification: Option<DeliveryHandler>,
    pub(crate) response: Option<DeliveryHandler>,
}

impl ChannelHandlers {
    fn of(&mut self, message_type: MessageType) -> Option<&mut DeliveryHandler> {
        match message_type {
            MessageType::Response => self.response.as_mut(),
            _ => self.notification.as_mut(),
        }
    }
}

impl fmt::Debug for ChannelHandlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelHandlers")
            .field("request", &self.request.is_some())
            .field("notification", &self.notification.is_some())
            .field("response", &self.response.is_some())
            .finish()
    }
}

/// What a request handler did with its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dealt {
    Not,
    Answered,
    /// It answers later, or never.
    Otherwise,
    /// It leaves the message to whoever comes next.
    PassedOn,
}

/// What a filter says to a publication or subscription, see
/// [`Server::filter`](crate::Server::filter).
///
/// ```
/// # use ipc_framework::{Config, Server, Verdict};
/// # fn main() -> Result<(), ipc_framework::Error> {
/// let mut server = Server::bind(Config { port: 0, ..Config::default() })?;
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
    /// Leave it at that, in silence: the filter dealt with it.
    Drop,
}

/// They stand apart from the rest of the broker, so that one can run while it holds
/// everything else.
#[derive(Default)]
pub(crate) struct Handlers {
    pub(crate) channels: Arena<HandlersKind, ChannelHandlers>,
    /// Called where the channel has no handler of its own.
    pub(crate) fallback: ChannelHandlers,
    pub(crate) filter: Option<Filter>,
    pub(crate) connected: Option<ConnectionHook>,
    pub(crate) disconnected: Option<ConnectionHook>,
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").field("channels", &self.channels).finish_non_exhaustive()
    }
}

impl Handlers {
    /// Calls the channel's request handler, or else the fallback. Returns whether one of them
    /// dealt with the request.
    pub(crate) fn request(
        &mut self,
        core: &mut Core,
        key: Option<HandlersKey>,
        delivery: Parts<'_>,
    ) -> bool {
        let own = key.and_then(|key| self.channels.get_mut(key));
        own.and_then(|own| own.request.as_mut()).is_some_and(|own| call(own, core, delivery))
            || self.fallback.request.as_mut().is_some_and(|other| call(other, core, delivery))
    }

    /// Calls the channel's handler of notifications or responses, or else the fallback.
    /// Returns whether one of them took it.
    pub(crate) fn deliver(
        &mut self,
        core: &mut Core,
        key: Option<HandlersKey>,
        delivery: Parts<'_>,
    ) -> bool {
        let message_type = delivery.envelope.message_type();
        let own = key.and_then(|key| self.channels.get_mut(key));
        own.and_then(|own| own.of(message_type)).is_some_and(|own| hand_over(own, core, delivery))
            || self.fallback.of(message_type).is_some_and(|other| hand_over(other, core, delivery))
    }

    /// Asks the filter whether a message may be carried out.
    pub(crate) fn admit(
        &mut self,
        core: &mut Core,
        delivery: Parts<'_>,
    ) -> Result<Verdict, Refusal> {
        let Some(filter) = &mut self.filter else { return Ok(Verdict::CarryOut) };
        let call = || filter(&mut delivery.with(core));
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(verdict)) => Ok(verdict),
            Ok(Err(error)) => Err(Refusal::new(ErrorCode::Forbidden, error.into_text())),
            Err(panic) => {
                let failure = panicked(core, &*panic);
                let text = format!("the server could not look at this message: {failure}");
                Err(Refusal::new(ErrorCode::HandlerFailed, text))
            }
        }
    }

    /// Tells the hooks who came and who went.
    pub(crate) fn announce(&mut self, core: &mut Core) {
        // A hook may close connections, which makes further events.
        while !core.events.is_empty() {
            for event in std::mem::take(&mut core.events) {
                let hook = if event.opened { &mut self.connected } else { &mut self.disconnected };
                let Some(hook) = hook else { continue };
                let info = ConnectionInfo {
                    key: event.key,
                    app_id: &event.app_id,
                    connection_id: &event.connection_id,
                };
                let call = || hook(&info, &mut Context::new(core));
                if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
                    panicked(core, &*panic);
                }
            }
        }
    }
}

/// Calls a request handler. Returns whether it dealt with the request.
fn call(handler: &mut RequestHandler, core: &mut Core, delivery: Parts<'_>) -> bool {
    core.dealt = Dealt::Not;
    let arrived = core.arrived;
    let began = core.latency.begin_handler(core.now.monotonic);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let request = Request { delivery: delivery.with(core) };
        handler(request).map(|_reply| ())
    }));
    if core.dealt == Dealt::PassedOn {
        return false;
    }
    let failure: Cow<'static, str> = match result {
        Ok(Ok(())) => "it returned without answering".into(),
        Ok(Err(error)) => {
            core.counters.handler_failures += 1;
            crate::trace::handler_failed(error.text());
            error.into_text().into()
        }
        Err(panic) => panicked(core, &*panic).into(),
    };
    let ended = core.latency.end_handler(began);
    if core.dealt == Dealt::Not {
        let text = format!("the handler of this channel failed: {failure}");
        let why = Refusal::new(ErrorCode::HandlerFailed, text);
        core.refuse(delivery.from, &delivery.envelope, &why);
    }
    if core.dealt != Dealt::Otherwise {
        core.note_answer(delivery.channel, arrived, began, ended);
    }
    true
}

/// Calls a handler of notifications or responses. Returns whether it took the message.
fn hand_over(handler: &mut DeliveryHandler, core: &mut Core, delivery: Parts<'_>) -> bool {
    core.dealt = Dealt::Not;
    let result = catch_unwind(AssertUnwindSafe(|| handler(delivery.with(core))));
    match result {
        Ok(Ok(())) => return core.dealt != Dealt::PassedOn,
        Ok(Err(error)) => crate::trace::handler_failed(error.text()),
        Err(panic) => drop(panicked(core, &*panic)),
    }
    core.counters.handler_failures += 1;
    // What has no answer has no error answer either, but for a notification the
    // protocol knows one: the sender is told.
    if delivery.envelope.message_type() == MessageType::Notification {
        let why = Refusal::new(
            ErrorCode::HandlerFailed,
            "the handler of this channel failed on this notification",
        );
        core.refuse(delivery.from, &delivery.envelope, &why);
    }
    true
}

/// What a panic said stays on this side; the peer learns only that there was one.
fn panicked(core: &mut Core, panic: &(dyn Any + Send)) -> String {
    core.counters.handler_panics += 1;
    let said = panic.downcast_ref::<&str>().copied();
    let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    crate::trace::handler_failed(said.unwrap_or("a panic without a message"));
    "it panicked; the server's log says more".to_owned()
}

/// A message and where it came from, before it is joined with the state.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) envelope: Envelope<'a>,
    pub(crate) from: ConnectionKey,
    pub(crate) channel: ChannelKey,
}

impl<'a> Parts<'a> {
    fn with(self, core: &'a mut Core) -> Delivery<'a> {
        Delivery { parts: self, context: Context::new(core) }
    }
}

/// A notification or response for a handler: a borrowed message, and all that a handler
/// may do.
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
}

impl<'a> Delivery<'a> {
    /// The message, borrowed from the frame in which it came.
    pub fn message(&self) -> &Envelope<'a> {
        &self.parts.envelope
    }

    /// The payload as a typed value.
    ///
    /// # Errors
    /// If the payload does not have the shape of `T`.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        self.json().decode()
    }

    /// The payload as it came.
    pub fn json(&self) -> Json<'a> {
        self.parts.envelope.payload()
    }

    /// The connection that sent the message.
    pub fn from(&self) -> ConnectionKey {
        self.parts.from
    }

    /// Publishes a value to a channel of the message's own application. Returns how many
    /// subscribers it reached.
    ///
    /// # Errors
    /// As [`Context::publish`].
    pub fn publish<T: Serialize + ?Sized>(
        &mut self,
        channel_id: &str,
        payload: &T,
    ) -> Result<usize, SendError> {
        self.send_to_subscribers(MessageType::Publish, channel_id, payload)
    }

    /// [`Delivery::publish`] of a message of type `notification`.
    ///
    /// # Errors
    /// As [`Context::publish`].
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
        let app_id = self.parts.envelope.app_id().decode();
        let message = Message::new(message_type, app_id, channel_id, payload);
        self.context.publish_message(&message)
    }

    /// Everything else a handler may do: other applications, broadcasts, listings.
    pub fn context(&mut self) -> &mut Context<'a> {
        &mut self.context
    }

    /// Leaves the message to whoever comes next: after a channel's own handler the fallback,
    /// see [`Server::fallback`](crate::Server::fallback), and after that the workers.
    ///
    /// # Errors
    /// None: it is what a handler returns.
    pub fn pass_on(self) -> Result<(), HandlerError> {
        self.context.into_core().dealt = Dealt::PassedOn;
        Ok(())
    }

    /// An owned answer to this message, for [`Context::send_to_connection`].
    pub fn create_response(&self, payload: Json<'static>) -> Message {
        let envelope = &self.parts.envelope;
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

/// A request for a handler. It is answered once: each way of answering consumes it.
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

impl<'a> Request<'a> {
    /// Answers with any value.
    ///
    /// # Errors
    /// If the value cannot be written as JSON, or makes a frame over the limit.
    pub fn reply<T: Serialize + ?Sized>(self, payload: &T) -> RequestResult<'a> {
        let Delivery { parts, context } = self.delivery;
        let core = context.into_core();
        let address = Address::of(&parts.envelope);
        let reply_to = Some(parts.envelope.message_id().raw());
        let answer = core.encode(address, MessageType::Response, reply_to, payload)?;
        Self::finish(core, parts, answer)
    }

    /// Answers with JSON text, copied as it is.
    ///
    /// # Errors
    /// If it makes a frame over the limit.
    pub fn reply_json(self, payload: &Json<'_>) -> RequestResult<'a> {
        let Delivery { parts, context } = self.delivery;
        let core = context.into_core();
        let head = Head {
            message_id: "",
            app_id: parts.envelope.app_id().raw(),
            channel_id: parts.envelope.channel_id().raw(),
            message_type: MessageType::Response,
            timestamp: "",
            reply_to: Some(parts.envelope.message_id().raw()),
        };
        let unix = core.now.unix;
        let answer = core.encoder.text(&mut core.pool, unix, head, payload.as_str());
        Self::finish(core, parts, answer)
    }

    /// Answers later, from any thread. Other requests go on meanwhile, so that such an
    /// answer may come after those of later requests.
    ///
    /// # Errors
    /// If too many requests wait already; the requester is told.
    pub fn defer(self) -> Result<(Reply<'a>, Responder), HandlerError> {
        let Delivery { parts, context } = self.delivery;
        let core = context.into_core();
        core.dealt = Dealt::Otherwise;
        match core.begin_request(parts.from, parts.channel, &parts.envelope, None) {
            Ok(request) => {
                let responder = Responder { request: Some(request), remote: core.remote.clone() };
                Ok((Reply(PhantomData), responder))
            }
            Err(refusal) => {
                core.refuse(parts.from, &parts.envelope, &refusal);
                Err(HandlerError::new(refusal.text))
            }
        }
    }

    /// Leaves the request without an answer: its sender waits until its own timeout. For
    /// handlers that answer by [`Context::send_to_connection`].
    pub fn leave_unanswered(self) -> Reply<'a> {
        self.delivery.context.into_core().dealt = Dealt::Otherwise;
        Reply(PhantomData)
    }

    /// Says that it was answered by [`Context::send_to_connection`], with a message of the
    /// handler's own making.
    pub fn answered(self) -> Reply<'a> {
        self.delivery.context.into_core().dealt = Dealt::Answered;
        Reply(PhantomData)
    }

    /// Leaves the request to whoever comes next: after a channel's own handler the fallback,
    /// see [`Server::fallback`](crate::Server::fallback), and after that the workers. Where
    /// there is nobody it is answered `no_handler`.
    pub fn pass_on(self) -> Reply<'a> {
        self.delivery.context.into_core().dealt = Dealt::PassedOn;
        Reply(PhantomData)
    }

    fn finish(
        core: &mut Core,
        parts: Parts<'_>,
        answer: crate::broker::state::encoder::Encoded,
    ) -> RequestResult<'a> {
        let frame_bytes_max = core.limits.frame_bytes_max;
        if answer.body_bytes() > frame_bytes_max {
            core.encoder.recycle(answer);
            return Err(HandlerError::new(format!(
                "its answer is over the {frame_bytes_max} bytes of a frame"
            )));
        }
        core.dealt = Dealt::Answered;
        core.send(parts.from, answer);
        Ok(Reply(PhantomData))
    }
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

/// The proof that a request was dealt with; only [`Request`]'s methods make one.
#[derive(Debug)]
pub struct Reply<'a>(PhantomData<&'a ()>);

/// Answers one request from any thread. Dropped without an answer, it answers
/// `handler_failed`; used after the request's timeout, or when the requester is gone, it
/// does nothing.
///
/// ```
/// # fn main() -> Result<(), ipc_framework::Error> {
/// # let mut config = ipc_framework::Config::default();
/// # config.port = 0;
/// # let mut server = ipc_framework::Server::bind(config)?;
/// server.application("math", "Arithmetic").channel("slow_square").on_request(|request| {
///     let x: f64 = request.payload()?;
///     let (reply, responder) = request.defer()?;
///     std::thread::spawn(move || responder.reply(&(x * x)));
///     Ok(reply)
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Responder {
    request: Option<RequestKey>,
    remote: Arc<Remote>,
}

impl Responder {
    /// Answers with any value.
    ///
    /// # Errors
    /// If the value cannot be written as JSON; the requester then gets `handler_failed`.
    pub fn reply<T: Serialize + ?Sized>(self, payload: &T) -> Result<(), JsonError> {
        let json = Json::from_serialize(payload)?;
        self.reply_json(json);
        Ok(())
    }

    /// Answers with JSON text.
    pub fn reply_json(mut self, payload: Json<'static>) {
        self.send(Ok(payload));
    }

    /// Answers `handler_failed` with a text for the requester.
    pub fn fail(mut self, message: &str) {
        self.send(Err(format!("the handler of this channel failed: {message}")));
    }

    fn send(&mut self, answer: Result<Json<'static>, String>) {
        let Some(request) = self.request.take() else { return };
        let answer = answer.map_err(|text| Refusal::new(ErrorCode::HandlerFailed, text));
        // There is one of these per pending request at most, so they need no other bound.
        self.remote.post(move |core| core.answer_deferred(request, answer));
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.send(Err("the handler of this channel dropped the request unanswered".to_owned()));
    }
}
