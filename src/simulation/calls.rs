//! What clients say of requests beyond the base protocol, and the answers of workers: metas, cancels,
//! credit, parts, and all of them as they should not be.

use serde_json::{Value, json};

use super::model::{Extras, Kind};
use super::peer::Task;
use super::scenario::{APPS, JOBS};
use super::speech::Say;
use super::wire;
use super::world::World;

/// Metas that no server takes on a request.
const BAD_METAS: [&str; 16] = [
    "{\"ttl\":0}",
    "{\"ttl\":2147483649}",
    "{\"ttl\":1.5}",
    "{\"ttl\":\"5\"}",
    "{\"ttl\":1,\"\\u0074tl\":1}",
    "{\"stream\":0}",
    "{\"stream\":65537}",
    "{\"stream\":1e2}",
    "{\"idempotent\":1}",
    "{\"seq\":0}",
    "{\"end\":true}",
    "{\"other\":1}",
    "[]",
    "{\"headers\":{\"a\":1}}",
    "{\"headers\":{\"a\":\"b\",\"a\":\"b\"}}",
    "{\"trace\":{\"a\":\"b\"}}",
];
/// The longest `meta` has so many bytes.
const META_BYTES_MAX: usize = 4 << 10;
/// Metas that no server takes on a response.
const BAD_PART_METAS: [&str; 6] = [
    "{\"seq\":\"0\"}",
    "{\"seq\":-1}",
    "{\"end\":true}",
    "{\"seq\":0,\"seq\":0}",
    "{\"stream\":1}",
    "{\"seq\":0,\"other\":1}",
];

impl World {
    /// Chooses what a client's next request for a worker, or what else it is about to send, asks for.
    /// Returns its `meta`, if it has one.
    pub(super) fn choose_meta(&mut self, at: usize, is_request: bool) -> Option<String> {
        let conn = self.peers[at].conn;
        if !self.model.has_call(conn) || self.below(3) == 0 {
            return None;
        }
        let mut extras = Extras::default();
        if is_request {
            let ttls = [None, None, Some(1), Some(40), Some(400), Some(5_000), Some(1 << 31)];
            extras.ttl_millis = ttls[self.below(ttls.len())];
            let credits = [None, Some(1), Some(2), Some(3), Some(65_536)];
            extras.stream = credits[self.below(credits.len())];
            extras.idempotent = self.below(3) == 2;
        }
        if self.below(4) == 3 {
            extras.relayed.insert("headers".to_owned(), json!({"a\"": "\u{e9}", "b": ""}));
        }
        if self.below(4) == 3 {
            extras.relayed.insert("trace".to_owned(), json!({"traceparent": "00-1-2-03"}));
        }
        let meta = extras.meta().to_string();
        self.model.asks(conn, extras);
        Some(meta)
    }

    /// Lets a client say something that only peers with `call` understand.
    pub(super) fn say_call(&mut self, at: usize, say: Say) {
        match say {
            Say::Cancel => self.cancel(at),
            Say::CancelOdd => self.cancel_oddly(at),
            Say::Credit => self.give_credit(at),
            Say::CreditOdd => {
                let id = self.known_id(at);
                let payloads = [
                    json!({"action": "credit", "message_id": id, "n": 0}),
                    json!({"action": "credit", "message_id": id, "n": 65_537}),
                    json!({"action": "credit", "message_id": id}),
                    json!({"action": "credit", "n": 1}),
                    json!({"action": "cancel"}),
                    json!({"action": "cancel", "message_id": 7}),
                ];
                let payload = payloads[self.below(payloads.len())].clone();
                self.notify_server(at, Kind::Broken("bad_message"), payload);
            }
            Say::Part => self.send_next_part(at, 1),
            Say::PartFlood => self.send_next_part(at, 40),
            Say::BadPart => self.break_stream(at),
            _ => self.say_bad_meta(at),
        }
    }

    fn notify_server(&mut self, at: usize, kind: Kind, payload: Value) {
        // Peers without extensions may say that as well, and are not heard.
        let conn = self.peers[at].conn;
        let kind = if self.model.has_call(conn) { kind } else { Kind::LostNote };
        self.tell(at, kind, "system", "notification", payload);
    }

    /// Lets a client cancel one of its requests.
    pub(super) fn cancel(&mut self, at: usize) {
        let conn = self.peers[at].conn;
        let open = self.model.open_calls(conn);
        if open.is_empty() {
            return;
        }
        let cancelled = open[self.below(open.len())];
        self.cancel_one(at, cancelled);
    }

    /// Lets a client cancel the message that it has just sent.
    pub(super) fn cancel_last(&mut self, at: usize) {
        if let Some(last) = self.model.sent_count(self.peers[at].conn).checked_sub(1) {
            self.cancel_one(at, last);
        }
    }

    fn cancel_one(&mut self, at: usize, cancelled: usize) {
        let conn = self.peers[at].conn;
        let id = self.model.id_of(conn, cancelled);
        if self.model.has_call(conn) {
            self.model.cancels(conn, cancelled);
        }
        self.notify_server(at, Kind::Cancel, json!({"action": "cancel", "message_id": id}));
    }

    /// Lets a client cancel what is not its own, or nothing.
    fn cancel_oddly(&mut self, at: usize) {
        let is_known = self.below(2) == 0;
        let task = self.peers.iter().find_map(|peer| peer.tasks.first()).filter(|_| is_known);
        let id = task.map(|task| task.id.clone());
        let id = id.unwrap_or_else(|| "unknown".to_owned());
        let action = ["cancel", "credit", "nothing"][self.below(3)];
        self.notify_server(at, Kind::LostNote, json!({"action": action, "message_id": id, "n": 1}));
    }

    fn give_credit(&mut self, at: usize) {
        let conn = self.peers[at].conn;
        let open = self.model.open_streams(conn);
        if open.is_empty() {
            return;
        }
        let (stream, initial) = open[self.below(open.len())];
        let n = match self.below(6) {
            5 => 65_536,
            4 if initial < 65_536 => 65_536 - initial,
            few => 1 + few as u64 % 3,
        };
        let id = self.model.id_of(conn, stream);
        if self.model.has_call(conn) {
            self.model.credits(conn, stream, n);
        }
        let payload = json!({"action": "credit", "message_id": id, "n": n});
        self.notify_server(at, Kind::Credit, payload);
    }

    fn known_id(&mut self, at: usize) -> String {
        let conn = self.peers[at].conn;
        let open = self.model.open_calls(conn);
        open.first().map_or("unknown".to_owned(), |at| self.model.id_of(conn, *at))
    }

    fn say_bad_meta(&mut self, at: usize) {
        let conn = self.peers[at].conn;
        let job = self.below(JOBS.len());
        let kinds = ["request", "publish", "notification", "subscribe"];
        let message_type = kinds[self.below(kinds.len())];
        let meta = match self.below(BAD_METAS.len() + 1) {
            // Peers without extensions may send none at all.
            _ if !self.model.has_call(conn) => "{\"ttl\":5000}".to_owned(),
            bad if bad < BAD_METAS.len() => BAD_METAS[bad].to_owned(),
            _ => json!({"headers": {"a": "x".repeat(META_BYTES_MAX)}}).to_string(),
        };
        let id = self.model.next_message_id(conn);
        let app = APPS[self.model.conns[conn].app];
        let mut payload = json!({"asked_by": conn}).to_string();
        let has_blob = self.model.has_binary(conn) && self.model.sent_count(conn) % 2 == 1;
        if has_blob {
            wire::name_blob(&mut payload, 0);
        }
        let bytes = wire::message(app, JOBS[job], message_type, &id, &payload, None);
        let bytes = if has_blob {
            // The last zero is none.
            let mut bytes = wire::with_blob(&bytes, None, b"blob");
            bytes.pop();
            bytes.push(1);
            bytes
        } else {
            wire::with_meta(&bytes, &meta, self.below(3) > 0)
        };
        self.put(at, Kind::Broken("bad_message"), 0, bytes);
    }

    /// Lets a worker answer one of its requests, if it has any.
    pub(super) fn answer_task(&mut self, at: usize) {
        if self.peers[at].tasks.is_empty() {
            return;
        }
        let task = self.below(self.peers[at].tasks.len());
        let mut task = self.peers[at].tasks.swap_remove(task);
        if task.stream.is_none() || self.below(4) == 0 {
            self.respond(at, Kind::Answer, &task, true);
            return;
        }
        for _ in 0..self.below(3) {
            self.send_part(at, &mut task);
        }
        self.end_stream(at, &task, Kind::Answer);
    }

    /// Lets a worker send the next parts of an answer, if it has any and credit for them.
    fn send_next_part(&mut self, at: usize, count: u64) {
        let has_credit = |task: &Task| task.stream.is_some_and(|stream| stream.credit >= count);
        if let Some(found) = self.peers[at].tasks.iter().position(has_credit) {
            let mut task = self.peers[at].tasks.swap_remove(found);
            (0..count).for_each(|_| self.send_part(at, &mut task));
            self.peers[at].tasks.push(task);
        }
    }

    /// Sends the next part, if there is credit for it.
    fn send_part(&mut self, at: usize, task: &mut Task) {
        let Some(stream) = &mut task.stream else { return };
        if stream.credit == 0 {
            return;
        }
        stream.credit -= 1;
        let seq = stream.seq;
        stream.seq += 1;
        self.model.sends_part(self.peers[at].conn, task.nonce, false);
        let mut payload = self.part(at, task, seq);
        if self.below(3) == 2 {
            let pad_bytes = [400, 1_100, 5_000][self.below(3)];
            payload["pad"] = "x".repeat(pad_bytes).into();
        }
        if self.below(4) == 3 {
            // A part is no error, whatever it looks like.
            payload["status"] = "error".into();
            payload["code"] = "timeout".into();
        }
        let mut payload = payload.to_string();
        let blob = self.model.new_blob(self.peers[at].conn);
        let meta = json!({"seq": seq}).to_string();
        if let Some((number, blob)) = blob {
            wire::name_blob(&mut payload, number);
            let id = self.model.next_message_id(self.peers[at].conn);
            let app = APPS[self.model.conns[self.peers[at].conn].app];
            let bytes =
                wire::message(app, JOBS[task.job], "response", &id, &payload, Some(&task.id));
            let bytes = wire::with_blob(&bytes, Some(&meta), &blob);
            return self.put(at, Kind::Part, 0, bytes);
        }
        self.answer_with(at, Kind::Part, task, &payload, &meta);
    }

    fn end_stream(&mut self, at: usize, task: &Task, kind: Kind) {
        let conn = self.peers[at].conn;
        let seq = task.stream.map_or(0, |stream| stream.seq);
        if kind == Kind::Answer {
            self.model.sends_part(conn, task.nonce, true);
            self.model.works(conn, task.nonce);
        }
        let meta = json!({"seq": seq, "end": true}).to_string();
        self.answer_with(at, kind, task, "null", &meta);
    }

    fn part(&self, at: usize, task: &Task, seq: u64) -> Value {
        json!({"part": seq, "by": self.peers[at].conn, "nonce": task.nonce})
    }

    /// Lets a worker break the rules of streams.
    fn break_stream(&mut self, at: usize) {
        let conn = self.peers[at].conn;
        if self.peers[at].tasks.is_empty() {
            return;
        }
        let found = self.below(self.peers[at].tasks.len());
        let mut task = self.peers[at].tasks.swap_remove(found);
        let nonce = task.nonce;
        let seq = task.stream.map_or(0, |stream| stream.seq);
        let what = self.below(10);
        if !self.model.has_meta(conn) {
            // Such a response is not even read.
            let payload = self.part(at, &task, seq).to_string();
            self.answer_with(at, Kind::Stray, &task, &payload, "{\"seq\":0}");
            self.model.ignored(nonce);
            return;
        }
        let payload = self.part(at, &task, seq).to_string();
        let (payload, meta) = match what {
            0 | 1 if task.stream.is_some() => (payload, json!({"seq": seq + 1}).to_string()),
            2 if task.stream.is_some() => (payload, json!({"seq": seq, "end": true}).to_string()),
            3 if task.stream.is_some() => {
                ("null".to_owned(), json!({"seq": seq + 2, "end": true}).to_string())
            }
            4 => (payload, BAD_PART_METAS[self.below(BAD_PART_METAS.len())].to_owned()),
            5 if task.stream.is_some() => return self.overdraw(at, task),
            6..=8 if task.stream.is_some() && !self.scenario.has_reloads => {
                return self.send_huge_part(at, task);
            }
            _ if task.stream.is_some() => {
                self.end_stream(at, &task, Kind::Answer);
                // Whatever comes after the end is ignored.
                self.end_stream(at, &task, Kind::Stray);
                if let Some(stream) = &mut task.stream {
                    stream.seq += 1;
                }
                let meta = json!({"seq": seq}).to_string();
                return self.answer_with(at, Kind::Stray, &task, &payload, &meta);
            }
            // Nobody asked for a stream.
            _ => (payload, json!({"seq": 0}).to_string()),
        };
        self.model.violates(conn, nonce, true);
        self.answer_with(at, Kind::Part, &task, &payload, &meta);
    }

    /// Sends one part more than there is credit for, as far as its worker knows.
    fn overdraw(&mut self, at: usize, mut task: Task) {
        let conn = self.peers[at].conn;
        while task.stream.is_some_and(|stream| (1..9).contains(&stream.credit)) {
            self.send_part(at, &mut task);
        }
        if let Some(stream) = task.stream.as_mut().filter(|stream| stream.credit == 0) {
            stream.credit = 1;
            self.model.violates(conn, task.nonce, false);
            self.send_part(at, &mut task);
        }
        self.end_stream(at, &task, Kind::Answer);
    }

    /// Sends a part that is about as large as a frame may be.
    fn send_huge_part(&mut self, at: usize, mut task: Task) {
        let conn = self.peers[at].conn;
        let seq = task.stream.map_or(0, |stream| stream.seq);
        let Some(stream) = task.stream.as_mut().filter(|stream| stream.credit > 0) else {
            return self.end_stream(at, &task, Kind::Answer);
        };
        stream.credit -= 1;
        stream.seq += 1;
        self.model.sends_part(conn, task.nonce, false);
        self.model.violates(conn, task.nonce, false);
        self.model.answered_hugely(task.nonce);
        let mut payload = self.part(at, &task, seq).to_string();
        let (app, id) = (APPS[self.model.conns[conn].app], self.model.next_message_id(conn));
        let bytes = wire::message(app, JOBS[task.job], "response", &id, &payload, Some(&task.id));
        let meta = json!({"seq": seq}).to_string();
        // It is as large as a frame may be, or nearly.
        let bytes = wire::with_meta(&bytes, &meta, true).len() + self.below(8);
        Self::fill_up_to(&mut payload, bytes, self.scenario.limits.frame_bytes_max);
        self.answer_with(at, Kind::Part, &task, &payload, &meta);
        self.end_stream(at, &task, Kind::Answer);
    }

    /// Sends a response with a `meta` to a request.
    fn answer_with(&mut self, at: usize, kind: Kind, task: &Task, payload: &str, meta: &str) {
        let conn = self.peers[at].conn;
        let app = APPS[self.model.conns[conn].app];
        let own_id = self.model.next_message_id(conn);
        // The server writes an answer anew if it names another channel.
        let channel = if self.below(4) > 0 { JOBS[task.job] } else { "answers" };
        let bytes = wire::message(app, channel, "response", &own_id, payload, Some(&task.id));
        let bytes = wire::with_meta(&bytes, meta, self.below(4) > 0);
        self.put(at, kind, 0, bytes);
    }

    pub(super) fn respond(&mut self, at: usize, kind: Kind, task: &Task, is_genuine: bool) {
        let conn = self.peers[at].conn;
        let nonce = task.nonce;
        if is_genuine {
            self.model.works(conn, nonce);
        }
        let mut payload = json!({"by": conn, "nonce": nonce, "genuine": is_genuine}).to_string();
        let app = APPS[self.model.conns[conn].app];
        let own_id = self.model.next_message_id(conn);
        // The server writes an answer anew if it names another channel.
        let channel = if self.below(2) == 0 { JOBS[task.job] } else { "answers" };
        let has_meta = self.model.has_call(conn) && self.below(8) == 7;
        let say = |payload: &str| {
            let bytes = wire::message(app, channel, "response", &own_id, payload, Some(&task.id));
            let meta = "{\"headers\":{\"a\":\"b\"}}";
            if has_meta { wire::with_meta(&bytes, meta, true) } else { bytes }
        };
        let mut bytes = say(&payload);
        if self.below(14) == 13 && !self.scenario.has_reloads {
            self.fill_up(&mut payload, bytes.len());
            bytes = say(&payload);
            self.model.answered_hugely(nonce);
        } else if let Some((number, blob)) = self.model.new_blob(conn) {
            wire::name_blob(&mut payload, number);
            let bytes = wire::message(app, channel, "response", &own_id, &payload, Some(&task.id));
            let meta = has_meta.then_some("{\"headers\":{\"a\":\"b\"}}");
            return self.put(at, kind, 0, wire::with_blob(&bytes, meta, &blob));
        }
        self.put(at, kind, 0, bytes);
    }
}
