//! A buffer for received bytes, and the frames in them.

use std::ops::Range;
use std::sync::Arc;

use crate::proto::frame::{self, Frame, HEADER_BYTES};

/// Large enough for many small frames in one read.
const BYTES_MIN: usize = 64 << 10;
/// A buffer that has grown is kept up to this size.
const BYTES_KEPT: usize = 1 << 20;
/// A buffer grows by this factor at most, so that little memory is taken for bytes that never come. It is
/// enough for 1 MiB and what is around it at once.
const GROWTH_MAX: usize = 20;
/// Room behind a large frame: a read that gets its end alone is a short one, after which none is needed to
/// find out that nothing more is there.
const BEHIND_BYTES: usize = 4 << 10;
/// The memory of a frame up to this size is used again for another one, when its message is dropped.
const SPARE_BYTES_MAX: usize = BYTES_KEPT / 4 * 5;
/// The place of the first frame. Its body is then as aligned as large blocks of memory are, to 16 bytes.
const BEGIN: usize = 16 - HEADER_BYTES;
/// Frames with attachments from this size on leave the buffer with its memory; smaller ones are copied.
const DETACHED_BYTES_MIN: usize = 32 << 10;

/// Invariant: `start <= end <= bytes.len()`; the frames not taken yet are `detached`, and behind it
/// `bytes[start..end]`.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    body_bytes_max: usize,
    detached: Option<Detached>,
    /// The buffer for small frames while `bytes` is the memory of a large one, or nothing.
    usual: Vec<u8>,
    /// The memory of a frame that has left. Its message may still exist.
    spare: Option<Arc<Vec<u8>>>,
}

/// A frame with attachments in memory of its own.
#[derive(Debug)]
struct Detached {
    bytes: Arc<Vec<u8>>,
    body: Range<usize>,
}

impl ReadBuffer {
    pub(crate) fn new(body_bytes_max: usize) -> Self {
        Self {
            bytes: vec![0; BEGIN + BYTES_MIN],
            start: BEGIN,
            end: BEGIN,
            body_bytes_max,
            detached: None,
            usual: Vec::new(),
            spare: None,
        }
    }

    /// Gives the next frame its memory, if it has attachments, is large and is complete.
    #[inline]
    pub(crate) fn detach(&mut self) {
        if self.end - self.start >= DETACHED_BYTES_MIN {
            self.detach_large();
        }
    }

    #[cold]
    fn detach_large(&mut self) {
        let Frame::Complete { body, frame_bytes } = self.peek() else { return };
        let is_attached = body.first() == Some(&0);
        if self.detached.is_some() || frame_bytes < DETACHED_BYTES_MIN || !is_attached {
            return;
        }
        let (frame_start, frame_end) = (self.start, self.start + frame_bytes);
        let rest = &self.bytes[frame_end..self.end];
        // A copy of the frame alone, where the message would pin more bytes than its own or more would be
        // copied to make room.
        if (frame_start - BEGIN).max(rest.len()) > frame_bytes {
            let mut bytes = Vec::with_capacity(BEGIN + frame_bytes);
            bytes.resize(BEGIN, 0);
            bytes.extend_from_slice(&self.bytes[frame_start..frame_end]);
            self.start = frame_end;
            let body = BEGIN + HEADER_BYTES..bytes.len();
            self.detached = Some(Detached { bytes: Arc::new(bytes), body });
            return;
        }
        let mut others = std::mem::take(&mut self.usual);
        if others.len() < BEGIN + rest.len().max(BYTES_MIN) {
            others = vec![0; BEGIN + rest.len().max(BYTES_MIN)];
        }
        others[BEGIN..BEGIN + rest.len()].copy_from_slice(rest);
        (self.start, self.end) = (BEGIN, BEGIN + rest.len());
        let mut bytes = std::mem::replace(&mut self.bytes, others);
        bytes.truncate(frame_end);
        // A message may be kept for long.
        if bytes.capacity() - frame_end > frame_bytes / 4 {
            bytes.shrink_to_fit();
        }
        let body = frame_start + HEADER_BYTES..frame_end;
        self.detached = Some(Detached { bytes: Arc::new(bytes), body });
    }

    /// Returns the memory of the next frame, if it has its own.
    pub(crate) fn detached(&self) -> Option<&Arc<Vec<u8>>> {
        self.detached.as_ref().map(|detached| &detached.bytes)
    }

    /// Returns the next frame and leaves it in place; [`consume`](Self::consume) moves past it.
    pub(crate) fn peek(&self) -> Frame<'_> {
        if let Some(Detached { bytes, body }) = &self.detached {
            let body = &bytes[body.clone()];
            return Frame::Complete { body, frame_bytes: HEADER_BYTES + body.len() };
        }
        frame::decode(&self.bytes[self.start..self.end], self.body_bytes_max)
    }

    pub(crate) fn consume(&mut self, frame_bytes: usize) {
        if let Some(detached) = self.detached.take() {
            self.keep(detached.bytes);
            return;
        }
        self.start += frame_bytes;
        debug_assert!(self.start <= self.end);
    }

    /// Keeps memory to use it again. A caller who looks at one message while the next one comes needs two
    /// pieces in turn.
    #[cold]
    fn keep(&mut self, memory: Arc<Vec<u8>>) {
        let is_free = |spare: &Arc<Vec<u8>>| Arc::strong_count(spare) == 1;
        if memory.capacity() <= SPARE_BYTES_MAX && !self.spare.as_ref().is_some_and(is_free) {
            self.spare = Some(memory);
        }
    }

    /// Returns the room for the next bytes, which is never empty. The buffer grows with the bytes
    /// that have arrived, and up to the length that a header announces.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (BEGIN, BEGIN);
            if self.bytes.len() > BYTES_KEPT {
                self.bytes = match std::mem::take(&mut self.usual) {
                    usual if usual.is_empty() => vec![0; BEGIN + BYTES_MIN],
                    usual => usual,
                };
            }
        } else if self.start > BEGIN && self.bytes.len() - self.end < self.bytes.len() / 2 {
            self.bytes.copy_within(self.start..self.end, BEGIN);
            (self.start, self.end) = (BEGIN, BEGIN + self.end - self.start);
        }
        if self.end == self.bytes.len() {
            self.grow();
        }
        &mut self.bytes[self.end..]
    }

    /// Makes room behind the bytes, which fill the buffer from its beginning.
    #[cold]
    fn grow(&mut self) {
        let bytes_max = self.end * GROWTH_MAX;
        let bytes = match frame::decode(&self.bytes[self.start..], self.body_bytes_max) {
            Frame::Partial { frame_bytes } => BEGIN + frame_bytes + BEHIND_BYTES,
            _ => 0,
        };
        if self.bytes.get(self.start + HEADER_BYTES) != Some(&0) {
            // Frames of JSON stay in the buffer, and the next one may be a little longer.
            self.bytes.resize(bytes.clamp(self.end * 2, bytes_max), 0);
            return;
        }
        let mut memory = self.memory(bytes.clamp(self.end + 1, bytes_max));
        memory[self.start..self.end].copy_from_slice(&self.bytes[self.start..]);
        let smaller = std::mem::replace(&mut self.bytes, memory);
        if smaller.len() <= BYTES_KEPT {
            self.usual = smaller;
        }
    }

    /// Returns memory of this size, and does not clear what was a frame before.
    fn memory(&mut self, bytes: usize) -> Vec<u8> {
        // If it does not suit, it makes room for this one.
        let free = self.spare.take_if(|spare| Arc::strong_count(spare) == 1);
        let spare = free.and_then(Arc::into_inner);
        let suits = |spare: &Vec<u8>| (bytes..=bytes / 4 * 5).contains(&spare.capacity());
        spare.filter(suits).map_or_else(
            || vec![0; bytes],
            |mut memory| {
                memory.resize(bytes, 0);
                memory
            },
        )
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

    fn fill(buffer: &mut ReadBuffer, mut stream: &[u8]) {
        while !stream.is_empty() {
            let room = buffer.room();
            let bytes = room.len().min(stream.len());
            room[..bytes].copy_from_slice(&stream[..bytes]);
            buffer.filled(bytes);
            stream = &stream[bytes..];
        }
    }

    #[test]
    fn a_large_frame_with_attachments_leaves_with_its_memory() {
        let frame = |body: &[u8]| [&(body.len() as u32).to_be_bytes(), body].concat();
        let (large, small) = (vec![0; 300_000], vec![0; 300]);
        let json = [b"{", &vec![b' '; 300_000][..]].concat();
        let mut buffer = ReadBuffer::new(1 << 20);
        let stream = [frame(&large), frame(&small), frame(&json), frame(&large)].concat();
        fill(&mut buffer, &stream);
        let mut found = Vec::new();
        for is_detached in [true, false, false, true] {
            buffer.detach();
            buffer.detach();
            assert_eq!(buffer.detached().is_some(), is_detached);
            let Frame::Complete { body, frame_bytes } = buffer.peek() else { panic!() };
            found.push(body.to_vec());
            buffer.consume(frame_bytes);
        }
        assert_eq!(found, [large.clone(), small, json, large.clone()]);
        assert!(matches!(buffer.peek(), Frame::Partial { .. }));
        // The first frame of a buffer lies where its numbers are aligned.
        let mut buffer = ReadBuffer::new(1 << 20);
        fill(&mut buffer, &frame(&large));
        buffer.detach();
        let kept = Arc::clone(buffer.detached().unwrap());
        let Frame::Complete { body, frame_bytes } = buffer.peek() else { panic!() };
        assert_eq!(body.as_ptr().align_offset(16), 0);
        assert!(kept.capacity() <= kept.len() + BEHIND_BYTES);
        buffer.consume(frame_bytes);
        assert_eq!(kept[kept.len() - large.len()..], large);
    }

    #[test]
    fn a_frame_among_others_leaves_with_a_copy_of_its_own() {
        let frame = |body: &[u8]| [&(body.len() as u32).to_be_bytes(), body].concat();
        let others = || vec![frame(b"{}"); 80_000].concat();
        let attached: Vec<_> = (0..20).map(|at| [&[0], &vec![at; 40_000][..]].concat()).collect();
        let attached_frames = attached.iter().map(|body| frame(body)).collect::<Vec<_>>().concat();
        let mut buffer = ReadBuffer::new(1 << 20);
        fill(&mut buffer, &[others(), attached_frames, others()].concat());
        let memory = buffer.bytes.as_ptr();
        let (mut found, mut small) = (Vec::new(), 0);
        loop {
            buffer.detach();
            let Frame::Complete { body, frame_bytes } = buffer.peek() else { break };
            if let Some(kept) = buffer.detached() {
                assert!(kept.capacity() <= frame_bytes + BEGIN, "{}", kept.capacity());
                assert_eq!(body.as_ptr().align_offset(16), 0);
                assert!(kept.as_ptr_range().contains(&body.as_ptr()));
                found.push(body.to_vec());
            } else {
                assert_eq!(body, b"{}");
                small += 1;
            }
            // The others are not copied for each of them.
            assert_eq!(buffer.bytes.as_ptr(), memory);
            buffer.consume(frame_bytes);
        }
        assert_eq!((found, small), (attached, 160_000));
        assert_eq!(buffer.start, buffer.end);
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
