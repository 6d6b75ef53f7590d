//! Encodes messages in the server's own name: fresh ids, the time, and a buffer that is reused.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;
use uuid::Uuid;

use crate::broker::limits::SCRATCH_BYTES_KEPT;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::{
    self, BufferPool, COPY_BYTES_MAX, Defaults, Envelope, Head, MemoryGauge, Message, MessageHead,
    MessageType, OutFrame, SharedFrame, Timestamp,
};

/// The application and channel of a message, as JSON text without the quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address<'a> {
    pub(crate) app_id: &'a str,
    pub(crate) channel_id: &'a str,
}

impl<'a> Address<'a> {
    pub(crate) fn of(envelope: &Envelope<'a>) -> Self {
        Self { app_id: envelope.app_id().raw(), channel_id: envelope.channel_id().raw() }
    }
}

/// A frame that is encoded and not in any queue yet.
#[derive(Debug)]
pub(crate) enum Encoded {
    Small(Vec<u8>),
    Shared(SharedFrame),
}

impl Encoded {
    pub(crate) fn body_bytes(&self) -> usize {
        self.frame().len() - HEADER_BYTES
    }

    pub(crate) fn frame(&self) -> OutFrame<'_> {
        match self {
            Self::Small(bytes) => OutFrame::Whole(bytes),
            Self::Shared(frame) => OutFrame::Shared(frame.clone()),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Encoder {
    scratch: Vec<u8>,
    ids: ChaCha8Rng,
    timestamp: Timestamp,
}

impl Encoder {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self {
            scratch: Vec::new(),
            ids: ChaCha8Rng::from_seed(seed),
            timestamp: Timestamp::default(),
        }
    }

    /// 122 random bits of a generator that nobody outside can predict.
    pub(crate) fn fresh_id(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        self.ids.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    pub(crate) fn value<T: Serialize + ?Sized>(
        &mut self,
        gauge: &MemoryGauge,
        unix: Duration,
        address: Address<'_>,
        message_type: MessageType,
        reply_to: Option<&str>,
        payload: &T,
    ) -> Result<Encoded, serde_json::Error> {
        let mut id = Uuid::encode_buffer();
        let message_id = self.fresh_id().hyphenated().encode_lower(&mut id);
        let head = Head {
            message_id,
            app_id: address.app_id,
            channel_id: address.channel_id,
            message_type,
            timestamp: self.timestamp.text(unix),
            reply_to,
        };
        let mut out = std::mem::take(&mut self.scratch);
        proto::encode_frame(&mut out, &head, |out| serde_json::to_writer(out, payload))?;
        Ok(seal(out, gauge))
    }

    /// A message whose payload is JSON text already. An empty id or timestamp is filled in.
    pub(crate) fn text(
        &mut self,
        pool: &mut BufferPool,
        unix: Duration,
        head: Head<'_>,
        payload: &str,
    ) -> Encoded {
        let mut id = Uuid::encode_buffer();
        let message_id = match head.message_id {
            "" => self.fresh_id().hyphenated().encode_lower(&mut id),
            given => given,
        };
        let timestamp = match head.timestamp {
            "" => self.timestamp.text(unix),
            given => given,
        };
        let head = Head { message_id, timestamp, ..head };
        let frame_bytes_max = head.frame_bytes_max() + payload.len();
        let is_large = frame_bytes_max > COPY_BYTES_MAX;
        let mut out =
            if is_large { pool.take(frame_bytes_max) } else { std::mem::take(&mut self.scratch) };
        let Ok(()) = proto::encode_frame::<std::convert::Infallible>(&mut out, &head, |out| {
            out.extend_from_slice(payload.as_bytes());
            Ok(())
        });
        if is_large {
            Encoded::Shared(SharedFrame::pooled(out, pool.gauge()))
        } else {
            Encoded::Small(out)
        }
    }

    /// A message that the embedder made. An id and a timestamp that it leaves empty are filled in.
    pub(crate) fn message(
        &mut self,
        pool: &mut BufferPool,
        unix: Duration,
        message: &Message,
    ) -> Encoded {
        // `text` fills in empty fields.
        let defaults = Defaults { message_id: "", app_id: "", timestamp: "" };
        let head = MessageHead::new(message, defaults);
        self.text(pool, unix, head.borrowed(), message.payload.as_str())
    }

    /// Takes the buffer back for the next message.
    pub(crate) fn recycle(&mut self, message: Encoded) {
        if let Encoded::Small(buffer) = message
            && buffer.capacity() <= SCRATCH_BYTES_KEPT
        {
            self.scratch = buffer;
        }
    }
}

fn seal(out: Vec<u8>, gauge: &MemoryGauge) -> Encoded {
    if out.len() <= COPY_BYTES_MAX {
        Encoded::Small(out)
    } else {
        Encoded::Shared(SharedFrame::new(out, gauge))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_are_uuids() {
        let mut encoder = Encoder::new([7; 32]);
        let (first, second) = (encoder.fresh_id(), encoder.fresh_id());
        assert_ne!(first, second);
        assert_eq!(first.get_version_num(), 4);
    }
}
