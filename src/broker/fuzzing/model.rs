//! The protocol in the simplest form that can be checked.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::script::{App, Channel, Id, PEERS, Said, Speech, SystemAction, What, Whose};
use crate::Limits;

pub(super) struct Model {
    limits: Limits,
    peers: [Peer; PEERS],
    /// Requests that workers have.
    requests: Vec<Request>,
    drain_begin: Option<Duration>,
}

#[derive(Default)]
struct Peer {
    member: Option<Member>,
    /// When it last wrote anything.
    heard: Duration,
}

struct Member {
    app: App,
    id: Id,
    subscriptions: BTreeSet<Channel>,
    services: BTreeSet<Channel>,
}

struct Request {
    /// By which the worker knows it.
    id: String,
    requester: usize,
    message_id: String,
    worker: usize,
    deadline: Duration,
}

/// A call of the broker.
#[derive(Clone)]
pub(super) enum Call<'a> {
    Accept,
    /// Bytes came, and with them, or before, the whole of a message.
    Received(usize, Option<&'a Said>),
    Published((App, Channel, Value)),
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
    /// Somebody was closed for want of memory or of reading.
    pub(super) had_to_shed: bool,
    pub(super) presence: [Presence; PEERS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Handshake,
    Open,
    Superseded,
    Closing,
    Gone,
}

/// A message that a peer should be sent.
#[derive(Debug)]
enum Expected {
    /// Exactly this, as the publisher wrote it.
    Message(Value),
    Payload {
        message_type: &'static str,
        reply_to: Value,
        payload: Value,
    },
    /// An answer of any content that the model does not know.
    Answer {
        reply_to: Value,
    },
    Error {
        codes: Vec<&'static str>,
        reply_to: Value,
    },
}

impl Expected {
    fn answer(reply_to: &str, payload: Value) -> Self {
        Self::Payload { message_type: "response", reply_to: json!(reply_to), payload }
    }

    fn error(code: &'static str, reply_to: &str) -> Self {
        let reply_to = if reply_to.is_empty() { Value::Null } else { json!(reply_to) };
        Self::Error { codes: vec![code], reply_to }
    }

    fn is(&self, message: &Value) -> bool {
        let is_answer_to = |reply_to: &Value| {
            message["message_type"] == "response" && message["reply_to"] == *reply_to
        };
        match self {
            Self::Message(expected) => message == expected,
            Self::Payload { message_type, reply_to, payload } => {
                message["message_type"] == *message_type
                    && message["reply_to"] == *reply_to
                    && message["payload"] == *payload
            }
            Self::Answer { reply_to } => is_answer_to(reply_to),
            Self::Error { codes, reply_to } => {
                let code = message["payload"]["code"].as_str();
                is_answer_to(reply_to) && code.is_some_and(|code| codes.contains(&code))
            }
        }
    }
}

/// The messages that each peer should be sent after a call.
#[derive(Default)]
struct Expectations([Vec<Expected>; PEERS]);

impl Expectations {
    fn add(&mut self, to: usize, expected: Expected) {
        self.0[to].push(expected);
    }
}

impl Model {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, peers: Default::default(), requests: Vec::new(), drain_begin: None }
    }

    pub(super) fn arrive(&mut self, at: usize, now: Duration) {
        self.peers[at] = Peer { member: None, heard: now };
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

    /// The id of some request for whoever wants to answer it.
    pub(super) fn some_request(&self, speech: Speech<'_>) -> String {
        let nobodys = || "00000000-0000-4000-8000-000000000000".to_owned();
        let Speech::Respond(nth, _) = speech else { return nobodys() };
        let request = self.requests.get(usize::from(nth) % (self.requests.len() + 1));
        request.map_or_else(nobodys, |request| request.id.clone())
    }

    /// Holds what was sent after a call against what should have been.
    pub(super) fn check(&mut self, outcome: &Outcome<'_>, mut news: [Vec<Value>; PEERS]) {
        let mut expected = Expectations::default();
        self.apply(outcome, &mut expected, &mut news);
        self.expire(outcome, &mut expected);
        self.take_leave(outcome, &mut expected);
        for (at, (news, expected)) in news.into_iter().zip(&mut expected.0).enumerate() {
            let presence = outcome.presence[at];
            for message in news {
                if let Some(found) = expected.iter().position(|expected| expected.is(&message)) {
                    expected.remove(found);
                } else {
                    assert!(is_farewell(&message, presence), "{at} ({presence:?}) got {message}");
                }
            }
            let is_told = matches!(presence, Presence::Open | Presence::Handshake);
            assert!(!is_told || expected.is_empty(), "{at} never got {expected:?}");
        }
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
            Call::Published((app, channel, payload)) => {
                for to in self.subscribers(*app, *channel) {
                    let (message_type, payload) = ("publish", payload.clone());
                    let reply_to = Value::Null;
                    expected.add(to, Expected::Payload { message_type, reply_to, payload });
                }
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
        let (app, id) = match said.what {
            What::Connect(..) if outcome.is_draining => {
                expected.add(from, Expected::error("shutting_down", &said.message_id));
                return;
            }
            What::Connect(app, id) => (app, id),
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
        let payload = json!({
            "status": "connected", "connection_id": id.name(),
            "server": concat!("ipc-framework/", env!("CARGO_PKG_VERSION")),
        });
        let reply_to = Value::Null;
        let connected = Expected::Payload { message_type: "response", reply_to, payload };
        expected.add(from, connected);
        let (subscriptions, services) = Default::default();
        self.peers[from].member = Some(Member { app, id, subscriptions, services });
    }

    fn serve(
        &mut self,
        from: usize,
        said: &Said,
        outcome: &Outcome<'_>,
        expected: &mut Expectations,
        news: &mut [Vec<Value>; PEERS],
    ) {
        let (subscriptions_max, services_max) =
            (self.limits.subscriptions_per_connection_max, self.limits.services_per_connection_max);
        let Some(member) = &mut self.peers[from].member else { return };
        let (app, message_id) = (member.app, said.message_id.as_str());
        let error = |code| Expected::error(code, message_id);
        let answer = |payload| Expected::answer(message_id, payload);
        match &said.what {
            What::Connect(..) => expected.add(
                from,
                Expected::Error {
                    // It may have been written before the speaker knew its own application.
                    codes: vec!["forbidden"],
                    reply_to: json!(message_id),
                },
            ),
            // The same: its application was not known when it was said.
            _ if said.message()["app_id"] != app.name()
                && said.frame.len() > 4
                && !matches!(said.what, What::Raw(_)) =>
            {
                if !matches!(said.what, What::Respond(_)) {
                    expected.add(from, error("forbidden"));
                }
            }
            What::Subscribe(_, _, whose) | What::Unsubscribe(_, _, whose)
                if *whose == Whose::Foreign
                    || (*whose == Whose::Own
                        && said.payload["connection_id"] != member.id.name()) =>
            {
                expected.add(from, error("forbidden"));
            }
            What::Subscribe(channel, ack, _) => {
                let is_new = !member.subscriptions.contains(channel);
                if is_new && member.subscriptions.len() >= subscriptions_max {
                    expected.add(from, error("limit_exceeded"));
                    return;
                }
                member.subscriptions.insert(*channel);
                if ack.0 {
                    expected.add(from, answer(json!({"status": "subscribed"})));
                }
            }
            What::Unsubscribe(channel, ack, _) => {
                member.subscriptions.remove(channel);
                if ack.0 {
                    expected.add(from, answer(json!({"status": "unsubscribed"})));
                }
            }
            What::Publish(channel) => {
                for to in self.subscribers(app, *channel) {
                    expected.add(to, Expected::Message(said.message()));
                }
            }
            What::Request(channel) => self.ask(from, *channel, said, outcome, expected, news),
            What::Notification(channel) => {
                let workers = self.workers(app, *channel);
                let took = take_forwarded(&workers, "notification", &said.payload, news);
                let may_be_lost = workers.is_empty() || has_lost(&workers, outcome);
                assert!(took.is_some() || may_be_lost, "nobody got {said:?}");
            }
            What::Respond(id) => self.answer(from, id, said, expected),
            What::Serve(_) if outcome.is_draining => expected.add(from, error("shutting_down")),
            What::Serve(channel) => {
                let is_new = !member.services.contains(channel);
                if is_new && member.services.len() >= services_max {
                    expected.add(from, error("limit_exceeded"));
                    return;
                }
                member.services.insert(*channel);
                let channel = channel.name();
                expected.add(from, answer(json!({"status": "serving", "channel": channel})));
            }
            What::StopServing(channel) => {
                member.services.remove(channel);
                let channel = channel.name();
                expected.add(from, answer(json!({"status": "stopped", "channel": channel})));
            }
            What::System(action) => {
                self.check_listing(app, *action, message_id, &news[from]);
                expected.add(
                    from,
                    match action {
                        SystemAction::Ping => answer(json!({"status": "pong"})),
                        SystemAction::Unknown => error("no_handler"),
                        SystemAction::Nothing => error("bad_message"),
                        _ => Expected::Answer { reply_to: json!(message_id) },
                    },
                );
            }
            What::Abroad => expected.add(from, error("forbidden")),
            What::Raw(code) => expected.0[from].extend(code.map(error)),
            // It is no frame, so it is never done.
            What::TooLarge => panic!("a frame over the limit was done"),
        }
    }

    fn ask(
        &mut self,
        from: usize,
        channel: Channel,
        said: &Said,
        outcome: &Outcome<'_>,
        expected: &mut Expectations,
        news: &mut [Vec<Value>; PEERS],
    ) {
        let Some((app, _)) = self.own(from) else { return };
        let message_id = said.message_id.as_str();
        let workers = self.workers(app, channel);
        let own = self.requests.iter().filter(|request| request.requester == from).count();
        let is_full = self.requests.len() >= self.limits.pending_max
            || own >= self.limits.pending_per_connection_max;
        let refusal = match () {
            () if outcome.is_draining => Some("shutting_down"),
            () if workers.is_empty() => Some("no_handler"),
            () if is_full => Some("limit_exceeded"),
            () => None,
        };
        if let Some(code) = refusal {
            expected.add(from, Expected::error(code, message_id));
            return;
        }
        let Some((worker, message)) = take_forwarded(&workers, "request", &said.payload, news)
        else {
            assert!(has_lost(&workers, outcome), "nobody got {said:?}");
            expected.add(from, Expected::error("worker_lost", message_id));
            return;
        };
        let load = |worker| self.requests.iter().filter(|r| r.worker == worker).count();
        let is_least = |other: &usize| outcome.congested[*other] || load(worker) <= load(*other);
        assert!(workers.iter().all(is_least), "{worker} has more to do than others");
        assert_eq!(message["reply_to"], Value::Null);
        let id = message["message_id"].as_str().unwrap_or_default().to_owned();
        assert!(uuid::Uuid::try_parse(&id).is_ok() && id != message_id, "{message}");
        assert!(self.requests.iter().all(|request| request.id != id), "{id} a second time");
        let timeout = self.limits.request_timeout.expect("a timeout");
        let deadline = outcome.now + timeout;
        let message_id = message_id.to_owned();
        self.requests.push(Request { id, requester: from, message_id, worker, deadline });
    }

    fn answer(&mut self, from: usize, id: &str, said: &Said, expected: &mut Expectations) {
        let held = self.requests.iter().position(|r| r.id == id && r.worker == from);
        let Some(request) = held.map(|at| self.requests.remove(at)) else { return };
        expected
            .add(request.requester, Expected::answer(&request.message_id, said.payload.clone()));
    }

    /// Figures that the model knows too.
    fn check_listing(&self, app: App, action: SystemAction, message_id: &str, news: &[Value]) {
        let Some(message) = news.iter().find(|message| message["reply_to"] == message_id) else {
            return;
        };
        let payload = &message["payload"];
        if payload["code"] == "limit_exceeded" {
            return;
        }
        match action {
            SystemAction::GetStats => {
                let members = self.peers.iter().filter(|peer| peer.member.is_some()).count();
                assert_eq!(payload["total_connections"], members);
                assert_eq!(payload["pending_requests"], self.requests.len());
            }
            SystemAction::ListChannels => {
                let channels = payload.as_object().into_iter().flatten();
                for (name, info) in channels {
                    let at = (0..4).find(|at| Channel(*at).name() == name).expect("its name");
                    let subscribers = self.subscribers(app, Channel(at)).len();
                    assert_eq!(info["subscribers"], subscribers, "{name}");
                    assert_eq!(info["workers"], self.workers(app, Channel(at)).len(), "{name}");
                }
            }
            _ => {}
        }
    }

    /// The peers that were members and are none any more, and why that is so.
    fn take_leave(&mut self, outcome: &Outcome<'_>, expected: &mut Expectations) {
        let left: Vec<usize> = (0..PEERS)
            .filter(|at| {
                self.peers[*at].member.is_some() && outcome.presence[*at] != Presence::Open
            })
            .collect();
        let joined = match outcome.call {
            Call::Received(at, Some(_)) => self.own(at).map(|own| (at, own)),
            _ => None,
        };
        for &at in &left {
            let is_idle = self.limits.idle_timeout.is_some_and(|timeout| {
                matches!(outcome.call, Call::Pass) && self.peers[at].heard + timeout <= outcome.now
            });
            let is_own = match &outcome.call {
                Call::HangUp(from) => *from == at,
                Call::Received(from, said) => {
                    *from == at && said.is_some_and(|said| said.what == What::TooLarge)
                }
                _ => false,
            };
            let is_taken_over =
                joined.is_some_and(|(from, own)| from != at && self.own(at) == Some(own));
            let has_reason =
                outcome.is_draining || outcome.had_to_shed || is_idle || is_own || is_taken_over;
            assert!(has_reason, "{at} was closed for nothing");
            self.peers[at].member = None;
        }
        self.requests.retain(|request| {
            if left.contains(&request.worker) {
                let lost = Expected::error("worker_lost", &request.message_id);
                expected.add(request.requester, lost);
            }
            !left.contains(&request.worker) && !left.contains(&request.requester)
        });
    }

    /// Requests whose time is up.
    fn expire(&mut self, outcome: &Outcome<'_>, expected: &mut Expectations) {
        if !matches!(outcome.call, Call::Pass) {
            return;
        }
        let is_cut_off =
            self.drain_begin.is_some_and(|at| at + self.limits.drain_timeout <= outcome.now);
        self.requests.retain(|request| {
            let mut codes = Vec::new();
            codes.extend((request.deadline <= outcome.now || is_cut_off).then_some("timeout"));
            let is_over = !codes.is_empty();
            if is_over {
                // Its worker may have left in the same moment, a little before.
                codes.push("worker_lost");
                let reply_to = json!(request.message_id);
                expected.add(request.requester, Expected::Error { codes, reply_to });
            }
            !is_over
        });
    }

    fn members(&self, app: App) -> impl Iterator<Item = (usize, &Member)> {
        let members = self.peers.iter().enumerate();
        let members = members.filter_map(|(at, peer)| Some((at, peer.member.as_ref()?)));
        members.filter(move |(_, member)| member.app == app)
    }

    fn subscribers(&self, app: App, channel: Channel) -> Vec<usize> {
        let members = self.members(app).filter(|(_, m)| m.subscriptions.contains(&channel));
        members.map(|(at, _)| at).collect()
    }

    fn workers(&self, app: App, channel: Channel) -> Vec<usize> {
        let members = self.members(app).filter(|(_, m)| m.services.contains(&channel));
        members.map(|(at, _)| at).collect()
    }
}

/// Takes the one message out of the news that was passed on to one of the workers.
fn take_forwarded(
    workers: &[usize],
    message_type: &str,
    payload: &Value,
    news: &mut [Vec<Value>; PEERS],
) -> Option<(usize, Value)> {
    workers.iter().find_map(|&worker| {
        let is_it = |m: &Value| m["message_type"] == message_type && m["payload"] == *payload;
        let at = news[worker].iter().position(is_it)?;
        Some((worker, news[worker].remove(at)))
    })
}

/// Returns whether one of the workers was closed during the call, together with what it had been
/// sent.
fn has_lost(workers: &[usize], outcome: &Outcome<'_>) -> bool {
    workers.iter().any(|at| outcome.presence[*at] == Presence::Gone)
}

/// Returns whether a message tells why a connection is closed.
fn is_farewell(message: &Value, presence: Presence) -> bool {
    const CODES: [&str; 5] =
        ["frame_too_large", "server_full", "limit_exceeded", "taken_over", "shutting_down"];
    presence == Presence::Closing
        && message["reply_to"] == Value::Null
        && message["payload"]["code"].as_str().is_some_and(|code| CODES.contains(&code))
}
