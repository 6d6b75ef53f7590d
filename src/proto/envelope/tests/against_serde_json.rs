//! The same messages, read by `serde_json` and judged by the words of the protocol.

use std::fmt;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::TIMESTAMP_BYTES_MAX;
use super::FIELDS;
use crate::proto::scanner::tests::{apply, damage, json_text, serde_json_accepts, string_text};
use crate::proto::{Envelope, ErrorCode, ID_BYTES_MAX, MessageType};

/// What `Envelope::parse` should make of a body.
#[derive(Debug, PartialEq)]
struct Reading {
    code: Option<ErrorCode>,
    message_id: Option<String>,
    channel_id: Option<String>,
    message_type: Option<String>,
    /// `app_id`, payload, timestamp and `reply_to`, where the message is accepted.
    rest: Option<(String, String, String, Option<String>)>,
}

impl Reading {
    const BAD_FRAME: Self = Self {
        code: Some(ErrorCode::BadFrame),
        message_id: None,
        channel_id: None,
        message_type: None,
        rest: None,
    };

    fn ours(body: &[u8]) -> Self {
        match Envelope::parse(body) {
            Ok(envelope) => Self {
                code: None,
                message_id: Some(envelope.message_id().decode().into_owned()),
                channel_id: Some(envelope.channel_id().decode().into_owned()),
                message_type: Some(envelope.message_type().to_string()),
                rest: Some((
                    envelope.app_id().decode().into_owned(),
                    envelope.payload_str().to_owned(),
                    envelope.timestamp_str().to_owned(),
                    envelope.reply_to().map(|id| id.decode().into_owned()),
                )),
            },
            Err(error) => Self {
                code: Some(error.fault.code()),
                message_id: error.message_id.map(|id| id.decode().into_owned()),
                channel_id: error.channel_id.map(|id| id.decode().into_owned()),
                message_type: error.message_type.map(|it| it.to_string()),
                rest: None,
            },
        }
    }

    fn by_serde_json(body: &[u8]) -> Self {
        let Some(text) = std::str::from_utf8(body).ok().filter(|text| serde_json_accepts(text))
        else {
            return Self::BAD_FRAME;
        };
        let Ok(members) = serde_json::Deserializer::from_str(text).deserialize_map(Members) else {
            return Self::BAD_FRAME;
        };
        let known = members
            .iter()
            .all(|(key, _)| FIELDS.iter().any(|(name, _)| key.as_deref() == Some(name)));
        let once = |name: &str| {
            let mut found = members.iter().filter(|(key, _)| key.as_deref() == Some(name));
            let value = found.next()?.1.get();
            found.next().is_none().then_some(value)
        };
        let id = |name: &str, least: usize| {
            let id = serde_json::from_str::<String>(once(name)?).ok()?;
            (least..=ID_BYTES_MAX).contains(&id.len()).then_some(id)
        };
        let message_type = once("message_type")
            .and_then(|text| serde_json::from_str::<MessageType>(text).ok())
            .map(|message_type| message_type.to_string());
        let reply_to = match once("reply_to") {
            None if members.iter().any(|(key, _)| key.as_deref() == Some("reply_to")) => None,
            None | Some("null") => Some(None),
            Some(_) => id("reply_to", 0).map(|id| Some(id).filter(|id| !id.is_empty())),
        };
        let timestamp = once("timestamp")
            .filter(|text| text.starts_with(|first: char| first == '-' || first.is_ascii_digit()))
            .filter(|text| text.len() <= TIMESTAMP_BYTES_MAX);
        let rest = || {
            let all = (id("app_id", 1)?, once("payload")?, timestamp?, reply_to?);
            let complete = known
                && id("message_id", 0).is_some()
                && id("channel_id", 1).is_some()
                && message_type.is_some();
            complete.then(|| (all.0, all.1.to_owned(), all.2.to_owned(), all.3))
        };
        let rest = rest();
        Self {
            code: rest.is_none().then_some(ErrorCode::BadMessage),
            message_id: id("message_id", usize::from(rest.is_none())),
            channel_id: id("channel_id", 1),
            message_type,
            rest,
        }
    }
}

/// Reads an object as its keys and values, in order and as often as they come.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(Option<String>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            members.push((serde_json::from_str(key.get()).ok(), value));
        }
        Ok(members)
    }
}

/// A message, or nearly one.
fn nearly_a_message() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        2 => string_text(true),
        2 => string_text(false),
        1 => (200_usize..300).prop_map(|length| format!("\"{}\"", "x".repeat(length))),
        1 => (100_usize..150).prop_map(|length| format!("\"{}\"", "\\u00e9".repeat(length))),
        2 => select(vec!["null", "\"\"", "\"publish\"", "\"\\u0070ublish\"", "17"])
            .prop_map(str::to_owned),
        2 => json_text(),
    ];
    let key = prop_oneof![
        8 => select(FIELDS.map(|(name, _)| name).to_vec()).prop_map(str::to_owned),
        1 => string_text(true).prop_map(|text| text[1..text.len() - 1].to_owned()),
    ];
    let fields = Just(FIELDS.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec());
    let space = select(vec!["", " ", "\r\n\t"]);
    (
        fields,
        json_text(),
        prop::collection::vec((any::<Index>(), value.clone()), 0..3),
        prop::option::weighted(0.3, any::<Index>()),
        prop::option::weighted(0.3, (key, value)),
        prop::option::weighted(0.3, (any::<Index>(), any::<Index>())),
        space,
    )
        .prop_map(|(mut fields, payload, changed, dropped, added, escaped, space)| {
            fields[4].1 = payload;
            for (at, value) in changed {
                let at = at.index(fields.len());
                fields[at].1 = value;
            }
            if let Some(at) = dropped {
                fields.remove(at.index(7));
            }
            fields.extend(added);
            if let Some((at, char)) = escaped {
                let at = at.index(fields.len());
                fields[at].0 = escape_one(&fields[at].0, char);
            }
            (fields, space)
        })
        .prop_flat_map(|(fields, space)| (Just(fields).prop_shuffle(), Just(space)))
        .prop_map(|(fields, s)| {
            let member = |(key, value)| format!("{s}\"{key}\"{s}:{s}{value}{s}");
            let members: Vec<_> = fields.into_iter().map(member).collect();
            format!("{s}{{{}}}{s}", members.join(","))
        })
}

/// Writes one character of a key as an escape.
fn escape_one(key: &str, at: Index) -> String {
    if key.is_empty() || !key.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()) {
        return key.to_owned();
    }
    let at = at.index(key.len());
    format!("{}\\u{:04X}{}", &key[..at], key.as_bytes()[at], &key[at + 1..])
}

/// Each byte of a message replaced by each that means something to JSON.
#[test]
fn agrees_on_every_single_byte_replaced() {
    let mut fields = FIELDS;
    fields[0].1 = r#""\u0061\ud83d\ude00""#;
    fields[6].1 = r#""é""#;
    let message = super::body(&fields).into_bytes();
    for at in 0..message.len() {
        for &byte in b"\"\\{}[]:,-+.e0tnu \n\0\x80\xc3" {
            let mut body = message.clone();
            body[at] = byte;
            let shown = String::from_utf8_lossy(&body);
            assert_eq!(Reading::ours(&body), Reading::by_serde_json(&body), "{shown}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn agrees_on_messages(body in nearly_a_message()) {
        let ours = Reading::ours(body.as_bytes());
        prop_assert_ne!(ours.code, Some(ErrorCode::BadFrame));
        prop_assert_eq!(ours, Reading::by_serde_json(body.as_bytes()));
    }

    #[test]
    fn agrees_on_damaged_messages(body in nearly_a_message(), damage in damage()) {
        let body = damage.into_iter().fold(body.into_bytes(), apply);
        prop_assert_eq!(Reading::ours(&body), Reading::by_serde_json(&body));
    }
}
