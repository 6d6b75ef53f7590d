//! The client's own messages as frames: fresh ids, the time, and a buffer that is reused.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use uuid::Uuid;

use crate::broker::Message;
use crate::client::error::Error;
use crate::client::payload::{Append, Payload};
use crate::proto::frame::HEADER_BYTES;
use crate::proto::{Head, ID_BYTES_MAX, JsonError, MessageType, Timestamp};
use crate::proto::{encode_frame, escape};

/// Up to here the buffer that a large message needed is kept for the next one.
const BYTES_KEPT: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Encoder {
    /// As JSON text without the quotes.
    app_id: String,
    body_bytes_max: usize,
    frame: Vec<u8>,
    /// How large the last frame was, for the next one's room.
    frame_bytes: usize,
    ids: ChaCha8Rng,
    timestamp: Timestamp,
}

/// What is written in a message beside its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heading<'a> {
    pub(crate) message_type: MessageType,
    pub(crate) channel_id: &'a str,
    pub(crate) reply_to: Option<&'a str>,
}

impl<'a> Heading<'a> {
    pub(crate) fn new(message_type: MessageType, channel_id: &'a str) -> Self {
        Self { message_type, channel_id, reply_to: None }
    }

    pub(crate) fn answer(channel_id: &'a str, reply_to: &'a str) -> Self {
        let reply_to = Some(reply_to);
        Self { message_type: MessageType::Response, channel_id, reply_to }
    }
}

impl Encoder {
    pub(crate) fn new(app_id: &str, body_bytes_max: usize) -> Result<Self, Error> {
        check_id("app_id", app_id)?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|error| Error::system("random bytes")(std::io::Error::other(error)))?;
        Ok(Self {
            app_id: escape(app_id),
            body_bytes_max,
            frame: Vec::new(),
            frame_bytes: 0,
            ids: ChaCha8Rng::from_seed(seed),
            timestamp: Timestamp::default(),
        })
    }

    pub(crate) fn fresh_id(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        self.ids.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// The frame that was encoded last.
    pub(crate) fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// The frame that was encoded last, for keeping.
    pub(crate) fn take_frame(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.frame)
    }

    /// Encodes a value under a fresh id, which is returned.
    pub(crate) fn value<T: Payload + ?Sized>(
        &mut self,
        heading: Heading<'_>,
        payload: &T,
    ) -> Result<Uuid, Error> {
        let id = self.fresh_id();
        let mut text = Uuid::encode_buffer();
        let text: &str = id.hyphenated().encode_lower(&mut text);
        self.encode(text, None, None, heading, |out| payload.append_to(out))?;
        Ok(id)
    }

    /// Encodes a message as it is; what it leaves empty is filled in. Returns the id, if it is a
    /// fresh one.
    pub(crate) fn message(&mut self, message: &Message) -> Result<Option<Uuid>, Error> {
        let heading = Heading {
            message_type: message.message_type,
            channel_id: &message.channel_id,
            reply_to: message.reply_to.as_deref(),
        };
        let app_id = Some(&*message.app_id).filter(|app_id| !app_id.is_empty());
        let timestamp = serde_json::Number::from_f64(message.timestamp)
            .filter(|_| message.timestamp != 0.0)
            .map(|number| number.to_string());
        let fresh = message.message_id.is_empty().then(|| self.fresh_id());
        let mut text = Uuid::encode_buffer();
        let id = match fresh {
            Some(fresh) => fresh.hyphenated().encode_lower(&mut text),
            None => &*message.message_id,
        };
        let payload = |out: &mut Vec<u8>| message.payload.append_to(out);
        self.encode(id, app_id, timestamp.as_deref(), heading, payload)?;
        Ok(fresh)
    }

    fn encode(
        &mut self,
        message_id: &str,
        app_id: Option<&str>,
        timestamp: Option<&str>,
        heading: Heading<'_>,
        payload: impl FnOnce(&mut Vec<u8>) -> Result<(), JsonError>,
    ) -> Result<(), Error> {
        check_id("channel_id", heading.channel_id)?;
        check_id("message_id", message_id)?;
        let app_id = match app_id {
            Some(app_id) => check_id("app_id", app_id).map(|()| escaped(app_id))?,
            None => Cow::Borrowed(&*self.app_id),
        };
        let reply_to = match heading.reply_to {
            Some(id) => Some(check_id("reply_to", id).map(|()| escaped(id))?),
            None => None,
        };
        let head = Head {
            message_id: &escaped(message_id),
            app_id: &app_id,
            channel_id: &escaped(heading.channel_id),
            message_type: heading.message_type,
            timestamp: timestamp.unwrap_or_else(|| {
                // A machine set before 1970 gets timestamps of 1970.
                let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.timestamp.text(unix)
            }),
            reply_to: reply_to.as_deref(),
        };
        if self.frame.capacity() > BYTES_KEPT {
            self.frame = Vec::new();
        }
        if self.frame.capacity() == 0 {
            self.frame.reserve(self.frame_bytes.min(BYTES_KEPT));
        }
        encode_frame(&mut self.frame, &head, payload).map_err(Error::NotJson)?;
        self.frame_bytes = self.frame.len();
        let body_bytes = self.frame_bytes - HEADER_BYTES;
        if body_bytes > self.body_bytes_max {
            return Err(Error::TooLarge { body_bytes, body_bytes_max: self.body_bytes_max });
        }
        Ok(())
    }
}

pub(crate) fn check_id(field: &'static str, id: &str) -> Result<(), Error> {
    if (1..=ID_BYTES_MAX).contains(&id.len()) { Ok(()) } else { Err(Error::BadId { field }) }
}

/// As it stands between the quotes of a JSON string; allocates only where it has to.
fn escaped(text: &str) -> Cow<'_, str> {
    let is_plain = text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\');
    if is_plain { Cow::Borrowed(text) } else { Cow::Owned(escape(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Envelope;

    #[test]
    fn what_is_encoded_parses_back() {
        let mut encoder = Encoder::new("an \"app\"", 1 << 20).unwrap();
        let heading = Heading::answer("a\nchannel", "q\\1");
        let id = encoder.value(heading, &[1, 2]).unwrap();
        let envelope = Envelope::parse(&encoder.frame()[HEADER_BYTES..]).unwrap();
        assert_eq!(envelope.message_id().raw(), id.to_string());
        assert!(envelope.app_id().matches("an \"app\""));
        assert!(envelope.channel_id().matches("a\nchannel"));
        assert!(envelope.reply_to().unwrap().matches("q\\1"));
        assert_eq!(envelope.payload_str(), "[1,2]");
        assert!(envelope.timestamp() > 1e9);

        let message = Message::from(&envelope);
        encoder.message(&message).unwrap();
        let again = Envelope::parse(&encoder.frame()[HEADER_BYTES..]).unwrap();
        assert_eq!(Message::from(&again), message);
    }

    #[test]
    fn what_cannot_be_sent_is_the_callers_fault() {
        let mut encoder = Encoder::new("app", 200).unwrap();
        let request = |channel| Heading::new(MessageType::Request, channel);
        let long = "x".repeat(257);
        for channel in ["", &long] {
            let refused = encoder.value(request(channel), &0);
            assert!(matches!(refused, Err(Error::BadId { field: "channel_id" })));
        }
        let large = encoder.value(request("c"), &"x".repeat(200));
        assert!(matches!(large, Err(Error::TooLarge { body_bytes_max: 200, .. })));
        let map = std::collections::HashMap::from([((1, 2), 3)]);
        assert!(matches!(encoder.value(request("c"), &map), Err(Error::NotJson(_))));
        assert!(encoder.value(request("c"), &0).is_ok());
    }
}
