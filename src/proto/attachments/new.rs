//! Attachments on their way out.

use super::super::dtype::Dtype;
use super::super::encode::{self, Head};
use super::super::fault::Fault;
use super::super::frame::HEADER_BYTES;
use super::super::limits::{ATTACHMENTS_MAX, BIN_BYTES_MAX, DIMENSIONS_MAX};
use super::bin;
use super::layout::{ALIGNMENT_BYTES, JSON_BYTES_END, PREFIX_BYTES, padding};

/// Bytes to send in place of a `null` of a payload.
///
/// ```
/// use ipc_framework::proto::{Dtype, NewAttachment};
///
/// let image = NewAttachment {
///     pointer: "/image",
///     dtype: Some(Dtype::U8),
///     shape: &[2, 3],
///     data: &[1, 2, 3, 4, 5, 6],
/// };
/// assert!(image.is_consistent());
/// assert!(!NewAttachment { shape: &[2, 4], ..image }.is_consistent());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewAttachment<'a> {
    /// The JSON Pointer (RFC 6901) to the null.
    pub pointer: &'a str,
    /// What the bytes are. `None`: plain bytes.
    pub dtype: Option<Dtype>,
    /// The dimensions of a tensor, the outermost one first; empty for plain bytes.
    pub shape: &'a [u64],
    /// The bytes: of a tensor little-endian and in C order.
    pub data: &'a [u8],
}

impl NewAttachment<'_> {
    /// Returns whether its bytes are as many as its shape and its type say.
    pub fn is_consistent(&self) -> bool {
        let Some(dtype) = self.dtype else { return self.shape.is_empty() };
        if self.shape.len() > DIMENSIONS_MAX {
            return false;
        }
        let mut sizes = self.shape.iter().map(|size| (*size).max(1));
        let product = sizes.try_fold(dtype.item_bytes() as u64, u64::checked_mul);
        let product = product.filter(|product| *product < 1 << 53);
        let bytes = if self.shape.contains(&0) { product.map(|_| 0) } else { product };
        bytes == Some(self.data.len() as u64)
    }
}

/// Appends the text of `meta.bin`.
///
/// # Errors
/// If there are none or too many of them, or if one is not consistent. Whether the pointers are right
/// is for the receiver to see.
pub(crate) fn append_bin(
    attachments: &[NewAttachment<'_>],
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    if attachments.is_empty() || attachments.len() > ATTACHMENTS_MAX {
        return Err(bin::TOO_MANY);
    }
    let start = out.len();
    let mut digits = itoa::Buffer::new();
    for (number, attachment) in attachments.iter().enumerate() {
        if !attachment.is_consistent() {
            let expected = "as many bytes as the product of its shape and the size of its dtype";
            return Err(Fault::Attachment { number, expected });
        }
        out.extend_from_slice(if number == 0 { b"[[\"" } else { b",[\"" });
        out.extend_from_slice(encode::escaped(attachment.pointer).as_bytes());
        out.extend_from_slice(b"\",");
        out.extend_from_slice(digits.format(attachment.data.len()).as_bytes());
        match attachment.dtype {
            None => out.extend_from_slice(b",null,null]"),
            Some(dtype) => {
                out.extend_from_slice(b",\"");
                out.extend_from_slice(dtype.name().as_bytes());
                out.extend_from_slice(b"\",[");
                for (at, size) in attachment.shape.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(digits.format(*size).as_bytes());
                }
                out.extend_from_slice(b"]]");
            }
        }
    }
    out.push(b']');
    if out.len() - start > BIN_BYTES_MAX {
        return Err(bin::TOO_LONG);
    }
    Ok(())
}

/// The length of the body with JSON of `json_bytes` and attachments of these lengths. `None`: there is
/// more JSON than may stand before attachments.
pub(crate) fn body_bytes(
    json_bytes: usize,
    lengths: impl IntoIterator<Item = usize>,
) -> Option<usize> {
    let padded = |bytes: usize| bytes.next_multiple_of(ALIGNMENT_BYTES);
    let tail_bytes: usize = lengths.into_iter().map(padded).sum();
    (json_bytes < JSON_BYTES_END).then(|| padded(PREFIX_BYTES + json_bytes) + tail_bytes)
}

/// Appends the beginning of a frame, up to its first attachment: the length prefix for `body_bytes`, the
/// JSON and its zeros. Behind it belong the bytes of each attachment, and the [`padding`] behind each.
/// The `meta` of the head has the `bin`.
pub(crate) fn append_front(out: &mut Vec<u8>, head: &Head<'_>, payload: &[u8], body_bytes: usize) {
    let json_bytes = head.body_bytes(payload.len());
    out.extend_from_slice(&(body_bytes as u32).to_be_bytes());
    let start = out.len();
    // A frame of JSON alone begins with the same four bytes, its length.
    encode::text_frame(out, head, payload, json_bytes);
    debug_assert_eq!(out.len() - start, PREFIX_BYTES + json_bytes);
    out.extend_from_slice(padding(PREFIX_BYTES + json_bytes));
}

/// Appends a whole frame. `body_bytes` is the result of [`body_bytes`].
pub(crate) fn append_frame(
    out: &mut Vec<u8>,
    head: &Head<'_>,
    payload: &[u8],
    attachments: &[NewAttachment<'_>],
    body_bytes: usize,
) {
    let start = out.len();
    out.reserve(HEADER_BYTES + body_bytes);
    append_front(out, head, payload, body_bytes);
    for attachment in attachments {
        out.extend_from_slice(attachment.data);
        out.extend_from_slice(padding(attachment.data.len()));
    }
    debug_assert_eq!(out.len() - start, HEADER_BYTES + body_bytes);
}
