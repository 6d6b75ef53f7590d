use crate::proto::fields::Field;
use crate::proto::limits::TIMESTAMP_BYTES_MAX;
use crate::proto::{
    DEPTH_MAX, Envelope, EnvelopeError, ErrorCode, Fault, ID_BYTES_MAX, MessageType,
};

mod against_serde_json;
mod layouts;

/// The fields of a message without faults, as JSON text.
pub(super) const FIELDS: [(&str, &str); 7] = [
    ("message_id", "\"m-1\""),
    ("app_id", "\"app\""),
    ("channel_id", "\"chan\""),
    ("message_type", "\"request\""),
    ("payload", "{\"n\": [1, \"}\"]}"),
    ("timestamp", "1722222222.25"),
    ("reply_to", "null"),
];

fn body(fields: &[(&str, &str)]) -> String {
    let member = |(key, value): &(&str, &str)| format!("\"{key}\":{value}");
    let members: Vec<_> = fields.iter().map(member).collect();
    format!("{{{}}}", members.join(","))
}

fn without(name: &str) -> String {
    let mut fields = FIELDS.to_vec();
    fields.retain(|(key, _)| *key != name);
    body(&fields)
}

fn with(name: &str, value: &str) -> String {
    body(&FIELDS.map(|(key, old)| (key, if key == name { value } else { old })))
}

fn and(key: &str, value: &str) -> String {
    let mut fields = FIELDS.to_vec();
    fields.push((key, value));
    body(&fields)
}

fn refused(body: &str) -> EnvelopeError<'_> {
    Envelope::parse(body.as_bytes()).expect_err(body)
}

#[test]
fn reads_every_field() {
    let text = format!(" \n{} ", body(&FIELDS));
    let envelope = Envelope::parse(text.as_bytes()).unwrap();
    assert_eq!(envelope.message_id().raw(), "m-1");
    assert_eq!(envelope.app_id().raw(), "app");
    assert_eq!(envelope.channel_id().raw(), "chan");
    assert_eq!(envelope.message_type(), MessageType::Request);
    assert_eq!(envelope.payload_str(), "{\"n\": [1, \"}\"]}");
    assert_eq!(envelope.payload().as_str(), envelope.payload_str());
    assert_eq!(envelope.timestamp_str(), "1722222222.25");
    assert!((envelope.timestamp() - 1_722_222_222.25).abs() < f64::EPSILON);
    assert_eq!(envelope.reply_to(), None);
}

#[test]
fn reads_fields_in_any_order_with_space_and_escapes() {
    let text = r#" { "reply_to" : "r" , "timestamp" :1, "\u0070ayload"
        : [ ] , "message_type" : "p\u0075blish", "channel_id":"\ud83d\ude00",
        "app\u005fid":"a\"b","message_id":"" } "#;
    let envelope = Envelope::parse(text.as_bytes()).unwrap();
    assert_eq!(envelope.message_id().raw(), "");
    assert_eq!(envelope.app_id().decode(), "a\"b");
    assert_eq!(envelope.app_id().raw(), "a\\\"b");
    assert!(envelope.channel_id().matches("😀"));
    assert_eq!(envelope.message_type(), MessageType::Publish);
    assert_eq!(envelope.payload_str(), "[ ]");
    assert_eq!(envelope.reply_to().unwrap().raw(), "r");
}

#[test]
fn payload_is_as_sent() {
    let digits = "9".repeat(300);
    let payloads = [
        digits.as_str(),
        "null",
        "-0",
        "1e400",
        "\"\"",
        r#""\ud800""#,
        r#"{"\udc00":"\ud800\ud800"}"#,
        r#"{"a":1,"a":2,"message_id":3,"app_id":{}}"#,
        "[ 1 ,\t{ } ]",
    ];
    for payload in payloads {
        let text = with("payload", &format!(" \r\n{payload}\t "));
        let envelope = Envelope::parse(text.as_bytes()).expect(payload);
        assert_eq!(envelope.payload_str(), payload);
    }
}

#[test]
fn timestamp_is_finite_whatever_was_sent() {
    let cases = [
        ("0", 0.0),
        ("-0.0", 0.0),
        ("1.5e3", 1500.0),
        ("1e400", f64::MAX),
        ("-1e400", f64::MIN),
        ("1e-400", 0.0),
        ("1e99999999999999999999", f64::MAX),
    ];
    for (text, seconds) in cases {
        let body = with("timestamp", text);
        let envelope = Envelope::parse(body.as_bytes()).expect(text);
        assert_eq!(envelope.timestamp_str(), text);
        assert!((envelope.timestamp() - seconds).abs() <= f64::EPSILON, "{text}");
    }
}

#[test]
fn a_timestamp_is_no_longer_than_a_clock_makes_it() {
    let longest = "1".repeat(TIMESTAMP_BYTES_MAX);
    assert!(Envelope::parse(with("timestamp", &longest).as_bytes()).is_ok());
    let body = with("timestamp", &format!("{longest}.5"));
    assert_eq!(refused(&body).fault, Fault::TimestampTooLong);
}

#[test]
fn reply_to_is_absent_in_three_ways() {
    let bodies = [without("reply_to"), with("reply_to", "null"), with("reply_to", "\"\"")];
    for body in bodies {
        assert_eq!(Envelope::parse(body.as_bytes()).unwrap().reply_to(), None);
    }
}

#[test]
fn refuses_frames_that_are_no_json_object() {
    let message = body(&FIELDS);
    let deep = "[".repeat(100_000);
    let expected = "a comma or a closing brace";
    let end = message.len();
    let cases = [
        (String::new(), Fault::Empty),
        (" \t\r\n".to_owned(), Fault::Empty),
        ("[]".to_owned(), Fault::NotAnObject),
        (" \"{}\" ".to_owned(), Fault::NotAnObject),
        ("1e400".to_owned(), Fault::NotAnObject),
        (message[..end - 1].to_owned(), Fault::NotJson { at: end - 1, expected }),
        (format!("{message}{message}"), Fault::Trailing { at: end }),
        (format!("{message} ]"), Fault::Trailing { at: end + 1 }),
        (format!("{message}\0"), Fault::Trailing { at: end }),
        ("[] []".to_owned(), Fault::Trailing { at: 3 }),
        (deep.clone(), Fault::TooDeep { at: DEPTH_MAX }),
        (and("x", &deep), Fault::TooDeep { at: end + 4 + DEPTH_MAX - 1 }),
    ];
    for (body, fault) in cases {
        let error = refused(&body);
        assert_eq!(error.fault, fault, "{body:.80}");
        assert_eq!(fault.code(), ErrorCode::BadFrame);
        assert_eq!((error.message_id, error.channel_id, error.message_type), (None, None, None));
    }
    let not_json = [
        "nope",
        "{\"a\"}",
        "{",
        "{,}",
        "{\"message_id\" \"m\"}",
        "\u{feff}{}",
        "[NaN]",
        "}",
        "{},",
        "{\"a\":1,}",
        "{} {",
        "'{}'",
    ];
    for body in not_json {
        assert_eq!(refused(body).fault.code(), ErrorCode::BadFrame, "{body}");
    }
}

#[test]
fn refuses_what_is_not_utf8() {
    let message = body(&FIELDS).into_bytes();
    for bytes in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"] {
        for at in [0, 16, message.len()] {
            let mut body = message.clone();
            body.splice(at..at, bytes.iter().copied());
            let error = Envelope::parse(&body).unwrap_err();
            assert_eq!(error.fault, Fault::NotUtf8 { at });
            assert_eq!(error.fault.code(), ErrorCode::BadFrame);
        }
    }
}

#[test]
fn refuses_fields_that_are_missing_doubled_or_unknown() {
    for field in Field::ALL.into_iter().filter(|field| *field != Field::Meta) {
        let field = field.name();
        if field != "reply_to" {
            assert_eq!(refused(&without(field)).fault, Fault::Missing { field });
        }
        let escaped = format!("\\u{:04x}{}", field.as_bytes()[0], &field[1..]);
        for key in [field, &escaped] {
            for value in ["null", "\"again\"", "1", "{\"a\":[]}"] {
                let body = and(key, value);
                assert_eq!(refused(&body).fault, Fault::Doubled { field });
            }
        }
    }
    let at = body(&FIELDS).len();
    for key in ["", "x", "app_ID", "app_id ", "message", "message_idx", "\\ud800", "app_id\\u0000"]
    {
        assert_eq!(refused(&and(key, "[{}]")).fault, Fault::Unknown { at }, "{key}");
    }
    assert_eq!(refused("{}").fault, Fault::Missing { field: "message_id" });
    assert_eq!(refused(" { } ").fault, Fault::Missing { field: "message_id" });
}

#[test]
fn refuses_values_of_the_wrong_type() {
    for (field, _) in FIELDS {
        for value in ["null", "true", "false", "0", "-1.5", "\"x\"", "[]", "{}"] {
            let expected = match field {
                "reply_to" if value == "null" || value == "\"x\"" => continue,
                "reply_to" => "a string, or null",
                "timestamp" if value == "0" || value == "-1.5" => continue,
                "timestamp" => "a number",
                "payload" => continue,
                _ if value == "\"x\"" => continue,
                _ => "a string",
            };
            let body = with(field, value);
            let fault = Fault::WrongType { field, expected };
            assert_eq!(refused(&body).fault, fault, "{body}");
        }
    }
}

#[test]
fn refuses_unknown_message_types() {
    for text in ["", "Request", "requests", "reques", " request", "\\u0052equest", "publish\\u0000"]
    {
        let body = with("message_type", &format!("\"{text}\""));
        assert_eq!(refused(&body).fault, Fault::UnknownMessageType, "{body}");
    }
    for message_type in MessageType::ALL {
        let body = with("message_type", &format!("\"{message_type}\""));
        let envelope = Envelope::parse(body.as_bytes()).unwrap();
        assert_eq!(envelope.message_type(), message_type);
    }
}

#[test]
fn refuses_ids_that_are_empty_too_long_or_not_unicode() {
    for field in ["message_id", "app_id", "channel_id", "reply_to"] {
        for unit in ["x", "\\n", "\\u0078", "é", "\\u00e9", "😀", "\\ud83d\\ude00"] {
            let bytes = serde_json::from_str::<String>(&format!("\"{unit}\"")).unwrap().len();
            let longest = format!("\"{}\"", unit.repeat(ID_BYTES_MAX / bytes));
            let body = with(field, &longest);
            assert!(Envelope::parse(body.as_bytes()).is_ok(), "{body}");
            let body = with(field, &longest.replacen('"', "\"y", 1));
            assert_eq!(refused(&body).fault, Fault::IdTooLong { field }, "{body}");
        }
    }
    for field in ["message_id", "app_id", "channel_id", "reply_to", "message_type"] {
        for text in [r#""\ud800""#, r#""a\udc00b""#, r#""\ude00\ud83d""#, r#""\ud800A""#] {
            let body = with(field, text);
            assert_eq!(refused(&body).fault, Fault::NotUnicode { field }, "{body}");
        }
    }
    for field in ["app_id", "channel_id"] {
        assert_eq!(refused(&with(field, "\"\"")).fault, Fault::EmptyId { field });
    }
    let unnamed = with("message_id", "\"\"");
    assert!(Envelope::parse(unnamed.as_bytes()).unwrap().message_id().is_empty());
}

#[test]
fn a_frame_that_is_no_json_comes_before_a_bad_message() {
    let message = and("app_id", "1");
    assert_eq!(refused(&message).fault.code(), ErrorCode::BadMessage);
    for end in 0..message.len() {
        let error = refused(&message[..end]);
        assert_eq!(error.fault.code(), ErrorCode::BadFrame);
        assert_eq!(error.message_id, None);
    }
    for value in ["", "NaN", "1/**/", "[1,]", "\"\\x\"", "01", "{\"a\":\"\n\"}"] {
        assert_eq!(refused(&and("app_id", value)).fault.code(), ErrorCode::BadFrame);
        assert_eq!(refused(&and("unknown", value)).fault.code(), ErrorCode::BadFrame);
    }
}

#[test]
fn the_first_of_several_faults_is_told() {
    let body = r#"{"app_id":7,"app_id":"a","other":1,"channel_id":""}"#;
    let fault = Fault::WrongType { field: "app_id", expected: "a string" };
    assert_eq!(refused(body).fault, fault);
}

#[test]
fn a_refusal_keeps_what_could_be_read() {
    let kept = |body: &str| {
        let error = refused(body);
        let raw = |id: Option<crate::proto::JsonStr<'_>>| id.map(|id| id.raw().to_owned());
        (raw(error.message_id), raw(error.channel_id), error.message_type)
    };
    let id = || Some("m-1".to_owned());
    let channel = || Some("chan".to_owned());
    let request = Some(MessageType::Request);
    // Fields after the fault are still read.
    assert_eq!(kept(&without("payload")), (id(), channel(), request));
    assert_eq!(kept(&with("app_id", "7")), (id(), channel(), request));
    assert_eq!(kept(&and("x", "7")), (id(), channel(), request));
    assert_eq!(kept(&with("message_type", "\"?\"")), (id(), channel(), None));
    let long = format!("\"{}\"", "x".repeat(ID_BYTES_MAX + 1));
    for unusable in ["7", "null", "\"\\ud800\"", &long] {
        assert_eq!(kept(&with("message_id", unusable)), (None, channel(), request));
        assert_eq!(kept(&with("channel_id", unusable)), (id(), None, request));
    }
    assert_eq!(kept(&with("channel_id", "\"\"")), (id(), None, request));
    // Neither value of a field that is given twice is believed.
    for value in ["\"m-1\"", "7"] {
        assert_eq!(kept(&and("message_id", value)), (None, channel(), request));
        assert_eq!(kept(&and("channel_id", value)), (id(), None, request));
        assert_eq!(kept(&and("message_type", value)), (id(), channel(), None));
    }
    let thrice = and("message_id", "\"m-1\",\"message_id\":\"m-1\"");
    assert_eq!(kept(&thrice), (None, channel(), request));
    // An empty message_id is fine, but nothing can be answered to it.
    let unnamed = with("message_id", "\"\"").replace("\"app\"", "\"\"");
    assert_eq!(kept(&unnamed), (None, channel(), request));
}

#[test]
fn depth_counts_the_message_as_one() {
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    for field in ["payload", "x"] {
        let body = and(field, &nested(DEPTH_MAX - 1));
        assert_eq!(refused(&body).fault.code(), ErrorCode::BadMessage);
        let body = and(field, &nested(DEPTH_MAX));
        let at = body.find("[[[").unwrap() + DEPTH_MAX - 1;
        assert_eq!(refused(&body).fault, Fault::TooDeep { at });
    }
    let deepest = with("payload", &nested(DEPTH_MAX - 1));
    assert!(Envelope::parse(deepest.as_bytes()).is_ok());
}

#[test]
fn faults_tell_the_sender_what_to_do() {
    let long = format!("\"{}\"", "x".repeat(ID_BYTES_MAX + 1));
    let cases = [
        (String::new(), "the frame is empty: send one JSON object"),
        (
            with("payload", "NaN"),
            "the frame is not JSON at byte 90: send a value (NaN and Infinity are none) there",
        ),
        (without("app_id"), "the field app_id is missing: send it in every message"),
        (with("timestamp", "null"), "the field timestamp is of the wrong type: send a number"),
        (with("app_id", &long), "the field app_id is too long: send at most 256 bytes of UTF-8"),
    ];
    for (body, sentence) in cases {
        assert_eq!(refused(&body).to_string(), sentence);
    }
}

#[test]
fn message_types_are_lowercase_words() {
    for message_type in MessageType::ALL {
        let text = format!("\"{message_type}\"");
        assert_eq!(serde_json::to_string(&message_type).unwrap(), text);
        assert_eq!(serde_json::from_str::<MessageType>(&text).unwrap(), message_type);
    }
    assert_eq!(format!("{:>9}", MessageType::Publish), "  publish");
}
