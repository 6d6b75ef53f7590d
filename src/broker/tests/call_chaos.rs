//! Random conversations of peers with and without `call`: each request gets one end, nobody gets what
//! it did not negotiate, and nothing is left behind.

use super::*;
use crate::broker::state::calls::Stream;

/// Small numbers that look random, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        // The multiplier of Knuth's MMIX.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }

    fn is_one_of(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn choose<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

/// A peer under its id, with what it has said and heard on its present connection.
struct Actor {
    id: &'static str,
    is_extended: bool,
    key: Option<ConnectionKey>,
    /// Requests that it sent and that have no end yet, by their ids.
    open: BTreeMap<String, u32>,
    /// Requests that it was given as a worker, with the numbers of their next parts.
    tasks: Vec<(Value, u64)>,
}

struct Chaos {
    world: World,
    dice: Dice,
    actors: Vec<Actor>,
}

const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "an id that is too long to be kept inside of it"];

impl Chaos {
    fn new(seed: u64) -> Self {
        let limits = Limits {
            queue_high_water_bytes: 4 << 10,
            frame_bytes_max: 8 << 10,
            memory_bytes_max: 1 << 20,
            pending_per_connection_max: 12,
            ..Limits::default()
        };
        let actors =
            [("w0", true), ("w1", true), ("w2", false), ("r0", true), ("r1", true), ("r2", false)];
        let actors = actors.map(|(id, is_extended)| Actor {
            id,
            is_extended,
            key: None,
            open: BTreeMap::new(),
            tasks: Vec::new(),
        });
        Self { world: World::new(limits), dice: Dice(seed), actors: actors.into() }
    }

    fn connect(&mut self, at: usize) {
        let Ok(key) = self.world.broker.accept().ok_or(()) else { return };
        let actor = &mut self.actors[at];
        let mut connect = json!({"action": "connect", "connection_id": actor.id});
        if actor.is_extended {
            connect["extensions"] = json!(["call"]);
        }
        (actor.key, actor.open, actor.tasks) = (Some(key), BTreeMap::new(), Vec::new());
        self.send(at, "request", "system", "c", &connect, None);
        if at < 3 {
            self.serve(at);
        }
    }

    fn serve(&mut self, at: usize) {
        let mut serve = json!({"action": "serve", "channel": "work"});
        if self.dice.is_one_of(2) {
            serve["concurrency"] = json!(1 + self.dice.below(3));
        }
        self.send(at, "request", "system", "s", &serve, None);
    }

    fn send(
        &mut self,
        at: usize,
        kind: &str,
        channel: &str,
        id: &str,
        payload: &Value,
        meta: Option<Value>,
    ) {
        let Some(key) = self.actors[at].key else { return };
        let mut sent = message("app", kind, channel, id, payload);
        if let Some(meta) = meta.filter(|_| self.actors[at].is_extended) {
            sent["meta"] = meta;
        }
        self.world.send(key, &sent);
    }

    fn payload(&mut self) -> Value {
        let bytes = self.dice.choose(&[1, 1, 1, 10, 100, 3_000, 7_000]);
        json!("x".repeat(bytes))
    }

    fn step(&mut self) {
        let at = self.dice.below(self.actors.len() as u64) as usize;
        match self.dice.below(32) {
            0 if self.dice.is_one_of(3) => self.connect(at),
            1 if self.dice.is_one_of(4) => {
                if let Some(key) = self.actors[at].key.take() {
                    self.world.hang_up(key);
                }
            }
            2 if at < 3 && self.dice.is_one_of(2) => self.serve(at),
            3 if at < 3 && self.dice.is_one_of(4) => {
                let stop = json!({"action": "stop_serving", "channel": "work"});
                self.send(at, "request", "system", "s", &stop, None);
            }
            4 if self.dice.is_one_of(2) => self.world.stalled.extend(self.actors[at].key),
            5 | 6 => {
                for key in std::mem::take(&mut self.world.stalled) {
                    if self.world.broker.core.connections.get(key).is_some() {
                        self.world.relieve(key);
                    }
                }
                self.world.act();
            }
            7 => {
                let millis = self.dice.choose(&[1, 300, 2_000, 4_000]);
                self.world.pass(Duration::from_millis(millis));
            }
            8 if self.dice.is_one_of(5) => {
                let mut limits = self.world.broker.core.limits.clone();
                limits.queue_high_water_bytes = self.dice.choose(&[2 << 10, 4 << 10, 64 << 10]);
                limits.request_timeout = self.dice.choose(&[
                    None,
                    Some(Duration::from_secs(3)),
                    Some(Duration::from_secs(30)),
                ]);
                self.world.broker.reconfigure(limits, Access::default());
                self.world.act();
            }
            9 | 10 => {
                let id = self.dice.choose(&IDS);
                let cancel = json!({"action": "cancel", "message_id": id});
                self.send(at, "notification", "system", "n", &cancel, None);
            }
            11..=13 => {
                let (id, n) = (self.dice.choose(&IDS), self.dice.choose(&[1, 3, 65_536]));
                let credit = json!({"action": "credit", "message_id": id, "n": n});
                self.send(at, "notification", "system", "n", &credit, None);
            }
            14..=23 => self.respond(at % 3),
            _ => {
                let id = self.dice.choose(&IDS);
                let mut meta = json!({});
                for (key, value) in [
                    ("ttl", json!(1 + self.dice.below(5_000))),
                    ("stream", json!(1 + self.dice.below(3))),
                    ("idempotent", json!(true)),
                    ("headers", json!({"a": "b"})),
                ] {
                    if self.dice.is_one_of(2) {
                        meta[key] = value;
                    }
                }
                if self.actors[at].key.is_some() {
                    *self.actors[at].open.entry(id.to_owned()).or_default() += 1;
                }
                let payload = self.payload();
                let meta = (!self.dice.is_one_of(4)).then_some(meta);
                self.send(at, "request", "work", id, &payload, meta);
            }
        }
        self.listen();
    }

    /// Sends a part, an end or an answer, which may break the rules.
    fn respond(&mut self, at: usize) {
        let count = self.actors[at].tasks.len() as u64;
        let Some(key) = self.actors[at].key.filter(|_| count > 0) else { return };
        // Mostly one of the last.
        let task = (count - 1 - self.dice.below(count.min(4))) as usize;
        let payload = self.payload();
        let (given, seq) = &mut self.actors[at].tasks[task];
        let mut answer = message("app", "response", "work", "r", &payload);
        answer["reply_to"] = given["message_id"].clone();
        let is_stream = given["meta"]["stream"].is_u64() && self.dice.below(8) > 0;
        if is_stream {
            let number = *seq + u64::from(self.dice.is_one_of(30));
            *seq += 1;
            answer["meta"] = json!({"seq": number});
            if self.dice.is_one_of(5) {
                answer["payload"] = json!(null);
                answer["meta"]["end"] = json!(true);
            }
        } else {
            self.actors[at].tasks.swap_remove(task);
        }
        self.world.send(key, &answer);
    }

    /// Reads what everybody got.
    fn listen(&mut self) {
        let core = &self.world.broker.core;
        for (_, connection) in core.connections.iter() {
            let session = connection.session();
            let Some(duties) = session.and_then(|session| session.worker.as_ref()) else {
                continue;
            };
            let calls = duties.in_flight.iter().filter_map(|key| core.requests.get(*key));
            let calls = calls.filter_map(|request| core.requests.call(request));
            let streams = calls.filter_map(|call| call.stream);
            assert_eq!(streams.filter(Stream::is_stalled).count(), duties.stalled);
        }
        for actor in &mut self.actors {
            let Some(key) = actor.key else { continue };
            for heard in self.world.take(key) {
                let is_notification = heard["message_type"] == "notification";
                if !actor.is_extended {
                    assert!(heard.get("meta").is_none(), "{heard}");
                    assert!(
                        !is_notification || heard["payload"].get("action").is_none(),
                        "{heard}"
                    );
                }
                if heard["message_type"] == "request" {
                    assert_eq!(heard["meta"].get("idempotent"), None, "{heard}");
                    actor.tasks.push((heard, 0));
                    continue;
                }
                let Some(id) = heard["reply_to"].as_str().filter(|id| IDS.contains(id)) else {
                    continue;
                };
                if heard["meta"]["seq"].is_null() || heard["meta"]["end"] == true {
                    let open = actor.open.get_mut(id).expect("it asked for that");
                    *open = open.checked_sub(1).unwrap_or_else(|| panic!("a second end: {heard}"));
                }
            }
            if self.world.closed.contains(&key) {
                actor.key = None;
            }
        }
    }

    fn end(mut self) {
        for _ in 0..3 {
            let stalled = std::mem::take(&mut self.world.stalled);
            for key in stalled {
                if self.world.broker.core.connections.get(key).is_some() {
                    self.world.relieve(key);
                }
            }
            self.world.act();
            self.world.pass(Duration::from_secs(4));
            self.listen();
        }
        let mut keys = Vec::new();
        for at in 0..self.actors.len() {
            let Some(key) = self.actors[at].key else { continue };
            keys.push(key);
        }
        // Workers leave first, so that all that is open gets its end.
        for at in 0..3 {
            if let Some(key) = self.actors[at].key {
                self.world.hang_up(key);
            }
        }
        self.listen();
        for actor in &self.actors[3..] {
            if actor.key.is_some() {
                assert!(
                    actor.open.values().all(|open| *open == 0),
                    "{}: {:?}",
                    actor.id,
                    actor.open
                );
            }
        }
        for key in self.world.broker.core.connections.keys() {
            self.world.hang_up(key);
        }
        self.world.assert_empty(&keys);
        assert_eq!(self.world.broker.core.timers.len(), 0);
    }
}

#[test]
fn nothing_is_left_of_random_calls() {
    for seed in 0..60 {
        let mut chaos = Chaos::new(seed);
        (0..6).for_each(|at| chaos.connect(at));
        for _ in 0..400 {
            chaos.step();
        }
        chaos.end();
    }
}
