//! Last values: publications that are kept until the next one takes their place.

use super::histories::{keeping, numbers};
use super::*;

impl World {
    pub(super) fn retain(&mut self, from: ConnectionKey, channel: &str, payload: &Value) {
        let mut publish = message("app", "publish", channel, "p", payload);
        publish["meta"] = json!({"retain": true});
        self.send(from, &publish);
    }
}

#[test]
fn a_value_is_kept_for_who_asks_until_it_is_forgotten() {
    let mut world = World::new(Limits::default());
    let before = world.memory();
    let from = world.topical("from");
    world.retain(from, "v", &json!("old"));
    world.retain(from, "v", &json!("new"));
    world.publish(from, "v", 1..2);
    world.hang_up(from);
    let reads = world.topical("reads");
    let (answer, got) = world.join(reads, "v", &json!({"last": 3}));
    assert_eq!(answer, json!({"status": "subscribed", "recovered": true, "messages": 1}));
    assert_eq!((got.len(), &got[0]["payload"]), (1, &json!("new")));
    assert_eq!(got[0]["meta"], json!({"retain": true}));
    let plain = world.connected("app", "plain");
    world.subscribe(plain, "app", "v");
    world.retain(reads, "v", &json!(null));
    let told = world.take_one(reads);
    assert_eq!((&told["payload"], &told["meta"]), (&json!(null), &json!({"retain": true})));
    assert_eq!(world.take_one(plain).get("meta"), None);
    let late = world.topical("late");
    let (answer, got) = world.join(late, "v", &json!({"last": 1}));
    assert_eq!(answer, json!({"status": "subscribed", "recovered": false, "messages": 0}));
    assert!(got.is_empty());
    for key in [reads, plain, late] {
        world.hang_up(key);
    }
    assert_eq!(world.memory(), before);
    assert_eq!(world.broker.core.last_values.len(), 0);
    assert_eq!(world.broker.core.router.channels.len(), 0);
}

#[test]
fn over_the_bounds_a_value_is_refused_and_not_delivered() {
    let limits = Limits::default().retained_values_max(2).retained_bytes_max(2_000);
    let mut world = World::new(limits);
    let key = world.topical("me");
    for channel in ["a", "b"] {
        world.retain(key, channel, &json!(1));
    }
    world.subscribe(key, "app", "c");
    world.retain(key, "c", &json!(1));
    world.expect_error(key, "limit_exceeded", "p");
    assert_eq!(world.take(key), Vec::<Value>::new());
    // One in place of another is none more.
    world.retain(key, "a", &json!(2));
    world.retain(key, "a", &json!("x".repeat(2_000)));
    world.expect_error(key, "limit_exceeded", "p");
    world.retain(key, "b", &json!(null));
    world.retain(key, "c", &json!("x"));
    assert_eq!(world.take_one(key)["payload"], "x");
    let (_, got) = world.join(key, "a", &json!({"last": 1}));
    assert_eq!(got[0]["payload"], 2, "what was refused changed nothing");
    assert_eq!(world.broker.core.last_values.len(), 2);
}

#[test]
fn a_value_and_a_history_go_together() {
    let mut world = World::new(keeping(3));
    let key = world.topical("me");
    world.retain(key, "h.a", &json!(1));
    world.publish(key, "h.a", 2..4);
    let (answer, got) = world.join(key, "h.a", &json!({"last": 9}));
    assert_eq!((&answer["messages"], numbers(&got)), (&json!(3), (1, vec![1, 2, 3])));
    assert_eq!(got[0]["meta"]["retain"], true);
    world.publish(key, "h.a", 4..9);
    world.take(key);
    // What was forgotten by the history is kept as the last value, and asked for once that is empty.
    let late = world.topical("late");
    let (_, got) = world.join(late, "h.a", &json!({"last": 1}));
    assert_eq!(numbers(&got), (8, vec![8]));
}

#[test]
fn a_slow_reader_gets_a_value_before_what_is_published() {
    let mut world = World::new(Limits::default().queue_high_water_bytes(2 << 10));
    let from = world.topical("from");
    world.retain(from, "v", &json!("state"));
    let slow = world.topical("slow");
    world.subscribe(slow, "app", "noise");
    world.stalled.push(slow);
    world.send(from, &message("app", "publish", "noise", "n", &json!("x".repeat(1_500))));
    world.send(slow, &message("app", "subscribe", "v", "s", &json!({"last": 1})));
    world.publish(from, "v", 1..2);
    assert!(world.broker.wants_read(from));
    world.stalled.clear();
    world.relieve(slow);
    world.act();
    let got: Vec<_> = payloads(&world.take(slow));
    assert_eq!(got[1]["status"], "subscribed");
    assert_eq!(got[2..], [json!("state"), json!(1)]);
}

#[test]
fn kept_messages_go_before_anybody_is_refused() {
    let mut limits = keeping(100_000).memory_bytes_max(4 << 20).frame_bytes_max(1 << 20);
    limits.histories[0].bytes = 64 << 20;
    let mut world = World::new(limits);
    let from = world.topical("from");
    world.retain(from, "v", &json!("x".repeat(1_000)));
    let large = json!("x".repeat(50_000));
    for _ in 0..500 {
        world.send(from, &message("app", "publish", "h.a", "p", &large));
        assert!(world.broker.core.memory_bytes() <= 3 << 20);
    }
    assert_eq!(world.broker.core.stats().memory_pressure, crate::MemoryPressure::None);
    assert_eq!(world.broker.core.last_values.len(), 1);
    let (answer, got) = world.join(from, "h.a", &json!({"last": 100_000}));
    assert_eq!(answer["offset"], 500);
    assert!(got.len() > 20, "{}", got.len());
    assert_eq!(world.broker.core.counters.memory_refusals, 0);
    // Values go only after all histories.
    let reads = world.connected("app", "reads");
    world.subscribe(reads, "app", "noise");
    world.stalled.push(reads);
    for _ in 0..50 {
        world.send(from, &message("app", "publish", "noise", "p", &large));
    }
    let late = world.topical("late");
    let (_, fewer) = world.join(late, "h.a", &json!({"last": 100_000}));
    assert!(fewer.len() < got.len() / 2, "{}", fewer.len());
    assert_eq!(world.broker.core.last_values.len(), 1);
}

#[test]
fn at_the_bound_of_channels_the_values_that_are_oldest_make_room() {
    let mut world = World::new(Limits { channels_max: 5, ..keeping(10) });
    let key = world.topical("me");
    world.publish(key, "h.0", 1..2);
    for channel in ["a", "b", "c", "d", "e", "f"] {
        world.pass(Duration::from_secs(1));
        world.retain(key, channel, &json!(channel));
    }
    let (_, got) = world.join(key, ">", &json!({"pattern": true, "last": 1}));
    let mut left: Vec<_> =
        got.iter().filter_map(|message| message["channel_id"].as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["b", "c", "d", "e", "f"]);
}

#[test]
fn at_the_bound_of_channels_a_channel_is_as_old_as_the_newest_that_it_keeps() {
    let mut world = World::new(Limits { channels_max: 2, ..keeping(10) });
    let key = world.topical("me");
    world.retain(key, "h.a", &json!(1));
    world.pass(Duration::from_secs(5));
    world.retain(key, "b", &json!(2));
    world.pass(Duration::from_secs(5));
    world.publish(key, "h.a", 3..4);
    world.retain(key, "c", &json!(4));
    let (_, got) = world.join(key, ">", &json!({"pattern": true, "last": 1}));
    let mut left: Vec<_> =
        got.iter().filter_map(|message| message["channel_id"].as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["c", "h.a"]);
}

#[test]
fn at_the_bound_of_channels_no_application_takes_what_another_one_keeps() {
    let mut world = World::new(Limits { channels_max: 3, ..keeping(10) });
    let key = world.topical("me");
    for channel in ["a", "b", "c"] {
        world.retain(key, channel, &json!(channel));
    }
    let stranger = world.accept();
    let connect = json!({"action": "connect", "connection_id": "x", "extensions": ["topic"]});
    world.send(stranger, &message("other", "request", "system", "c", &connect));
    world.take(stranger);
    let mut publication = message("other", "publish", "new", "p", &json!(1));
    publication["meta"] = json!({"retain": true});
    world.send(stranger, &publication);
    world.expect_error(stranger, "limit_exceeded", "p");
    let (_, got) = world.join(key, ">", &json!({"pattern": true, "last": 1}));
    assert_eq!(got.len(), 3);
}
