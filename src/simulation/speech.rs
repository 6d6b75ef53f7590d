//! The messages of a client, good and bad, and the ways in which it puts them.

use serde_json::json;

use super::model::Kind;
use super::scenario::{APPS, CLIENT_IDS, JOBS, TOPICS};
use super::wire;
use super::world::World;

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
}

/// Messages of all clients, by weight, and those that only misbehaving clients send.
const RULY: [(usize, Say); 18] = [
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
];
const UNRULY: [(usize, Say); 8] = [
    (60, Say::Answer),
    (8, Say::AnswerTwice),
    (8, Say::Steal),
    (8, Say::NoAnswer),
    (10, Say::Broken),
    (5, Say::Forbidden),
    (1, Say::TooLarge),
    (2, Say::PingFlood),
];

impl World {
    /// Lets a client send any message.
    pub(super) fn say_something(&mut self, at: usize) {
        let is_calm = self.scenario.is_calm;
        let say = {
            let decisions = &mut self.kernel.borrow_mut().decisions;
            if is_calm || decisions.below(4) < 3 {
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
            Say::Work => self.request(at, Kind::Work(job), JOBS[job], json!({"asked_by": conn})),
            Say::Serve => {
                let serve = json!({"action": "serve", "channel": JOBS[job]});
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
                    Say::Subscribe => (Kind::Subscribe { topic, ack }, "subscribe"),
                    _ => (Kind::Unsubscribe { topic, ack }, "unsubscribe"),
                };
                self.tell(at, kind, TOPICS[topic], name, payload);
            }
            Say::Publish => self.publish(at, topic),
            Say::PublishMany => (0..8).for_each(|_| self.publish(at, topic)),
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
                if let Some((id, nonce)) = self.peers[at].tasks.pop() {
                    self.respond(at, Kind::Answer, &id, nonce, true);
                    self.respond(at, Kind::Stray, &id, nonce, false);
                }
            }
            Say::Steal => {
                let mut others = self.peers.iter().enumerate().filter(|(other, _)| *other != at);
                let task = others.find_map(|(_, peer)| peer.tasks.first().cloned());
                if let Some((id, nonce)) = task {
                    self.respond(at, Kind::Stray, &id, nonce, false);
                }
            }
            Say::NoAnswer => {
                if let Some((_, nonce)) = self.peers[at].tasks.pop() {
                    self.model.ignored(nonce);
                }
            }
            Say::EmptyFlood => {
                for _ in 0..300 {
                    self.put(at, Kind::Broken("bad_frame"), 0, wire::frame(b""));
                }
            }
            Say::PingFlood => {
                for _ in 0..140 {
                    self.request(at, Kind::Ping, "system", system("ping"));
                }
            }
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
        let hello = json!({"action": "connect", "connection_id": id});
        self.request(at, Kind::Connect, "system", hello);
    }

    pub(super) fn ping(&mut self, at: usize) {
        self.say(at, Say::Ping);
        if self.scenario.is_calm {
            self.say(at, Say::Heartbeat);
        }
    }

    /// Lets a worker answer one of its requests, if it has any.
    pub(super) fn answer_task(&mut self, at: usize) {
        if self.peers[at].tasks.is_empty() {
            return;
        }
        let task = self.below(self.peers[at].tasks.len());
        let (id, nonce) = self.peers[at].tasks.swap_remove(task);
        self.respond(at, Kind::Answer, &id, nonce, true);
    }

    fn respond(&mut self, at: usize, kind: Kind, id: &str, nonce: u64, is_genuine: bool) {
        let conn = self.peers[at].conn;
        let payload = json!({"by": conn, "nonce": nonce, "genuine": is_genuine}).to_string();
        let app = APPS[self.model.conns[conn].app];
        let own_id = self.model.next_message_id(conn);
        let bytes = wire::message(app, "answers", "response", &own_id, &payload, Some(id));
        self.put(at, kind, 0, bytes);
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

    fn tell(
        &mut self,
        at: usize,
        kind: Kind,
        channel: &str,
        message_type: &str,
        mut payload: serde_json::Value,
    ) {
        let conn = self.peers[at].conn;
        let app = APPS[self.model.conns[conn].app];
        let nonce = self.model.fresh_nonce();
        payload["nonce"] = nonce.into();
        let mut payload = payload.to_string();
        if matches!(kind, Kind::Echo | Kind::Work(_) | Kind::Publish(_)) && self.below(3) == 2 {
            let pad_bytes = [400, 1_100, 400, 1_100, 5_000, 5_000, 15_000][self.below(7)];
            payload.pop();
            payload = format!("{payload},\"pad\":\"{}\"}}", "x".repeat(pad_bytes));
        }
        let id = self.model.next_message_id(conn);
        let bytes = wire::message(app, channel, message_type, &id, &payload, None);
        self.put(at, kind, nonce, bytes);
    }

    fn put(&mut self, at: usize, kind: Kind, nonce: u64, mut bytes: Vec<u8>) {
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
