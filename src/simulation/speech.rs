//! The messages of a client, good and bad, and the ways in which it puts them.

use std::fmt::Write;

use serde_json::json;

use super::model::{ConnId, Kind};
use super::scenario::{APPS, CLIENT_IDS, GROWTH_BYTES_MAX, JOBS, TOKENS, TOPICS};
use super::wire;
use super::world::World;

/// The longest payload beside an attachment.
const BLOB_PAYLOAD_BYTES_MAX: usize = 7_000;

/// The messages that a client can send.
#[derive(Clone, Copy)]
pub(super) enum Say {
    Ping,
    Unknown,
    Echo,
    Fail,
    Panic,
    Later,
    Work,
    Serve,
    StopServing,
    Subscribe,
    Unsubscribe,
    Publish,
    PublishMany,
    Note,
    WorkNote,
    LostNote,
    Heartbeat,
    Forbidden,
    Broken,
    TooLarge,
    Answer,
    AnswerTwice,
    Steal,
    NoAnswer,
    PingFlood,
    EmptyFlood,
    List,
    Name,
    NameMany,
    ManagedSubscribe,
    ManagedUnsubscribe,
    OddWork,
    HugeWork,
    HugeNote,
    HalfFrame,
    Close,
    Cancel,
    CancelOdd,
    Credit,
    CreditOdd,
    Part,
    PartFlood,
    BadPart,
    BadMeta,
    Keep,
    KeepMany,
    Follow,
    Unfollow,
    Watch,
    Unwatch,
}

/// Messages of all clients, by weight, and those that only misbehaving clients send.
const RULY: [(usize, Say); 28] = [
    (3, Say::Cancel),
    (4, Say::Credit),
    (10, Say::Part),
    (1, Say::EmptyFlood),
    (4, Say::Ping),
    (1, Say::Unknown),
    (6, Say::Echo),
    (2, Say::Fail),
    (2, Say::Panic),
    (4, Say::Later),
    (14, Say::Work),
    (5, Say::Serve),
    (2, Say::StopServing),
    (8, Say::Subscribe),
    (3, Say::Unsubscribe),
    (16, Say::Publish),
    (3, Say::PublishMany),
    (2, Say::Note),
    (2, Say::WorkNote),
    (1, Say::LostNote),
    (20, Say::Answer),
    (2, Say::List),
    (1, Say::Name),
    (1, Say::ManagedSubscribe),
    (1, Say::ManagedUnsubscribe),
    (1, Say::OddWork),
    (1, Say::HugeWork),
    (1, Say::HugeNote),
];
/// Messages that fill queues.
const PRESSING: [(usize, Say); 13] = [
    (6, Say::PartFlood),
    (1, Say::Cancel),
    (3, Say::Credit),
    (12, Say::Part),
    (20, Say::Work),
    (9, Say::Serve),
    (1, Say::StopServing),
    (6, Say::Subscribe),
    (1, Say::Unsubscribe),
    (20, Say::Publish),
    (4, Say::PublishMany),
    (6, Say::Answer),
    (4, Say::Ping),
];
/// Requests beyond the base protocol, and what belongs to them.
const CALLS: [(usize, Say); 11] = [
    (3, Say::PartFlood),
    (24, Say::Work),
    (10, Say::Serve),
    (1, Say::StopServing),
    (20, Say::Part),
    (8, Say::Answer),
    (4, Say::Cancel),
    (8, Say::Credit),
    (2, Say::Publish),
    (2, Say::WorkNote),
    (2, Say::Later),
];
/// What is said of the channel that has a history.
const KEEPING: [(usize, Say); 7] = [
    (10, Say::Keep),
    (2, Say::KeepMany),
    (6, Say::Follow),
    (4, Say::Unfollow),
    (2, Say::Watch),
    (1, Say::Unwatch),
    (2, Say::Ping),
];
const ANSWERS: [(usize, Say); 3] = [(20, Say::Part), (3, Say::PartFlood), (5, Say::Answer)];
/// What no well-behaved peer says of them.
const BAD_CALLS: [(usize, Say); 8] = [
    (24, Say::BadPart),
    (2, Say::AnswerTwice),
    (2, Say::Steal),
    (4, Say::NoAnswer),
    (3, Say::BadMeta),
    (3, Say::CancelOdd),
    (3, Say::CreditOdd),
    (2, Say::OddWork),
];
const UNRULY: [(usize, Say); 15] = [
    (5, Say::CancelOdd),
    (3, Say::CreditOdd),
    (12, Say::BadPart),
    (6, Say::BadMeta),
    (60, Say::Answer),
    (8, Say::AnswerTwice),
    (8, Say::Steal),
    (8, Say::NoAnswer),
    (10, Say::Broken),
    (5, Say::Forbidden),
    (1, Say::TooLarge),
    (2, Say::PingFlood),
    (2, Say::NameMany),
    (1, Say::Close),
    (1, Say::HalfFrame),
];

/// The ways in which a client writes the same message.
#[derive(Clone, Copy)]
enum Shape {
    Usual,
    /// With a `reply_to` that means nothing.
    Odd,
    /// As large as a frame may be.
    Huge,
}

impl World {
    /// Lets a client send any message.
    pub(super) fn say_something(&mut self, at: usize) {
        let is_calm = self.scenario.is_calm;
        let say = {
            let decisions = &mut self.kernel.borrow_mut().decisions;
            if self.scenario.is_keeping && decisions.below(2) == 1 {
                decisions.weighted(&KEEPING)
            } else if self.scenario.is_calling && decisions.below(3) > 0 {
                let has_tasks = !self.peers[at].tasks.is_empty();
                let is_bad = !is_calm && decisions.below(if has_tasks { 3 } else { 8 }) == 1;
                let is_worker = has_tasks && !is_bad && decisions.below(2) == 1;
                decisions.weighted(match () {
                    () if is_bad => &BAD_CALLS[..],
                    () if is_worker => &ANSWERS[..],
                    () => &CALLS[..],
                })
            } else if self.scenario.is_pressing && decisions.below(3) > 0 {
                decisions.weighted(&PRESSING)
            } else if self.scenario.is_tight && decisions.below(12) == 11 {
                Say::HalfFrame
            } else if is_calm || decisions.below(4) < 3 {
                decisions.weighted(&RULY)
            } else {
                decisions.weighted(&UNRULY)
            }
        };
        self.say(at, say);
    }

    pub(super) fn say(&mut self, at: usize, say: Say) {
        let conn = self.peers[at].conn;
        let own_id = CLIENT_IDS[self.model.conns[conn].id];
        let topic = self.below(TOPICS.len());
        let job = self.below(JOBS.len());
        let system = |action: &str| json!({"action": action});
        match say {
            Say::Ping => self.request(at, Kind::Ping, "system", system("ping")),
            Say::Unknown => self.request(at, Kind::Unknown, "system", system("dance")),
            Say::Echo => self.request(at, Kind::Echo, "echo", json!({})),
            Say::Fail => self.request(at, Kind::Fail, "fail", json!({})),
            Say::Panic => self.request(at, Kind::Panic, "panic", json!({})),
            Say::Later => self.request(at, Kind::Later, "later", json!({})),
            Say::Work => {
                self.ask_to_work(at, job);
                if self.below(10) == 9 {
                    self.cancel_last(at);
                }
            }
            Say::Serve => {
                let mut serve = json!({"action": "serve", "channel": JOBS[job]});
                let concurrency = [None, None, Some(1), Some(3)][self.below(4)];
                if let Some(most) = concurrency {
                    serve["concurrency"] = most.into();
                }
                self.model.serves(conn, job, concurrency);
                self.request(at, Kind::Serve(job), "system", serve);
            }
            Say::StopServing => {
                let stop = json!({"action": "stop_serving", "channel": JOBS[job]});
                self.request(at, Kind::StopServing(job), "system", stop);
            }
            Say::Subscribe | Say::Unsubscribe => {
                let ack = self.below(2) == 0;
                let payload = json!({"connection_id": own_id, "ack": ack});
                let (kind, name) = match say {
                    Say::Subscribe => (Kind::Subscribe { topic, ack, managed: false }, "subscribe"),
                    _ => (Kind::Unsubscribe { topic, ack, managed: false }, "unsubscribe"),
                };
                self.tell(at, kind, TOPICS[topic], name, payload);
            }
            Say::Publish => self.publish(at, topic),
            Say::Keep | Say::KeepMany | Say::Follow | Say::Unfollow | Say::Watch | Say::Unwatch => {
                self.say_of_kept(at, say);
            }
            Say::PublishMany => {
                // As many as one turn has work for, where that is little.
                let count = self.scenario.limits.turn.work_max.clamp(8, 20);
                (0..count).for_each(|_| self.publish(at, topic));
            }
            Say::Note => self.tell(at, Kind::Note, "note", "notification", json!({})),
            Say::WorkNote => {
                let payload = json!({"asked_by": conn});
                self.tell(at, Kind::WorkNote(job), JOBS[job], "notification", payload);
            }
            Say::LostNote => self.tell(at, Kind::LostNote, "nowhere", "notification", json!({})),
            Say::Heartbeat => self.tell(at, Kind::LostNote, "system", "notification", json!({})),
            Say::Forbidden => {
                let payload = json!({"connection_id": "somebody else"});
                self.tell(at, Kind::Forbidden, TOPICS[topic], "subscribe", payload);
            }
            Say::Broken => self.say_nonsense(at),
            Say::TooLarge => {
                let kind = Kind::Broken("frame_too_large");
                self.put(at, kind, 0, vec![0x7f, 0xff, 0xff, 0xff]);
                self.peers[at].is_done = true;
            }
            Say::Answer => self.answer_task(at),
            Say::AnswerTwice => {
                if let Some(task) = self.peers[at].tasks.pop() {
                    self.respond(at, Kind::Answer, &task, true);
                    self.respond(at, Kind::Stray, &task, false);
                }
            }
            Say::Steal => {
                let mut others = self.peers.iter().enumerate().filter(|(other, _)| *other != at);
                let task = others.find_map(|(_, peer)| peer.tasks.first().cloned());
                if let Some(task) = task {
                    self.respond(at, Kind::Stray, &task, false);
                }
            }
            Say::NoAnswer => {
                if let Some(task) = self.peers[at].tasks.pop() {
                    self.model.ignored(task.nonce);
                }
            }
            Say::EmptyFlood => {
                for _ in 0..300 {
                    self.put(at, Kind::Broken("bad_frame"), 0, wire::frame(b""));
                }
            }
            // The answers of one turn would put its queue over the mark, as long as the flood lasts.
            Say::PingFlood | Say::NameMany if self.scenario.has_low_mark() => {}
            Say::PingFlood => {
                for _ in 0..140 {
                    self.request(at, Kind::Ping, "system", system("ping"));
                }
            }
            _ => self.say_at_the_limits(at, say),
        }
    }

    /// Lets a client send what tries the limits, and what a handler does on its behalf.
    fn say_at_the_limits(&mut self, at: usize, say: Say) {
        let conn = self.peers[at].conn;
        let topic = self.below(TOPICS.len());
        let job = self.below(JOBS.len());
        let system = |action: &str| json!({"action": action});
        match say {
            Say::OddWork => {
                // It says that it answers something, so that it cannot be forwarded as it came.
                let payload = json!({"asked_by": conn});
                self.tell_as(at, Kind::Work(job), JOBS[job], "request", payload, Shape::Odd);
            }
            Say::HugeWork | Say::HugeNote => {
                let payload = json!({"asked_by": conn});
                match say {
                    // Such a message would end the connection if the limit was lower.
                    _ if self.scenario.has_reloads => {}
                    Say::HugeWork => {
                        let kind = Kind::Work(job);
                        self.tell_as(at, kind, JOBS[job], "request", payload, Shape::Huge);
                    }
                    _ => {
                        let kind = Kind::WorkNote(job);
                        self.tell_as(at, kind, JOBS[job], "notification", payload, Shape::Huge);
                    }
                }
            }
            Say::List => {
                let lists = ["list_channels", "list_applications", "list_services", "get_latency"];
                let list = lists[self.below(lists.len())];
                self.request(at, Kind::List(list), "system", system(list));
            }
            Say::Name => self.name(at),
            Say::NameMany => {
                // Now and then as many as no listing holds.
                let is_too_much = self.below(4) == 3;
                (0..if is_too_much { 70 } else { 8 }).for_each(|_| self.name(at));
                if is_too_much {
                    self.request(
                        at,
                        Kind::List("list_channels"),
                        "system",
                        system("list_channels"),
                    );
                }
            }
            Say::ManagedSubscribe | Say::ManagedUnsubscribe => {
                // The limit on subscriptions would not hold for these.
                if self.scenario.limits.subscriptions_per_connection_max < TOPICS.len() {
                    return;
                }
                let (kind, act) = match say {
                    Say::ManagedSubscribe => {
                        (Kind::Subscribe { topic, ack: true, managed: true }, "subscribe")
                    }
                    _ => (Kind::Unsubscribe { topic, ack: true, managed: true }, "unsubscribe"),
                };
                self.request(at, kind, "manage", json!({"act": act, "topic": topic}));
            }
            Say::Close => {
                self.request(at, Kind::Close, "manage", json!({"act": "close"}));
            }
            Say::HalfFrame => {
                if self.scenario.is_tight {
                    // Of a message of 5,000 or 10,000 bytes, which take 8 or 16 KiB.
                    let header =
                        if self.below(2) == 0 { [0, 0, 0x13, 0x88] } else { [0, 0, 0x27, 0x10] };
                    let half = [&header, &[b' '; 4_900][..]].concat();
                    self.put(at, Kind::Half, 0, half);
                    self.peers[at].is_done = true;
                    self.peers[at].is_stuck = true;
                    while !self.peers[at].tasks.is_empty() {
                        self.say(at, Say::NoAnswer);
                    }
                }
            }
            _ => self.say_call(at, say),
        }
    }

    pub(super) fn say_hello(&mut self, at: usize) {
        let conn = self.peers[at].conn;
        let id = CLIENT_IDS[self.model.conns[conn].id];
        if !self.scenario.is_calm && self.below(30) == 29 {
            // This client skips the handshake.
            let ping = json!({"action": "ping"});
            self.request(at, Kind::Broken("not_connected"), "system", ping);
            self.peers[at].is_done = true;
            return;
        }
        let mut hello = json!({"action": "connect", "connection_id": id});
        if let Some(extensions) = self.model.conns[conn].extensions {
            hello["extensions"] = extensions.into();
        }
        if self.scenario.has_tokens {
            // Both are offered, and now and then another one.
            let token = self.below(5) / 2;
            self.model.conns[conn].token = TOKENS.get(token).map(|_| token);
            hello["token"] = TOKENS.get(token).copied().unwrap_or("a guess").into();
        }
        self.request(at, Kind::Connect, "system", hello);
    }

    pub(super) fn ping(&mut self, at: usize) {
        self.say(at, Say::Ping);
        if self.scenario.is_calm {
            self.say(at, Say::Heartbeat);
        }
    }

    /// Lets a client serve.
    pub(super) fn offer_work(&mut self, at: usize) {
        self.say(at, Say::Serve);
    }

    /// Lets a client ask for a job.
    pub(super) fn ask_to_work(&mut self, at: usize, job: usize) {
        let payload = json!({"asked_by": self.peers[at].conn});
        self.request(at, Kind::Work(job), JOBS[job], payload);
    }

    /// Lets all clients ask for much at once.
    pub(super) fn ask_much(&mut self) {
        for at in (0..self.peers.len()).filter(|at| !self.peers[*at].is_done).collect::<Vec<_>>() {
            let latency = json!({"action": "get_latency"});
            self.request(at, Kind::List("get_latency"), "system", latency);
            while self.hand_over(at) {}
            self.arrive_bytes(at, usize::MAX);
        }
    }

    /// Lets all clients publish much at once.
    pub(super) fn publish_much(&mut self) {
        let Some((_, topic)) = self.model.heard_topic() else { return };
        for at in (0..self.peers.len()).filter(|at| !self.peers[*at].is_done).collect::<Vec<_>>() {
            (0..10).for_each(|_| self.publish(at, topic));
            while self.hand_over(at) {}
            self.arrive_bytes(at, usize::MAX);
        }
    }

    /// Lets another client serve, at once.
    pub(super) fn serve_more(&mut self) {
        for at in (0..self.peers.len()).filter(|at| !self.peers[*at].is_done).collect::<Vec<_>>() {
            if self.below(2) == 0 {
                self.say(at, Say::Serve);
                while self.hand_over(at) {}
                self.arrive_bytes(at, usize::MAX);
            }
        }
    }

    /// Lets workers forget what they were asked.
    pub(super) fn forget_tasks(&mut self) {
        for at in 0..self.peers.len() {
            while !self.peers[at].tasks.is_empty() {
                self.say(at, Say::NoAnswer);
            }
        }
    }

    /// Lets all clients send more messages than most turns take of one, which arrive at once.
    pub(super) fn say_much(&mut self) {
        for at in (0..self.peers.len()).filter(|at| !self.peers[*at].is_done).collect::<Vec<_>>() {
            (0..12).for_each(|_| self.say(at, Say::Ping));
            while self.hand_over(at) {}
            self.arrive_bytes(at, usize::MAX);
        }
    }

    /// Makes a payload so long that its message is about as large as a frame may be.
    pub(super) fn fill_up(&mut self, payload: &mut String, frame_bytes: usize) {
        let whole_bytes = self.scenario.limits.frame_bytes_max - self.below(GROWTH_BYTES_MAX);
        Self::fill_up_to(payload, frame_bytes, whole_bytes);
    }

    pub(super) fn fill_up_to(payload: &mut String, frame_bytes: usize, whole_bytes: usize) {
        let pad_bytes = whole_bytes.saturating_sub(frame_bytes + ",\"pad\":\"\"".len());
        payload.pop();
        let _ = write!(payload, ",\"pad\":\"{}\"}}", "x".repeat(pad_bytes));
    }

    /// Subscribes to a channel that nobody has named before.
    fn name(&mut self, at: usize) {
        let conn = self.peers[at].conn;
        let number = self.model.conns[conn].names_count();
        let channel = format!("{conn}-{number:0>250}");
        self.tell(at, Kind::Name, &channel, "subscribe", json!({"ack": true}));
    }

    fn publish(&mut self, at: usize, topic: usize) {
        let conn = self.peers[at].conn;
        let app = self.model.conns[conn].app;
        let publication = self.model.publication(app, topic, Some(conn));
        let payload = json!({"publication": publication});
        self.tell(at, Kind::Publish(publication), TOPICS[topic], "publish", payload);
    }

    fn say_nonsense(&mut self, at: usize) {
        let id = self.model.next_message_id(self.peers[at].conn);
        let app = APPS[self.model.conns[self.peers[at].conn].app];
        let (code, body) = match self.below(6) {
            0 => ("bad_frame", String::new()),
            1 => ("bad_frame", "nonsense".to_owned()),
            2 => ("bad_frame", "[1, 2]".to_owned()),
            3 => ("bad_frame", "{\"message_id\": \"\u{7}".to_owned()),
            4 => ("bad_message", json!({"message_id": id, "app_id": app}).to_string()),
            _ => {
                let message = json!({
                    "message_id": id, "app_id": app, "channel_id": "c", "message_type": "song",
                    "payload": 1, "timestamp": 0, "reply_to": null,
                });
                ("bad_message", message.to_string())
            }
        };
        self.put(at, Kind::Broken(code), 0, wire::frame(body.as_bytes()));
    }

    fn request(&mut self, at: usize, kind: Kind, channel: &str, payload: serde_json::Value) {
        self.tell(at, kind, channel, "request", payload);
    }

    pub(super) fn tell(
        &mut self,
        at: usize,
        kind: Kind,
        channel: &str,
        message_type: &str,
        payload: serde_json::Value,
    ) {
        self.tell_as(at, kind, channel, message_type, payload, Shape::Usual);
    }

    fn tell_as(
        &mut self,
        at: usize,
        kind: Kind,
        channel: &str,
        message_type: &str,
        mut payload: serde_json::Value,
        shape: Shape,
    ) {
        let conn = self.peers[at].conn;
        let app = APPS[self.model.conns[conn].app];
        let nonce = self.model.fresh_nonce();
        payload["nonce"] = nonce.into();
        let mut payload = payload.to_string();
        if matches!(kind, Kind::Echo | Kind::Work(_) | Kind::Publish(_) | Kind::Keep(_))
            && self.below(3) == 2
        {
            let pad_bytes = [400, 1_100, 400, 1_100, 5_000, 5_000, 15_000][self.below(7)];
            payload.pop();
            payload = format!("{payload},\"pad\":\"{}\"}}", "x".repeat(pad_bytes));
        }
        let mut blob = match (shape, kind) {
            (Shape::Huge, _) => None,
            (_, Kind::Work(_)) if nonce % 16 == 1 && self.may_be_huge(conn, &payload) => {
                Some(self.model.new_huge_blob(nonce))
            }
            (_, Kind::Work(_) | Kind::WorkNote(_) | Kind::Publish(_)) => self.model.new_blob(conn),
            _ => None,
        };
        // In base64 both together have to fit into a frame.
        blob = blob.filter(|_| payload.len() < BLOB_PAYLOAD_BYTES_MAX);
        if let Some((number, _)) = &blob {
            wire::name_blob(&mut payload, *number);
        }
        let id = self.model.next_message_id(conn);
        let say = |payload: &str| match (shape, kind) {
            (Shape::Odd, _) => {
                wire::message(app, channel, message_type, &id, payload, Some("nothing"))
            }
            (Shape::Huge, Kind::WorkNote(_)) => {
                wire::short_message(app, channel, message_type, &id, payload)
            }
            _ => wire::message(app, channel, message_type, &id, payload, None),
        };
        let mut bytes = say(&payload);
        let meta = match kind {
            _ if matches!(shape, Shape::Huge) => None,
            Kind::Work(_) => self.choose_meta(at, true),
            Kind::Publish(_) | Kind::WorkNote(_) => self.choose_meta(at, false),
            Kind::Keep(_) if self.model.has_topic(conn) && self.below(4) == 3 => {
                Some("{\"retain\":true}".to_owned())
            }
            _ => None,
        };
        if matches!(shape, Shape::Huge) && bytes.len() < self.scenario.limits.frame_bytes_max / 2 {
            self.fill_up(&mut payload, bytes.len());
            bytes = say(&payload);
            if matches!(kind, Kind::Work(_) | Kind::WorkNote(_)) {
                self.model.forwarded_hugely();
            }
        }
        if let Some((_, blob)) = blob {
            bytes = wire::with_blob(&bytes, meta.as_deref(), &blob);
        } else if let Some(meta) = meta {
            bytes = wire::with_meta(&bytes, &meta, self.below(4) > 0);
        }
        self.put(at, kind, nonce, bytes);
    }

    /// Returns whether a request may have an attachment that is too large in base64.
    fn may_be_huge(&self, conn: ConnId, payload: &str) -> bool {
        let is_free = !self.scenario.has_reloads && !self.scenario.is_calm;
        self.model.has_binary(conn) && is_free && payload.len() < 1_000
    }

    pub(super) fn put(&mut self, at: usize, kind: Kind, nonce: u64, mut bytes: Vec<u8>) {
        let peer = &mut self.peers[at];
        let conn = peer.conn;
        self.kernel.borrow_mut().trace.note(format_args!("connection {conn} says {kind:?}"));
        self.model.sent(conn, kind, nonce, bytes.len());
        if peer.splits_writes && bytes.len() > 4 {
            let body = bytes.split_off(4);
            peer.unsent.push_back(bytes);
            bytes = body;
        }
        peer.unsent.push_back(bytes);
    }
}
