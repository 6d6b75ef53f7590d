//! The protocol in the simplest form that can be checked.

mod calls;
mod choice;
mod expected;
mod kept;
mod leaving;
mod passing;
mod request;
mod serving;
mod topics;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use self::expected::{Expectations, Expected};
use self::kept::Topics;
pub(super) use self::kept::{Places, Publication, Waiting, histories};
use self::request::{Request, Told};
use super::attached::Extended;
use super::script::{App, Channel, Id, Known, PEERS, Pattern, Said, Speech, What};
use crate::Limits;

pub(super) struct Model {
    limits: Limits,
    peers: [Peer; PEERS],
    /// Requests that workers have.
    requests: Vec<Request>,
    /// What workers have to be told as soon as their queues have room.
    owed: Vec<Told>,
    drain_begin: Option<Duration>,
    topics: Topics,
}

#[derive(Default)]
struct Peer {
    member: Option<Member>,
    /// When it last wrote anything.
    heard: Duration,
    extended: Extended,
    /// Since when it has had requests and answered none.
    silent_since: Option<Duration>,
}

struct Member {
    app: App,
    id: Id,
    /// Each with whether it conflates.
    subscriptions: BTreeMap<Channel, bool>,
    patterns: BTreeMap<Channel, bool>,
    services: BTreeSet<Channel>,
}

/// A call of the broker.
#[derive(Clone)]
pub(super) enum Call<'a> {
    Accept,
    /// Bytes came, and with them, or before, the whole of a message.
    Received(usize, Option<&'a Said>),
    Published(App, Channel, Publication),
    HangUp(usize),
    Pass,
    Drain,
    Exhausted,
    Transmitted,
}

/// A call and what can be seen of its outcome beside what was sent.
pub(super) struct Outcome<'a> {
    pub(super) call: Call<'a>,
    /// A frame was done.
    pub(super) is_done: bool,
    pub(super) now: Duration,
    pub(super) is_draining: bool,
    /// The peers whose queue was over its mark before the call.
    pub(super) congested: [bool; PEERS],
    /// The bytes in their queues before the call.
    pub(super) queued: [usize; PEERS],
    /// Somebody was closed for want of memory or of reading.
    pub(super) had_to_shed: bool,
    pub(super) presence: [Presence; PEERS],
    /// The places of the newest publications after the call.
    pub(super) places: Places,
    /// What peers are about to be sent after the call.
    pub(super) waiting: [Waiting; PEERS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Handshake,
    Open,
    Superseded,
    Closing,
    Gone,
}

impl Model {
    pub(super) fn new(limits: Limits) -> Self {
        let (requests, owed) = (Vec::new(), Vec::new());
        let topics = Topics::default();
        Self { limits, peers: Default::default(), requests, owed, drain_begin: None, topics }
    }

    pub(super) fn arrive(&mut self, at: usize, now: Duration) {
        self.peers[at] = Peer { heard: now, ..Peer::default() };
    }

    pub(super) fn heard(&mut self, at: usize, now: Duration) {
        self.peers[at].heard = now;
    }

    pub(super) fn gone(&mut self, at: usize) {
        assert!(self.peers[at].member.is_none(), "{at} is closed and still a member");
    }

    /// Under which name a peer is known.
    pub(super) fn own(&self, at: usize) -> Option<(App, Id)> {
        self.peers[at].member.as_ref().map(|member| (member.app, member.id))
    }

    /// Unanswered requests.
    pub(super) fn pending(&self) -> usize {
        self.requests.len()
    }

    /// What a peer knows of that it speaks about: some request, and the newest publication.
    pub(super) fn known(&self, at: usize, speech: Speech<'_>) -> Known {
        let nth = if let Speech::Respond(nth, ..) = speech { nth.into() } else { usize::MAX };
        let request = self.requests.get(nth % (self.requests.len() + 1));
        let nobodys = || "00000000-0000-4000-8000-000000000000".to_owned();
        let channel = match speech {
            Speech::Follow(channel, _) | Speech::Watch(Pattern(channel), _) => Some(channel),
            _ => None,
        };
        let own = self.own(at).zip(channel);
        Known {
            request: request.map_or_else(nobodys, |request| request.id.clone()),
            next_seq: request.map_or(0, Request::next_seq),
            newest: own.and_then(|((app, _), channel)| self.newest_place(app, channel)),
        }
    }

    /// Holds what was sent after a call against what should have been.
    pub(super) fn check(&mut self, outcome: &Outcome<'_>, mut news: [Vec<Value>; PEERS]) {
        let mut expected = Expectations::default();
        let lasting = self.begin_topics(outcome);
        self.apply(outcome, &mut expected, &mut news);
        self.check_places(outcome, &lasting);
        self.expire(outcome, &mut expected);
        self.take_leave(outcome, &mut expected, &mut news);
        for (at, (news, expected)) in news.into_iter().zip(&mut expected.0).enumerate() {
            let presence = outcome.presence[at];
            let mut answered = BTreeSet::new();
            for message in news {
                answered.extend(message["reply_to"].as_str().map(str::to_owned));
                if message["message_type"] == "publish" {
                    let is_next = self.take_awaited(at, &message, &answered);
                    assert!(is_next, "{at} got {message} too early, too late, or a second time");
                } else if let Some(found) =
                    expected.iter().position(|expected| expected.is(&message))
                {
                    expected.remove(found);
                } else if !self.take_owed(at, &message) {
                    assert!(is_farewell(&message, presence), "{at} ({presence:?}) got {message}");
                }
            }
            let is_told = matches!(presence, Presence::Open | Presence::Handshake);
            assert!(!is_told || expected.is_empty(), "{at} never got {expected:?}");
        }
        self.check_awaited(outcome);
        let peers = &self.peers;
        self.owed.retain(|told| peers[told.to].member.is_some());
    }

    /// The effect of the call itself.
    fn apply(
        &mut self,
        outcome: &Outcome<'_>,
        expected: &mut Expectations,
        news: &mut [Vec<Value>; PEERS],
    ) {
        match &outcome.call {
            Call::Received(from, Some(said)) if outcome.is_done => {
                if self.peers[*from].member.is_some() {
                    self.serve(*from, said, outcome, expected, news);
                } else {
                    self.introduce(*from, said, outcome, expected);
                }
            }
            Call::Received(_, None) => assert!(!outcome.is_done, "a frame that nobody sent"),
            Call::Published(app, channel, publication) => {
                self.publish_own(*app, *channel, publication, outcome);
            }
            Call::Drain if self.drain_begin.is_none() => {
                self.drain_begin = Some(outcome.now);
                for at in 0..PEERS {
                    expected.add(at, Expected::error("shutting_down", ""));
                }
            }
            _ => {}
        }
    }

    fn introduce(
        &mut self,
        from: usize,
        said: &Said,
        outcome: &Outcome<'_>,
        expected: &mut Expectations,
    ) {
        if let Some((code, id)) = said.unread_from(Extended::default()) {
            expected.0[from].extend(code.map(|code| Expected::error(code, &id)));
            return;
        }
        let (app, id, extended) = match said.what {
            What::Connect(..) if outcome.is_draining => {
                expected.add(from, Expected::error("shutting_down", &said.message_id));
                return;
            }
            What::Connect(app, id, extended) => (app, id, extended),
            What::Raw(code) => {
                let error = code.map(|code| Expected::error(code, &said.message_id));
                expected.0[from].extend(error);
                return;
            }
            What::Respond(_) => {
                assert_ne!(outcome.presence[from], Presence::Handshake, "{said:?}");
                return;
            }
            _ => {
                assert_ne!(outcome.presence[from], Presence::Handshake, "{said:?}");
                expected.add(from, Expected::error("not_connected", &said.message_id));
                return;
            }
        };
        let mut payload = json!({
            "status": "connected", "connection_id": id.name(),
            "server": concat!("ipc-framework/", env!("CARGO_PKG_VERSION")),
        });
        if !extended.is_none() {
            payload["extensions"] = json!(extended.names());
            let max_frame_bytes = self.limits.frame_bytes_max;
            payload["limits"] =
                json!({"max_frame_bytes": max_frame_bytes, "request_timeout_ms": 30_000});
        }
        self.peers[from].extended = extended;
        let reply_to = Value::Null;
        let connected = Expected::Payload { message_type: "response", reply_to, payload };
        expected.add(from, connected);
        let (subscriptions, patterns, services) = Default::default();
        self.peers[from].member = Some(Member { app, id, subscriptions, patterns, services });
    }

    fn members(&self, app: App) -> impl Iterator<Item = (usize, &Member)> {
        let members = self.peers.iter().enumerate();
        let members = members.filter_map(|(at, peer)| Some((at, peer.member.as_ref()?)));
        members.filter(move |(_, member)| member.app == app)
    }

    fn workers(&self, app: App, channel: Channel) -> Vec<usize> {
        let members = self.members(app).filter(|(_, m)| m.services.contains(&channel));
        members.map(|(at, _)| at).collect()
    }
}

/// Returns whether a message tells why a connection is closed.
fn is_farewell(message: &Value, presence: Presence) -> bool {
    const CODES: [&str; 5] =
        ["frame_too_large", "server_full", "limit_exceeded", "taken_over", "shutting_down"];
    presence == Presence::Closing
        && message["reply_to"] == Value::Null
        && message["payload"]["code"].as_str().is_some_and(|code| CODES.contains(&code))
}
