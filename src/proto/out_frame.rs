//! Frames on their way into queues.

use std::sync::Arc;

use super::buffer_pool::{BufferPool, MemoryGauge};
use super::encode::{self, Head};
use super::frame::HEADER_BYTES;

/// Frames up to this size are copied into a queue's tail, larger ones are shared.
/// A copy of a small frame costs 3 ns; a reference costs a slice of its own in `writev`.
pub(crate) const COPY_BYTES_MAX: usize = 4 << 10;

/// A frame on its way into one or many queues, encoded once.
#[derive(Clone, Debug)]
pub(crate) enum OutFrame<'a> {
    /// Copied into each queue: a length prefix, and these pieces of its body.
    Relayed { body_bytes: usize, pieces: [&'a [u8]; 3] },
    /// Written straight into the queue: a message of this end.
    Own { body_bytes: usize, head: Head<'a>, payload: &'a [u8] },
    /// Copied into each queue, prefixes included.
    Whole(&'a [u8]),
    /// Referred to by each queue.
    Shared(SharedFrame),
}

impl<'a> OutFrame<'a> {
    /// A body as it was received, to be relayed.
    pub(crate) fn relay(body: &'a [u8], pool: &mut BufferPool) -> Self {
        Self::relay_pieces([body, &[], &[]], pool)
    }

    /// A body as it was received but for one piece.
    pub(crate) fn relay_pieces(pieces: [&'a [u8]; 3], pool: &mut BufferPool) -> Self {
        let body_bytes = pieces.iter().map(|piece| piece.len()).sum();
        Self::Relayed { body_bytes, pieces }.shared_if_large(pool)
    }

    /// Whole frames as they were received, prefixes included, to be relayed together.
    pub(crate) fn relay_framed(frames: &'a [u8], pool: &mut BufferPool) -> Self {
        Self::Whole(frames).shared_if_large(pool)
    }

    /// A message of this end, whose payload is JSON text.
    #[inline]
    pub(crate) fn own(head: Head<'a>, payload: &'a [u8], pool: &mut BufferPool) -> Self {
        let body_bytes = head.body_bytes(payload.len());
        Self::Own { body_bytes, head, payload }.shared_if_large(pool)
    }

    #[inline]
    fn shared_if_large(self, pool: &mut BufferPool) -> Self {
        if self.len() <= COPY_BYTES_MAX { self } else { self.shared(pool) }
    }

    #[cold]
    fn shared(self, pool: &mut BufferPool) -> Self {
        let mut bytes = pool.take(self.len());
        self.append_to(&mut bytes);
        Self::Shared(SharedFrame::pooled(bytes, pool.gauge()))
    }

    /// The length with its prefix.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Relayed { body_bytes, .. } | Self::Own { body_bytes, .. } => {
                HEADER_BYTES + body_bytes
            }
            Self::Whole(bytes) => bytes.len(),
            Self::Shared(frame) => frame.bytes().len(),
        }
    }

    /// Copies the frame to the end of a buffer.
    #[inline]
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Relayed { body_bytes, pieces: [first, rest @ ..] } => {
                out.extend_from_slice(&(*body_bytes as u32).to_be_bytes());
                out.extend_from_slice(first);
                for piece in rest.iter().filter(|piece| !piece.is_empty()) {
                    out.extend_from_slice(piece);
                }
            }
            Self::Own { body_bytes, head, payload } => {
                encode::text_frame(out, head, payload, *body_bytes);
            }
            Self::Whole(bytes) => out.extend_from_slice(bytes),
            Self::Shared(frame) => out.extend_from_slice(frame.bytes()),
        }
    }
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
    pub(crate) fn new(bytes: Vec<u8>, gauge: &MemoryGauge) -> Self {
        gauge.add(bytes.capacity());
        Self::pooled(bytes, gauge)
    }

    /// A frame in a buffer of the pool, where it is counted already.
    pub(super) fn pooled(bytes: Vec<u8>, gauge: &MemoryGauge) -> Self {
        Self(Arc::new(SharedBytes { bytes, gauge: gauge.clone() }))
    }

    /// Gives the buffer back if this was the last reference.
    pub(super) fn recycle(self, pool: &mut BufferPool) {
        if let Some(mut shared) = Arc::into_inner(self.0) {
            pool.give(std::mem::take(&mut shared.bytes));
        }
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }
}
