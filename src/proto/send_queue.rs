//! The bytes that a connection is still to be sent.

use std::collections::VecDeque;

use super::buffer_pool::{BufferPool, SharedFrame};
use super::out_frame::{COPY_BYTES_MAX, OutFrame};

/// The largest buffer that a queue takes for frames that are copied into it.
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// Memory that a shared frame takes in a queue behind others: a place in a list that doubles as it
/// grows.
const PLACE_BYTES: usize = 2 * size_of::<Chunk>();
/// Places that an empty queue keeps at most.
const PLACES_KEPT_MAX: usize = 32;

/// Encoded frames in the order in which they are sent. A drained queue holds no buffer.
///
/// The queue does not bound itself. The broker compares [`SendQueue::len`] with the high-water mark,
/// because the broker decides about slow consumers.
///
/// Invariant: no chunk is empty, `sent` is below the length of `front` (or zero without one),
/// `more` is empty without one, and `bytes` is the sum of all chunks less `sent`.
///
/// ```
/// let queue = ipc_framework::proto::SendQueue::default();
/// assert!(queue.is_empty() && queue.slices().next().is_none());
/// ```
#[derive(Debug, Default)]
pub struct SendQueue {
    /// The first chunk. In most turns there is no other.
    front: Option<Chunk>,
    /// The chunks behind the first one.
    #[expect(clippy::box_collection, reason = "most queues need one word for it")]
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
    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(frame) => frame.bytes(),
        }
    }

    #[inline]
    fn recycle(self, pool: &mut BufferPool) {
        match self {
            Self::Owned(buffer) => pool.give_small(buffer),
            Self::Shared(frame) => pool.give_shared(frame),
        }
    }
}

impl SendQueue {
    /// Bytes still to be sent.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Returns whether everything was sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The slices to hand to the kernel next, in order.
    #[inline]
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let front = self.front.as_ref().map(|front| &front.bytes()[self.sent..]);
        let more = self.more.as_ref().map(|more| more.iter()).unwrap_or_default();
        front.into_iter().chain(more.map(Chunk::bytes))
    }

    /// All bytes still to be sent, if they lie in one piece, as they do in most turns.
    #[inline]
    pub fn only_slice(&self) -> Option<&[u8]> {
        let front = self.front.as_ref()?;
        self.is_front_last().then(|| &front.bytes()[self.sent..])
    }

    #[expect(clippy::inline_always, reason = "each delivery passes here")]
    #[inline(always)]
    pub(crate) fn push(&mut self, frame: &OutFrame<'_>, pool: &mut BufferPool) {
        if self.front.is_some() {
            self.push_behind(frame, pool);
        } else if let Some(shared) = frame.as_shared() {
            self.front = Some(Chunk::Shared(shared.clone()));
        } else {
            let mut buffer = pool.take_small(frame.len());
            frame.append_to(&mut buffer);
            self.front = Some(Chunk::Owned(buffer));
        }
        self.bytes += frame.len();
        self.check();
    }

    /// Adds a frame behind the others. A small one is copied even if it is shared: what lies in one
    /// piece is sent quicker.
    fn push_behind(&mut self, frame: &OutFrame<'_>, pool: &mut BufferPool) {
        let bytes = frame.len();
        if let Some(shared) = frame.as_shared().filter(|_| bytes > COPY_BYTES_MAX) {
            pool.gauge().add(PLACE_BYTES);
            return self.push_chunk(Chunk::Shared(shared.clone()));
        }
        let back = self.more.as_mut().and_then(|more| more.back_mut()).or(self.front.as_mut());
        if let Some(back) = back {
            match back {
                Chunk::Owned(tail) if tail.capacity() - tail.len() >= bytes => {
                    return frame.append_to(tail);
                }
                Chunk::Shared(small) if small.bytes().len() <= COPY_BYTES_MAX => {
                    let mut buffer = pool.take(small.bytes().len() + bytes);
                    buffer.extend_from_slice(small.bytes());
                    frame.append_to(&mut buffer);
                    return std::mem::replace(back, Chunk::Owned(buffer)).recycle(pool);
                }
                _ => {}
            }
        }
        // A queue that keeps growing takes larger buffers, each as large as all before it, so that
        // a few errors to a connection before its handshake do not take a large one.
        let mut buffer = pool.take(bytes.max(self.bytes.min(CHUNK_BYTES_MAX)));
        frame.append_to(&mut buffer);
        self.push_chunk(Chunk::Owned(buffer));
    }

    fn push_chunk(&mut self, chunk: Chunk) {
        self.more.get_or_insert_default().push_back(chunk);
    }

    /// Removes `bytes` from the front: the kernel took them.
    #[inline]
    pub(crate) fn advance(&mut self, bytes: usize, pool: &mut BufferPool) {
        self.bytes -= bytes;
        if self.bytes > 0 || !self.is_front_last() {
            self.sent += bytes;
            self.drop_sent(pool);
        } else {
            self.sent = 0;
            if let Some(front) = self.front.take() {
                front.recycle(pool);
            }
        }
        self.check();
    }

    /// Removes the chunks that were sent.
    fn drop_sent(&mut self, pool: &mut BufferPool) {
        while let Some(length) = self.front.as_ref().map(|front| front.bytes().len())
            && self.sent >= length
        {
            self.sent -= length;
            if let Some(front) = self.front.take() {
                front.recycle(pool);
            }
            self.front = self.pop_behind(pool);
        }
        if let (None, Some(more)) = (&self.front, &mut self.more) {
            more.shrink_to(PLACES_KEPT_MAX);
        }
    }

    /// Takes out the chunk behind the first one.
    fn pop_behind(&mut self, pool: &mut BufferPool) -> Option<Chunk> {
        let chunk = self.more.as_mut()?.pop_front()?;
        if matches!(chunk, Chunk::Shared(_)) {
            pool.gauge().sub(PLACE_BYTES);
        }
        Some(chunk)
    }

    /// Drops everything.
    pub(crate) fn release(&mut self, pool: &mut BufferPool) {
        let mut queue = std::mem::take(self);
        while let Some(front) = queue.front.take() {
            front.recycle(pool);
            queue.front = queue.pop_behind(pool);
        }
    }

    #[inline]
    fn is_front_last(&self) -> bool {
        self.more.as_ref().is_none_or(|more| more.is_empty())
    }

    fn check(&self) {
        debug_assert!(self.front.is_some() || self.is_front_last());
        debug_assert!(self.slices().all(|slice| !slice.is_empty()));
        debug_assert_eq!(self.bytes, self.slices().map(<[u8]>::len).sum::<usize>());
        debug_assert!(self.bytes > 0 || self.sent == 0);
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
            queue.push(&OutFrame::whole(&[b'x'; 300]), &mut pool);
            let held = pool.gauge().bytes();
            // Each buffer is as large as all bytes before it, rounded up to a power of two.
            let fair = (8 << 10).max(3 * queue.len()).min(queue.len() + CHUNK_BYTES_MAX + 4_000);
            assert!(held <= fair, "{held} for {} bytes", queue.len());
        }
        // Later buffers are large.
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
            queue.push(&frame, &mut pool);
        }
        drop(frame);
        assert_eq!(gauge.bytes(), (112 << 10) + 10 * PLACE_BYTES);
        for queue in &mut queues[5..] {
            queue.advance(queue.len() / 2, &mut pool);
        }
        assert_eq!(gauge.bytes(), (112 << 10) + 5 * PLACE_BYTES);
        for queue in &mut queues {
            queue.release(&mut pool);
        }
        assert_eq!(gauge.bytes(), 0);
    }

    #[test]
    fn a_small_frame_is_shared_by_queues_that_hold_nothing_else() {
        let mut pool = BufferPool::default();
        let gauge = pool.gauge().clone();
        let frame = OutFrame::relay(b"small", &mut pool).to_shared(&mut pool);
        let held_bytes = gauge.bytes();
        let mut queues: Vec<SendQueue> = (0..10).map(|_| SendQueue::default()).collect();
        for queue in &mut queues {
            queue.push(&frame, &mut pool);
        }
        drop(frame);
        assert_eq!(gauge.bytes(), held_bytes);
        let mut last = queues.pop().unwrap();
        last.advance(6, &mut pool);
        last.push(&OutFrame::whole(b"behind it"), &mut pool);
        assert_eq!(last.only_slice(), Some(&b"allbehind it"[..]));
        last.release(&mut pool);
        for queue in &mut queues {
            queue.advance(9, &mut pool);
        }
        assert_eq!(gauge.bytes(), 0);
    }
}
