//! Frames as a client writes and reads them, implemented from the protocol's description alone.

use std::fmt::Write;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;

pub(super) fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Returns the frame of a message whose payload is JSON text. Without a `reply_to` it says that it
/// has none.
pub(super) fn message(
    app: &str,
    channel: &str,
    kind: &str,
    id: &str,
    payload: &str,
    reply_to: Option<&str>,
) -> Vec<u8> {
    let reply_to = reply_to.map_or("null".to_owned(), quoted);
    let mut body = beginning(app, channel, kind, id, payload);
    let _ = write!(body, ",\"reply_to\":{reply_to}}}");
    frame(body.as_bytes())
}

/// Returns the same of a message that leaves its `reply_to` out.
pub(super) fn short_message(
    app: &str,
    channel: &str,
    kind: &str,
    id: &str,
    payload: &str,
) -> Vec<u8> {
    frame((beginning(app, channel, kind, id, payload) + "}").as_bytes())
}

/// Puts a `meta` into the frame of a message: at its end, as clients do, or at its begin.
pub(super) fn with_meta(bytes: &[u8], meta: &str, is_last: bool) -> Vec<u8> {
    let body = &bytes[4..];
    let meta = format!("\"meta\":{meta}");
    frame(&if is_last {
        [&body[..body.len() - 1], b",", meta.as_bytes(), b"}"].concat()
    } else {
        [b"{", meta.as_bytes(), b",", &body[1..]].concat()
    })
}

/// Puts an attachment into the frame of a message whose payload has `"blob":null`. Its `meta`, if it has one,
/// is given.
pub(super) fn with_blob(bytes: &[u8], meta: Option<&str>, blob: &[u8]) -> Vec<u8> {
    let bin = format!("\"bin\":[[\"/blob\",{},null,null]]}}", blob.len());
    let meta = match meta.map(|meta| &meta[..meta.len() - 1]) {
        None | Some("{") => format!("{{{bin}"),
        Some(meta) => format!("{meta},{bin}"),
    };
    let json = &with_meta(bytes, &meta, true)[4..];
    let mut body = (json.len() as u32).to_be_bytes().to_vec();
    for part in [json, blob] {
        body.extend_from_slice(part);
        body.resize(body.len().next_multiple_of(BLOCK_BYTES), 0);
    }
    frame(&body)
}

/// Adds the place of an attachment to the text of a payload, and the number by which it is known.
pub(super) fn name_blob(payload: &mut String, number: usize) {
    payload.pop();
    let _ = write!(payload, ",\"blob_of\":{number},\"blob\":null}}");
}

const BLOCK_BYTES: usize = 64;

/// Splits a body with an attachment into its JSON and that.
fn split_blob(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let json_bytes = u32::from_be_bytes(*body.first_chunk()?) as usize;
    let json = body.get(4..4 + json_bytes)?;
    let value: Value = serde_json::from_slice(json).ok()?;
    let blob_bytes = value["meta"]["bin"][0][1].as_u64()? as usize;
    let begin = (4 + json_bytes).next_multiple_of(BLOCK_BYTES);
    let end = begin + blob_bytes;
    let blob = body.get(begin..end)?;
    let mut zeros = body[4 + json_bytes..begin].iter().chain(&body[end..]);
    let is_right = zeros.all(|byte| *byte == 0)
        && value["meta"]["bin"] == serde_json::json!([["/blob", blob_bytes, null, null]])
        && value["payload"].get("blob") == Some(&Value::Null)
        && body.len() == end.next_multiple_of(BLOCK_BYTES);
    is_right.then_some((json, blob))
}

fn beginning(app: &str, channel: &str, kind: &str, id: &str, payload: &str) -> String {
    let (id, channel) = (quoted(id), quoted(channel));
    format!(
        "{{\"message_id\":{id},\"app_id\":\"{app}\",\"channel_id\":{channel},\
         \"message_type\":\"{kind}\",\"payload\":{payload},\"timestamp\":0.5"
    )
}

/// Returns the text as JSON, with all letters but those of ASCII written as escapes.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            ' '..='~' => quoted.push(char),
            _ => {
                let mut units = [0; 2];
                for unit in char.encode_utf16(&mut units) {
                    let _ = write!(quoted, "\\u{unit:04x}");
                }
            }
        }
    }
    quoted.push('"');
    quoted
}

/// Takes the next whole frame from the front of the received bytes.
pub(super) fn take_frame(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let header: [u8; 4] = received.get(..4)?.try_into().ok()?;
    let end = 4 + u32::from_be_bytes(header) as usize;
    let body = received.get(4..end)?.to_vec();
    received.drain(..end);
    Some(body)
}

/// Returns the JSON text of a message, which may have an attachment behind it.
pub(super) fn json_of(body: &[u8]) -> Option<&[u8]> {
    if body.first() == Some(&0) { split_blob(body).map(|(json, _)| json) } else { Some(body) }
}

/// A message as published clients accept it: these seven keys and no others, but for a `meta` if the
/// client negotiated an extension.
pub(super) struct Received {
    pub(super) app: String,
    pub(super) channel: String,
    pub(super) kind: String,
    pub(super) id: String,
    pub(super) payload: Value,
    pub(super) reply_to: Option<String>,
    pub(super) meta: Option<Value>,
    pub(super) blob: Option<Blob>,
}

/// An attachment as it came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) data: Vec<u8>,
    /// Behind the JSON, and not in it.
    pub(super) is_native: bool,
}

impl Received {
    pub(super) fn parse(body: &[u8], may_have_meta: bool) -> Result<Self, String> {
        let shown = || String::from_utf8_lossy(body).into_owned();
        if may_have_meta && body.first() == Some(&0) {
            let (json, data) =
                split_blob(body).ok_or_else(|| format!("laid out as {}", shown()))?;
            let mut received = Self::parse(json, true)?;
            let meta = received.meta.as_mut().and_then(Value::as_object_mut);
            let meta = meta.map(|meta| (meta.remove("bin"), meta.is_empty()));
            if meta.is_none_or(|(_, is_empty)| is_empty) {
                received.meta = None;
            }
            received.blob = Some(Blob { data: data.to_vec(), is_native: true });
            return Ok(received);
        }
        let value: Value =
            serde_json::from_slice(body).map_err(|error| format!("{error} in {}", shown()))?;
        let Value::Object(mut fields) = value else {
            return Err(format!("no object: {}", shown()));
        };
        let mut text = |name: &str| match fields.remove(name) {
            Some(Value::String(text)) => Ok(text),
            other => Err(format!("{name} is {other:?} in {}", shown())),
        };
        let (app, channel) = (text("app_id")?, text("channel_id")?);
        let (kind, id) = (text("message_type")?, text("message_id")?);
        let mut payload =
            fields.remove("payload").ok_or_else(|| format!("no payload: {}", shown()))?;
        let blob = payload.as_object_mut().and_then(|payload| payload.remove("blob"));
        let blob = blob.filter(|blob| !blob.is_null()).map(|blob| {
            let right = blob["$base64"].as_str().filter(|_| blob["dtype"].is_null());
            let data = right.and_then(|text| BASE64_STANDARD.decode(text).ok());
            data.map(|data| Blob { data, is_native: false }).ok_or_else(shown)
        });
        let blob = blob.transpose()?;
        if !fields.remove("timestamp").is_some_and(|timestamp| timestamp.is_number()) {
            return Err(format!("no timestamp in {}", shown()));
        }
        let reply_to = match fields.remove("reply_to") {
            Some(Value::Null) => None,
            Some(Value::String(id)) => Some(id),
            other => return Err(format!("reply_to is {other:?} in {}", shown())),
        };
        let meta = if may_have_meta { fields.remove("meta") } else { None };
        if !fields.is_empty() {
            return Err(format!("{fields:?} are no fields of a message"));
        }
        Ok(Self { app, channel, kind, id, payload, reply_to, meta, blob })
    }

    /// Returns the code of an error answer.
    pub(super) fn code(&self) -> Option<&str> {
        (self.payload["status"] == "error").then(|| self.payload["code"].as_str()).flatten()
    }
}
