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
/// Capacity from which on a buffer is worth its own system call and is not kept.
const LARGE_BYTES: usize = 64 << 10;
/// Free buffers kept of each size: enough for a burst of connections, 4 MiB in all.
const FREE_MAX: usize = 64;

/// Keeps freed buffers of two sizes so that steady traffic allocates nothing.
///
/// Invariant: every buffer inside is empty and its capacity is exactly its class's.
#[derive(Debug, Default)]
pub struct BufferPool {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    gauge: MemoryGauge,
}

impl BufferPool {
    pub(crate) fn gauge(&self) -> &MemoryGauge {
        &self.gauge
    }

    /// An empty buffer with room for `bytes` at least, counted as held until given back.
    pub(crate) fn take(&mut self, bytes: usize) -> Vec<u8> {
        let buffer = if bytes <= SMALL_BYTES {
            self.small.pop().unwrap_or_else(|| Vec::with_capacity(SMALL_BYTES))
        } else if bytes <= LARGE_BYTES {
            self.large.pop().unwrap_or_else(|| Vec::with_capacity(LARGE_BYTES))
        } else {
            Vec::with_capacity(bytes)
        };
        self.gauge.add(buffer.capacity());
        buffer
    }

    pub(crate) fn give(&mut self, mut buffer: Vec<u8>) {
        self.gauge.sub(buffer.capacity());
        buffer.clear();
        let class = match buffer.capacity() {
            SMALL_BYTES => &mut self.small,
            LARGE_BYTES => &mut self.large,
            _ => return,
        };
        if class.len() < FREE_MAX {
            class.push(buffer);
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
    fn what_is_kept_is_bounded() {
        let mut pool = BufferPool::default();
        let taken: Vec<_> = (0..FREE_MAX * 2).map(|_| pool.take(LARGE_BYTES)).collect();
        for buffer in taken {
            pool.give(buffer);
        }
        assert_eq!(pool.large.len(), FREE_MAX);
        let huge = pool.take(LARGE_BYTES + 1);
        pool.give(huge);
        assert_eq!(pool.gauge().bytes(), 0);
    }
}
