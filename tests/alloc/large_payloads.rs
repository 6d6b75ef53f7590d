//! The server reads only a few members of payloads that are meant for itself, and builds nothing
//! from the rest. A payload of any size and kind takes no memory beside its frame.

use ipc_framework::broker::{ConnectionKey, Limits};

use super::memory::Turns;
use super::{connect, frame};

const PAYLOAD_BYTES: usize = 4 << 20;
/// Enough for the text of an error and the like.
const PEAK_BYTES_MAX: u64 = 16 << 10;

/// Returns `part` over and over, between brackets.
fn array_of(part: &str) -> String {
    let parts = vec![part; PAYLOAD_BYTES / (part.len() + 1)];
    format!("[{}]", parts.join(","))
}

fn connected() -> (Turns, ConnectionKey) {
    let mut turns = Turns::new(Limits::default());
    let key = turns.accept();
    turns.receive(key, &connect("me"), |_, _| true);
    (turns, key)
}

/// Returns the most that the message makes the broker allocate at one time, and the answer.
#[track_caller]
fn assert_small(message_type: &str, channel_id: &str, payload: &str, expected: &str) {
    let (mut turns, key) = connected();
    let bytes = frame(message_type, channel_id, payload, "null");
    let mut answer = Vec::with_capacity(4 << 10);
    let info = allocation_counter::measure(|| {
        turns.receive(key, &bytes, |_, slice| {
            answer.extend_from_slice(slice);
            true
        });
    });
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains(expected), "{message_type} {}: {answer}", &payload[..80]);
    assert!(info.bytes_max <= PEAK_BYTES_MAX, "{message_type} {}: {info:?}", &payload[..80]);
}

#[test]
fn nothing_is_built_of_what_is_no_payload_of_the_server() {
    for part in ["[]", "\"a\"", "{\"a\":0}"] {
        let payload = array_of(part);
        for (message_type, channel_id) in [
            ("request", "system"),
            ("subscribe", "system"),
            ("subscribe", "news"),
            ("unsubscribe", "news"),
        ] {
            assert_small(message_type, channel_id, &payload, "bad_message");
        }
    }
}

#[test]
fn nothing_is_built_of_members_that_nobody_asked_for() {
    for part in ["[]", "{\"action\":0}"] {
        let rest = array_of(part);
        let action = |action: &str| format!(r#"{{"x":{rest},"action":"{action}","channel":"c"}}"#);
        for (name, expected) in [("ping", "pong"), ("serve", "serving"), ("nap", "no_handler")] {
            assert_small("request", "system", &action(name), expected);
        }
        let own = format!(r#"{{"x":{rest},"connection_id":"me","ack":true}}"#);
        assert_small("subscribe", "news", &own, "subscribed");
        assert_small("unsubscribe", "news", &own, "unsubscribed");
    }
}

/// Escapes have to be resolved, but not those of a string that is too long to mean anything.
#[test]
fn a_long_string_is_not_decoded() {
    let long = "\\n".repeat(PAYLOAD_BYTES / 2);
    for (message_type, channel_id, payload, expected) in [
        ("request", "system", format!(r#"{{"action":"{long}"}}"#), "no_handler"),
        ("request", "system", format!(r#"{{"action":"serve","channel":"{long}"}}"#), "bad_message"),
        (
            "request",
            "system",
            format!(r#"{{"action":"list_channels","app_id":"{long}"}}"#),
            "forbidden",
        ),
        ("subscribe", "news", format!(r#"{{"connection_id":"{long}"}}"#), "forbidden"),
        ("unsubscribe", "news", format!(r#"{{"{long}":"{long}","ack":true}}"#), "unsubscribed"),
    ] {
        assert_small(message_type, channel_id, &payload, expected);
    }
}
