//! Whole frames out of the pieces of a stream.

use crate::proto::frame::{Frame, decode};

/// Read bytes are dropped once there are so many of them.
const READ_BYTES_MAX: usize = 64 << 10;

/// The own server keeps to its limits by itself, and may have raised them a moment ago.
pub(crate) const OWN_FRAME_BYTES_MAX: usize = usize::MAX;

/// The stream of one link, or of one tunnel.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    read: usize,
}

/// A frame is over the limit, so that nothing behind it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

impl Frames {
    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        if self.read == self.bytes.len() {
            self.bytes.clear();
            self.read = 0;
        } else if self.read > READ_BYTES_MAX {
            self.bytes.drain(..self.read);
            self.read = 0;
        }
        self.bytes.extend_from_slice(piece);
    }

    /// Returns the next frame with its length, once it is whole.
    ///
    /// # Errors
    /// If its body is over the limit.
    pub(crate) fn next(&mut self, body_bytes_max: usize) -> Result<Option<&[u8]>, TooLarge> {
        let rest = &self.bytes[self.read..];
        match decode(rest, body_bytes_max) {
            Frame::Complete { frame_bytes, .. } => {
                self.read += frame_bytes;
                Ok(Some(&rest[..frame_bytes]))
            }
            Frame::Partial { .. } => Ok(None),
            Frame::TooLarge { .. } => Err(TooLarge),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_whole_however_their_bytes_come() {
        let stream: Vec<u8> = (1..50_u8)
            .flat_map(|n| [&[0, 0, 0, n][..], &vec![n; usize::from(n)]].concat())
            .collect();
        for size in [1, 3, 7, 100, stream.len()] {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for piece in stream.chunks(size) {
                frames.push(piece);
                while let Some(frame) = frames.next(49).unwrap() {
                    found.push(frame.to_vec());
                }
            }
            assert_eq!(found.len(), 49, "{size}");
            assert_eq!(found.concat(), stream);
        }
    }

    #[test]
    fn a_frame_over_the_limit_ends_the_stream_on_its_length_alone() {
        let mut frames = Frames::default();
        frames.push(&[0, 0, 0, 3]);
        assert_eq!(frames.next(2), Err(TooLarge));
    }

    #[test]
    fn what_was_read_is_dropped() {
        let mut frames = Frames::default();
        for _ in 0..100 {
            // A frame and the beginning of the next one.
            frames.push(&[&[0, 0, 39, 16][..], &[0; 10_000], &[0, 0]].concat());
            while frames.next(10_000).unwrap().is_some() {}
            frames.push(&[39, 16]);
            frames.push(&[0; 10_000]);
            while frames.next(10_000).unwrap().is_some() {}
        }
        assert!(frames.bytes.capacity() < 4 * READ_BYTES_MAX, "{}", frames.bytes.capacity());
    }
}
