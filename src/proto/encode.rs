//! Messages of the server, encoded into frames with exactly the seven fields.

use std::borrow::Cow;

use super::frame::HEADER_BYTES;
use super::message::Message;
use super::message_type::MessageType;

/// The fields of a message but its payload. Strings are JSON text without the quotes,
/// so that what came escaped from a peer goes out as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) message_id: &'a str,
    pub(crate) app_id: &'a str,
    pub(crate) channel_id: &'a str,
    pub(crate) message_type: MessageType,
    pub(crate) timestamp: &'a str,
    pub(crate) reply_to: Option<&'a str>,
}

/// All that [`frame`] writes beside the fields' text.
const PUNCTUATION_BYTES: usize = HEADER_BYTES + 104;

impl Head<'_> {
    /// An upper bound of what the frame takes beside its payload.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        PUNCTUATION_BYTES
            + self.message_id.len()
            + self.app_id.len()
            + self.channel_id.len()
            + self.message_type.as_str().len()
            + self.timestamp.len()
            + self.reply_to.map_or(0, str::len)
    }
}

/// What stands in the fields that a [`Message`] leaves empty, as JSON text without the quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults<'a> {
    pub(crate) message_id: &'a str,
    pub(crate) app_id: &'a str,
    pub(crate) timestamp: &'a str,
}

/// The head of an owned message, escaped where that is needed.
#[derive(Debug)]
pub(crate) struct MessageHead<'a> {
    message_id: Cow<'a, str>,
    app_id: Cow<'a, str>,
    channel_id: Cow<'a, str>,
    message_type: MessageType,
    timestamp: Cow<'a, str>,
    reply_to: Option<Cow<'a, str>>,
}

impl<'a> MessageHead<'a> {
    pub(crate) fn new(message: &'a Message, defaults: Defaults<'a>) -> Self {
        let or = |text: &'a str, default: &'a str| {
            if text.is_empty() { Cow::Borrowed(default) } else { escaped(text) }
        };
        Self {
            message_id: or(&message.message_id, defaults.message_id),
            app_id: or(&message.app_id, defaults.app_id),
            channel_id: escaped(&message.channel_id),
            message_type: message.message_type,
            // JSON has no infinity and no NaN: a message with such a time has none.
            timestamp: match serde_json::Number::from_f64(message.timestamp) {
                Some(number) if message.timestamp != 0.0 => number.to_string().into(),
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
            reply_to: self.reply_to.as_deref(),
        }
    }
}

/// Replaces what is in `out` with the frame. The payload must append one JSON document.
///
/// # Errors
/// What the payload returns; `out` is then of no use.
pub(crate) fn frame<E>(
    out: &mut Vec<u8>,
    head: &Head<'_>,
    payload: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    out.clear();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    for (name, text) in [
        ("{\"message_id\":\"", head.message_id),
        ("\",\"app_id\":\"", head.app_id),
        ("\",\"channel_id\":\"", head.channel_id),
        ("\",\"message_type\":\"", head.message_type.as_str()),
    ] {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(b"\",\"payload\":");
    payload(out)?;
    out.extend_from_slice(b",\"timestamp\":");
    out.extend_from_slice(head.timestamp.as_bytes());
    match head.reply_to {
        Some(id) => {
            out.extend_from_slice(b",\"reply_to\":\"");
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(b"\"}");
        }
        None => out.extend_from_slice(b",\"reply_to\":null}"),
    }
    let body_bytes = (out.len() - HEADER_BYTES) as u32;
    out[..HEADER_BYTES].copy_from_slice(&body_bytes.to_be_bytes());
    Ok(())
}

/// `text` as it stands between the quotes of a JSON string.
pub(crate) fn escape(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap_or_else(|_| unreachable!("a string is JSON"));
    quoted[1..quoted.len() - 1].to_owned()
}

/// [`escape`] that allocates only where something has to be escaped.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    let is_plain = text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\');
    if is_plain { Cow::Borrowed(text) } else { Cow::Owned(escape(text)) }
}

#[cfg(test)]
mod tests {
    use super::super::envelope::Envelope;
    use super::*;

    #[test]
    fn what_is_encoded_parses_back() {
        let mut out = Vec::new();
        let head = Head {
            message_id: "m",
            app_id: &escape("a\"pp\n"),
            channel_id: "c",
            message_type: MessageType::Response,
            timestamp: "1.5",
            reply_to: Some("r"),
        };
        frame(&mut out, &head, |out| {
            out.extend_from_slice(b"[1,2]");
            Ok::<(), ()>(())
        })
        .unwrap();
        let bound = head.frame_bytes_max() + "[1,2]".len();
        assert!((bound - 4..=bound).contains(&out.len()), "{} of {bound}", out.len());
        assert_eq!(out[..4], ((out.len() - 4) as u32).to_be_bytes());
        let envelope = Envelope::parse(&out[4..]).unwrap();
        assert_eq!(envelope.app_id().decode(), "a\"pp\n");
        assert_eq!(envelope.payload_str(), "[1,2]");
        assert_eq!(envelope.reply_to().unwrap().raw(), "r");
    }
}
