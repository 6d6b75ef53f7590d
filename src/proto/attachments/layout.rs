//! The layout of a body with attachments, around its JSON.

use super::super::fault::Fault;

/// The JSON of a body with attachments is shorter than this, so that its first byte is 0, with which
/// no JSON begins.
pub(super) const JSON_BYTES_END: usize = 1 << 24;

/// Every attachment begins at a multiple of this in the body, for readers that need aligned memory.
pub(super) const ALIGNMENT_BYTES: usize = 64;

/// The length of J, the length of the JSON.
pub(super) const PREFIX_BYTES: usize = 4;

/// Bodies with attachments begin with this byte, and no JSON does.
#[inline]
pub(crate) fn has_attachments(body: &[u8]) -> bool {
    body.first() == Some(&0)
}

/// The fault of a body whose JSON is there and is not followed by its zeros.
pub(crate) const NO_ZEROS: Fault = layout("zeros behind the JSON, to a multiple of 64 of the body");

/// Takes a body with attachments apart into its JSON and the bytes behind the zeros that follow, which
/// are `None` if these are not as they should be: the JSON still says which message it is.
pub(crate) fn split(body: &[u8]) -> Result<(&[u8], Option<&[u8]>), Fault> {
    let Some((prefix, rest)) = body.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(layout("four bytes with the length of the JSON first"));
    };
    let json_bytes = u32::from_be_bytes(*prefix) as usize;
    if json_bytes >= JSON_BYTES_END {
        return Err(layout("JSON of less than 16 MiB"));
    }
    let Some((json, rest)) = rest.split_at_checked(json_bytes) else {
        return Err(layout("as much JSON as its length says"));
    };
    Ok((json, cut_padding(rest, PREFIX_BYTES + json_bytes)))
}

/// Cuts the zeros off that follow `before` bytes.
pub(super) fn cut_padding(rest: &[u8], before: usize) -> Option<&[u8]> {
    let (zeros, behind) = rest.split_at_checked(padding(before).len())?;
    zeros.iter().all(|byte| *byte == 0).then_some(behind)
}

const fn layout(expected: &'static str) -> Fault {
    Fault::Layout { expected }
}

/// The zeros that follow `bytes` bytes, up to a multiple of 64.
pub(crate) fn padding(bytes: usize) -> &'static [u8] {
    const ZEROS: [u8; ALIGNMENT_BYTES] = [0; ALIGNMENT_BYTES];
    &ZEROS[..bytes.next_multiple_of(ALIGNMENT_BYTES) - bytes]
}
