//! What a connection is still to be sent.

use std::collections::VecDeque;
use std::sync::Arc;

use super::buffer_pool::{BufferPool, MemoryGauge};
use super::frame::HEADER_BYTES;

/// Frames up to this size are copied into a queue's tail, larger ones are shared.
/// A copy of a small frame costs 3 ns; a reference costs a slice of its own in `writev`.
pub(crate) const COPY_BYTES_MAX: usize = 4 << 10;

/// What is copied into a queue's tail lies in pieces of this size at most.
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// What a frame that is shared takes in each queue: its place, which doubles as it grows.
const PLACE_BYTES: usize = 2 * size_of::<Chunk>();
/// Places that an empty queue keeps.
const PLACES_KEPT_MAX: usize = 32;

/// One encoded frame that many queues may hold. Its bytes are counted once.
#[derive(Clone, Debug)]
pub(crate) struct SharedFrame(Arc<SharedBytes>);

#[derive(Debug)]
struct SharedBytes {
    bytes: Vec<u8>,
    gauge: MemoryGauge,
}

impl Drop for SharedBytes {
    fn drop(&mut self) {
        self.gauge.sub(self.bytes.capacity());
    }
}

impl SharedFrame {
    pub(crate) fn new(bytes: Vec<u8>, gauge: &MemoryGauge) -> Self {
        gauge.add(bytes.capacity());
        Self::pooled(bytes, gauge)
    }

    /// A frame in a buffer of the pool, where it is counted already.
    pub(crate) fn pooled(bytes: Vec<u8>, gauge: &MemoryGauge) -> Self {
        Self(Arc::new(SharedBytes { bytes, gauge: gauge.clone() }))
    }

    /// Gives the buffer back if this was the last who held it.
    fn recycle(self, pool: &mut BufferPool) {
        if let Some(mut shared) = Arc::into_inner(self.0) {
            pool.give(std::mem::take(&mut shared.bytes));
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// A frame on its way into one or many queues, encoded once.
#[derive(Clone, Debug)]
pub(crate) enum OutFrame<'a> {
    /// Copied into each queue: the length prefix and the body behind it.
    Small { header: [u8; HEADER_BYTES], body: &'a [u8] },
    /// Copied into each queue, prefix and body in one piece.
    Whole(&'a [u8]),
    /// Referred to by each queue.
    Shared(SharedFrame),
}

impl<'a> OutFrame<'a> {
    /// A body as it was received, to be relayed.
    pub(crate) fn relay(body: &'a [u8], pool: &mut BufferPool) -> Self {
        let header = (body.len() as u32).to_be_bytes();
        if body.len() <= COPY_BYTES_MAX {
            return Self::Small { header, body };
        }
        let mut bytes = pool.take(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(body);
        Self::Shared(SharedFrame::pooled(bytes, pool.gauge()))
    }

    /// Whole frames as they were received, prefixes included, to be relayed together.
    pub(crate) fn relay_framed(frames: &'a [u8], pool: &mut BufferPool) -> Self {
        if frames.len() <= COPY_BYTES_MAX {
            return Self::Whole(frames);
        }
        let mut bytes = pool.take(frames.len());
        bytes.extend_from_slice(frames);
        Self::Shared(SharedFrame::pooled(bytes, pool.gauge()))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Small { body, .. } => HEADER_BYTES + body.len(),
            Self::Shared(frame) => frame.bytes().len(),
        }
    }
}

#[derive(Debug)]
enum Chunk {
    Owned(Vec<u8>),
    Shared(SharedFrame),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(frame) => frame.bytes(),
        }
    }

    fn recycle(self, pool: &mut BufferPool) {
        match self {
            Self::Owned(buffer) => pool.give(buffer),
            Self::Shared(frame) => {
                pool.gauge().sub(PLACE_BYTES);
                frame.recycle(pool);
            }
        }
    }
}

/// Encoded frames in the order in which they leave. Drained, it holds no buffer.
///
/// It does not bound itself: the broker holds [`SendQueue::len`] against the high-water
/// mark, because what to do about a slow reader is the broker's to decide.
///
/// Invariant: `sent < first chunk's length` (or both zero), and `bytes` is the sum of
/// all chunks less `sent`.
///
/// ```
/// let queue = ipc_framework::proto::SendQueue::default();
/// assert!(queue.is_empty() && queue.slices().next().is_none());
/// ```
#[derive(Debug, Default)]
pub struct SendQueue {
    chunks: VecDeque<Chunk>,
    sent: usize,
    bytes: usize,
}

impl SendQueue {
    /// Bytes still to be sent.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether everything was sent.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The slices to hand to the kernel next, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().enumerate().map(|(at, chunk)| {
            let skip = if at == 0 { self.sent } else { 0 };
            &chunk.bytes()[skip..]
        })
    }

    pub(crate) fn push(&mut self, frame: &OutFrame<'_>, pool: &mut BufferPool) {
        match frame {
            OutFrame::Small { header, body } => {
                let tail = self.tail(HEADER_BYTES + body.len(), pool);
                tail.extend_from_slice(header);
                tail.extend_from_slice(body);
            }
            OutFrame::Whole(bytes) => self.tail(bytes.len(), pool).extend_from_slice(bytes),
            OutFrame::Shared(frame) => {
                pool.gauge().add(PLACE_BYTES);
                self.chunks.push_back(Chunk::Shared(frame.clone()));
            }
        }
        self.bytes += frame.len();
        self.check();
    }

    /// The kernel took `bytes`.
    pub(crate) fn advance(&mut self, bytes: usize, pool: &mut BufferPool) {
        self.bytes -= bytes;
        self.sent += bytes;
        while let Some(front) = self.chunks.front() {
            let length = front.bytes().len();
            if self.sent < length {
                break;
            }
            self.sent -= length;
            if let Some(chunk) = self.chunks.pop_front() {
                chunk.recycle(pool);
            }
            if self.chunks.is_empty() {
                self.chunks.shrink_to(PLACES_KEPT_MAX);
            }
        }
        self.check();
    }

    /// Drops everything.
    pub(crate) fn release(&mut self, pool: &mut BufferPool) {
        while let Some(chunk) = self.chunks.pop_front() {
            chunk.recycle(pool);
        }
        *self = Self::default();
    }

    /// A buffer at the end with room for `bytes`. The first one is small, for most turns
    /// answer with one frame; a queue that goes on growing takes larger ones, each as large as
    /// all before it, so that a stranger's few errors do not take a large one.
    fn tail(&mut self, bytes: usize, pool: &mut BufferPool) -> &mut Vec<u8> {
        let fits = matches!(
            self.chunks.back(),
            Some(Chunk::Owned(tail)) if tail.capacity() - tail.len() >= bytes
        );
        if !fits {
            let room = bytes.max(self.bytes.min(CHUNK_BYTES_MAX));
            self.chunks.push_back(Chunk::Owned(pool.take(room)));
        }
        match self.chunks.back_mut() {
            Some(Chunk::Owned(tail)) => tail,
            _ => unreachable!("an owned chunk was just found or pushed"),
        }
    }

    fn check(&self) {
        debug_assert!(self.chunks.front().is_none_or(|front| self.sent < front.bytes().len()));
        debug_assert!(!self.chunks.is_empty() || (self.sent == 0 && self.bytes == 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::scanner::tests::cases;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases(256)))]

        #[test]
        fn the_bytes_come_out_as_they_went_in(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9000), 1..20),
            step in 1usize..5000,
        ) {
            let mut pool = BufferPool::default();
            let gauge = pool.gauge().clone();
            let mut queue = SendQueue::default();
            let mut expected = Vec::new();
            for body in &bodies {
                let frame = OutFrame::relay(body, &mut pool);
                queue.push(&frame, &mut pool);
                expected.extend_from_slice(&(body.len() as u32).to_be_bytes());
                expected.extend_from_slice(body);
            }
            prop_assert_eq!(queue.len(), expected.len());
            let mut sent = Vec::new();
            while !queue.is_empty() {
                let taken: Vec<u8> = queue.slices().flatten().copied().take(step).collect();
                queue.advance(taken.len(), &mut pool);
                sent.extend_from_slice(&taken);
            }
            prop_assert_eq!(sent, expected);
            prop_assert_eq!(gauge.bytes(), 0);
        }
    }

    #[test]
    fn a_queue_takes_memory_as_it_grows_and_not_before() {
        let mut pool = BufferPool::default();
        let mut queue = SendQueue::default();
        for _ in 0..2_000 {
            queue.push(&OutFrame::Whole(&[b'x'; 300]), &mut pool);
            let held = pool.gauge().bytes();
            // Each piece is as large as what was there, rounded up to a power of two.
            let fair = (8 << 10).max(3 * queue.len()).min(queue.len() + CHUNK_BYTES_MAX + 4_000);
            assert!(held <= fair, "{held} for {} bytes", queue.len());
        }
        // Pieces that are large once the queue is.
        assert!(queue.slices().count() < 16, "{} pieces", queue.slices().count());
    }

    #[test]
    fn a_queue_that_was_long_does_not_stay_large() {
        let mut pool = BufferPool::default();
        let mut queue = SendQueue::default();
        let frame = OutFrame::relay(&[0; COPY_BYTES_MAX + 1], &mut pool);
        (0..1_000).for_each(|_| queue.push(&frame, &mut pool));
        queue.advance(queue.len(), &mut pool);
        assert!(queue.chunks.capacity() <= 2 * PLACES_KEPT_MAX, "{}", queue.chunks.capacity());
    }

    #[test]
    fn a_large_frame_is_held_once_by_many_queues() {
        let mut pool = BufferPool::default();
        let gauge = pool.gauge().clone();
        let body = vec![0; 100_000];
        let frame = OutFrame::relay(&body, &mut pool);
        let mut queues: Vec<SendQueue> = (0..10).map(|_| SendQueue::default()).collect();
        for queue in &mut queues {
            queue.push(&frame, &mut pool);
        }
        drop(frame);
        assert_eq!(gauge.bytes(), (128 << 10) + 10 * PLACE_BYTES);
        for queue in &mut queues {
            queue.release(&mut pool);
        }
        assert_eq!(gauge.bytes(), 0);
    }
}
