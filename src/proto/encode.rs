//! Messages of this end, written into frames with exactly the seven fields.

use std::borrow::Cow;

use super::escape::escaped;
use super::frame::HEADER_BYTES;
use super::message::Message;
use super::message_type::MessageType;

/// The fields of a message without its payload. Strings are JSON text without the quotes, so that
/// escapes of a peer are relayed as they came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) message_id: &'a [u8],
    pub(crate) app_id: &'a str,
    pub(crate) channel_id: &'a str,
    pub(crate) message_type: MessageType,
    pub(crate) timestamp: &'a [u8],
    pub(crate) reply_to: Option<&'a [u8]>,
    /// The text of an eighth field, `meta`, for a peer that negotiated an extension.
    pub(crate) meta: Option<&'a [u8]>,
}

/// The punctuation of a frame, and the keys.
const MESSAGE_ID: &str = "{\"message_id\":\"";
const APP_ID: &str = "\",\"app_id\":\"";
const CHANNEL_ID: &str = "\",\"channel_id\":\"";
const MESSAGE_TYPE: &str = "\",\"message_type\":\"";
const PAYLOAD: &str = "\",\"payload\":";
const TIMESTAMP: &str = ",\"timestamp\":";
const REPLY_TO: &str = ",\"reply_to\":\"";
const END: &str = "\"}";
const NO_REPLY_TO: &str = ",\"reply_to\":null}";
/// What stands before a `meta`, in place of the closing brace.
const META: &str = ",\"meta\":";
/// What a message with a `meta` has beside its text that one without it does not have.
pub(crate) const META_TEXT_BYTES: usize = META.len();

/// The punctuation around the type of a response, which nearly all messages of a server are.
const RESPONSE: &str = "\",\"message_type\":\"response\",\"payload\":";

const PUNCTUATION_BYTES: usize = MESSAGE_ID.len()
    + APP_ID.len()
    + CHANNEL_ID.len()
    + MESSAGE_TYPE.len()
    + PAYLOAD.len()
    + TIMESTAMP.len();

impl Head<'_> {
    /// The length of the frame's body with a payload of `payload_bytes`.
    #[inline]
    pub(crate) fn body_bytes(&self, payload_bytes: usize) -> usize {
        let reply_to = self
            .reply_to
            .map_or(NO_REPLY_TO.len(), |reply_to| REPLY_TO.len() + reply_to.len() + END.len());
        PUNCTUATION_BYTES
            + self.message_id.len()
            + self.app_id.len()
            + self.channel_id.len()
            + self.message_type.as_str().len()
            + payload_bytes
            + self.timestamp.len()
            + reply_to
            + self.meta.map_or(0, |meta| META.len() + meta.len())
    }

    #[inline]
    fn begin(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(MESSAGE_ID.as_bytes());
        append_id(out, self.message_id);
        out.extend_from_slice(APP_ID.as_bytes());
        out.extend_from_slice(self.app_id.as_bytes());
        out.extend_from_slice(CHANNEL_ID.as_bytes());
        out.extend_from_slice(self.channel_id.as_bytes());
        if self.message_type == MessageType::Response {
            out.extend_from_slice(RESPONSE.as_bytes());
        } else {
            out.extend_from_slice(MESSAGE_TYPE.as_bytes());
            out.extend_from_slice(self.message_type.as_str().as_bytes());
            out.extend_from_slice(PAYLOAD.as_bytes());
        }
    }

    #[inline]
    fn finish(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(TIMESTAMP.as_bytes());
        append_usual::<TIME_BYTES>(out, self.timestamp);
        match self.reply_to {
            Some(id) => {
                out.extend_from_slice(REPLY_TO.as_bytes());
                append_id(out, id);
                out.extend_from_slice(END.as_bytes());
            }
            None => out.extend_from_slice(NO_REPLY_TO.as_bytes()),
        }
        if let Some(meta) = self.meta {
            append_meta(out, meta);
        }
    }
}

/// Appends a `meta` to a message that is complete without it.
#[cold]
fn append_meta(out: &mut Vec<u8>, meta: &[u8]) {
    out.pop();
    out.extend_from_slice(META.as_bytes());
    out.extend_from_slice(meta);
    out.push(b'}');
}

/// The length of a time until the year 2286.
const TIME_BYTES: usize = 17;
/// The length of a UUID, which most ids are.
const UUID_BYTES: usize = 36;

/// Appends an id.
#[inline]
pub(super) fn append_id(out: &mut Vec<u8>, id: &[u8]) {
    append_usual::<UUID_BYTES>(out, id);
}

/// Appends bytes that nearly always have this length: a copy of a length that is known needs no
/// call.
#[inline]
fn append_usual<const LENGTH: usize>(out: &mut Vec<u8>, bytes: &[u8]) {
    match <&[u8; LENGTH]>::try_from(bytes) {
        Ok(usual) => out.extend_from_slice(usual),
        Err(_) => out.extend_from_slice(bytes),
    }
}

/// Appends a frame whose payload is JSON text. `body_bytes` is the result of [`Head::body_bytes`].
#[inline]
pub(crate) fn text_frame(out: &mut Vec<u8>, head: &Head<'_>, payload: &[u8], body_bytes: usize) {
    debug_assert_eq!(body_bytes, head.body_bytes(payload.len()));
    out.extend_from_slice(&(body_bytes as u32).to_be_bytes());
    head.begin(out);
    out.extend_from_slice(payload);
    head.finish(out);
}

/// Appends a frame whose payload is written by a function, which must append one JSON document.
///
/// # Errors
/// Those of the function. `out` is then unchanged.
pub(crate) fn frame<E>(
    out: &mut Vec<u8>,
    head: &Head<'_>,
    payload: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    head.begin(out);
    if let Err(error) = payload(out) {
        out.truncate(start);
        return Err(error);
    }
    head.finish(out);
    let body = start + HEADER_BYTES;
    let body_bytes = (out.len() - body) as u32;
    out[start..body].copy_from_slice(&body_bytes.to_be_bytes());
    Ok(())
}

/// Replacements for the fields that a [`Message`] leaves empty, as JSON text without the quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults<'a> {
    pub(crate) message_id: &'a [u8],
    pub(crate) app_id: &'a str,
    pub(crate) timestamp: &'a [u8],
}

/// The head of an owned message. Its strings are escaped if they need it.
#[derive(Debug)]
pub(crate) struct MessageHead<'a> {
    message_id: Cow<'a, [u8]>,
    app_id: Cow<'a, str>,
    channel_id: Cow<'a, str>,
    message_type: MessageType,
    timestamp: Cow<'a, [u8]>,
    reply_to: Option<Cow<'a, str>>,
}

impl<'a> MessageHead<'a> {
    #[expect(clippy::inline_always, reason = "otherwise each part of the head is copied")]
    #[inline(always)]
    pub(crate) fn new(message: &'a Message, defaults: Defaults<'a>) -> Self {
        Self {
            message_id: match escaped(&message.message_id) {
                Cow::Borrowed("") => defaults.message_id.into(),
                Cow::Borrowed(id) => id.as_bytes().into(),
                Cow::Owned(id) => id.into_bytes().into(),
            },
            app_id: match escaped(&message.app_id) {
                Cow::Borrowed("") => defaults.app_id.into(),
                id => id,
            },
            channel_id: escaped(&message.channel_id),
            message_type: message.message_type,
            // JSON has no infinity and no NaN: such a time counts as none.
            timestamp: match serde_json::Number::from_f64(message.timestamp) {
                Some(number) if message.timestamp != 0.0 => number.to_string().into_bytes().into(),
                _ => defaults.timestamp.into(),
            },
            reply_to: message.reply_to.as_deref().map(escaped),
        }
    }

    pub(crate) fn borrowed(&self) -> Head<'_> {
        Head {
            message_id: &self.message_id,
            app_id: &self.app_id,
            channel_id: &self.channel_id,
            message_type: self.message_type,
            timestamp: &self.timestamp,
            reply_to: self.reply_to.as_deref().map(str::as_bytes),
            meta: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::envelope::Envelope;
    use super::super::escape::escape;
    use super::super::json_str::JsonStr;
    use super::*;

    #[test]
    fn what_is_encoded_parses_back() {
        let uuid = "4f0a9f5c-1f5e-4f0a-9f5c-0d6c2f1c9a11";
        let replies = [None, Some("r"), Some(uuid)];
        for ((reply_to, message_type), meta) in replies
            .into_iter()
            .flat_map(|reply_to| MessageType::ALL.map(|message_type| (reply_to, message_type)))
            .flat_map(|each| [None, Some(&b"{\"ttl\":5}"[..])].map(|meta| (each, meta)))
        {
            let app_id = escape("a\"pp\n");
            let head = Head {
                message_id: b"m",
                app_id: &app_id,
                channel_id: "c",
                message_type,
                timestamp: b"1.5",
                reply_to: reply_to.map(str::as_bytes),
                meta,
            };
            let mut out = b"before".to_vec();
            frame(&mut out, &head, |out| {
                out.extend_from_slice(b"[1,2]");
                Ok::<(), ()>(())
            })
            .unwrap();
            let mut same = b"before".to_vec();
            let body_bytes = head.body_bytes(b"[1,2]".len());
            text_frame(&mut same, &head, b"[1,2]", body_bytes);
            assert_eq!(out, same);

            let body = &out[10..];
            assert_eq!(out[6..10], (body.len() as u32).to_be_bytes());
            assert_eq!(body.len(), body_bytes);
            let envelope = Envelope::parse_extended(body).unwrap();
            assert_eq!(Envelope::parse(body).is_ok(), meta.is_none());
            assert_eq!(envelope.meta_str().map(str::as_bytes), meta);
            assert_eq!(envelope.app_id().decode(), "a\"pp\n");
            assert_eq!(envelope.message_type(), message_type);
            assert_eq!(envelope.payload_str(), "[1,2]");
            assert_eq!(envelope.reply_to().map(JsonStr::raw), reply_to);
        }
    }

    #[test]
    fn a_payload_that_fails_leaves_what_was_before() {
        let head = Head {
            message_id: b"m",
            app_id: "a",
            channel_id: "c",
            message_type: MessageType::Publish,
            timestamp: b"1.5",
            reply_to: None,
            meta: None,
        };
        let mut out = b"before".to_vec();
        let failed = frame(&mut out, &head, |out| {
            out.extend_from_slice(b"[1,");
            Err("it is no JSON")
        });
        assert_eq!((failed, &*out), (Err("it is no JSON"), &b"before"[..]));
    }
}
