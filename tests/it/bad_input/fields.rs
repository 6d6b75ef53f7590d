//! JSON that is no message, and messages in somebody else's name.

use serde_json::{Value, json};

use super::Bystanders;
use crate::support::{Peer, TestServer, serve_echo};

/// A good request as (key, value) in JSON text.
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

/// The same key with its first letter as an escape.
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

/// A connection whose messages are refused, beside others whose are not.
///
/// The server is dropped last: it would give those who are still there time to leave.
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

    /// What is wrong with the field `at_fault` is the only thing wrong.
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

#[test]
fn each_field_has_to_be_there() {
    let mut trial = Trial::begin();
    for at in 0..6 {
        let mut fields = good();
        let (key, _) = fields.remove(at);
        trial.refused(&text(&fields), key.trim_matches('"'));
    }
    let fields = &good()[..6];
    trial.answered(&text(fields), "m-1");
    trial.end();
}

#[test]
fn no_field_may_be_there_twice_however_it_is_spelled() {
    let mut trial = Trial::begin();
    for (key, value) in good() {
        for again in [key.clone(), escaped(&key)] {
            let field = key.trim_matches('"');
            let mut last = good();
            last.push((again.clone(), value.clone()));
            trial.refused(&text(&last), field);
            let mut first = good();
            first.insert(0, (again, value.clone()));
            trial.refused(&text(&first), field);
        }
    }
    let mut other = good();
    other.push(("\"\\u0061pp_id\"".to_owned(), "\"other\"".to_owned()));
    trial.refused(&text(&other), "app_id");
    trial.end();
}

#[test]
fn an_escaped_key_is_as_good_as_a_plain_one() {
    let mut trial = Trial::begin();
    let fields: Vec<_> = good().into_iter().map(|(key, value)| (escaped(&key), value)).collect();
    assert!(text(&fields).contains("\"\\u0061pp_id\":\"app\""));
    trial.answered(&text(&fields), "m-1");
    let mut fields = with("message_type", "\"re\\u0071uest\"");
    fields.reverse();
    trial.answered(&text(&fields), "m-1");
    trial.end();
}

#[test]
fn unknown_fields_are_refused() {
    let mut trial = Trial::begin();
    let unknown = ["x", "", "Message_id", "message_id ", "app_id\\u0000", "__proto__", "\\ud800"];
    for key in unknown {
        for at in [0, 3, 7] {
            let mut fields = good();
            fields.insert(at, (format!("\"{key}\""), "1".to_owned()));
            trial.refused(&text(&fields), key);
        }
    }
    trial.end();
}

#[test]
fn each_field_has_one_type() {
    let mut trial = Trial::begin();
    for field in ["message_id", "app_id", "channel_id", "message_type"] {
        for value in ["7", "null", "true", "[\"echo\"]", "{}"] {
            trial.refused(&text(&with(field, value)), field);
        }
    }
    for value in ["\"1.5\"", "null", "false", "[1]", "{}"] {
        trial.refused(&text(&with("timestamp", value)), "timestamp");
    }
    for value in ["7", "true", "[]", "{}"] {
        trial.refused(&text(&with("reply_to", value)), "reply_to");
    }
    for value in ["\"\"", "\"REQUEST\"", "\"requests\"", "\"connect\""] {
        trial.refused(&text(&with("message_type", value)), "message_type");
    }
    trial.end();
}

#[test]
fn an_id_is_unicode_of_1_to_256_bytes() {
    let mut trial = Trial::begin();
    for field in ["message_id", "app_id", "channel_id", "message_type", "reply_to"] {
        for value in ["\"\\ud800\"", "\"a\\udc00\"", "\"\\ud800\\ud800\"", "\"\\ude00\\ud83d\""] {
            trial.refused(&text(&with(field, value)), field);
        }
    }
    for field in ["message_id", "app_id", "channel_id"] {
        trial.refused(&text(&with(field, "\"\"")), field);
    }
    for field in ["message_id", "app_id", "channel_id", "reply_to"] {
        for long in ["x".repeat(257), "ü".repeat(128) + "x", "\\u0078".repeat(257)] {
            trial.refused(&text(&with(field, &format!("\"{long}\""))), field);
        }
    }
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
            let id = trial.peer.send(message_type, channel_id, payload);
            trial.peer.expect_error("forbidden", channel_id, id);
        }
        // The subscriber of `calm` still is one, and the victim hears nothing.
        trial.bystanders.go_on();
        trial.peer.send("publish", "private", json!("psst"));
        trial.peer.fence();
        victim.fence();
    }
    for payload in [json!(null), json!([]), json!("peer"), json!({"connection_id": 7})] {
        let id = trial.peer.send("subscribe", "private", payload);
        trial.peer.expect_error("bad_message", "private", id);
    }
    trial.end();
}

#[test]
fn another_applications_channels_cannot_be_reached() {
    let mut trial = Trial::begin();
    let mut native = trial.server.connected("other", "native");
    native.subscribe("calm");
    native.serve("work");
    "other".clone_into(&mut trial.peer.app_id);
    for message_type in ["request", "notification", "subscribe", "unsubscribe", "publish"] {
        for channel_id in ["calm", "work", "new", "system"] {
            let payload = json!({"connection_id": "native", "action": "ping"});
            let id = trial.peer.send(message_type, channel_id, payload);
            trial.peer.expect_error("forbidden", channel_id, id);
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
            let id = trial.peer.send("request", "system", payload);
            trial.peer.expect_error("bad_message", "system", id);
        }
    }
    let id = trial.peer.send("request", "system", json!({"action": "serve", "channel": "system"}));
    trial.peer.expect_error("forbidden", "system", id);
    for payload in [json!(null), json!("ping"), json!(["ping"]), json!({"action": 1}), json!({})] {
        let id = trial.peer.send("request", "system", payload);
        trial.peer.expect_error("bad_message", "system", id);
    }
    for action in
        ["list_applications", "list_channels", "list_services", "get_stats", "get_latency"]
    {
        let shown = trial.peer.request("system", json!({"action": action})).to_string();
        for id in ["publisher", "subscriber", "requester"] {
            // `subscribers` is a count.
            assert!(!shown.contains(&format!("\"{id}\"")), "{action}: {shown}");
        }
    }
    trial.end();
}
