//! Peers joined to the broker in memory, under virtual time: no socket, no clock.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use serde_json::{Value, json};

use super::access::Access;
use super::broker::Broker;
use super::flow;
use super::limits::{self, Limits, REFUSALS_MAX};
use super::state::budget::CONNECTION_BYTES;
use super::state::connection::{Connection, Held, State};
use super::state::counters::Counters;
use super::state::events::{Action, HangUp, Turnover, Written};
use super::state::keys::ConnectionKey;
use super::state::refusal;
use super::state::stats::Stats;
use super::state::timers::Now;
use crate::Message;

mod attachments;
mod bounds;
mod buses;
mod call_bounds;
mod call_chaos;
mod calls;
mod concurrency;
mod costs;
mod counters;
mod drains;
mod embedding;
mod interest;
mod judged;
mod kept;
mod limits_met;
mod links;
mod listings;
mod memory;
mod own_streams;
mod plain;
mod pressure;
mod reload;
mod requests;
mod run;
mod sharing;
mod shortage;
mod streams;
mod take_over;
mod topic;
mod unserved;
mod work;

/// The defaults of [`Limits::turn`], which the tests of one turn are written for.
const FRAMES_PER_TURN_MAX: usize = 128;
const WORK_PER_TURN_MAX: usize = FRAMES_PER_TURN_MAX * FRAMES_PER_TURN_MAX;

/// A broker and the bytes that each of its connections was sent.
struct World {
    broker: Broker,
    now: Now,
    received: BTreeMap<ConnectionKey, Vec<u8>>,
    closed: Vec<ConnectionKey>,
    attached: Vec<ConnectionKey>,
    /// Connections whose write side was shut.
    shut: Vec<ConnectionKey>,
    /// Connections whose kernel takes nothing more.
    stalled: Vec<ConnectionKey>,
    /// Connections whose transport keeps bytes that it took.
    holding: Vec<ConnectionKey>,
    /// Connections the broker wants to look at again.
    resumed: Vec<ConnectionKey>,
    /// Frames and bytes that all connections were sent.
    sent: (u64, u64),
    /// Connections that go over to shared memory, and where in their queues.
    shared: Vec<(ConnectionKey, Turnover)>,
    /// The system has no shared memory.
    lacks_rings: bool,
}

impl World {
    fn new(limits: Limits) -> Self {
        let mut broker = Broker::new(limits, Access::default(), [7; 32], Now::default());
        // Each turn checks that what it is told agrees with what is there.
        broker.on_interest(|_| ());
        Self {
            broker,
            now: Now::default(),
            received: BTreeMap::new(),
            closed: Vec::new(),
            attached: Vec::new(),
            shut: Vec::new(),
            stalled: Vec::new(),
            holding: Vec::new(),
            resumed: Vec::new(),
            sent: (0, 0),
            shared: Vec::new(),
            lacks_rings: false,
        }
    }

    fn accept(&mut self) -> ConnectionKey {
        self.broker.accept().expect("there is room")
    }

    fn connected(&mut self, app_id: &str, id: &str) -> ConnectionKey {
        let key = self.accept();
        let connect = json!({"action": "connect", "connection_id": id});
        self.send(key, &message(app_id, "request", "system", "c", &connect));
        assert_eq!(self.take(key)[0]["payload"]["status"], "connected");
        key
    }

    /// One turn in which `bytes` arrive.
    fn deliver(&mut self, key: ConnectionKey, bytes: &[u8]) {
        self.broker.receive(key, bytes);
        self.act();
    }

    fn send(&mut self, key: ConnectionKey, message: &Value) {
        self.deliver(key, &framed(message));
    }

    /// The same of a peer that writes the header of each message and its body apart.
    fn send_apart(&mut self, key: ConnectionKey, message: &Value) {
        let bytes = framed(message);
        let (header, body) = bytes.split_at(4);
        self.deliver(key, header);
        self.deliver(key, body);
    }

    /// A connection of a published client, which writes header and body apart.
    fn connected_apart(&mut self, app_id: &str, id: &str) -> ConnectionKey {
        let key = self.accept();
        let connect = json!({"action": "connect", "connection_id": id});
        self.send_apart(key, &message(app_id, "request", "system", "c", &connect));
        assert_eq!(self.take(key)[0]["payload"]["status"], "connected");
        key
    }

    fn subscribe(&mut self, key: ConnectionKey, app_id: &str, channel: &str) {
        self.send(key, &message(app_id, "subscribe", channel, "s", &json!({})));
    }

    /// Makes a connection a worker of the channel.
    fn serve(&mut self, key: ConnectionKey, app_id: &str, channel: &str) {
        let serve = json!({"action": "serve", "channel": channel});
        self.send(key, &message(app_id, "request", "system", "serve", &serve));
        assert_eq!(self.take(key)[0]["payload"]["status"], "serving");
    }

    /// Connects a worker of a channel of the application `app`.
    fn worker(&mut self, channel: &str) -> ConnectionKey {
        let key = self.connected("app", "worker");
        self.serve(key, "app", channel);
        key
    }

    /// Sends a request to the workers of `work`.
    fn request(&mut self, from: ConnectionKey, id: &str, payload: &Value) {
        self.send(from, &message("app", "request", "work", id, payload));
    }

    /// Answers a request as its worker.
    fn answer(&mut self, worker: ConnectionKey, request: &Value, payload: &Value) {
        let mut answer = message("app", "response", "work", "r", payload);
        answer["reply_to"] = request["message_id"].clone();
        self.send(worker, &answer);
    }

    /// The kernel of a stalled connection takes all that waits for it.
    fn relieve(&mut self, key: ConnectionKey) {
        let holds = self.holding.contains(&key);
        let received = self.received.entry(key).or_default();
        let before = received.len();
        let flushed = self.broker.flush(key, |queue| {
            queue.slices().for_each(|slice| received.extend_from_slice(slice));
            Ok::<_, Infallible>(Written { bytes: queue.len(), holds })
        });
        let Ok(flushed) = flushed;
        assert_eq!(flushed.unsent_bytes, 0);
        self.sent.0 += frames(&received[before..]);
        self.sent.1 += (received.len() - before) as u64;
    }

    /// Makes the rings of a connection that has asked for them, with a page beside them.
    fn share(&mut self, key: ConnectionKey) {
        let lacks_rings = self.lacks_rings;
        let turnover = self.broker.share(key, |ring_bytes| {
            if lacks_rings {
                Err("no descriptor is left".to_owned())
            } else {
                Ok(2 * ring_bytes + 4_096)
            }
        });
        self.shared.extend(turnover.map(|turnover| (key, turnover)));
    }

    /// Returns whether a connection waits for somebody who reads too slowly.
    fn is_parked(&self, key: ConnectionKey) -> bool {
        matches!(self.connection(key).held, Held::Behind(_))
    }

    fn connection(&self, key: ConnectionKey) -> &Connection {
        self.broker.core.connections.get(key).expect("it is still there")
    }

    /// The last message a connection was sent is an error with this code, for this message.
    fn expect_error(&mut self, key: ConnectionKey, code: &str, reply_to: impl Into<Value>) {
        let messages = self.take(key);
        let last = messages.last().expect("an error");
        assert_eq!((&last["payload"]["code"], &last["reply_to"]), (&json!(code), &reply_to.into()));
    }

    /// Carries out what the broker decided, for this turn.
    fn act_once(&mut self) {
        while let Some(action) = self.broker.next_action() {
            match action {
                Action::Flush(key) if self.stalled.contains(&key) => {}
                Action::Flush(key) => self.relieve(key),
                Action::Resume(key) => self.resumed.push(key),
                Action::FinishWrite(key) => self.shut.push(key),
                Action::Share(key) => self.share(key),
                Action::Close(key) => self.closed.push(key),
                Action::Attach(key) => self.attached.push(key),
            }
        }
    }

    fn act(&mut self) {
        loop {
            self.act_once();
            let Some(key) = self.resumed.pop() else { break };
            self.broker.receive(key, &[]);
            self.broker.exhausted(key);
        }
        let now = self.now.monotonic;
        self.broker.end_turn(|| now);
        // It looks at everything, which takes too long where a test has thousands of something.
        let core = &self.broker.core;
        if core.connections.len() + core.requests.len() + core.router.channels.len() < 200 {
            self.broker.check_agreement().unwrap();
            let is_unsent = |(_, found): (_, &Connection)| !found.send.is_empty();
            if self.closed.is_empty() && !core.connections.iter().any(is_unsent) {
                let Counters { frames_out, bytes_out, .. } = core.counters;
                assert_eq!((frames_out, bytes_out), self.sent, "frames and bytes out");
            }
            // All that it wanted to look at again was looked at, so that it would sleep now.
            #[cfg(feature = "net")]
            {
                assert_eq!(self.broker.held_for_nothing(), None);
                assert!(!self.broker.keeps_for_nothing(), "a request is kept for nobody");
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.unix += time;
        self.broker.begin_turn(self.now);
        self.broker.advance();
        self.act();
    }

    fn hang_up(&mut self, key: ConnectionKey) {
        self.broker.hang_up(key, HangUp::Reset);
        self.act();
    }

    /// The messages sent to a connection since the last time.
    fn take(&mut self, key: ConnectionKey) -> Vec<Value> {
        let bytes = self.received.remove(&key).unwrap_or_default();
        let mut rest = &bytes[..];
        let mut messages = Vec::new();
        while let Some((header, behind)) = rest.split_first_chunk::<4>() {
            let (body, next) = behind.split_at(u32::from_be_bytes(*header) as usize);
            messages.push(serde_json::from_slice(body).expect("every frame is JSON"));
            rest = next;
        }
        assert!(rest.is_empty(), "whole frames only");
        messages
    }
}

/// The number of frames, of which none is cut off.
fn frames(mut bytes: &[u8]) -> u64 {
    let mut count = 0;
    while let Some((header, behind)) = bytes.split_first_chunk::<4>() {
        bytes = &behind[u32::from_be_bytes(*header) as usize..];
        count += 1;
    }
    assert!(bytes.is_empty(), "whole frames only");
    count
}

fn message(app_id: &str, kind: &str, channel: &str, id: &str, payload: &Value) -> Value {
    json!({
        "message_id": id, "app_id": app_id, "channel_id": channel, "message_type": kind,
        "payload": payload, "timestamp": 0, "reply_to": null,
    })
}

fn framed(message: &Value) -> Vec<u8> {
    framed_text(&message.to_string())
}

fn framed_text(body: &str) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

fn payloads(messages: &[Value]) -> Vec<Value> {
    messages.iter().map(|message| message["payload"].clone()).collect()
}

#[test]
fn a_conversation_split_at_every_byte_is_the_same() {
    let whole: Vec<u8> = [
        message(
            "app",
            "request",
            "system",
            "1",
            &json!({"action": "connect", "connection_id": "a"}),
        ),
        message("app", "subscribe", "news", "2", &json!({"connection_id": "a", "ack": true})),
        message("app", "publish", "news", "3", &json!({"text": "ü \u{1f600}"})),
        message("app", "request", "nobody", "4", &json!(null)),
        message("other", "request", "nobody", "5", &json!(null)),
        message("app", "request", "system", "6", &json!({"action": "ping"})),
    ]
    .iter()
    .flat_map(framed)
    .collect();
    let converse = |chunks: &[&[u8]]| {
        let mut world = World::new(Limits::default());
        let key = world.accept();
        for chunk in chunks {
            world.deliver(key, chunk);
        }
        let answers = world.take(key);
        assert_eq!(world.broker.core.pool.gauge().bytes(), 0);
        payloads(&answers)
    };
    let expected = converse(&[&whole]);
    assert_eq!(expected.len(), 6);
    for at in 0..=whole.len() {
        let (head, tail) = whole.split_at(at);
        assert_eq!(converse(&[head, tail]), expected, "split at {at}");
    }
    let bytes: Vec<&[u8]> = whole.chunks(1).collect();
    assert_eq!(converse(&bytes), expected, "byte by byte");
}

#[test]
fn timeouts_pass_in_virtual_time() {
    let limits = Limits { idle_timeout: Some(Duration::from_secs(60)), ..Limits::default() };
    let mut world = World::new(limits);
    let silent = world.accept();
    world.pass(Duration::from_millis(4_999));
    assert!(world.closed.is_empty());
    world.pass(Duration::from_millis(1));
    assert_eq!(world.closed, [silent]);

    let worker = world.worker("work");
    let asks = world.connected("app", "asks");
    world.request(asks, "q", &json!(1));
    assert_eq!(world.broker.core.requests.len(), 1);
    world.pass(Duration::from_secs(30));
    let answers = world.take(asks);
    assert_eq!(
        (&answers[0]["payload"]["code"], &answers[0]["reply_to"]),
        (&json!("timeout"), &json!("q"))
    );
    assert_eq!(world.broker.core.requests.len(), 0);

    world.send(asks, &message("app", "notification", "system", "heartbeat", &json!(null)));
    world.pass(Duration::from_secs(31));
    assert_eq!(world.closed, [silent, worker], "only who was silent for a minute");
    world.pass(Duration::from_secs(60));
    assert_eq!(world.closed, [silent, worker, asks]);
    assert_eq!(world.broker.next_deadline(), None);
    assert_eq!(world.broker.core.router.channels.len(), 0);
    assert_eq!(world.broker.core.router.applications.len(), 0);
}

#[test]
fn a_turn_ends_after_a_bounded_number_of_frames() {
    let mut world = World::new(Limits::default());
    let busy = world.connected("app", "busy");
    let ping = framed(&message("app", "request", "system", "p", &json!({"action": "ping"})));
    world.broker.receive(busy, &ping.repeat(300));
    assert_eq!(world.broker.core.counters.yields, 1);
    assert!(!world.broker.wants_read(busy), "what is kept comes first");
    world.act();
    assert_eq!(world.take(busy).len(), 300);
    assert!(world.broker.wants_read(busy));
}

/// Commands of other threads are the server's own code, but for the closures of an embedder.
#[test]
#[should_panic(expected = "a bug of ours")]
fn a_panic_of_the_server_itself_is_no_handlers() {
    let mut world = World::new(Limits::default());
    world.broker.handlers.remote.post(|_| panic!("a bug of ours"));
    world.broker.run_mailbox();
}

/// Below `closing` nobody closes a connection, so that no verb comes back to itself.
#[test]
#[should_panic(expected = "closes its connection")]
fn an_error_that_closes_is_not_said_without_closing() {
    let mut world = World::new(Limits::default());
    let key = world.connected("app", "me");
    flow::answers::report(&mut world.broker.core, key, &refusal::taken_over());
}
