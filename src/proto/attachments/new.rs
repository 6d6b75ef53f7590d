//! Attachments on their way out.

use super::super::encode::{self, Head};
#[cfg(any(test, feature = "fuzzing"))]
use super::super::frame::HEADER_BYTES;
use super::layout::{ALIGNMENT_BYTES, JSON_BYTES_END, PREFIX_BYTES, padding};
#[cfg(any(test, feature = "fuzzing"))]
use super::outgoing::NewAttachment;

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
#[cfg(any(test, feature = "fuzzing"))]
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
