//! Patterns that are none, that are as long, as many and as wide as they may be, and that meet last values.

use ipc_framework::Limits;
use serde_json::{Value, json};

use super::{Bystanders, topical};
use crate::support::{Peer, code, frames, serve_limited};

fn pattern() -> Value {
    json!({"pattern": true})
}

/// Expects publications with these channels and payloads, and nothing else.
fn expect_heard<const N: usize>(peer: &mut Peer, expected: [(&str, Value); N]) {
    for (channel, payload) in expected {
        let heard = peer.receive_extended();
        let found = (&heard["message_type"], &heard["channel_id"], &heard["payload"]);
        assert_eq!(found, (&json!("publish"), &json!(channel), &payload), "{heard}");
    }
    peer.fence();
}

#[test]
fn what_is_no_pattern_is_refused_and_the_connection_goes_on() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut peer = topical(&server, "peer");
    let tokens = |count: usize| vec!["a"; count].join(".");
    let long = "a.".repeat(128) + "a";
    assert_eq!(long.len(), 257);
    for text in ["a.>.b", ">.a", ">>", "a>", "a.b>", "a.>.", &tokens(33), &long, ""] {
        for kind in ["subscribe", "unsubscribe"] {
            let answer = peer.send(kind, text, pattern());
            let refused = peer.receive_extended();
            assert_eq!(code(&refused), "bad_message", "{text}: {refused}");
            assert_eq!(refused["reply_to"], answer, "{text}");
        }
    }
    for payload in [
        json!({"pattern": "true"}),
        json!({"pattern": null}),
        json!({"pattern": true, "since": {"epoch": "a", "offset": 1}}),
        json!({"pattern": true, "last": 0}),
        json!({"pattern": true, "conflate": 1}),
    ] {
        let id = peer.send("subscribe", "a.*", payload);
        let refused = peer.receive_extended();
        assert_eq!((code(&refused), &refused["reply_to"]), ("bad_message", &json!(id)));
    }
    bystanders.go_on();
    let stats = server.stats();
    assert_eq!((stats.total_patterns, stats.total_channels), (0, 2), "calm and echo");
}

#[test]
fn tokens_may_be_empty_and_a_pattern_as_long_as_an_id() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut peer = topical(&server, "peer");
    let longest = "*.".repeat(31) + &"x".repeat(256 - 62);
    let channel = "a.".repeat(31) + &"x".repeat(256 - 62);
    assert_eq!((longest.len(), channel.len() > 255), (256, true));
    for text in ["..", "a..*", "b.", &longest] {
        assert_eq!(peer.ask("subscribe", text, pattern()), json!({"status": "subscribed"}));
    }
    for (channel, payload) in [
        ("..", 1),
        (".", 2),
        ("a..", 3),
        ("a..b", 4),
        ("a.b", 5),
        ("b.", 6),
        ("b", 7),
        (&channel, 8),
    ] {
        bystanders.publisher.send("publish", channel, json!(payload));
    }
    bystanders.go_on();
    expect_heard(
        &mut peer,
        [
            ("..", json!(1)),
            ("a..", json!(3)),
            ("a..b", json!(4)),
            ("b.", json!(6)),
            (&channel, json!(8)),
        ],
    );
}

#[test]
fn who_matches_several_times_gets_one_copy_even_of_its_own() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut peer = topical(&server, "peer");
    for text in [">", "*", "a.*", "a.>", "*.b", "a.b", "a.b", ">"] {
        assert_eq!(peer.ask("subscribe", text, pattern()), json!({"status": "subscribed"}));
    }
    assert_eq!(peer.ask("subscribe", "a.b", json!({}))["status"], "subscribed");
    peer.send("publish", "a.b", json!(1));
    expect_heard(&mut peer, [("a.b", json!(1))]);
    // One after the other ends, and it is one copy still, and then none.
    for text in [">", "a.*", "a.>", "*.b", "a.b"] {
        assert_eq!(peer.ask("unsubscribe", text, pattern()), json!({"status": "unsubscribed"}));
        peer.send("publish", "a.b", json!(text));
        expect_heard(&mut peer, [("a.b", json!(text))]);
    }
    peer.ask("unsubscribe", "a.b", json!({}));
    peer.send("publish", "a.b", json!(2));
    expect_heard(&mut peer, []);
    bystanders.go_on();
}

/// PROTOCOL.md states the bounds: a look-up visits each node once, and a channel remembers 64 patterns.
#[test]
fn as_many_patterns_as_a_connection_may_have_on_many_channels_take_bounded_memory() {
    const CHANNELS: usize = 40;
    const STATED_BYTES_MAX: usize = 4_096;
    let server = serve_limited(Limits::default());
    let mut bystanders = Bystanders::of(&server);
    let mut peer = topical(&server, "peer");
    // All of them match: each of twelve tokens, or any in its place.
    let text = |bits: usize| {
        let token = |at: usize| if bits & 1 << at == 0 { "*".to_owned() } else { at.to_string() };
        (0..12).map(token).collect::<Vec<_>>().join(".") + ".>"
    };
    let messages: Vec<Value> =
        (0..4_096).map(|bits| peer.message("subscribe", &text(bits), &pattern())).collect();
    peer.send_all(&messages);
    peer.fence();
    let one_more = peer.send("subscribe", "a.*", pattern());
    let refused = peer.receive_extended();
    assert_eq!((code(&refused), &refused["reply_to"]), ("limit_exceeded", &json!(one_more)));
    let before = server.stats();
    assert_eq!(before.total_patterns, 4_096);
    let channel = |at: usize| text(4_095).replace('>', &at.to_string());
    let mut publisher = server.connected("app", "floods");
    for _ in 0..2 {
        let publications: Vec<Value> = (0..CHANNELS)
            .map(|at| publisher.message("publish", &channel(at), &json!(at)))
            .collect();
        publisher.stream_all(&publications);
        bystanders.go_on();
        for at in 0..CHANNELS {
            let heard = peer.receive_extended();
            assert_eq!(
                (&heard["channel_id"], &heard["payload"]),
                (&json!(channel(at)), &json!(at))
            );
        }
        peer.fence();
    }
    let after = server.stats();
    assert_eq!(after.total_channels - before.total_channels, CHANNELS);
    let grown = after.memory_bytes.saturating_sub(before.memory_bytes);
    assert!(grown < CHANNELS * STATED_BYTES_MAX, "{grown} bytes for {CHANNELS} channels");
    drop(peer);
    server.wait_until("its patterns go", |stats| stats.total_patterns == 0);
    bystanders.go_on();
}

#[test]
fn subscribe_and_unsubscribe_in_one_write_leave_nothing_behind() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut peer = topical(&server, "peer");
    peer.publish_with("kept.a", &json!("value"), json!({"retain": true}));
    for (channel, payload) in [
        ("kept.*", json!({"pattern": true, "last": 5, "ack": true})),
        ("kept.*", json!({"pattern": true, "ack": true, "conflate": true})),
        ("kept.a", json!({"last": 1, "ack": true})),
    ] {
        let mut messages = Vec::new();
        for _ in 0..50 {
            for kind in ["subscribe", "unsubscribe"] {
                messages.push(peer.message(kind, channel, &payload));
            }
        }
        peer.stream_all(&messages);
        // What was kept comes behind each answer that promises it, or not at all.
        let answers: Vec<Value> = std::iter::repeat_with(|| peer.receive_extended())
            .filter(|message| message["message_type"] == "response")
            .take(messages.len())
            .collect();
        for (answer, message) in answers.iter().zip(&messages) {
            assert_eq!(answer["reply_to"], message["message_id"]);
        }
        peer.fence();
        bystanders.publisher.send("publish", "kept.a", json!(1));
        bystanders.go_on();
        peer.fence();
    }
    assert_eq!(server.stats().total_patterns, 0);
}

#[test]
fn last_values_and_patterns_do_not_get_in_each_others_way() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut peer = topical(&server, "peer");
    // A channel may have a name that reads like a pattern; it is kept as that name alone.
    for (channel, payload) in [("v.*", 1), ("v.>", 2), ("v.a", 3), ("w", 4), ("$v.a", 5)] {
        peer.publish_with(channel, &json!(payload), json!({"retain": true}));
    }
    peer.fence();
    let last = json!({"pattern": true, "last": 9});
    let recovered = json!({"status": "subscribed", "recovered": true});
    assert_eq!(peer.ask("subscribe", "v.*", last.clone()), recovered);
    let mut heard = [0; 3].map(|_| peer.receive_extended());
    heard.sort_by_key(|message| message["payload"].as_u64());
    for (message, (channel, payload)) in heard.iter().zip([("v.*", 1), ("v.>", 2), ("v.a", 3)]) {
        assert_eq!(
            (&message["channel_id"], &message["payload"]),
            (&json!(channel), &json!(payload))
        );
        assert_eq!(message["meta"], json!({"retain": true}));
    }
    // What it hears already comes no second time, and that of a reserved name only where it is named.
    assert_eq!(peer.ask("subscribe", ">", last.clone()), recovered);
    expect_heard(&mut peer, [("w", json!(4))]);
    assert_eq!(peer.ask("subscribe", "$v.*", last.clone()), recovered);
    expect_heard(&mut peer, [("$v.a", json!(5))]);
    // A second time it would come too late.
    let id = peer.send("subscribe", ">", last.clone());
    let refused = peer.receive_extended();
    assert_eq!((code(&refused), &refused["reply_to"]), ("bad_message", &json!(id)));
    // An empty value is heard, and forgotten.
    peer.publish_with("v.a", &Value::Null, json!({"retain": true}));
    expect_heard(&mut peer, [("v.a", Value::Null)]);
    let mut late = topical(&server, "late");
    assert_eq!(late.ask("subscribe", "v.a", last), recovered);
    expect_heard(&mut late, []);
    bystanders.go_on();
}

impl Peer {
    /// Sends messages in one write, from a thread of its own: the server need not read all before it
    /// answers some.
    fn stream_all(&self, messages: &[Value]) {
        use std::io::Write;
        let bytes = frames(messages);
        let mut stream = self.stream.try_clone().unwrap();
        std::thread::spawn(move || stream.write_all(&bytes));
    }
}
