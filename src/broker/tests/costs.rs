//! What costs time per subscriber, channel or byte is counted as work of the turn, on each way, so that
//! a turn ends in time whatever fills it.

use super::*;
use crate::HistoryRule;
use crate::broker::state::topic::session::Pending;
use crate::broker::turn_limits::META_BYTES_PER_WORK;

const MANY: usize = 60;

impl World {
    /// The work of what a function has the server do.
    fn work_of(&mut self, act: impl FnOnce(&mut Self)) -> usize {
        let before = self.broker.core.turn.work_done();
        act(self);
        (self.broker.core.turn.work_done() - before) as usize
    }

    fn many(&mut self, subscribe: impl Fn(&mut Self, ConnectionKey)) -> Vec<ConnectionKey> {
        let connect = |at| {
            let key = self.accept();
            let id = format!("{at}");
            let connect =
                json!({"action": "connect", "connection_id": id, "extensions": ["topic"]});
            self.send(key, &message("app", "request", "system", "c", &connect));
            subscribe(self, key);
            self.take(key);
            key
        };
        (0..MANY).map(connect).collect()
    }
}

fn publication(channel: &str) -> Value {
    message("app", "publish", channel, "p", &json!("news"))
}

#[test]
fn a_publication_is_a_piece_of_work_for_each_of_its_subscribers() {
    for way in ["plain", "pattern", "history", "conflating"] {
        let rules = [HistoryRule::new("app", "kept.*").messages(9)];
        let mut world = World::new(Limits::default().histories(rules));
        let channel = if way == "history" { "kept.a" } else { "news.a" };
        let payload = match way {
            "conflating" => json!({"conflate": true}),
            _ => json!({"pattern": way == "pattern"}),
        };
        let name = if way == "pattern" { "news.*" } else { channel };
        world.many(|world, key| {
            world.send(key, &message("app", "subscribe", name, "s", &payload));
        });
        let publisher = world.connected("app", "publisher");
        let one = world.work_of(|world| world.send(publisher, &publication(channel)));
        assert!((MANY..3 * MANY).contains(&one), "{way}: {one}");
        let three = framed(&publication(channel)).repeat(3);
        let three = world.work_of(|world| world.deliver(publisher, &three));
        // Those of one read may share their way.
        assert!((MANY..9 * MANY).contains(&three), "{way}: {three}");
    }
}

#[test]
fn what_a_slow_reader_is_sent_later_is_work_then() {
    const CHANNELS: usize = 40;
    let mut world = World::new(Limits { queue_high_water_bytes: 4_096, ..Limits::default() });
    let slow = world.many(|world, key| {
        let payload = json!({"pattern": true, "conflate": true});
        world.send(key, &message("app", "subscribe", "news.*", "s", &payload));
    })[0];
    let publisher = world.connected("app", "publisher");
    world.stalled.push(slow);
    for round in 0..6 {
        for at in 0..CHANNELS {
            let payload = json!([round, "x".repeat(100)]);
            world.send(publisher, &message("app", "publish", &format!("news.{at}"), "p", &payload));
        }
    }
    let waiting = world.connection(slow).pending().map_or(0, Pending::len);
    assert!(waiting > CHANNELS / 2, "{waiting}");
    let work = world.work_of(|world| {
        while world.connection(slow).pending().is_some_and(|pending| !pending.is_empty()) {
            world.relieve(slow);
            world.act();
        }
    });
    assert!(work >= waiting, "{work} for {waiting}");
}

#[test]
fn what_was_kept_is_work_for_who_asks_for_it() {
    let rules = [HistoryRule::new("app", "kept.*").messages(500)];
    let mut world = World::new(Limits::default().histories(rules));
    let publisher = world.connected("app", "publisher");
    for _ in 0..10 {
        world.deliver(publisher, &framed(&publication("kept.a")).repeat(50));
    }
    let late = world.many(|_, _| {})[0];
    let work = world.work_of(|world| {
        world.send(late, &message("app", "subscribe", "kept.a", "s", &json!({"last": 500})));
        world.pass(Duration::ZERO);
    });
    assert_eq!(world.take(late).len(), 501);
    let bytes = 500 * framed(&publication("kept.a")).len();
    assert!(work >= bytes / 1_024, "{work}");
}

#[test]
fn a_meta_is_work_by_its_bytes_and_so_is_each_word_to_a_worker() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    let value = "v".repeat(1_000);
    let meta = json!({"headers": {"a": value}});
    let work = world.work_of(|world| world.call(asks, "q", &meta));
    assert!(work >= 1_000 / META_BYTES_PER_WORK, "{work}");
    assert_eq!(world.take(worker).len(), 1);
    // A credit is a message to a worker.
    world.call(asks, "stream", &json!({"stream": 1}));
    world.take(worker);
    let credit = json!({"action": "credit", "message_id": "stream", "n": 1});
    let work = world.work_of(|world| world.notify(asks, &credit));
    assert_eq!((work, world.take(worker).len()), (1, 1));
    // And so is a cancel, whose requests are looked for.
    let work = world.work_of(|world| world.cancel(asks, "stream"));
    assert_eq!((work, world.take(worker).len()), (2, 1));
}
