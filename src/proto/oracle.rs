//! A second reading of messages: `serde_json` reads them, and the rules of the protocol are applied
//! to its result.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::envelope::Envelope;
use super::error_code::ErrorCode;
use super::limits::{DEPTH_MAX, ID_BYTES_MAX, TIMESTAMP_BYTES_MAX};
use super::message_type::MessageType;

const FIELDS: [&str; 7] =
    ["message_id", "app_id", "channel_id", "message_type", "payload", "timestamp", "reply_to"];

/// The result that `Envelope::parse` should have for a body.
#[derive(Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) code: Option<ErrorCode>,
    pub(crate) message_id: Option<String>,
    pub(crate) channel_id: Option<String>,
    pub(crate) message_type: Option<String>,
    /// `app_id`, payload, timestamp and `reply_to`, if the message is accepted.
    pub(crate) rest: Option<(String, String, String, Option<String>)>,
}

impl Reading {
    const BAD_FRAME: Self = Self {
        code: Some(ErrorCode::BadFrame),
        message_id: None,
        channel_id: None,
        message_type: None,
        rest: None,
    };

    pub(super) fn ours(body: &[u8]) -> Self {
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

    pub(crate) fn by_serde_json(body: &[u8]) -> Self {
        let is_read = |text: &&str| serde_json_accepts(text) && depth(text) <= DEPTH_MAX;
        let Some(text) = std::str::from_utf8(body).ok().filter(is_read) else {
            return Self::BAD_FRAME;
        };
        let Ok(members) = serde_json::Deserializer::from_str(text).deserialize_map(Members) else {
            return Self::BAD_FRAME;
        };
        let known =
            members.iter().all(|(key, _)| FIELDS.iter().any(|name| key.as_deref() == Some(name)));
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

/// Reads the keys and values of an object in their order, repeated ones included.
pub(super) struct Members;

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

/// `IgnoredAny` neither converts numbers nor resolves escapes, and `serde_json` skips it
/// without a limit of depth.
pub(super) fn serde_json_accepts(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// The depth to which a valid document is nested.
fn depth(text: &str) -> usize {
    let (mut open, mut deepest, mut in_string, mut is_escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => open += 1,
            b']' | b'}' if !in_string => open -= 1,
            _ => {}
        }
        deepest = deepest.max(open);
    }
    deepest
}
