//! Buffers that connections borrow while they have something unfinished.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the bytes that all queues and unfinished frames of a server hold together.
///
/// Shared payloads are counted once, however many queues they stand in. Clones
/// count into the same sum.
///
/// ```
/// assert_eq!(ipc_framework::proto::MemoryGauge::default().bytes(), 0);
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryGauge(Arc<AtomicUsize>);

impl MemoryGauge {
    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Capacity of the buffers that hold a few small frames: most of what is ever unfinished.
const SMALL_BYTES: usize = 4 << 10;
/// Capacity of the buffers that longer queues are made of. Beyond, capacities double, for a
/// frame of its own each.
const LARGE_BYTES: usize = 64 << 10;
/// Capacities beyond [`LARGE_BYTES`] that are kept: up to twice the largest usual frame.
const HUGE_CLASSES: usize = 9;
/// Free bytes kept in small and large buffers: a turn that sends to 2,000 connections.
const FREE_BYTES_MAX: usize = 8 << 20;
/// Free bytes kept in buffers beyond. The system would map and clear them anew each time,
/// which costs more than the frame itself.
const FREE_HUGE_BYTES_MAX: usize = 16 << 20;

/// Keeps freed buffers so that steady traffic allocates nothing.
///
/// Invariant: every buffer inside is empty, its capacity is exactly its class's, and `bytes`
/// is the sum of the capacities.
#[derive(Debug, Default)]
pub struct BufferPool {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    bytes: usize,
    huge: [Vec<Vec<u8>>; HUGE_CLASSES],
    huge_bytes: usize,
    gauge: MemoryGauge,
}

/// The capacity that a buffer for `bytes` gets.
fn class_bytes(bytes: usize) -> usize {
    if bytes <= SMALL_BYTES {
        SMALL_BYTES
    } else if bytes <= LARGE_BYTES {
        LARGE_BYTES
    } else {
        bytes.checked_next_power_of_two().unwrap_or(bytes)
    }
}

impl BufferPool {
    pub(crate) fn gauge(&self) -> &MemoryGauge {
        &self.gauge
    }

    /// An empty buffer with room for `bytes` at least, counted as held until given back.
    pub(crate) fn take(&mut self, bytes: usize) -> Vec<u8> {
        let capacity = class_bytes(bytes);
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
        buffer.clear();
        if let Some((free, held, held_max)) = self.class(capacity)
            && *held + capacity <= held_max
        {
            *held += capacity;
            free.push(buffer);
        }
    }

    /// The free buffers of exactly this capacity, with the bytes kept in them and their like,
    /// and how many that may be.
    fn class(&mut self, capacity: usize) -> Option<(&mut Vec<Vec<u8>>, &mut usize, usize)> {
        match capacity {
            SMALL_BYTES => Some((&mut self.small, &mut self.bytes, FREE_BYTES_MAX)),
            LARGE_BYTES => Some((&mut self.large, &mut self.bytes, FREE_BYTES_MAX)),
            _ if capacity > LARGE_BYTES && capacity.is_power_of_two() => {
                let at = (capacity / LARGE_BYTES).ilog2() as usize - 1;
                let free = self.huge.get_mut(at)?;
                Some((free, &mut self.huge_bytes, FREE_HUGE_BYTES_MAX))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_handed_out_again_and_the_sum_is_zero() {
        let mut pool = BufferPool::default();
        let mut buffer = pool.take(100);
        assert_eq!(pool.gauge().bytes(), SMALL_BYTES);
        buffer.extend_from_slice(b"abc");
        let address = buffer.as_ptr();
        pool.give(buffer);
        assert_eq!(pool.gauge().bytes(), 0);
        let again = pool.take(1);
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), address);
    }

    #[test]
    fn what_is_kept_is_bounded_and_small_ones_leave_room_for_huge_ones() {
        let mut pool = BufferPool::default();
        for bytes in [1, LARGE_BYTES, LARGE_BYTES + 1, 1 << 20, FREE_HUGE_BYTES_MAX + 1] {
            let taken: Vec<_> =
                (0..FREE_HUGE_BYTES_MAX / SMALL_BYTES).map(|_| pool.take(bytes)).collect();
            for buffer in taken {
                pool.give(buffer);
            }
        }
        assert_eq!((pool.bytes, pool.huge_bytes), (FREE_BYTES_MAX, FREE_HUGE_BYTES_MAX));
        assert_eq!(pool.gauge().bytes(), 0);
        let kept: usize = pool.huge.iter().flatten().map(Vec::capacity).sum();
        assert_eq!(kept, pool.huge_bytes);
        let mut pool = BufferPool::default();
        let frame = pool.take(1 << 20);
        let address = frame.as_ptr();
        pool.give(frame);
        let again = pool.take((1 << 20) - 5);
        assert_eq!(again.as_ptr(), address);
    }
}
