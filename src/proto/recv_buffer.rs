//! Whole frames straight out of the loop's shared read buffer; only what is unfinished is copied and
//! kept. The rest of a long frame is read into its place behind that.

use super::buffer_pool::BufferPool;
use super::frame::{self, Frame};

/// A connection that has sent this much of a frame gets `GRANT_BYTES` of room at once, so that a
/// frame of usual large size is copied once and not at every doubling.
const MUCH_BYTES: usize = 60 << 10;
const GRANT_BYTES: usize = 1 << 20;
/// The part of the grant by which a frame may exceed it and is still granted all of its bytes: those
/// around a payload of just that size.
const EXCESS_PARTS: usize = 4;
/// Room for what follows a frame, so that a read which gets only the frame's rest is a short one and
/// no further read is needed to find out that there is nothing more.
const BEHIND_BYTES: usize = 4 << 10;

/// Bytes that a connection received and that are not processed yet. An empty buffer holds no memory.
///
/// Invariant: `start <= end <= bytes.len()`, and `start == end` only while both are zero. Bytes behind
/// `end` are left from an earlier use of the memory, and nothing returns them.
///
/// ```
/// let kept = ipc_framework::proto::RecvBuffer::default();
/// assert!(kept.is_empty() && !kept.is_bare_header());
/// ```
#[derive(Debug, Default)]
pub struct RecvBuffer {
    bytes: Vec<u8>,
    start: u32,
    end: u32,
}

impl RecvBuffer {
    /// Bytes received and not processed yet.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Returns whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Bytes of memory it holds.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Returns whether exactly a length prefix is here and none of its body, which is the mark of a
    /// peer that writes header and body apart.
    pub fn is_bare_header(&self) -> bool {
        self.len() == frame::HEADER_BYTES
            && matches!(
                frame::decode(self.unread(), usize::MAX),
                Frame::Partial { frame_bytes } if frame_bytes > frame::HEADER_BYTES
            )
    }

    /// Returns whether its first frame is whole, or would be refused for its length.
    pub(crate) fn has_frame(&self, body_bytes_max: usize) -> bool {
        !self.is_empty()
            && !matches!(frame::decode(self.unread(), body_bytes_max), Frame::Partial { .. })
    }

    /// Gives the memory back, and drops the bytes in it.
    pub(crate) fn release(&mut self, pool: &mut BufferPool) {
        if self.bytes.capacity() > 0 {
            pool.give(std::mem::take(&mut self.bytes));
        }
        (self.start, self.end) = (0, 0);
    }

    /// Returns whether a frame has begun that lacks at least so many bytes, for which there is room now.
    #[inline]
    pub(crate) fn lacks(&self, bytes: usize) -> bool {
        // The buffers of most messages are too small for it.
        self.bytes.capacity() > bytes && self.room_bytes() >= bytes
    }

    /// Returns room for the rest of the frame that has begun, and for a little more. What is put
    /// there joins the kept bytes by [`RecvBuffer::add`].
    pub(crate) fn room(&mut self) -> &mut [u8] {
        let bytes = self.room_bytes();
        if bytes == 0 {
            return &mut [];
        }
        let start = self.end as usize;
        let end = self.bytes.capacity().min(start + bytes + BEHIND_BYTES);
        if self.bytes.len() < end {
            // Memory that was used for a frame as long as this one before is not cleared again.
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[start..end]
    }

    /// Adds the first bytes of the [room](RecvBuffer::room) to those that are kept.
    pub(crate) fn add(&mut self, bytes: usize) {
        let room = self.bytes.len() - self.end as usize;
        self.end += bytes.min(room) as u32;
        self.check();
    }

    /// The bytes that the frame lacks, as far as the buffer has room for them.
    fn room_bytes(&self) -> usize {
        match frame::decode(self.unread(), usize::MAX) {
            Frame::Partial { frame_bytes } if self.start == 0 => {
                frame_bytes.min(self.bytes.capacity()) - self.len()
            }
            _ => 0,
        }
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.end as usize]
    }

    fn consume(&mut self, bytes: usize, pool: &mut BufferPool) {
        self.start += bytes as u32;
        self.check();
        if self.start == self.end {
            self.release(pool);
        }
    }

    /// Keeps `chunk` behind the bytes that are here. `expected` is the length that all of them may
    /// reach. The buffer grows with the bytes that have arrived, never with what a length prefix
    /// promises.
    fn append(&mut self, chunk: &[u8], expected: usize, pool: &mut BufferPool) {
        let kept = self.len();
        let needed = kept + chunk.len();
        if self.start > 0 || self.bytes.capacity() < needed {
            let earned = match needed {
                0..MUCH_BYTES => 0,
                _ if expected <= GRANT_BYTES + GRANT_BYTES / EXCESS_PARTS => expected,
                _ => GRANT_BYTES,
            };
            let room = needed.max(expected.min(earned.max(needed.saturating_mul(2))));
            let mut grown = Self { bytes: pool.take_used(room), start: 0, end: 0 };
            if kept > 0 {
                grown.write(self.unread());
                self.release(pool);
            }
            *self = grown;
        }
        self.write(chunk);
        self.check();
    }

    /// Copies the bytes behind those that are here.
    #[inline]
    fn write(&mut self, chunk: &[u8]) {
        let end = self.end as usize;
        self.end += chunk.len() as u32;
        if end == self.bytes.len() {
            return self.bytes.extend_from_slice(chunk);
        }
        let (over, new) = chunk.split_at(chunk.len().min(self.bytes.len() - end));
        self.bytes[end..end + over.len()].copy_from_slice(over);
        self.bytes.extend_from_slice(new);
    }

    fn check(&self) {
        debug_assert!(self.start <= self.end && self.end as usize <= self.bytes.len());
    }
}

/// The next item of a connection's stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    Frame { body: &'a [u8], frame_bytes: usize },
    TooLarge { body_bytes: usize },
    Nothing,
}

/// The bytes of one turn: first those that the connection had kept, then those just read.
#[derive(Debug)]
pub(crate) struct Inbound<'a> {
    kept: RecvBuffer,
    chunk: &'a [u8],
}

impl<'a> Inbound<'a> {
    pub(crate) fn new(kept: RecvBuffer, chunk: &'a [u8]) -> Self {
        Self { kept, chunk }
    }

    /// Returns whether all bytes are processed.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.chunk.is_empty() && self.kept.is_empty()
    }

    /// The next frame, left in place: [`Inbound::consume`] moves past it.
    pub(crate) fn peek(&mut self, body_bytes_max: usize, pool: &mut BufferPool) -> Next<'_> {
        // The frame whose beginning is kept gets its header first and then its body: two rounds.
        while !self.kept.is_empty() {
            let Frame::Partial { frame_bytes } = frame::decode(self.kept.unread(), body_bytes_max)
            else {
                break;
            };
            let missing = (frame_bytes - self.kept.len()).min(self.chunk.len());
            if missing == 0 {
                return Next::Nothing;
            }
            let (head, rest) = self.chunk.split_at(missing);
            self.kept.append(head, frame_bytes, pool);
            self.chunk = rest;
        }
        let bytes = if self.kept.is_empty() { self.chunk } else { self.kept.unread() };
        match frame::decode(bytes, body_bytes_max) {
            Frame::Complete { body, frame_bytes } => Next::Frame { body, frame_bytes },
            Frame::TooLarge { body_bytes } => Next::TooLarge { body_bytes },
            Frame::Partial { .. } => Next::Nothing,
        }
    }

    pub(crate) fn consume(&mut self, frame_bytes: usize, pool: &mut BufferPool) {
        if self.kept.is_empty() {
            self.chunk = &self.chunk[frame_bytes..];
        } else {
            self.kept.consume(frame_bytes, pool);
        }
    }

    /// Returns the bytes that are not processed, to be kept for the next turn.
    pub(crate) fn finish(mut self, pool: &mut BufferPool) -> RecvBuffer {
        if !self.chunk.is_empty() {
            let expected = match frame::decode(self.chunk, usize::MAX) {
                Frame::Partial { frame_bytes } if self.kept.is_empty() => frame_bytes,
                _ => 0,
            };
            self.kept.append(self.chunk, expected, pool);
        } else if self.kept.start > 0 {
            // A short rest must not keep the large buffer in which it arrived.
            self.kept.append(&[], 0, pool);
        }
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::scanner::tests::cases;
    use proptest::prelude::*;

    fn stream(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for body in bodies {
            bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
            bytes.extend_from_slice(body);
        }
        bytes
    }

    /// Feeds the chunks, at most `budget` frames a turn, and collects the bodies.
    fn collect<'a>(
        chunks: impl IntoIterator<Item = &'a [u8]>,
        budget: usize,
        pool: &mut BufferPool,
    ) -> Vec<Vec<u8>> {
        let mut kept = RecvBuffer::default();
        let mut bodies = Vec::new();
        for chunk in chunks {
            let mut chunk = Some(chunk);
            loop {
                let mut inbound = Inbound::new(kept, chunk.take().unwrap_or_default());
                let mut taken = 0;
                while taken < budget {
                    let Next::Frame { body, frame_bytes } = inbound.peek(1 << 20, pool) else {
                        break;
                    };
                    bodies.push(body.to_vec());
                    inbound.consume(frame_bytes, pool);
                    taken += 1;
                }
                kept = inbound.finish(pool);
                if taken < budget {
                    break;
                }
            }
        }
        assert!(kept.is_empty(), "{} bytes left over", kept.len());
        bodies
    }

    #[test]
    fn every_split_in_two_gives_the_same_frames() {
        let bodies = vec![b"{}".to_vec(), vec![], vec![7; 300], b"end".to_vec()];
        let bytes = stream(&bodies);
        for at in 0..=bytes.len() {
            let mut pool = BufferPool::default();
            let (head, tail) = bytes.split_at(at);
            assert_eq!(collect([head, tail], 100, &mut pool), bodies, "split at {at}");
            assert_eq!(pool.gauge().bytes(), 0, "split at {at} leaks");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases(256)))]

        #[test]
        fn any_chunking_gives_the_same_frames(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9000), 0..12),
            chunk_bytes in 1usize..9000,
            budget in 1usize..5,
        ) {
            let bytes = stream(&bodies);
            let mut pool = BufferPool::default();
            prop_assert_eq!(&collect(bytes.chunks(chunk_bytes), budget, &mut pool), &bodies);
            prop_assert_eq!(pool.gauge().bytes(), 0);
        }
    }

    #[test]
    fn a_whole_frame_in_one_read_keeps_nothing() {
        let mut pool = BufferPool::default();
        let bytes = stream(&[b"{}".to_vec()]);
        let mut inbound = Inbound::new(RecvBuffer::default(), &bytes);
        assert_eq!(inbound.peek(16, &mut pool), Next::Frame { body: b"{}", frame_bytes: 6 });
        inbound.consume(6, &mut pool);
        assert!(inbound.finish(&mut pool).is_empty());
        assert_eq!(pool.gauge().bytes(), 0);
    }

    #[test]
    fn a_promised_length_is_not_believed() {
        let mut pool = BufferPool::default();
        let inbound = Inbound::new(RecvBuffer::default(), &[0, 0xff, 0xff, 0xff, b'x']);
        let kept = inbound.finish(&mut pool);
        assert_eq!(kept.len(), 5);
        assert!(pool.gauge().bytes() <= 4 << 10, "held {}", pool.gauge().bytes());
    }

    #[test]
    fn the_rest_of_a_long_frame_is_read_into_its_place() {
        let mut pool = BufferPool::default();
        for payload_bytes in [1 << 20, (1 << 20) + 300, 3 << 20] {
            for fill in [b'a', b'b'] {
                let body = vec![fill; payload_bytes];
                let bytes = [&stream(std::slice::from_ref(&body))[..], b"\0\0"].concat();
                let mut kept = RecvBuffer::default();
                assert!(kept.room().is_empty() && !kept.lacks(1));
                let (mut at, mut direct_bytes, mut bodies) = (0, 0, Vec::new());
                while at < bytes.len() {
                    let mut chunk = &bytes[at..bytes.len().min(at + (64 << 10))];
                    at += chunk.len();
                    if kept.lacks(64 << 10) {
                        let room = kept.room();
                        chunk = &chunk[..chunk.len().min(room.len())];
                        room[..chunk.len()].copy_from_slice(chunk);
                        kept.add(chunk.len());
                        direct_bytes += chunk.len();
                        chunk = &[];
                    }
                    let mut inbound = Inbound::new(kept, chunk);
                    while let Next::Frame { body, frame_bytes } = inbound.peek(4 << 20, &mut pool) {
                        bodies.push(body.to_vec());
                        inbound.consume(frame_bytes, &mut pool);
                    }
                    kept = inbound.finish(&mut pool);
                }
                assert!(bodies == [body], "{payload_bytes} bytes of {fill}");
                assert!(direct_bytes > payload_bytes * 3 / 4, "{direct_bytes} of {payload_bytes}");
                assert_eq!(kept.unread(), [0, 0], "what follows the frame is kept");
                kept.release(&mut pool);
                assert_eq!(pool.gauge().bytes(), 0);
            }
        }
    }

    #[test]
    fn room_is_for_an_unfinished_frame_at_the_front() {
        let mut pool = BufferPool::default();
        let whole = stream(&[b"{}".to_vec(), vec![b'x'; 1 << 20]]);
        let mut kept = RecvBuffer::default().tap(&whole[..70_000], &mut pool);
        assert!(kept.room().is_empty(), "the first frame is whole");
        kept.consume(6, &mut pool);
        assert!(kept.room().is_empty(), "the front was consumed, and the rest moves first");
        let mut kept = Inbound::new(kept, &[]).finish(&mut pool);
        let lacks = 4 + (1 << 20) - (70_000 - 6);
        assert!(kept.lacks(1) && !kept.lacks(lacks + 1));
        let room_bytes = kept.room().len();
        kept.add(usize::MAX);
        assert_eq!(kept.len(), 70_000 - 6 + room_bytes, "no more is added than there was room for");
    }

    #[test]
    fn a_rest_does_not_hold_a_large_buffer() {
        let mut pool = BufferPool::default();
        let mut bytes = stream(&vec![vec![1; 1000]; 40]);
        bytes.extend_from_slice(&[0, 0, 1]);
        let mut inbound = Inbound::new(RecvBuffer::default().tap(&bytes, &mut pool), &[]);
        while let Next::Frame { frame_bytes, .. } = inbound.peek(2000, &mut pool) {
            inbound.consume(frame_bytes, &mut pool);
        }
        assert_eq!(inbound.finish(&mut pool).len(), 3);
        assert!(pool.gauge().bytes() <= 4 << 10, "held {}", pool.gauge().bytes());
    }

    impl RecvBuffer {
        fn tap(mut self, bytes: &[u8], pool: &mut BufferPool) -> Self {
            self.append(bytes, 0, pool);
            self
        }
    }

    #[test]
    fn the_header_alone_is_noticed() {
        let mut pool = BufferPool::default();
        let header_only = Inbound::new(RecvBuffer::default(), &[0, 0, 0, 2]).finish(&mut pool);
        assert!(header_only.is_bare_header());
        let with_body = Inbound::new(RecvBuffer::default(), &[0, 0, 0, 2, b'{']).finish(&mut pool);
        assert!(!with_body.is_bare_header());
        assert!(!RecvBuffer::default().is_bare_header());
    }
}
