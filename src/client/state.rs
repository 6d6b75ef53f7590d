//! A client's messages on their way, who waits for answers, and what is to be restored: all that
//! is behind the one lock of [`Shared`].

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use uuid::Uuid;

use super::answer::{Serve, Subscription};
use super::encoder::{Encoder, Heading};
use super::error::{Error, Execution};
use super::shared::{SYSTEM, Shared};
use super::slot::Waiter;
use super::socket::Socket;
use super::subscription::Inbox;
use super::worker::Worker;
use crate::broker::Message;
use crate::proto::MessageType;

/// What a message is to the connection it was meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Waits for the next connection where it did not leave by this one.
    Free,
    /// Has no meaning on another connection: answers, subscriptions (which are restored).
    Bound,
}

#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) frame: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) request: Option<Uuid>,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) waiter: Waiter,
    pub(super) deadline: Option<Instant>,
    pub(super) begin: Instant,
    /// All of it is with the kernel: it may be executed.
    pub(super) left: bool,
}

#[derive(Debug)]
pub(super) enum Link {
    Up(Arc<Socket>),
    /// The server asked us to leave: it answers what it has and takes no more.
    Leaving(Arc<Socket>),
    Down,
    /// For good.
    Closed,
}

pub(super) type Handler = Arc<Mutex<dyn FnMut(Message) + Send>>;

#[derive(Clone)]
pub(super) enum Sink {
    Handler(Handler),
    Inbox(Arc<Inbox>),
}

#[derive(Default)]
pub(super) struct Route {
    pub(super) listeners: Vec<(u64, Sink)>,
    /// Whether the server is to send the channel's publications.
    pub(super) is_subscribed: bool,
}

pub(super) struct State {
    pub(super) encoder: Encoder,
    pub(super) link: Link,
    /// Counts the connections: what belongs to an older one is void.
    pub(super) generation: u64,
    pub(super) connection_id: String,
    /// For this connection. Of the first one, `head_sent` bytes are with the kernel.
    pub(super) queue: VecDeque<Outgoing>,
    pub(super) head_sent: usize,
    /// For the next connection.
    pub(super) held: VecDeque<Outgoing>,
    pub(super) waiting_bytes: usize,
    pub(super) pending: HashMap<Uuid, Pending>,
    pub(super) deadlines: BTreeSet<(Instant, Uuid)>,
    pub(super) routes: HashMap<String, Route>,
    pub(super) served: HashMap<String, Arc<Worker>>,
    /// Requests that workers have and have not answered.
    pub(super) jobs: usize,
    /// Messages without an answer that left since the server last proved that it had all.
    pub(super) unconfirmed: u64,
    /// The last ping of the driver's own.
    pub(super) heartbeat: Option<Uuid>,
    /// The earliest moment for which the driver must wake up, as it knows.
    pub(super) alarm: Option<Instant>,
    pub(super) next_key: u64,
}

impl Route {
    /// Whoever reads its messages sees their end.
    pub(super) fn close(&self) {
        for (_, sink) in &self.listeners {
            if let Sink::Inbox(inbox) = sink {
                inbox.close();
            }
        }
    }
}

impl State {
    pub(super) fn new(encoder: Encoder) -> Self {
        Self {
            encoder,
            link: Link::Down,
            generation: 0,
            connection_id: String::new(),
            queue: VecDeque::new(),
            head_sent: 0,
            held: VecDeque::new(),
            waiting_bytes: 0,
            pending: HashMap::new(),
            deadlines: BTreeSet::new(),
            routes: HashMap::new(),
            served: HashMap::new(),
            jobs: 0,
            unconfirmed: 0,
            heartbeat: None,
            alarm: None,
            next_key: 0,
        }
    }

    /// A message is with the kernel.
    pub(super) fn left(&mut self, request: Option<Uuid>) {
        if let Some(pending) = request.and_then(|id| self.pending.get_mut(&id)) {
            pending.left = true;
        }
    }

    pub(super) fn watch(&mut self, id: Uuid, deadline: Instant, shared: &Shared) {
        self.deadlines.insert((deadline, id));
        if self.alarm.is_none_or(|alarm| deadline < alarm) {
            self.alarm = Some(deadline);
            if !shared.is_driver() {
                shared.wake();
            }
        }
    }

    /// Nobody waits for this answer any more.
    pub(super) fn forget(&mut self, id: Uuid) -> Option<Waiter> {
        let pending = self.pending.remove(&id)?;
        if let Some(deadline) = pending.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        Some(pending.waiter)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes out who has waited too long.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<(Waiter, Error)> {
        let mut expired = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            if let Some(pending) = self.pending.remove(&id) {
                let waited = deadline.duration_since(pending.begin);
                let error = Error::Deadline { waiting_for: "the answer", waited };
                expired.push((pending.waiter, error));
            }
        }
        expired
    }

    pub(super) fn sinks(&self, channel_id: &str) -> Vec<Sink> {
        let route = self.routes.get(channel_id);
        route.map_or_else(Vec::new, |route| {
            route.listeners.iter().map(|(_, sink)| sink.clone()).collect()
        })
    }

    /// The caller's requests without an answer, which heartbeats are not.
    pub(super) fn requests(&self) -> usize {
        let is_asked = self.heartbeat.is_some_and(|id| self.pending.contains_key(&id));
        self.pending.len() - usize::from(is_asked)
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Writes what is queued. False if the kernel takes no more for now.
    pub(super) fn flush(&mut self) -> bool {
        let (Link::Up(socket) | Link::Leaving(socket)) = &self.link else { return true };
        let socket = Arc::clone(socket);
        while let Some(head) = self.queue.front() {
            match socket.send(&head.frame[self.head_sent..]) {
                Ok(bytes) => self.head_sent += bytes,
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
            if self.head_sent == head.frame.len() {
                self.head_sent = 0;
                self.waiting_bytes -= head.frame.len();
                let request = head.request;
                self.queue.pop_front();
                self.left(request);
            }
        }
        true
    }

    /// A new connection: what has to be restored goes first, then what was held.
    pub(super) fn link_up(&mut self, socket: Arc<Socket>, connection_id: String) -> Vec<Uuid> {
        self.link = Link::Up(socket);
        self.generation += 1;
        self.connection_id = connection_id;
        self.head_sent = 0;
        debug_assert!(self.queue.is_empty());
        self.drop_expired();
        let State { encoder, queue, connection_id, routes, served, .. } = &mut *self;
        let mut push = |encoder: &Encoder, request| {
            let frame = encoder.frame().to_vec();
            queue.push_back(Outgoing { frame, kind: Kind::Bound, request });
        };
        let subscription = Subscription { connection_id, ack: false };
        for (channel_id, _) in routes.iter().filter(|(_, route)| route.is_subscribed) {
            let heading = Heading::new(MessageType::Subscribe, channel_id);
            if encoder.value(heading, &subscription).is_ok() {
                push(encoder, None);
            }
        }
        let mut serves = Vec::new();
        for channel in served.keys() {
            let heading = Heading::new(MessageType::Request, SYSTEM);
            if let Ok(id) = encoder.value(heading, &Serve { action: "serve", channel }) {
                push(encoder, Some(id));
                serves.push(id);
            }
        }
        self.waiting_bytes += self.queue.iter().map(|outgoing| outgoing.frame.len()).sum::<usize>();
        self.queue.append(&mut self.held);
        serves
    }

    /// A request that nobody waits for any more, and was told so, is not executed after all.
    fn drop_expired(&mut self) {
        let State { held, pending, waiting_bytes, .. } = self;
        held.retain(|outgoing| {
            let is_wanted = outgoing.request.is_none_or(|id| pending.contains_key(&id));
            if !is_wanted {
                *waiting_bytes -= outgoing.frame.len();
            }
            is_wanted
        });
    }

    /// The connection is gone. Returns whom to tell, with whether it may have been executed.
    pub(super) fn link_down(&mut self, is_final: bool) -> Vec<(Waiter, Execution)> {
        self.link = if is_final { Link::Closed } else { Link::Down };
        self.head_sent = 0;
        self.jobs = 0;
        let mut told = Vec::new();
        let mut void = Vec::new();
        while let Some(outgoing) = self.queue.pop_back() {
            if outgoing.kind == Kind::Free {
                self.held.push_front(outgoing);
            } else {
                self.waiting_bytes -= outgoing.frame.len();
                void.extend(outgoing.request);
            }
        }
        if is_final {
            self.held.clear();
            self.waiting_bytes = 0;
        }
        for id in void {
            told.extend(self.forget(id).map(|waiter| (waiter, Execution::Never)));
        }
        let gone: Vec<Uuid> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.left || is_final)
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let left = self.pending.get(&id).is_some_and(|pending| pending.left);
            let execution = if left { Execution::Possible } else { Execution::Never };
            told.extend(self.forget(id).map(|waiter| (waiter, execution)));
        }
        told
    }

    /// How many messages wait for the next connection.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// How many messages without an answer the lost connection may have taken with it. Those
    /// that wait for the next one are counted on it.
    pub(super) fn take_unconfirmed(&mut self) -> u64 {
        let waiting = self.held.iter().filter(|outgoing| outgoing.request.is_none()).count() as u64;
        let all = std::mem::replace(&mut self.unconfirmed, waiting);
        all.saturating_sub(waiting)
    }

    pub(super) fn expect_restored(&mut self, id: Uuid, waiter: Waiter) {
        let begin = Instant::now();
        self.pending.insert(id, Pending { waiter, deadline: None, begin, left: false });
    }
}
