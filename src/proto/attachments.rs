//! Attachments: bytes and tensors that stand behind the JSON of a message.
//!
//! ```text
//! body = J (4 bytes) | J bytes of JSON | zeros | attachment | zeros | attachment | zeros …
//! ```
//!
//! All zeros lead to a multiple of 64 of the body. `meta.bin` of the JSON says for which `null` of the
//! payload each attachment stands, its length, and what its bytes mean.

pub(super) mod bin;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
#[cfg(any(test, feature = "broker"))]
mod in_json;
pub(super) mod layout;
#[cfg(any(test, feature = "fuzzing"))]
mod naive;
#[cfg_attr(not(feature = "broker"), allow(dead_code, reason = "the broker uses all of it"))]
pub(super) mod new;
pub(super) mod outgoing;
mod pointers;
#[cfg_attr(not(feature = "broker"), allow(dead_code, reason = "the broker uses all of it"))]
pub(super) mod tail;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bin::{Entries, Shape};
use layout::{ALIGNMENT_BYTES, PREFIX_BYTES, cut_padding};
use tail::Tail;

use super::dtype::Dtype;
use super::fault::Fault;
use super::limits::{ATTACHMENTS_MAX, BIN_BYTES_MAX};

/// The attachments of a message, which are checked to agree with its payload and its bytes.
///
/// ```
/// use ipc_framework::Envelope;
/// use ipc_framework::proto::Dtype;
///
/// let json = br#"{"message_id":"1","app_id":"a","channel_id":"c","message_type":"publish",
///     "payload":{"image":null},"timestamp":0,"meta":{"bin":[["/image",6,"u8",[2,3]]]}}"#;
/// let mut body = (json.len() as u32).to_be_bytes().to_vec();
/// body.extend_from_slice(json);
/// body.resize(body.len().next_multiple_of(64), 0);
/// body.extend_from_slice(&[1, 2, 3, 4, 5, 6]);
/// body.resize(body.len().next_multiple_of(64), 0);
///
/// let message = Envelope::parse_binary(&body).unwrap();
/// assert_eq!(message.payload_str(), r#"{"image":null}"#);
/// let image = message.attachments().unwrap().get("/image").unwrap();
/// assert_eq!((image.dtype, image.data), (Some(Dtype::U8), &[1, 2, 3, 4, 5, 6][..]));
/// assert_eq!(image.shape.iter().collect::<Vec<_>>(), [2, 3]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attachments<'a> {
    payload: &'a str,
    /// The text of `meta.bin`.
    bin: &'a str,
    /// What follows the JSON and its zeros.
    tail: Tail<'a>,
    len: usize,
}

/// Bytes, or a tensor, in place of a `null` of the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment<'a> {
    /// The JSON Pointer (RFC 6901) to that `null`.
    pub pointer: Cow<'a, str>,
    /// What the bytes are. `None`: plain bytes.
    pub dtype: Option<Dtype>,
    /// The dimensions of a tensor, the outermost one first. Plain bytes have none, as a tensor of one
    /// element may.
    pub shape: Shape<'a>,
    /// Its bytes. Their distance from the beginning of the body is a multiple of 64.
    pub data: &'a [u8],
}

impl<'a> Attachments<'a> {
    /// Checks everything: that each entry of `bin` is usable, that the pointers lead to nulls of the
    /// payload and stand in their order, and that the bytes are those that the entries say. Payload
    /// and `bin` are valid JSON.
    pub(super) fn read(payload: &'a str, bin: &'a str, tail: &'a [u8]) -> Result<Self, Fault> {
        if bin.len() > BIN_BYTES_MAX {
            return Err(bin::TOO_LONG);
        }
        let mut entries = Entries::new(bin)?;
        let (mut rest, mut len) = (tail, 0);
        while let Some(entry) = entries.next(len)? {
            let expected = "just the bytes that bin says, then zeros to a multiple of 64";
            let fault = Fault::Attachment { number: len, expected };
            let (_data, behind) = rest.split_at_checked(entry.bytes).ok_or(fault)?;
            rest = cut_padding(behind, entry.bytes).ok_or(fault)?;
            len += 1;
            if len > ATTACHMENTS_MAX {
                return Err(bin::TOO_MANY);
            }
        }
        if len == 0 {
            return Err(bin::TOO_MANY);
        }
        if !rest.is_empty() {
            let expected = "nothing behind the last attachment and its zeros";
            return Err(Fault::Layout { expected });
        }
        let attachments = Self { payload, bin, tail: Tail::Whole(tail), len };
        attachments.check_pointers()?;
        Ok(attachments)
    }

    /// Checks that the pointers lead to nulls of the payload and stand in their order. Attachments of this
    /// process are right in all else.
    pub(super) fn check_pointers(&self) -> Result<(), Fault> {
        pointers::walk(self.payload, self.pointers(), |_at| ())
    }

    /// The same from what was checked before.
    pub(super) fn trusted(payload: &'a str, bin: &'a str, tail: Tail<'a>, len: usize) -> Self {
        Self { payload, bin, tail, len }
    }

    /// The text of `bin`, and the bytes of all attachments, each with the zeros behind it.
    pub(super) fn parts(&self) -> (&'a str, Tail<'a>) {
        (self.bin, self.tail)
    }

    /// Where their nulls stand in the payload.
    pub(super) fn places(&self) -> Vec<usize> {
        let mut places = Vec::with_capacity(self.len);
        let walked = pointers::walk(self.payload, self.pointers(), |at| places.push(at));
        debug_assert!(walked.is_ok(), "they were checked");
        places
    }

    /// The number of attachments.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The attachments, in the order of their nulls in the payload.
    pub fn iter(&self) -> impl Iterator<Item = Attachment<'a>> + use<'a> {
        let mut entries = Entries::trusted(self.bin);
        let mut tail = self.tail;
        std::iter::from_fn(move || {
            // All was checked: there is no fault.
            let entry = entries.next(0).ok()??;
            let data = tail.take(entry.bytes)?;
            Some(Attachment {
                pointer: entry.pointer.decode(),
                dtype: entry.dtype,
                shape: entry.shape,
                data,
            })
        })
    }

    /// What follows the JSON and its zeros: all attachments with their zeros.
    #[cfg(feature = "broker")]
    pub(crate) fn tail(&self) -> Tail<'a> {
        self.tail
    }

    /// The bytes that they add to a frame at most: their own, the zeros between them, and the JSON that
    /// describes them.
    pub fn frame_bytes(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        let around = PREFIX_BYTES + r#","meta":{"bin":}"#.len() + ALIGNMENT_BYTES - 1;
        around + self.bin.len() + self.tail.bytes()
    }

    pub(super) fn pointers(&self) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
        self.iter().map(|attachment| attachment.pointer)
    }

    /// The attachment in place of the null to which a JSON Pointer leads. It looks at one after the
    /// other.
    pub fn get(&self, pointer: &str) -> Option<Attachment<'a>> {
        self.iter().find(|attachment| attachment.pointer == pointer)
    }
}
