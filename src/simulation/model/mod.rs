//! The promises of the protocol, and a ledger of sent and received messages to check them against.
//!
//! It is naive on purpose, and written from the protocol's description alone: it knows nothing of
//! how the server works. It sees when the last byte of a message reached the server and when an
//! answer was received. The message was processed at some moment between the two, and everything
//! that any such moment allows is right.

mod answers;
mod balance;
mod blobs;
mod call;
mod calls;
mod concurrency;
mod drain;
mod endings;
mod following;
mod kept;
mod publications;
mod tokens;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::Value;

pub(super) use self::call::Extras;
use self::call::{Call, Holding, Place};
pub(super) use self::kept::Asked;
use self::tokens::Tokens;
use super::scenario::{APPS, CLIENT_IDS, KEPT_CHANNELS, TOPICS};
use super::wire::Received;
use crate::Limits;

/// The number of an event. All events of a run are in one order.
pub(super) type Step = u64;
pub(super) type ConnId = usize;

/// The meaning of a frame, by the answer that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Connect,
    Ping,
    /// An action that the system channel does not know.
    Unknown,
    Echo,
    Fail,
    Panic,
    /// Answered later, by the process around the server.
    Later,
    /// For a worker of the job with this number.
    Work(usize),
    Serve(usize),
    StopServing(usize),
    /// Managed: by a handler on its behalf.
    Subscribe {
        topic: usize,
        ack: bool,
        managed: bool,
    },
    Unsubscribe {
        topic: usize,
        ack: bool,
        managed: bool,
    },
    /// A question whose answer is a list, by its action.
    List(&'static str),
    /// A subscription to a channel that is new.
    Name,
    /// Asks a handler to close the connection.
    Close,
    /// The beginning of a message that never ends.
    Half,
    /// Names another application, or another's connection.
    Forbidden,
    /// Is not a message, and is answered with this code.
    Broken(&'static str),
    Publish(usize),
    /// A publication on a channel that has a history.
    Keep(usize),
    /// A subscription to the first of them which asks for its past, by the number of what it asks.
    Follow(usize),
    Unfollow,
    /// A subscription to the pattern of those channels, and the end of it.
    Watch {
        conflate: bool,
    },
    Unwatch,
    /// A notification for the process, for a worker, or for nothing.
    Note,
    WorkNote(usize),
    LostNote,
    /// A cancel of a request, and credit for one.
    Cancel,
    Credit,
    /// A worker's only answer, or the last frame of it.
    Answer,
    /// A part of an answer, good or bad.
    Part,
    /// A response to a request that its sender does not have.
    Stray,
}

impl Kind {
    /// Returns whether it is answered at once, and so in the order of the connection's messages.
    fn is_in_order(self) -> bool {
        !matches!(
            self,
            Self::Later
                | Self::Work(_)
                | Self::Subscribe { ack: false, .. }
                | Self::Unsubscribe { ack: false, .. }
                | Self::Publish(_)
                | Self::Keep(_)
                | Self::Note
                | Self::WorkNote(_)
                | Self::LostNote
                | Self::Cancel
                | Self::Credit
                | Self::Answer
                | Self::Part
                | Self::Stray
                | Self::Close
                | Self::Half
        )
    }

    /// Returns whether it begins or ends a subscription through which a topic is heard, but for those
    /// that ask for the past.
    fn subscribes(self, topic: usize) -> Option<bool> {
        match self {
            Self::Subscribe { topic: other, .. } if other == topic => Some(true),
            Self::Unsubscribe { topic: other, .. } if other == topic => Some(false),
            Self::Watch { .. } if topic >= TOPICS.len() => Some(true),
            Self::Unwatch if topic >= TOPICS.len() => Some(false),
            _ => None,
        }
    }

    /// Returns whether it is for the process, for a worker or for nobody: a request that a drain
    /// refuses.
    fn is_refused_by_drain(self) -> bool {
        match self {
            Self::Connect
            | Self::Echo
            | Self::Fail
            | Self::Panic
            | Self::Serve(_)
            | Self::Work(_)
            | Self::Later => true,
            kind => kind.is_managed(),
        }
    }

    /// Returns whether a handler does it for its requester.
    fn is_managed(self) -> bool {
        match self {
            Self::Subscribe { managed, .. } | Self::Unsubscribe { managed, .. } => managed,
            Self::Close => true,
            _ => false,
        }
    }

    fn is_answered(self) -> bool {
        self.is_in_order() || matches!(self, Self::Later | Self::Work(_))
    }
}

#[derive(Debug)]
pub(super) struct Sent {
    pub(super) kind: Kind,
    nonce: u64,
    bytes: usize,
    /// Position of its last byte, counted from the begin of the connection.
    ends_at: u64,
    arrived: Option<(Step, Duration)>,
    done_at: Option<Step>,
    is_answered: bool,
    /// Set if it was refused for lack of memory or of room, or by a drain.
    is_refused: bool,
}

/// One connection as its client sees it.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(super) struct Conn {
    pub(super) app: usize,
    pub(super) id: usize,
    /// Set if it reads often, and everything each time.
    is_prompt: bool,
    /// The end of the ids of its messages.
    id_tail: &'static str,
    /// The token that it offers, if it is one that the server may ask for.
    pub(super) token: Option<usize>,
    /// Set if it is of a user who may connect.
    is_admitted: bool,
    /// The extensions that it asks for.
    pub(super) extensions: Option<&'static [&'static str]>,
    /// Set once the process may close it at any moment.
    pub(super) is_dismissed: bool,
    sent: Vec<Sent>,
    sent_bytes: u64,
    arrived_count: usize,
    arrived_at: Duration,
    /// The longest time between two arrivals.
    silence_max: Duration,
    done_count: usize,
    outstanding: BTreeMap<String, usize>,
    in_order: VecDeque<usize>,
    pub(super) connected_at: Option<Step>,
    /// The error that ended it.
    pub(super) told: Option<String>,
    /// Set if the client left, or sent a message that ends the connection.
    pub(super) left: bool,
    pub(super) has_ended: bool,
    heard: BTreeMap<usize, Vec<usize>>,
    /// Its subscription to the kept channel, once that was answered.
    following: Option<kept::Following>,
    /// The last place in the history of each of those channels that it heard.
    last_places: [Option<(String, u64)>; KEPT_CHANNELS.len()],
    broadcasts: BTreeSet<u64>,
    /// The jobs that it served, with the number of requests that it takes at a time.
    concurrencies: Vec<(usize, Option<usize>)>,
    tasks: Vec<Task>,
    /// The last request of each job and requester that it was passed.
    last_tasks: BTreeMap<(usize, ConnId), usize>,
}

/// A request that a worker has received and not answered.
#[derive(Debug)]
struct Task {
    job: usize,
    nonce: u64,
    from: ConnId,
    /// Its index among the messages of its requester.
    at: usize,
}

#[derive(Debug)]
struct Drain {
    began: Step,
    /// The connections that read what they are sent.
    witnesses: Vec<ConnId>,
}

#[derive(Debug)]
struct Publication {
    app: usize,
    topic: usize,
    /// The connection and the index of its message; none if it came from inside.
    from: Option<(ConnId, usize)>,
    posted: Step,
    first_heard: Option<Step>,
    heard_by: BTreeSet<ConnId>,
    heard_by_links: BTreeSet<usize>,
}

/// A message from inside the process to all connections of an application, or to one.
#[derive(Debug)]
struct Broadcast {
    app: usize,
    to: Option<usize>,
    posted: Step,
    received: usize,
}

/// The reaction of a client to a message.
pub(super) enum Reaction {
    /// It is asked to work, perhaps in parts, of which it may send so many.
    Work { id: String, job: usize, nonce: u64, credit: Option<u64> },
    /// A request that it has is over.
    Over { id: String },
    /// It may send more parts.
    Credit { id: String, n: u64 },
}

/// A client as it is when it connects.
pub(super) struct Newcomer {
    pub(super) app: usize,
    pub(super) id: usize,
    pub(super) is_prompt: bool,
    pub(super) id_tail: &'static str,
    pub(super) is_admitted: bool,
    pub(super) extensions: Option<&'static [&'static str]>,
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(super) struct Model {
    pub(super) step: Step,
    pub(super) now: Duration,
    limits: Limits,
    is_calm: bool,
    is_tight: bool,
    has_bursts: bool,
    has_few_descriptors: bool,
    has_crowd: bool,
    has_filter: bool,
    access: Tokens,
    /// The application and the id of connections that the process is about to close.
    dismissed: Vec<(usize, usize)>,
    /// Set once all places were taken.
    pub(super) was_full: bool,
    /// Requests whose worker answered with about as much as a frame holds.
    answered_hugely: BTreeSet<u64>,
    /// Somebody sent workers a message of about as much as a frame holds.
    forwarded_hugely: bool,
    drain: Option<Drain>,
    /// The step after which everything under way had arrived and was handled.
    settled_at: Option<Step>,
    pub(super) conns: Vec<Conn>,
    publications: Vec<Publication>,
    kept: kept::Kept,
    broadcasts: BTreeMap<u64, Broadcast>,
    /// The workers that were given requests, by nonce.
    forwarded: BTreeMap<u64, ConnId>,
    /// Requests that were given to a second worker.
    retries: u64,
    /// The course of requests, and what their workers have of them.
    calls: BTreeMap<Place, Call>,
    holdings: Vec<Holding>,
    parts_received: u64,
    /// The lengths of the attachments that were sent.
    blobs: Vec<usize>,
    /// Requests with an attachment that may be too large in base64.
    huge_blobs: BTreeSet<u64>,
    /// Requests that their worker ignores.
    ignored: BTreeSet<u64>,
    notes_received: BTreeSet<u64>,
    nonce: u64,
    pub(super) frames_received: u64,
    /// Publications of links, by application.
    pub(super) elsewhere: [u64; APPS.len()],
    /// The last message of each connection that each link has heard.
    link_heard: BTreeMap<(usize, ConnId), usize>,
    codes: BTreeMap<String, u64>,
    /// Connections closed without an error, as slow readers are.
    silently_closed: u64,
}

impl Model {
    pub(super) fn new(scenario: &super::scenario::Scenario) -> Self {
        Self {
            step: 0,
            now: Duration::ZERO,
            limits: scenario.limits.clone(),
            is_calm: scenario.is_calm,
            is_tight: scenario.is_tight,
            has_bursts: scenario.has_bursts,
            has_few_descriptors: scenario.has_few_descriptors,
            has_crowd: scenario.has_crowd,
            has_filter: scenario.has_filter,
            access: Tokens::new(scenario.has_tokens),
            dismissed: Vec::new(),
            was_full: false,
            answered_hugely: BTreeSet::new(),
            forwarded_hugely: false,
            drain: None,
            settled_at: None,
            conns: Vec::new(),
            publications: Vec::new(),
            kept: kept::Kept::default(),
            broadcasts: BTreeMap::new(),
            forwarded: BTreeMap::new(),
            retries: 0,
            calls: BTreeMap::new(),
            holdings: Vec::new(),
            parts_received: 0,
            blobs: Vec::new(),
            huge_blobs: BTreeSet::new(),
            ignored: BTreeSet::new(),
            notes_received: BTreeSet::new(),
            nonce: 0,
            frames_received: 0,
            elsewhere: [0; APPS.len()],
            link_heard: BTreeMap::new(),
            codes: BTreeMap::new(),
            silently_closed: 0,
        }
    }

    pub(super) fn fresh_nonce(&mut self) -> u64 {
        self.nonce += 1;
        self.nonce
    }

    pub(super) fn begin(&mut self, newcomer: &Newcomer) -> ConnId {
        let &Newcomer { app, id, is_prompt, id_tail, is_admitted, extensions } = newcomer;
        self.conns.push(Conn {
            app,
            id,
            is_prompt,
            id_tail,
            token: None,
            is_admitted,
            extensions,
            is_dismissed: self.dismissed.contains(&(app, id)),
            sent: Vec::new(),
            sent_bytes: 0,
            arrived_count: 0,
            arrived_at: self.now,
            silence_max: Duration::ZERO,
            done_count: 0,
            outstanding: BTreeMap::new(),
            in_order: VecDeque::new(),
            connected_at: None,
            told: None,
            left: false,
            has_ended: false,
            heard: BTreeMap::new(),
            following: None,
            last_places: [const { None }; KEPT_CHANNELS.len()],
            broadcasts: BTreeSet::new(),
            concurrencies: Vec::new(),
            tasks: Vec::new(),
            last_tasks: BTreeMap::new(),
        });
        self.conns.len() - 1
    }

    /// Returns the id of the connection's next message. Other connections use the same ids.
    pub(super) fn next_message_id(&self, conn: ConnId) -> String {
        self.conns[conn].message_id(self.conns[conn].sent.len())
    }

    /// Notes that a client sent a frame of this many bytes.
    pub(super) fn sent(&mut self, from: ConnId, kind: Kind, nonce: u64, bytes: usize) {
        let id = self.next_message_id(from);
        let conn = &mut self.conns[from];
        let at = conn.sent.len();
        conn.sent_bytes += bytes as u64;
        conn.sent.push(Sent {
            kind,
            nonce,
            bytes,
            ends_at: conn.sent_bytes,
            arrived: None,
            done_at: None,
            is_answered: false,
            is_refused: false,
        });
        if kind.is_in_order() {
            conn.in_order.push_back(at);
        }
        if kind.is_answered() {
            conn.outstanding.insert(id, at);
        }
    }

    /// Notes how many bytes of a connection have reached the server's kernel.
    pub(super) fn arrived(&mut self, from: ConnId, bytes: u64) {
        let moment = (self.step, self.now);
        let conn = &mut self.conns[from];
        while let Some(sent) = conn.sent.get_mut(conn.arrived_count)
            && sent.ends_at <= bytes
        {
            sent.arrived = Some(moment);
            conn.is_dismissed |= sent.kind == Kind::Close;
            conn.silence_max = conn.silence_max.max(self.now.saturating_sub(conn.arrived_at));
            conn.arrived_at = self.now;
            conn.arrived_count += 1;
        }
    }

    /// Notes that a worker will not answer a request.
    pub(super) fn ignored(&mut self, nonce: u64) {
        self.ignored.insert(nonce);
    }

    /// Notes that a worker answers a request with about as much as a frame holds.
    pub(super) fn answered_hugely(&mut self, nonce: u64) {
        self.answered_hugely.insert(nonce);
    }

    /// Notes that workers may be sent a message of about as much as a frame holds.
    pub(super) fn forwarded_hugely(&mut self) {
        self.forwarded_hugely = true;
    }

    /// Returns the token that is asked for from now on, or soon.
    pub(super) fn change_token(&mut self) -> usize {
        self.access.change(self.step)
    }

    /// Notes that the server has all limits and tokens.
    pub(super) fn has_reloaded(&mut self) {
        self.access.settle(self.step);
    }

    /// Notes that the process closes the connection with this id, now or soon.
    pub(super) fn dismiss(&mut self, app: usize, id: usize) {
        self.dismissed.push((app, id));
        for conn in self.conns.iter_mut().filter(|conn| (conn.app, conn.id) == (app, id)) {
            conn.is_dismissed = true;
        }
    }

    /// Notes that the process has closed all connections that it wanted to close.
    pub(super) fn has_dismissed(&mut self) {
        self.dismissed.clear();
    }

    /// Notes that other limits are on their way to the server. It may use either.
    pub(super) fn limits_are_changing(&mut self, limits: &Limits) {
        let known = &mut self.limits;
        known.connections_max = known.connections_max.max(limits.connections_max);
        known.queue_high_water_bytes =
            known.queue_high_water_bytes.max(limits.queue_high_water_bytes);
    }

    /// Checks a frame that a client received.
    pub(super) fn received(&mut self, by: ConnId, body: &[u8]) -> Result<Option<Reaction>, String> {
        let has_meta = self.has_meta(by) && self.conns[by].connected_at.is_some();
        let message = Received::parse(body, has_meta)?;
        self.check_blob(by, &message)?;
        self.frames_received += 1;
        if body.len() > self.limits.frame_bytes_max {
            return Err(format!("connection {by} received a frame of {} bytes", body.len()));
        }
        let conn = &self.conns[by];
        if let Some(told) = &conn.told
            && !self.is_draining()
        {
            return Err(format!("connection {by} was told {told}, and then something else"));
        }
        let result = match (message.kind.as_str(), &message.reply_to) {
            ("response", _) => self.answer(by, &message).map(|()| None),
            ("notification", None) if message.channel == "system" => {
                self.told(by, &message).map(Some)
            }
            (_, Some(_)) => Err("a reply_to in what is no response".to_owned()),
            ("publish", None) if kept::is_kept(&message) => {
                self.hear_kept(by, &message).map(|()| None)
            }
            ("publish", None) => self.hear(by, &message).map(|()| None),
            ("request" | "notification", None) => self.work(by, &message),
            _ => Err("no server sends such a message".to_owned()),
        };
        result.map_err(|what| format!("connection {by}: {what}: {}", String::from_utf8_lossy(body)))
    }

    /// Finds the message with a nonce.
    fn find(&self, nonce: u64) -> Result<(ConnId, usize), String> {
        let found = self.conns.iter().enumerate().find_map(|(id, conn)| {
            Some((id, conn.sent.iter().position(|sent| sent.nonce == nonce)?))
        });
        found.ok_or_else(|| format!("nobody sent {nonce}"))
    }

    /// Notes that the server has processed all of a connection's messages up to this one.
    fn note_done(&mut self, from: ConnId, at: usize) {
        let step = self.step;
        let conn = &mut self.conns[from];
        while conn.done_count <= at {
            conn.sent[conn.done_count].done_at = Some(step);
            conn.done_count += 1;
        }
    }

    /// Returns whether nothing has happened to a connection that could cost it a message.
    pub(super) fn is_sound(&self, id: ConnId) -> bool {
        let conn = &self.conns[id];
        conn.connected_at.is_some()
            && conn.told.is_none()
            && !conn.left
            && !conn.is_dismissed
            && !conn.has_ended
            && !self.may_be_taken_over(id)
    }

    /// Returns whether another connection came with the same id.
    fn may_be_taken_over(&self, id: ConnId) -> bool {
        let own = &self.conns[id];
        self.conns.iter().enumerate().any(|(other, conn)| {
            other != id
                && (conn.app, conn.id) == (own.app, own.id)
                && conn.sent.first().is_some_and(|sent| {
                    // A connection that was accepted before this one asked cannot have taken over.
                    let asked = own.sent.first().and_then(|sent| sent.arrived);
                    sent.kind == Kind::Connect
                        && sent.arrived.is_some()
                        && !asked.is_some_and(|asked| {
                            conn.connected_at.is_some_and(|connected| connected < asked.0)
                        })
                })
        })
    }

    /// Returns the step since which another connection certainly has this id.
    fn surely_taken_over(&self, id: ConnId) -> Option<Step> {
        let own = &self.conns[id];
        let since = own.connected_at?;
        let others = self.conns.iter().filter(|conn| {
            let asked = conn.sent.first().and_then(|sent| sent.arrived);
            (conn.app, conn.id) == (own.app, own.id) && asked.is_some_and(|(at, _)| at > since)
        });
        others.filter_map(|conn| conn.connected_at).min()
    }
}

impl Conn {
    /// Returns the id of the message with this index.
    fn message_id(&self, at: usize) -> String {
        format!("m{at}{}", self.id_tail)
    }

    /// Returns the index of the message with this id.
    fn message(&self, id: &str) -> Option<usize> {
        let at = id.strip_prefix('m')?.strip_suffix(self.id_tail)?.parse().ok()?;
        (at < self.sent.len()).then_some(at)
    }

    /// Channels that it has named and nobody else.
    pub(super) fn names_count(&self) -> usize {
        self.sent.iter().filter(|sent| sent.kind == Kind::Name).count()
    }
}

fn number(payload: &Value, field: &str) -> Result<u64, String> {
    payload[field].as_u64().ok_or_else(|| format!("the payload has no {field}"))
}

/// Returns the names by which the server knows a connection.
fn name(conn: &Conn) -> (String, String) {
    (APPS[conn.app].to_owned(), CLIENT_IDS[conn.id].to_owned())
}
