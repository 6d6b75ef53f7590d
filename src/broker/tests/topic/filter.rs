use std::sync::{Arc, Mutex};

use super::*;
use crate::broker::embed::request::Verdict;
use crate::{HandlerError, MessageType};

type Asked = Arc<Mutex<Vec<String>>>;

/// A world whose filter refuses subscriptions to channels and patterns with `secret` in them. It notes
/// the channels of the subscriptions about which it is asked.
fn guarded() -> (World, Asked) {
    let mut world = World::new(Limits::default());
    let asked = Asked::default();
    let notes = asked.clone();
    world.broker.filter(move |delivery| {
        if delivery.message().message_type() == MessageType::Subscribe {
            let channel = delivery.message().channel_id().decode().into_owned();
            notes.lock().unwrap().push(channel.clone());
            if channel.contains("secret") {
                return Err(HandlerError::new("this is not for you"));
            }
        }
        Ok(Verdict::CarryOut)
    });
    (world, asked)
}

#[test]
fn the_filter_is_asked_about_each_channel_before_its_first_delivery_through_a_pattern() {
    let (mut world, asked) = guarded();
    let take = |asked: &Asked| std::mem::take(&mut *asked.lock().unwrap());
    let (reader, publisher) = (world.topical("reader"), world.connected("app", "publisher"));
    world.want_pattern(reader, "a.*");
    assert_eq!(take(&asked), ["a.*"]);
    for round in 0..2 {
        let bytes: Vec<u8> = ["a.b", "a.secret", "a.b", "a.c"]
            .iter()
            .flat_map(|channel| framed(&message("app", "publish", channel, "p", &json!(round))))
            .collect();
        world.deliver(publisher, &bytes);
        let expected = heard([("a.b", round), ("a.b", round), ("a.c", round)]);
        assert_eq!(world.heard(reader), expected);
        let mut expected = vec!["a.b", "a.secret", "a.c"];
        if round > 0 {
            expected.clear();
        }
        assert_eq!(take(&asked), expected, "once");
    }
    // What the process publishes is not exempt.
    for channel in ["a.secret", "a.d", "a.d"] {
        world.broker.context().publish("app", channel, &2).unwrap();
    }
    world.pass(Duration::ZERO);
    assert_eq!(world.heard(reader), heard([("a.d", 2), ("a.d", 2)]));
    assert_eq!(take(&asked), ["a.d"]);
    // With other patterns all are asked for again, and with another filter, too.
    world.leave(reader, "a.*", true);
    world.want_pattern(reader, ">");
    take(&asked);
    world.put(publisher, "a.b", &json!(3));
    assert_eq!((world.heard(reader), take(&asked)), (heard([("a.b", 3)]), vec!["a.b".to_owned()]));
    world.broker.filter(|_| Err(HandlerError::new("closed")));
    world.broker.context().publish("app", "a.b", &4).unwrap();
    world.pass(Duration::ZERO);
    assert_eq!(world.heard(reader), []);
}

#[test]
fn a_pattern_that_the_filter_refuses_is_not_subscribed() {
    let (mut world, _) = guarded();
    let reader = world.topical("reader");
    let payload = json!({"pattern": true});
    world.send(reader, &message("app", "subscribe", "secret.>", "s", &payload));
    world.expect_error(reader, "forbidden", "s");
    assert_eq!(world.broker.core.router.patterns.nodes.len(), 0);
}

#[test]
fn a_plain_subscription_that_the_filter_allowed_is_asked_about_once() {
    let (mut world, asked) = guarded();
    let (reader, publisher) = (world.topical("reader"), world.connected("app", "publisher"));
    world.want(reader, "a.b", json!({}));
    world.want_pattern(reader, "a.*");
    world.put(publisher, "a.b", &json!(1));
    assert_eq!(world.heard(reader), heard([("a.b", 1)]));
    assert_eq!(*asked.lock().unwrap(), ["a.b", "a.*"]);
}
