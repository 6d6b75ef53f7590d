//! Histories, and subscribers that ask for what was before them.

use super::*;
use crate::HistoryRule;
use crate::broker::state::budget::REPLAY_BYTES;

/// Channels `h…` of `app` keep so many messages.
pub(super) fn keeping(messages: usize) -> Limits {
    Limits::default().histories([HistoryRule::new("app", "h.*").messages(messages)])
}

impl World {
    /// Publishes numbers on a channel.
    pub(super) fn publish(
        &mut self,
        from: ConnectionKey,
        channel: &str,
        numbers: std::ops::Range<u64>,
    ) {
        let frames: Vec<u8> = numbers
            .flat_map(|number| framed(&message("app", "publish", channel, "p", &json!(number))))
            .collect();
        self.deliver(from, &frames);
    }

    /// Subscribes, and returns the answer and what came with it.
    pub(super) fn join(
        &mut self,
        key: ConnectionKey,
        channel: &str,
        payload: &Value,
    ) -> (Value, Vec<Value>) {
        self.send(key, &message("app", "subscribe", channel, "s", payload));
        let mut messages = self.take(key);
        assert!(!messages.is_empty(), "no answer");
        let answer = messages.remove(0);
        assert_eq!(answer["reply_to"], "s");
        (answer["payload"].clone(), messages)
    }

    pub(super) fn memory(&self) -> usize {
        let core = &self.broker.core;
        core.memory_bytes() - core.pool.free_bytes()
    }
}

/// Returns the numbers of publications whose offsets follow one another, and the first offset.
pub(super) fn numbers(messages: &[Value]) -> (u64, Vec<u64>) {
    let offset = |message: &Value| message["meta"]["offset"].as_u64().expect("an offset");
    let first = messages.first().map_or(0, offset);
    for (message, expected) in messages.iter().zip(first..) {
        assert_eq!(offset(message), expected, "{messages:?}");
    }
    (first, messages.iter().map(|message| message["payload"].as_u64().unwrap()).collect())
}

#[test]
fn publications_have_places_for_those_who_know_them_and_others_get_what_was_sent() {
    let mut world = World::new(keeping(10));
    let plain = world.connected("app", "plain");
    let topical = world.topical("topical");
    let called = world.extended("called");
    for key in [plain, topical, called] {
        world.subscribe(key, "app", "h.a");
    }
    for count in [1, 3] {
        world.publish(plain, "h.a", 0..count);
        let expected: Vec<u8> = (0..count)
            .flat_map(|number| framed(&message("app", "publish", "h.a", "p", &json!(number))))
            .collect();
        assert_eq!(world.received[&plain], expected);
        assert_eq!(world.received[&called], expected);
        world.take(plain);
        world.take(called);
        let got = world.take(topical);
        assert_eq!(numbers(&got).1, (0..count).collect::<Vec<_>>());
        let epoch = got[0]["meta"]["epoch"].as_str().unwrap().to_owned();
        assert_eq!(epoch.len(), 12);
        assert_eq!(
            got[0]["meta"],
            json!({"epoch": epoch, "offset": if count == 1 { 1 } else { 2 }})
        );
    }
    // A channel without a history stays as it was.
    world.subscribe(topical, "app", "other");
    world.publish(plain, "other", 0..1);
    assert_eq!(world.take_one(topical).get("meta"), None);
}

#[test]
fn who_comes_later_gets_what_it_asks_for_and_then_what_is_new() {
    // The random source is the same in each world, and so is the epoch.
    let mut world = World::new(keeping(5));
    let from = world.topical("from");
    world.publish(from, "h.a", 1..9);
    let epoch = {
        let key = world.topical("looks");
        let (answer, got) = world.join(key, "h.a", &json!({"ack": true}));
        assert!(got.is_empty());
        assert_eq!(answer["offset"], 8);
        assert_eq!(answer.get("recovered"), None);
        answer["epoch"].as_str().unwrap().to_owned()
    };
    let since = |offset: u64| json!({"since": {"epoch": epoch, "offset": offset}});
    let other = json!({"epoch": "other", "offset": 8});
    for (asked, recovered, expected) in [
        (json!({"last": 1}), true, 8..9),
        (json!({"last": 3}), true, 6..9),
        (json!({"last": 100}), true, 4..9),
        (since(8), true, 9..9),
        (since(7), true, 8..9),
        (since(3), true, 4..9),
        (since(2), false, 9..9),
        (since(0), false, 9..9),
        (since(9), false, 9..9),
        (since(u64::MAX), false, 9..9),
        (json!({"since": other}), false, 9..9),
        (json!({"since": other, "last": 2}), false, 7..9),
        (json!({"since": {"epoch": epoch, "offset": 5}, "last": 1}), true, 6..9),
    ] {
        let key = world.topical("asks");
        let (answer, mut got) = world.join(key, "h.a", &asked);
        let messages = expected.end - expected.start;
        let shape = json!({"status": "subscribed", "epoch": epoch, "offset": 8,
            "recovered": recovered, "messages": messages});
        assert_eq!(answer, shape, "{asked}");
        world.publish(from, "h.a", 9..11);
        got.extend(world.take(key));
        // The others come first.
        let all = numbers(&got);
        assert_eq!(all, (expected.start, (expected.start..11).collect()), "{asked}");
        world.hang_up(key);
        world = {
            let mut again = World::new(keeping(5));
            let from_again = again.topical("from");
            assert_eq!(from_again, from);
            again.publish(from, "h.a", 1..9);
            let key = again.topical("looks");
            assert_eq!(again.join(key, "h.a", &json!({"ack": true})).0["epoch"], epoch.as_str());
            again
        };
    }
}

#[test]
fn a_connection_without_the_extension_gets_no_part_of_it() {
    let mut world = World::new(keeping(5));
    let plain = world.connected("app", "plain");
    world.publish(plain, "h.a", 1..4);
    let (answer, got) = world.join(plain, "h.a", &json!({"ack": true, "last": 2}));
    assert_eq!((answer, got), (json!({"status": "subscribed"}), vec![]));
}

#[test]
fn who_hears_a_channel_cannot_ask_for_its_past() {
    let mut world = World::new(keeping(5));
    let key = world.topical("me");
    world.publish(key, "h.a", 1..4);
    world.subscribe(key, "app", "h.a");
    for asked in [json!({"last": 1}), json!({"since": {"epoch": "x", "offset": 0}})] {
        world.send(key, &message("app", "subscribe", "h.a", "s", &asked));
        world.expect_error(key, "bad_message", "s");
    }
    // In one write, after it unsubscribed, it can.
    let both = [
        framed(&message("app", "unsubscribe", "h.a", "u", &json!({}))),
        framed(&message("app", "subscribe", "h.a", "s", &json!({"last": 2}))),
        framed(&message("app", "unsubscribe", "h.a", "u", &json!({}))),
        framed(&message("app", "subscribe", "h.a", "s", &json!({"last": 1}))),
    ]
    .concat();
    world.deliver(key, &both);
    let got = world.take(key);
    assert_eq!(got[0]["payload"]["recovered"], true);
    world.publish(key, "h.a", 4..5);
    assert_eq!(numbers(&world.take(key)).1, [4]);
}

#[test]
fn a_history_outlives_its_subscribers_and_returns_its_memory() {
    let mut world =
        World::new(Limits::default().histories([
            HistoryRule::new("app", "h.*").messages(100).age(Duration::from_secs(60)),
        ]));
    let before = world.memory();
    let from = world.topical("from");
    world.publish(from, "h.a", 1..50);
    world.hang_up(from);
    assert!(world.memory() > before);
    assert_eq!(world.broker.core.router.channels.len(), 1);
    world.pass(Duration::from_secs(30));
    let reads = world.topical("reads");
    let (answer, got) = world.join(reads, "h.a", &json!({"last": 1_000}));
    assert_eq!((&answer["offset"], got.len()), (&json!(49), 49));
    world.hang_up(reads);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.broker.core.router.channels.len(), 0);
    assert_eq!(world.memory(), before);
    assert_eq!(world.broker.next_deadline(), None);
    // It is another history.
    let again = world.topical("again");
    world.publish(again, "h.a", 1..2);
    let (answer_again, _) = world.join(again, "h.a", &json!({"ack": true}));
    assert_eq!(answer_again["offset"], 1);
    assert_ne!(answer_again["epoch"], answer["epoch"]);
}

#[test]
fn a_reader_that_stalls_gets_all_in_order_and_holds_nobody_back() {
    let mut world = World::new(keeping(1_000).queue_high_water_bytes(4 << 10));
    let from = world.topical("from");
    world.publish(from, "h.a", 1..101);
    let slow = world.topical("slow");
    world.stalled.push(slow);
    world.send(slow, &message("app", "subscribe", "h.a", "s", &json!({"last": 1_000})));
    let queued = world.broker.queued_bytes(slow);
    assert!((1..=4 << 10).contains(&queued), "{queued}");
    for number in 101..201 {
        world.publish(from, "h.a", number..number + 1);
        assert!(world.broker.wants_read(from), "a replay holds nobody back");
    }
    assert!(world.broker.queued_bytes(slow) <= 4 << 10);
    world.stalled.clear();
    world.relieve(slow);
    world.act();
    let mut got = world.take(slow);
    assert_eq!(got.remove(0)["payload"]["messages"], 100);
    assert_eq!(numbers(&got), (1, (1..201).collect()));
    world.publish(from, "h.a", 201..202);
    assert_eq!(numbers(&world.take(slow)), (201, vec![201]));
    assert!(world.closed.is_empty());
}

#[test]
fn who_is_overtaken_is_closed_and_who_reads_is_not() {
    let mut world = World::new(keeping(50).queue_high_water_bytes(4 << 10));
    let from = world.topical("from");
    world.publish(from, "h.a", 1..51);
    let (slow, quick) = (world.topical("slow"), world.topical("quick"));
    world.stalled.push(slow);
    for key in [slow, quick] {
        world.send(key, &message("app", "subscribe", "h.a", "s", &json!({"last": 1_000})));
    }
    let mut number = 51;
    while world.closed.is_empty() {
        world.publish(from, "h.a", number..number + 1);
        number += 1;
        assert!(number < 200, "it is not closed");
    }
    assert_eq!(world.closed, [slow]);
    assert_eq!(world.broker.core.counters.slow_consumers, 1);
    let got = world.take(quick);
    assert_eq!(numbers(&got[1..]), (1, (1..number).collect()));
    // The other's queue held what was first, and nothing else.
    world.received.remove(&slow);
}

#[test]
fn a_run_longer_than_the_ring_overtakes_nobody_who_reads() {
    let mut world = World::new(keeping(2));
    let from = world.topical("from");
    world.publish(from, "h.a", 1..3);
    let reads = world.topical("reads");
    // The replay waits for its turn.
    world.broker.core.turn.queue_replay_of_nobody();
    world
        .broker
        .receive(reads, &framed(&message("app", "subscribe", "h.a", "s", &json!({"last": 2}))));
    world.publish(from, "h.a", 3..33);
    let got = world.take(reads);
    assert_eq!(numbers(&got[1..]), (1, (1..33).collect()));
    assert!(world.closed.is_empty());
}

#[test]
fn a_message_over_the_bound_is_delivered_and_leaves_no_gap() {
    let rule = HistoryRule::new("app", "h.*").bytes(1_000);
    let mut world = World::new(Limits::default().histories([rule]));
    let key = world.topical("me");
    world.publish(key, "h.a", 1..3);
    let (answer, _) = world.join(key, "h.a", &json!({"last": 5}));
    let large = json!("x".repeat(2_000));
    world.send(key, &message("app", "publish", "h.a", "p", &large));
    let got = world.take_one(key);
    assert_eq!((&got["payload"], &got["meta"]["offset"]), (&large, &json!(3)));
    world.publish(key, "h.a", 4..5);
    let late = world.topical("late");
    for (offset, recovered) in [(2, false), (3, true)] {
        let since = json!({"since": {"epoch": answer["epoch"], "offset": offset}});
        let (again, got) = world.join(late, "h.a", &since);
        assert_eq!((&again["recovered"], got.len()), (&json!(recovered), usize::from(recovered)));
        world.send(late, &message("app", "unsubscribe", "h.a", "u", &json!({})));
    }
}

#[test]
fn a_publication_is_acknowledged_with_its_place() {
    let mut world = World::new(keeping(5));
    let key = world.topical("me");
    for (channel, expected) in [
        ("h.a", json!({"status": "published", "offset": 1})),
        ("h.a", json!({"status": "published", "offset": 2})),
        ("nobody", json!({"status": "published"})),
    ] {
        let mut publish = message("app", "publish", channel, "p", &json!(1));
        publish["meta"] = json!({"ack": true});
        world.send(key, &publish);
        let mut answer = world.take_one(key);
        assert_eq!(
            (&answer["reply_to"], &answer["message_type"]),
            (&json!("p"), &json!("response"))
        );
        let epoch = answer["payload"].as_object_mut().unwrap().remove("epoch");
        assert_eq!(epoch.is_some(), channel == "h.a");
        assert_eq!(answer["payload"], expected);
    }
    let (_, got) = world.join(key, "h.a", &json!({"last": 1}));
    assert_eq!(got[0]["meta"].get("ack"), None, "it is between publisher and server");
    let called = world.extended("called");
    for meta in [json!({"ack": true}), json!({"retain": true}), json!({"epoch": "a", "offset": 1})]
    {
        let mut publish = message("app", "publish", "h.a", "p", &json!(1));
        publish["meta"] = meta;
        world.send(called, &publish);
        world.expect_error(called, "bad_message", "p");
    }
}

#[test]
fn a_reload_changes_histories() {
    let mut world = World::new(keeping(10));
    let key = world.topical("me");
    world.publish(key, "h.a", 1..11);
    let (first, got) = world.join(key, "h.a", &json!({"last": 100}));
    assert_eq!(got.len(), 10);
    let ask = |world: &mut World, limits: Limits| {
        world.broker.reconfigure(limits, Access::default());
        world.act();
        let late = world.topical("late");
        let (answer, got) = world.join(late, "h.a", &json!({"last": 100}));
        world.hang_up(late);
        (answer, got.len())
    };
    let (lowered, count) = ask(&mut world, keeping(3));
    assert_eq!((&lowered["epoch"], count), (&first["epoch"], 3));
    let (raised, count) = ask(&mut world, keeping(20));
    assert_eq!((&raised["epoch"], count), (&first["epoch"], 3));
    let (removed, count) = ask(&mut world, Limits::default());
    assert_eq!((removed.get("epoch"), &removed["recovered"], count), (None, &json!(false), 0));
    let (again, count) = ask(&mut world, keeping(10));
    assert_ne!(again["epoch"], first["epoch"]);
    assert_eq!((&again["offset"], count), (&json!(0), 0));
    world.take(key);
    world.publish(key, "h.a", 11..12);
    assert_eq!(numbers(&world.take(key)), (1, vec![11]));
}

/// Publishes so many messages, and begins to send them to one who does not read. Then `meanwhile`
/// happens, and it reads: it must be closed, because it cannot get all.
fn assert_ends_the_replay(messages: u64, meanwhile: impl FnOnce(&mut World, ConnectionKey)) {
    let mut world = World::new(keeping(1_000).queue_high_water_bytes(4 << 10));
    let from = world.topical("from");
    world.publish(from, "h.a", 1..messages + 1);
    let slow = world.topical("slow");
    world.stalled.push(slow);
    world.send(slow, &message("app", "subscribe", "h.a", "s", &json!({"last": 1_000})));
    meanwhile(&mut world, from);
    world.stalled.clear();
    world.relieve(slow);
    world.act();
    assert_eq!(world.closed, [slow]);
    assert_eq!(world.broker.core.counters.slow_consumers, 1);
}

#[test]
fn a_history_lowered_in_the_middle_of_a_replay_closes_who_cannot_get_all() {
    assert_ends_the_replay(100, |world, _| {
        let limits = keeping(10).queue_high_water_bytes(4 << 10);
        world.broker.reconfigure(limits, Access::default());
    });
}

#[test]
fn a_history_that_is_taken_and_given_again_does_not_go_on_with_the_replay_of_the_one_before() {
    assert_ends_the_replay(200, |world, from| {
        let limits = Limits::default().queue_high_water_bytes(4 << 10);
        world.broker.reconfigure(limits, Access::default());
        let limits = keeping(1_000).queue_high_water_bytes(4 << 10);
        world.broker.reconfigure(limits, Access::default());
        // The offsets of the new ring reach those that the reader has still to get.
        world.publish(from, "h.a", 1..301);
    });
}

#[test]
fn who_is_sent_what_was_kept_of_many_channels_holds_memory_for_it() {
    let mut world = World::new(keeping(10).queue_high_water_bytes(4 << 10));
    let from = world.topical("from");
    for channel in 0..500 {
        world.publish(from, &format!("h.{channel}"), 1..2);
    }
    let slow = world.topical("slow");
    world.stalled.push(slow);
    let before = world.memory();
    let ask = json!({"pattern": true, "last": 1});
    world.send(slow, &message("app", "subscribe", "h.*", "s", &ask));
    let connection = world.broker.core.connections.get(slow).unwrap();
    let held = crate::broker::flow::memory::held_bytes(connection);
    assert!(held > 400 * REPLAY_BYTES, "{held}");
    assert!(world.memory() > before + 400 * REPLAY_BYTES);
    world.send(slow, &message("app", "unsubscribe", "h.*", "u", &json!({"pattern": true})));
    let connection = world.broker.core.connections.get(slow).unwrap();
    assert!(!connection.is_replaying);
    assert!(crate::broker::flow::memory::held_bytes(connection) < 400 * REPLAY_BYTES);
}

#[test]
fn who_leaves_in_the_middle_leaves_nothing_behind() {
    let mut world = World::new(keeping(1_000).queue_high_water_bytes(4 << 10));
    let from = world.topical("from");
    world.publish(from, "h.a", 1..201);
    let before = world.memory();
    for how in 0..4 {
        let slow = world.topical("slow");
        world.stalled.push(slow);
        world.send(slow, &message("app", "subscribe", "h.a", "s", &json!({"last": 1_000})));
        match how {
            0 => world.hang_up(slow),
            1 => {
                let newer = world.topical("slow");
                world.stalled.clear();
                world.relieve(slow);
                world.act();
                world.hang_up(newer);
                world.hang_up(slow);
            }
            2 => {
                world.send(slow, &message("app", "unsubscribe", "h.a", "u", &json!({})));
                world.stalled.clear();
                world.relieve(slow);
                world.act();
                world.publish(from, "h.a", 1..2);
                let got = world.take(slow);
                assert!(got.len() < 200 && numbers(&got[1..]).0 == 1, "it ended there");
                world.hang_up(slow);
            }
            _ => {
                let mut context = world.broker.context();
                assert!(context.remove_channel("app", "h.a"));
                world.act();
                world.hang_up(slow);
                assert!(world.memory() < before);
                return;
            }
        }
        world.stalled.clear();
        world.received.clear();
        world.act();
        let after = world.memory();
        assert!(after.abs_diff(before) < 1 << 10, "{how}: {after} after {before}");
    }
}

#[test]
fn a_thousand_who_come_back_starve_nobody() {
    let mut world = World::new(keeping(1_000));
    let from = world.topical("from");
    world.publish(from, "h.a", 1..301);
    let asks = world.connected("app", "asks");
    let keys: Vec<_> = (0..1_000).map(|at| world.topical(&at.to_string())).collect();
    let subscribe = framed(&message("app", "subscribe", "h.a", "s", &json!({"last": 300})));
    world.broker.begin_turn(world.now);
    for key in &keys {
        world.broker.receive(*key, &subscribe);
    }
    let mut turns = 0;
    loop {
        world.act_once();
        let sent: usize = keys.iter().filter_map(|key| world.received.get(key)).map(Vec::len).sum();
        let resumed = std::mem::take(&mut world.resumed);
        world.broker.end_turn(|| Duration::ZERO);
        world.broker.begin_turn(world.now);
        let ping = message("app", "request", "system", "p", &json!({"action": "ping"}));
        world.broker.receive(asks, &framed(&ping));
        for key in &resumed {
            world.broker.receive(*key, &[]);
        }
        let queued: usize = keys.iter().map(|key| world.broker.queued_bytes(*key)).sum();
        assert!(queued <= 4 << 20, "{queued} bytes in one turn");
        if resumed.is_empty() {
            break;
        }
        turns += 1;
        assert!(turns < 20_000, "{sent} bytes so far");
    }
    world.act();
    assert_eq!(world.take(asks).len(), turns + 1, "a ping is answered in each turn");
    for key in keys {
        let got = world.take(key);
        assert_eq!(numbers(&got[1..]), (1, (1..301).collect()));
    }
}

#[test]
fn what_is_too_large_with_its_place_is_refused_and_nothing_is_forgotten() {
    let limits = keeping(10).frame_bytes_max(1_000);
    let mut world = World::new(limits);
    let (from, plain) = (world.topical("from"), world.connected("app", "plain"));
    world.subscribe(plain, "app", "h.a");
    world.publish(from, "h.a", 0..3);
    let framing = message("app", "publish", "h.a", "p", &json!("")).to_string().len();
    // It is within the limit as it comes.
    let large = message("app", "publish", "h.a", "p", &json!("x".repeat(1_000 - framing)));
    assert_eq!(large.to_string().len(), 1_000);
    for publisher in [from, plain] {
        world.send(publisher, &large);
        let refused = world.take(publisher).pop().expect("an answer");
        assert_eq!(refused["payload"]["code"], "limit_exceeded", "{refused}");
    }
    let (answer, got) = world.join(from, "h.a", &json!({"last": 10}));
    assert_eq!((&answer["offset"], got.len()), (&json!(3), 3));
    // A channel without a history takes it.
    let elsewhere = message("app", "publish", "n.a", "p", &json!("x".repeat(1_000 - framing)));
    world.subscribe(plain, "app", "n.a");
    world.send(from, &elsewhere);
    assert_eq!(world.heard(plain).len(), 1);
}
