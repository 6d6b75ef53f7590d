use super::*;

#[test]
fn what_is_no_pattern_is_refused_and_leaves_nothing_behind() {
    let mut world = World::new(Limits::default());
    let key = world.topical("me");
    let tokens = |count: usize| vec!["a"; count].join(".");
    for pattern in ["a.>.b", ">.a", "a>", ">>", "a.b>", &tokens(33)] {
        for kind in ["subscribe", "unsubscribe"] {
            world.send(key, &message("app", kind, pattern, "s", &json!({"pattern": true})));
            world.expect_error(key, "bad_message", "s");
        }
    }
    for payload in [
        json!({"pattern": 1}),
        json!({"pattern": true, "since": {"epoch": "a", "offset": 1}}),
        json!({"conflate": "yes"}),
        json!({"last": 0}),
        json!([]),
    ] {
        world.send(key, &message("app", "subscribe", "a", "s", &payload));
        world.expect_error(key, "bad_message", "s");
    }
    let other = json!({"pattern": true, "connection_id": "other"});
    world.send(key, &message("app", "subscribe", "a", "s", &other));
    world.expect_error(key, "forbidden", "s");
    let router = &world.broker.core.router;
    assert_eq!((router.patterns.nodes.len(), router.channels.len()), (0, 0));
}

#[test]
fn patterns_may_have_empty_tokens_and_256_bytes() {
    let mut world = World::new(Limits::default());
    let (key, publisher) = (world.topical("me"), world.connected("app", "publisher"));
    let longest = "*.".repeat(31) + &"a".repeat(256 - 62);
    for pattern in ["..", ".*", "a..>", &longest, &vec![""; 32].join(".")] {
        world.want_pattern(key, pattern);
    }
    world.put(publisher, "..", &json!(1));
    world.put(publisher, ".", &json!(2));
    world.put(publisher, "a..", &json!(3));
    assert_eq!(world.heard(key), heard([("..", 1), (".", 2), ("a..", 3)]));
    let too_long = "a".repeat(257);
    world.send(key, &message("app", "subscribe", &too_long, "s", &json!({"pattern": true})));
    world.expect_error(key, "bad_message", serde_json::Value::from("s"));
}

#[test]
fn a_pattern_counts_as_one_subscription() {
    let limits = Limits { subscriptions_per_connection_max: 3, ..Limits::default() };
    let mut world = World::new(limits);
    let key = world.topical("me");
    world.want_pattern(key, "a.>");
    world.want(key, "a", json!({}));
    world.want_pattern(key, "b.>");
    // A second time changes nothing, and takes no place.
    world.want_pattern(key, "b.>");
    for payload in [json!({"pattern": true}), json!({})] {
        world.send(key, &message("app", "subscribe", "c", "s", &payload));
        world.expect_error(key, "limit_exceeded", "s");
    }
    world.leave(key, "a.>", true);
    world.want(key, "c", json!({}));
}

#[test]
fn subscribe_and_unsubscribe_in_one_write_leave_nothing() {
    let mut world = World::new(Limits::default());
    let (key, publisher) = (world.topical("me"), world.connected("app", "publisher"));
    for payload in [json!({"pattern": true}), json!({"pattern": true, "conflate": true}), json!({})]
    {
        let bytes: Vec<u8> = ["subscribe", "unsubscribe", "subscribe", "subscribe", "unsubscribe"]
            .iter()
            .flat_map(|kind| framed(&message("app", kind, "a", "s", &payload)))
            .collect();
        world.deliver(key, &bytes);
        world.put(publisher, "a", &json!(1));
        assert_eq!(world.heard(key), []);
    }
    let router = &world.broker.core.router;
    assert_eq!((router.patterns.nodes.len(), router.channels.len()), (0, 0));
    assert_eq!(world.broker.core.counters.publications_unheard, 3);
}

#[test]
fn a_drain_closes_who_hears_by_patterns_with_all_that_was_sent() {
    let mut world = World::new(Limits::default());
    let (key, publisher) = (world.topical("me"), world.connected("app", "publisher"));
    world.want_pattern(key, ">");
    world.stalled.push(key);
    world.put(publisher, "a", &json!(1));
    world.broker.begin_drain();
    world.act();
    for connection in world.broker.connections() {
        world.broker.exhausted(connection);
    }
    world.act();
    world.stalled.clear();
    world.relieve(key);
    world.act();
    let got = world.take(key);
    assert_eq!((&got[0]["channel_id"], &got[0]["payload"]), (&json!("a"), &json!(1)));
    assert_eq!(world.broker.core.router.patterns.nodes.len(), 0);
}
