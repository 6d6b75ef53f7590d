//! JSON that is no message, and messages in another connection's name.

use serde_json::{Value, json};

use super::Bystanders;
use crate::support::{Peer, TestServer, serve_echo};

/// Returns the fields of a good request as (key, value) in JSON text.
fn good() -> Vec<(String, String)> {
    [
        ("message_id", "\"m-1\""),
        ("app_id", "\"app\""),
        ("channel_id", "\"echo\""),
        ("message_type", "\"request\""),
        ("payload", "[1]"),
        ("timestamp", "1.5"),
        ("reply_to", "null"),
    ]
    .map(|(key, value)| (format!("\"{key}\""), value.to_owned()))
    .into()
}

fn text(fields: &[(String, String)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{key}:{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

/// Writes the first letter of a key as an escape.
fn escaped(key: &str) -> String {
    let first = key.as_bytes()[1];
    format!("\"\\u{:04x}{}", first, &key[2..])
}

fn with(key: &str, value: &str) -> Vec<(String, String)> {
    let mut fields = good();
    for field in &mut fields {
        if field.0.trim_matches('"') == key {
            value.clone_into(&mut field.1);
        }
    }
    fields
}

/// A connection whose messages are refused, beside others whose messages are not.
///
/// The server is dropped last, because it would otherwise wait for the connections that are still
/// open.
struct Trial {
    bystanders: Bystanders,
    peer: Peer,
    server: TestServer,
}

impl Trial {
    fn begin() -> Self {
        let server = serve_echo();
        let bystanders = Bystanders::of(&server);
        let peer = server.connected("app", "peer");
        Self { bystanders, peer, server }
    }

    /// Expects that a message is refused, whose only fault is in the field `at_fault`.
    fn refused(&mut self, text: &str, at_fault: &str) {
        println!("{text}");
        let channel_id = if at_fault == "channel_id" { "system" } else { "echo" };
        let reply_to = if at_fault == "message_id" { Value::Null } else { json!("m-1") };
        self.peer.send_body(text.as_bytes());
        self.peer.expect_error("bad_message", channel_id, reply_to);
        self.peer.fence();
    }

    fn answered(&mut self, text: &str, reply_to: &str) {
        println!("{text}");
        self.peer.send_body(text.as_bytes());
        let answer = self.peer.receive();
        assert_eq!((&answer["payload"], &answer["reply_to"]), (&json!([1]), &json!(reply_to)));
    }

    fn end(mut self) {
        self.bystanders.go_on();
        self.peer.fence();
    }
}

/// All variants of wrong fields are tested in `proto::envelope::tests`.
#[test]
fn what_is_wrong_with_a_field_is_told_and_harms_nobody() {
    let mut trial = Trial::begin();
    for (at, (key, value)) in good().into_iter().enumerate() {
        let field = key.trim_matches('"');
        let mut missing = good();
        missing.remove(at);
        if field != "reply_to" {
            trial.refused(&text(&missing), field);
        }
        // The key may be spelled with escapes.
        for again in [key.clone(), escaped(&key)] {
            let twice = [good(), vec![(again, value.clone())]].concat();
            trial.refused(&text(&twice), field);
        }
    }
    let unknown = [good(), vec![("\"x\"".to_owned(), "1".to_owned())]].concat();
    trial.refused(&text(&unknown), "x");
    let long = format!("\"{}\"", "x".repeat(257));
    for field in ["message_id", "app_id", "channel_id", "message_type"] {
        for value in ["7", "null", "\"\\ud800\"", "\"\"", &long] {
            trial.refused(&text(&with(field, value)), field);
        }
    }
    trial.refused(&text(&with("timestamp", "null")), "timestamp");
    trial.refused(&text(&with("reply_to", "7")), "reply_to");
    trial.end();
}

#[test]
fn what_only_looks_odd_is_answered() {
    let mut trial = Trial::begin();
    trial.answered(&text(&good()[..6]), "m-1");
    let mut fields: Vec<_> = with("message_type", "\"re\\u0071uest\"")
        .into_iter()
        .map(|(k, v)| (escaped(&k), v))
        .collect();
    fields.reverse();
    trial.answered(&text(&fields), "m-1");
    for longest in ["x".repeat(256), "ü".repeat(128), "😀".repeat(64)] {
        let fields = with("message_id", &format!("\"{longest}\""));
        trial.answered(&text(&fields), &longest);
    }
    let escaped = format!("\"{}\"", "\\u0078".repeat(256));
    trial.answered(&text(&with("message_id", &escaped)), &"x".repeat(256));
    trial.answered(&text(&with("reply_to", "\"\"")), "m-1");
    trial.end();
}

#[test]
fn a_bad_response_is_not_answered() {
    let mut trial = Trial::begin();
    let ignored = trial.server.stats().counters.responses_ignored;
    let mut fields = with("message_type", "\"response\"");
    fields.push(("\"extra\"".to_owned(), "1".to_owned()));
    trial.peer.send_body(text(&fields).as_bytes());
    let mut foreign = with("message_type", "\"response\"");
    "\"other\"".clone_into(&mut foreign[1].1);
    trial.peer.send_body(text(&foreign).as_bytes());
    trial.peer.fence();
    assert_eq!(trial.server.stats().counters.responses_ignored, ignored + 2);
    trial.end();
}

#[test]
fn nobody_can_subscribe_or_unsubscribe_another() {
    let mut trial = Trial::begin();
    let mut victim = trial.server.connected("app", "victim");
    for ack in [false, true] {
        for (message_type, channel_id, named) in
            [("subscribe", "private", "victim"), ("unsubscribe", "calm", "subscriber")]
        {
            let payload = json!({"connection_id": named, "ack": ack});
            trial.peer.expect_refusal(message_type, channel_id, payload, "forbidden");
        }
        // The subscriber of `calm` is still subscribed, and the victim receives nothing.
        trial.bystanders.go_on();
        trial.peer.send("publish", "private", json!("psst"));
        trial.peer.fence();
        victim.fence();
    }
    for payload in [json!(null), json!([]), json!("peer"), json!({"connection_id": 7})] {
        trial.peer.expect_refusal("subscribe", "private", payload, "bad_message");
    }
    trial.end();
}

#[test]
fn another_applications_channels_cannot_be_reached() {
    let mut trial = Trial::begin();
    let mut native = trial.server.connected("other", "native").subscribed("calm");
    native.serve("work");
    "other".clone_into(&mut trial.peer.app_id);
    for message_type in ["request", "notification", "subscribe", "unsubscribe", "publish"] {
        for channel_id in ["calm", "work", "new", "system"] {
            let payload = json!({"connection_id": "native", "action": "ping"});
            trial.peer.expect_refusal(message_type, channel_id, payload, "forbidden");
        }
    }
    "app".clone_into(&mut trial.peer.app_id);
    native.fence();
    native.send("publish", "calm", json!("ours"));
    assert_eq!(native.receive()["payload"], "ours");
    let channels = native.request("system", json!({"action": "list_channels"}));
    assert!(channels.get("new").is_none(), "{channels}");
    trial.end();
}

#[test]
fn the_system_channel_is_nobodys_and_shows_nobodys_id() {
    let mut trial = Trial::begin();
    for action in ["serve", "stop_serving"] {
        for channel in [json!(null), json!(7), json!(""), json!("x".repeat(257))] {
            let payload = json!({"action": action, "channel": channel});
            trial.peer.expect_refusal("request", "system", payload, "bad_message");
        }
    }
    trial.peer.expect_refusal(
        "request",
        "system",
        json!({"action": "serve", "channel": "system"}),
        "forbidden",
    );
    for payload in [json!(null), json!("ping"), json!(["ping"]), json!({"action": 1}), json!({})] {
        trial.peer.expect_refusal("request", "system", payload, "bad_message");
    }
    for action in
        ["list_applications", "list_channels", "list_services", "get_stats", "get_latency"]
    {
        let shown = trial.peer.request("system", json!({"action": action})).to_string();
        for id in ["publisher", "subscriber", "requester"] {
            // The key `subscribers` is a count, so the id is searched with its quotes.
            assert!(!shown.contains(&format!("\"{id}\"")), "{action}: {shown}");
        }
    }
    trial.end();
}
