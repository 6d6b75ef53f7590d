//! The same payload for peers without the extension: each attachment in its place, as base64.

use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::{Attachment, Attachments, pointers};

const DATA: &[u8] = b"{\"$base64\":\"";
const DTYPE: &[u8] = b"\",\"dtype\":";
const SHAPE: &[u8] = b",\"shape\":";
const END: &[u8] = b"}";
const NULL: &str = "null";

impl Attachments<'_> {
    /// The length of what [`Attachments::append_base64_payload`] appends.
    pub(crate) fn base64_payload_bytes(&self) -> usize {
        let of_one = |attachment: Attachment<'_>| {
            DATA.len()
                + attachment.data.len().div_ceil(3) * 4
                + DTYPE.len()
                + attachment.dtype.map_or(NULL.len(), |dtype| dtype.name().len() + 2)
                + SHAPE.len()
                + attachment.shape.as_json().len()
                + END.len()
                - NULL.len()
        };
        self.payload.len() + self.iter().map(of_one).sum::<usize>()
    }

    /// Appends the payload with `{"$base64": …, "dtype": …, "shape": …}` in place of each null.
    pub(crate) fn append_base64_payload(&self, out: &mut Vec<u8>) {
        let payload = self.payload.as_bytes();
        let (mut written, mut attachments) = (0, self.iter());
        let walked = pointers::walk(self.payload, self.pointers(), |at| {
            let Some(attachment) = attachments.next() else { return };
            out.extend_from_slice(&payload[written..at]);
            append(&attachment, out);
            written = at + NULL.len();
        });
        debug_assert!(walked.is_ok(), "they were checked");
        out.extend_from_slice(&payload[written..]);
    }
}

fn append(attachment: &Attachment<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(DATA);
    let start = out.len();
    out.resize(start + attachment.data.len().div_ceil(3) * 4, b'=');
    let encoded = BASE64_STANDARD.encode_slice(attachment.data, &mut out[start..]);
    debug_assert!(encoded.is_ok(), "it has just this length");
    out.extend_from_slice(DTYPE);
    match attachment.dtype {
        Some(dtype) => {
            out.push(b'"');
            out.extend_from_slice(dtype.name().as_bytes());
            out.push(b'"');
        }
        None => out.extend_from_slice(NULL.as_bytes()),
    }
    out.extend_from_slice(SHAPE);
    out.extend_from_slice(attachment.shape.as_json().as_bytes());
    out.extend_from_slice(END);
}
