//! Messages written into frames, for those who bring their own output.

use std::fmt;
use std::time::Duration;

use super::encode::{self, Defaults, MessageHead};
use super::limits::ID_BYTES_MAX;
use super::message::Message;
use super::stamp::Stamps;

/// Writes messages into frames, and gives an id and a time to those that have none.
///
/// ```
/// use ipc_framework::proto::{Decoder, Encoder};
/// use ipc_framework::{Json, Message, MessageType};
/// use std::time::Duration;
///
/// let mut encoder = Encoder::new([7; 9], 16 << 20);
/// let message = Message::new(MessageType::Publish, "app", "news", Json::parse("[1]")?);
/// let mut stream = Vec::new();
/// encoder.encode(&message, Duration::from_secs(1_700_000_000), &mut stream)?;
///
/// let mut decoder = Decoder::new(16 << 20);
/// let mut messages = decoder.decode(&stream);
/// let received = messages.next_message().unwrap().unwrap();
/// assert_eq!(received.payload_str(), "[1]");
/// assert_eq!(received.timestamp_str(), "1700000000.000000");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Encoder {
    stamps: Stamps,
    body_bytes_max: usize,
}

impl Encoder {
    /// An encoder of frames whose bodies have `body_bytes_max` bytes at most. Its ids begin with
    /// the random bytes and count up: no other encoder may have the same bytes, and where an id
    /// must be a secret, give the message one of your own.
    pub fn new(random: [u8; 9], body_bytes_max: usize) -> Self {
        Self { stamps: Stamps::new(random), body_bytes_max }
    }

    /// An id that no message of this encoder has: for a request whose answer has to be recognized.
    pub fn fresh_id(&mut self) -> String {
        let stamp = self.stamps.next(Duration::ZERO);
        stamp.id().iter().map(|digit| char::from(*digit)).collect()
    }

    /// Appends the frame of a message to `out`. An empty `message_id` becomes a fresh one, and a
    /// `timestamp` of zero becomes `unix`, the time since the Unix epoch.
    ///
    /// # Errors
    /// If no peer would read the message; nothing is appended then.
    pub fn encode(
        &mut self,
        message: &Message,
        unix: Duration,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        check_id("message_id", &message.message_id, 0)?;
        check_id("app_id", &message.app_id, 1)?;
        check_id("channel_id", &message.channel_id, 1)?;
        check_id("reply_to", message.reply_to.as_deref().unwrap_or_default(), 0)?;
        let stamp = self.stamps.next(unix);
        let defaults = Defaults { message_id: stamp.id(), app_id: "", timestamp: stamp.time() };
        let head = MessageHead::new(message, defaults);
        let (head, payload) = (head.borrowed(), message.payload.as_str().as_bytes());
        let (body_bytes, body_bytes_max) = (head.body_bytes(payload.len()), self.body_bytes_max);
        if body_bytes > body_bytes_max {
            return Err(EncodeError::TooLarge { body_bytes, body_bytes_max });
        }
        encode::text_frame(out, &head, payload, body_bytes);
        Ok(())
    }
}

fn check_id(field: &'static str, id: &str, bytes_min: usize) -> Result<(), EncodeError> {
    if (bytes_min..=ID_BYTES_MAX).contains(&id.len()) {
        Ok(())
    } else {
        Err(EncodeError::BadId { field })
    }
}

/// Why a message was not encoded. The caller's fault.
///
/// ```
/// use ipc_framework::proto::{EncodeError, Encoder};
/// use ipc_framework::{Json, Message, MessageType};
/// use std::time::Duration;
///
/// let message = Message::new(MessageType::Publish, "app", "", Json::null());
/// let encoded = Encoder::new([7; 9], 1_024).encode(&message, Duration::ZERO, &mut Vec::new());
/// assert!(matches!(encoded, Err(EncodeError::BadId { field: "channel_id" })));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// A field is empty that must not be, or longer than [`ID_BYTES_MAX`].
    BadId {
        /// Its name.
        field: &'static str,
    },
    /// The frame would be over the limit.
    TooLarge {
        /// The bytes of its body.
        body_bytes: usize,
        /// The limit.
        body_bytes_max: usize,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadId { field } => write!(
                f,
                "the message's {field} is empty or longer than {ID_BYTES_MAX} bytes: give it \
                 another one"
            ),
            Self::TooLarge { body_bytes, body_bytes_max } => write!(
                f,
                "the message takes {body_bytes} bytes, over the limit of {body_bytes_max}: send \
                 less at a time"
            ),
        }
    }
}

impl std::error::Error for EncodeError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Envelope, Json, MessageType};

    fn message() -> Message {
        let payload = Json::parse("[1, 2]").unwrap();
        Message::new(MessageType::Request, "an \"app\"", "c\n", payload)
    }

    #[test]
    fn what_is_encoded_parses_back() {
        let mut encoder = Encoder::new([7; 9], 1_024);
        let mut out = Vec::new();
        let sent = Message {
            message_id: encoder.fresh_id(),
            reply_to: Some("r".to_owned()),
            timestamp: 2.5,
            ..message()
        };
        encoder.encode(&sent, Duration::ZERO, &mut out).unwrap();
        let end = out.len();
        assert_eq!(Message::from(&Envelope::parse(&out[4..]).unwrap()), sent);

        encoder.encode(&message(), Duration::from_millis(1_250), &mut out).unwrap();
        let filled = Message::from(&Envelope::parse(&out[end + 4..]).unwrap());
        assert_ne!(filled.message_id, sent.message_id);
        assert_eq!(filled.message_id.len(), 36);
        assert!((filled.timestamp - 1.25).abs() < f64::EPSILON);
    }

    #[test]
    fn what_nobody_would_read_is_not_encoded() {
        let mut encoder = Encoder::new([7; 9], 300);
        let mut out = Vec::new();
        let long = "x".repeat(ID_BYTES_MAX + 1);
        for (field, message) in [
            ("message_id", Message { message_id: long.clone(), ..message() }),
            ("app_id", Message { app_id: String::new(), ..message() }),
            ("channel_id", Message { channel_id: String::new(), ..message() }),
            ("reply_to", Message { reply_to: Some(long), ..message() }),
        ] {
            let result = encoder.encode(&message, Duration::ZERO, &mut out);
            assert_eq!(result, Err(EncodeError::BadId { field }));
        }
        let payload = Json::from_serialize(&"x".repeat(300)).unwrap();
        let large = Message { payload, ..message() };
        let result = encoder.encode(&large, Duration::ZERO, &mut out);
        assert!(matches!(result, Err(EncodeError::TooLarge { body_bytes_max: 300, .. })));
        assert!(out.is_empty());
    }

    #[test]
    fn what_has_just_the_longest_length_is_encoded() {
        let longest = || "x".repeat(ID_BYTES_MAX);
        let message = Message {
            message_id: longest(),
            app_id: longest(),
            channel_id: longest(),
            reply_to: Some(longest()),
            timestamp: 2.5,
            ..message()
        };
        let mut out = Vec::new();
        Encoder::new([7; 9], 2_048).encode(&message, Duration::ZERO, &mut out).unwrap();
        let body_bytes = out.len() - 4;
        let mut again = Vec::new();
        Encoder::new([7; 9], body_bytes).encode(&message, Duration::ZERO, &mut again).unwrap();
        assert_eq!(again, out);
        let body_bytes_max = body_bytes - 1;
        let refused =
            Encoder::new([7; 9], body_bytes_max).encode(&message, Duration::ZERO, &mut out);
        assert_eq!(refused, Err(EncodeError::TooLarge { body_bytes, body_bytes_max }));
        assert_eq!(again, out);
    }
}
