//! The extras of requests of peers that negotiated `call`, and the form of a message that a worker
//! gets.

use std::sync::Arc;
use std::time::Duration;

use super::attachments::{self, Receiver, Rewrite};
use super::{measuring, queues};
use crate::branches::{self, Branch};
use crate::broker::state::budget::{CALL_BYTES, MemoryPressure};
use crate::broker::state::calls::{Call, Stream, Ttl};
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ConnectionKey, RequestKey};
use crate::broker::state::refusal::Refusal;
use crate::broker::state::requests::{Answerer, PendingRequest};
use crate::broker::state::timers::Due;
use crate::broker::state::watch::Watch;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::{
    Envelope, Extensions, META_TEXT_BYTES, Meta, OutFrame, SharedFrame, has_attachments,
};

/// Returns the time at which a requester gives up a message that arrived in this turn.
pub(crate) fn deadline(core: &Core, ttl_millis: u32) -> Duration {
    Duration::from(core.turn.arrived) + Duration::from_millis(ttl_millis.into())
}

/// Returns whether a connection negotiated an extension.
pub(crate) fn has(core: &Core, key: ConnectionKey, extension: Extensions) -> bool {
    core.connections.get(key).is_some_and(|found| found.extensions.contains(extension))
}

/// Gives a request the extras that its `meta` asks for.
#[cold]
pub(crate) fn attach(core: &mut Core, key: RequestKey, meta: &Meta<'_>) {
    let ttl = meta.ttl_millis.map(|millis| {
        let until = deadline(core, millis);
        Ttl { millis, until, timer: core.timers.arm(until, Due::Deadline(key)) }
    });
    let stream = meta.stream.map(|credit| Stream::new(credit, core.turn.now.monotonic));
    if stream.is_some()
        && let Some(requester) = core.requests.get(key).map(|request| request.requester)
    {
        core.requests.index(requester, &mut core.connections, &mut core.budget);
    }
    let mut call = Call::default();
    (call.ttl, call.stream, call.idempotent) = (ttl, stream, meta.idempotent);
    core.requests.attach(key, call);
    core.budget.tables_bytes += CALL_BYTES;
}

/// Drops the extras of a request that is over.
#[cold]
pub(crate) fn forget(core: &mut Core, place: usize, request: &PendingRequest) {
    let Some(call) = core.requests.detach(place) else { return };
    core.budget.tables_bytes -= CALL_BYTES;
    if let Some(ttl) = call.ttl {
        core.timers.disarm(ttl.timer);
    }
    if let Some(stream) = call.stream {
        if let Some(timer) = stream.timer {
            core.timers.disarm(timer);
        }
        if stream.is_stalled()
            && let Answerer::Worker(worker, _) = request.answerer
        {
            measuring::note_credit(core, worker);
        }
    }
    if let Some(frame) = &call.retry {
        uncharge(core, request.requester, frame);
    }
}

/// Gives a stream that has gone on meanwhile another deadline, or none.
pub(crate) fn put_off(core: &mut Core, key: RequestKey, deadline: Option<Duration>) {
    core.requests.leave_timeouts(key);
    if let Some((_, call)) = core.requests.with_call(key)
        && let Some(stream) = &mut call.stream
    {
        let next = deadline.map(|deadline| (deadline, Due::Stream(key)));
        core.timers.reset(&mut stream.timer, next);
    }
}

/// Gives streams without a timeout one that begins now, because there was none before a reload.
pub(crate) fn begin_timeouts(core: &mut Core, timeout: Duration) {
    let deadline = core.turn.deadline_in(timeout);
    for key in core.requests.keys() {
        if let Some((_, call)) = core.requests.with_call(key)
            && let Some(stream) = call.stream.as_mut().filter(|stream| stream.timer.is_none())
        {
            stream.timer = Some(core.timers.arm(deadline, Due::Stream(key)));
        }
    }
}

/// Lets the thread that answers a request know what becomes of it.
#[cold]
pub(crate) fn watch(core: &mut Core, key: RequestKey, watch: Arc<Watch>) {
    let Some(request) = core.requests.get(key) else {
        core.counters.handler_panics += watch.cancel() as u64;
        return;
    };
    if !request.has_call() {
        attach(core, key, &Meta::default());
    }
    if let Some((_, call)) = core.requests.with_call(key) {
        call.watch = Some(watch);
    }
}

/// Tells the thread that answers a request, if there is one, that this ended before its answer.
#[cold]
pub(crate) fn note_cancel(core: &mut Core, key: RequestKey) {
    let watch = core.requests.with_call(key).and_then(|(_, call)| call.watch.clone());
    if let Some(watch) = watch {
        core.counters.handler_panics += watch.cancel() as u64;
    }
}

/// Keeps the frame of a request that is idempotent for another worker, unless memory is short. It
/// counts as memory of the requester.
pub(crate) fn keep_for_retry(core: &mut Core, key: RequestKey, frame: &SharedFrame) {
    if core.budget.pressure != MemoryPressure::None {
        return;
    }
    let Some((request, call)) = core.requests.with_call(key) else { return };
    if call.idempotent
        && let Some(session) = core.connections.session_mut(request.requester)
    {
        session.request_bytes += frame.capacity();
        call.retry = Some(frame.clone());
    }
}

/// Returns whether another worker may get a request, should its own be lost.
pub(crate) fn has_retry(core: &Core, key: RequestKey) -> bool {
    let request = core.requests.get(key).filter(|request| request.has_call());
    request.and_then(|request| core.requests.call(request)).is_some_and(|call| call.retry.is_some())
}

/// Takes the frame that was kept for another worker.
pub(crate) fn take_retry(core: &mut Core, key: RequestKey) -> Option<SharedFrame> {
    let (request, call) = core.requests.with_call(key)?;
    let (frame, requester) = (call.retry.take()?, request.requester);
    uncharge(core, requester, &frame);
    Some(frame)
}

fn uncharge(core: &mut Core, requester: ConnectionKey, frame: &SharedFrame) {
    if let Some(session) = core.connections.session_mut(requester) {
        session.request_bytes -= frame.capacity();
    }
}

/// Returns the `meta` that a worker with all extensions gets: what is left of the deadline, and nothing that
/// ends at the server.
pub(crate) fn meta_for_worker<'a>(
    core: &Core,
    key: Option<RequestKey>,
    meta: &Meta<'a>,
) -> Meta<'a> {
    let request = key.and_then(|key| core.requests.get(key));
    let ttl = request.and_then(|request| core.requests.call(request)).and_then(|call| call.ttl);
    let ttl_millis = ttl.map(|ttl| ttl.millis_left(core.turn.now.monotonic));
    Meta { ttl_millis: meta.ttl_millis.and(ttl_millis), idempotent: false, ..*meta }
}

/// Notes that a frame which is kept for a request ends with a `meta` of this length.
pub(crate) fn note_meta(core: &mut Core, key: RequestKey, meta_bytes: usize) {
    if meta_bytes > 0
        && let Some((_, call)) = core.requests.with_call(key)
    {
        // The closing brace of the message stands behind it.
        call.meta_bytes = (META_TEXT_BYTES + meta_bytes + 1) as u32;
    }
}

/// Sends a worker the frame that was kept for a request, in the form for it: without its `meta`, or
/// with what is left of the deadline now. Fails if that form is too large.
pub(crate) fn send_kept(
    core: &mut Core,
    key: RequestKey,
    worker: ConnectionKey,
    frame: SharedFrame,
) -> Result<(), Refusal> {
    let body = &frame.bytes()[HEADER_BYTES..];
    let request = core.requests.get(key);
    let call = request.and_then(|request| core.requests.call(request));
    if call.is_some_and(|call| call.idempotent) && core.connections.is_link(worker) {
        // The other server may have another worker for it, too.
        return rewrite_kept(core, worker, &frame, ttl_left(core, call), true);
    }
    let Some(call) = call.filter(|call| call.meta_bytes > 0 || has_attachments(body)) else {
        queues::push(core, worker, &OutFrame::shared(frame));
        return Ok(());
    };
    let ttl = ttl_left(core, Some(call));
    let to = Receiver::of(core, worker);
    let is_plain = to.extensions.is_empty();
    let is_extended = to.extensions.contains(Extensions::CALL);
    if has_attachments(body) || !(is_plain || is_extended) {
        return rewrite_kept(core, worker, &frame, ttl, false);
    }
    let meta_bytes = call.meta_bytes as usize;
    let mut digits = itoa::Buffer::new();
    let pieces: [&[u8]; 3] = if is_plain {
        [&body[..body.len() - meta_bytes], b"}", b""]
    } else if let Some(millis) = ttl {
        // The deadline stands last, before two braces.
        let end = body.len() - 2;
        let length = body[..end].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        [&body[..end - length], digits.format(millis).as_bytes(), &body[end..]]
    } else {
        queues::push(core, worker, &OutFrame::shared(frame));
        return Ok(());
    };
    let frame = OutFrame::relay_pieces(pieces, &mut core.pool);
    queues::push(core, worker, &frame);
    Ok(())
}

fn ttl_left(core: &Core, call: Option<&Call>) -> Option<u32> {
    Some(call?.ttl?.millis_left(core.turn.now.monotonic))
}

/// Sends a worker a frame that was kept and has to be read again: one with attachments, for a worker
/// that knows a part of its `meta`, or for a link.
#[cold]
fn rewrite_kept(
    core: &mut Core,
    worker: ConnectionKey,
    frame: &SharedFrame,
    ttl_millis: Option<u32>,
    idempotent: bool,
) -> Result<(), Refusal> {
    let to = Receiver::of(core, worker);
    let body = &frame.bytes()[HEADER_BYTES..];
    branches::note(Branch::KeptReadAgain);
    let envelope = Envelope::parse_binary(body);
    debug_assert!(envelope.is_ok(), "the server wrote it");
    let Ok(envelope) = envelope else { return Ok(()) };
    let meta = envelope.read_meta().unwrap_or(Ok(Meta::default()));
    let (Ok(meta), Ok(attachments)) = (meta, envelope.attachments()) else {
        debug_assert!(false, "the server wrote it");
        return Ok(());
    };
    let rewrite = Rewrite {
        head: attachments::head_of(&envelope),
        meta: Meta { ttl_millis: meta.ttl_millis.and(ttl_millis), idempotent, ..meta },
        payload: envelope.payload_str(),
        attachments,
    };
    let written = rewrite.frame(to, &mut core.pool);
    let written = written.map_err(|too_large| too_large.to_forward(to))?;
    attachments::note_work(core, to, &written);
    queues::push(core, worker, &written);
    Ok(())
}
