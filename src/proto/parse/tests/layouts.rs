//! Messages in the usual layouts are read in the quick way, with the result of the general way.

use proptest::prelude::*;
use proptest::sample::select;

use crate::proto::parse::{usual, usual_extended};
use crate::proto::scanner::tests::{apply, cases, damage, json_text, string_text};
use crate::proto::{Envelope, Fault, fields};

const UUID: &str = "5b0c7a52-1f5e-4f0a-9f5c-0d6c2f1c9a11";

/// Messages as the clients write them, with and without a `reply_to`.
fn written_by_clients() -> Vec<String> {
    let payloads = [r#"{"text":"hi"}"#, r#"{"text": "hi", "n": [1, 2]}"#, "null", "7", "\"é\\n\""];
    let mut messages = Vec::new();
    for payload in payloads {
        for reply_to in ["null", "\"\"", "\"5b0c7a52\""] {
            // Python's json.dumps.
            messages.push(format!(
                "{{\"message_id\": \"{UUID}\", \"app_id\": \"app\", \"channel_id\": \"news\", \
                 \"message_type\": \"publish\", \"payload\": {payload}, \
                 \"timestamp\": 1764422345.1234567, \"reply_to\": {reply_to}}}"
            ));
            // The Rust client, and this server.
            messages.push(format!(
                "{{\"message_id\":\"{UUID}\",\"app_id\":\"app\",\"channel_id\":\"news\",\
                 \"message_type\":\"response\",\"payload\":{payload},\
                 \"timestamp\":1764422345.123456,\"reply_to\":{reply_to}}}"
            ));
            // Node.js leaves out a `reply_to` that it does not have.
            let end = if reply_to == "null" {
                String::new()
            } else {
                format!(",\"reply_to\":{reply_to}")
            };
            messages.push(format!(
                "{{\"message_id\":\"{UUID}\",\"app_id\":\"app\",\"channel_id\":\"news\",\
                 \"message_type\":\"request\",\"payload\":{payload},\"timestamp\":1764422345.12{end}}}"
            ));
        }
    }
    messages
}

/// Checks that both ways agree if the quick one takes a message. Returns whether it does.
fn check(body: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(body) else { return false };
    let quick = usual(text);
    if let Some(envelope) = quick {
        assert_eq!(fields::read(text, false), Ok(envelope), "{text}");
    }
    quick.is_some()
}

#[test]
fn what_clients_write_is_read_in_the_quick_way() {
    for text in written_by_clients() {
        assert!(check(text.as_bytes()), "{text}");
        assert!(Envelope::parse(text.as_bytes()).is_ok());
    }
}

/// Leaves each byte out, doubles it, and replaces it by each byte that means something to JSON.
#[test]
#[cfg_attr(miri, ignore = "250,000 documents; the cases of the other tests are of the same kind")]
fn both_ways_agree_on_every_change_of_a_byte() {
    let mut taken = 0;
    for text in written_by_clients().iter().take(9) {
        for at in 0..text.len() {
            let mut body = text.clone().into_bytes();
            let byte = body.remove(at);
            taken += usize::from(check(&body));
            body.insert(at, byte);
            body.insert(at, byte);
            taken += usize::from(check(&body));
            body.remove(at);
            for &other in b"\"\\{}[]:,-+.e01tnupr \n\0" {
                body[at] = other;
                taken += usize::from(check(&body));
            }
        }
    }
    // Most bytes of an id may change, and none of the punctuation.
    assert!((1_000..40_000).contains(&taken), "{taken}");
}

/// A message in a usual layout, with values that may be anything.
fn laid_out() -> impl Strategy<Value = String> {
    let id = || {
        prop_oneof![
            6 => string_text(false),
            2 => string_text(true),
            1 => (250_usize..260).prop_map(|length| format!("\"{}\"", "x".repeat(length))),
            1 => select(vec!["\"\"", "null", "7", "\"request\""]).prop_map(str::to_owned),
        ]
    };
    let number = prop_oneof![
        4 => "(0|[1-9][0-9]{0,20})(\\.[0-9]{1,25})?",
        1 => "-?[0-9]{1,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,3})?",
        1 => (60_usize..70).prop_map(|length| "1".repeat(length)),
    ];
    let message_type = select(vec![
        "request",
        "response",
        "notification",
        "subscribe",
        "unsubscribe",
        "publish",
        "other",
    ]);
    let reply_to = prop_oneof![Just(None), id().prop_map(Some)];
    let all = (id(), id(), id(), message_type, json_text(), number, reply_to, any::<bool>());
    all.prop_map(|(message_id, app_id, channel_id, message_type, payload, number, reply_to, spaced)| {
        let s = if spaced { " " } else { "" };
        let end = reply_to.map_or(String::new(), |id| format!(",{s}\"reply_to\":{s}{id}"));
        format!(
            "{{\"message_id\":{s}{message_id},{s}\"app_id\":{s}{app_id},{s}\"channel_id\":{s}{channel_id},\
             {s}\"message_type\":{s}\"{message_type}\",{s}\"payload\":{s}{payload},\
             {s}\"timestamp\":{s}{number}{end}}}"
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(3000)))]

    #[test]
    fn both_ways_agree_on_messages(text in laid_out()) {
        check(text.as_bytes());
    }

    #[test]
    fn both_ways_agree_on_damaged_messages(text in laid_out(), damage in damage()) {
        check(&damage.into_iter().fold(text.into_bytes(), apply));
    }
}

/// A message with a `meta` is read in the quick way if that stands last, and in any case if it is
/// allowed.
#[test]
fn a_meta_is_read_where_it_is_allowed() {
    let metas = [r#"{"ttl":5}"#, "{}", r#"{"headers": {"a": "}"}}"#, "[1]", "null"];
    for (text, meta) in written_by_clients().iter().flat_map(|text| metas.map(|meta| (text, meta)))
    {
        let is_spaced = text.starts_with("{\"message_id\": ");
        let before = if is_spaced { ", \"meta\": " } else { ",\"meta\":" };
        let whole = text.strip_suffix('}').unwrap();
        let extended = format!("{whole}{before}{meta}}}");
        let quick = usual_extended(&extended);
        assert_eq!(quick.is_some(), text.contains("\"reply_to\""), "{extended}");
        let envelope = Envelope::parse_extended(extended.as_bytes()).unwrap();
        assert_eq!(fields::read(&extended, true), Ok(envelope));
        assert_eq!(envelope.meta().unwrap().as_str(), meta);
        let plain = Envelope::parse(text.as_bytes()).unwrap();
        assert_eq!(envelope.payload_str(), plain.payload_str());
        assert_eq!(Envelope::parse_extended(text.as_bytes()), Ok(plain));

        let refused = Envelope::parse(extended.as_bytes()).unwrap_err();
        assert!(matches!(refused.fault, Fault::Unknown { .. }), "{extended}");
        let first = format!("{{\"meta\":{meta},{}", &text[1..]);
        assert_eq!(Envelope::parse_extended(first.as_bytes()).unwrap().meta, envelope.meta);
        let twice = format!("{{\"meta\":{meta},{}", &extended[1..]);
        let fault = Envelope::parse_extended(twice.as_bytes()).unwrap_err().fault;
        assert_eq!(fault, Fault::Doubled { field: "meta" });
    }
}
