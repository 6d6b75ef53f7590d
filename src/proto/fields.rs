//! The general way to read a message: any order of keys, any white space, every fault.

use super::envelope::{Envelope, EnvelopeError};
use super::fault::Fault;
use super::json_str::JsonStr;
use super::limits::{ID_BYTES_MAX, TIMESTAMP_BYTES_MAX};
use super::message_type::MessageType;
use super::meta::MetaText;
use super::scanner::{Scanner, Stop};

/// Reads one message from the text of its frame. `is_extended`: it may have the key `meta`.
pub(super) fn read(text: &str, is_extended: bool) -> Result<Envelope<'_>, EnvelopeError<'_>> {
    let mut fields = Fields { is_extended, ..Fields::default() };
    match fields.read(text) {
        Ok(()) => fields.finish(),
        Err(fault) => Err(EnvelopeError::unreadable(fault)),
    }
}

/// The fields of a message while it is read.
///
/// A slot is filled when its field was given once and is usable. Anything else that happens to a
/// field leaves a fault. Without a fault, an empty slot is therefore a missing field.
#[derive(Default)]
struct Fields<'a> {
    message_id: Option<JsonStr<'a>>,
    app_id: Option<JsonStr<'a>>,
    channel_id: Option<JsonStr<'a>>,
    message_type: Option<MessageType>,
    payload: Option<&'a str>,
    timestamp: Option<&'a str>,
    reply_to: Option<JsonStr<'a>>,
    meta: Option<&'a str>,
    is_extended: bool,
    /// One bit per [`Field`] that was given.
    seen: u8,
    /// The first fault of the message.
    fault: Option<Fault>,
}

impl<'a> Fields<'a> {
    /// Reads the whole body. Returns an error if the body is no JSON object. A fault of the
    /// message alone is noted, and reading goes on.
    fn read(&mut self, text: &'a str) -> Result<(), Fault> {
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
            match Field::next(scanner)? {
                Some(field) if self.is_extended || field != Field::Meta => {
                    self.field(field, scanner)?;
                }
                _ => {
                    self.note(Fault::Unknown { at });
                    scanner.value(1)?;
                }
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
            Field::Meta => self.meta = Some(scanner.value(1)?),
        }
        Ok(())
    }

    /// Drops a field that was given twice: neither value is believed.
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
            Field::Meta => self.meta = None,
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
                // The number is relayed as it came, and some readers fail at long numbers.
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

    /// Keeps the first fault: later ones may be its consequence.
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
            meta: self.meta.map(MetaText::new),
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
pub(super) enum Field {
    MessageId,
    AppId,
    ChannelId,
    MessageType,
    Payload,
    Timestamp,
    ReplyTo,
    /// Only in messages of peers that negotiated an extension.
    Meta,
}

impl Field {
    pub(super) const ALL: [Self; 8] = [
        Self::MessageId,
        Self::AppId,
        Self::ChannelId,
        Self::MessageType,
        Self::Payload,
        Self::Timestamp,
        Self::ReplyTo,
        Self::Meta,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::MessageId => "message_id",
            Self::AppId => "app_id",
            Self::ChannelId => "channel_id",
            Self::MessageType => "message_type",
            Self::Payload => "payload",
            Self::Timestamp => "timestamp",
            Self::ReplyTo => "reply_to",
            Self::Meta => "meta",
        }
    }

    /// Reads a key and its colon; `None` if it is not a field's.
    #[inline]
    fn next(scanner: &mut Scanner<'_>) -> Result<Option<Self>, Stop> {
        // Comparing the usual spelling in place is quicker than to look for the end of the key.
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
            Self::Meta => b"\"meta\"",
        }
    }

    /// Compares the decoded key: `"\u0061pp_id"` is `app_id`.
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
            b"meta" => Self::Meta,
            _ => return None,
        })
    }
}
