use std::fmt;

use super::attachments::Attachments;
use super::attachments::layout::NO_ZEROS;
use super::fault::Fault;
use super::json::Json;
use super::json_str::JsonStr;
use super::message_type::MessageType;
use super::meta::{Meta, MetaText};

/// One message, borrowed from its frame.
///
/// The whole frame is validated. The payload stays text until it is decoded.
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
    pub(super) message_id: JsonStr<'a>,
    pub(super) app_id: JsonStr<'a>,
    pub(super) channel_id: JsonStr<'a>,
    pub(super) message_type: MessageType,
    pub(super) payload: &'a str,
    pub(super) timestamp: &'a str,
    pub(super) reply_to: Option<JsonStr<'a>>,
    pub(super) meta: Option<MetaText<'a>>,
}

impl<'a> Envelope<'a> {
    /// The id that a response names in its `reply_to`. May be empty.
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

    /// The kind of message.
    #[inline]
    pub fn message_type(&self) -> MessageType {
        self.message_type
    }

    /// The payload, as sent, with its attachments. If these are faulty, which
    /// [`attachments`](Self::attachments) says, it is without any.
    #[inline]
    pub fn payload(&self) -> Json<'a> {
        if self.has_attachments() { self.whole_payload() } else { Json::trusted(self.payload) }
    }

    #[cold]
    fn whole_payload(&self) -> Json<'a> {
        Json::received(self.payload, &self.attachments().unwrap_or_default())
    }

    /// The payload's text, as sent.
    #[inline]
    pub fn payload_str(&self) -> &'a str {
        self.payload
    }

    /// The time at which the message was sent, in seconds since the Unix epoch.
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

    /// The value of the key `meta`, as sent. Only [`Envelope::parse_extended`] and
    /// [`Envelope::parse_binary`] find it.
    #[inline]
    pub fn meta(&self) -> Option<Json<'a>> {
        self.meta_str().map(Json::trusted)
    }

    /// Does what [`Meta::parse`] does with the key `meta`, or nothing where that was done with the
    /// rest of the message. Attachments are checked, too.
    #[inline]
    pub fn read_meta(&self) -> Option<Result<Meta<'a>, Fault>> {
        let meta = self.meta?;
        Some(meta.numbers().map_or_else(|| self.read_whole_meta(meta.text), Ok))
    }

    fn read_whole_meta(&self, text: &'a str) -> Result<Meta<'a>, Fault> {
        let meta = Meta::parse(text)?;
        // A message of JSON alone with a `bin` is one that has not all of its attachments.
        if meta.bin.is_some() || self.has_attachments() {
            self.attachments()?;
        }
        Ok(meta)
    }

    /// Returns whether the message came with attachments, which may be faulty.
    #[inline]
    pub fn has_attachments(&self) -> bool {
        self.meta.is_some_and(|meta| meta.tail().is_some())
    }

    /// Reads the attachments and checks them to the byte. There are none in a message of JSON alone.
    ///
    /// # Errors
    /// If they are not laid out as they should be, or do not agree with the `bin` of the `meta`, or that
    /// not with the payload. Unknown
    /// members of the `meta` are ignored.
    #[cold]
    pub fn attachments(&self) -> Result<Attachments<'a>, Fault> {
        let Some(meta) = self.meta else { return Ok(Attachments::default()) };
        let tail = meta.tail().map(|tail| tail.ok_or(NO_ZEROS)).transpose()?;
        let given = Meta::parse_known(meta.text)?.bin;
        match (tail, given) {
            (None, None) => Ok(Attachments::default()),
            (Some(tail), Some(bin)) => Attachments::read(self.payload, bin, tail),
            (None, Some(_)) => Err(BIN_WITHOUT_ATTACHMENTS),
            (Some(_), None) => Err(ATTACHMENTS_WITHOUT_BIN),
        }
    }

    /// The text of the key `meta`, as sent.
    #[inline]
    pub fn meta_str(&self) -> Option<&'a str> {
        self.meta.map(|meta| meta.text)
    }
}

const BIN_WITHOUT_ATTACHMENTS: Fault =
    Fault::Meta { key: "bin", expected: "it in a body that has attachments" };
const ATTACHMENTS_WITHOUT_BIN: Fault =
    Fault::Meta { key: "bin", expected: "it wherever a body has attachments" };

/// The refusal of a message, with the fields that could still be read, so that the answer finds
/// its way.
///
/// ```
/// use ipc_framework::{Envelope, ErrorCode};
///
/// let error = Envelope::parse(br#"{"message_id":"1","channel_id":"price"}"#).unwrap_err();
/// assert_eq!(error.fault.code(), ErrorCode::BadMessage);
/// assert!(error.message_id.unwrap().matches("1"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvelopeError<'a> {
    /// The reason for the refusal.
    pub fault: Fault,
    /// The `message_id`, if it is there once and usable.
    pub message_id: Option<JsonStr<'a>>,
    /// The `channel_id`, if it is there once and usable.
    pub channel_id: Option<JsonStr<'a>>,
    /// The `message_type`, if it is there once and known.
    pub message_type: Option<MessageType>,
}

impl EnvelopeError<'_> {
    /// An error of a frame of which no field is believed.
    pub(super) fn unreadable(fault: Fault) -> Self {
        Self { fault, message_id: None, channel_id: None, message_type: None }
    }
}

impl fmt::Display for EnvelopeError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl std::error::Error for EnvelopeError<'_> {}
