//! Encodes messages of the server itself, with new ids and the time, in a buffer that is reused.

use std::time::Duration;

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use serde::Serialize;
use uuid::Uuid;

use crate::broker::limits::SCRATCH_BYTES_KEPT;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::{
    self, BufferPool, COPY_BYTES_MAX, Defaults, Envelope, Head, Json, MemoryGauge, Message,
    MessageHead, MessageType, OutFrame, SharedFrame, Stamp, Stamps, ValueError,
};

/// The length of the name of a history.
pub(crate) const EPOCH_BYTES: usize = 12;

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

/// An encoded frame that is not in any queue yet.
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
            Self::Small(bytes) => OutFrame::whole(bytes),
            Self::Shared(frame) => OutFrame::shared(frame.clone()),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Encoder {
    scratch: Vec<u8>,
    stamps: Stamps,
    secrets: ChaCha8Rng,
}

impl Encoder {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let mut secrets = ChaCha8Rng::from_seed(seed);
        let mut prefix = [0; 9];
        secrets.fill_bytes(&mut prefix);
        Self { scratch: Vec::new(), stamps: Stamps::new(prefix), secrets }
    }

    /// Returns 122 random bits of a generator that peers cannot predict.
    pub(crate) fn secret_id(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        self.secrets.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// Returns a new name for a history, which no other one is likely to have.
    pub(crate) fn epoch(&mut self) -> [u8; EPOCH_BYTES] {
        let mut text = [0; uuid::fmt::Simple::LENGTH];
        self.secret_id().simple().encode_lower(&mut text);
        let mut epoch = [0; EPOCH_BYTES];
        epoch.copy_from_slice(&text[..EPOCH_BYTES]);
        epoch
    }

    /// Returns the id and the time of a message of the server itself. Such an id is not secret.
    #[inline]
    pub(crate) fn stamp(&mut self, unix: Duration) -> Stamp {
        self.stamps.next(unix)
    }

    /// Encodes a message whose payload is a value of the server's own, which has nothing that JSON
    /// cannot express.
    pub(crate) fn own_value<T: Serialize + ?Sized>(
        &mut self,
        gauge: &MemoryGauge,
        unix: Duration,
        address: Address<'_>,
        message_type: MessageType,
        reply_to: Option<&[u8]>,
        payload: &T,
    ) -> Result<Encoded, serde_json::Error> {
        let write = |out: &mut Vec<u8>| serde_json::to_writer(out, payload);
        self.written(gauge, unix, address, message_type, reply_to, write)
    }

    /// Encodes a message whose payload is a value of the embedder. One with attachments is not encoded, because
    /// its receiver decides on its form: `Err` is its payload.
    pub(crate) fn value<T: Serialize + ?Sized>(
        &mut self,
        gauge: &MemoryGauge,
        unix: Duration,
        address: Address<'_>,
        message_type: MessageType,
        reply_to: Option<&[u8]>,
        payload: &T,
    ) -> Result<Result<Encoded, Json<'static>>, ValueError> {
        let mut attached = None;
        let write = |out: &mut Vec<u8>| {
            let start = out.len();
            if let Some(carried) = proto::append_value(out, payload)? {
                attached = Some(Json::written(&out[start..], carried));
            }
            Ok(())
        };
        let encoded = self.written(gauge, unix, address, message_type, reply_to, write)?;
        Ok(match attached {
            None => Ok(encoded),
            Some(payload) => {
                self.recycle(encoded);
                Err(payload)
            }
        })
    }

    #[inline]
    fn written<E>(
        &mut self,
        gauge: &MemoryGauge,
        unix: Duration,
        address: Address<'_>,
        message_type: MessageType,
        reply_to: Option<&[u8]>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Encoded, E> {
        let stamp = self.stamps.next(unix);
        let head = Head {
            message_id: stamp.id(),
            app_id: address.app_id,
            channel_id: address.channel_id,
            message_type,
            timestamp: stamp.time(),
            reply_to,
            meta: None,
        };
        let mut out = self.take_scratch();
        match proto::encode_frame(&mut out, &head, write) {
            Ok(()) => Ok(seal(out, gauge)),
            Err(error) => {
                self.recycle(Encoded::Small(out));
                Err(error)
            }
        }
    }

    /// Encodes a message whose payload is JSON text.
    pub(crate) fn text(
        &mut self,
        pool: &mut BufferPool,
        head: &Head<'_>,
        payload: &str,
    ) -> Encoded {
        match OutFrame::own(head, payload.as_bytes(), pool).into_shared_frame() {
            Ok(frame) => Encoded::Shared(frame),
            Err(small) => {
                let mut out = self.take_scratch();
                small.append_to(&mut out);
                Encoded::Small(out)
            }
        }
    }

    /// Encodes a message of the embedder. An id and a timestamp that it leaves empty are filled in.
    pub(crate) fn message(
        &mut self,
        pool: &mut BufferPool,
        unix: Duration,
        message: &Message,
    ) -> Encoded {
        let stamp = self.stamps.next(unix);
        let head = head_of(message, &stamp);
        self.text(pool, &head.borrowed(), message.payload.as_str())
    }

    fn take_scratch(&mut self) -> Vec<u8> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch
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

/// Returns the head of a message of the embedder. The stamp fills in what it leaves empty.
pub(crate) fn head_of<'a>(message: &'a Message, stamp: &'a Stamp) -> MessageHead<'a> {
    let defaults = Defaults { message_id: stamp.id(), app_id: "", timestamp: stamp.time() };
    MessageHead::new(message, defaults)
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
    fn secret_ids_differ_and_are_uuids() {
        let mut encoder = Encoder::new([7; 32]);
        let (first, second) = (encoder.secret_id(), encoder.secret_id());
        assert_ne!(first, second);
        assert_eq!(first.get_version_num(), 4);
    }
}
