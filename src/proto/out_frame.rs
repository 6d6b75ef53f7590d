//! Frames on their way into queues.

use super::buffer_pool::{BufferPool, SharedFrame};
use super::encode::{self, Head};
use super::frame::HEADER_BYTES;

/// Frames up to this size are copied into each queue, larger ones are shared. A copy of a small
/// frame costs 3 ns; a shared frame costs a slice of its own in `writev`.
pub(crate) const COPY_BYTES_MAX: usize = 4 << 10;

/// A frame on its way into one or many queues, encoded once.
#[derive(Clone, Debug)]
pub(crate) struct OutFrame<'a> {
    /// The length with its prefix.
    bytes: usize,
    kind: Kind<'a>,
}

#[derive(Clone, Debug)]
enum Kind<'a> {
    /// A body that is copied into each queue behind its prefix: an id, and the bytes around it.
    Relayed([&'a [u8]; 3]),
    /// A message of this end, which is written straight into the queue.
    Own { head: &'a Head<'a>, payload: &'a [u8] },
    /// Frames with their prefixes, which are copied into each queue.
    Whole(&'a [u8]),
    /// A frame that each queue refers to.
    Shared(SharedFrame),
}

impl<'a> OutFrame<'a> {
    /// A body as it was received, to be relayed.
    pub(crate) fn relay(body: &'a [u8], pool: &mut BufferPool) -> Self {
        Self::relay_pieces([body, &[], &[]], pool)
    }

    /// A body as it was received but for an id, which is the second piece.
    pub(crate) fn relay_pieces(pieces: [&'a [u8]; 3], pool: &mut BufferPool) -> Self {
        let body_bytes = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        Self::new(HEADER_BYTES + body_bytes, Kind::Relayed(pieces), pool)
    }

    /// Whole frames as they were received, prefixes included, to be relayed together.
    pub(crate) fn relay_framed(frames: &'a [u8], pool: &mut BufferPool) -> Self {
        Self::new(frames.len(), Kind::Whole(frames), pool)
    }

    /// A message of this end, whose payload is JSON text.
    #[inline]
    pub(crate) fn own(head: &'a Head<'a>, payload: &'a [u8], pool: &mut BufferPool) -> Self {
        let body_bytes = head.body_bytes(payload.len());
        Self::new(HEADER_BYTES + body_bytes, Kind::Own { head, payload }, pool)
    }

    /// A frame of this length that a function writes, and to which each queue refers.
    pub(crate) fn written(
        bytes: usize,
        pool: &mut BufferPool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> OutFrame<'static> {
        let mut buffer = pool.take(bytes);
        write(&mut buffer);
        debug_assert_eq!(buffer.len(), bytes, "it was announced with another length");
        OutFrame::shared(pool.share(buffer))
    }

    /// A small frame that is encoded already.
    pub(crate) fn whole(frame: &'a [u8]) -> Self {
        Self { bytes: frame.len(), kind: Kind::Whole(frame) }
    }

    /// A frame that many queues may hold.
    pub(crate) fn shared(frame: SharedFrame) -> Self {
        Self { bytes: frame.bytes().len(), kind: Kind::Shared(frame) }
    }

    #[inline]
    fn new(bytes: usize, kind: Kind<'a>, pool: &mut BufferPool) -> Self {
        let frame = Self { bytes, kind };
        if bytes <= COPY_BYTES_MAX { frame } else { frame.into_shared(pool) }
    }

    #[cold]
    fn into_shared(self, pool: &mut BufferPool) -> Self {
        self.to_shared(pool)
    }

    /// The same frame, for queues that refer to it.
    pub(crate) fn to_shared(&self, pool: &mut BufferPool) -> OutFrame<'static> {
        let shared = self.as_shared().cloned().unwrap_or_else(|| {
            let mut buffer = pool.take(self.bytes);
            self.append_to(&mut buffer);
            pool.share(buffer)
        });
        OutFrame::shared(shared)
    }

    /// The same frame for one that keeps it: in memory of just its size, if it is small.
    pub(crate) fn to_kept(&self, pool: &mut BufferPool) -> SharedFrame {
        self.as_shared().cloned().unwrap_or_else(|| {
            let mut bytes = Vec::with_capacity(self.bytes);
            self.append_to(&mut bytes);
            pool.gauge().add(bytes.capacity());
            pool.share(bytes)
        })
    }

    /// The same frame for one that keeps it for long: in memory of just its size, if it is small.
    pub(crate) fn to_exact(&self, pool: &mut BufferPool) -> SharedFrame {
        match self.as_shared() {
            Some(shared) if self.bytes > COPY_BYTES_MAX => shared.clone(),
            _ => {
                let mut bytes = Vec::with_capacity(self.bytes);
                self.append_to(&mut bytes);
                pool.gauge().add(bytes.capacity());
                pool.share(bytes)
            }
        }
    }

    /// The length with its prefix.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Its bytes, if they lie in one piece.
    #[inline]
    pub(crate) fn as_bytes(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::Whole(bytes) => Some(bytes),
            Kind::Shared(frame) => Some(frame.bytes()),
            Kind::Relayed(_) | Kind::Own { .. } => None,
        }
    }

    /// The body of a single frame, if that lies in one piece.
    #[inline]
    pub(crate) fn body(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::Relayed([body, [], []]) => Some(body),
            _ => self.as_bytes().map(|bytes| &bytes[HEADER_BYTES..]),
        }
    }

    /// Gives the pool the frame back, if no queue refers to it.
    #[inline]
    pub(crate) fn recycle(self, pool: &mut BufferPool) {
        if let Kind::Shared(frame) = self.kind {
            pool.give_shared(frame);
        }
    }

    /// The shared frame, if this one is shared.
    #[inline]
    pub(crate) fn as_shared(&self) -> Option<&SharedFrame> {
        match &self.kind {
            Kind::Shared(frame) => Some(frame),
            _ => None,
        }
    }

    /// Returns the shared frame, or this one again if it is to be copied.
    pub(crate) fn into_shared_frame(self) -> Result<SharedFrame, Self> {
        match self.kind {
            Kind::Shared(frame) => Ok(frame),
            kind => Err(Self { kind, ..self }),
        }
    }

    /// Copies the frame to the end of a buffer.
    #[inline]
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        match &self.kind {
            Kind::Whole(bytes) => out.extend_from_slice(bytes),
            kind => kind.write_to(out, self.bytes - HEADER_BYTES),
        }
    }
}

impl Kind<'_> {
    fn write_to(&self, out: &mut Vec<u8>, body_bytes: usize) {
        match self {
            Self::Relayed([before, id, behind]) => {
                out.extend_from_slice(&(body_bytes as u32).to_be_bytes());
                out.extend_from_slice(before);
                encode::append_id(out, id);
                out.extend_from_slice(behind);
            }
            Self::Own { head, payload } => encode::text_frame(out, head, payload, body_bytes),
            Self::Whole(bytes) => out.extend_from_slice(bytes),
            Self::Shared(frame) => out.extend_from_slice(frame.bytes()),
        }
    }
}
