use super::*;
use crate::broker::state::topic::session::Pending;

const MARK: usize = 4_096;

fn world() -> World {
    World::new(Limits { queue_high_water_bytes: MARK, ..Limits::default() })
}

fn large(at: usize) -> Value {
    json!([at, "x".repeat(1_000)])
}

fn numbers(heard: &[(String, Value)]) -> Vec<(&str, u64)> {
    heard.iter().map(|(channel, payload)| (&**channel, payload[0].as_u64().unwrap())).collect()
}

#[test]
fn a_slow_reader_gets_the_newest_of_each_channel_and_holds_nobody_back() {
    for is_pattern in [false, true] {
        let mut world = world();
        let (slow, publisher) = (world.topical("slow"), world.connected("app", "publisher"));
        if is_pattern {
            world.want(slow, "a.*", json!({"pattern": true, "conflate": true}));
        } else {
            world.want(slow, "a.x", json!({"conflate": true}));
            world.want(slow, "a.y", json!({"conflate": true}));
        }
        world.stalled.push(slow);
        for at in 0..20 {
            world.put(publisher, "a.x", &large(at));
            world.put(publisher, "a.y", &large(at));
            assert!(!world.is_parked(publisher));
        }
        world.pass(Duration::from_secs(60));
        assert!(world.closed.is_empty(), "it is not closed for that");
        let connection = world.connection(slow);
        let waiting = connection.pending().map_or(0, Pending::held_bytes);
        let held = crate::broker::flow::memory::held_bytes(connection);
        assert!(waiting > 2_000 && held >= waiting + connection.send.len(), "{held}");
        assert!(world.connection(slow).send.len() <= MARK);
        world.stalled.clear();
        world.relieve(slow);
        world.act();
        let got = world.heard(slow);
        for channel in ["a.x", "a.y"] {
            let of_channel = numbers(&got).into_iter().filter(|(name, _)| *name == channel);
            let of_channel: Vec<u64> = of_channel.map(|(_, at)| at).collect();
            assert!(of_channel.is_sorted() && of_channel.last() == Some(&19), "{of_channel:?}");
        }
        let counters = &world.broker.core.counters;
        assert_eq!(counters.publications_conflated, 40 - got.len() as u64);
        assert_eq!(counters.slow_consumers, 0);
        // Then it is live again.
        world.put(publisher, "a.x", &json!([20]));
        assert_eq!(numbers(&world.heard(slow)), [("a.x", 20)]);
        world.hang_up(slow);
        world.hang_up(publisher);
        assert_eq!(world.broker.core.budget.tables_bytes, 0);
    }
}

#[test]
fn who_reads_in_time_gets_all() {
    let mut world = world();
    let (reader, publisher) = (world.topical("reader"), world.connected("app", "publisher"));
    world.want(reader, "a", json!({"conflate": true}));
    for at in 0..20 {
        world.put(publisher, "a", &large(at));
    }
    assert_eq!(world.heard(reader).len(), 20);
    assert_eq!(world.broker.core.counters.publications_conflated, 0);
}

#[test]
fn a_publication_larger_than_the_mark_reaches_an_empty_queue_without_a_grace() {
    let mut world = world();
    let (slow, publisher) = (world.topical("slow"), world.connected("app", "publisher"));
    world.want(slow, "a", json!({"conflate": true}));
    world.stalled.push(slow);
    for at in 0..3 {
        world.put(publisher, "a", &json!([at, "x".repeat(2 * MARK)]));
    }
    world.pass(Duration::from_secs(60));
    assert!(world.closed.is_empty() && !world.is_parked(publisher));
    world.stalled.clear();
    world.relieve(slow);
    world.act();
    let got = world.heard(slow);
    assert_eq!(numbers(&got), [("a", 0), ("a", 2)]);
}

#[test]
fn who_conflates_by_one_subscription_conflates() {
    let mut world = world();
    let (slow, publisher) = (world.topical("slow"), world.connected("app", "publisher"));
    world.want(slow, "a.*", json!({"pattern": true, "conflate": true}));
    world.stalled.push(slow);
    for at in 0..10 {
        world.put(publisher, "a.x", &large(at));
    }
    // A later subscription does not put newer publications before those that wait.
    world.stalled.clear();
    world.broker.core.limits.queue_high_water_bytes = 1 << 20;
    world.send(slow, &message("app", "subscribe", "a.x", "s", &json!({})));
    world.stalled.push(slow);
    world.put(publisher, "a.x", &large(10));
    world.stalled.clear();
    world.relieve(slow);
    world.act();
    let got = world.heard(slow);
    assert!(numbers(&got).iter().map(|(_, at)| at).is_sorted());
    assert_eq!(numbers(&got).last(), Some(&("a.x", 10)));
}

#[test]
fn what_waits_goes_with_its_subscription() {
    let mut world = world();
    let (slow, publisher) = (world.topical("slow"), world.connected("app", "publisher"));
    for (channel, is_pattern) in [("a.x", false), ("a.y", false), ("b.*", true), ("b.x", false)] {
        let conflate = channel != "b.x";
        world.want(slow, channel, json!({"pattern": is_pattern, "conflate": conflate}));
    }
    world.stalled.push(slow);
    for at in 0..10 {
        for channel in ["a.x", "a.y", "b.x", "b.y"] {
            world.put(publisher, channel, &large(at));
        }
    }
    for (channel, is_pattern) in [("a.x", false), ("b.*", true)] {
        let payload = json!({"pattern": is_pattern});
        world.send(slow, &message("app", "unsubscribe", channel, "u", &payload));
    }
    world.put(publisher, "b.x", &large(10));
    world.stalled.clear();
    world.relieve(slow);
    world.act();
    let got = world.heard(slow);
    let late: Vec<_> = numbers(&got).into_iter().filter(|(_, at)| *at >= 9).collect();
    // What it still subscribes to without conflation goes into its queue at once, and in order.
    assert_eq!(late, [("b.x", 9), ("a.y", 9), ("b.x", 10)]);
}

#[test]
fn what_waits_counts_as_memory_of_its_reader() {
    let mut world = World::new(Limits {
        queue_high_water_bytes: MARK,
        memory_bytes_max: 2 << 20,
        ..Limits::default()
    });
    let (slow, publisher) = (world.topical("slow"), world.connected("app", "publisher"));
    world.want(slow, ">", json!({"pattern": true, "conflate": true}));
    world.stalled.push(slow);
    for at in 0..2_000 {
        world.put(publisher, &format!("a.{at}"), &large(at));
        assert!(world.broker.core.memory_bytes() <= (2 << 20) + (64 << 10));
        if !world.closed.is_empty() {
            break;
        }
        world.pass(Duration::from_millis(100));
    }
    assert_eq!(world.closed, [slow], "it holds the most");
}

#[test]
fn what_waits_does_not_come_again_behind_what_was_kept() {
    let rules = [crate::HistoryRule::new("app", "h.*").messages(100)];
    let limits = Limits { queue_high_water_bytes: MARK, ..Limits::default() };
    let mut world = World::new(limits.histories(rules));
    let (slow, publisher) = (world.topical("slow"), world.connected("app", "publisher"));
    world.want(slow, "h.*", json!({"pattern": true, "conflate": true}));
    world.stalled.push(slow);
    for at in 0..20 {
        world.put(publisher, "h.a", &large(at));
    }
    assert_eq!(world.connection(slow).pending().map(Pending::len), Some(1));
    world.send(slow, &message("app", "subscribe", "h.a", "s", &json!({"last": 100})));
    world.stalled.clear();
    world.relieve(slow);
    world.act();
    // Between the publications is the answer to the subscribe.
    let got = world.take(slow);
    let got: Vec<_> = got.iter().filter_map(|message| message["payload"][0].as_u64()).collect();
    let newest = got.iter().filter(|at| **at == 19).count();
    assert_eq!((newest, got.last()), (1, Some(&19)), "{got:?}");
    world.put(publisher, "h.a", &json!([20]));
    assert_eq!(numbers(&world.heard(slow)), [("h.a", 20)]);
}

#[test]
fn a_queue_that_one_conflated_publication_fills_takes_one_more_frame() {
    let limits = Limits { frame_bytes_max: 3 * MARK, ..world().broker.limits().clone() };
    let mut world = World::new(limits);
    let (slow, publisher) = (world.topical("slow"), world.connected("app", "publisher"));
    world.want(slow, "a", json!({"conflate": true}));
    world.want(slow, "b", json!({}));
    world.stalled.push(slow);
    for channel in ["a", "b", "a", "b"] {
        world.put(publisher, channel, &json!([1, "x".repeat(5 * MARK / 2)]));
    }
    assert!(world.closed.is_empty(), "it had no grace");
    assert!(world.is_parked(publisher), "the second one of those that are not conflated waits");
    world.send(slow, &message("app", "request", "system", "p", &json!({"action": "ping"})));
    assert!(world.closed.is_empty(), "nor has it one for an answer");
    world.stalled.clear();
    world.relieve(slow);
    world.act();
    let got = world.take(slow);
    let heard = got.iter().filter(|message| message["message_type"] == "publish");
    let heard: String = heard.filter_map(|message| message["channel_id"].as_str()).collect();
    assert_eq!((&*heard, got.len()), ("abab", 5), "{got:?}");
}

/// The cost is that of a look-up of each channel, however many patterns its reader has.
#[test]
fn the_end_of_a_subscription_looks_at_no_pattern_for_each_that_waits() {
    const PATTERNS: usize = 300;
    const CHANNELS: usize = 200;
    let mut world = world();
    let (slow, publisher) = (world.topical("slow"), world.connected("app", "publisher"));
    world.want(slow, "a.*", json!({"pattern": true, "conflate": true}));
    world.want(slow, "a.>", json!({"pattern": true, "conflate": true}));
    for at in 0..PATTERNS {
        world.want(slow, &format!("b.{at}"), json!({"pattern": true, "conflate": true}));
    }
    world.stalled.push(slow);
    world.put(publisher, "a.first", &large(0));
    for at in 0..CHANNELS {
        world.put(publisher, &format!("a.{at}"), &json!([at]));
    }
    let before = world.broker.core.turn.work_done();
    world.send(slow, &message("app", "unsubscribe", "a.*", "u", &json!({"pattern": true})));
    let work = world.broker.core.turn.work_done() - before;
    assert!((40..3 * CHANNELS as u64).contains(&work), "{work}");
    world.stalled.clear();
    let mut heard = 0;
    while heard <= CHANNELS {
        world.relieve(slow);
        world.act();
        let more = world.heard(slow).len();
        assert!(more > 0, "{heard} of {CHANNELS}");
        heard += more;
    }
}
