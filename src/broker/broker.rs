//! The interface for the driver: it accepts, receives, sends, and lets time pass.

#[cfg(any(test, feature = "net"))]
use std::sync::Arc;
use std::time::Duration;

use super::access::Access;
use super::embed::context::Context;
use super::embed::handle::{self, Outer, note_unsent};
use super::embed::handlers::Handlers;
use super::embed::publication::Publication;
use super::flow::run::Run;
use super::flow::topic::{conflation, replays};
use super::flow::{closing, drain, hand_out, measuring, memory, queues, upkeep};
use super::limits::{HANDSHAKE_FRAME_BYTES_MAX, Limits, REFUSALS_MAX};
use super::peer::dispatch::{self, Outcome};
use super::peer::searching;
use super::state::budget::{CONNECTION_BYTES, MemoryPressure};
use super::state::connection::{Connection, Held, State};
use super::state::core::Core;
use super::state::events::{Action, Flushed, HangUp, Progress, Received, Written};
use super::state::keys::ConnectionKey;
use super::state::mailbox::{Letter, Mailbox, Remote};
use super::state::peer::Peer;
use super::state::refusal::{self, Refusal};
use super::state::timers::{Due, Moment, Now};
use crate::branches::{self, Branch};
use crate::proto::{ErrorCode, Inbound, Next, SendQueue};

/// The state machine.
///
/// ```
/// use ipc_framework::broker::{Action, Broker, Now, Written};
/// use ipc_framework::{Access, Limits};
///
/// let now = Now::default();
/// let mut broker = Broker::new(Limits::default(), Access::default(), [7; 32], now);
/// broker.begin_turn(now);
/// let peer = broker.accept().expect("there is room");
/// let connect = br#"{"message_id":"1","app_id":"app","channel_id":"system",
///     "message_type":"request","payload":{"action":"connect","connection_id":"me"},
///     "timestamp":0}"#;
/// let mut frame = (connect.len() as u32).to_be_bytes().to_vec();
/// frame.extend_from_slice(connect);
/// assert!(broker.receive(peer, &frame).reads_on);
/// assert_eq!(broker.next_action(), Some(Action::Flush(peer)));
/// let mut answer = Vec::new();
/// let flushed = broker.flush(peer, |queue| {
///     // A real driver hands the slices to its socket, and may fail.
///     queue.slices().for_each(|slice| answer.extend_from_slice(slice));
///     Ok::<_, std::convert::Infallible>(Written { bytes: answer.len(), holds: false })
/// });
/// assert_eq!(flushed.unwrap().unsent_bytes, 0);
/// assert!(String::from_utf8_lossy(&answer[4..]).contains("\"connected\""));
/// ```
#[derive(Debug)]
pub struct Broker {
    pub(super) core: Core,
    pub(super) handlers: Handlers,
    pub(super) mailbox: Mailbox<Core, Publication>,
    /// The mark that this thread had before this turn began.
    outer: Option<Outer>,
}

impl Broker {
    /// Creates a broker without connections. The seed makes its ids unguessable: use 32 random bytes
    /// of the system, or always the same bytes in a test.
    pub fn new(limits: Limits, access: Access, seed: [u8; 32], now: Now) -> Self {
        let (remote, mailbox) = Remote::new();
        Self {
            core: Core::new(limits, access, seed, now),
            handlers: Handlers::new(remote),
            mailbox,
            outer: None,
        }
    }

    /// Begins a turn and sets its time, which applies until the next one begins.
    pub fn begin_turn(&mut self, now: Now) {
        self.core.turn.begin(now);
        if let Some(outer) = handle::enter(&self.handlers.remote) {
            self.outer = Some(outer);
        }
    }

    /// Bounds what each later call of this turn does, for a driver whose turns have a budget:
    /// [`Broker::receive`] processes no more messages, [`Broker::run_mailbox`] runs no more
    /// commands and [`Broker::advance`] does no more things than `steps_max`. The rest is done in
    /// the next turn, which begins without this bound. Such a driver may also leave actions to the
    /// next turn; it then carries them out before it calls anything else.
    pub fn limit_steps(&mut self, steps_max: usize) {
        self.core.turn.limit_steps(steps_max);
    }

    /// Returns the number of messages that [`Broker::receive`] has processed since the start.
    pub fn messages_received(&self) -> u64 {
        self.core.counters.frames_in
    }

    /// Returns the limits. [`Handle::reload`](crate::Handle) changes them.
    pub fn limits(&self) -> &Limits {
        &self.core.limits
    }

    /// Takes a new connection whose other end is not known. `None` means that there are too many even
    /// to send errors to; drop it.
    pub fn accept(&mut self) -> Option<ConnectionKey> {
        self.accept_from(Peer::Unknown)
    }

    /// Does the same as [`Broker::accept`] for a connection whose other end is known. If its user is
    /// not admitted ([`Access::uids`]), or not known although there is a list, it gets an error and is
    /// closed.
    ///
    /// A [`Peer::Link`] is no client, but a connection to another server, which the process itself has
    /// made. It needs no token, counts towards no limit on connections, and has no bound of its own on
    /// channels, subscriptions and services. Its `connection_id` begins with `$link/`, which no other may.
    /// It subscribes with patterns alone, to what no link has published, and counts for nobody as a
    /// subscriber; the filter is asked about what it publishes alone. Its requests and notifications go to
    /// handlers and to workers that are no links, and it gets those of clients that it serves when these
    /// workers have eight more unanswered requests than it, or are stuck. It is not announced by hooks and
    /// not told of by [`Broker::on_interest`].
    pub fn accept_from(&mut self, peer: Peer) -> Option<ConnectionKey> {
        let core = &mut self.core;
        let is_link = matches!(peer, Peer::Link);
        core.counters.accepted += u64::from(!is_link);
        let admitted = if is_link { Ok(()) } else { admit(core, peer) };
        if let Err(why) = &admitted
            && core.connections.refused() >= REFUSALS_MAX
        {
            branches::note(Branch::TooManyRefused);
            core.counters.count_error(why.code);
            return None;
        }
        let deadline = core.turn.deadline_in(core.limits.handshake_timeout);
        let (now, frame_bytes_max) = (core.turn.now.monotonic, core.limits.frame_bytes_max);
        let key = core.connections.insert(now, frame_bytes_max, peer.into());
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

    /// Returns the application of a link that [`Action::Attach`] is for.
    #[cfg(any(test, feature = "net"))]
    pub(crate) fn application_of(&self, key: ConnectionKey) -> Option<Arc<str>> {
        let application = self.core.connections.session(key)?.application;
        Some(self.core.router.applications.get(application)?.id.clone())
    }

    /// Adds memory of a connection's transport to the total that [`Limits::memory_bytes_max`] bounds.
    pub fn add_transport_bytes(&mut self, key: ConnectionKey, bytes: usize) {
        if let Some(connection) = self.core.connections.get_mut(key) {
            connection.transport_bytes += bytes as u32;
            self.core.budget.tables_bytes += bytes;
        }
    }

    /// Counts a connection whose bytes violate the protocol of its transport.
    #[cfg(feature = "net")]
    pub(crate) fn count_garbled(&mut self, key: ConnectionKey, why: &dyn std::fmt::Display) {
        self.core.counters.transport_failures += 1;
        crate::trace::garbled(&self.core.who(key), &why.to_string());
    }

    /// Counts a connection that was closed at once, for lack of a descriptor.
    pub fn count_shed(&mut self) {
        self.core.counters.shed += 1;
        crate::trace::shed();
    }

    /// Processes bytes that a connection has sent, after those that were kept. An empty slice goes on
    /// with those that were kept, see [`Action::Resume`].
    pub fn receive(&mut self, key: ConnectionKey, chunk: &[u8]) -> Received {
        let core = &mut self.core;
        let now = Moment::from(core.turn.now.monotonic);
        core.counters.bytes_in += chunk.len() as u64;
        let Some(connection) = core.connections.get_mut(key) else { return Received::default() };
        if !connection.is_live() {
            return Received { reads_on: connection.wants_read(), ..Received::default() };
        }
        // Without a chunk, the connection goes on after it was held back, and could not send before,
        // unless it is only to be handed requests that were kept.
        if !chunk.is_empty() || !connection.takes_kept || connection.held != Held::No {
            connection.last_activity = now;
        }
        if connection.held == Held::NextTurn {
            if std::mem::take(&mut connection.gives_way) && chunk.is_empty() {
                // Its turn comes behind those who waited for its queue, see `queues::uncongest`.
                branches::note(Branch::GaveWay);
                core.agenda.actions.push_back(Action::Resume(key));
                return Received::default();
            }
            connection.held = Held::No;
        }
        let was_due = connection.is_due;
        if was_due {
            core.turn.note_due();
        }
        if !chunk.is_empty() {
            connection.last_read = now;
        }
        // The bytes that were kept arrived with the last read.
        core.turn.arrived = connection.last_read;
        let had_part = !connection.recv.is_empty();
        let is_woken = connection.woken.is_some() | connection.takes_kept;
        let frames_before = core.counters.frames_in;
        // The buffer leaves the table while its frames are processed, because they borrow from it.
        let mut inbound = Inbound::new(std::mem::take(&mut connection.recv), chunk);
        let mut run = Run::new(key, chunk);
        core.turn.begin_share();
        self.process(key, &mut inbound, &mut run, is_woken);
        let core = &mut self.core;
        run.deliver(core);
        if was_due
            && let Some(connection) = core.connections.get_mut(key)
            && matches!(connection.held, Held::No | Held::NextTurn | Held::Search)
        {
            // Its message was done without the work that was set aside for it.
            connection.is_due = false;
        }
        let is_new = !had_part || core.counters.frames_in != frames_before;
        let kept =
            if inbound.is_empty() { Kept::default() } else { keep(core, key, inbound, is_new) };
        if is_woken {
            queues::pass_on_wake(core, key);
            hand_out::to_invited(core, key);
            if core.connections.get(key).is_some_and(|connection| connection.is_replaying) {
                searching::go_on(core, &mut self.handlers, key);
                replays::go_on(core, key);
            }
        }
        self.settle();
        let Kept { bare_header, has_room } = kept;
        Received { reads_on: self.wants_read(key), bare_header, has_room }
    }

    /// Returns memory for the rest of a long message, where [`Received::has_room`] said that one has
    /// begun, or an empty slice. The driver reads into it and calls [`Broker::receive_in_room`].
    ///
    /// What the memory holds before is of no meaning.
    pub fn room(&mut self, key: ConnectionKey) -> &mut [u8] {
        let connection = self.core.connections.get_mut(key);
        connection.map_or(&mut [], |connection| connection.recv.room())
    }

    /// Processes the first `bytes` of [`Broker::room`], which a connection has sent.
    #[cold]
    pub fn receive_in_room(&mut self, key: ConnectionKey, bytes: usize) -> Received {
        let core = &mut self.core;
        let now = Moment::from(core.turn.now.monotonic);
        core.counters.bytes_in += bytes as u64;
        if let Some(connection) = core.connections.get_mut(key).filter(|found| found.is_live()) {
            branches::note(Branch::ReadIntoRoom);
            connection.recv.add(bytes);
            (connection.last_activity, connection.last_read) = (now, now);
            connection.gives_way = false;
        }
        self.receive(key, &[])
    }

    fn process(
        &mut self,
        key: ConnectionKey,
        inbound: &mut Inbound<'_>,
        run: &mut Run<'_>,
        mut is_woken: bool,
    ) {
        while !inbound.is_empty() {
            let core = &mut self.core;
            let Some(connection) = core.connections.get_mut(key) else { return };
            if !connection.may_proceed() {
                return;
            }
            let is_handshake = matches!(connection.state(), State::Handshake);
            let has_begun = connection.begun_bytes > 0;
            let mut body_bytes_max = connection.frame_bytes_max as usize;
            if is_handshake {
                body_bytes_max = body_bytes_max.min(HANDSHAKE_FRAME_BYTES_MAX);
            }
            let extensions = connection.extensions;
            let (body, frame_bytes) = match inbound.peek(body_bytes_max, &mut core.pool) {
                Next::Nothing => return,
                _ if matches!(connection.state(), State::Superseded) => {
                    return closing::tell_taken_over(core, key);
                }
                Next::TooLarge { body_bytes } => {
                    if !run.deliver(core) {
                        return;
                    }
                    let why = refusal::frame_too_large(body_bytes, body_bytes_max);
                    return closing::report(core, key, &why);
                }
                Next::Frame { .. } if core.turn.is_share_spent() => {
                    branches::note(Branch::FramesShareSpent);
                    core.counters.yields += 1;
                    connection.held = Held::NextTurn;
                    return core.agenda.actions.push_back(Action::Resume(key));
                }
                Next::Frame { body, frame_bytes } => (body, frame_bytes),
            };
            core.turn.note_frame();
            if dispatch::dispatch(core, &mut self.handlers, key, extensions, body, run)
                == Outcome::Held
            {
                return;
            }
            if std::mem::take(&mut is_woken) {
                // The woken connection had its turn. With the next frame it waits in line again.
                queues::pass_on_wake(core, key);
            }
            if is_handshake {
                // Hooks are called for a connection before its handlers are.
                self.settle();
            }
            let core = &mut self.core;
            core.counters.frames_in += 1;
            inbound.consume(frame_bytes, &mut core.pool);
            if has_begun && let Some(connection) = core.connections.get_mut(key) {
                branches::note(Branch::FrameLimitKept);
                connection.consume_begun(frame_bytes, core.limits.frame_bytes_max);
            }
        }
    }

    /// Handles the end of a peer.
    pub fn hang_up(&mut self, key: ConnectionKey, how: HangUp) {
        let core = &mut self.core;
        let Some(connection) = core.connections.get(key) else { return };
        // A peer that has shut its write side and has nothing left to read is closed.
        let is_queued =
            !connection.send.is_empty() && !matches!(connection.state(), State::Lingering);
        let unsent = is_queued || connection.transport_holds;
        match how {
            HangUp::EndOfStream if unsent => closing::begin(core, key),
            _ => closing::close_now(core, key),
        }
        self.settle();
    }

    /// Returns whether the driver should read from the connection now. If not, an
    /// [`Action::Resume`] says when.
    pub fn wants_read(&self, key: ConnectionKey) -> bool {
        self.core.connections.get(key).is_some_and(Connection::wants_read)
    }

    /// Returns the number of unsent bytes of a connection.
    pub fn queued_bytes(&self, key: ConnectionKey) -> usize {
        self.core.connections.get(key).map_or(0, |connection| connection.send.len())
    }

    /// Calls `write` to send the queue of a connection, or as much of it as the transport has room
    /// for. Returns the rest.
    ///
    /// # Errors
    /// The errors of `write`. The queue is unchanged then.
    pub fn flush<E>(
        &mut self,
        key: ConnectionKey,
        write: impl FnOnce(&SendQueue) -> Result<Written, E>,
    ) -> Result<Flushed, E> {
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(key) else { return Ok(Flushed::default()) };
        connection.flush_due = false;
        let written = write(&connection.send)?;
        connection.transport_holds = written.holds;
        connection.send.advance(written.bytes, &mut core.pool);
        let flushed = Flushed {
            unsent_bytes: connection.send.len(),
            splits_writes: connection.splits_writes,
        };
        let is_sent = flushed.unsent_bytes == 0
            && !written.holds
            && matches!(connection.state(), State::Closing);
        if connection.awaits_room {
            note_sent(core, key);
        }
        if is_sent {
            closing::linger(core, key);
        }
        // A queue that gets shorter cannot cause a shortage, but may end one.
        if core.budget.pressure != MemoryPressure::None {
            self.settle();
        }
        Ok(flushed)
    }

    /// Returns the next action for the driver, or `None` when there is none left in this turn.
    #[inline]
    pub fn next_action(&mut self) -> Option<Action> {
        let core = &mut self.core;
        if core.agenda.has_no_actions() {
            core.turn.end(&mut core.connections, &mut core.agenda);
        }
        let action = core.agenda.next_action()?;
        if let Action::Close(key) = action {
            self.free(key);
        }
        Some(action)
    }

    /// Frees the place of a closed connection, which the driver drops.
    #[cold]
    fn free(&mut self, key: ConnectionKey) {
        self.core.connections.remove(key);
    }

    /// Ends the turn. If all of its actions were carried out, the kernel has all of its bytes, and
    /// latencies are recorded. `clock`, which reads [`Now::monotonic`], is called only for them.
    pub fn end_turn(&mut self, clock: impl FnOnce() -> Duration) {
        if !self.core.latency.is_empty() && self.core.agenda.has_no_actions() {
            measuring::record(&mut self.core, clock().into());
        }
        if let Some(outer) = self.outer.take() {
            handle::leave(&outer);
        }
    }

    /// Returns the time at which [`Broker::advance`] has something to do, in [`Now::monotonic`].
    pub fn next_deadline(&self) -> Option<Duration> {
        upkeep::next_deadline(&self.core)
    }

    /// Carries out all timers that are due at this turn's time. Before that, a driver reads once more what
    /// lies in its sockets: it may have been stopped, so that a deadline passed while the answer was
    /// there, and no peer is closed for a silence that was the driver's.
    #[inline]
    pub fn advance(&mut self) -> Progress {
        self.catch_up();
        if upkeep::is_due(&self.core) { self.expire() } else { Progress::default() }
    }

    fn expire(&mut self) -> Progress {
        for steps in 0..self.core.turn.steps_max {
            if !upkeep::expire(&mut self.core) {
                return Progress { steps, has_more: false };
            }
            self.settle();
        }
        Progress { steps: self.core.turn.steps_max, has_more: true }
    }

    /// Has [`Broker::advance`] do in this turn only what was due at an earlier time.
    #[cfg(feature = "net")]
    pub(crate) fn judge_until(&mut self, monotonic: Duration) {
        self.core.turn.judged = monotonic;
    }

    /// Returns whether anything is due at this turn's time, for a driver that has to do something
    /// before [`Broker::advance`].
    pub fn has_due(&mut self) -> bool {
        self.catch_up();
        upkeep::is_due(&self.core)
    }

    /// Completes the work that was done through a context between two turns.
    #[inline]
    fn catch_up(&mut self) {
        if !self.core.agenda.handler_changes.is_empty() {
            self.handlers.catch_up(&mut self.core);
        }
        self.settle();
    }

    /// Runs a bounded number of the commands that other threads posted.
    pub fn run_mailbox(&mut self) -> Progress {
        self.mailbox.acknowledge();
        self.core.turn.begin_share();
        let steps_max = self.core.limits.turn.commands_max.min(self.core.turn.steps_max);
        for steps in 0..steps_max {
            let Some(letter) = self.mailbox.next() else {
                return Progress { steps, has_more: false };
            };
            match letter {
                Letter::Command(command) => command(&mut self.core),
                Letter::Publication(publication) => {
                    note_unsent(publication.deliver(&mut self.core).err());
                }
            }
            self.settle();
            if self.core.turn.is_share_spent() {
                branches::note(Branch::CommandsWorkSpent);
                return Progress { steps: steps + 1, has_more: true };
            }
        }
        branches::note(Branch::CommandsLeft);
        Progress { steps: steps_max, has_more: true }
    }

    /// Begins to drain, see [`Limits::drain_timeout`]. The driver stops accepting, reads what
    /// has arrived from every connection, and calls [`Broker::exhausted`] at its end.
    pub fn begin_drain(&mut self) {
        drain::begin(&mut self.core);
        self.settle();
    }

    /// Records that the driver has read all bytes that had arrived on this connection. During a drain,
    /// it is closed then if none of its requests is in flight.
    pub fn exhausted(&mut self, key: ConnectionKey) {
        drain::close_if_idle(&mut self.core, key);
        self.settle();
    }

    /// Returns whether the server drains, and refuses new work.
    pub fn is_draining(&self) -> bool {
        self.core.is_draining()
    }

    /// Returns whether the driver can end: all connections are closed, or the drain's time is up and
    /// the last flush was tried.
    pub fn is_drained(&self) -> bool {
        drain::is_over(&self.core)
    }

    /// Returns all connections.
    pub fn connections(&self) -> Vec<ConnectionKey> {
        self.core.connections.keys()
    }

    /// Returns a context, by which code outside of handlers can do everything that they can. It takes
    /// effect with the next turn.
    pub fn context(&mut self) -> Context<'_> {
        Context::new(&mut self.core)
    }

    /// Returns whether a turn has work to do even if no event comes.
    #[inline]
    pub fn has_work(&self) -> bool {
        let agenda = &self.core.agenda;
        !agenda.has_no_actions() || !agenda.is_settled()
    }

    /// Calls hooks and closes doomed connections, until neither causes more of the other.
    #[inline]
    pub(super) fn settle(&mut self) {
        if !upkeep::is_settled(&self.core) {
            self.settle_all();
        }
    }

    fn settle_all(&mut self) {
        loop {
            upkeep::settle(&mut self.core);
            if self.core.agenda.events.is_empty() && self.core.agenda.undecided.is_empty() {
                return;
            }
            self.handlers.decide(&mut self.core);
            self.handlers.announce(&mut self.core);
        }
    }
}

/// A turn that does not end, because its broker is dropped, leaves no mark on the thread.
impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(outer) = self.outer.take() {
            handle::leave_if_inside(&self.handlers.remote, &outer);
        }
    }
}

/// Lets go on who waits until a queue is shorter.
#[cold]
fn note_sent(core: &mut Core, key: ConnectionKey) {
    queues::note_sent(core, key);
    conflation::note_sent(core, key);
    replays::note_sent(core, key);
}

/// Returns whether a new connection may stay. Nobody makes room for a user who is not admitted.
fn admit(core: &mut Core, peer: Peer) -> Result<(), Refusal> {
    if let Peer::Unix { user, .. } = peer
        && core.access.asks_for_users()
        && !user.is_some_and(|user| core.access.admits_user(user))
    {
        branches::note(Branch::UserNotAdmitted);
        return Err(refusal::user_not_admitted());
    }
    core.budget.take_on(ErrorCode::ServerFull, &mut core.counters)?;
    if closing::make_room(core) {
        return Ok(());
    }
    branches::note(Branch::ServerFull);
    Err(refusal::server_full())
}

/// The bytes that were kept, see [`Received`].
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    bare_header: bool,
    has_room: bool,
}

/// Keeps the bytes of messages that are unfinished or have to wait. `is_new`: the first of these
/// messages was not kept before.
fn keep(core: &mut Core, key: ConnectionKey, inbound: Inbound<'_>, is_new: bool) -> Kept {
    let mut kept = inbound.finish(&mut core.pool);
    let bare_header = kept.is_bare_header();
    let has_room = kept.lacks(core.limits.turn.read_bytes_max);
    match core.connections.get_mut(key).filter(|connection| connection.is_live()) {
        Some(connection) => {
            connection.splits_writes |= bare_header;
            if is_new {
                connection.unfinished_since = core.turn.now.monotonic.into();
            }
            connection.recv = kept;
            memory::mind_unfinished(core, key);
        }
        None => kept.release(&mut core.pool),
    }
    Kept { bare_header, has_room }
}
