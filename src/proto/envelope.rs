use std::fmt;

use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::json::Json;
use super::json_str::JsonStr;
use super::limits::{ID_BYTES_MAX, TIMESTAMP_BYTES_MAX};
use super::scanner::{Scanner, Stop};

#[cfg(test)]
mod tests;

/// One message, borrowed from its frame.
///
/// The frame is wholly validated; the payload stays text until it is asked for.
///
/// ```
/// use ipc_framework::{Envelope, MessageType};
///
/// let body = br#"{"message_id":"1","app_id":"shop","channel_id":"price","message_type":"request",
///     "payload":{"item":"tea"},"timestamp":1.5}"#;
/// let message = Envelope::parse(body).unwrap();
/// assert_eq!(message.message_type(), MessageType::Request);
/// assert!(message.channel_id().matches("price"));
/// assert_eq!(message.payload_str(), r#"{"item":"tea"}"#);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    message_id: JsonStr<'a>,
    app_id: JsonStr<'a>,
    channel_id: JsonStr<'a>,
    message_type: MessageType,
    payload: &'a str,
    timestamp: &'a str,
    reply_to: Option<JsonStr<'a>>,
}

impl<'a> Envelope<'a> {
    /// Reads one message from the body of its frame, without allocating.
    ///
    /// # Errors
    /// If the body is not one JSON object in UTF-8, nested at most
    /// [`DEPTH_MAX`](super::DEPTH_MAX) deep, or not a message. The first is reported before the
    /// second, wherever they stand: where it is not JSON, no field is believed.
    pub fn parse(body: &'a [u8]) -> Result<Self, EnvelopeError<'a>> {
        let mut fields = Fields::default();
        match fields.read(body) {
            Ok(()) => fields.finish(),
            Err(fault) => {
                Err(EnvelopeError { fault, message_id: None, channel_id: None, message_type: None })
            }
        }
    }

    /// What a response names in its `reply_to`. May be empty.
    #[inline]
    pub fn message_id(&self) -> JsonStr<'a> {
        self.message_id
    }

    /// The application the message is for; never empty.
    #[inline]
    pub fn app_id(&self) -> JsonStr<'a> {
        self.app_id
    }

    /// The channel inside the application; never empty.
    #[inline]
    pub fn channel_id(&self) -> JsonStr<'a> {
        self.channel_id
    }

    /// What is to be done with the message.
    #[inline]
    pub fn message_type(&self) -> MessageType {
        self.message_type
    }

    /// What the message carries, as sent.
    #[inline]
    pub fn payload(&self) -> Json<'a> {
        Json::trusted(self.payload)
    }

    /// The payload's text, as sent.
    #[inline]
    pub fn payload_str(&self) -> &'a str {
        self.payload
    }

    /// When the message was sent, in seconds since the Unix epoch.
    ///
    /// Always finite: a number beyond the range of `f64` gives the end of the range.
    pub fn timestamp(&self) -> f64 {
        let seconds: f64 = self.timestamp.parse().unwrap_or_default();
        seconds.clamp(f64::MIN, f64::MAX)
    }

    /// The timestamp's text, as sent.
    #[inline]
    pub fn timestamp_str(&self) -> &'a str {
        self.timestamp
    }

    /// The `message_id` that this message answers; `None` when absent, null or empty.
    #[inline]
    pub fn reply_to(&self) -> Option<JsonStr<'a>> {
        self.reply_to
    }
}

/// What a message asks for.
///
/// ```
/// use ipc_framework::MessageType;
///
/// assert_eq!(MessageType::Publish.as_str(), "publish");
/// assert_eq!(MessageType::ALL.len(), 6);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageType {
    /// The channel's request handler is called, and may answer.
    Request,
    /// Answers a request.
    Response,
    /// The channel's notification handler is called; nothing is answered.
    Notification,
    /// The connection becomes a subscriber of the channel.
    Subscribe,
    /// The connection is no longer a subscriber of the channel.
    Unsubscribe,
    /// Goes to every subscriber of the channel.
    Publish,
}

impl MessageType {
    /// Every type, in the order of the protocol's table.
    pub const ALL: [Self; 6] = [
        Self::Request,
        Self::Response,
        Self::Notification,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Publish,
    ];

    /// The type as it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
            Self::Notification => "notification",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Publish => "publish",
        }
    }

    #[inline]
    fn from_wire(text: JsonStr<'_>) -> Option<Self> {
        if text.is_escaped() {
            return Self::ALL.into_iter().find(|message_type| text.matches(message_type.as_str()));
        }
        Some(match text.raw().as_bytes() {
            b"request" => Self::Request,
            b"response" => Self::Response,
            b"notification" => Self::Notification,
            b"subscribe" => Self::Subscribe,
            b"unsubscribe" => Self::Unsubscribe,
            b"publish" => Self::Publish,
            _ => return None,
        })
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A message that is refused, and what could still be read of it, so that the
/// answer finds its way.
///
/// ```
/// use ipc_framework::{Envelope, ErrorCode};
///
/// let error = Envelope::parse(br#"{"message_id":"1","channel_id":"price"}"#).unwrap_err();
/// assert_eq!(error.fault.code(), ErrorCode::BadMessage);
/// assert!(error.message_id.unwrap().matches("1"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct EnvelopeError<'a> {
    /// What is wrong with it.
    pub fault: Fault,
    /// The `message_id`, if it is there once and usable.
    pub message_id: Option<JsonStr<'a>>,
    /// The `channel_id`, if it is there once and usable.
    pub channel_id: Option<JsonStr<'a>>,
    /// The `message_type`, if it is there once and known.
    pub message_type: Option<MessageType>,
}

impl fmt::Display for EnvelopeError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl std::error::Error for EnvelopeError<'_> {}

/// A message while it is read.
///
/// A slot is filled when its field has been given once and is usable. Whatever
/// else happened to a field left a fault, so that without one an empty slot is
/// a missing field.
#[derive(Default)]
struct Fields<'a> {
    message_id: Option<JsonStr<'a>>,
    app_id: Option<JsonStr<'a>>,
    channel_id: Option<JsonStr<'a>>,
    message_type: Option<MessageType>,
    payload: Option<&'a str>,
    timestamp: Option<&'a str>,
    reply_to: Option<JsonStr<'a>>,
    /// One bit per [`Field`] that was given.
    seen: u8,
    /// The first thing that keeps the object from being a message.
    fault: Option<Fault>,
}

impl<'a> Fields<'a> {
    /// Reads the whole body. An error is a frame that cannot be read; what is
    /// wrong with the message alone is noted, and reading goes on.
    fn read(&mut self, body: &'a [u8]) -> Result<(), Fault> {
        // The fast check does not say where; it is looked up where there is something wrong.
        let text = simdutf8::basic::from_utf8(body).or_else(|_| {
            std::str::from_utf8(body).map_err(|error| Fault::NotUtf8 { at: error.valid_up_to() })
        })?;
        let mut scanner = Scanner::new(text);
        let Some(first) = scanner.peek() else {
            return Err(Fault::Empty);
        };
        let read = if first == b'{' {
            self.object(&mut scanner)
        } else {
            scanner.value(0).map(|_text| ())
        };
        match read.and_then(|()| scanner.finish()) {
            Err(stop) => Err(scanner.fault(stop)),
            Ok(()) if first == b'{' => Ok(()),
            Ok(()) => Err(Fault::NotAnObject),
        }
    }

    fn object(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Stop> {
        scanner.bump();
        if scanner.peek() == Some(b'}') {
            scanner.bump();
            return Ok(());
        }
        loop {
            scanner.peek();
            let at = scanner.at();
            if let Some(field) = Field::next(scanner)? {
                self.field(field, scanner)?;
            } else {
                self.note(Fault::Unknown { at });
                scanner.value(1)?;
            }
            match scanner.peek() {
                Some(b',') => scanner.bump(),
                Some(b'}') => {
                    scanner.bump();
                    return Ok(());
                }
                _ => return Err(Stop::ObjectEnd),
            }
        }
    }

    #[inline]
    fn field(&mut self, field: Field, scanner: &mut Scanner<'a>) -> Result<(), Stop> {
        let bit = 1 << field as u8;
        if self.seen & bit != 0 {
            self.forget(field);
            scanner.value(1)?;
            return Ok(());
        }
        self.seen |= bit;
        match field {
            Field::MessageId => self.message_id = self.id(field, scanner)?,
            Field::AppId => self.app_id = self.id(field, scanner)?,
            Field::ChannelId => self.channel_id = self.id(field, scanner)?,
            Field::MessageType => self.message_type = self.message_type(scanner)?,
            Field::Payload => self.payload = Some(scanner.value(1)?),
            Field::Timestamp => self.timestamp = self.timestamp(scanner)?,
            Field::ReplyTo => self.reply_to = self.reply_to(scanner)?,
        }
        Ok(())
    }

    /// A field given twice has no meaning.
    #[cold]
    fn forget(&mut self, field: Field) {
        match field {
            Field::MessageId => self.message_id = None,
            Field::AppId => self.app_id = None,
            Field::ChannelId => self.channel_id = None,
            Field::MessageType => self.message_type = None,
            Field::Payload => self.payload = None,
            Field::Timestamp => self.timestamp = None,
            Field::ReplyTo => self.reply_to = None,
        }
        self.note(Fault::Doubled { field: field.name() });
    }

    #[inline]
    fn id(&mut self, field: Field, scanner: &mut Scanner<'a>) -> Result<Option<JsonStr<'a>>, Stop> {
        if scanner.peek() != Some(b'"') {
            return self.wrong_type(field, scanner).map(|()| None);
        }
        let id = scanner.string()?;
        let field = field.name();
        let fault = match id.decoded_len() {
            None => Fault::NotUnicode { field },
            Some(0) if field == "app_id" || field == "channel_id" => Fault::EmptyId { field },
            Some(0..=ID_BYTES_MAX) => return Ok(Some(id)),
            Some(_) => Fault::IdTooLong { field },
        };
        self.note(fault);
        Ok(None)
    }

    #[inline]
    fn reply_to(&mut self, scanner: &mut Scanner<'a>) -> Result<Option<JsonStr<'a>>, Stop> {
        if scanner.peek() == Some(b'n') {
            return scanner.value(1).map(|_null| None);
        }
        let id = self.id(Field::ReplyTo, scanner)?;
        Ok(id.filter(|id| !id.is_empty()))
    }

    #[inline]
    fn message_type(&mut self, scanner: &mut Scanner<'a>) -> Result<Option<MessageType>, Stop> {
        let field = Field::MessageType;
        if scanner.peek() != Some(b'"') {
            return self.wrong_type(field, scanner).map(|()| None);
        }
        let text = scanner.string()?;
        let message_type = MessageType::from_wire(text);
        if message_type.is_none() {
            self.note(match text.decoded_len() {
                Some(_) => Fault::UnknownMessageType,
                None => Fault::NotUnicode { field: field.name() },
            });
        }
        Ok(message_type)
    }

    #[inline]
    fn timestamp(&mut self, scanner: &mut Scanner<'a>) -> Result<Option<&'a str>, Stop> {
        match scanner.peek() {
            Some(b'-' | b'0'..=b'9') => {
                let text = scanner.number()?;
                // It is relayed as it came, and some readers stop at long numbers.
                if text.len() > TIMESTAMP_BYTES_MAX {
                    self.note(Fault::TimestampTooLong);
                }
                Ok(Some(text))
            }
            _ => self.wrong_type(Field::Timestamp, scanner).map(|()| None),
        }
    }

    #[cold]
    fn wrong_type(&mut self, field: Field, scanner: &mut Scanner<'a>) -> Result<(), Stop> {
        self.note(Fault::WrongType {
            field: field.name(),
            expected: match field {
                Field::ReplyTo => "a string, or null",
                Field::Timestamp => "a number",
                _ => "a string",
            },
        });
        scanner.value(1).map(|_text| ())
    }

    /// Keeps the first fault: what follows may be its consequence.
    fn note(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    fn finish(self) -> Result<Envelope<'a>, EnvelopeError<'a>> {
        if let Some(fault) = self.fault {
            return Err(self.refused(fault));
        }
        let missing = |field: Field| self.refused(Fault::Missing { field: field.name() });
        Ok(Envelope {
            message_id: self.message_id.ok_or_else(|| missing(Field::MessageId))?,
            app_id: self.app_id.ok_or_else(|| missing(Field::AppId))?,
            channel_id: self.channel_id.ok_or_else(|| missing(Field::ChannelId))?,
            message_type: self.message_type.ok_or_else(|| missing(Field::MessageType))?,
            payload: self.payload.ok_or_else(|| missing(Field::Payload))?,
            timestamp: self.timestamp.ok_or_else(|| missing(Field::Timestamp))?,
            reply_to: self.reply_to,
        })
    }

    #[cold]
    fn refused(&self, fault: Fault) -> EnvelopeError<'a> {
        EnvelopeError {
            fault,
            message_id: self.message_id.filter(|id| !id.is_empty()),
            channel_id: self.channel_id,
            message_type: self.message_type,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    MessageId,
    AppId,
    ChannelId,
    MessageType,
    Payload,
    Timestamp,
    ReplyTo,
}

impl Field {
    const ALL: [Self; 7] = [
        Self::MessageId,
        Self::AppId,
        Self::ChannelId,
        Self::MessageType,
        Self::Payload,
        Self::Timestamp,
        Self::ReplyTo,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::MessageId => "message_id",
            Self::AppId => "app_id",
            Self::ChannelId => "channel_id",
            Self::MessageType => "message_type",
            Self::Payload => "payload",
            Self::Timestamp => "timestamp",
            Self::ReplyTo => "reply_to",
        }
    }

    /// Reads a key and its colon; `None` if it is not a field's.
    #[inline]
    fn next(scanner: &mut Scanner<'_>) -> Result<Option<Self>, Stop> {
        // The usual spelling is compared in place: quicker than to look for a key's end first.
        for field in Self::ALL {
            if scanner.take(field.quoted()) {
                scanner.colon()?;
                return Ok(Some(field));
            }
        }
        scanner.key().map(Self::from_key)
    }

    const fn quoted(self) -> &'static [u8] {
        match self {
            Self::MessageId => b"\"message_id\"",
            Self::AppId => b"\"app_id\"",
            Self::ChannelId => b"\"channel_id\"",
            Self::MessageType => b"\"message_type\"",
            Self::Payload => b"\"payload\"",
            Self::Timestamp => b"\"timestamp\"",
            Self::ReplyTo => b"\"reply_to\"",
        }
    }

    /// A key is compared by what it means: `"\u0061pp_id"` is `app_id`.
    #[inline]
    fn from_key(key: JsonStr<'_>) -> Option<Self> {
        if key.is_escaped() {
            return Self::ALL.into_iter().find(|field| key.matches(field.name()));
        }
        Some(match key.raw().as_bytes() {
            b"message_id" => Self::MessageId,
            b"app_id" => Self::AppId,
            b"channel_id" => Self::ChannelId,
            b"message_type" => Self::MessageType,
            b"payload" => Self::Payload,
            b"timestamp" => Self::Timestamp,
            b"reply_to" => Self::ReplyTo,
            _ => return None,
        })
    }
}
