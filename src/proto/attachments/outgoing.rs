//! What is to be sent beside a payload, and what `bin` says of it.

use std::fmt;

use super::super::dtype::Dtype;
use super::super::escape::escaped;
use super::super::fault::Fault;
use super::super::limits::{ATTACHMENTS_MAX, BIN_BYTES_MAX, DIMENSIONS_MAX};
use super::bin;
use super::tail::BytesOwner;

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

/// Bytes to send in place of a `null` of a payload, which stay where they are. See [`NewAttachment`].
#[derive(Clone)]
pub struct SharedAttachment {
    /// The JSON Pointer (RFC 6901) to the null.
    pub pointer: String,
    /// What the bytes are. `None`: plain bytes.
    pub dtype: Option<Dtype>,
    /// The dimensions of a tensor, the outermost one first; empty for plain bytes.
    pub shape: Vec<u64>,
    /// The owner of the bytes, which never change: of a tensor little-endian and in C order. A client drops
    /// it on any of its threads.
    pub data: BytesOwner,
}

impl fmt::Debug for SharedAttachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pointer, dtype, shape, data } = self;
        let bytes = (**data).as_ref().len();
        write!(f, "SharedAttachment({pointer:?}, {dtype:?}, {shape:?}, {bytes} bytes)")
    }
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
        out.extend_from_slice(escaped(attachment.pointer).as_bytes());
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
