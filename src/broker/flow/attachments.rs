//! Messages with attachments in the form that their receiver takes: with the attachments behind the JSON, or
//! with base64 in their places.

use crate::branches::{self, Branch};
use crate::broker::state::core::Core;
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::refusal::{self, Refusal};
use crate::broker::turn_limits::BASE64_BYTES_PER_WORK;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::{
    Attachments, BufferPool, Carried, Envelope, Extensions, Head, Json, Meta, OutFrame,
    append_front, body_bytes, encode_frame,
};

/// A message that is passed on and written anew.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rewrite<'a> {
    /// The fields that its receiver gets, without a `meta`.
    pub(crate) head: Head<'a>,
    pub(crate) meta: Meta<'a>,
    pub(crate) payload: &'a str,
    pub(crate) attachments: Attachments<'a>,
}

/// A receiver of messages, and the longest body that it may get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receiver {
    pub(crate) extensions: Extensions,
    pub(crate) frame_bytes_max: usize,
}

/// The reason why a message cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooLarge {
    /// It is a little longer with the id that its receiver gets.
    WithItsId { body_bytes: usize },
    /// Base64 makes it a third longer.
    InBase64 { body_bytes: usize },
    /// No more JSON than a little under 16 MiB may stand before attachments.
    Json { json_bytes: usize },
}

impl TooLarge {
    /// Returns the refusal of a message to a worker.
    pub(crate) fn to_forward(self, to: Receiver) -> Refusal {
        match self {
            Self::WithItsId { .. } | Self::Json { .. } => refusal::too_large_to_forward(),
            Self::InBase64 { .. } => refusal::too_large_in_base64(to.frame_bytes_max),
        }
    }

    /// Returns the refusal of an answer to its requester.
    pub(crate) fn to_answer(self, to: Receiver) -> Refusal {
        match self {
            Self::WithItsId { .. } | Self::Json { .. } => refusal::answer_too_large(),
            Self::InBase64 { .. } => refusal::answer_in_base64_too_large(to.frame_bytes_max),
        }
    }
}

impl Receiver {
    /// One that takes every form of a message.
    pub(crate) fn of_all(core: &Core) -> Self {
        let extensions = Extensions::CALL.or(Extensions::BINARY);
        Self { extensions, frame_bytes_max: core.limits.frame_bytes_max }
    }

    pub(crate) fn of(core: &Core, key: ConnectionKey) -> Self {
        let connection = core.connections.get(key);
        let extensions = connection.map_or(Extensions::NONE, |found| found.extensions);
        Self { extensions, frame_bytes_max: core.limits.frame_bytes_max }
    }

    /// Returns whether base64 is written for it.
    pub(crate) fn needs_base64(self) -> bool {
        !self.extensions.contains(Extensions::BINARY)
    }
}

/// Returns the fields of a message as it came.
pub(crate) fn head_of<'a>(envelope: &Envelope<'a>) -> Head<'a> {
    Head {
        message_id: envelope.message_id().raw().as_bytes(),
        app_id: envelope.app_id().raw(),
        channel_id: envelope.channel_id().raw(),
        message_type: envelope.message_type(),
        timestamp: envelope.timestamp_str().as_bytes(),
        reply_to: envelope.reply_to().map(|id| id.raw().as_bytes()),
        meta: None,
    }
}

impl<'a> Rewrite<'a> {
    /// A message of the process itself, whose payload has attachments.
    pub(crate) fn own(head: Head<'a>, meta: Meta<'a>, payload: &'a Json<'_>) -> Self {
        let bin = payload.carried().map(Carried::bin);
        let meta = Meta { bin, ..meta };
        Self { head, meta, payload: payload.as_str(), attachments: payload.attachments() }
    }

    /// Writes the frame for a receiver, in memory that queues share.
    #[cold]
    pub(crate) fn frame(
        &self,
        to: Receiver,
        pool: &mut BufferPool,
    ) -> Result<OutFrame<'static>, TooLarge> {
        let has_attachments = !self.attachments.is_empty();
        let meta = self.meta.of_extensions(to.extensions);
        let mut text = Vec::new();
        if !meta.is_empty() {
            meta.append_to(&mut text);
        }
        let head = Head { meta: Some(&*text).filter(|text| !text.is_empty()), ..self.head };
        if has_attachments && to.needs_base64() {
            branches::note(Branch::AttachmentsInBase64);
            let body_bytes = head.body_bytes(self.attachments.base64_payload_bytes());
            if body_bytes > to.frame_bytes_max {
                branches::note(Branch::Base64TooLarge);
                return Err(TooLarge::InBase64 { body_bytes });
            }
            return Ok(OutFrame::written(HEADER_BYTES + body_bytes, pool, |out| {
                let written = encode_frame(out, &head, |out| {
                    self.attachments.append_base64_payload(out);
                    Ok::<_, std::convert::Infallible>(())
                });
                match written {
                    Ok(()) => {}
                }
            }));
        }
        let payload = self.payload.as_bytes();
        let json_bytes = head.body_bytes(payload.len());
        let tail = self.attachments.tail();
        let bytes = if has_attachments {
            body_bytes(json_bytes, [tail.bytes()]).ok_or(TooLarge::Json { json_bytes })?
        } else {
            json_bytes
        };
        if bytes > to.frame_bytes_max {
            return Err(TooLarge::WithItsId { body_bytes: bytes });
        }
        if !has_attachments {
            return Ok(OutFrame::own(&head, payload, pool).to_shared(pool));
        }
        branches::note(Branch::AttachmentsRewritten);
        Ok(OutFrame::written(HEADER_BYTES + bytes, pool, |out| {
            append_front(out, &head, payload, bytes);
            tail.append_to(out);
        }))
    }
}

/// Counts the work of base64, if a receiver needed it.
pub(crate) fn note_work(core: &mut Core, to: Receiver, frame: &OutFrame<'_>) {
    if to.needs_base64() {
        core.turn.note_work(frame.len() / BASE64_BYTES_PER_WORK);
    }
}
