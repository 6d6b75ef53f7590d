//! The door through which a driver comes in: accept, receive, send, let time pass.

use std::time::Duration;

use super::access::{Access, User};
use super::embed::context::Context;
use super::embed::handlers::Handlers;
use super::flow::{closing, drain, measuring, memory, queues, upkeep};
use super::limits::{HANDSHAKE_FRAME_BYTES_MAX, Limits, REFUSALS_MAX};
use super::peer::dispatch::{self, Outcome};
use super::state::budget::CONNECTION_BYTES;
use super::state::connection::{Connection, Held, State};
use super::state::core::Core;
use super::state::events::Action;
use super::state::keys::ConnectionKey;
use super::state::mailbox::{Mailbox, Remote};
use super::state::refusal;
use super::state::timers::{Due, Now};
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
    pub(super) mailbox: Mailbox<Core>,
}

impl Broker {
    /// A broker without connections. The seed makes its ids unguessable: give it 32 bytes
    /// of the system's randomness, or in a test a number to repeat.
    pub fn new(limits: Limits, access: Access, seed: [u8; 32], now: Now) -> Self {
        let (remote, mailbox) = Remote::new();
        Self {
            core: Core::new(limits, access, seed, now),
            handlers: Handlers::new(remote),
            mailbox,
        }
    }

    /// Takes a new connection. `None`: there are too many even to be told so; drop it.
    pub fn accept(&mut self, now: Now) -> Option<ConnectionKey> {
        let core = &mut self.core;
        core.turn.now = now;
        core.counters.accepted += 1;
        let mut admitted = core.budget.take_on(ErrorCode::ServerFull, &mut core.counters);
        if admitted.is_ok() && !closing::make_room(core) {
            admitted = Err(refusal::server_full());
        }
        if admitted.is_err() && core.connections.refused() >= REFUSALS_MAX {
            core.counters.count_error(ErrorCode::ServerFull);
            return None;
        }
        let deadline = core.turn.deadline_in(core.limits.handshake_timeout);
        let connection = Connection::new(now.monotonic, core.limits.frame_bytes_max);
        let key = core.connections.insert(connection);
        if let Some(connection) = core.connections.get_mut(key) {
            connection.timer = Some(core.timers.arm(deadline, Due::Handshake(key)));
        }
        core.budget.tables_bytes += CONNECTION_BYTES;
        if let Err(why) = admitted {
            core.connections.refuse(key);
            closing::report(core, key, &why);
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
        let core = &mut self.core;
        core.turn.now = now;
        core.connections.refuse(key);
        if core.connections.refused() > REFUSALS_MAX {
            closing::close_now(core, key);
        } else {
            closing::report(core, key, &refusal::user_not_admitted());
        }
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
        let core = &mut self.core;
        core.turn.now = now;
        core.counters.bytes_in += chunk.len() as u64;
        let Some(connection) = core.connections.get_mut(key) else { return };
        if !connection.is_live() {
            return;
        }
        // Without a chunk it is let go on: until now it could not say anything.
        connection.last_activity = now.monotonic;
        if connection.held == Held::NextTurn {
            connection.held = Held::No;
        }
        if connection.is_due {
            core.turn.note_due();
        }
        if !chunk.is_empty() {
            connection.last_read = now.monotonic;
        }
        // Bytes that were kept had come with the last bytes that were read.
        core.turn.arrived = connection.last_read;
        let had_part = !connection.recv.is_empty();
        let frames_before = core.counters.frames_in;
        // Out of the table while its frames are processed, for they borrow from it.
        let mut inbound = Inbound::new(std::mem::take(&mut connection.recv), chunk);
        self.process(key, &mut inbound);
        let core = &mut self.core;
        let mut kept = inbound.finish(&mut core.pool);
        match core.connections.get_mut(key).filter(|connection| connection.is_live()) {
            Some(connection) => {
                connection.splits_writes |= kept.is_bare_header();
                if !kept.is_empty() && (!had_part || core.counters.frames_in != frames_before) {
                    connection.unfinished_since = now.monotonic;
                }
                connection.recv = kept;
                memory::mind_unfinished(core, key);
            }
            None => kept.release(&mut core.pool),
        }
        queues::pass_on_wake(core, key);
        self.settle();
    }

    fn process(&mut self, key: ConnectionKey, inbound: &mut Inbound<'_>) {
        self.core.turn.begin_share();
        loop {
            let core = &mut self.core;
            let Some(connection) = core.connections.get_mut(key) else { return };
            if !connection.may_proceed() {
                return;
            }
            let is_handshake = matches!(connection.state(), State::Handshake);
            let mut body_bytes_max = connection.frame_bytes_max as usize;
            if is_handshake {
                body_bytes_max = body_bytes_max.min(HANDSHAKE_FRAME_BYTES_MAX);
            }
            match inbound.peek(body_bytes_max, &mut core.pool) {
                Next::Nothing => return,
                _ if matches!(connection.state(), State::Superseded) => {
                    return closing::tell_taken_over(core, key);
                }
                Next::TooLarge { body_bytes } => {
                    let why = refusal::frame_too_large(body_bytes, body_bytes_max);
                    return closing::report(core, key, &why);
                }
                Next::Frame { .. } if core.turn.is_share_spent() => {
                    core.counters.yields += 1;
                    connection.held = Held::NextTurn;
                    return core.agenda.actions.push_back(Action::Resume(key));
                }
                Next::Frame { body, frame_bytes } => {
                    let is_first = core.turn.begin_frame();
                    if dispatch::dispatch(core, &mut self.handlers, key, body) == Outcome::Held {
                        return;
                    }
                    if is_first {
                        // It had its turn after it was woken; with the next frame it queues again.
                        queues::pass_on_wake(core, key);
                    }
                    if is_handshake {
                        // Hooks hear of a connection before its handlers do.
                        self.settle();
                    }
                    let core = &mut self.core;
                    core.counters.frames_in += 1;
                    inbound.consume(frame_bytes, &mut core.pool);
                    if let Some(connection) = core.connections.get_mut(key)
                        && connection.begun_bytes > 0
                    {
                        connection.consume_begun(frame_bytes, core.limits.frame_bytes_max);
                    }
                }
            }
        }
    }

    /// The peer went away.
    pub fn hang_up(&mut self, key: ConnectionKey, how: HangUp, now: Now) {
        let core = &mut self.core;
        core.turn.now = now;
        let Some(connection) = core.connections.get(key) else { return };
        // A peer that has shut its own side and has nothing left to read is done.
        let is_queued =
            !connection.send.is_empty() && !matches!(connection.state(), State::Lingering);
        let unsent = is_queued || connection.transport_holds;
        match how {
            HangUp::EndOfStream if unsent => closing::begin(core, key),
            _ => closing::close_now(core, key),
        }
        self.settle();
    }

    /// Whether the driver should read from the connection now. If not, an
    /// [`Action::Resume`] says when.
    pub fn wants_read(&self, key: ConnectionKey) -> bool {
        self.core.connections.get(key).is_some_and(|connection| match connection.state() {
            State::Handshake | State::Open(_) | State::Superseded => connection.may_proceed(),
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
        queues::note_sent(&mut self.core, key, bytes);
        let is_sent = |c: &Connection| {
            matches!(c.state(), State::Closing) && c.send.is_empty() && !c.transport_holds
        };
        if self.core.connections.get(key).is_some_and(is_sent) {
            closing::linger(&mut self.core, key);
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
        let core = &mut self.core;
        if core.agenda.actions.is_empty() {
            core.turn.end(&mut core.connections, &mut core.agenda);
        }
        let action = core.agenda.actions.pop_front()?;
        match action {
            Action::Flush(key) => {
                if let Some(connection) = core.connections.get_mut(key) {
                    connection.flush_due = false;
                }
            }
            Action::Close(key) => core.connections.remove(key),
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
        measuring::record(&mut self.core, now.monotonic);
    }

    /// When [`Broker::advance`] has something to do, in [`Now::monotonic`].
    pub fn next_deadline(&self) -> Option<Duration> {
        upkeep::next_deadline(&self.core)
    }

    /// Does what is due.
    pub fn advance(&mut self, now: Now) {
        self.core.turn.now = now;
        self.handlers.forget_removed(&mut self.core);
        // For everything that was done through a context between two turns.
        self.settle();
        while upkeep::expire(&mut self.core) {
            self.settle();
        }
    }

    /// Runs what other threads asked for, a bounded number of times. Returns whether there
    /// may be more.
    pub fn run_mailbox(&mut self, now: Now) -> bool {
        const COMMANDS_PER_TURN_MAX: usize = 1_024;
        self.core.turn.now = now;
        self.mailbox.acknowledge();
        self.core.turn.begin_share();
        for _ in 0..COMMANDS_PER_TURN_MAX {
            let Some(command) = self.mailbox.next() else { return false };
            command(&mut self.core);
            self.settle();
            if self.core.turn.is_share_spent() {
                break;
            }
        }
        true
    }

    /// Begins to drain, see [`Limits::drain_timeout`]. The driver stops accepting, reads what
    /// has arrived from every connection, and calls [`Broker::exhausted`] at its end.
    pub fn begin_drain(&mut self, now: Now) {
        self.core.turn.now = now;
        drain::begin(&mut self.core);
        self.settle();
    }

    /// The driver has read all that had arrived on this connection. While draining, that is
    /// the moment to close it if nothing of its is in flight.
    pub fn exhausted(&mut self, key: ConnectionKey, now: Now) {
        self.core.turn.now = now;
        drain::close_if_idle(&mut self.core, key);
        self.settle();
    }

    /// Whether new work is refused.
    pub fn is_draining(&self) -> bool {
        self.core.is_draining()
    }

    /// Whether the driver can end: all connections are closed, or the drain's time is up
    /// and the last flush was tried.
    pub fn is_drained(&self) -> bool {
        drain::is_over(&self.core)
    }

    /// Every connection there is.
    pub fn connections(&self) -> Vec<ConnectionKey> {
        self.core.connections.keys()
    }

    /// What a handler could do, from outside of one. It takes effect with the next turn.
    pub fn context(&mut self, now: Now) -> Context<'_> {
        self.core.turn.now = now;
        Context::new(&mut self.core)
    }

    /// Whether a turn has something to do although nothing happened outside.
    pub fn has_work(&self) -> bool {
        let agenda = &self.core.agenda;
        !agenda.actions.is_empty() || !agenda.doomed.is_empty() || !agenda.events.is_empty()
    }

    /// Lets hooks run and closes what is to be closed, until neither makes more of it.
    fn settle(&mut self) {
        loop {
            upkeep::settle(&mut self.core);
            if self.core.agenda.events.is_empty() {
                return;
            }
            self.handlers.announce(&mut self.core);
        }
    }
}
