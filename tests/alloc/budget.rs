//! Everything that peers make the broker keep counts towards `Limits::memory_bytes_max`, with at
//! least the bytes that the allocator gave.

use std::collections::HashSet;

use ipc_framework::broker::{ConnectionKey, Limits};

use super::memory::Turns;
use super::{frame_of, frame_with_id};

/// Names of a length that programs commonly use.
const NAME_BYTES: usize = 40;
/// If the budget counted more than so many times the real cost, it would shut the server too early.
const EXCESS_MAX: usize = 5;

pub(super) struct Hoard {
    pub(super) turns: Turns,
    /// Connections that read nothing.
    pub(super) stalled: HashSet<ConnectionKey>,
    connections: usize,
}

impl Hoard {
    fn with(limits: Limits) -> Self {
        let limits = limits.connections_max(100_000);
        Self { turns: Turns::new(limits), stalled: HashSet::new(), connections: 0 }
    }

    pub(super) fn say(&mut self, from: ConnectionKey, bytes: &[u8]) {
        let stalled = &self.stalled;
        self.turns.receive(from, bytes, |key, _| !stalled.contains(&key));
    }

    fn connect_to(&mut self, app: &str) -> ConnectionKey {
        self.connect_with(app, "")
    }

    /// Connects with more members in the payload, which begin with a comma.
    pub(super) fn connect_with(&mut self, app: &str, members: &str) -> ConnectionKey {
        let key = self.turns.accept();
        self.connections += 1;
        let id = name("connection", self.connections);
        let payload = format!(r#"{{"action":"connect","connection_id":"{id}"{members}}}"#);
        self.say(key, &frame_of(app, "request", "system", &payload));
        key
    }

    fn connect(&mut self) -> ConnectionKey {
        self.connect_to("app")
    }

    pub(super) fn tell(&mut self, from: ConnectionKey, kind: &str, channel: &str, payload: &str) {
        self.say(from, &frame_of("app", kind, channel, payload));
    }

    fn serve(&mut self, worker: ConnectionKey, channel: &str) {
        let payload = format!(r#"{{"action":"serve","channel":"{channel}"}}"#);
        self.tell(worker, "request", "system", &payload);
    }
}

pub(super) fn name(kind: &str, number: usize) -> String {
    format!("{kind}-{number:x>width$}", width = NAME_BYTES - kind.len() - 1)
}

/// Compares the memory that `hoard` makes the broker keep with the memory that the budget counts
/// for it.
fn assert_counted(
    what: &str,
    prepare: impl FnOnce(&mut Hoard) -> Vec<ConnectionKey>,
    hoard: impl FnOnce(&mut Hoard, &[ConnectionKey]),
) {
    assert_counted_with(Limits::default(), what, prepare, hoard);
}

pub(super) fn assert_counted_with(
    limits: Limits,
    what: &str,
    prepare: impl FnOnce(&mut Hoard) -> Vec<ConnectionKey>,
    hoard: impl FnOnce(&mut Hoard, &[ConnectionKey]),
) {
    let mut held = Hoard::with(limits);
    let prepared = prepare(&mut held);
    let before = held.turns.memory_bytes();
    let info = allocation_counter::measure(|| hoard(&mut held, &prepared));
    let taken = usize::try_from(info.bytes_current).unwrap();
    let counted = held.turns.memory_bytes() - before;
    println!("{what}: {taken} B taken, {counted} B counted");
    assert!(taken > 100_000, "{what}: nothing is kept");
    assert!(counted >= taken, "{what} take {taken} B and count as {counted} B");
    assert!(counted <= taken * EXCESS_MAX, "{what} take {taken} B and count as {counted} B");
}

fn nobody(_: &mut Hoard) -> Vec<ConnectionKey> {
    Vec::new()
}

#[test]
fn connections() {
    assert_counted("strangers", nobody, |held, _| {
        for _ in 0..4_100 {
            held.turns.accept();
        }
    });
    assert_counted("clients", nobody, |held, _| {
        for _ in 0..4_100 {
            held.connect();
        }
    });
    assert_counted("clients with an application each", nobody, |held, _| {
        for at in 0..2_050 {
            held.connect_to(&name("app", at));
        }
    });
}

#[test]
fn channels() {
    let few = |held: &mut Hoard| (0..3).map(|_| held.connect()).collect();
    assert_counted("channels and a subscription to each", few, |held, peers| {
        for (at, peer) in peers.iter().enumerate() {
            for n in 0..2_740 {
                held.tell(*peer, "subscribe", &name("c", at * 10_000 + n), "{}");
            }
        }
    });
    assert_counted("subscriptions to many channels", few, |held, peers| {
        for peer in peers {
            for n in 0..2_740 {
                held.tell(*peer, "subscribe", &name("c", n), "{}");
            }
        }
    });
    assert_counted("clients with a subscription each", nobody, |held, _| {
        for _ in 0..4_100 {
            let peer = held.connect();
            held.tell(peer, "subscribe", "news", "{}");
        }
    });
    assert_counted("clients that serve", nobody, |held, _| {
        for _ in 0..1_030 {
            let worker = held.connect();
            (0..5).for_each(|n| held.serve(worker, &name("work", n)));
        }
    });
}

#[test]
fn requests() {
    for id_bytes in [8, 36, 200] {
        let served = |held: &mut Hoard| {
            let worker = held.connect();
            held.serve(worker, "work");
            (0..10).map(|_| held.connect()).collect()
        };
        assert_counted(&format!("requests with ids of {id_bytes} B"), served, |held, peers| {
            for (at, peer) in peers.iter().enumerate() {
                for n in 0..820 {
                    let id = format!("{:x>id_bytes$}", at * 1_000 + n);
                    held.say(*peer, &frame_with_id(&id, "app", "request", "work", "{}", "null"));
                }
            }
        });
    }
}

#[test]
fn kept_requests() {
    for bytes in [10, 1_000, 5_000] {
        let served = |held: &mut Hoard| {
            let worker = held.connect();
            let serve = r#"{"action":"serve","channel":"work","concurrency":1}"#;
            held.tell(worker, "request", "system", serve);
            (0..10).map(|_| held.connect()).collect()
        };
        let payload = format!("\"{}\"", "x".repeat(bytes));
        assert_counted(&format!("kept requests of {bytes} B"), served, |held, peers| {
            for peer in peers {
                (0..1_000_000 / (bytes + 1_500) / 5).for_each(|_| {
                    held.tell(*peer, "request", "work", &payload);
                });
            }
        });
    }
}

#[test]
fn bytes() {
    assert_counted("unfinished messages", nobody, |held, _| {
        let message = frame_of("app", "publish", "news", &format!("\"{}\"", "x".repeat(20_000)));
        for _ in 0..300 {
            let peer = held.connect();
            held.say(peer, &message[..10_000]);
        }
    });
    for (times, bytes) in [(300, 100), (100, 5_000), (17, 60_000)] {
        let payload = format!("\"{}\"", "x".repeat(bytes));
        assert_counted(&format!("queues of messages of {bytes} B"), nobody, |held, _| {
            let publisher = held.connect();
            for _ in 0..300 {
                let peer = held.connect();
                held.tell(peer, "subscribe", "news", "{}");
                held.stalled.insert(peer);
            }
            (0..times).for_each(|_| held.tell(publisher, "publish", "news", &payload));
        });
    }
}
