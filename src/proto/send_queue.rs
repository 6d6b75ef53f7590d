//! The bytes that a connection is still to be sent.

use std::collections::VecDeque;

use super::buffer_pool::{BufferPool, SMALLEST_BYTES};
use super::out_frame::{OutFrame, SharedFrame};

/// What is copied into a queue's tail lies in pieces of this size at most.
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// What a frame that is shared takes in each queue: its place, which doubles as it grows.
const PLACE_BYTES: usize = 2 * size_of::<Chunk>();
/// Places that an empty queue keeps.
const PLACES_KEPT_MAX: usize = 32;

/// Encoded frames in the order in which they leave. Drained, it holds no buffer.
///
/// It does not bound itself: the broker holds [`SendQueue::len`] against the high-water
/// mark, because what to do about a slow reader is the broker's to decide.
///
/// Invariant: `sent` is below the length of the first chunk (or both are zero), `first` is empty
/// only if it has no memory, and `bytes` is the sum of all chunks less `sent`.
///
/// ```
/// let queue = ipc_framework::proto::SendQueue::default();
/// assert!(queue.is_empty() && queue.slices().next().is_none());
/// ```
#[derive(Debug, Default)]
pub struct SendQueue {
    /// A small buffer with the first frames: in most turns it holds all there is.
    first: Vec<u8>,
    /// Everything behind it.
    #[expect(clippy::box_collection, reason = "most queues have none, and a word for it")]
    more: Option<Box<VecDeque<Chunk>>>,
    sent: usize,
    bytes: usize,
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

impl SendQueue {
    /// Bytes still to be sent.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether everything was sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The slices to hand to the kernel next, in order.
    #[inline]
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let first = Some(&*self.first).filter(|first| !first.is_empty());
        let mut skip = self.sent;
        first
            .into_iter()
            .chain(self.chunks().map(Chunk::bytes))
            .map(move |bytes| &bytes[std::mem::take(&mut skip)..])
    }

    /// All bytes still to be sent, if they lie in one piece: as they do in most turns.
    #[inline]
    pub fn only_slice(&self) -> Option<&[u8]> {
        let is_only = !self.first.is_empty() && self.chunks().len() == 0;
        is_only.then(|| &self.first[self.sent..])
    }

    #[inline]
    fn chunks(&self) -> std::collections::vec_deque::Iter<'_, Chunk> {
        self.more.as_ref().map(|more| more.iter()).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn push(&mut self, frame: &OutFrame<'_>, pool: &mut BufferPool) {
        let bytes = frame.len();
        let has_room = self.first.capacity() - self.first.len() >= bytes;
        let is_first = self.bytes == 0 && bytes <= SMALLEST_BYTES;
        if matches!(frame, OutFrame::Shared(_)) || !(is_first || has_room && self.is_first_last()) {
            self.push_behind(frame, pool);
        } else {
            if is_first {
                self.first = pool.take_smallest();
            }
            frame.append_to(&mut self.first);
        }
        self.bytes += bytes;
        self.check();
    }

    /// Whether nothing is behind the first buffer.
    #[inline]
    fn is_first_last(&self) -> bool {
        self.more.as_ref().is_none_or(|more| more.is_empty())
    }

    /// Puts a frame behind the first buffer.
    fn push_behind(&mut self, frame: &OutFrame<'_>, pool: &mut BufferPool) {
        let more = self.more.get_or_insert_default();
        if let OutFrame::Shared(frame) = frame {
            pool.gauge().add(PLACE_BYTES);
            more.push_back(Chunk::Shared(frame.clone()));
            return;
        }
        let bytes = frame.len();
        if let Some(Chunk::Owned(tail)) = more.back_mut()
            && tail.capacity() - tail.len() >= bytes
        {
            return frame.append_to(tail);
        }
        // A queue that goes on growing takes larger buffers, each as large as all before it, so
        // that a stranger's few errors do not take a large one.
        let mut tail = pool.take(bytes.max(self.bytes.min(CHUNK_BYTES_MAX)));
        frame.append_to(&mut tail);
        more.push_back(Chunk::Owned(tail));
    }

    /// The kernel took `bytes`.
    #[inline]
    pub(crate) fn advance(&mut self, bytes: usize, pool: &mut BufferPool) {
        self.bytes -= bytes;
        self.sent += bytes;
        if !self.first.is_empty() && self.sent >= self.first.len() {
            self.sent -= self.first.len();
            pool.give_smallest(std::mem::take(&mut self.first));
        }
        if self.first.is_empty() && self.sent > 0 {
            self.advance_behind(pool);
        }
        self.check();
    }

    fn advance_behind(&mut self, pool: &mut BufferPool) {
        let Some(more) = &mut self.more else { return };
        while let Some(length) = more.front().map(|chunk| chunk.bytes().len())
            && self.sent >= length
        {
            self.sent -= length;
            if let Some(chunk) = more.pop_front() {
                chunk.recycle(pool);
            }
        }
        if more.is_empty() {
            more.shrink_to(PLACES_KEPT_MAX);
        }
    }

    /// Drops everything.
    pub(crate) fn release(&mut self, pool: &mut BufferPool) {
        if self.first.capacity() > 0 {
            pool.give_smallest(std::mem::take(&mut self.first));
        }
        for chunk in self.more.take().into_iter().flat_map(|more| *more) {
            chunk.recycle(pool);
        }
        *self = Self::default();
    }

    fn check(&self) {
        debug_assert!(self.slices().next().is_none_or(|slice| !slice.is_empty()));
        debug_assert_eq!(self.bytes, self.slices().map(<[u8]>::len).sum::<usize>());
        debug_assert!(self.bytes > 0 || self.sent == 0);
        debug_assert!(!self.first.is_empty() || self.first.capacity() == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::out_frame::COPY_BYTES_MAX;
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

    fn places(queue: &SendQueue) -> usize {
        queue.more.as_ref().map_or(0, |more| more.capacity())
    }

    #[test]
    fn a_queue_that_was_long_does_not_stay_large() {
        let mut pool = BufferPool::default();
        let mut queue = SendQueue::default();
        let frame = OutFrame::relay(&[0; COPY_BYTES_MAX + 1], &mut pool);
        (0..1_000).for_each(|_| queue.push(&frame, &mut pool));
        queue.advance(queue.len(), &mut pool);
        assert!(places(&queue) <= 2 * PLACES_KEPT_MAX, "{}", places(&queue));
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
