//! What the threads that call a client share with the thread that drives it.
//!
//! A caller writes to the socket itself where nothing is queued before it, so that a request
//! costs one wake-up more than on the caller's own connection: that of the driver, which reads.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use serde::Serialize;
use uuid::Uuid;

use super::answer::{Serve, Subscription};
use super::client_options::{ClientOptions, WhileDisconnected};
use super::encoder::{Encoder, Heading};
use super::error::{Error, Execution};
use super::event::Event;
use super::slot::{Slot, Waiter};
use super::socket::Socket;
use super::subscription::Inbox;
use super::worker::Worker;
use crate::broker::Message;
use crate::proto::MessageType;

pub(super) const SYSTEM: &str = "system";

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
    frame: Vec<u8>,
    kind: Kind,
    request: Option<Uuid>,
}

#[derive(Debug)]
pub(super) struct Pending {
    waiter: Waiter,
    deadline: Option<Instant>,
    begin: Instant,
    /// All of it is with the kernel: it may be executed.
    left: bool,
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

pub(super) type Listener = Box<dyn FnMut(&Event) + Send>;
pub(super) type Handler = Arc<Mutex<dyn FnMut(Message) + Send>>;

#[derive(Clone)]
pub(super) enum Sink {
    Handler(Handler),
    Inbox(Arc<Inbox>),
}

#[derive(Default)]
pub(super) struct Route {
    listeners: Vec<(u64, Sink)>,
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
    queue: VecDeque<Outgoing>,
    head_sent: usize,
    /// For the next connection.
    held: VecDeque<Outgoing>,
    waiting_bytes: usize,
    pub(super) pending: HashMap<Uuid, Pending>,
    deadlines: BTreeSet<(Instant, Uuid)>,
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
    next_key: u64,
}

/// See the module.
pub(super) struct Shared {
    state: Mutex<State>,
    /// There is room in the queue, or nothing in it, or no job any more.
    pub(super) progress: Condvar,
    pub(super) waker: mio::Waker,
    pub(super) options: ClientOptions,
    pub(super) driver: std::sync::OnceLock<ThreadId>,
    pub(super) listeners: Mutex<Vec<Listener>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(options: ClientOptions, encoder: Encoder, waker: mio::Waker) -> Self {
        let state = State {
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
        };
        Self {
            state: Mutex::new(state),
            progress: Condvar::new(),
            waker,
            options,
            driver: std::sync::OnceLock::new(),
            listeners: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the driver look at the state. It cannot fail but by a lack of kernel memory, and
    /// then the driver wakes up for its next heartbeat.
    pub(super) fn wake(&self) {
        let _ = self.waker.wake();
    }

    pub(super) fn is_driver(&self) -> bool {
        self.driver.get() == Some(&std::thread::current().id())
    }

    /// Sends a message that nothing answers.
    pub(super) fn post<T: Serialize + ?Sized>(
        &self,
        heading: Heading<'_>,
        payload: &T,
        kind: Kind,
    ) -> Result<(), Error> {
        let mut state = self.room(kind)?;
        state.encoder.value(heading, payload)?;
        self.dispatch(&mut state, kind, None)?;
        state.unconfirmed += u64::from(kind == Kind::Free);
        Ok(())
    }

    /// Sends a message whose answer goes to `waiter`.
    pub(super) fn ask<T: Serialize + ?Sized>(
        &self,
        heading: Heading<'_>,
        payload: &T,
        kind: Kind,
        waiter: Waiter,
        timeout: Duration,
    ) -> Result<Uuid, Error> {
        let mut state = self.room(kind)?;
        let id = state.encoder.value(heading, payload)?;
        let begin = Instant::now();
        let is_watched = !matches!(waiter, Waiter::Slot(_));
        let deadline = begin.checked_add(timeout);
        state.pending.insert(id, Pending { waiter, deadline, begin, left: false });
        if let Err(error) = self.dispatch(&mut state, kind, Some(id)) {
            state.pending.remove(&id);
            return Err(error);
        }
        if let Some(deadline) = deadline.filter(|_| is_watched) {
            state.watch(id, deadline, self);
        }
        Ok(id)
    }

    /// As [`ask`](Self::ask), for a future: a slot whose deadline the driver watches.
    pub(super) fn ask_watched<T: Serialize + ?Sized>(
        &self,
        heading: Heading<'_>,
        payload: &T,
        slot: Arc<Slot>,
        timeout: Duration,
    ) -> Result<(), Error> {
        let id = self.ask(heading, payload, Kind::Free, Waiter::Slot(slot), timeout)?;
        let mut state = self.lock();
        if let Some(deadline) = state.pending.get(&id).and_then(|pending| pending.deadline) {
            state.watch(id, deadline, self);
        }
        Ok(())
    }

    /// Sends a message and blocks until it is answered.
    pub(super) fn ask_and_wait<T: Serialize + ?Sized>(
        &self,
        heading: Heading<'_>,
        payload: &T,
        timeout: Duration,
    ) -> Result<Message, Error> {
        if self.is_driver() {
            return Err(Error::OnClientThread);
        }
        let begin = Instant::now();
        let slot = Arc::new(Slot::default());
        let waiter = Waiter::Slot(Arc::clone(&slot));
        let id = self.ask(heading, payload, Kind::Free, waiter, timeout)?;
        // What no clock can express is forever.
        let deadline = begin.checked_add(timeout);
        let deadline = deadline.unwrap_or(begin + Duration::from_secs(u32::MAX.into()));
        if let Some(answer) = slot.wait(deadline) {
            return answer;
        }
        let mut state = self.lock();
        if state.forget(id).is_some() {
            return Err(Error::Deadline { waiting_for: "the answer", waited: timeout });
        }
        drop(state);
        // It came in this very moment, and whoever took it out is about to hand it over.
        let soon = Instant::now() + Duration::from_secs(60);
        slot.wait(soon).unwrap_or(Err(Error::lost(Execution::Possible, None)))
    }

    /// The state once there is room for another message, or an error that says why not.
    fn room(&self, kind: Kind) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.lock();
        let queue_bytes_max = self.options.queue_bytes_max;
        let begin = Instant::now();
        loop {
            let waits = match state.link {
                Link::Closed => return Err(Error::Closed),
                Link::Up(_) => state.waiting_bytes >= queue_bytes_max,
                // Answers are what a server that ends still waits for.
                Link::Leaving(_) if kind == Kind::Bound => false,
                Link::Down | Link::Leaving(_) => {
                    match self.options.while_disconnected {
                        WhileDisconnected::Fail => return Err(Error::Disconnected),
                        WhileDisconnected::Wait if state.waiting_bytes >= queue_bytes_max => {
                            return Err(Error::QueueFull { bytes_max: queue_bytes_max });
                        }
                        WhileDisconnected::Wait => {}
                    }
                    false
                }
            };
            if !waits {
                return Ok(state);
            }
            let left = self.options.connection.timeout.saturating_sub(begin.elapsed());
            if self.is_driver() || left.is_zero() {
                return Err(Error::QueueFull { bytes_max: queue_bytes_max });
            }
            let woken = self.progress.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes the frame that was encoded last, or queues it.
    fn dispatch(&self, state: &mut State, kind: Kind, request: Option<Uuid>) -> Result<(), Error> {
        let mut sent = 0;
        let for_this_link = match &state.link {
            Link::Up(socket) => {
                if state.queue.is_empty() {
                    // A failure is seen by the driver too, which does what is to be done.
                    sent = socket.send(state.encoder.frame()).unwrap_or_default();
                }
                true
            }
            Link::Leaving(_) => kind == Kind::Bound,
            Link::Down if kind == Kind::Bound => return Err(Error::Disconnected),
            Link::Down => false,
            Link::Closed => return Err(Error::Closed),
        };
        if sent == state.encoder.frame().len() {
            state.left(request);
            return Ok(());
        }
        let outgoing = Outgoing { frame: state.encoder.frame().to_vec(), kind, request };
        state.waiting_bytes += outgoing.frame.len();
        if for_this_link {
            if state.queue.is_empty() {
                state.head_sent = sent;
            }
            state.queue.push_back(outgoing);
            self.wake();
        } else {
            state.held.push_back(outgoing);
        }
        Ok(())
    }

    /// Listens to a channel; a first subscriber tells the server.
    pub(super) fn listen(
        &self,
        channel_id: &str,
        sink: Sink,
        subscribes: bool,
    ) -> Result<u64, Error> {
        super::encoder::check_id("channel_id", channel_id)?;
        let mut state = self.lock();
        if matches!(state.link, Link::Closed) {
            return Err(Error::Closed);
        }
        state.next_key += 1;
        let key = state.next_key;
        let route = state.routes.entry(channel_id.to_owned()).or_default();
        route.listeners.push((key, sink));
        if subscribes && !std::mem::replace(&mut route.is_subscribed, true) {
            self.subscription(&mut state, MessageType::Subscribe, channel_id)?;
        }
        Ok(key)
    }

    pub(super) fn remove_listener(&self, channel_id: &str, key: u64) {
        let mut state = self.lock();
        let Some(route) = state.routes.get_mut(channel_id) else { return };
        route.listeners.retain(|(of, _)| *of != key);
        if route.listeners.is_empty() {
            self.remove_route(&mut state, channel_id);
        }
    }

    pub(super) fn unsubscribe(&self, channel_id: &str) {
        let mut state = self.lock();
        self.remove_route(&mut state, channel_id);
    }

    fn remove_route(&self, state: &mut State, channel_id: &str) {
        let Some(route) = state.routes.remove(channel_id) else { return };
        route.close();
        if route.is_subscribed {
            // Disconnected, there is nothing to be taken back.
            let _ = self.subscription(state, MessageType::Unsubscribe, channel_id);
        }
    }

    fn subscription(
        &self,
        state: &mut State,
        message_type: MessageType,
        channel_id: &str,
    ) -> Result<(), Error> {
        if !matches!(state.link, Link::Up(_)) {
            // Restored with the next connection.
            return Ok(());
        }
        let heading = Heading::new(message_type, channel_id);
        let State { encoder, connection_id, .. } = &mut *state;
        encoder.value(heading, &Subscription { connection_id, ack: false })?;
        self.dispatch(state, Kind::Bound, None)
    }

    /// Tells those who listen to events. Not to be called with the state locked.
    pub(super) fn emit(&self, event: &Event) {
        let lock = || self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        // Not locked meanwhile: a listener may bring another one.
        let mut listeners = std::mem::take(&mut *lock());
        for listener in &mut listeners {
            shielded(|| listener(event));
        }
        lock().splice(0..0, listeners);
    }
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
    /// A message is with the kernel.
    fn left(&mut self, request: Option<Uuid>) {
        if let Some(pending) = request.and_then(|id| self.pending.get_mut(&id)) {
            pending.left = true;
        }
    }

    fn watch(&mut self, id: Uuid, deadline: Instant, shared: &Shared) {
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

/// Runs what the caller gave us. A panic of its is its own affair, told by the panic hook; the
/// client lives on.
pub(super) fn shielded(run: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(run));
}
