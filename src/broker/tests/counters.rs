//! Each counter counts what its name says, once, and nothing else is counted with it.

use super::*;
use crate::{HandlerError, Verdict};

impl World {
    /// Begins to count anew.
    fn reset_counters(&mut self) {
        self.broker.core.counters = Counters::default();
        self.sent = (0, 0);
    }

    /// All counters that are not zero, but for those of frames and bytes.
    fn counted(&self) -> Value {
        let mut counters = serde_json::to_value(&self.broker.core.counters).expect("it is JSON");
        let counted = counters.as_object_mut().expect("an object");
        let of_all = ["accepted", "frames_in", "bytes_in", "frames_out", "bytes_out"];
        counted.retain(|name, count| {
            !of_all.contains(&name.as_str()) && *count != json!(0) && *count != json!({})
        });
        counters
    }

    fn expect_counted(&mut self, what: &str, expected: &Value) {
        assert_eq!(self.counted(), *expected, "{what}");
        self.reset_counters();
    }
}

/// The layout of clients, which is passed on as it came.
fn in_usual_layout(kind: &str, channel: &str, id: &str) -> Vec<u8> {
    let head = format!(
        r#""message_id":"{id}","app_id":"app","channel_id":"{channel}","message_type":"{kind}""#
    );
    framed_text(&format!(r#"{{{head},"payload":1,"timestamp":1.5,"reply_to":null}}"#))
}

#[test]
fn bytes_and_frames_of_both_directions_are_counted() {
    let mut world = World::new(Limits::default());
    let key = world.connected("app", "me");
    world.reset_counters();
    let ping = framed(&message("app", "request", "system", "p", &json!({"action": "ping"})));
    world.deliver(key, &ping.repeat(2));
    world.deliver(key, &ping[..7]);
    world.deliver(key, &ping[7..]);
    let counters = &world.broker.core.counters;
    assert_eq!((counters.frames_in, counters.bytes_in), (3, 3 * ping.len() as u64));
    let received = &world.received[&key];
    assert_eq!((counters.frames_out, counters.bytes_out), (3, received.len() as u64));
    // A long message is read into memory of its own.
    let long = framed(&message("app", "publish", "news", "l", &json!("x".repeat(200_000))));
    world.deliver(key, &long[..100_000]);
    let rest = &long[100_000..];
    let room = world.broker.room(key);
    assert!(room.len() >= rest.len());
    room[..rest.len()].copy_from_slice(rest);
    assert!(world.broker.receive_in_room(key, rest.len()).reads_on);
    world.act();
    let counters = &world.broker.core.counters;
    let bytes_in = 3 * ping.len() + long.len();
    assert_eq!((counters.frames_in, counters.bytes_in), (4, bytes_in as u64));
    assert_eq!(counters.publications_unheard, 1);
}

#[test]
fn publications_are_counted_by_whether_somebody_hears_them() {
    for is_usual in [true, false] {
        let mut world = World::new(Limits::default());
        let [one, two] = ["one", "two"].map(|id| world.connected("app", id));
        for key in [one, two] {
            world.subscribe(key, "app", "news");
        }
        world.subscribe(one, "app", "left");
        world.send(one, &message("app", "unsubscribe", "left", "u", &json!({})));
        // Somebody else keeps the channel alive.
        world.serve(two, "app", "left");
        world.reset_counters();
        for (channel, counted) in [
            ("news", json!({"publications": 1, "deliveries": 2})),
            ("left", json!({"publications": 1, "publications_unheard": 1})),
            ("unknown", json!({"publications": 1, "publications_unheard": 1})),
        ] {
            if is_usual {
                world.deliver(one, &in_usual_layout("publish", channel, "p"));
            } else {
                world.send(one, &message("app", "publish", channel, "p", &json!(1)));
            }
            world.expect_counted(channel, &counted);
            if channel == "unknown" {
                continue;
            }
            // Of the process.
            let mut context = world.broker.context();
            context.publish("app", channel, &1).unwrap();
            world.act();
            world.expect_counted(channel, &counted);
        }
        // Some that come together are one each.
        for (channel, counted) in [
            ("news", json!({"publications": 3, "deliveries": 6})),
            ("left", json!({"publications": 3, "publications_unheard": 3})),
        ] {
            world.deliver(one, &in_usual_layout("publish", channel, "p").repeat(3));
            world.expect_counted(channel, &counted);
        }
    }
}

#[test]
fn responses_that_answer_nothing_are_counted_and_not_answered() {
    let mut world = World::new(Limits::default());
    world.broker.application("app", "The App");
    let key = world.connected("app", "me");
    world.reset_counters();
    let ignored = json!({"responses_ignored": 1});
    let mut response = message("app", "response", "work", "r", &json!(1));
    world.send(key, &response);
    world.expect_counted("of no request", &ignored);
    response["message_id"] = json!("");
    world.send(key, &response);
    world.expect_counted("without an id", &ignored);
    assert!(world.take(key).is_empty());
    // What a filter thinks of it changes nothing.
    world.broker.filter(|_| Err(HandlerError::app("no", "no")));
    world.send(key, &message("app", "response", "work", "r", &json!(1)));
    world.expect_counted("one that a filter would refuse", &ignored);
    world.broker.filter(|_| Ok(Verdict::CarryOut));
    response["message_id"] = json!("r");
    response["app_id"] = json!("other");
    world.send(key, &response);
    world.expect_counted("of another application", &ignored);
    assert!(world.take(key).is_empty());
}

#[test]
fn each_end_of_a_connection_has_its_counter() {
    let limits = Limits { idle_timeout: Some(Duration::from_secs(60)), ..Limits::default() };
    let mut world = World::new(limits);
    world.accept();
    world.reset_counters();
    world.pass(Duration::from_secs(5));
    world.expect_counted("a handshake", &json!({"handshake_timeouts": 1}));
    let key = world.connected("app", "me");
    world.reset_counters();
    world.pass(Duration::from_secs(60));
    assert!(world.closed.contains(&key));
    world.expect_counted("a silence", &json!({"idle_closed": 1}));
    world.broker.count_shed();
    world.expect_counted("no descriptor", &json!({"shed": 1}));
    #[cfg(feature = "net")]
    {
        let key = world.connected("app", "me");
        world.reset_counters();
        world.broker.count_garbled(key, &"not TLS");
        world.expect_counted("bytes that are not TLS", &json!({"transport_failures": 1}));
    }
}

#[test]
fn errors_of_handlers_are_counted_by_their_codes() {
    let mut world = World::new(Limits::default());
    let mut app = world.broker.application("app", "The App");
    app.channel("own").on_request(|_| Err(HandlerError::app("own", "mine")));
    app.channel("fails").on_request(|_| Err("it fails".into()));
    app.channel("panics").on_request(|_| panic!("as it should in this test"));
    app.channel("later").on_request(|request| {
        let (reply, responder) = request.defer()?;
        responder.refuse(&HandlerError::app("late", "later"));
        Ok(reply)
    });
    let key = world.connected("app", "me");
    world.reset_counters();
    for (channel, counted) in [
        ("own", json!({"errors": {"app": 1}})),
        ("fails", json!({"handler_failures": 1, "errors": {"handler_failed": 1}})),
        ("panics", json!({"handler_panics": 1, "errors": {"handler_failed": 1}})),
        ("nobody", json!({"errors": {"no_handler": 1}})),
    ] {
        world.send(key, &message("app", "request", channel, "q", &json!(1)));
        world.expect_counted(channel, &counted);
    }
    world.send(key, &message("app", "request", "later", "q", &json!(1)));
    world.broker.run_mailbox();
    world.act();
    world.expect_counted("from another thread", &json!({"errors": {"app": 1}}));
}

/// Work that a turn has no room for, and frames beyond a share.
#[test]
fn whoever_has_used_up_its_share_is_counted_once() {
    let mut world = World::new(Limits::default());
    let key = world.connected("app", "me");
    world.reset_counters();
    let ping = framed(&message("app", "request", "system", "p", &json!({"action": "ping"})));
    world.deliver(key, &ping.repeat(FRAMES_PER_TURN_MAX));
    world.expect_counted("a share", &json!({}));
    world.deliver(key, &ping.repeat(FRAMES_PER_TURN_MAX + 1));
    world.expect_counted("one more", &json!({"yields": 1}));
}

/// Patterns, histories and conflation are ways of their own, on which the same is counted.
#[test]
fn publications_beyond_the_plain_route_are_counted_alike() {
    let rules = [crate::HistoryRule::new("app", "kept.*").messages(5)];
    let mut world = World::new(Limits::default().histories(rules));
    let [pattern, topical] = ["pattern", "topical"].map(|id| {
        let key = world.accept();
        let connect = json!({"action": "connect", "connection_id": id, "extensions": ["topic"]});
        world.send(key, &message("app", "request", "system", "c", &connect));
        key
    });
    let plain = world.connected("app", "plain");
    let everything = json!({"pattern": true});
    world.send(pattern, &message("app", "subscribe", "news.*", "s", &everything));
    for channel in ["news.a", "kept.a"] {
        world.subscribe(plain, "app", channel);
        world.send(topical, &message("app", "subscribe", channel, "s", &json!({})));
    }
    world.reset_counters();
    for (channel, counted) in [
        ("news.a", json!({"publications": 1, "deliveries": 3})),
        ("news.b", json!({"publications": 1, "deliveries": 1})),
        ("kept.a", json!({"publications": 1, "deliveries": 2})),
        ("kept.b", json!({"publications": 1, "publications_unheard": 1})),
    ] {
        for _ in 0..2 {
            world.deliver(plain, &in_usual_layout("publish", channel, "p"));
            world.expect_counted(channel, &counted);
            world.send(plain, &message("app", "publish", channel, "p", &json!(1)));
            world.expect_counted(channel, &counted);
        }
    }
    let three = in_usual_layout("publish", "kept.a", "p").repeat(3);
    world.deliver(plain, &three);
    world.expect_counted("three", &json!({"publications": 3, "deliveries": 6}));
    let three = in_usual_layout("publish", "kept.b", "p").repeat(3);
    world.deliver(plain, &three);
    world.expect_counted("three", &json!({"publications": 3, "publications_unheard": 3}));
    // What a late subscriber is sent of the past is no publication.
    world.send(topical, &message("app", "subscribe", "kept.b", "s", &json!({"last": 5})));
    world.pass(Duration::ZERO);
    world.expect_counted("the past", &json!({"replayed": 5}));
}
