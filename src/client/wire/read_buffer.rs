//! A buffer for received bytes, and the frames in them.

use crate::proto::frame::{self, Frame};

/// Large enough for many small frames in one read.
const BYTES_MIN: usize = 64 << 10;
/// A buffer that has grown is kept up to this size.
const BYTES_KEPT: usize = 1 << 20;

/// Invariant: `start <= end <= bytes.len()`; the frames not taken yet are `bytes[start..end]`.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    body_bytes_max: usize,
}

impl ReadBuffer {
    pub(crate) fn new(body_bytes_max: usize) -> Self {
        Self { bytes: vec![0; BYTES_MIN], start: 0, end: 0, body_bytes_max }
    }

    /// Returns the next frame and leaves it in place; [`consume`](Self::consume) moves past it.
    pub(crate) fn peek(&self) -> Frame<'_> {
        frame::decode(&self.bytes[self.start..self.end], self.body_bytes_max)
    }

    pub(crate) fn consume(&mut self, frame_bytes: usize) {
        self.start += frame_bytes;
        debug_assert!(self.start <= self.end);
    }

    /// Returns the room for the next bytes, which is never empty. The buffer grows with the bytes
    /// that have arrived, never with the length that a header announces.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.bytes.len() > BYTES_KEPT {
                self.bytes = vec![0; BYTES_MIN];
            }
        } else if self.start > 0 && self.bytes.len() - self.end < self.bytes.len() / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.bytes.len() {
            self.bytes.resize(self.end * 2, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Notes that this many bytes were read into the [`room`](Self::room).
    pub(crate) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
        debug_assert!(self.end <= self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take_all(buffer: &mut ReadBuffer, found: &mut Vec<Vec<u8>>) {
        while let Frame::Complete { body, frame_bytes } = buffer.peek() {
            found.push(body.to_vec());
            buffer.consume(frame_bytes);
        }
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_frames(
            sizes in prop::collection::vec(0usize..150_000, 1..12),
            chunk_bytes in 1usize..90_000,
        ) {
            let bodies: Vec<Vec<u8>> =
                sizes.iter().enumerate().map(|(at, size)| vec![at as u8; *size]).collect();
            let mut stream = Vec::new();
            for body in &bodies {
                stream.extend_from_slice(&(body.len() as u32).to_be_bytes());
                stream.extend_from_slice(body);
            }
            let mut buffer = ReadBuffer::new(1 << 20);
            let mut found = Vec::new();
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let room = buffer.room();
                prop_assert!(!room.is_empty());
                let bytes = room.len().min(chunk_bytes).min(rest.len());
                room[..bytes].copy_from_slice(&rest[..bytes]);
                buffer.filled(bytes);
                rest = &rest[bytes..];
                take_all(&mut buffer, &mut found);
            }
            prop_assert_eq!(found, bodies);
        }
    }

    #[test]
    fn a_promised_length_is_not_believed_and_a_large_frame_leaves_no_large_buffer() {
        let mut buffer = ReadBuffer::new(16 << 20);
        buffer.room()[..4].copy_from_slice(&(8u32 << 20).to_be_bytes());
        buffer.filled(4);
        assert!(buffer.room().len() < BYTES_MIN);
        let mut missing = 8 << 20;
        while missing > 0 {
            let bytes = buffer.room().len().min(missing);
            buffer.filled(bytes);
            missing -= bytes;
        }
        let mut found = Vec::new();
        take_all(&mut buffer, &mut found);
        assert_eq!(found, [vec![0; 8 << 20]]);
        assert_eq!(buffer.room().len(), BYTES_MIN);
    }
}
