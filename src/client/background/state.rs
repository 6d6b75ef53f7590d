//! Messages on their way, requests in flight, and what is to be restored: the state behind the lock
//! of [`Shared`](super::shared::Shared).

use std::collections::HashMap;
use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use uuid::Uuid;

use super::job::Job;
use super::outbox::{Kind, Outbox, Outgoing};
use super::pending::{Forgotten, Kept, Pending};
use super::routes::{Handler, Routes, Sink};
use super::waiter::Waiter;
use crate::client::client_options::{ClientOptions, WhileDisconnected};
use crate::client::endpoint::Endpoint;
use crate::client::error::Error;
use crate::client::event::Event;
use crate::client::server_limits::ServerLimits;
use crate::client::wire::answer::Welcome;
use crate::client::wire::encoded_frame::fill;
use crate::client::wire::encoder::{Encoder, Heading, has_attachments, has_headers, needs_topic};
use crate::client::wire::socket::Socket;
use crate::proto::Message;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::system::{CancelReason, SYSTEM, Serve};
use crate::proto::{Envelope, Extensions, JsonStr, MessageType};

#[derive(Debug)]
pub(crate) enum Link {
    Up(Arc<Socket>),
    /// The server is about to end: it answers the requests that it has and accepts no more.
    Leaving(Arc<Socket>),
    Down,
    /// Closed for good.
    Closed,
}

pub(crate) struct State {
    pub(crate) link: Link,
    /// The number of the current connection. Anything that belongs to an older one is void.
    pub(crate) generation: u64,
    pub(crate) connection_id: String,
    /// The server of the current or last connection.
    pub(crate) endpoint: Endpoint,
    /// The number of attempts in a row that brought no connection of use.
    pub(crate) failures: u32,
    pub(crate) outbox: Outbox,
    /// The socket would take what is queued, which waits for more, see
    /// [`Shared::set_batching`](super::shared::Shared::set_batching).
    pub(crate) holds_back: bool,
    pub(crate) pending: Pending,
    pub(crate) routes: Routes,
    /// The first channel that was subscribed to under a name which reads like a pattern. The inner
    /// `None`: that is reported.
    #[expect(clippy::option_option, reason = "there is one, and it is to be reported")]
    pub(crate) mistakable: Option<Option<String>>,
    /// The handler for messages that nothing else takes.
    pub(crate) rest: Option<Handler>,
    pub(crate) served: HashMap<String, Arc<dyn Service>>,
    /// Served channels whose next request the driver has to hand out.
    pub(crate) ready: Vec<Arc<dyn Service>>,
    /// Requests that served channels have accepted and not answered.
    pub(crate) jobs: usize,
    /// The requests among them of a connection with the extension `call`, by the server's name for
    /// each.
    pub(crate) running: HashMap<Uuid, Arc<Job>>,
    /// Notifications that were dropped because a served channel had no room for them.
    pub(crate) missed_notifications: u64,
    /// The extensions of the current or last connection, and the limits that its server announced.
    pub(crate) extensions: Extensions,
    pub(crate) limits: Option<ServerLimits>,
    /// Set if the server is known to answer pings, so that a silent one counts as dead.
    pub(crate) answers_ping: bool,
    /// The last ping that the driver sent.
    pub(crate) heartbeat: Option<Uuid>,
    /// The earliest moment for which the driver is going to wake up.
    pub(crate) alarm: Option<Instant>,
    pub(crate) catch_ups: CatchUps,
    pub(crate) next_key: u64,
    /// Set when the driver has ended, to an error if not everything was processed by then.
    pub(crate) end: Option<Result<(), Error>>,
}

/// The most pieces of messages that one system call writes.
const PARTS_MAX: usize = 64;

/// The times that callers asked the driver to read what has arrived, and those of them that it has
/// done.
#[derive(Debug, Default)]
pub(crate) struct CatchUps {
    pub(crate) asked: u64,
    pub(crate) done: u64,
}

/// A served channel: a queue of requests and the handler behind it.
pub(crate) trait Service: Send + Sync {
    /// Accepts a request or notification. Beyond the limits a request is refused, and a notification
    /// dropped and counted.
    fn take(self: Arc<Self>, message: Message, job: Job);

    /// Notes that a request was cancelled, which may wait here.
    fn note_cancelled(&self);

    /// Returns the number of unanswered requests that the server is to hand out at a time.
    fn announced(&self) -> Option<u32>;

    /// Hands out requests that wait, as far as the concurrency allows.
    fn start(self: Arc<Self>);

    /// Removes the threads that run the handler, so that the caller can join them.
    fn take_threads(&self) -> Vec<JoinHandle<()>>;
}

/// The losses that come with a lost connection.
#[derive(Debug)]
pub(crate) struct Loss {
    /// The requests that fail, with their errors.
    pub(crate) told: Vec<(Waiter, Error)>,
    /// The requests that this client serves, whose answers reach nobody any more.
    pub(crate) void: Vec<Arc<Job>>,
    /// Number of messages without an answer that may be lost.
    pub(crate) unconfirmed: u64,
    /// Number of messages that wait for the next connection.
    pub(crate) waiting: usize,
    /// Number of waiting messages that are given up.
    pub(crate) unsent: usize,
}

impl Loss {
    /// Returns how many of the failed requests are the caller's.
    pub(crate) fn unanswered(&self) -> usize {
        self.told.iter().filter(|(waiter, _)| !waiter.is_own()).count()
    }

    pub(crate) fn tell(&mut self) {
        for (waiter, error) in self.told.drain(..) {
            waiter.tell(Err(error));
        }
        for job in self.void.drain(..) {
            job.cancel(CancelReason::Gone);
        }
    }
}

/// Returns the channel and the id of a message with attachments or `meta`, of whose frame this is the
/// beginning.
fn ids_of(frame: &[u8]) -> Option<(String, String)> {
    let body = frame.get(HEADER_BYTES..)?;
    let envelope = if has_attachments(frame) {
        Envelope::parse_binary(body).ok()?
    } else {
        Envelope::parse_extended(body).ok()?
    };
    let text = |id: JsonStr<'_>| id.decode().into_owned();
    Some((text(envelope.channel_id()), text(envelope.message_id())))
}

/// What is left to do for a new connection without the state locked.
pub(crate) struct LinkedUp {
    /// The subscribes that are to be answered, each with its name and whether that is a pattern.
    pub(crate) subscribes: Vec<(Uuid, String, bool)>,
    /// The requests that restore served channels.
    pub(crate) serves: Vec<(Uuid, String)>,
    /// The waiters for what the server does not know, each with its error.
    pub(crate) unsupported: Vec<(Waiter, Error)>,
    /// The channels and ids of messages without an answer that it does not know.
    pub(crate) refused: Vec<(String, String, Error)>,
    /// What is to be reported of the subscriptions.
    pub(crate) events: Vec<Event>,
}

impl State {
    pub(crate) fn new(options: &ClientOptions) -> Self {
        let moves_on =
            options.reconnect.is_some() && options.while_disconnected == WhileDisconnected::Wait;
        Self {
            link: Link::Down,
            generation: 0,
            connection_id: String::new(),
            endpoint: options.connection.endpoint.clone(),
            failures: 0,
            outbox: Outbox::default(),
            holds_back: false,
            pending: Pending::new(if moves_on { options.queue_bytes_max } else { 0 }),
            routes: Routes::default(),
            mistakable: None,
            rest: None,
            served: HashMap::new(),
            ready: Vec::new(),
            jobs: 0,
            running: HashMap::new(),
            missed_notifications: 0,
            extensions: Extensions::NONE,
            limits: None,
            answers_ping: false,
            heartbeat: None,
            alarm: None,
            catch_ups: CatchUps::default(),
            next_key: 0,
            end: None,
        }
    }

    pub(crate) fn rest_sink(&self) -> Vec<Sink> {
        self.rest.iter().map(|handler| Sink::Handler(Arc::clone(handler))).collect()
    }

    /// Returns the number of the caller's requests in flight, which excludes a heartbeat.
    pub(crate) fn requests(&self) -> usize {
        let is_asked = self.heartbeat.is_some_and(|id| self.pending.contains(id));
        self.pending.len() - usize::from(is_asked)
    }

    /// Moves a request to the next connection, after the server refused to look at it because it is
    /// about to end. Returns whether that is possible.
    pub(crate) fn move_on(&mut self, id: Uuid) -> bool {
        if !matches!(self.link, Link::Leaving(_)) {
            return false;
        }
        let Some(kept) = self.pending.refused(id) else { return false };
        let Kept { frame, number, meta_bytes } = kept;
        let (kind, request) = (Kind::AnyConnection, Some(id));
        self.pending.note_delayed(id);
        self.outbox.hold(Outgoing { frame, kind, request, number, meta_bytes });
        true
    }

    /// Removes unsent requests for which nobody waits any more, so that they are not executed.
    pub(crate) fn drop_expired(&mut self) {
        let Self { outbox, pending, .. } = self;
        // The queue may be long, so it is searched only if there is something to find.
        if pending.take_abandoned() {
            outbox.retain(|id| pending.contains(id));
        }
    }

    /// Writes queued messages. Returns how many bytes left, and whether the kernel takes more.
    pub(crate) fn flush(&mut self) -> (usize, bool) {
        let Self { link, outbox, pending, .. } = self;
        let (Link::Up(socket) | Link::Leaving(socket)) = link else { return (0, true) };
        let mut written = 0;
        self.holds_back = false;
        while outbox.has_queued() {
            if outbox.unbegun().is_some_and(|id| !pending.contains(id)) {
                outbox.skip();
                continue;
            }
            let mut slices = [IoSlice::new(&[]); PARTS_MAX];
            let count = fill(&mut slices, outbox.parts(|id| pending.contains(id)));
            let mut sent = match socket.send_parts(&slices[..count]) {
                Ok(bytes) => bytes,
                Err(error) => return (written, error.kind() != ErrorKind::WouldBlock),
            };
            written += sent;
            while sent > 0 {
                if let Some(outgoing) = outbox.advance(&mut sent) {
                    let Outgoing { frame, kind, request, number, meta_bytes } = outgoing;
                    pending.note_sent(kind, request, number, frame.len(), || (frame, meta_bytes));
                }
            }
        }
        (written, true)
    }

    pub(crate) fn has_call(&self) -> bool {
        self.extensions.contains(Extensions::CALL)
    }

    /// Adopts a new connection: queues what has to be restored, then the messages that waited.
    pub(crate) fn link_up(
        &mut self,
        socket: Arc<Socket>,
        connection_id: String,
        welcome: &Welcome,
        encoder: &mut Encoder,
    ) -> LinkedUp {
        self.link = Link::Up(socket);
        self.generation += 1;
        self.connection_id = connection_id;
        // The server may not be the one from before.
        self.answers_ping = welcome.server.is_some();
        (self.extensions, self.limits) = (welcome.extensions, welcome.limits);
        let streams = if self.has_call() { Vec::new() } else { self.pending.take_streams() };
        let streams = streams.into_iter().map(|stream| (stream, Error::unsupported_streams()));
        let mut unsupported: Vec<_> = streams.collect();
        debug_assert!(!self.outbox.has_queued());
        self.drop_expired();
        let Self { outbox, connection_id, routes, served, extensions, .. } = self;
        let mut push = |encoder: &mut Encoder, request| {
            let frame = encoder.take_frame();
            let number = outbox.number();
            let kind = Kind::Control;
            outbox.queue(Outgoing { frame, kind, request, number, meta_bytes: 0 }, 0);
        };
        let (mut subscribes, mut events) = (Vec::new(), Vec::new());
        let has_topic = extensions.contains(Extensions::TOPIC);
        for (topic, route) in routes.iter_mut() {
            let Some(progress) = &mut route.subscribed else { continue };
            if topic.is_pattern && !has_topic {
                let (channel_id, error) = (topic.name.to_owned(), Error::unsupported_topics());
                events.push(Event::NotRestored { channel_id, error });
                continue;
            }
            let heading = Heading::new(MessageType::Subscribe, topic.name);
            let payload = progress.payload(connection_id, *extensions);
            let Ok(id) = encoder.value(heading, &payload) else { continue };
            if has_topic {
                progress.sent(id);
                subscribes.push((id, topic.name.to_owned(), topic.is_pattern));
            } else {
                events.extend(progress.unanswered(topic));
            }
            push(encoder, has_topic.then_some(id));
        }
        let mut serves = Vec::new();
        for (channel, service) in served.iter() {
            let heading = Heading::new(MessageType::Request, SYSTEM);
            let serve = Serve::start(channel).concurrency(service.announced());
            if let Ok(id) = encoder.value(heading, &serve) {
                push(encoder, Some(id));
                serves.push((id, channel.clone()));
            }
        }
        let mut refused = Vec::new();
        let mut refuse = |held: Outgoing, error: Error| {
            let request = held.request;
            let forgotten = request.and_then(|id| self.pending.forget(id));
            match forgotten {
                Some(it) => unsupported.push((it.waiter, error)),
                None if request.is_none() => {
                    let ids = ids_of(&held.frame.front);
                    refused.extend(ids.map(|(channel_id, id)| (channel_id, id, error)));
                }
                None => {}
            }
        };
        if !extensions.contains(Extensions::BINARY) {
            for held in outbox.take_held(|held| has_attachments(&held.frame.front)) {
                refuse(held, Error::unsupported_attachments());
            }
        }
        if !has_topic {
            for held in outbox.take_held(|held| needs_topic(&held.frame.front, held.meta_bytes)) {
                refuse(held, Error::unsupported_topics());
            }
        }
        if extensions.is_empty() {
            for held in outbox.take_held(|held| has_headers(&held.frame.front, held.meta_bytes)) {
                refuse(held, Error::unsupported_headers());
            }
            outbox.strip_held();
        }
        outbox.release();
        self.drop_expired();
        LinkedUp { subscribes, serves, unsupported, refused, events }
    }

    /// Handles the loss of the connection, which ended with the error `cause`.
    pub(crate) fn link_down(&mut self, is_final: bool, cause: Option<&Error>) -> Loss {
        self.link = if is_final { Link::Closed } else { Link::Down };
        self.jobs = 0;
        let void = self.running.drain().map(|(_, job)| job).collect();
        self.holds_back = false;
        self.drop_expired();
        let mut told = Vec::new();
        let mut too_large = cause.and_then(|cause| self.pending.too_large(cause));
        let mut dropped = 0;
        if let Some(too_large) = &mut too_large
            && let Some(begun) = self.outbox.take_begun(too_large.body_bytes + HEADER_BYTES)
        {
            // The next connection would be closed because of it as well.
            too_large.number = Some(begun.number);
            match begun.request.and_then(|id| self.pending.forget(id)) {
                Some(forgotten) => told.push((forgotten.waiter, too_large.own_error())),
                None => dropped = 1,
            }
        }
        for id in self.outbox.link_down() {
            let forgotten = self.pending.forget(id);
            let lost = |it: Forgotten| (it.waiter, Error::lost(it.execution, None));
            told.extend(forgotten.map(lost));
        }
        let waiting = self.outbox.held();
        told.extend(self.pending.lost(is_final, too_large.as_ref()));
        if is_final {
            self.outbox.clear();
        }
        let unconfirmed = self.pending.take_unconfirmed() + dropped;
        let (waiting, unsent) = if is_final { (0, waiting) } else { (waiting, 0) };
        Loss { told, void, unconfirmed, waiting, unsent }
    }
}
