use std::fmt;

use super::error_code::ErrorCode;
use super::limits::{DEPTH_MAX, ID_BYTES_MAX, META_BYTES_MAX, TIMESTAMP_BYTES_MAX};

/// A fault of a message. Its sender made it.
///
/// It is displayed as one sentence that tells the sender what to do.
///
/// ```
/// use ipc_framework::{Envelope, proto::Fault};
///
/// assert_eq!(Envelope::parse(b"[]").unwrap_err().fault, Fault::NotAnObject);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The frame holds nothing, or only whitespace.
    Empty,
    /// The frame is longer than its receiver allows.
    TooLarge {
        /// The length that its prefix gives.
        body_bytes: usize,
        /// The limit.
        body_bytes_max: usize,
    },
    /// The frame is not UTF-8.
    NotUtf8 {
        /// The byte where it stops being UTF-8.
        at: usize,
    },
    /// The frame is not JSON by RFC 8259.
    NotJson {
        /// The byte where it stops being JSON.
        at: usize,
        /// The text that JSON requires there.
        expected: &'static str,
    },
    /// The frame is JSON, but not an object.
    NotAnObject,
    /// The frame nests deeper than [`DEPTH_MAX`].
    TooDeep {
        /// The byte of the bracket that is one too many.
        at: usize,
    },
    /// The frame continues after its JSON document.
    Trailing {
        /// The byte where it should have ended.
        at: usize,
    },
    /// A field is missing.
    Missing {
        /// Its name.
        field: &'static str,
    },
    /// A field is given more than once.
    Doubled {
        /// Its name.
        field: &'static str,
    },
    /// A key is none of the seven fields.
    Unknown {
        /// The byte where the key begins.
        at: usize,
    },
    /// A field's value is of the wrong type.
    WrongType {
        /// The field's name.
        field: &'static str,
        /// The right type.
        expected: &'static str,
    },
    /// The `message_type` is none of [`MessageType::ALL`](super::MessageType::ALL).
    UnknownMessageType,
    /// A field holds half of a surrogate pair.
    NotUnicode {
        /// Its name.
        field: &'static str,
    },
    /// An id is empty.
    EmptyId {
        /// The field's name.
        field: &'static str,
    },
    /// An id is longer than [`ID_BYTES_MAX`].
    IdTooLong {
        /// The field's name.
        field: &'static str,
    },
    /// The timestamp has more digits than any clock gives.
    TimestampTooLong,
    /// The text of `meta` is longer than [`META_BYTES_MAX`](super::META_BYTES_MAX).
    MetaTooLong,
    /// `meta`, or a member of it, is unknown, given twice, or of the wrong type.
    Meta {
        /// The member, or `meta` itself.
        key: &'static str,
        /// What is right there.
        expected: &'static str,
    },
    /// A body with attachments is not laid out as one.
    Layout {
        /// What is right there.
        expected: &'static str,
    },
    /// An attachment does not agree with the payload or with its bytes.
    Attachment {
        /// Its place in `bin` of the `meta`, from 0.
        number: usize,
        /// What is right there.
        expected: &'static str,
    },
}

impl Fault {
    /// The code of the error that the sender gets.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } => ErrorCode::FrameTooLarge,
            Self::Empty
            | Self::NotUtf8 { .. }
            | Self::NotJson { .. }
            | Self::NotAnObject
            | Self::TooDeep { .. }
            | Self::Trailing { .. } => ErrorCode::BadFrame,
            Self::Missing { .. }
            | Self::Doubled { .. }
            | Self::Unknown { .. }
            | Self::WrongType { .. }
            | Self::UnknownMessageType
            | Self::NotUnicode { .. }
            | Self::EmptyId { .. }
            | Self::IdTooLong { .. }
            | Self::TimestampTooLong
            | Self::MetaTooLong
            | Self::Meta { .. }
            | Self::Layout { .. }
            | Self::Attachment { .. } => ErrorCode::BadMessage,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => f.write_str("the frame is empty: send one JSON object"),
            Self::TooLarge { body_bytes, body_bytes_max } => write!(
                f,
                "the frame has {body_bytes} bytes, over the limit of {body_bytes_max}: send \
                 smaller messages"
            ),
            Self::NotUtf8 { at } => {
                write!(f, "the frame is not UTF-8 at byte {at}: send JSON encoded in UTF-8")
            }
            Self::NotJson { at, expected } => {
                write!(f, "the frame is not JSON at byte {at}: send {expected} there")
            }
            Self::NotAnObject => {
                f.write_str("the frame is not a JSON object: send one with the fields of a message")
            }
            Self::TooDeep { at } => write!(
                f,
                "the frame nests deeper than {DEPTH_MAX} levels at byte {at}: flatten the payload"
            ),
            Self::Trailing { at } => write!(
                f,
                "the frame goes on behind its JSON object at byte {at}: send one object per frame"
            ),
            Self::Missing { field } => {
                write!(f, "the field {field} is missing: send it in every message")
            }
            Self::Doubled { field } => {
                write!(f, "the field {field} is given more than once: send it once")
            }
            Self::Unknown { at } => write!(
                f,
                "the key at byte {at} is not a field of a message: move what is yours into payload"
            ),
            Self::WrongType { field, expected } => {
                write!(f, "the field {field} is of the wrong type: send {expected}")
            }
            Self::UnknownMessageType => f.write_str(
                "the message_type is unknown: \
                 send request, response, notification, subscribe, unsubscribe or publish",
            ),
            Self::NotUnicode { field } => {
                write!(f, "the field {field} holds half of a surrogate pair: send whole characters")
            }
            Self::EmptyId { field } => {
                write!(f, "the field {field} is empty: send at least one character")
            }
            Self::IdTooLong { field } => write!(
                f,
                "the field {field} is too long: send at most {ID_BYTES_MAX} bytes of UTF-8"
            ),
            Self::TimestampTooLong => write!(
                f,
                "timestamp is longer than {TIMESTAMP_BYTES_MAX} bytes: send the seconds since 1970"
            ),
            Self::MetaTooLong => write!(
                f,
                "meta is longer than {META_BYTES_MAX} bytes: send fewer or shorter headers"
            ),
            Self::Meta { key, expected } => {
                write!(f, "{key} of the message's meta is not usable: send {expected}")
            }
            Self::Layout { expected } => {
                write!(f, "the frame has attachments and is not laid out so: send {expected}")
            }
            Self::Attachment { number, expected } => write!(
                f,
                "entry {number} of the message's bin, counted from 0, is not usable: send {expected}"
            ),
        }
    }
}
