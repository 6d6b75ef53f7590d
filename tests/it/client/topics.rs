//! Subscriptions to histories, last values and patterns, by a server that does what the test wants.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use ipc_framework::client::{
    Client, Error, Event, Position, PublishOptions, SubscribeOptions, Subscription,
};
use serde_json::{Value, json};

use super::attachments::{connect, connect_alone, welcome};
use super::many_threads::value;
use super::scripted::{Scripted, Side, failure, picked};
use crate::support::HANG;

const TOPIC: &[&str] = &["call", "binary", "topic"];

/// The events that concern subscriptions, as text.
fn told(client: &Client) -> Receiver<String> {
    let at = |position: &Option<Position>| position.as_ref().map(ToString::to_string);
    picked(client, move |event| match event {
        Event::Resumed { channel_id } => Some(format!("{channel_id} resumed")),
        Event::Gap { channel_id, seen, newest, missed } => {
            Some(format!("{channel_id} gap {:?} {:?} {missed:?}", at(seen), at(newest)))
        }
        Event::LooksLikePattern { channel_id } => {
            Some(format!("{channel_id} looks like a pattern"))
        }
        Event::Refused { channel_id, error, .. } => Some(format!("{channel_id} refused: {error}")),
        Event::NotRestored { channel_id, error } => {
            Some(format!("{channel_id} not restored: {error}"))
        }
        _ => None,
    })
}

fn next(told: &Receiver<String>) -> String {
    told.recv_timeout(HANG).expect("an event")
}

/// Receives a subscribe to this channel, and returns it and what it asks for besides.
fn asked(side: &mut Side, channel_id: &str) -> (Value, Value) {
    let asked = side.receive();
    assert_eq!(asked["message_type"], "subscribe", "{asked}");
    assert_eq!(asked["channel_id"], channel_id, "{asked}");
    let mut payload = asked["payload"].clone();
    let members = payload.as_object_mut().unwrap();
    assert!(members.remove("connection_id").is_some());
    (asked, payload)
}

/// Confirms a subscribe, with what the answer has besides, and returns what was asked for.
fn confirm(side: &mut Side, channel_id: &str, more: &Value) -> Value {
    let (asked, payload) = asked(side, channel_id);
    let mut answer = json!({"status": "subscribed"});
    answer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    side.answer(&asked, answer);
    payload
}

fn place(epoch: &str, offset: u64) -> Value {
    json!({"epoch": epoch, "offset": offset})
}

fn recovered(epoch: &str, offset: u64, recovered: bool) -> Value {
    json!({"epoch": epoch, "offset": offset, "recovered": recovered})
}

fn publish(side: &mut Side, channel_id: &str, payload: impl Into<Value>, meta: Value) {
    let mut message = side.message("publish", channel_id, &payload.into());
    message["meta"] = meta;
    side.send_message(&message);
}

fn reconnected(script: &Scripted) -> Side {
    script.accept_as(&welcome(TOPIC))
}

fn take(subscription: &mut Subscription) -> Value {
    value(&subscription.next().expect("a publication"))
}

#[test]
fn a_subscription_resumes_where_it_was_and_nothing_comes_twice() {
    let (script, client, mut side) = connect(TOPIC);
    let told = told(&client);
    let mut prices = client.subscribe("prices").unwrap();
    assert_eq!(confirm(&mut side, "prices", &place("e", 7)), json!({"ack": true}));
    client.flush_by(&mut side);

    // Nothing has come, and the answer says from where to go on.
    drop(side);
    let mut side = reconnected(&script);
    let since = json!({"ack": true, "since": {"epoch": "e", "offset": 7}});
    assert_eq!(confirm(&mut side, "prices", &recovered("e", 9, true)), since);
    publish(&mut side, "prices", 8, json!({"epoch": "e", "offset": 8, "retain": true}));
    publish(&mut side, "prices", 9, place("e", 9));
    publish(&mut side, "prices", "again", place("e", 8));
    publish(&mut side, "prices", "again", place("e", 9));
    publish(&mut side, "prices", 10, place("e", 10));
    assert_eq!(next(&told), "prices resumed");
    let first = prices.next().unwrap();
    assert_eq!(first.position(), Some(&Position::new("e", 8)));
    assert!(first.is_retained());
    assert_eq!([value(&first), take(&mut prices), take(&mut prices)], [8, 9, 10].map(Value::from));

    drop(side);
    let mut side = reconnected(&script);
    let asked = confirm(&mut side, "prices", &recovered("e", 15, false));
    assert_eq!(asked["since"], place("e", 10));
    assert_eq!(next(&told), r#"prices gap Some("e:10") Some("e:15") Some(5)"#);
    drop(side);
    let mut side = reconnected(&script);
    let asked = confirm(&mut side, "prices", &recovered("f", 3, false));
    assert_eq!(asked["since"], place("e", 15));
    assert_eq!(next(&told), r#"prices gap Some("e:15") Some("f:3") None"#);
    publish(&mut side, "prices", 4, place("f", 4));
    assert_eq!(take(&mut prices), 4);

    // The history is gone.
    drop(side);
    let mut side = reconnected(&script);
    confirm(&mut side, "prices", &json!({"recovered": false}));
    assert_eq!(next(&told), r#"prices gap Some("f:4") None None"#);
    drop(side);
    let mut side = reconnected(&script);
    assert_eq!(confirm(&mut side, "prices", &json!({})), json!({"ack": true}));
    assert_eq!(next(&told), "prices gap None None None");
    publish(
        &mut side,
        "prices",
        5,
        json!({"headers": {"unit": "EUR"}, "trace": {"traceparent": "0"}}),
    );
    let last = prices.next().unwrap();
    let publication = last.publication.as_ref().unwrap();
    assert_eq!(publication.headers()["unit"], "EUR");
    assert_eq!(publication.trace().unwrap().traceparent, "0");
    assert!(publication.position.is_none() && !publication.is_retained);
}

/// As [`Client::flush`], with a server that is written by hand.
trait FlushBy {
    fn flush_by(&self, side: &mut Side);
}

impl FlushBy for Client {
    fn flush_by(&self, side: &mut Side) {
        let client = self.clone();
        let flushed = std::thread::spawn(move || client.flush());
        let ping = side.receive();
        assert_eq!(ping["payload"]["action"], "ping", "{ping}");
        side.answer(&ping, json!({"status": "pong"}));
        flushed.join().unwrap().unwrap();
    }
}

#[test]
fn what_the_program_asks_for_at_first_is_asked_for_again_where_it_is_of_use() {
    let (script, client, mut side) = connect(TOPIC);
    let told = told(&client);
    let options = SubscribeOptions::default().last(2).since(Position::new("old", 3)).conflate(true);
    let mut prices = client.subscribe_with("prices", &options).unwrap();
    let (first, payload) = asked(&mut side, "prices");
    let expected = json!({"ack": true, "last": 2, "since": place("old", 3), "conflate": true});
    assert_eq!(payload, expected);
    // It is lost before it is answered, and so it is asked for as it was.
    drop((side, first));
    let mut side = reconnected(&script);
    assert_eq!(confirm(&mut side, "prices", &recovered("e", 9, false)), expected);
    assert_eq!(next(&told), r#"prices gap Some("old:3") Some("e:9") None"#);
    publish(&mut side, "prices", 8, place("e", 8));
    assert_eq!(take(&mut prices), 8);
    // It is lost in the middle of what was kept, which comes from there on.
    drop(side);
    let mut side = reconnected(&script);
    let expected = json!({"ack": true, "last": 2, "since": place("e", 8), "conflate": true});
    assert_eq!(confirm(&mut side, "prices", &recovered("e", 9, true)), expected);
    assert_eq!(next(&told), "prices resumed");
    publish(&mut side, "prices", 9, place("e", 9));
    assert_eq!(take(&mut prices), 9);
}

#[test]
fn a_last_value_that_is_still_the_same_does_not_come_twice() {
    let (script, client, mut side) = connect(TOPIC);
    let last = SubscribeOptions::default().last(1);
    let mut state = client.subscribe_with("state", &last).unwrap();
    let mut states = client.subscribe_with("*", &last.clone().pattern(true)).unwrap();
    let confirm_both = |side: &mut Side| {
        let (first, second) = (side.receive(), side.receive());
        for asked in [first, second] {
            assert_eq!(asked["payload"]["last"], 1, "{asked}");
            assert_eq!(asked["payload"].get("since"), None, "{asked}");
            side.answer(&asked, json!({"status": "subscribed", "recovered": true}));
        }
    };
    confirm_both(&mut side);
    let mut kept = side.message("publish", "state", &json!("on"));
    kept["meta"] = json!({"retain": true});
    // A publisher may use one id for all that it publishes.
    side.send_message(&kept);
    side.send_message(&kept);
    drop(side);
    let mut side = reconnected(&script);
    confirm_both(&mut side);
    side.send_message(&kept);
    kept["payload"] = json!("off");
    side.send_message(&kept);
    for subscription in [&mut state, &mut states] {
        let got: Vec<Value> = (0..3).map(|_| take(subscription)).collect();
        assert_eq!(got, ["on", "on", "off"]);
    }
}

#[test]
fn what_comes_before_the_answer_belongs_to_an_earlier_subscription() {
    let (_script, client, mut side) = connect(TOPIC);
    drop(client.subscribe("prices").unwrap());
    let mut prices = client.subscribe_with("prices", &SubscribeOptions::default().last(1)).unwrap();
    let (first, _) = asked(&mut side, "prices");
    assert_eq!(side.receive()["message_type"], "unsubscribe");
    let (second, _) = asked(&mut side, "prices");
    side.answer(&first, json!({"status": "subscribed", "epoch": "e", "offset": 5}));
    publish(&mut side, "prices", "early", place("e", 6));
    side.answer(
        &second,
        json!({"status": "subscribed", "epoch": "e", "offset": 6, "recovered": true}),
    );
    publish(&mut side, "prices", 6, place("e", 6));
    publish(&mut side, "prices", 7, place("e", 7));
    assert_eq!([take(&mut prices), take(&mut prices)], [6, 7].map(Value::from));
    assert!(prices.next_timeout(Duration::ZERO).is_none());
}

#[test]
fn each_subscription_gets_a_publication_once_however_many_patterns_match_it() {
    let (_script, client, mut side) = connect(TOPIC);
    client.on_message(|message| panic!("{message:?} is taken")).unwrap();
    let mut subscriptions = [
        client.subscribe("prices.tea").unwrap(),
        client.subscribe_pattern("prices.*").unwrap(),
        client.subscribe_pattern(">").unwrap(),
        client.subscribe_pattern("prices.*").unwrap(),
        client.subscribe_pattern("*.coffee").unwrap(),
    ];
    confirm(&mut side, "prices.tea", &place("e", 0));
    for pattern in ["prices.*", ">", "*.coffee"] {
        let expected = json!({"ack": true, "pattern": true});
        assert_eq!(confirm(&mut side, pattern, &json!({})), expected);
    }
    let info = client.connection_info();
    assert_eq!(
        info.subscribed_patterns.into_iter().collect::<Vec<_>>(),
        ["*.coffee", ">", "prices.*"]
    );
    assert_eq!(info.subscribed_channels.into_iter().collect::<Vec<_>>(), ["prices.tea"]);
    publish(&mut side, "prices.tea", 1, place("e", 1));
    publish(&mut side, "prices.coffee", 2, json!({}));
    publish(&mut side, "system.tea", 3, json!({}));
    let got = |subscription: &mut Subscription, count| {
        let got = (0..count).map(|_| take(subscription)).collect::<Vec<_>>();
        assert!(subscription.next_timeout(Duration::ZERO).is_none());
        got
    };
    let expected = [&[1][..], &[1, 2], &[1, 2, 3], &[1, 2], &[2]];
    for (subscription, expected) in subscriptions.iter_mut().zip(expected) {
        assert_eq!(got(subscription, expected.len()), expected, "{subscription:?}");
    }
    // One that is kept for another subscription of the same client has been seen by these.
    publish(&mut side, "prices.tea", 1, place("e", 1));
    publish(&mut side, "prices.tea", 4, place("e", 2));
    for subscription in &mut subscriptions[..4] {
        assert_eq!(got(subscription, 1), [4]);
    }
    let [_, first, _, second, _] = subscriptions;
    drop(first);
    publish(&mut side, "prices.tea", 5, place("e", 3));
    let mut second = second;
    assert_eq!(take(&mut second), 5);
    client.unsubscribe_pattern("prices.*");
    let ended = side.receive();
    assert_eq!(ended["message_type"], "unsubscribe", "{ended}");
    assert_eq!(
        (&ended["channel_id"], &ended["payload"]["pattern"]),
        (&json!("prices.*"), &json!(true))
    );
    assert!(second.next().is_none(), "it is unsubscribed");
}

#[test]
fn one_channel_has_one_set_of_options() {
    let (_script, client, mut side) = connect(TOPIC);
    let options = SubscribeOptions::default;
    let _first = client.subscribe_with("prices", &options().conflate(true)).unwrap();
    confirm(&mut side, "prices", &json!({}));
    let _joined = client.subscribe("prices").unwrap();
    let _alike = client.subscribe_with("prices", &options().conflate(true)).unwrap();
    let _other = client.subscribe("other").unwrap();
    confirm(&mut side, "other", &json!({}));
    for refused in [
        client.subscribe_with("prices", &options().last(1)),
        client.subscribe_with("prices", &options().since(Position::new("e", 1))),
        client.subscribe_with("other", &options().conflate(true)),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::AlreadySubscribed { .. }), "{error}");
        assert!(error.to_string().contains("unsubscribe"), "{error}");
    }
    for (name, options) in [
        ("a.>.b", options().pattern(true)),
        ("a", options().pattern(true).since(Position::new("e", 1))),
    ] {
        let error = client.subscribe_with(name, &options).unwrap_err();
        assert!(matches!(error, Error::BadPattern { .. }), "{error}");
    }
    // Nothing was sent for any of them.
    client.flush_by(&mut side);
}

#[test]
fn a_server_without_the_extension_is_asked_for_nothing_of_it() {
    let (script, client, mut side) = connect(&["call", "binary"]);
    let told = told(&client);
    let retained = PublishOptions::default().retain(true);
    for refused in [
        client.subscribe_pattern("prices.*").map(drop),
        client.subscribe_with("prices", &SubscribeOptions::default().last(1)).map(drop),
        client.publish_with("prices", &1, &retained),
        client.publish_acknowledged("prices", &1).map(drop),
    ] {
        assert_eq!(refused.unwrap_err().code(), Some("unsupported"));
    }
    let (_plain, _mistaken) = (client.subscribe("prices").unwrap(), client.subscribe("*").unwrap());
    let _reported_once = client.subscribe("prices.>").unwrap();
    for channel in ["prices", "*", "prices.>"] {
        assert_eq!(asked(&mut side, channel).1, json!({}));
    }
    assert_eq!(next(&told), "* looks like a pattern");
    client.publish_with("prices", &1, &PublishOptions::default().header("unit", "EUR")).unwrap();
    assert_eq!(side.receive_extended()["meta"], json!({"headers": {"unit": "EUR"}}));

    // The next one knows it, and the one after that does not again.
    drop(side);
    let mut side = reconnected(&script);
    let all = ["prices", "*", "prices.>"];
    let mut asked_for: Vec<Value> = all.iter().map(|_| side.receive()).collect();
    asked_for.sort_by_key(|asked| asked["channel_id"].to_string());
    for asked in &asked_for {
        assert_eq!(asked["payload"]["ack"], true, "{asked}");
        side.answer(asked, json!({"status": "subscribed"}));
        assert!(next(&told).ends_with("gap None None None"));
    }
    let mut tea = client.subscribe_pattern("*.tea").unwrap();
    confirm(&mut side, "*.tea", &json!({}));
    client.flush_by(&mut side);
    drop(side);
    let stopped = script.accept_bare();
    client.publish_with("prices", &"kept", &retained).unwrap();
    let plain = PublishOptions::default().header("unit", "EUR");
    client.publish_with("prices", &"plain", &plain).unwrap();
    let waiting = client.clone();
    let acknowledged = std::thread::spawn(move || waiting.publish_acknowledged("prices", &2));
    while client.connection_info().pending_requests == 0 {
        std::thread::yield_now();
    }
    drop(stopped);
    let mut side = script.accept_as(&welcome(&["call"]));
    let mut events: Vec<String> = (0..5).map(|_| next(&told)).collect();
    events.sort();
    let unsupported = "the server does not know patterns, last values and histories of channels (the \
                       extension `topic`); update the server, or do without (unsupported)";
    assert_eq!(
        events,
        [
            "* gap None None None".to_owned(),
            format!("*.tea not restored: {unsupported}"),
            "prices gap None None None".to_owned(),
            format!("prices refused: {unsupported}"),
            "prices.> gap None None None".to_owned(),
        ]
    );
    assert_eq!(acknowledged.join().unwrap().unwrap_err().to_string(), unsupported);
    let mut came: Vec<Value> = (0..3).map(|_| side.receive()["channel_id"].clone()).collect();
    came.sort_by_key(ToString::to_string);
    assert_eq!(came, ["*", "prices", "prices.>"]);
    let published = side.receive_extended();
    assert_eq!(published["payload"], "plain");
    assert_eq!(published["meta"], json!({"headers": {"unit": "EUR"}}));
    drop(side);
    let mut side = reconnected(&script);
    (0..4).for_each(|_| {
        let asked = side.receive();
        side.answer(&asked, json!({"status": "subscribed"}));
    });
    publish(&mut side, "green.tea", 1, json!({}));
    assert_eq!(take(&mut tea), 1);
}

#[test]
fn a_refused_subscription_is_reported_and_tried_again() {
    let (script, client, mut side) = connect(TOPIC);
    let told = told(&client);
    let mut prices = client.subscribe("prices").unwrap();
    let (first, _) = asked(&mut side, "prices");
    side.answer(&first, failure("forbidden"));
    assert_eq!(next(&told), "prices refused: the test wants it like this (forbidden)");
    drop(side);
    let mut side = reconnected(&script);
    assert_eq!(confirm(&mut side, "prices", &place("e", 1)), json!({"ack": true}));
    publish(&mut side, "prices", 2, place("e", 2));
    assert_eq!(take(&mut prices), 2);
    assert!(told.try_recv().is_err(), "there was nothing to go on with");
}

#[test]
fn a_publication_is_acknowledged_with_its_place() {
    let (_script, client, mut side) = connect(TOPIC);
    let published = |payload: &'static str, options: PublishOptions| {
        let client = client.clone();
        std::thread::spawn(move || client.publish_acknowledged_with("prices", &payload, &options))
    };
    let plain = PublishOptions::default;
    let waiting = published("tea", plain().retain(true).header("unit", "EUR"));
    let asked = side.receive_extended();
    assert_eq!((&asked["message_type"], &asked["payload"]), (&json!("publish"), &json!("tea")));
    let expected = json!({"ack": true, "retain": true, "headers": {"unit": "EUR"}});
    assert_eq!(asked["meta"], expected);
    side.answer(&asked, json!({"status": "published", "epoch": "e", "offset": 7}));
    assert_eq!(waiting.join().unwrap().unwrap(), Some(Position::new("e", 7)));

    let waiting = published("none", plain());
    let asked = side.receive_extended();
    side.answer(&asked, json!({"status": "published"}));
    assert_eq!(waiting.join().unwrap().unwrap(), None);

    let waiting = published("full", plain());
    let asked = side.receive_extended();
    side.answer(&asked, failure("limit_exceeded"));
    assert_eq!(waiting.join().unwrap().unwrap_err().code(), Some("limit_exceeded"));

    let late = published("late", plain().timeout(Duration::from_millis(1))).join().unwrap();
    assert!(matches!(late, Err(Error::Deadline { .. })), "{late:?}");
    side.receive_extended();

    let waiting = published("lost", plain());
    while side.receive_extended()["payload"] != "lost" {}
    drop(side);
    let lost = waiting.join().unwrap().unwrap_err();
    assert_eq!(lost.execution(), ipc_framework::client::Execution::Possible, "{lost}");
}

#[test]
fn a_blocking_connection_is_told_what_it_gets() {
    let (mut connection, mut side) = connect_alone(TOPIC);
    let served = std::thread::spawn(move || {
        let since = json!({"ack": true, "last": 3, "since": place("e", 4)});
        assert_eq!(confirm(&mut side, "prices", &recovered("f", 9, false)), since);
        publish(&mut side, "prices", 9, place("f", 9));
        assert_eq!(confirm(&mut side, ">", &json!({})), json!({"ack": true, "pattern": true}));
        let ended = side.receive();
        assert_eq!(ended["payload"]["pattern"], true, "{ended}");
        let published = side.receive_extended();
        assert_eq!(published["meta"], json!({"ack": true, "retain": true}));
        side.answer(&published, json!({"status": "published", "epoch": "f", "offset": 10}));
        side
    });
    let options = SubscribeOptions::default().last(3).since(Position::new("e", 4));
    let subscribed = connection.subscribe_with("prices", &options).unwrap();
    assert_eq!(subscribed.position, Some(Position::new("f", 9)));
    assert_eq!(subscribed.recovered, Some(false));
    connection.subscribe_pattern(">").unwrap();
    connection.unsubscribe_pattern(">").unwrap();
    let retained = PublishOptions::default().retain(true);
    let position = connection.publish_acknowledged_with("prices", &1, &retained).unwrap();
    assert_eq!(position, Some(Position::new("f", 10)));
    let message = connection.receive(Some(HANG)).unwrap().unwrap();
    assert_eq!(message.position(), Some(&Position::new("f", 9)));
    drop(served.join().unwrap());

    let (mut connection, _side) = connect_alone(&["call"]);
    assert!(connection.subscribe_pattern(">").unwrap_err().to_string().contains("`topic`"));
    assert_eq!(
        connection.publish_with("prices", &1, &retained).unwrap_err().code(),
        Some("unsupported")
    );
}
