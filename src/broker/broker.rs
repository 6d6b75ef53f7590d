//! The door through which a driver comes in: accept, receive, send, let time pass.

use std::time::Duration;

use crate::broker::access::{Access, User};
use crate::broker::embed::context::Context;
use crate::broker::embed::handlers::Handlers;
use crate::broker::flow::memory::{CONNECTION_BYTES, short_of_memory};
use crate::broker::limits::{
    FRAMES_PER_TURN_MAX, HANDSHAKE_FRAME_BYTES_MAX, Limits, REFUSALS_MAX, WORK_PER_TURN_MAX,
};
use crate::broker::peer::dispatch::Outcome;
use crate::broker::state::connection::{Connection, State};
use crate::broker::state::core::{Core, Lifecycle, Refusal};
use crate::broker::state::events::Action;
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::mailbox;
use crate::broker::state::mailbox::Mailbox;
use crate::broker::state::timers::{Due, Now};
use crate::broker::state::turn::Place;
use crate::proto::{ErrorCode, Inbound, Next};

/// How a peer went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUp {
    /// It will send no more, and may still read.
    EndOfStream,
    /// The connection is broken.
    Reset,
}

/// The state machine.
///
/// ```
/// use ipc_framework::broker::{Action, Broker, Now};
/// use ipc_framework::{Access, Limits};
///
/// let now = Now::default();
/// let mut broker = Broker::new(Limits::default(), Access::default(), [7; 32], now);
/// let peer = broker.accept(now).expect("there is room");
/// let connect = br#"{"message_id":"1","app_id":"app","channel_id":"system",
///     "message_type":"request","payload":{"action":"connect","connection_id":"me"},
///     "timestamp":0}"#;
/// let mut frame = (connect.len() as u32).to_be_bytes().to_vec();
/// frame.extend_from_slice(connect);
/// broker.receive(peer, &frame, now);
/// assert_eq!(broker.next_action(), Some(Action::Flush(peer)));
/// let answer: Vec<u8> = broker.output(peer).flatten().copied().collect();
/// assert!(String::from_utf8_lossy(&answer[4..]).contains("\"connected\""));
/// broker.transmitted(peer, answer.len());
/// ```
#[derive(Debug)]
pub struct Broker {
    pub(super) core: Core,
    pub(super) handlers: Handlers,
    pub(super) mailbox: Mailbox,
}

impl Broker {
    /// A broker without connections. The seed makes its ids unguessable: give it 32 bytes
    /// of the system's randomness, or in a test a number to repeat.
    pub fn new(limits: Limits, access: Access, seed: [u8; 32], now: Now) -> Self {
        let (remote, mailbox) = mailbox::Remote::new();
        let core = Core::new(limits, access, seed, now, remote);
        Self { core, handlers: Handlers::default(), mailbox }
    }

    /// Takes a new connection. `None`: there are too many even to be told so; drop it.
    pub fn accept(&mut self, now: Now) -> Option<ConnectionKey> {
        self.core.now = now;
        self.core.counters.accepted += 1;
        let short = self.core.refuses_for_memory();
        let full = short || self.core.is_full();
        let limits = &self.core.limits;
        if full && self.core.refused >= REFUSALS_MAX {
            self.core.counters.count_error(ErrorCode::ServerFull);
            return None;
        }
        let deadline = self.core.deadline_in(limits.handshake_timeout);
        let key = self.core.connections.insert(Connection::new(now.monotonic));
        if let Some(connection) = self.core.connections.get_mut(key) {
            connection.timer = Some(self.core.timers.arm(deadline, Due::Handshake(key)));
            connection.refused = full;
        }
        self.core.budget.tables_bytes += CONNECTION_BYTES;
        if full {
            self.core.refused += 1;
            let text = "the server holds as many connections as it may; try again later, or raise \
                        its --max-connections";
            let why = if short {
                short_of_memory(ErrorCode::ServerFull)
            } else {
                Refusal::new(ErrorCode::ServerFull, text)
            };
            self.core.report(key, &why);
        }
        Some(key)
    }

    /// Whether [`Broker::admits_user`] has to be asked about connections over Unix sockets.
    pub fn asks_for_users(&self) -> bool {
        self.core.access.asks_for_users()
    }

    /// Whether this user may connect.
    pub fn admits_user(&self, user: User) -> bool {
        self.core.access.admits_user(user)
    }

    /// Tells a connection that was just accepted that its user is not admitted, and closes it.
    pub fn turn_away(&mut self, key: ConnectionKey, now: Now) {
        self.core.now = now;
        let Some(connection) = self.core.connections.get_mut(key) else { return };
        if !std::mem::replace(&mut connection.refused, true) {
            self.core.refused += 1;
        }
        if self.core.refused > REFUSALS_MAX {
            self.core.close_now(key);
            return;
        }
        let text = "this user is not admitted; connect as another one, or add it to the \
                    server's --allow-uid or --allow-gid";
        self.core.report(key, &Refusal::new(ErrorCode::AuthFailed, text));
    }

    /// What the transport of a connection holds beside what every connection takes counts
    /// among [`Limits::memory_bytes_max`].
    pub fn add_transport_bytes(&mut self, key: ConnectionKey, bytes: usize) {
        if let Some(connection) = self.core.connections.get_mut(key) {
            connection.transport_bytes += bytes as u32;
            self.core.budget.tables_bytes += bytes;
        }
    }

    /// What came on a connection is not what its transport speaks.
    #[cfg(feature = "net")]
    pub(crate) fn count_garbled(&mut self, key: ConnectionKey, why: &dyn std::fmt::Display) {
        self.core.counters.transport_failures += 1;
        crate::trace::garbled(key.index(), &why.to_string());
    }

    /// A connection could not even be accepted, for want of a descriptor.
    pub fn count_shed(&mut self) {
        self.core.counters.shed += 1;
        crate::trace::shed();
    }

    /// Processes what a connection sent, and what it had kept of before.
    pub fn receive(&mut self, key: ConnectionKey, chunk: &[u8], now: Now) {
        self.core.now = now;
        self.core.counters.bytes_in += chunk.len() as u64;
        let Some(connection) = self.core.connections.get_mut(key) else { return };
        if !connection.is_live() {
            return;
        }
        // Without a chunk it is let go on: until now it could not say anything.
        connection.last_activity = now.monotonic;
        connection.yielded = false;
        self.core.work.has_begun |= connection.place == Place::Due;
        if !chunk.is_empty() {
            connection.last_read = now.monotonic;
        }
        // What was kept of before had come with the last bytes that were read.
        self.core.arrived = connection.last_read;
        let had_part = !connection.recv.is_empty();
        let frames_before = self.core.counters.frames_in;
        // Out of the table while its frames are processed, for they borrow from it.
        let mut inbound = Inbound::new(std::mem::take(&mut connection.recv), chunk);
        self.process(key, &mut inbound);
        let mut kept = inbound.finish(&mut self.core.pool);
        match self.core.connections.get_mut(key).filter(|connection| connection.is_live()) {
            Some(connection) => {
                connection.splits_writes |= kept.is_bare_header();
                if !kept.is_empty() && (!had_part || self.core.counters.frames_in != frames_before)
                {
                    connection.unfinished_since = now.monotonic;
                }
                connection.recv = kept;
                self.core.mind_unfinished(key);
            }
            None => kept.release(&mut self.core.pool),
        }
        self.core.pass_on_wake(key);
        self.settle();
    }

    fn process(&mut self, key: ConnectionKey, inbound: &mut Inbound<'_>) {
        let mut frames = 0;
        let work_max = self.core.work.done + WORK_PER_TURN_MAX as u64;
        while let Some(connection) = self.core.connections.get(key) {
            if !connection.may_proceed() {
                return;
            }
            let introduces = matches!(connection.state, State::Handshake);
            let is_superseded = matches!(connection.state, State::Superseded);
            let mut body_bytes_max = self.core.frame_bytes_max(key);
            if introduces {
                body_bytes_max = body_bytes_max.min(HANDSHAKE_FRAME_BYTES_MAX);
            }
            match inbound.peek(body_bytes_max, &mut self.core.pool) {
                Next::Nothing => return,
                _ if is_superseded => {
                    self.core.tell_taken_over(key);
                    return;
                }
                Next::TooLarge { body_bytes } => {
                    let text = format!(
                        "the length prefix says {body_bytes} bytes, over the limit of \
                         {body_bytes_max}; send smaller messages, and check that the peer speaks \
                         this protocol"
                    );
                    self.core.report(key, &Refusal::new(ErrorCode::FrameTooLarge, text));
                    return;
                }
                Next::Frame { .. }
                    if frames == FRAMES_PER_TURN_MAX || self.core.work.done >= work_max =>
                {
                    self.core.counters.yields += 1;
                    if let Some(connection) = self.core.connections.get_mut(key) {
                        connection.yielded = true;
                    }
                    self.core.actions.push_back(Action::Resume(key));
                    return;
                }
                Next::Frame { body, frame_bytes } => {
                    frames += 1;
                    if self.dispatch(key, body) == Outcome::Held {
                        return;
                    }
                    if frames == 1 {
                        // What it was let go on for is done; with the next it queues again.
                        self.core.pass_on_wake(key);
                    }
                    if introduces {
                        // Hooks hear of a connection before its handlers do.
                        self.settle();
                    }
                    self.core.counters.frames_in += 1;
                    inbound.consume(frame_bytes, &mut self.core.pool);
                    self.core.consume_former(key, frame_bytes);
                }
            }
        }
    }

    /// The peer went away.
    pub fn hang_up(&mut self, key: ConnectionKey, how: HangUp, now: Now) {
        self.core.now = now;
        let Some(connection) = self.core.connections.get(key) else { return };
        // Who has shut its own side and has nothing left to read is done.
        let is_queued =
            !connection.send.is_empty() && !matches!(connection.state, State::Lingering);
        let unsent = is_queued || connection.transport_holds;
        match how {
            HangUp::EndOfStream if unsent => self.core.begin_close(key),
            _ => self.core.close_now(key),
        }
        self.settle();
    }

    /// Whether the driver should read from the connection now. If not, an
    /// [`Action::Resume`] says when.
    pub fn wants_read(&self, key: ConnectionKey) -> bool {
        self.core.connections.get(key).is_some_and(|connection| match connection.state {
            State::Handshake | State::Open(_) | State::Superseded => {
                connection.may_proceed() && !connection.yielded
            }
            State::Closing | State::Lingering => true,
            State::Closed => false,
        })
    }

    /// Whether what came last was a length prefix alone, see
    /// [`RecvBuffer::is_bare_header`](crate::proto::RecvBuffer::is_bare_header).
    pub fn holds_bare_header(&self, key: ConnectionKey) -> bool {
        self.core.connections.get(key).is_some_and(|c| c.recv.is_bare_header())
    }

    /// What is to be sent, in order.
    pub fn output(&self, key: ConnectionKey) -> impl Iterator<Item = &[u8]> {
        self.core.connections.get(key).into_iter().flat_map(|connection| connection.send.slices())
    }

    /// The kernel took so many bytes of the output: all of it, or what fitted.
    pub fn transmitted(&mut self, key: ConnectionKey, bytes: usize) {
        self.core.relieve(key, bytes);
        let is_sent = |c: &Connection| {
            matches!(c.state, State::Closing) && c.send.is_empty() && !c.transport_holds
        };
        if self.core.connections.get(key).is_some_and(is_sent) {
            self.core.begin_linger(key);
        }
        self.settle();
    }

    /// Whether the transport keeps some of what it took, as one that encrypts does: while it
    /// does, the connection is not at its end. Said before [`Broker::transmitted`] is called for
    /// what it took.
    pub fn note_transport(&mut self, key: ConnectionKey, holds: bool) {
        if let Some(connection) = self.core.connections.get_mut(key) {
            connection.transport_holds = holds;
        }
    }

    /// What is to be done next; `None` when all is done for this turn.
    pub fn next_action(&mut self) -> Option<Action> {
        if self.core.actions.is_empty() {
            self.core.end_turn_of_work();
        }
        let action = self.core.actions.pop_front()?;
        match action {
            Action::Flush(key) => {
                if let Some(connection) = self.core.connections.get_mut(key) {
                    connection.flush_due = false;
                }
            }
            Action::Close(key) => {
                let connection = self.core.connections.remove(key);
                self.core.refused -= usize::from(connection.is_some_and(|c| c.refused));
            }
            Action::Resume(_) | Action::FinishWrite(_) => {}
        }
        Some(action)
    }

    /// Whether this turn's end is worth a look at the clock.
    pub fn wants_turn_time(&self) -> bool {
        !self.core.latency.is_empty()
    }

    /// All of a turn's bytes are with the kernel.
    pub fn end_turn(&mut self, now: Now) {
        self.core.record_latencies(now.monotonic);
    }

    /// When [`Broker::advance`] has something to do, in [`Now::monotonic`].
    pub fn next_deadline(&self) -> Option<Duration> {
        self.core.timers.next_deadline()
    }

    /// Does what is due.
    pub fn advance(&mut self, now: Now) {
        self.core.now = now;
        for handlers in self.core.orphans.drain(..) {
            self.handlers.channels.remove(handlers);
        }
        // What was done through a context between two turns.
        self.settle();
        while let Some(due) = self.core.timers.expire(now.monotonic) {
            self.core.expire(due);
            self.settle();
        }
    }

    /// Runs what other threads asked for, a bounded number of times. Returns whether there
    /// may be more.
    pub fn run_mailbox(&mut self, now: Now) -> bool {
        const COMMANDS_PER_TURN_MAX: usize = 1_024;
        self.core.now = now;
        self.mailbox.acknowledge();
        let work_max = self.core.work.done + WORK_PER_TURN_MAX as u64;
        for _ in 0..COMMANDS_PER_TURN_MAX {
            let Some(command) = self.mailbox.next() else { return false };
            command(&mut self.core);
            self.settle();
            if self.core.work.done >= work_max {
                break;
            }
        }
        true
    }

    /// Begins to drain, see [`Limits::drain_timeout`]. The driver stops accepting, reads what
    /// has arrived from every connection, and calls [`Broker::exhausted`] at its end.
    pub fn begin_drain(&mut self, now: Now) {
        self.core.now = now;
        self.core.begin_drain();
        self.settle();
    }

    /// The driver has read all that had arrived on this connection. While draining, that is
    /// the moment to close it if nothing of its is in flight.
    pub fn exhausted(&mut self, key: ConnectionKey, now: Now) {
        self.core.now = now;
        self.core.close_if_idle(key);
        self.settle();
    }

    /// Whether new work is refused.
    pub fn is_draining(&self) -> bool {
        self.core.is_draining()
    }

    /// Whether the driver can end: all connections are closed, or the drain's time is up
    /// and the last flush was tried.
    pub fn is_drained(&self) -> bool {
        self.core.lifecycle == Lifecycle::Draining
            && (self.core.is_cut_off || self.core.connections.len() == 0)
    }

    /// Every connection there is.
    pub fn connections(&self) -> Vec<ConnectionKey> {
        self.core.connections.keys()
    }

    /// What a handler could do, from outside of one. It takes effect with the next turn.
    pub fn context(&mut self, now: Now) -> Context<'_> {
        self.core.now = now;
        Context::new(&mut self.core)
    }

    /// Whether a turn has something to do although nothing happened outside.
    pub fn has_work(&self) -> bool {
        let core = &self.core;
        !core.actions.is_empty() || !core.doomed.is_empty() || !core.events.is_empty()
    }

    /// Lets hooks run and closes what is to be closed, until neither makes more of it.
    fn settle(&mut self) {
        loop {
            self.core.settle();
            if self.core.events.is_empty() {
                return;
            }
            self.handlers.announce(&mut self.core);
        }
    }
}
