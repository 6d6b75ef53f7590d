use std::sync::{Arc, Mutex};

use super::*;
use crate::broker::embed::request::Verdict;
use crate::{HandlerError, MessageType};

type Asked = Arc<Mutex<Vec<String>>>;

/// A world whose filter refuses subscriptions to channels and patterns with `secret` in them. It notes
/// the channels of the subscriptions about which it is asked.
fn guarded() -> (World, Asked) {
    guarded_with(Limits::default())
}

fn guarded_with(limits: Limits) -> (World, Asked) {
    let mut world = World::new(limits);
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

#[test]
fn what_waits_for_the_filter_has_its_place_and_is_counted_once_it_is_delivered() {
    let (mut world, _) = guarded_with(histories::keeping(10));
    let (reader, publisher) = (world.topical("reader"), world.connected("app", "publisher"));
    world.want_pattern(reader, "h.*");
    for (channel, delivered) in [("h.a", 1), ("h.secret", 0), ("h.b", 1), ("h.b", 1)] {
        let before = world.broker.context().stats().counters;
        world.publish(publisher, channel, 0..1);
        let got = world.take(reader);
        assert_eq!(histories::numbers(&got).1.len() as u64, delivered, "{channel}");
        let after = world.broker.context().stats().counters;
        assert_eq!(after.deliveries - before.deliveries, delivered, "{channel}");
        assert_eq!(after.frames_out - before.frames_out, delivered, "{channel}");
    }
}

#[test]
fn what_waits_for_the_filter_comes_before_the_end_of_its_pattern() {
    let (mut world, _) = guarded();
    let reader = world.topical("reader");
    world.want_pattern(reader, "a.*");
    let publication = framed(&message("app", "publish", "a.b", "p", &json!(1)));
    let payload = json!({"pattern": true, "ack": true});
    let end = framed(&message("app", "unsubscribe", "a.*", "u", &payload));
    world.deliver(reader, &[publication, end].concat());
    let got = world.take(reader);
    assert_eq!((&got[0]["payload"], &got[1]["reply_to"]), (&json!(1), &json!("u")), "{got:?}");
}

#[test]
fn what_the_filter_publishes_while_it_is_asked_comes_behind_what_was_published_before() {
    let mut world = World::new(Limits::default());
    world.broker.filter(|delivery| {
        let message = delivery.message();
        let is_asked = message.message_type() == MessageType::Subscribe;
        if is_asked && message.channel_id().matches("a.y") {
            delivery.context().publish("app", "a.x", &2)?;
        }
        Ok(Verdict::CarryOut)
    });
    let reader = world.topical("reader");
    world.want_pattern(reader, "a.*");
    let mut context = world.broker.context();
    for (channel, number) in [("a.x", 0), ("a.y", 0), ("a.x", 1)] {
        assert_eq!(context.publish("app", channel, &number).unwrap(), 1);
    }
    world.pass(Duration::ZERO);
    let expected = heard([("a.x", 0), ("a.y", 0), ("a.x", 1), ("a.x", 2)]);
    assert_eq!(world.heard(reader), expected);
}
