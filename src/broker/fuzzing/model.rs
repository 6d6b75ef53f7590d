//! The protocol in the simplest form that can be checked.

mod calls;
mod choice;
mod expected;
mod request;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use self::expected::{Expectations, Expected};
use self::request::{Request, Told, take_forwarded};
use super::attached::{Extended, Form};
use super::script::{Answered, App, Channel, Id, PEERS, Said, Speech, SystemAction, What, Whose};
use crate::Limits;

pub(super) struct Model {
    limits: Limits,
    peers: [Peer; PEERS],
    /// Requests that workers have.
    requests: Vec<Request>,
    /// What workers have to be told as soon as their queues have room.
    owed: Vec<Told>,
    drain_begin: Option<Duration>,
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
    subscriptions: BTreeSet<Channel>,
    services: BTreeSet<Channel>,
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
    /// The bytes in their queues before the call.
    pub(super) queued: [usize; PEERS],
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

impl Model {
    pub(super) fn new(limits: Limits) -> Self {
        let (requests, owed) = (Vec::new(), Vec::new());
        Self { limits, peers: Default::default(), requests, owed, drain_begin: None }
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

    /// Some request for whoever wants to answer it.
    pub(super) fn some_request(&self, speech: Speech<'_>) -> Answered {
        let nth = if let Speech::Respond(nth, ..) = speech { nth.into() } else { usize::MAX };
        let request = self.requests.get(nth % (self.requests.len() + 1));
        let nobodys = || "00000000-0000-4000-8000-000000000000".to_owned();
        let id = request.map_or_else(nobodys, |request| request.id.clone());
        Answered { id, next_seq: request.map_or(0, Request::next_seq) }
    }

    /// Holds what was sent after a call against what should have been.
    pub(super) fn check(&mut self, outcome: &Outcome<'_>, mut news: [Vec<Value>; PEERS]) {
        let mut expected = Expectations::default();
        self.apply(outcome, &mut expected, &mut news);
        self.expire(outcome, &mut expected);
        self.take_leave(outcome, &mut expected, &mut news);
        for (at, (news, expected)) in news.into_iter().zip(&mut expected.0).enumerate() {
            let presence = outcome.presence[at];
            for message in news {
                if let Some(found) = expected.iter().position(|expected| expected.is(&message)) {
                    expected.remove(found);
                } else if !self.take_owed(at, &message) {
                    assert!(is_farewell(&message, presence), "{at} ({presence:?}) got {message}");
                }
            }
            let is_told = matches!(presence, Presence::Open | Presence::Handshake);
            assert!(!is_told || expected.is_empty(), "{at} never got {expected:?}");
        }
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
        let extended = self.peers[from].extended;
        let Some(member) = &mut self.peers[from].member else { return };
        let (app, message_id) = (member.app, said.message_id.as_str());
        let error = |code| Expected::error(code, message_id);
        let answer = |payload| Expected::answer(message_id, payload);
        match &said.what {
            _ if said.unread_from(extended).is_some() => {
                let (code, id) = said.unread_from(extended).unwrap_or_default();
                expected.0[from].extend(code.map(|code| Expected::error(code, &id)));
            }
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
            What::Publish(_) | What::Request(_) if request::is_bad(said, extended) => {
                expected.add(from, error("bad_message"));
            }
            What::Publish(channel) => self.publish(app, *channel, said, expected),
            What::Cancel(id) => self.cancel(from, id, expected),
            What::Credit(id, n) => self.credit(from, id, *n, said, expected),
            What::Request(channel) => self.ask(from, *channel, said, outcome, expected, news),
            What::Notification(channel) => {
                let workers = self.workers(app, *channel);
                expected.0[from].extend(self.note(&workers, said, outcome, news).map(error));
            }
            What::Respond(id) => {
                self.answer(from, id, said, outcome, expected, news);
                self.note_answer(from, outcome.now);
            }
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

    fn publish(&self, app: App, channel: Channel, said: &Said, expected: &mut Expectations) {
        for to in self.subscribers(app, channel) {
            let extended = self.extended(to);
            if !said.is_too_large(extended) {
                expected.add(to, Expected::Message(said.message(), said.form(extended)));
            }
        }
    }

    /// Passes a notification on. Returns the error that its sender gets.
    fn note(
        &self,
        workers: &[usize],
        said: &Said,
        outcome: &Outcome<'_>,
        news: &mut [Vec<Value>; PEERS],
    ) -> Option<&'static str> {
        if let Some((worker, message)) = take_forwarded(workers, "notification", said, news) {
            self.check_choice(workers, worker, said, outcome);
            assert_eq!(Form::found(&message), said.form(self.extended(worker)));
            return None;
        }
        if self.may_be_too_large(workers, said, outcome) {
            return Some("unsupported");
        }
        assert!(workers.is_empty() || has_lost(workers, outcome), "nobody got {said:?}");
        None
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
            () if request::is_late(said, outcome.now) => Some("timeout"),
            () if workers.is_empty() => Some("no_handler"),
            () if is_full => Some("limit_exceeded"),
            () => None,
        };
        if let Some(code) = refusal {
            expected.add(from, Expected::error(code, message_id));
            return;
        }
        let Some((worker, message)) = take_forwarded(&workers, "request", said, news) else {
            if self.may_be_too_large(&workers, said, outcome) {
                return expected.add(from, Expected::error("unsupported", message_id));
            }
            assert!(has_lost(&workers, outcome), "nobody got {said:?}");
            expected.add(from, Expected::error("worker_lost", message_id));
            return;
        };
        self.check_choice(&workers, worker, said, outcome);
        assert_eq!(message["reply_to"], Value::Null);
        self.check_form(worker, said, &message, outcome.now);
        let id = message["message_id"].as_str().unwrap_or_default().to_owned();
        assert!(uuid::Uuid::try_parse(&id).is_ok() && id != message_id, "{message}");
        assert!(self.requests.iter().all(|request| request.id != id), "{id} a second time");
        let timeout = self.limits.request_timeout.expect("a timeout");
        let deadline = outcome.now + timeout;
        let mut request = Request {
            id,
            requester: from,
            message_id: message_id.to_owned(),
            worker,
            said: said.clone(),
            deadline,
            ttl_until: None,
            stream: None,
            may_be_retried: false,
        };
        self.peers[worker].silent_since.get_or_insert(outcome.now);
        request.take_meta(said, outcome.now);
        self.requests.push(request);
    }

    fn answer(
        &mut self,
        from: usize,
        id: &str,
        said: &Said,
        outcome: &Outcome<'_>,
        expected: &mut Expectations,
        news: &[Vec<Value>; PEERS],
    ) {
        let held = self.requests.iter().position(|r| r.id == id && r.worker == from);
        let Some(at) = held else { return };
        let is_part = said.meta.as_ref().is_some_and(|meta| meta.get("seq").is_some());
        if is_part {
            return self.take_part(at, said, outcome, expected, news);
        }
        let request = self.requests.remove(at);
        let (to, id) = (request.requester, &request.message_id);
        expected.add(
            to,
            match self.extended(to) {
                extended if said.is_too_large(extended) => Expected::error("unsupported", id),
                extended => Expected::Form { reply_to: json!(id), form: said.form(extended) },
            },
        );
    }

    /// It shows that it works, whatever it answers.
    fn note_answer(&mut self, from: usize, now: Duration) {
        let has_more = self.requests.iter().any(|request| request.worker == from);
        self.peers[from].silent_since = has_more.then_some(now);
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
    fn take_leave(
        &mut self,
        outcome: &Outcome<'_>,
        expected: &mut Expectations,
        news: &mut [Vec<Value>; PEERS],
    ) {
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
        for request in std::mem::take(&mut self.requests) {
            let (requester, message_id) = (request.requester, request.message_id.clone());
            let may_be_too_large = request.said.is_too_large(Extended::default());
            let is_left = |at| left.contains(&at);
            let request = match request {
                lost if is_left(lost.worker) => self.retry(lost, outcome, news),
                other => Some(other),
            };
            match request {
                None => {
                    let mut codes = vec!["worker_lost"];
                    // The next worker may have been one that gets base64.
                    codes.extend(may_be_too_large.then_some("unsupported"));
                    let reply_to = json!(message_id);
                    expected.add(requester, Expected::Error { codes, reply_to });
                }
                Some(request) if is_left(requester) => self.tell(&request, &["gone"]),
                Some(request) => self.requests.push(request),
            }
        }
    }

    /// Requests whose time is up.
    fn expire(&mut self, outcome: &Outcome<'_>, expected: &mut Expectations) {
        if !matches!(outcome.call, Call::Pass) {
            return;
        }
        let is_cut_off =
            self.drain_begin.is_some_and(|at| at + self.limits.drain_timeout <= outcome.now);
        let timeout = self.limits.request_timeout.expect("a timeout");
        for request in std::mem::take(&mut self.requests) {
            let is_late = request.is_over(outcome.now, timeout);
            if !is_late && !is_cut_off {
                self.requests.push(request);
                continue;
            }
            // Its worker may have left in the same moment, a little before.
            let codes = vec!["timeout", "worker_lost"];
            let reply_to = json!(request.message_id);
            expected.add(request.requester, Expected::Error { codes, reply_to });
            self.tell(
                &request,
                match (is_late, is_cut_off) {
                    (true, true) => &["deadline", "drain"],
                    (true, false) => &["deadline"],
                    (false, _) => &["drain"],
                },
            );
        }
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
