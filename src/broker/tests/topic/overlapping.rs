//! Subscriptions and patterns of one connection that meet at one channel while it is sent what was kept of it.

use super::histories::{keeping, numbers};
use super::*;

/// Publishes 1 to 200, and has a connection begin to read them by this subscribe, which it does not go on
/// with. Then 201 is published, and `meanwhile` happens, and 202 is published, and it reads on. Returns the
/// numbers that it got.
fn read_on(
    channel: &str,
    ask: &Value,
    meanwhile: impl FnOnce(&mut World, ConnectionKey),
) -> Vec<u64> {
    let mut world = World::new(keeping(1_000).queue_high_water_bytes(4 << 10));
    let from = world.topical("from");
    world.publish(from, "h.a", 1..201);
    let slow = world.topical("slow");
    world.stalled.push(slow);
    world.send(slow, &message("app", "subscribe", channel, "s", ask));
    world.publish(from, "h.a", 201..202);
    meanwhile(&mut world, slow);
    world.publish(from, "h.a", 202..203);
    world.stalled.clear();
    world.relieve(slow);
    world.act();
    assert_eq!(world.closed, []);
    let got = world.take(slow);
    let publications = got.into_iter().filter(|message| message["message_type"] == "publish");
    numbers(&publications.collect::<Vec<_>>()).1
}

fn all() -> Vec<u64> {
    (1..203).collect()
}

#[test]
fn a_channel_that_is_given_up_is_still_heard_through_a_pattern_without_a_gap() {
    let ask = json!({"last": 1_000});
    let got = read_on("h.a", &ask, |world, slow| {
        let pattern = json!({"pattern": true});
        world.send(slow, &message("app", "subscribe", "h.*", "s", &pattern));
        world.send(slow, &message("app", "unsubscribe", "h.a", "u", &json!({})));
    });
    assert_eq!(got, all());
}

#[test]
fn a_pattern_that_is_given_up_leaves_no_gap_for_another_one_or_for_the_channel() {
    let ask = json!({"pattern": true, "last": 1_000});
    for (kept, payload) in [("h.>", json!({"pattern": true})), ("h.a", json!({}))] {
        let got = read_on("h.*", &ask, |world, slow| {
            world.send(slow, &message("app", "subscribe", kept, "s", &payload));
            let pattern = json!({"pattern": true});
            world.send(slow, &message("app", "unsubscribe", "h.*", "u", &pattern));
        });
        assert_eq!(got, all(), "{kept}");
    }
}

#[test]
fn a_later_pattern_does_not_take_what_an_earlier_one_is_sent_along() {
    let ask = json!({"pattern": true, "last": 1_000});
    let got = read_on("h.*", &ask, |world, slow| {
        let pattern = json!({"pattern": true});
        for kind in ["subscribe", "unsubscribe"] {
            world.send(slow, &message("app", kind, ">", "s", &pattern));
        }
    });
    assert_eq!(got, all());
}

#[test]
fn who_asks_for_less_of_a_channel_than_it_is_still_sent_is_sent_all_the_same() {
    let ask = json!({"pattern": true, "last": 1_000});
    let got = read_on("h.*", &ask, |world, slow| {
        world.send(slow, &message("app", "subscribe", "h.a", "s", &json!({"last": 1})));
    });
    assert_eq!(got, all());
}

#[test]
fn the_answer_counts_what_a_pattern_is_still_sent_of_the_channel() {
    let mut world = World::new(keeping(1_000).queue_high_water_bytes(4 << 10));
    let from = world.topical("from");
    world.publish(from, "h.a", 1..201);
    let slow = world.topical("slow");
    world.stalled.push(slow);
    let ask = json!({"pattern": true, "last": 1_000});
    world.send(slow, &message("app", "subscribe", "h.*", "first", &ask));
    world.send(slow, &message("app", "subscribe", "h.a", "second", &json!({"last": 1})));
    world.stalled.clear();
    world.relieve(slow);
    world.act();
    let got = world.take(slow);
    let at = got.iter().position(|message| message["reply_to"] == "second").expect("an answer");
    let (before, after) = got.split_at(at);
    assert!(before.len() > 2 && after.len() > 2, "{} and {}", before.len(), after.len());
    assert_eq!(after[0]["payload"]["messages"], after.len() - 1);
}

#[test]
fn who_is_sent_what_becomes_too_old_is_closed_before_the_channel_begins_anew() {
    let age = Duration::from_secs(10);
    let mut limits = keeping(1_000).queue_high_water_bytes(4 << 10).idle_timeout(None);
    limits.histories[0].age = Some(age);
    let mut world = World::new(limits);
    let from = world.topical("from");
    world.publish(from, "h.a", 1..201);
    let slow = world.topical("slow");
    world.stalled.push(slow);
    let ask = json!({"pattern": true, "last": 1_000});
    world.send(slow, &message("app", "subscribe", "h.*", "s", &ask));
    world.pass(age);
    assert_eq!(world.closed, [slow]);
    // What is too old already, and was sent, closes nobody.
    let quick = world.topical("quick");
    world.publish(from, "h.a", 1..3);
    world.send(quick, &message("app", "subscribe", "h.*", "s", &ask));
    world.pass(age);
    world.publish(from, "h.a", 3..4);
    assert_eq!(world.take(quick).len(), 4);
}

#[test]
fn a_last_value_that_is_forgotten_leaves_no_bytes_counted() {
    let mut world = World::new(Limits::default());
    let (from, reader) = (world.topical("from"), world.topical("reader"));
    world.want_pattern(reader, "a.*");
    let before = world.broker.core.router.bytes;
    for payload in [json!(1), json!(null), json!(2), json!(null)] {
        let mut value = message("app", "publish", "a.b", "p", &payload);
        value["meta"] = json!({"retain": true});
        world.send(from, &value);
    }
    assert_eq!(world.heard(reader).len(), 4);
    assert_eq!(world.broker.core.router.channels.len(), 0);
    assert_eq!(world.broker.core.router.bytes, before);
}

#[test]
fn a_listing_counts_those_who_conflate() {
    let mut world = World::new(Limits::default());
    let keys = [world.topical("a"), world.topical("b")];
    world.want(keys[0], "c", json!({"conflate": true}));
    world.want(keys[1], "c", json!({}));
    let list = json!({"action": "list_channels"});
    world.send(keys[0], &message("app", "request", "system", "l", &list));
    assert_eq!(world.take_one(keys[0])["payload"]["c"]["subscribers"], 2);
}
