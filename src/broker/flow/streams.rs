//! Answers in parts: a worker's parts on their way to the requester, and the requester's cancels and
//! credit.

use super::{calls, cancels, measuring, queues, requests};
use crate::branches::{self, Branch};
use crate::broker::state::calls::PartFault;
use crate::broker::state::core::Core;
use crate::broker::state::encoder::Encoded;
use crate::broker::state::keys::{ConnectionKey, RequestKey};
use crate::broker::state::refusal::{self, Refusal};
use crate::broker::state::requests::PendingRequest;
use crate::broker::turn_limits::META_BYTES_PER_WORK;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::system::CancelReason;
use crate::proto::{
    Envelope, Extensions, Fault, Head, Json, Member, MessageType, Meta, OutFrame, credit, members,
    only_member,
};
use smallvec::SmallVec;

/// Reads the `meta` of a message.
#[cold]
pub(crate) fn read_meta<'a>(
    core: &mut Core,
    from: ConnectionKey,
    envelope: &Envelope<'a>,
    text: &str,
) -> Result<Meta<'a>, Fault> {
    core.turn.note_work(text.len() / META_BYTES_PER_WORK);
    let meta = envelope.read_meta().unwrap_or(Ok(Meta::default()))?;
    meta.check_on(envelope.message_type())?;
    let extensions = core.connections.get(from).map_or(Extensions::NONE, |it| it.extensions);
    if extensions != Extensions::CALL || meta.is_topical() {
        meta.check_extensions(extensions)?;
    }
    Ok(meta)
}

/// Handles a notification on `system` of a peer that negotiated `call`. What is neither a cancel nor
/// credit is a heartbeat.
#[cold]
pub(crate) fn notified(
    core: &mut Core,
    from: ConnectionKey,
    envelope: &Envelope<'_>,
) -> Result<(), Refusal> {
    let payload = envelope.payload_str();
    let Some([action, id]) = members(payload, ["action", "message_id"]) else { return Ok(()) };
    let Some(action) = action.string() else { return Ok(()) };
    if action.matches("cancel") {
        cancel(core, from, &id.id().ok_or_else(refusal::call_id_missing)?);
    } else if action.matches("credit") {
        let credit = only_member(payload, "n").ok().flatten().and_then(credit);
        let credit = credit.ok_or_else(refusal::credit_invalid)?;
        add_credit(core, from, id, credit)?;
    }
    Ok(())
}

/// Ends all requests of a connection with an id.
fn cancel(core: &mut Core, from: ConnectionKey, id: &str) {
    core.requests.index(from, &mut core.connections, &mut core.budget);
    let session = core.connections.session_mut(from);
    let Some(index) = session.and_then(|session| session.calls.as_mut()) else { return };
    core.budget.tables_bytes -= index.bytes();
    let requests = index.take(id);
    core.budget.tables_bytes += index.bytes();
    let why = refusal::cancelled();
    core.turn.note_work(requests.len());
    for request in requests {
        branches::note(Branch::RequestCancelled);
        requests::fail(core, request, &why, Some(CancelReason::Caller));
    }
}

/// Looks at so many requests with one id are as much work as a delivery.
const LOOKS_PER_WORK: usize = 16;

/// Allows the oldest stream with an id more parts. That of a stream which is over is ignored.
fn add_credit(
    core: &mut Core,
    from: ConnectionKey,
    id: Member<'_>,
    credit: u32,
) -> Result<(), Refusal> {
    let id = id.id().ok_or_else(refusal::call_id_missing)?;
    let session = core.connections.session(from);
    let Some(index) = session.and_then(|session| session.calls.as_ref()) else { return Ok(()) };
    let same = index.of(&id);
    let is_stream = |key: &&RequestKey| {
        let request = core.requests.get(**key);
        let call = request.and_then(|request| core.requests.call(request));
        call.is_some_and(|call| call.stream.is_some())
    };
    let (looks, stream) = (same.len() / LOOKS_PER_WORK, same.iter().find(is_stream).copied());
    core.turn.note_work(looks);
    let Some(key) = stream else { return Ok(()) };
    let Some((_, call)) = core.requests.with_call(key) else { return Ok(()) };
    let Some(stream) = &mut call.stream else { return Ok(()) };
    stream.add(credit).map_err(|_| {
        branches::note(Branch::CreditRefused);
        refusal::too_much_credit()
    })?;
    branches::note(Branch::CreditAdded);
    cancels::pass_credit(core, key);
    Ok(())
}

/// Takes a response with a `meta` from the worker that has the request.
#[cold]
pub(crate) fn take(
    core: &mut Core,
    worker: ConnectionKey,
    key: RequestKey,
    response: &Envelope<'_>,
    body: &[u8],
    meta: Result<Meta<'_>, Fault>,
) {
    let meta = match meta {
        Ok(meta) => meta,
        Err(fault) => return violate(core, key, &refusal::bad_part(&fault.to_string())),
    };
    let Some(seq) = meta.seq else { return end_with(core, key, response, body, &meta) };
    let now = core.turn.now.monotonic;
    let stream = core.requests.with_call(key).and_then(|(_, call)| call.stream.as_mut());
    let Some(stream) = stream else {
        return violate(core, key, &refusal::bad_part("its requester asked for no stream"));
    };
    if meta.end {
        if stream.check_order(seq).is_err() {
            return violate(core, key, &refusal::bad_part(OUT_OF_ORDER));
        }
        if response.payload_str() != "null" || response.has_attachments() {
            return violate(core, key, &refusal::bad_part("its end has more than a null payload"));
        }
        branches::note(Branch::StreamEnded);
        return end_with(core, key, response, body, &meta);
    }
    match stream.take_part(seq, now) {
        Ok(false) => {}
        Ok(true) => {
            core.counters.credit_stalls += 1;
            measuring::note_stall(core, worker);
        }
        Err(PartFault::OutOfOrder) => {
            return violate(core, key, &refusal::bad_part(OUT_OF_ORDER));
        }
        Err(PartFault::WithoutCredit) => {
            return violate(core, key, &refusal::bad_part("it came without credit"));
        }
    }
    if response.has_attachments() {
        match requests::with_attachments(core, key, response, &meta) {
            Some(Ok(frame)) => push_part(core, key, &frame),
            Some(Err(why)) => requests::fail(core, key, &why, Some(CancelReason::Limit)),
            None => requests::abandon(core, key),
        }
    } else {
        pass_part(core, key, response, body);
    }
}

fn end_with(
    core: &mut Core,
    key: RequestKey,
    response: &Envelope<'_>,
    body: &[u8],
    meta: &Meta<'_>,
) {
    if !response.has_attachments() {
        return requests::relay(core, key, response, body);
    }
    match requests::with_attachments(core, key, response, meta) {
        Some(Ok(frame)) => requests::finish_with(core, key, &frame),
        Some(Err(why)) => requests::fail(core, key, &why, None),
        None => requests::abandon(core, key),
    }
}

const OUT_OF_ORDER: &str = "its number is not the next one";

/// Ends a request whose worker breaks the rules of streams.
fn violate(core: &mut Core, key: RequestKey, why: &Refusal) {
    branches::note(Branch::PartRefused);
    requests::fail(core, key, why, Some(CancelReason::Gone));
}

/// Puts a part into the queue of the requester.
fn pass_part(core: &mut Core, key: RequestKey, response: &Envelope<'_>, body: &[u8]) {
    let Some(request) = core.requests.get(key) else { return };
    let Some((application, channel)) = core.router.names(request.channel) else {
        return requests::abandon(core, key);
    };
    let can_be_relayed = response.app_id().raw() == &*application.id_json
        && response.channel_id().raw() == &*channel.id_json
        && !response.message_id().is_empty();
    let reply_to = SmallVec::<[u8; 36]>::from_slice(request.message_id());
    let around = response.around_reply_to(body).filter(|_| can_be_relayed);
    if let Some([before, behind]) = around {
        let frame = OutFrame::relay_pieces([before, &reply_to, behind], &mut core.pool);
        return push_part(core, key, &frame);
    }
    let stamp = core.encoder.stamp(core.turn.now.unix);
    let id = response.message_id();
    let head = Head {
        message_id: if id.is_empty() { stamp.id() } else { id.raw().as_bytes() },
        reply_to: Some(&reply_to),
        ..requests::head_of(application, channel, response)
    };
    let message = core.encoder.text(&mut core.pool, &head, response.payload_str());
    push_part(core, key, &message.frame());
    core.encoder.recycle(message);
}

fn push_part(core: &mut Core, key: RequestKey, frame: &OutFrame<'_>) {
    let Some(request) = core.requests.get(key) else { return };
    let requester = request.requester;
    if frame.len() > HEADER_BYTES + core.limits.frame_bytes_max {
        branches::note(Branch::PartTooLarge);
        let why = refusal::answer_too_large();
        return requests::fail(core, key, &why, Some(CancelReason::Limit));
    }
    if !has_room(core, request, frame.len()) {
        branches::note(Branch::PartWithoutRoom);
        let why = refusal::no_room_for_part();
        return requests::fail(core, key, &why, Some(CancelReason::Limit));
    }
    let (is_first, arrived, began) = (!request.has_begun(), request.arrived, request.began);
    let channel = request.channel;
    queues::push(core, requester, frame);
    branches::note(Branch::PartPassed);
    core.counters.stream_parts += 1;
    if is_first {
        if let Some((request, _)) = core.requests.with_call(key) {
            request.note_part();
        }
        let answered = core.turn.now.monotonic.into();
        measuring::note_answer(core, channel, arrived, began, answered);
        // With a part on its way, the request cannot be given to another worker.
        calls::take_retry(core, key);
    }
}

/// Passes on a part of a request that another thread answers.
pub(crate) fn pass_own(core: &mut Core, key: RequestKey, payload: &Json<'_>) {
    let now = core.turn.now.monotonic;
    let stream = core.requests.with_call(key).and_then(|(_, call)| call.stream.as_mut());
    let Some(stream) = stream else { return };
    let seq = stream.next_seq();
    // The thread has counted the credit, too.
    let Ok(is_stalled) = stream.take_part(seq, now) else { return };
    core.counters.credit_stalls += u64::from(is_stalled);
    let meta = Meta { seq: Some(seq), ..Meta::default() };
    if payload.carried().is_some() {
        return match requests::own_with_attachments(core, key, meta, payload) {
            Some(Ok(frame)) => push_part(core, key, &frame),
            Some(Err(why)) => requests::fail(core, key, &why, Some(CancelReason::Limit)),
            None => {}
        };
    }
    if let Some(message) = encode_own(core, key, &meta, payload.as_str()) {
        push_part(core, key, &message.frame());
        core.encoder.recycle(message);
    }
}

/// Ends the stream of a request that another thread answers.
pub(crate) fn finish_own(core: &mut Core, key: RequestKey) {
    let stream = core.requests.with_call(key).and_then(|(_, call)| call.stream.as_ref());
    let Some(stream) = stream else { return };
    branches::note(Branch::StreamEnded);
    let meta = Meta { seq: Some(stream.next_seq()), end: true, ..Meta::default() };
    if let Some(message) = encode_own(core, key, &meta, "null") {
        requests::finish_with(core, key, &message.frame());
        core.encoder.recycle(message);
    }
}

/// Encodes a response of the server itself with a `meta`.
fn encode_own(core: &mut Core, key: RequestKey, meta: &Meta<'_>, payload: &str) -> Option<Encoded> {
    let request = core.requests.get(key)?;
    let (application, channel) = core.router.names(request.channel)?;
    let stamp = core.encoder.stamp(core.turn.now.unix);
    let mut text = Vec::new();
    meta.append_to(&mut text);
    let head = Head {
        message_id: stamp.id(),
        app_id: &application.id_json,
        channel_id: &channel.id_json,
        message_type: MessageType::Response,
        timestamp: stamp.time(),
        reply_to: Some(request.message_id()),
        meta: Some(&text),
    };
    Some(core.encoder.text(&mut core.pool, &head, payload))
}

/// The queue keeps room for the end or the error of each request of its connection, so that parts
/// which nobody reads cost their streams and not the connection. This is one without its ids.
const TERMINAL_BYTES: usize = 512;

fn has_room(core: &Core, request: &PendingRequest, frame_bytes: usize) -> bool {
    let Some(connection) = core.connections.get(request.requester) else { return false };
    let requests = connection.session().map_or(0, |session| session.requests.len());
    // The other requests of a connection have ids of about the same length.
    let names = core.router.names(request.channel);
    let names_bytes = names.map_or(0, |(app, channel)| app.id_json.len() + channel.id_json.len());
    let terminal_bytes = TERMINAL_BYTES + names_bytes + request.message_id().len();
    let queue_bytes_max = core.connections.queue_bytes_max;
    let kept_free = (requests * terminal_bytes).min(queue_bytes_max / 2);
    connection.send.len() + frame_bytes + kept_free <= queue_bytes_max
}
