//! The form in which a worker gets a message, and the way there: into its queue, or among the requests
//! that are kept.

use super::attachments::{self, Receiver, Rewrite};
use super::{calls, kept, measuring, queues, requests};
use crate::branches::{self, Branch};
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ConnectionKey, RequestKey};
use crate::broker::state::refusal::{self, Refusal};
use crate::proto::frame::HEADER_BYTES;
use crate::proto::{Envelope, Extensions, Head, MessageType, Meta, OutFrame, SharedFrame};

/// A message that is about to be forwarded.
pub(crate) struct Forward<'a> {
    /// `None` for a request that is going to be kept.
    pub(crate) worker: Option<ConnectionKey>,
    /// `None` for a notification.
    pub(crate) request: Option<RequestKey>,
    /// The id that the worker gets, as JSON text without the quotes.
    pub(crate) message_id: &'a [u8],
    pub(crate) envelope: &'a Envelope<'a>,
    pub(crate) body: &'a [u8],
}

/// Forwards a message without a `meta`.
#[inline]
pub(crate) fn plain(core: &mut Core, forward: &Forward<'_>) -> Result<(), Refusal> {
    let around = forward.envelope.around_message_id(forward.body);
    let head;
    let frame = if let Some(pieces) = forward.relayed(core, around) {
        OutFrame::relay_pieces(pieces, &mut core.pool)
    } else {
        branches::note(Branch::RequestRewritten);
        head = forward.head(None);
        OutFrame::own(&head, forward.envelope.payload_str().as_bytes(), &mut core.pool)
    };
    forward.check_length(core, &frame)?;
    match (forward.worker, forward.request) {
        (Some(worker), _) => push(core, worker, forward, &frame),
        (None, Some(request)) => kept::keep(core, request, &frame),
        (None, None) => {}
    }
    Ok(())
}

/// Forwards a message with a `meta`. A worker that speaks the base protocol alone gets it without.
#[cold]
pub(crate) fn with_meta(
    core: &mut Core,
    forward: &Forward<'_>,
    meta: &Meta<'_>,
) -> Result<(), Refusal> {
    if forward.envelope.has_attachments() {
        return with_attachments(core, forward, meta);
    }
    let to = forward.receiver(core);
    let is_extended = to.extensions.contains(Extensions::CALL);
    // All of its deadline is left.
    let is_fresh = core.turn.arrived == core.turn.now.monotonic.into();
    let is_unchanged = is_extended && is_fresh && !names_idempotent(forward.envelope);
    if let Some(worker) = forward.worker.filter(|_| is_unchanged) {
        let around = forward.envelope.around_message_id_before_meta(forward.body);
        if let Some(pieces) = forward.relayed(core, around) {
            let frame = OutFrame::relay_pieces(pieces, &mut core.pool);
            forward.check_length(core, &frame)?;
            push(core, worker, forward, &frame);
            return Ok(());
        }
    }
    branches::note(Branch::RequestRewritten);
    let mut text = Vec::new();
    let mut of_worker = calls::meta_for_worker(core, forward.request, meta);
    if !meta.idempotent {
        of_worker = of_worker.of_extensions(to.extensions);
    }
    if !of_worker.is_empty() {
        of_worker.append_to(&mut text);
    }
    let head = forward.head(Some(&*text).filter(|text| !text.is_empty()));
    let payload = forward.envelope.payload_str().as_bytes();
    let frame = OutFrame::own(&head, payload, &mut core.pool);
    forward.check_length(core, &frame)?;
    if let Some(request) = forward.request {
        calls::note_meta(core, request, text.len());
    }
    match (forward.worker, forward.request) {
        (None, Some(request)) => kept::keep(core, request, &frame),
        (Some(worker), Some(request)) if meta.idempotent => {
            let frame = frame.to_kept(&mut core.pool);
            calls::keep_for_retry(core, request, &frame);
            send_kept(core, forward, (request, worker), frame);
        }
        (Some(worker), _) => push(core, worker, forward, &frame),
        (None, None) => {}
    }
    Ok(())
}

/// Forwards a message with attachments. A worker without the extension gets them in base64; what is kept
/// may go to either kind of worker.
#[cold]
fn with_attachments(
    core: &mut Core,
    forward: &Forward<'_>,
    meta: &Meta<'_>,
) -> Result<(), Refusal> {
    let attachments = forward.envelope.attachments().map_err(refusal::bad_meta)?;
    let rewrite = Rewrite {
        head: forward.head(None),
        meta: calls::meta_for_worker(core, forward.request, meta),
        payload: forward.envelope.payload_str(),
        attachments,
    };
    let is_kept = forward.worker.is_none() || meta.idempotent;
    let to = if is_kept { Receiver::of_all(core) } else { forward.receiver(core) };
    let frame = match rewrite.frame(to, &mut core.pool) {
        Ok(frame) => frame,
        Err(too_large) => {
            forward.request.and_then(|request| requests::end(core, request));
            return Err(too_large.to_forward(to));
        }
    };
    attachments::note_work(core, to, &frame);
    match (forward.worker, forward.request) {
        (None, Some(request)) => kept::keep(core, request, &frame),
        (Some(worker), Some(request)) if is_kept => {
            let frame = frame.to_kept(&mut core.pool);
            calls::keep_for_retry(core, request, &frame);
            send_kept(core, forward, (request, worker), frame);
        }
        (Some(worker), _) => push(core, worker, forward, &frame),
        (None, None) => {}
    }
    Ok(())
}

fn send_kept(
    core: &mut Core,
    forward: &Forward<'_>,
    (request, worker): (RequestKey, ConnectionKey),
    frame: SharedFrame,
) {
    match calls::send_kept(core, request, worker, frame) {
        Ok(()) => note_handed(core, worker, forward),
        Err(why) => requests::fail(core, request, &why, None),
    }
}

/// Returns whether the text of a `meta` has the member that ends at the server, whatever its value. One
/// with an escape may have it, and is written anew.
fn names_idempotent(envelope: &Envelope<'_>) -> bool {
    const SHORTEST: usize = "{\"idempotent\":true}".len();
    envelope.meta_str().is_some_and(|text| {
        text.len() >= SHORTEST && (text.contains("idempotent") || text.contains('\\'))
    })
}

impl<'a> Forward<'a> {
    /// Returns the pieces of the message as it came, but for its id, if that may be relayed. A worker
    /// would take a frame with a `reply_to` for an answer to a request of its own. A frame that fits
    /// only without the whitespace of its sender is written anew, too.
    #[inline]
    fn relayed(&self, core: &Core, around: Option<[&'a [u8]; 2]>) -> Option<[&'a [u8]; 3]> {
        let [before, behind] = around?;
        let body_bytes = before.len() + self.message_id.len() + behind.len();
        if body_bytes > core.limits.frame_bytes_max {
            return None;
        }
        branches::note(Branch::RequestRelayed);
        Some([before, self.message_id, behind])
    }

    /// What is kept is written for a worker with all extensions.
    fn receiver(&self, core: &Core) -> Receiver {
        self.worker.map_or_else(|| Receiver::of_all(core), |key| Receiver::of(core, key))
    }

    fn head(&self, meta: Option<&'a [u8]>) -> Head<'a> {
        Head {
            message_id: self.message_id,
            app_id: self.envelope.app_id().raw(),
            channel_id: self.envelope.channel_id().raw(),
            message_type: self.envelope.message_type(),
            timestamp: self.envelope.timestamp_str().as_bytes(),
            reply_to: None,
            meta,
        }
    }

    #[inline]
    fn check_length(&self, core: &mut Core, frame: &OutFrame<'_>) -> Result<(), Refusal> {
        if frame.len() <= HEADER_BYTES + core.limits.frame_bytes_max {
            return Ok(());
        }
        branches::note(match self.envelope.message_type() {
            MessageType::Request => Branch::RequestTooLargeToForward,
            _ => Branch::NoteTooLargeToForward,
        });
        self.request.and_then(|request| requests::end(core, request));
        Err(refusal::too_large_to_forward())
    }
}

#[inline]
fn push(core: &mut Core, worker: ConnectionKey, forward: &Forward<'_>, frame: &OutFrame<'_>) {
    note_handed(core, worker, forward);
    queues::push(core, worker, frame);
}

#[inline]
fn note_handed(core: &mut Core, worker: ConnectionKey, forward: &Forward<'_>) {
    if forward.request.is_some() {
        measuring::note_handed(core, worker);
    }
    core.counters.forwarded += 1;
}
