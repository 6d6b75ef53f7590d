//! Buffers that connections borrow while they have unfinished frames or unsent bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the bytes that all queues and unfinished frames of a server hold together.
///
/// A frame that many queues share is counted once. Clones count into the same sum.
///
/// Nothing outside of this crate can change the sum. It is written without locked instructions, so
/// everything that is counted by one gauge (its pool, the queues, and each frame that they share)
/// has to be on one thread at a time. A broker owns all of its own and never hands one out, and
/// moves to another thread as a whole.
///
/// ```
/// assert_eq!(ipc_framework::proto::MemoryGauge::default().bytes(), 0);
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryGauge(Arc<AtomicUsize>);

impl MemoryGauge {
    /// Bytes held now.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn add(&self, bytes: usize) {
        self.set(self.bytes() + bytes);
    }

    #[inline]
    pub(crate) fn sub(&self, bytes: usize) {
        debug_assert!(self.bytes() >= bytes, "two threads count at once, or bytes count twice");
        self.set(self.bytes() - bytes);
    }

    /// No other thread writes between a load and its store, see above. It is an atomic so that a
    /// broker can move to another thread.
    #[inline]
    fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

/// Capacity of the smallest buffers. They hold a few small frames, which is all that most
/// connections need. Capacities double from here.
const SMALLEST_BYTES: usize = 4 << 10;
/// Capacity up to which a buffer counts as small.
const SMALL_BYTES_MAX: usize = 64 << 10;
const ABOVE_SMALL: usize = SMALL_BYTES_MAX + 1;
/// Capacity of the largest buffers that are kept. A larger buffer has just the size asked for.
const LARGEST_BYTES: usize = 16 << 20;
/// Capacities of large buffers within each doubling: a frame of a little more than 1 MiB takes
/// 1.25 MiB and not 2.
const STEPS: usize = 4;
const SMALL_CLASSES: usize = (SMALL_BYTES_MAX / SMALLEST_BYTES).ilog2() as usize + 1;
const LARGE_CLASSES: usize = STEPS * (LARGEST_BYTES / SMALL_BYTES_MAX).ilog2() as usize;
const CLASSES: usize = SMALL_CLASSES + LARGE_CLASSES;
/// Free bytes kept in small buffers: enough for a turn that sends to 2,000 connections.
const FREE_SMALL_BYTES_MAX: usize = 8 << 20;
/// Free bytes kept in larger buffers. Without them the system would map and clear such memory for
/// each large frame, which costs more than the frame itself.
const FREE_LARGE_BYTES_MAX: usize = 16 << 20;
/// Counters of shared frames that are kept for the next ones. Each takes some fifty bytes.
const FREE_SHARED_MAX: usize = 64;

/// Keeps freed buffers so that steady traffic allocates nothing.
///
/// Invariant: every buffer in the pool has exactly the capacity of its class, small ones are empty, and
/// the two sums of capacities are right and within their bounds. A large one keeps the bytes that it
/// held, so that whoever fills it anew does not clear it first.
#[derive(Debug)]
pub struct BufferPool {
    free: [Vec<Vec<u8>>; CLASSES],
    free_small_bytes: usize,
    free_large_bytes: usize,
    /// Shared frames without a buffer.
    free_shared: Vec<SharedFrame>,
    gauge: MemoryGauge,
}

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
    /// A frame in a buffer that is not counted yet.
    pub(crate) fn new(bytes: Vec<u8>, gauge: &MemoryGauge) -> Self {
        gauge.add(bytes.capacity());
        Self(Arc::new(SharedBytes { bytes, gauge: gauge.clone() }))
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Returns the memory of its bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.0.bytes.capacity()
    }
}

impl BufferPool {
    pub(crate) fn gauge(&self) -> &MemoryGauge {
        &self.gauge
    }

    /// The bytes of memory in free buffers.
    pub(crate) fn free_bytes(&self) -> usize {
        self.free_small_bytes + self.free_large_bytes
    }

    /// Gives all free buffers back to the system.
    pub(crate) fn trim(&mut self) {
        self.free = NONE_FREE;
        (self.free_small_bytes, self.free_large_bytes) = (0, 0);
    }

    /// Does what [`take`](Self::take) does, and is quicker if the smallest size will do.
    #[expect(clippy::inline_always, reason = "each delivery passes here")]
    #[inline(always)]
    pub(crate) fn take_small(&mut self, bytes: usize) -> Vec<u8> {
        if bytes > SMALLEST_BYTES {
            return self.take(bytes);
        }
        let Some(buffer) = self.free[0].pop() else { return self.take(bytes) };
        self.free_small_bytes -= SMALLEST_BYTES;
        self.gauge.add(SMALLEST_BYTES);
        buffer
    }

    /// Does what [`give`](Self::give) does, and is quicker for a buffer of the smallest size.
    #[inline]
    pub(super) fn give_small(&mut self, mut buffer: Vec<u8>) {
        let is_kept = buffer.capacity() == SMALLEST_BYTES
            && self.free_small_bytes + SMALLEST_BYTES <= FREE_SMALL_BYTES_MAX;
        if !is_kept {
            return self.give(buffer);
        }
        self.gauge.sub(SMALLEST_BYTES);
        buffer.clear();
        self.free_small_bytes += SMALLEST_BYTES;
        self.free[0].push(buffer);
    }

    /// Returns an empty buffer with room for at least `bytes`. It counts as held until it is given
    /// back.
    pub(crate) fn take(&mut self, bytes: usize) -> Vec<u8> {
        let mut buffer = self.take_used(bytes);
        buffer.clear();
        buffer
    }

    /// Does the same, but a large buffer may hold bytes of its last use.
    pub(super) fn take_used(&mut self, bytes: usize) -> Vec<u8> {
        let capacity = match bytes {
            ..=SMALL_BYTES_MAX => bytes.max(SMALLEST_BYTES).next_power_of_two(),
            ABOVE_SMALL..=LARGEST_BYTES => bytes.next_multiple_of(step(bytes)),
            _ => bytes,
        };
        let free = self.class(capacity).and_then(|(free, held, _)| {
            let buffer = free.pop()?;
            *held -= capacity;
            Some(buffer)
        });
        let buffer = free.unwrap_or_else(|| Vec::with_capacity(capacity));
        self.gauge.add(buffer.capacity());
        buffer
    }

    pub(crate) fn give(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        self.gauge.sub(capacity);
        if capacity <= SMALL_BYTES_MAX {
            buffer.clear();
        }
        if let Some((free, held, held_max)) = self.class(capacity)
            && *held + capacity <= held_max
        {
            *held += capacity;
            free.push(buffer);
        }
    }

    /// Has queues hold the frame in a buffer that was taken from the pool.
    pub(crate) fn share(&mut self, bytes: Vec<u8>) -> SharedFrame {
        if let Some(mut free) = self.free_shared.pop()
            && let Some(shared) = Arc::get_mut(&mut free.0)
        {
            shared.bytes = bytes;
            return free;
        }
        SharedFrame(Arc::new(SharedBytes { bytes, gauge: self.gauge.clone() }))
    }

    /// Drops a reference to a frame, and takes the buffer back if it was the last one.
    #[inline]
    pub(crate) fn give_shared(&mut self, frame: SharedFrame) {
        // Cheaper than to ask for the only reference, which nearly none is.
        if Arc::strong_count(&frame.0) == 1 {
            self.give_last(frame);
        }
    }

    fn give_last(&mut self, mut frame: SharedFrame) {
        let Some(shared) = Arc::get_mut(&mut frame.0) else { return };
        let bytes = std::mem::take(&mut shared.bytes);
        self.give(bytes);
        if self.free_shared.len() < FREE_SHARED_MAX {
            self.free_shared.push(frame);
        }
    }

    /// The free buffers of exactly this capacity, the bytes kept in buffers of their kind (small or
    /// large), and the bound of those bytes.
    fn class(&mut self, capacity: usize) -> Option<(&mut Vec<Vec<u8>>, &mut usize, usize)> {
        if capacity <= SMALL_BYTES_MAX {
            if !capacity.is_power_of_two() || capacity < SMALLEST_BYTES {
                return None;
            }
            let free = &mut self.free[(capacity / SMALLEST_BYTES).ilog2() as usize];
            return Some((free, &mut self.free_small_bytes, FREE_SMALL_BYTES_MAX));
        }
        let step = step(capacity);
        if !capacity.is_multiple_of(step) {
            return None;
        }
        let doublings = (step * STEPS / SMALL_BYTES_MAX).ilog2() as usize;
        // The first one of a doubling has one step more than the capacity that it begins with.
        let at = SMALL_CLASSES + STEPS * doublings + capacity / step - STEPS - 1;
        let free = self.free.get_mut(at)?;
        Some((free, &mut self.free_large_bytes, FREE_LARGE_BYTES_MAX))
    }
}

const NONE_FREE: [Vec<Vec<u8>>; CLASSES] = [const { Vec::new() }; CLASSES];

impl Default for BufferPool {
    fn default() -> Self {
        Self {
            free: NONE_FREE,
            free_small_bytes: 0,
            free_large_bytes: 0,
            free_shared: Vec::new(),
            gauge: MemoryGauge::default(),
        }
    }
}

/// The distance between the capacities of large buffers around this size.
fn step(bytes: usize) -> usize {
    bytes.next_power_of_two() / 2 / STEPS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_handed_out_again_and_the_sum_is_zero() {
        let mut pool = BufferPool::default();
        let mut buffer = pool.take(100);
        assert_eq!(pool.gauge().bytes(), SMALLEST_BYTES);
        buffer.extend_from_slice(b"abc");
        let address = buffer.as_ptr();
        pool.give(buffer);
        assert_eq!(pool.gauge().bytes(), 0);
        let again = pool.take(1);
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), address);
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes 64 GiB of address space, which Miri would fill")]
    fn what_is_kept_is_bounded_and_small_ones_leave_room_for_large_ones() {
        let mut pool = BufferPool::default();
        for bytes in [1, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1, 1 << 20, LARGEST_BYTES + 1] {
            let taken: Vec<_> =
                (0..FREE_LARGE_BYTES_MAX / SMALLEST_BYTES).map(|_| pool.take(bytes)).collect();
            for buffer in taken {
                pool.give(buffer);
            }
        }
        let kept = (pool.free_small_bytes, pool.free_large_bytes);
        assert_eq!(kept.0, FREE_SMALL_BYTES_MAX);
        // Buffers of another size do not fill the bound to the byte.
        let least = FREE_LARGE_BYTES_MAX - SMALL_BYTES_MAX / STEPS * (STEPS + 1);
        assert!((least + 1..=FREE_LARGE_BYTES_MAX).contains(&kept.1), "{}", kept.1);
        let capacities: usize = pool.free.iter().flatten().map(Vec::capacity).sum();
        assert_eq!(capacities, kept.0 + kept.1);
        assert_eq!(pool.gauge().bytes(), 0);

        let mut pool = BufferPool::default();
        let frame = pool.take(1 << 20);
        let address = frame.as_ptr();
        pool.give(frame);
        let again = pool.take((1 << 20) - 5);
        assert_eq!(again.as_ptr(), address);
    }

    #[test]
    fn a_large_buffer_is_at_most_a_quarter_larger_than_asked_for_and_comes_back() {
        let mut pool = BufferPool::default();
        let mut capacities = std::collections::BTreeSet::new();
        let around = |bytes: usize| [bytes - 1, bytes, bytes + 1, bytes + bytes / 8, bytes / 3 * 4];
        for bytes in (17..24).flat_map(|doublings| around(1 << doublings)) {
            let buffer = pool.take(bytes);
            let capacity = buffer.capacity();
            assert!((bytes..=bytes + bytes / 4).contains(&capacity), "{capacity} for {bytes}");
            capacities.insert(capacity);
            let address = buffer.as_ptr();
            pool.give(buffer);
            let again = pool.take(bytes);
            assert_eq!(again.as_ptr(), address, "{bytes}");
        }
        assert!(capacities.len() > 20, "{capacities:?}");
        // Each capacity has a list of its own, and nothing is handed out that is too small.
        for capacity in &capacities {
            let buffer = pool.take(*capacity);
            pool.give(buffer);
        }
        for capacity in capacities {
            assert_eq!(pool.take(capacity).capacity(), capacity);
        }
    }

    #[test]
    fn a_large_buffer_is_empty_for_whoever_does_not_ask_for_a_used_one() {
        let mut pool = BufferPool::default();
        for (bytes, used) in [(1 << 20, 3), (100, 0)] {
            let mut buffer = pool.take(bytes);
            buffer.extend_from_slice(b"old");
            pool.give(buffer);
            assert_eq!(pool.take_used(bytes).len(), used);
            let mut buffer = pool.take(bytes);
            buffer.extend_from_slice(b"old");
            pool.give(buffer);
            assert!(pool.take(bytes).is_empty());
        }
    }
}
