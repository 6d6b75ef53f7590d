//! The state that all parts of the broker share, and the ways in which bytes leave it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::arena::Arena;
use super::connection::{Connection, State};
use super::encoder::{Address, Encoded, Encoder};
use super::events::{Action, ConnectionEvent};
use super::keys::{ConnectionKey, ConnectionKind, RequestKind};
use super::latency::Recorder;
use super::mailbox::Remote;
use super::router::Router;
use super::stats::Counters;
use super::timers::{Due, Now, Timers};
use super::turn::{Place, Work};
use crate::broker::access::Access;
use crate::broker::embed::handlers::{Dealt, HandlersKey};
use crate::broker::flow::memory::{Budget, CONNECTION_BYTES};
use crate::broker::flow::reload::Former;
use crate::broker::flow::workers::PendingRequest;
use crate::broker::limits::{LINGER, Limits, STRANGER_PARTS, STRANGERS_EVICTED};
use crate::proto::system::{Failure, SYSTEM};
use crate::proto::{
    BufferPool, Envelope, EnvelopeError, ErrorCode, JsonStr, MessageType, OutFrame,
};

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) limits: Limits,
    /// Unsent bytes at which a connection has no grace, see [`Limits::queue_bytes_max`].
    pub(crate) queue_bytes_max: usize,
    /// Who had begun a frame when its limit was lowered.
    pub(crate) former: BTreeMap<ConnectionKey, Former>,
    pub(crate) access: Access,
    pub(crate) now: Now,
    pub(crate) started: Now,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) connections: Arena<ConnectionKind, Connection>,
    /// Those among them that were over the limit and are only told so.
    pub(crate) refused: usize,
    /// Those that have introduced themselves.
    pub(crate) sessions: usize,
    /// Those whose id a newer one has, and that are not told yet.
    pub(crate) superseded: usize,
    /// When there was last nobody to be found who had not introduced himself.
    strangers_sought_at: Option<Duration>,
    pub(crate) router: Router,
    pub(crate) requests: Arena<RequestKind, PendingRequest>,
    pub(crate) timers: Timers,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) events: Vec<ConnectionEvent>,
    pub(crate) pool: BufferPool,
    pub(crate) budget: Budget,
    pub(crate) work: Work,
    pub(crate) encoder: Encoder,
    pub(crate) counters: Counters,
    pub(crate) latency: Recorder,
    /// When the last byte came of the frame that is being processed.
    pub(crate) arrived: Duration,
    pub(crate) remote: Arc<Remote>,
    /// What the handler that is running has done with its request.
    pub(crate) dealt: Dealt,
    /// Connections to be closed once nobody iterates over them.
    pub(crate) doomed: Vec<ConnectionKey>,
    /// Handlers of removed channels, to be dropped once none of them runs.
    pub(crate) orphans: Vec<HandlersKey>,
    /// The drain took too long.
    pub(crate) is_cut_off: bool,
    /// Where the server listens, for `get_stats`.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Where the server is in its life. It only ever moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifecycle {
    Running,
    /// New requests are refused; connections close as soon as nothing of theirs is left.
    Draining,
}

/// Why a message is not served: the code, and the sentence that says what to do.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) text: std::borrow::Cow<'static, str>,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, text: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self { code, text: text.into() }
    }
}

pub(crate) fn taken_over() -> Refusal {
    Refusal::new(
        ErrorCode::TakenOver,
        "a newer connection of this application came with the same connection_id; give every \
         connection an id of its own",
    )
}

impl Core {
    pub(crate) fn new(
        limits: Limits,
        access: Access,
        seed: [u8; 32],
        now: Now,
        remote: Arc<Remote>,
    ) -> Self {
        Self {
            queue_bytes_max: limits.queue_bytes_max(),
            former: BTreeMap::new(),
            limits,
            access,
            now,
            started: now,
            lifecycle: Lifecycle::Running,
            connections: Arena::default(),
            refused: 0,
            sessions: 0,
            superseded: 0,
            strangers_sought_at: None,
            router: Router::default(),
            requests: Arena::default(),
            timers: Timers::default(),
            actions: VecDeque::new(),
            events: Vec::new(),
            pool: BufferPool::default(),
            budget: Budget::default(),
            work: Work::default(),
            encoder: Encoder::new(seed),
            counters: Counters::default(),
            latency: Recorder::default(),
            arrived: now.monotonic,
            remote,
            dealt: Dealt::Not,
            doomed: Vec::new(),
            orphans: Vec::new(),
            is_cut_off: false,
            host: String::new(),
            port: 0,
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.lifecycle != Lifecycle::Running
    }

    /// Puts a frame into a connection's queue; it leaves at the turn's end.
    /// Returns whether the connection still takes any.
    pub(crate) fn enqueue(&mut self, to: ConnectionKey, frame: &OutFrame<'_>) -> bool {
        let Some(connection) = self.connections.get_mut(to) else { return false };
        if !connection.takes_messages() {
            return false;
        }
        if connection.send.len() + frame.len() > self.queue_bytes_max {
            self.counters.slow_consumers += 1;
            connection.doomed = true;
            self.doomed.push(to);
            return false;
        }
        connection.send.push(frame, &mut self.pool);
        self.counters.frames_out += 1;
        self.counters.bytes_out += frame.len() as u64;
        if !connection.flush_due {
            connection.flush_due = true;
            self.actions.push_back(Action::Flush(to));
        }
        let high_water_bytes = connection.high_water_bytes(&self.limits);
        if connection.congested.is_none() && connection.send.len() > high_water_bytes {
            self.congest(to);
        }
        true
    }

    pub(crate) fn send(&mut self, to: ConnectionKey, message: Encoded) -> bool {
        let taken = self.enqueue(to, &message.frame());
        self.encoder.recycle(message);
        taken
    }

    /// Answers the message `to` sent with a value.
    pub(crate) fn respond<T: serde::Serialize + ?Sized>(
        &mut self,
        to: ConnectionKey,
        envelope: &Envelope<'_>,
        payload: &T,
    ) -> Result<(), serde_json::Error> {
        let address = Address::of(envelope);
        let reply_to = Some(envelope.message_id().raw());
        let answer = self.encode(address, MessageType::Response, reply_to, payload)?;
        self.send_answer(to, envelope, answer);
        Ok(())
    }

    pub(crate) fn send_answer(
        &mut self,
        to: ConnectionKey,
        envelope: &Envelope<'_>,
        answer: Encoded,
    ) {
        if answer.body_bytes() > self.limits.frame_bytes_max {
            self.encoder.recycle(answer);
            self.refuse(to, envelope, &crate::broker::peer::listings::answer_too_large());
        } else {
            self.send(to, answer);
        }
    }

    pub(crate) fn encode<T: serde::Serialize + ?Sized>(
        &mut self,
        address: Address<'_>,
        message_type: MessageType,
        reply_to: Option<&str>,
        payload: &T,
    ) -> Result<Encoded, serde_json::Error> {
        let gauge = self.pool.gauge();
        self.encoder.value(gauge, self.now.unix, address, message_type, reply_to, payload)
    }

    /// Answers a message with an error, and closes the connection if the code says so.
    /// A response is never answered, so that no two peers can bounce errors.
    pub(crate) fn refuse(&mut self, to: ConnectionKey, envelope: &Envelope<'_>, why: &Refusal) {
        if envelope.message_type() == MessageType::Response {
            self.counters.responses_ignored += 1;
            if why.code.closes_connection() {
                self.begin_close(to);
            }
            return;
        }
        let reply_to = Some(envelope.message_id().raw()).filter(|id| !id.is_empty());
        self.send_error(to, Address::of(envelope), reply_to, why);
    }

    pub(crate) fn refuse_unread(&mut self, to: ConnectionKey, error: &EnvelopeError<'_>) {
        if error.message_type == Some(MessageType::Response) {
            self.counters.responses_ignored += 1;
            return;
        }
        let why = Refusal::new(error.fault.code(), error.fault.to_string());
        let channel_id = error.channel_id.map_or(SYSTEM, |id| id.raw());
        let reply_to = error.message_id.map(JsonStr::raw).filter(|id| !id.is_empty());
        self.send_own_error(to, channel_id, reply_to, &why);
    }

    /// Tells a connection what is wrong with it rather than with one of its messages.
    pub(crate) fn report(&mut self, to: ConnectionKey, why: &Refusal) {
        self.send_own_error(to, SYSTEM, None, why);
    }

    /// An error in the name of the connection's own application.
    fn send_own_error(
        &mut self,
        to: ConnectionKey,
        channel_id: &str,
        reply_to: Option<&str>,
        why: &Refusal,
    ) {
        let application = self
            .connections
            .get(to)
            .and_then(Connection::session)
            .and_then(|session| self.router.applications.get(session.application))
            .map_or_else(|| SYSTEM.into(), |application| application.id_json.clone());
        self.send_error(to, Address { app_id: &application, channel_id }, reply_to, why);
    }

    pub(crate) fn send_error(
        &mut self,
        to: ConnectionKey,
        address: Address<'_>,
        reply_to: Option<&str>,
        why: &Refusal,
    ) {
        self.counters.count_error(why.code);
        let payload = Failure::new(why.code, &why.text);
        // Three strings always serialize.
        if let Ok(message) = self.encode(address, MessageType::Response, reply_to, &payload) {
            self.send(to, message);
        }
        if why.code.closes_connection() {
            // To be taken over is the everyday life of who connects again.
            if why.code != ErrorCode::TakenOver {
                crate::trace::refused(to.index(), why.code.as_str());
            }
            self.begin_close(to);
        }
    }

    /// Lets what is queued go out, then closes. Nothing more is read.
    pub(crate) fn begin_close(&mut self, key: ConnectionKey) {
        if !self.connections.get(key).is_some_and(Connection::is_live) {
            return;
        }
        self.leave(key, State::Closing);
        let deadline = self.deadline_in(self.limits.slow_consumer_grace);
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.timer = Some(self.timers.arm(deadline, Due::Linger(key)));
        if !connection.flush_due {
            connection.flush_due = true;
            self.actions.push_back(Action::Flush(key));
        }
    }

    /// Everything is sent: shuts the write side and gives the peer time to read it.
    pub(crate) fn begin_linger(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if let Some(timer) = connection.timer.take() {
            self.timers.disarm(timer);
        }
        connection.state = State::Lingering;
        let deadline = self.now.monotonic + LINGER;
        connection.timer = Some(self.timers.arm(deadline, Due::Linger(key)));
        self.actions.push_back(Action::FinishWrite(key));
    }

    /// Closes without another word.
    pub(crate) fn close_now(&mut self, key: ConnectionKey) {
        self.leave(key, State::Closing);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if matches!(connection.state, State::Closed) {
            return;
        }
        connection.state = State::Closed;
        self.budget.tables_bytes -= CONNECTION_BYTES + connection.transport_bytes as usize;
        connection.send.release(&mut self.pool);
        if let Some(timer) = connection.timer.take() {
            self.timers.disarm(timer);
        }
        self.actions.push_back(Action::Close(key));
    }

    /// A newer connection came with the id of this one.
    ///
    /// The older one is told at once, unless it is a published client: one that called
    /// `disconnect` and then `connect` has a thread left that still waits on the old connection,
    /// and anything that wakes it makes it go on with the new connection's bytes. So such a
    /// client is told when it next sends something. Until then it may be closed to make room,
    /// see [`Core::is_full`]; therefore a client that is still owed bytes is told at once, too:
    /// those bytes wake its thread anyway, and reach it before the connection is closed.
    pub(crate) fn supersede(&mut self, older: ConnectionKey, newer: ConnectionKey) {
        let Some(connection) = self.connections.get(older) else { return };
        let splits_writes = connection.splits_writes;
        let is_owed = !connection.send.is_empty() || connection.transport_holds;
        // The same id is the same program, which has not changed its habits.
        if let Some(newer) = self.connections.get_mut(newer) {
            newer.splits_writes |= splits_writes;
        }
        if !splits_writes || is_owed {
            self.report(older, &taken_over());
            return;
        }
        self.leave(older, State::Superseded);
        self.superseded += 1;
        let idle = self.limits.idle_timeout.map(|timeout| self.deadline_in(timeout));
        if let Some(connection) = self.connections.get_mut(older) {
            connection.timer = idle.map(|deadline| self.timers.arm(deadline, Due::Idle(older)));
        }
    }

    /// A superseded connection said something, so it has nothing to be spared.
    pub(crate) fn tell_taken_over(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connections.get_mut(key) {
            self.superseded -= 1;
            connection.state = State::Handshake;
        }
        self.report(key, &taken_over());
    }

    /// Makes room for a newcomer, if need be at the cost of the superseded connection that
    /// has been silent the longest, or of strangers. Returns whether there is none to give up.
    pub(crate) fn is_full(&mut self) -> bool {
        let connections_max = self.limits.connections_max;
        let present = self.connections.len() - self.refused;
        if present < connections_max {
            return false;
        }
        // Closed in this turn: still in the table, but the place is free. Who hangs up and
        // comes again at once is not refused for it.
        let closed = self.actions.iter().filter(|action| {
            matches!(action, Action::Close(key)
                if self.connections.get(*key).is_some_and(|connection| !connection.refused))
        });
        if present - closed.count() < connections_max {
            return false;
        }
        if self.superseded == 0 {
            return !self.evict_strangers();
        }
        let superseded =
            self.connections.iter().filter(|(_, c)| matches!(c.state, State::Superseded));
        let oldest = superseded.min_by_key(|(_, connection)| connection.last_activity);
        if let Some((key, _)) = oldest {
            self.close_now(key);
        }
        false
    }

    /// Closes those who have had time to introduce themselves and did not, the oldest first, some
    /// at once, for they are looked for among all. Returns whether there were any.
    fn evict_strangers(&mut self) -> bool {
        if self.strangers_sought_at == Some(self.now.monotonic) {
            return false;
        }
        let spared = self.limits.handshake_timeout / STRANGER_PARTS * (STRANGER_PARTS - 1);
        let due_before = self.deadline_in(spared);
        let mut strangers: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, c)| matches!(c.state, State::Handshake) && !c.refused)
            .filter_map(|(key, connection)| connection.timer.map(|timer| (timer, key)))
            .filter(|(timer, _)| timer.deadline() <= due_before)
            .collect();
        strangers.sort_unstable();
        for (_, key) in strangers.iter().take(STRANGERS_EVICTED) {
            self.time_out_handshake(*key);
        }
        if strangers.is_empty() {
            self.strangers_sought_at = Some(self.now.monotonic);
        }
        !strangers.is_empty()
    }

    /// Takes a live connection out of everything it is part of.
    fn leave(&mut self, key: ConnectionKey, next: State) {
        let Some(connection) = self.connections.get(key) else { return };
        if !connection.is_live() {
            return;
        }
        self.unpark(key);
        self.uncongest(key);
        self.give_up_place(key);
        self.former.remove(&key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if !matches!(next, State::Superseded) {
            connection.recv.release(&mut self.pool);
        }
        if let Some(timer) = connection.timer.take() {
            self.timers.disarm(timer);
        }
        let state = std::mem::replace(&mut connection.state, next);
        if matches!(state, State::Superseded) {
            self.superseded -= 1;
        }
        let State::Open(session) = state else { return };
        self.sessions -= 1;

        for (&channel, &position) in &session.subscriptions {
            self.remove_subscriber(channel, position);
        }
        if let Some(worker) = session.worker {
            self.retire_worker(key, session.application, *worker);
        }
        for request in session.requests {
            self.abandon_request(request);
        }
        for channel in session.created {
            self.router.release(channel);
        }
        if let Some(application) = self.router.applications.get_mut(session.application) {
            let app_id = application.id.clone();
            // After a take-over the id belongs to somebody else.
            if application.connections.get(&session.id) == Some(&key) {
                application.connections.remove(&session.id);
            }
            self.router.forget_if_unused(session.application);
            crate::trace::disconnected(key.index(), &app_id);
            let connection_id = session.id;
            self.events.push(ConnectionEvent { opened: false, key, app_id, connection_id });
        }
    }

    /// Frees what could not be freed while it was in use.
    pub(crate) fn settle(&mut self) {
        while let Some(key) = self.doomed.pop() {
            self.close_now(key);
        }
        self.mind_memory();
    }

    /// Does one thing that is due.
    pub(crate) fn expire(&mut self, due: Due) {
        match due {
            Due::Handshake(key) => self.time_out_handshake(key),
            Due::Linger(key) => self.close_now(key),
            Due::Idle(key) => self.check_idle(key),
            Due::Grace(key) => {
                let queued = self.connections.get(key).map_or(0, |c| c.send.len());
                crate::trace::slow_consumer(key.index(), queued);
                self.counters.slow_consumers += 1;
                self.close_now(key);
            }
            Due::Request(key) => self.expire_request(key),
            Due::Memory => self.end_memory_grace(),
            Due::DrainDeadline => self.cut_off(),
        }
    }

    /// Nothing is owed to a peer that did not introduce itself in time.
    fn time_out_handshake(&mut self, key: ConnectionKey) {
        crate::trace::handshake_timeout(key.index());
        self.counters.handshake_timeouts += 1;
        self.close_now(key);
    }

    /// The timer runs from time to time rather than being moved with every message.
    fn check_idle(&mut self, key: ConnectionKey) {
        let Some(timeout) = self.limits.idle_timeout else { return };
        let Some(connection) = self.connections.get_mut(key) else { return };
        let held_back = connection.parked.or(connection.woken).is_some()
            || connection.paused
            || connection.place != Place::Nowhere;
        if held_back || connection.congested.is_some() {
            // It is the server that does not read.
            connection.last_activity = self.now.monotonic;
        }
        let deadline = connection.last_activity.saturating_add(timeout);
        if deadline > self.now.monotonic {
            connection.timer = Some(self.timers.arm(deadline, Due::Idle(key)));
        } else {
            crate::trace::idle_closed(key.index());
            self.counters.idle_closed += 1;
            self.close_now(key);
        }
    }

    pub(crate) fn deadline_in(&self, timeout: Duration) -> Duration {
        self.now.monotonic.saturating_add(timeout)
    }
}
