//! A client's messages on their way, who waits for answers, and what is to be restored: all that
//! is behind the one lock of [`Shared`](super::shared::Shared).

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use uuid::Uuid;

use super::outbox::{Kind, Outbox, Outgoing};
use super::pending::Pending;
use super::routes::{Handler, Route, Sink};
use super::waiter::Waiter;
use crate::client::client_options::{ClientOptions, WhileDisconnected};
use crate::client::error::{Error, Execution};
use crate::client::wire::encoder::{Encoder, Heading};
use crate::client::wire::socket::Socket;
use crate::proto::Message;
use crate::proto::MessageType;
use crate::proto::system::{SYSTEM, Serve, Subscribe};

#[derive(Debug)]
pub(crate) enum Link {
    Up(Arc<Socket>),
    /// The server asked us to leave: it answers what it has and takes no more.
    Leaving(Arc<Socket>),
    Down,
    /// For good.
    Closed,
}

pub(crate) struct State {
    pub(crate) link: Link,
    /// Counts the connections: what belongs to an older one is void.
    pub(crate) generation: u64,
    pub(crate) connection_id: String,
    /// How often in a row the driver's attempts came to nothing.
    pub(crate) failures: u32,
    pub(crate) outbox: Outbox,
    pub(crate) pending: Pending,
    pub(crate) routes: HashMap<String, Route>,
    /// Who gets the messages that nobody else takes.
    pub(crate) rest: Option<Handler>,
    pub(crate) served: HashMap<String, Arc<dyn Service>>,
    /// Workers whose next request the driver has to hand out.
    pub(crate) ready: Vec<Arc<dyn Service>>,
    /// Requests that workers have and have not answered.
    pub(crate) jobs: usize,
    /// What came for a worker that had no room for it, and is answered with nothing.
    pub(crate) missed_notifications: u64,
    /// The server is known to answer pings, so a silent one is a dead one.
    pub(crate) answers_ping: bool,
    /// The last ping of the driver's own.
    pub(crate) heartbeat: Option<Uuid>,
    /// The earliest moment for which the driver must wake up, as it knows.
    pub(crate) alarm: Option<Instant>,
    pub(crate) next_key: u64,
    /// The driver has ended. What speaks against all having been processed by then.
    pub(crate) end: Option<Result<(), Error>>,
}

/// A served channel: a queue of requests and the handler behind it.
pub(crate) trait Service: Send + Sync {
    /// Accepts a request or notification that came by the connection with this generation. Beyond
    /// the limits a request is refused, and a notification dropped and counted.
    fn take(self: Arc<Self>, message: Message, generation: u64);

    /// Hands out requests that wait, as far as the concurrency allows.
    fn start(self: Arc<Self>);

    /// Removes the threads that run the handler, so that the caller can join them.
    fn take_threads(&self) -> Vec<JoinHandle<()>>;
}

/// What a lost connection takes with it.
#[derive(Debug)]
pub(crate) struct Loss {
    /// Whom to tell, with whether it may have been executed.
    pub(crate) told: Vec<(Waiter, Execution)>,
    /// Messages without an answer that may be lost.
    pub(crate) unconfirmed: u64,
    /// Messages that wait for the next connection.
    pub(crate) waiting: usize,
    /// Messages that waited and are given up.
    pub(crate) unsent: usize,
}

impl Loss {
    /// The caller's requests among those to be told.
    pub(crate) fn unanswered(&self) -> usize {
        self.told.iter().filter(|(waiter, _)| !matches!(waiter, Waiter::Heartbeat)).count()
    }

    pub(crate) fn tell(&mut self) {
        for (waiter, execution) in self.told.drain(..) {
            waiter.tell(Err(Error::lost(execution, None)));
        }
    }
}

impl State {
    pub(crate) fn new(options: &ClientOptions) -> Self {
        let moves_on =
            options.reconnect.is_some() && options.while_disconnected == WhileDisconnected::Wait;
        Self {
            link: Link::Down,
            generation: 0,
            connection_id: String::new(),
            failures: 0,
            outbox: Outbox::default(),
            pending: Pending::new(if moves_on { options.queue_bytes_max } else { 0 }),
            routes: HashMap::new(),
            rest: None,
            served: HashMap::new(),
            ready: Vec::new(),
            jobs: 0,
            missed_notifications: 0,
            answers_ping: false,
            heartbeat: None,
            alarm: None,
            next_key: 0,
            end: None,
        }
    }

    /// Who listens to the channel, or else to what nobody takes.
    pub(crate) fn sinks(&self, channel_id: &str) -> Vec<Sink> {
        match self.routes.get(channel_id) {
            Some(route) if !route.listeners.is_empty() => {
                route.listeners.iter().map(|(_, sink)| sink.clone()).collect()
            }
            _ => self.rest_sink(),
        }
    }

    pub(crate) fn rest_sink(&self) -> Vec<Sink> {
        self.rest.iter().map(|handler| Sink::Handler(Arc::clone(handler))).collect()
    }

    /// The caller's requests without an answer, which heartbeats are not.
    pub(crate) fn requests(&self) -> usize {
        let is_asked = self.heartbeat.is_some_and(|id| self.pending.contains(id));
        self.pending.len() - usize::from(is_asked)
    }

    /// The server refused to look at a request because it ends: whether it waits for the next
    /// connection instead.
    pub(crate) fn move_on(&mut self, id: Uuid) -> bool {
        if !matches!(self.link, Link::Leaving(_)) {
            return false;
        }
        let Some((frame, number)) = self.pending.refused(id) else { return false };
        self.outbox.hold(Outgoing { frame, kind: Kind::AnyConnection, request: Some(id), number });
        true
    }

    /// What nobody waits for any more is not executed after all.
    pub(crate) fn drop_expired(&mut self) {
        let Self { outbox, pending, .. } = self;
        // Looked for only where there is something to be found: the queue may be long.
        if pending.take_abandoned() {
            outbox.retain(|id| pending.contains(id));
        }
    }

    /// Writes what is queued. Returns how much left, and whether the kernel takes more.
    pub(crate) fn flush(&mut self) -> (usize, bool) {
        let Self { link, outbox, pending, .. } = self;
        let (Link::Up(socket) | Link::Leaving(socket)) = link else { return (0, true) };
        let mut written = 0;
        while let Some(rest) = outbox.rest() {
            if outbox.unbegun().is_some_and(|id| !pending.contains(id)) {
                outbox.skip();
                continue;
            }
            let sent = match socket.send(rest) {
                Ok(bytes) => bytes,
                Err(error) => return (written, error.kind() != ErrorKind::WouldBlock),
            };
            written += sent;
            if let Some(Outgoing { frame, kind, request, number }) = outbox.advance(sent) {
                pending.note_sent(kind, request, number, frame.len(), || frame);
            }
        }
        (written, true)
    }

    /// A new connection: what has to be restored goes first, then what was held. Returns the
    /// requests that take served channels up again.
    pub(crate) fn link_up(
        &mut self,
        socket: Arc<Socket>,
        connection_id: String,
        encoder: &mut Encoder,
    ) -> Vec<(Uuid, String)> {
        self.link = Link::Up(socket);
        self.generation += 1;
        self.connection_id = connection_id;
        debug_assert!(!self.outbox.has_queued());
        self.drop_expired();
        let Self { outbox, connection_id, routes, served, .. } = self;
        let mut push = |encoder: &mut Encoder, request| {
            let frame = encoder.take_frame();
            let number = outbox.number();
            outbox.queue(Outgoing { frame, kind: Kind::Control, request, number }, 0);
        };
        let subscription = Subscribe::new(connection_id, false);
        for (channel_id, _) in routes.iter().filter(|(_, route)| route.is_subscribed) {
            let heading = Heading::new(MessageType::Subscribe, channel_id);
            if encoder.value(heading, &subscription).is_ok() {
                push(encoder, None);
            }
        }
        let mut serves = Vec::new();
        for channel in served.keys() {
            let heading = Heading::new(MessageType::Request, SYSTEM);
            if let Ok(id) = encoder.value(heading, &Serve::start(channel)) {
                push(encoder, Some(id));
                serves.push((id, channel.clone()));
            }
        }
        outbox.release();
        serves
    }

    /// The connection is gone.
    pub(crate) fn link_down(&mut self, is_final: bool) -> Loss {
        self.link = if is_final { Link::Closed } else { Link::Down };
        self.jobs = 0;
        self.drop_expired();
        let mut told = Vec::new();
        for id in self.outbox.link_down() {
            told.extend(self.pending.forget(id));
        }
        let waiting = self.outbox.held();
        told.extend(self.pending.lost(is_final));
        if is_final {
            self.outbox.clear();
        }
        let unconfirmed = self.pending.take_unconfirmed();
        let (waiting, unsent) = if is_final { (0, waiting) } else { (waiting, 0) };
        Loss { told, unconfirmed, waiting, unsent }
    }
}
