//! The frame: a big-endian `u32` length, then that many bytes.

/// Bytes of the length prefix.
pub const HEADER_BYTES: usize = 4;

/// The front of the bytes received so far.
///
/// An incomplete frame is a value and not an error: a frame arrives in as many pieces as the
/// kernel likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole frame: its body, and the number of bytes it took with its header.
    Complete {
        /// The bytes behind the length prefix.
        body: &'a [u8],
        /// Header and body together.
        frame_bytes: usize,
    },
    /// More bytes are needed.
    Partial {
        /// The length of the whole frame, or [`HEADER_BYTES`] while the header is incomplete.
        frame_bytes: usize,
    },
    /// The length prefix is over the limit. The stream cannot be read any further.
    TooLarge {
        /// The length that the prefix gives.
        body_bytes: usize,
    },
}

/// Looks at the front of `bytes`. The length is checked against `body_bytes_max` as soon as its
/// four bytes are there, before any memory is taken for the body.
///
/// ```
/// use ipc_framework::proto::frame::{Frame, decode};
///
/// assert_eq!(
///     decode(b"\0\0\0\x02{}\0\0", 16),
///     Frame::Complete { body: b"{}", frame_bytes: 6 },
/// );
/// assert_eq!(decode(b"\0\0", 16), Frame::Partial { frame_bytes: 4 });
/// assert_eq!(decode(b"\0\0\0\x11", 16), Frame::TooLarge { body_bytes: 17 });
/// ```
pub fn decode(bytes: &[u8], body_bytes_max: usize) -> Frame<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Frame::Partial { frame_bytes: HEADER_BYTES };
    };
    let body_bytes = u32::from_be_bytes(*header) as usize;
    if body_bytes > body_bytes_max {
        return Frame::TooLarge { body_bytes };
    }
    let frame_bytes = HEADER_BYTES + body_bytes;
    match rest.get(..body_bytes) {
        Some(body) => Frame::Complete { body, frame_bytes },
        None => Frame::Partial { frame_bytes },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_body_is_a_whole_frame() {
        assert_eq!(decode(&[0, 0, 0, 0], 10), Frame::Complete { body: b"", frame_bytes: 4 });
    }

    #[test]
    fn four_gib_is_refused_on_its_header_alone() {
        assert_eq!(decode(&[0xff; 4], 16 << 20), Frame::TooLarge { body_bytes: u32::MAX as usize });
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        assert_eq!(decode(b"\0\0\0\x03abc", 3), Frame::Complete { body: b"abc", frame_bytes: 7 });
        assert_eq!(decode(b"\0\0\0\x04", 3), Frame::TooLarge { body_bytes: 4 });
    }
}
