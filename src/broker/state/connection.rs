//! One connection and its life, and the table of all connections.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::arena::Arena;
use super::call_index::CallIndex;
use super::events::Agenda;
use super::keys::{ApplicationKey, ChannelKey, ConnectionKey, ConnectionKind, NodeKey, RequestKey};
use super::latency::Distribution;
use super::line::Line;
use super::peer::PackedPeer;
use super::request_id::RequestId;
use super::timers::{Moment, TimerKey};
use super::topic::seat::Seat;
use super::topic::session::{Pending, TopicSession};
use crate::broker::limits::{HANDSHAKE_QUEUE_BYTES_MAX, Limits};
use crate::proto::system::CancelReason;
use crate::proto::{Extensions, RecvBuffer, SendQueue};

/// All connections, and how many of them are in which state.
#[derive(Debug)]
pub(crate) struct Connections {
    table: Table,
    refused: usize,
    sessions: usize,
    /// Connections that are closed and not dropped yet, but for links and those that were refused.
    closed: usize,
    /// Links, which take no place.
    links: usize,
    /// Connections that have not completed their handshake, in the order in which they came.
    newcomers: Line,
    /// Superseded connections, in the order in which they became that.
    superseded: Line,
    superseded_count: usize,
    /// See [`Connections::begin_round`].
    round: u32,
    /// Unsent bytes at which a connection has no grace, see [`Limits::queue_bytes_max`].
    pub(crate) queue_bytes_max: usize,
}

/// See [`Connections::begin_round`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round(u32);

/// One connection as the broker sees it.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(crate) struct Connection {
    state: State,
    pub(crate) recv: RecvBuffer,
    pub(crate) send: SendQueue,
    /// The deadline of a handshake, of lingering, or of an open connection's silence.
    pub(crate) timer: Option<TimerKey>,
    /// The end of the grace of a queue that is over its high-water mark.
    pub(crate) congested: Option<TimerKey>,
    /// Somebody waits until its queue is shorter: those behind it while it is congested, or what it
    /// gets then.
    pub(crate) awaits_room: bool,
    pub(crate) last_activity: Moment,
    /// The time of the last read, since which the messages in the receive buffer have waited.
    pub(crate) last_read: Moment,
    /// The time at which the first part of an unfinished message arrived.
    pub(crate) unfinished_since: Moment,
    /// The other end.
    pub(crate) peer: PackedPeer,
    /// The reason why its next message is not processed.
    pub(crate) held: Held,
    /// The obstacle that it was woken from. After its turn, the next one in that line is woken.
    pub(crate) woken: Option<Obstacle>,
    /// Its queue or its concurrency has room. In its next turn it gets what is kept for it or owed to it
    /// as a worker, and the workers of its streams get its credit.
    pub(crate) takes_kept: bool,
    /// It is still sent what was kept of channels that it subscribed to.
    pub(crate) is_replaying: bool,
    /// It waits for its turn to be sent more of that.
    pub(crate) replay_queued: bool,
    /// Its queue drained while it waited for its next turn: those who waited for the queue go first.
    pub(crate) gives_way: bool,
    /// Its next message waited because of its work, which this turn has reserved for it.
    pub(crate) is_due: bool,
    /// What it has beyond the base protocol.
    pub(crate) extensions: Extensions,
    /// The limit for the body of its next frame.
    pub(crate) frame_bytes_max: u32,
    /// Bytes that it had sent when the limit was lowered. Frames that begin among them keep the
    /// limit that they began with.
    pub(crate) begun_bytes: u32,
    /// Memory of its transport, which counts towards the server's budget.
    pub(crate) transport_bytes: u32,
    /// Its transport took bytes from the queue that the kernel has not taken yet.
    pub(crate) transport_holds: bool,
    /// The last round in which it was reached, see [`Connections::begin_round`].
    round: u32,
    /// It has written header and body separately, as the published clients do.
    pub(crate) splits_writes: bool,
    /// It exceeded the limit, and does not count towards it.
    refused: bool,
    /// It is closed as soon as no loop over connections is running.
    pub(crate) doomed: bool,
    /// The driver is to flush it, or was told to and has not done so yet.
    pub(crate) flush_due: bool,
}

/// The reason why the next message of a connection is not processed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Held {
    #[default]
    No,
    /// It has used up its share of this turn.
    NextTurn,
    /// It waits in line for a slow reader.
    Behind(Obstacle),
    /// It waits until there is memory again.
    Memory,
    /// Its last message, a pattern, searches for what is kept of the channels that match.
    Search,
    /// It waits in a lane, because the message is more work than the turn has room for.
    Work(Lane),
    /// Its last message asked for shared memory, which the driver makes at the end of the turn.
    Sharing,
}

/// The slow readers that a message waits for. A publication waits for subscribers, a request for
/// workers, and neither for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    Subscriber(ChannelKey),
    /// The subscribers of a pattern.
    Pattern(NodeKey),
    Worker(ChannelKey),
}

/// The lanes in which light and heavy messages wait separately, so that a little work does not wait
/// behind much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Light,
    Heavy,
}

/// The stages of a connection's life. It only ever moves down this list, except for a superseded
/// connection that gets its `taken_over`.
#[derive(Debug)]
pub(crate) enum State {
    /// Only a connect message is accepted.
    Handshake,
    Open(Session),
    /// A newer connection has its id. It gets `taken_over` when it next sends something, and nothing
    /// before, see [`closing::supersede`](crate::broker::flow::closing::supersede).
    Superseded,
    /// Its queue is still sent; nothing that it sends is processed.
    Closing,
    /// The write side is shut; the peer gets time to read the reason.
    Lingering,
    /// It is dropped at the end of the turn.
    Closed,
}

/// The state of a connection whose handshake is complete.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) application: ApplicationKey,
    pub(crate) id: Arc<str>,
    /// The end of its handshake, since the Unix epoch.
    pub(crate) connected_at: Duration,
    /// The last channels it named, the latest first, so that the next message needs no look-up by string.
    pub(crate) recent: [Option<ChannelKey>; RECENT_CHANNELS],
    /// Its requests that a worker or another thread has to answer.
    pub(crate) requests: Vec<RequestKey>,
    /// Memory of those requests beside their entries: ids that are not UUIDs, and the messages that
    /// are kept until a worker has room, or for another one.
    pub(crate) request_bytes: usize,
    /// Those requests by their ids, once it cancels one or asks for a stream.
    pub(crate) calls: Option<Box<CallIndex>>,
    /// Its channels, each with the place in a list of the channel, so that leaving takes no search.
    pub(crate) subscriptions: BTreeMap<ChannelKey, Seat>,
    /// What it has by the extension `topic` beside them.
    pub(crate) topic: Option<Box<TopicSession>>,
    /// Channels that it was the first to name.
    pub(crate) created: Vec<ChannelKey>,
    pub(crate) worker: Option<Box<Worker>>,
}

/// Channels remembered per connection: programs use one to three.
const RECENT_CHANNELS: usize = 4;

/// The duties of a connection that serves requests.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    pub(crate) channels: Vec<ChannelKey>,
    pub(crate) in_flight: Vec<RequestKey>,
    /// The number of streams among them that wait for credit.
    pub(crate) stalled: usize,
    /// The time of its last answer, or of the first request or credit after it; none if it has nothing
    /// to answer.
    /// A request that timed out still counts.
    pub(crate) silent_since: Option<Duration>,
    pub(crate) round_trip: Distribution,
    /// What it is told as soon as its queue has room.
    pub(crate) owed: VecDeque<Owed>,
}

/// A notification that waits until the queue of a worker has room: one for each request at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owed {
    /// The credit that has come together. The key of a request that is over finds nothing.
    Credit(RequestKey),
    Cancel(RequestId, CancelReason),
}

impl Connections {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            table: Arena::default(),
            refused: 0,
            sessions: 0,
            closed: 0,
            links: 0,
            newcomers: Line::default(),
            superseded: Line::default(),
            superseded_count: 0,
            round: 0,
            queue_bytes_max: limits.queue_bytes_max(),
        }
    }

    /// Inserts a connection that has not begun its handshake. A link is not among those that are closed
    /// in their handshake to make room. It is made in its place, because each copy costs 60 instructions.
    #[inline(never)]
    pub(crate) fn insert(
        &mut self,
        now: Duration,
        frame_bytes_max: usize,
        peer: PackedPeer,
    ) -> ConnectionKey {
        let mut connection = Connection::new(now, frame_bytes_max);
        connection.peer = peer;
        let is_link = connection.is_link();
        let key = self.table.insert(connection);
        if is_link {
            self.links += 1;
        } else {
            self.newcomers.push_back(key, ());
        }
        key
    }

    #[inline]
    pub(crate) fn get(&self, key: ConnectionKey) -> Option<&Connection> {
        self.table.get(key)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        self.table.get_mut(key)
    }

    pub(crate) fn session(&self, key: ConnectionKey) -> Option<&Session> {
        self.table.get(key)?.session()
    }

    pub(crate) fn session_mut(&mut self, key: ConnectionKey) -> Option<&mut Session> {
        self.table.get_mut(key)?.session_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConnectionKey, &Connection)> {
        self.table.iter()
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.table.values_mut()
    }

    pub(crate) fn keys(&self) -> Vec<ConnectionKey> {
        self.table.keys()
    }

    /// Returns the number of all connections, including the refused ones.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns the number of connections over the limit, which only get an error.
    pub(crate) fn refused(&self) -> usize {
        self.refused
    }

    /// Returns whether a connection is a link to another server.
    pub(crate) fn is_link(&self, key: ConnectionKey) -> bool {
        self.table.get(key).is_some_and(Connection::is_link)
    }

    /// Returns the number of clients that have completed their handshake.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions
    }

    /// Connections that take a place: all but links, the refused and the closed ones.
    pub(crate) fn present(&self) -> usize {
        self.table.len() - self.refused - self.closed - self.links
    }

    /// Returns the number of superseded connections that have not got `taken_over` yet.
    #[cfg(any(test, feature = "fuzzing", feature = "simulation"))]
    pub(crate) fn superseded(&self) -> usize {
        self.superseded_count
    }

    /// The connection that has been in its handshake for the longest time.
    pub(crate) fn first_newcomer(&mut self) -> Option<ConnectionKey> {
        let (key, ()) = self.newcomers.first(|key| is_newcomer(&self.table, key))?;
        Some(key)
    }

    /// Returns the connection that was superseded first.
    pub(crate) fn first_superseded(&mut self) -> Option<ConnectionKey> {
        let (key, ()) = self.superseded.first(|key| is_superseded(&self.table, key))?;
        Some(key)
    }

    /// Returns whether a connection is listed among those in their handshake.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn has_newcomer(&self, key: ConnectionKey) -> bool {
        self.newcomers.contains(key)
    }

    /// Returns whether a connection is listed among the superseded ones.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn has_superseded(&self, key: ConnectionKey) -> bool {
        self.superseded.contains(key)
    }

    /// Marks a connection as refused, so that it no longer counts towards the limit.
    pub(crate) fn refuse(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.table.get_mut(key)
            && !std::mem::replace(&mut connection.refused, true)
        {
            self.refused += 1;
        }
    }

    /// Begins a round, in which each connection is reached once at most although several lists may have
    /// it.
    #[inline]
    pub(crate) fn begin_round(&mut self) -> Round {
        self.round = self.round.wrapping_add(1);
        if self.round == 0 {
            self.table.values_mut().for_each(|connection| connection.round = 0);
            self.round = 1;
        }
        Round(self.round)
    }

    /// Returns whether a connection is there, and is reached for the first time in a round.
    #[inline]
    pub(crate) fn is_first(&mut self, key: ConnectionKey, round: Round) -> bool {
        self.table.get_mut(key).is_some_and(|connection| connection.is_first(round))
    }

    /// Moves a connection to a later stage.
    #[inline]
    pub(crate) fn enter(&mut self, key: ConnectionKey, next: State) {
        self.replace(key, next);
    }

    /// Moves a connection to a later stage, from any other. Returns its session, if it had one.
    #[inline]
    pub(crate) fn end_session(&mut self, key: ConnectionKey, next: State) -> Option<Session> {
        match self.replace(key, next) {
            Some(State::Open(session)) => Some(session),
            _ => None,
        }
    }

    #[inline]
    fn replace(&mut self, key: ConnectionKey, next: State) -> Option<State> {
        let connection = self.table.get_mut(key)?;
        let is_link = connection.is_link();
        match next {
            State::Open(_) => self.sessions += usize::from(!is_link),
            State::Handshake => self.newcomers.push_back(key, ()),
            State::Superseded => {
                self.superseded.push_back(key, ());
                self.superseded_count += 1;
            }
            State::Closed => self.closed += usize::from(!connection.refused && !is_link),
            State::Closing | State::Lingering => {}
        }
        let before = std::mem::replace(&mut connection.state, next);
        match before {
            State::Open(_) => self.sessions -= usize::from(!is_link),
            State::Handshake if is_link => {}
            State::Handshake => self.newcomers.leave(|key| is_newcomer(&self.table, key)),
            State::Superseded => {
                self.superseded.leave(|key| is_superseded(&self.table, key));
                self.superseded_count -= 1;
            }
            State::Closing | State::Lingering | State::Closed => {}
        }
        Some(before)
    }

    /// Drops a closed connection. Its key finds nothing from now on.
    pub(crate) fn remove(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.remove(key) else { return };
        debug_assert!(matches!(connection.state, State::Closed));
        if connection.is_link() {
            self.links -= 1;
        } else if connection.refused {
            self.refused -= 1;
        } else {
            self.closed -= 1;
        }
    }
}

type Table = Arena<ConnectionKind, Connection>;

fn is_newcomer(table: &Table, key: ConnectionKey) -> bool {
    table.get(key).is_some_and(|connection| matches!(connection.state, State::Handshake))
}

fn is_superseded(table: &Table, key: ConnectionKey) -> bool {
    table.get(key).is_some_and(|connection| matches!(connection.state, State::Superseded))
}

impl Connection {
    /// Returns whether it is reached for the first time in a round.
    #[inline]
    pub(crate) fn is_first(&mut self, round: Round) -> bool {
        std::mem::replace(&mut self.round, round.0) != round.0
    }

    #[inline]
    pub(crate) fn new(now: Duration, frame_bytes_max: usize) -> Self {
        Self {
            state: State::Handshake,
            recv: RecvBuffer::default(),
            send: SendQueue::default(),
            timer: None,
            congested: None,
            awaits_room: false,
            last_activity: now.into(),
            last_read: now.into(),
            unfinished_since: now.into(),
            peer: PackedPeer::Unknown,
            held: Held::No,
            woken: None,
            takes_kept: false,
            is_replaying: false,
            replay_queued: false,
            gives_way: false,
            is_due: false,
            extensions: Extensions::NONE,
            frame_bytes_max: wire_length(frame_bytes_max),
            begun_bytes: 0,
            transport_bytes: 0,
            transport_holds: false,
            round: 0,
            splits_writes: false,
            refused: false,
            doomed: false,
            flush_due: false,
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Returns the memory that its rings in shared memory take, zero without them: a Unix socket by itself
    /// takes none.
    pub(crate) fn rings_bytes(&self) -> usize {
        if self.peer.is_on_unix_socket() { self.transport_bytes as usize } else { 0 }
    }

    /// Returns whether it is a link to another server, see [`Peer::Link`](super::peer::Peer).
    #[inline]
    pub(crate) fn is_link(&self) -> bool {
        matches!(self.peer, PackedPeer::Link)
    }

    #[cfg(any(test, feature = "fuzzing", feature = "simulation"))]
    pub(crate) fn is_refused(&self) -> bool {
        self.refused
    }

    #[inline]
    pub(crate) fn session(&self) -> Option<&Session> {
        match &self.state {
            State::Open(session) => Some(session),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn session_mut(&mut self) -> Option<&mut Session> {
        match &mut self.state {
            State::Open(session) => Some(session),
            _ => None,
        }
    }

    /// Returns whether its frames are still processed.
    #[inline]
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.state, State::Handshake | State::Open(_) | State::Superseded)
    }

    /// Returns whether anything may be put into its queue.
    #[inline]
    pub(crate) fn takes_messages(&self) -> bool {
        !self.doomed && matches!(self.state, State::Handshake | State::Open(_))
    }

    /// Returns whether its next message may be processed now.
    #[inline]
    pub(crate) fn may_proceed(&self) -> bool {
        self.is_live() && self.held == Held::No && self.congested.is_none()
    }

    /// Returns whether its bytes should be read now.
    pub(crate) fn wants_read(&self) -> bool {
        match self.state {
            State::Handshake | State::Open(_) | State::Superseded => self.may_proceed(),
            // These bytes are dropped.
            State::Closing | State::Lingering => true,
            State::Closed => false,
        }
    }

    /// Returns whether the server holds it back, so that its silence is not its own fault.
    pub(crate) fn is_held_back(&self) -> bool {
        self.held != Held::No || self.woken.is_some() || self.is_due || self.congested.is_some()
    }

    /// Has the driver send what is queued.
    #[inline]
    pub(crate) fn ask_for_flush(&mut self, key: ConnectionKey, agenda: &mut Agenda) {
        if !std::mem::replace(&mut self.flush_due, true) {
            agenda.flushes.push_back(key);
        }
    }

    /// What waits for it because it conflates.
    pub(crate) fn pending(&self) -> Option<&Pending> {
        Some(&self.session()?.topic.as_ref()?.pending)
    }

    pub(crate) fn pending_mut(&mut self) -> Option<&mut Pending> {
        Some(&mut self.session_mut()?.topic.as_mut()?.pending)
    }

    /// Notes whether anything waits until its queue is shorter.
    pub(crate) fn mind_room(&mut self) {
        let is_awaited = self.pending().is_some_and(|pending| !pending.is_empty());
        self.awaits_room = is_awaited || self.is_replaying || self.congested.is_some();
    }

    #[inline]
    pub(crate) fn high_water_bytes(&self, limits: &Limits) -> usize {
        match self.state {
            State::Handshake => HANDSHAKE_QUEUE_BYTES_MAX,
            _ => limits.queue_high_water_bytes,
        }
    }

    /// Changes the limit on frames. A higher one applies at once. A lower one applies to frames that
    /// begin after the bytes that have been received.
    pub(crate) fn change_frame_limit(&mut self, frame_bytes_max: usize) {
        let frame_bytes_max = wire_length(frame_bytes_max);
        let received_bytes = wire_length(self.recv.len());
        if frame_bytes_max >= self.frame_bytes_max || received_bytes == 0 {
            self.frame_bytes_max = frame_bytes_max;
            self.begun_bytes = 0;
        } else {
            self.begun_bytes = received_bytes;
        }
    }

    /// Records that a frame was processed of which a part had arrived before the limit was lowered to
    /// `frame_bytes_max`.
    #[cold]
    pub(crate) fn consume_begun(&mut self, frame_bytes: usize, frame_bytes_max: usize) {
        self.begun_bytes = self.begun_bytes.saturating_sub(wire_length(frame_bytes));
        if self.begun_bytes == 0 {
            self.frame_bytes_max = wire_length(frame_bytes_max);
        }
    }
}

/// Converts a limit to a length on the wire. These have 32 bits, so a larger limit is no limit.
fn wire_length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl Session {
    #[inline]
    pub(crate) fn new(application: ApplicationKey, id: Arc<str>, connected_at: Duration) -> Self {
        Self {
            application,
            id,
            connected_at,
            recent: [None; RECENT_CHANNELS],
            requests: Vec::new(),
            request_bytes: 0,
            calls: None,
            subscriptions: BTreeMap::new(),
            topic: None,
            created: Vec::new(),
            worker: None,
        }
    }

    pub(crate) fn remember(&mut self, channel: ChannelKey) {
        self.recent.copy_within(..RECENT_CHANNELS - 1, 1);
        self.recent[0] = Some(channel);
    }

    pub(crate) fn requests_in_flight(&self) -> usize {
        self.worker.as_ref().map_or(0, |worker| worker.in_flight.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_stays_small() {
        // An idle connection must take less than 1 KiB of the server's memory in total.
        let bytes = size_of::<Connection>();
        assert!(bytes <= 384, "{bytes} bytes");
    }
}
