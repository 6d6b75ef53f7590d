//! The context of handlers, hooks and other threads: publish, send, list, measure.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::broker::flow::attachments::{self, Receiver, Rewrite, TooLarge};
use crate::broker::flow::forms::Publication;
use crate::broker::flow::topic::publishing::{self, Hearers};
use crate::broker::flow::{answers, measuring, queues, subscriptions};
use crate::broker::state::core::Core;
use crate::broker::state::encoder::{Address, Encoded, head_of};
use crate::broker::state::events::ConnectionInfo;
use crate::broker::state::keys::{ApplicationKey, ChannelKey, ConnectionKey};
use crate::broker::state::latency::{ChannelLatency, LatencyOf};
use crate::broker::state::refusal::Refusal;
use crate::broker::state::stats::{self, ApplicationInfo, ChannelInfo, Stats};
use crate::proto::frame::HEADER_BYTES;
use crate::proto::{
    Envelope, Fault, Head, Json, JsonError, Message, MessageType, Meta, SharedFrame, escaped,
};

/// The server, for its handlers and hooks.
///
/// Publications from here reach the subscribers in the order of the calls. They cannot be held back
/// as those of a peer can: a subscriber whose queue is at its bound
/// ([`Limits::queue_bytes_max`](crate::Limits::queue_bytes_max)) is closed.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config::default().port(0))?;
/// server.on_connect(|info, context| {
///     let others = context.connections_of(info.app_id).len() - 1;
///     context.publish(info.app_id, "arrivals", &others).expect("a number is JSON");
/// });
/// assert!(server.context().list_connections().is_empty());
/// # Ok(())
/// # }
/// ```
pub struct Context<'a> {
    pub(crate) core: &'a mut Core,
}

impl<'a> Context<'a> {
    pub(crate) fn new(core: &'a mut Core) -> Self {
        Self { core }
    }

    pub(crate) fn into_core(self) -> &'a mut Core {
        self.core
    }

    /// Runs code that is not the server's own. If it panics, that is counted and the server goes on.
    pub(crate) fn call<T>(&mut self, ask: impl FnOnce(&mut Context<'_>) -> T) -> Option<T> {
        let ask = std::panic::AssertUnwindSafe(|| ask(self));
        let answer = std::panic::catch_unwind(ask).ok();
        self.core.counters.handler_panics += u64::from(answer.is_none());
        answer
    }

    /// Publishes a value to all subscribers of a channel. Returns the number of subscribers that it
    /// was queued for, which is zero for an application or channel that does not exist.
    ///
    /// # Errors
    /// If the value cannot be written as JSON, or the frame exceeds the limit. [`SendError::NoRoom`] if the
    /// channel is to have a history and does not exist yet, and there is no memory for it or too many
    /// channels: then nothing was delivered, for those who come later would never learn that it is missing.
    pub fn publish<T: Serialize + ?Sized>(
        &mut self,
        app_id: &str,
        channel_id: &str,
        payload: &T,
    ) -> Result<usize, SendError> {
        let payload = Json::from_serialize(payload).map_err(SendError::NotJson)?;
        let Some(hearers) = find(self.core, app_id, channel_id)? else { return Ok(0) };
        let (app_id, channel_id) = (escaped(app_id), escaped(channel_id));
        let address = Address { app_id: &app_id, channel_id: &channel_id };
        publish(self.core, hearers, address, MessageType::Publish, &payload)
    }

    /// Sends a message of any type to all subscribers of its channel. Returns the number of
    /// subscribers that it was queued for.
    ///
    /// # Errors
    /// If the frame exceeds the limit, or the message has attachments and is one that no peer accepts.
    /// [`SendError::NoRoom`] as for [`Context::publish`].
    #[doc(alias = "_handle_publish")]
    pub fn publish_message(&mut self, message: &Message) -> Result<usize, SendError> {
        self.publish_to(&message.app_id, &message.channel_id, message)
    }

    /// Sends a message to all subscribers of a channel, even if the message names another one.
    /// Returns the number of subscribers that it was queued for.
    ///
    /// # Errors
    /// If the frame exceeds the limit, or the message has attachments and is one that no peer accepts.
    /// [`SendError::NoRoom`] as for [`Context::publish`].
    pub fn publish_to(
        &mut self,
        app_id: &str,
        channel_id: &str,
        message: &Message,
    ) -> Result<usize, SendError> {
        let Some(hearers) = find(self.core, app_id, channel_id)? else { return Ok(0) };
        if message.payload.carried().is_some() {
            let stamp = self.core.encoder.stamp(self.core.turn.now.unix);
            let head = head_of(message, &stamp);
            return publish_attached(self.core, hearers, head.borrowed(), &message.payload);
        }
        let encoded = self.encode(message)?;
        Ok(fan_out(self.core, hearers, encoded))
    }

    /// Sends a message to every connection of an application. Returns the number of connections that
    /// it was queued for. Connections that take attachments in base64 only are left out if the message is
    /// too large that way: [`Counters::publications_too_large`](crate::Counters::publications_too_large)
    /// counts them.
    ///
    /// # Errors
    /// If the frame exceeds the limit, or the message has attachments and is one that no peer accepts.
    pub fn broadcast_to_application(
        &mut self,
        app_id: &str,
        message: &Message,
    ) -> Result<usize, SendError> {
        let connections = self.connections_of(app_id);
        if message.payload.carried().is_some() {
            let core = &mut *self.core;
            let stamp = core.encoder.stamp(core.turn.now.unix);
            let head = head_of(message, &stamp);
            let frame = write_attached(core, head.borrowed(), &message.payload)?;
            let (envelope, body) = read_attached(&frame)?;
            let (meta, position) = (None, None);
            let publication =
                Publication { envelope: &envelope, body, meta, position, is_of_link: false };
            return Ok(subscriptions::push_in_forms(core, &connections, &publication));
        }
        let encoded = self.encode(message)?;
        let frame = encoded.frame();
        let queued = connections.iter().filter(|key| queues::push(self.core, **key, &frame));
        let reached = queued.count();
        let work = self.core.turn.fan_out_work(connections.len(), frame.len());
        self.core.turn.note_work(work);
        drop(frame);
        self.core.encoder.recycle(encoded);
        Ok(reached)
    }

    /// Sends a message to one connection. Returns whether the connection is still open.
    ///
    /// # Errors
    /// If the frame exceeds the limit.
    pub fn send_to_connection(
        &mut self,
        connection: ConnectionKey,
        message: &Message,
    ) -> Result<bool, SendError> {
        if message.payload.carried().is_some() {
            return self.send_attached(connection, message);
        }
        let encoded = self.encode(message)?;
        Ok(answers::send(self.core, connection, encoded))
    }

    /// Sends a message with attachments, in the form that the connection takes.
    #[cold]
    fn send_attached(&mut self, to: ConnectionKey, message: &Message) -> Result<bool, SendError> {
        let core = &mut *self.core;
        let stamp = core.encoder.stamp(core.turn.now.unix);
        let head = head_of(message, &stamp);
        let rewrite = Rewrite::own(head.borrowed(), Meta::default(), &message.payload);
        let receiver = Receiver::of(core, to);
        let frame = rewrite.frame(receiver, &mut core.pool);
        let frame = frame.map_err(|why| too_large(why, receiver))?;
        attachments::note_work(core, receiver, &frame);
        Ok(queues::push(core, to, &frame))
    }

    /// Returns the connection that has this id in an application.
    pub fn get_connection(&self, app_id: &str, connection_id: &str) -> Option<ConnectionKey> {
        let application = self.core.router.applications.get(self.find_application(app_id)?)?;
        application.connections.get(connection_id).copied()
    }

    /// Returns all connections of an application.
    #[doc(alias = "get_connections_for_app")]
    pub fn connections_of(&self, app_id: &str) -> Vec<ConnectionKey> {
        let application = self.find_application(app_id);
        let application = application.and_then(|key| self.core.router.applications.get(key));
        application.map_or_else(Vec::new, |found| found.connections.values().copied().collect())
    }

    /// Returns all connections that have completed their handshake, with application and id.
    pub fn list_connections(&self) -> Vec<ConnectionInfo<'_>> {
        let sessions = self.core.connections.iter().filter_map(|(key, connection)| {
            let session = connection.session().filter(|_| !connection.is_link())?;
            let app_id = &self.core.router.applications.get(session.application)?.id;
            let peer = connection.peer.into();
            Some(ConnectionInfo { key, app_id, connection_id: &session.id, peer })
        });
        sessions.collect()
    }

    /// Returns all applications by id.
    pub fn list_applications(&self) -> BTreeMap<String, ApplicationInfo> {
        let listed = stats::list_applications(&self.core.router, None).into_iter();
        listed.map(|(id, application)| (id.to_owned(), application.into())).collect()
    }

    /// Returns the channels of an application by id, or none if the application does not exist.
    pub fn list_channels(&self, app_id: &str) -> BTreeMap<String, ChannelInfo> {
        let application = self.find_application(app_id);
        let listed = application
            .map(|key| stats::list_channels(&self.core.router, key, self.core.turn.now.unix));
        listed.into_iter().flatten().map(|(id, info)| (id.to_owned(), info)).collect()
    }

    /// Passes the application, the name and the numbers of each channel to `visit`, until it breaks.
    /// A channel keeps its place as long as it lives.
    ///
    /// ```
    /// # use ipc_framework::{Config, Server};
    /// # use std::ops::ControlFlow;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut server = Server::bind(Config::default().port(0))?;
    /// server.application("shop", "The Shop").channel("price");
    /// let mut unserved = Vec::new();
    /// server.context().for_each_channel(|app_id, channel_id, info| {
    ///     if info.workers == 0 {
    ///         unserved.push(format!("{app_id}/{channel_id}"));
    ///     }
    ///     if unserved.len() < 10 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    /// });
    /// assert_eq!(unserved, ["shop/price"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn for_each_channel(
        &self,
        mut visit: impl FnMut(&str, &str, &ChannelInfo) -> ControlFlow<()>,
    ) {
        let router = &self.core.router;
        for (_, channel) in router.channels.iter() {
            let Some(application) = router.applications.get(channel.application) else { continue };
            let info = ChannelInfo::of(channel, self.core.turn.now.unix);
            if visit(&application.id, &channel.id, &info).is_break() {
                return;
            }
        }
    }

    /// Returns percentiles for each channel of an application, as `get_latency` does.
    pub fn list_latencies(&self, app_id: &str) -> BTreeMap<String, ChannelLatency> {
        let application = self.find_application(app_id);
        let listed = application.map(|key| stats::list_latencies(&self.core.router, key));
        listed.into_iter().flatten().map(|(id, latency)| (id.to_owned(), latency)).collect()
    }

    /// Passes every histogram that is not empty to `visit`, in no particular order. Values are
    /// nanoseconds, since the start or the last reset.
    pub fn for_each_histogram(&self, visit: impl FnMut(LatencyOf<'_>, &Histogram<u32>)) {
        measuring::for_each_histogram(self.core, visit);
    }

    /// Empties all histograms.
    pub fn reset_latencies(&mut self) {
        measuring::reset(self.core);
    }

    /// Returns counters and totals.
    #[doc(alias = "get_stats")]
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Returns whether there is such an application.
    pub fn has_application(&self, app_id: &str) -> bool {
        self.find_application(app_id).is_some()
    }

    /// Returns whether there is such a channel.
    pub fn has_channel(&self, app_id: &str, channel_id: &str) -> bool {
        self.find_channel(app_id, channel_id).is_some()
    }

    pub(crate) fn find_application(&self, app_id: &str) -> Option<ApplicationKey> {
        self.core.router.application(app_id)
    }

    pub(crate) fn find_channel(&self, app_id: &str, channel_id: &str) -> Option<ChannelKey> {
        self.core.router.channel(self.find_application(app_id)?, channel_id)
    }

    fn encode(&mut self, message: &Message) -> Result<Encoded, SendError> {
        let unix = self.core.turn.now.unix;
        let encoded = self.core.encoder.message(&mut self.core.pool, unix, message);
        check_size(self.core, encoded)
    }
}

/// Sends a payload to all subscribers of a channel. Returns the number that it was queued for.
pub(crate) fn publish(
    core: &mut Core,
    hearers: Hearers<'_>,
    address: Address<'_>,
    message_type: MessageType,
    payload: &Json<'_>,
) -> Result<usize, SendError> {
    let stamp = core.encoder.stamp(core.turn.now.unix);
    let head = Head {
        message_id: stamp.id(),
        app_id: address.app_id,
        channel_id: address.channel_id,
        message_type,
        timestamp: stamp.time(),
        reply_to: None,
        meta: None,
    };
    if payload.carried().is_some() {
        return publish_attached(core, hearers, head, payload);
    }
    let encoded = core.encoder.text(&mut core.pool, &head, payload.as_str());
    let encoded = check_size(core, encoded)?;
    Ok(fan_out(core, hearers, encoded))
}

/// Finds those who may hear a channel. `None`: nobody does.
#[inline]
pub(super) fn find<'a>(
    core: &mut Core,
    app_id: &str,
    channel_id: &'a str,
) -> Result<Option<Hearers<'a>>, SendError> {
    Hearers::find(core, app_id, channel_id).map_err(|why| no_room(*why))
}

#[cold]
pub(super) fn no_room(why: Refusal) -> SendError {
    SendError::NoRoom(why.text.into_owned())
}

/// Publishes a payload with attachments, in the form that each subscriber takes: as if a peer had sent it.
#[cold]
fn publish_attached(
    core: &mut Core,
    hearers: Hearers<'_>,
    head: Head<'_>,
    payload: &Json<'_>,
) -> Result<usize, SendError> {
    let frame = write_attached(core, head, payload)?;
    let (envelope, body) = read_attached(&frame)?;
    let (meta, position) = (None, None);
    let publication = Publication { envelope: &envelope, body, meta, position, is_of_link: false };
    let channel = match hearers {
        Hearers::OfChannel(channel) => channel,
        Hearers::OfPatterns(application, name) => {
            return Ok(publishing::publish_unlisted(core, application, name, &publication));
        }
    };
    let reached = subscriptions::fan_out_in_forms(core, channel, &publication);
    if reached > 0 {
        measuring::note_publications(core, channel, core.turn.now.monotonic.into(), 1);
    }
    Ok(reached)
}

/// Writes a message with attachments as peers with the extension get it.
fn write_attached(
    core: &mut Core,
    head: Head<'_>,
    payload: &Json<'_>,
) -> Result<SharedFrame, SendError> {
    let to = Receiver::of_all(core);
    let frame = Rewrite::own(head, Meta::default(), payload).frame(to, &mut core.pool);
    let frame = frame.map_err(|why| too_large(why, to))?;
    Ok(frame.to_kept(&mut core.pool))
}

/// Reads such a message as that of a peer is read. The process may have given it unusable ids.
pub(super) fn read_attached(frame: &SharedFrame) -> Result<(Envelope<'_>, &[u8]), SendError> {
    let body = &frame.bytes()[HEADER_BYTES..];
    let envelope = Envelope::parse_binary(body);
    Ok((envelope.map_err(|error| SendError::Faulty(error.fault))?, body))
}

pub(super) fn too_large(why: TooLarge, to: Receiver) -> SendError {
    let frame_bytes_max = to.frame_bytes_max;
    match why {
        TooLarge::WithItsId { body_bytes } => SendError::TooLarge { body_bytes, frame_bytes_max },
        TooLarge::InBase64 { body_bytes } => {
            SendError::TooLargeInBase64 { body_bytes, frame_bytes_max }
        }
        TooLarge::Json { json_bytes } => SendError::TooMuchJson { json_bytes },
    }
}

fn check_size(core: &mut Core, encoded: Encoded) -> Result<Encoded, SendError> {
    let (body_bytes, frame_bytes_max) = (encoded.body_bytes(), core.limits.frame_bytes_max);
    if body_bytes > frame_bytes_max {
        core.encoder.recycle(encoded);
        return Err(SendError::TooLarge { body_bytes, frame_bytes_max });
    }
    Ok(encoded)
}

fn fan_out(core: &mut Core, hearers: Hearers<'_>, encoded: Encoded) -> usize {
    let Hearers::OfChannel(channel) = hearers else {
        let reached = publishing::publish_own(core, hearers, &encoded.frame());
        core.encoder.recycle(encoded);
        return reached.unwrap_or_default();
    };
    let reached = subscriptions::fan_out(core, channel, &encoded.frame(), 1);
    if reached > 0 {
        measuring::note_publications(core, channel, core.turn.now.monotonic.into(), 1);
    }
    core.encoder.recycle(encoded);
    reached
}

/// The reason why a message of the process itself was not sent, which is the caller's fault.
///
/// ```
/// # use ipc_framework::{Config, SendError, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut config = Config::default().port(0);
/// config.limits.frame_bytes_max = 1024;
/// let mut server = Server::bind(config)?;
/// server.application("news", "News").channel("flash");
/// let sent = server.context().publish("news", "flash", &"x".repeat(2_000));
/// assert!(matches!(sent, Err(SendError::TooLarge { frame_bytes_max: 1024, .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError {
    /// The value cannot be written as JSON.
    NotJson(JsonError),
    /// The frame exceeds the limit, so no peer would accept it.
    TooLarge {
        /// The bytes of the frame's body.
        body_bytes: usize,
        /// [`Limits::frame_bytes_max`](crate::Limits::frame_bytes_max).
        frame_bytes_max: usize,
    },
    /// The connection takes attachments in base64 only, and the frame exceeds the limit that way.
    TooLargeInBase64 {
        /// The bytes of the frame's body with base64.
        body_bytes: usize,
        /// [`Limits::frame_bytes_max`](crate::Limits::frame_bytes_max).
        frame_bytes_max: usize,
    },
    /// The message has attachments, and 16 MiB of JSON or more beside them, whatever the limit for a
    /// frame.
    TooMuchJson {
        /// The bytes of its JSON.
        json_bytes: usize,
    },
    /// The message has attachments and is none that a peer would accept: one of its ids is too long,
    /// for example.
    Faulty(Fault),
    /// It was to be kept, as the last value of its channel or in the history of a channel that does not
    /// exist yet, and there is no room for that. Nothing was delivered. The text says what to do.
    NoRoom(String),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson(error) => error.fmt(f),
            Self::TooLarge { body_bytes, frame_bytes_max } => write!(
                f,
                "the message has {body_bytes} bytes, over the {frame_bytes_max} of a frame; send \
                 less, or raise frame_bytes_max here and at the peers"
            ),
            Self::TooLargeInBase64 { body_bytes, frame_bytes_max } => write!(
                f,
                "the message has {body_bytes} bytes with its attachments in base64, as this \
                 connection takes them, over the {frame_bytes_max} of a frame; send less, let the \
                 peer ask for the extension \"binary\", or raise frame_bytes_max here and at the peers"
            ),
            Self::TooMuchJson { json_bytes } => write!(
                f,
                "the message has {json_bytes} bytes of JSON beside its attachments, which have to be \
                 less than 16 MiB; send more of it as attachments"
            ),
            Self::Faulty(fault) => fault.fmt(f),
            Self::NoRoom(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotJson(error) => Some(error),
            Self::TooLarge { .. }
            | Self::TooLargeInBase64 { .. }
            | Self::TooMuchJson { .. }
            | Self::Faulty(_)
            | Self::NoRoom(_) => None,
        }
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}
