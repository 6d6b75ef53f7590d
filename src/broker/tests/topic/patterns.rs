use super::*;
use crate::broker::state::topic::MATCHES_KEPT_MAX;

#[test]
fn who_matches_several_times_gets_one_copy_with_the_channel_it_was_published_on() {
    let mut world = World::new(Limits::default());
    let (all, some) = (world.topical("all"), world.topical("some"));
    let plain = world.connected("app", "plain");
    world.subscribe(plain, "app", "price.EUR");
    for pattern in [">", "price.*", "*.EUR", "price.>", "price.EUR"] {
        world.want_pattern(all, pattern);
    }
    world.want(all, "price.EUR", json!({}));
    world.want_pattern(some, "price.*");
    let publisher = world.connected("app", "publisher");
    world.put(publisher, "price.EUR", &json!(1));
    world.put(publisher, "price.USD", &json!(2));
    world.put(publisher, "weather", &json!(3));
    assert_eq!(world.heard(all), heard([("price.EUR", 1), ("price.USD", 2), ("weather", 3)]));
    assert_eq!(world.heard(some), heard([("price.EUR", 1), ("price.USD", 2)]));
    assert_eq!(world.heard(plain), heard([("price.EUR", 1)]));
    let counters = world.broker.core.stats().counters;
    assert_eq!((counters.publications, counters.publications_unheard), (3, 0));
    assert_eq!(counters.deliveries, 6);
}

#[test]
fn without_pattern_a_star_is_a_letter() {
    let mut world = World::new(Limits::default());
    let (literal, plain) = (world.topical("literal"), world.connected("app", "plain"));
    world.want(literal, "price.*", json!({"pattern": false}));
    // What a connection without the extension says of patterns is not read.
    let payload = json!({"pattern": true, "since": 5});
    world.send(plain, &message("app", "subscribe", "price.*", "s", &payload));
    let publisher = world.connected("app", "publisher");
    world.put(publisher, "price.EUR", &json!(1));
    world.put(publisher, "price.*", &json!(2));
    assert_eq!(world.heard(literal), heard([("price.*", 2)]));
    assert_eq!(world.heard(plain), heard([("price.*", 2)]));
    assert_eq!(world.broker.core.counters.publications_unheard, 1);
}

#[test]
fn patterns_that_come_and_go_change_who_hears_a_channel_that_exists() {
    let mut world = World::new(Limits::default());
    let (reader, publisher) = (world.topical("reader"), world.connected("app", "publisher"));
    let keeper = world.connected("app", "keeper");
    world.subscribe(keeper, "app", "a.b");
    for round in 0..3 {
        world.put(publisher, "a.b", &json!(round));
        assert_eq!(world.heard(reader), []);
        world.want_pattern(reader, "a.*");
        world.put(publisher, "a.b", &json!(round));
        world.want_pattern(reader, "*.b");
        world.put(publisher, "a.b", &json!(round));
        assert_eq!(world.heard(reader).len(), 1, "one copy");
        world.leave(reader, "a.*", true);
        world.put(publisher, "a.b", &json!(round));
        assert_eq!(world.heard(reader).len(), 1);
        world.leave(reader, "*.b", true);
    }
    // A second unsubscribe, and one of a pattern that is another's, change nothing.
    world.leave(reader, "*.b", true);
    let other = world.topical("other");
    world.want_pattern(other, "*.b");
    world.leave(reader, "*.b", true);
    let router = &world.broker.core.router;
    assert_eq!(router.applications.iter().next().unwrap().1.patterns.unwrap().patterns, 1);
}

#[test]
fn a_channel_that_only_patterns_hear_is_created_once_and_forgotten_when_nobody_does() {
    let mut world = World::new(Limits::default());
    let (reader, publisher) = (world.topical("reader"), world.connected("app", "publisher"));
    world.want_pattern(reader, "a.>");
    for at in 0..3 {
        world.put(publisher, "a.b", &json!(at));
        world.put(publisher, "c", &json!(at));
    }
    assert_eq!(world.heard(reader), heard([("a.b", 0), ("a.b", 1), ("a.b", 2)]));
    assert_eq!(world.broker.core.router.channels.len(), 1, "nobody hears the other one");
    assert_eq!(world.broker.core.counters.publications_unheard, 3);
    world.hang_up(publisher);
    assert_eq!(world.broker.core.router.channels.len(), 0);
    world.hang_up(reader);
    let core = &world.broker.core;
    assert_eq!((core.router.patterns.nodes.len(), core.router.applications.len()), (0, 0));
    assert_eq!(core.memory_bytes() - core.pool.free_bytes(), 0);
}

#[test]
fn where_there_is_no_room_for_a_channel_its_publications_are_delivered_all_the_same() {
    let limits = Limits { channels_per_connection_max: 2, channels_max: 3, ..Limits::default() };
    let mut world = World::new(limits);
    let (reader, publisher) = (world.topical("reader"), world.connected("app", "publisher"));
    world.want_pattern(reader, ">");
    // These have subscribers, so that they keep their places.
    for channel in ["x", "y", "z"] {
        let keeper = world.connected("app", &format!("keeper-{channel}"));
        world.subscribe(keeper, "app", channel);
    }
    for at in 0..5 {
        world.put(publisher, &format!("a.{at}"), &json!(at));
    }
    let names: Vec<String> = (0..5).map(|at| format!("a.{at}")).collect();
    let expected: Vec<_> =
        names.iter().zip(0..).map(|(name, at)| (name.clone(), json!(at))).collect();
    assert_eq!(world.heard(reader), expected);
    assert_eq!(world.broker.core.router.channels.len(), 3);
    assert_eq!(world.take(publisher), [json!(null); 0], "nothing is refused");
}

#[test]
fn more_patterns_than_a_channel_remembers_match_it_all_the_same() {
    let mut world = World::new(Limits::default());
    let publisher = world.connected("app", "publisher");
    let mut readers = Vec::new();
    // All of these match the same name.
    for at in 0..2 * MATCHES_KEPT_MAX {
        let token = |bit: usize| if at >> bit & 1 == 0 { "a" } else { "*" };
        let pattern = (0..8).map(token).collect::<Vec<_>>().join(".");
        let reader = world.topical(&format!("reader-{at}"));
        world.want_pattern(reader, &pattern);
        readers.push(reader);
    }
    for _ in 0..2 {
        world.put(publisher, &["a"; 8].join("."), &json!(1));
    }
    assert!(readers.iter().all(|reader| world.heard(*reader).len() == 2));
    for reader in readers.drain(MATCHES_KEPT_MAX..) {
        world.hang_up(reader);
    }
    world.put(publisher, &["a"; 8].join("."), &json!(1));
    assert!(readers.iter().all(|reader| world.heard(*reader).len() == 1));
}

#[test]
fn a_slow_subscriber_of_a_pattern_holds_its_publishers_back_and_is_closed_after_its_grace() {
    let mut world = World::new(Limits { queue_high_water_bytes: 4_096, ..Limits::default() });
    let (slow, reader) = (world.topical("slow"), world.topical("reader"));
    world.want_pattern(slow, "a.*");
    world.want_pattern(reader, ">");
    let (publisher, other) = (world.connected("app", "p"), world.connected("app", "o"));
    world.stalled.push(slow);
    let payload = json!("x".repeat(1_000));
    for _ in 0..10 {
        world.put(publisher, "a.b", &payload);
    }
    world.put(other, "a.new", &payload);
    assert!(world.is_parked(publisher) && world.is_parked(other));
    // Whom it does not hear is not held back.
    let free = world.connected("app", "free");
    world.put(free, "b", &payload);
    assert!(!world.is_parked(free));
    let before = world.heard(reader).len();
    assert!((4..10).contains(&before), "{before}");
    // It reads again, and all go on.
    world.stalled.clear();
    world.relieve(slow);
    world.act();
    assert!(!world.is_parked(publisher) && !world.is_parked(other));
    assert_eq!(world.heard(slow).len(), 11);
    assert_eq!(before + world.heard(reader).len(), 12);
    world.stalled.push(slow);
    for _ in 0..10 {
        world.put(publisher, "a.b", &payload);
    }
    assert!(world.is_parked(publisher));
    world.pass(Duration::from_secs(5));
    assert_eq!((&world.closed[..], world.is_parked(publisher)), (&[slow][..], false));
    assert_eq!(world.heard(reader).len(), 10);
}

#[test]
fn who_unsubscribes_or_is_taken_over_while_it_is_slow_holds_nobody_back() {
    for how in ["unsubscribe", "take-over", "hang-up"] {
        let mut world = World::new(Limits { queue_high_water_bytes: 4_096, ..Limits::default() });
        let (slow, publisher) = (world.topical("slow"), world.connected("app", "p"));
        world.want_pattern(slow, "a.*");
        world.stalled.push(slow);
        for _ in 0..10 {
            world.put(publisher, "a.b", &json!("x".repeat(1_000)));
        }
        assert!(world.is_parked(publisher), "{how}");
        match how {
            "unsubscribe" => {
                // The server reads nothing of it while it is slow, but what is embedded acts for it.
                let unsubscribe =
                    message("app", "unsubscribe", "a.*", "u", &json!({"pattern": true}));
                world.send(slow, &unsubscribe);
                assert!(world.is_parked(publisher));
                world.stalled.clear();
                world.relieve(slow);
                world.act();
            }
            "take-over" => _ = world.topical("slow"),
            _ => world.hang_up(slow),
        }
        assert!(!world.is_parked(publisher), "{how}");
    }
}

#[test]
fn patterns_of_one_application_hear_nothing_of_another() {
    let mut world = World::new(Limits::default());
    let reader = world.topical("reader");
    world.want_pattern(reader, ">");
    let other = world.connected("other", "publisher");
    world.send(other, &message("other", "publish", "a", "p", &json!(1)));
    assert_eq!(world.heard(reader), []);
}

#[test]
fn publications_of_one_read_arrive_in_order_by_patterns_too() {
    let mut world = World::new(Limits::default());
    let (reader, plain) = (world.topical("reader"), world.connected("app", "plain"));
    world.want_pattern(reader, "a.*");
    world.subscribe(plain, "app", "a.b");
    let publisher = world.connected("app", "publisher");
    let channels = ["a.b", "a.b", "a.c", "a.b", "c", "a.b", "a.b"];
    let bytes: Vec<u8> = channels
        .iter()
        .enumerate()
        .flat_map(|(at, channel)| framed(&message("app", "publish", channel, "p", &json!(at))))
        .collect();
    world.deliver(publisher, &bytes);
    let all = heard([("a.b", 0), ("a.b", 1), ("a.c", 2), ("a.b", 3), ("a.b", 5), ("a.b", 6)]);
    assert_eq!(world.heard(reader), all);
    assert_eq!(world.heard(plain).len(), 5);
}

#[test]
fn a_publication_reaches_each_peer_in_the_form_that_its_extensions_allow() {
    let mut world = World::new(Limits::default());
    let topic = world.topical("topic");
    let call = world.asking_for("call", &["call"]);
    let plain = world.connected("app", "plain");
    world.want_pattern(topic, "a.*");
    world.subscribe(call, "app", "a.b");
    world.subscribe(plain, "app", "a.b");
    let publisher = world.topical("publisher");
    let mut publication = message("app", "publish", "a.b", "p", &json!(1));
    publication["meta"] = json!({"headers": {"a": "b"}, "retain": false});
    world.send(publisher, &publication);
    let metas = [topic, call, plain].map(|key| world.take(key)[0].get("meta").cloned());
    let headers = json!({"headers": {"a": "b"}});
    assert_eq!(metas[2], None);
    for meta in metas[..2].iter().flatten() {
        assert_eq!(meta["headers"], headers["headers"]);
    }
}

/// 4,096 patterns and 65,536 channels that all of them match: what is remembered is bounded.
#[test]
fn the_memory_of_what_matches_is_bounded() {
    let mut world = World::new(Limits::default());
    let reader = world.topical("reader");
    for at in 0..200_usize {
        let token = |bit: usize| if at >> bit & 1 == 0 { "a" } else { "*" };
        let pattern = (0..8).map(token).collect::<Vec<_>>().join(".") + ".>";
        world.want_pattern(reader, &pattern);
    }
    let publisher = world.connected("app", "publisher");
    let before = world.broker.core.router.bytes;
    for at in 0..100 {
        world.put(publisher, &format!("{}.{at}", ["a"; 8].join(".")), &json!(1));
    }
    let each = (world.broker.core.router.bytes - before) / 100;
    assert!(each < 2_048, "{each} bytes a channel");
    assert_eq!(world.heard(reader).len(), 100);
}

#[test]
fn the_search_for_patterns_is_work_of_the_turn() {
    let mut world = World::new(Limits::default());
    let reader = world.topical("reader");
    for at in 0..1_024_usize {
        let token = |bit: usize| if at >> bit & 1 == 0 { "a" } else { "*" };
        let pattern = (0..10).map(token).collect::<Vec<_>>().join(".");
        world.want_pattern(reader, &pattern);
    }
    let publisher = world.connected("app", "publisher");
    let before = world.broker.core.turn.work_done();
    world.put(publisher, &["a"; 10].join("."), &json!(1));
    let work = world.broker.core.turn.work_done() - before;
    assert!(work > 500, "{work}");
    assert_eq!(world.heard(reader).len(), 1);
}
