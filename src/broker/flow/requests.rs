//! Requests that a worker or another thread answers, from their begin to their answer or failure.

use std::time::Duration;

use super::attachments::{self, Receiver, Rewrite};
use super::{answers, calls, cancels, kept, measuring, queues};
use crate::branches::{self, Branch};
use crate::broker::state::connection::Connection;
use crate::broker::state::core::Core;
use crate::broker::state::encoder::Address;
use crate::broker::state::keys::{ChannelKey, ConnectionKey, RequestKey};
use crate::broker::state::refusal::{self, Refusal};
use crate::broker::state::requests::{Answerer, NewRequest, PendingRequest};
use crate::broker::state::router::{Application, Channel};
use crate::broker::state::timers::Moment;
use crate::proto::system::CancelReason;
use crate::proto::{Envelope, Head, Json, MessageType, Meta, OutFrame};

/// Records a request that is answered later, by `worker` or by another thread, or that is going to be
/// kept.
pub(crate) fn begin(
    core: &mut Core,
    from: ConnectionKey,
    channel: ChannelKey,
    envelope: &Envelope<'_>,
    worker: Option<ConnectionKey>,
) -> Result<RequestKey, Refusal> {
    let Some(session) = core.connections.session(from) else {
        return Err(refusal::too_many_requests());
    };
    // Its handler may have removed it. Without its names there would be no answer.
    if core.router.channels.get(channel).is_none() {
        return Err(refusal::channel_gone());
    }
    if core.requests.len() >= core.limits.pending_max
        || session.requests.len() >= core.limits.pending_per_connection_max
            && !core.connections.is_link(from)
    {
        branches::note(Branch::TooManyRequests);
        return Err(refusal::too_many_requests());
    }
    let new = NewRequest {
        random_id: core.encoder.secret_id(),
        from,
        message_id: envelope.message_id().raw(),
        channel,
        worker,
        arrived: core.turn.arrived,
        began: core.latency.begin(core.turn.now.monotonic.into()),
        deadline: core.limits.request_timeout.map(|timeout| core.turn.deadline_in(timeout)),
    };
    let (connections, router) = (&mut core.connections, &mut core.router);
    let begun = core.requests.begin(&new, connections, router, &mut core.budget);
    begun.ok_or_else(refusal::too_many_requests)
}

/// Answers a deferred request. After its timeout this does nothing: the requester got an error.
pub(crate) fn answer_deferred(
    core: &mut Core,
    key: RequestKey,
    answer: Result<Json<'static>, Refusal>,
) {
    match answer {
        Ok(payload) if payload.carried().is_some() => deliver_attached(core, key, &payload),
        Ok(payload) => deliver(core, key, None, payload.as_str()),
        Err(why) => fail(core, key, &why, None),
    }
}

/// Answers a request with its worker's response.
#[expect(clippy::inline_always, reason = "it has a rare caller beside the usual one")]
#[inline(always)]
pub(crate) fn relay(core: &mut Core, key: RequestKey, response: &Envelope<'_>, body: &[u8]) {
    let Some(request) = core.requests.get(key) else { return };
    // The request keeps its channel alive, so the names exist.
    let Some((application, channel)) = core.router.names(request.channel) else {
        return abandon(core, key);
    };
    let can_be_relayed = response.app_id().raw() == &*application.id_json
        && response.channel_id().raw() == &*channel.id_json
        && !response.message_id().is_empty();
    let id_bytes = request.message_id().len();
    let fits = |[before, behind]: &[&[u8]; 2]| {
        before.len() + id_bytes + behind.len() <= core.limits.frame_bytes_max
    };
    let can_be_relayed = can_be_relayed && takes_meta_of(core, request, response);
    let around = response.around_reply_to(body).filter(|around| can_be_relayed && fits(around));
    let Some([before, behind]) = around else {
        // Without the whitespace of its worker it may fit.
        branches::note(Branch::AnswerRewritten);
        return deliver(core, key, Some(response), response.payload_str());
    };
    let Some(request) = end(core, key) else { return };
    branches::note(Branch::AnswerRelayed);
    let pieces = [before, request.message_id(), behind];
    let frame = OutFrame::relay_pieces(pieces, &mut core.pool);
    finish(core, &request, &frame);
}

/// Returns whether the requester may get the `meta` of a response, if that has one.
#[inline]
fn takes_meta_of(core: &Core, request: &PendingRequest, response: &Envelope<'_>) -> bool {
    let requester = || core.connections.get(request.requester);
    response.meta_str().is_none() || requester().is_some_and(|found| !found.extensions.is_empty())
}

/// Writes a response with attachments for its requester. `None`: the request is over.
#[cold]
pub(crate) fn with_attachments(
    core: &mut Core,
    key: RequestKey,
    response: &Envelope<'_>,
    meta: &Meta<'_>,
) -> Option<Result<OutFrame<'static>, Refusal>> {
    let request = core.requests.get(key)?;
    let (application, channel) = core.router.names(request.channel)?;
    let attachments = match response.attachments() {
        Ok(attachments) => attachments,
        Err(fault) => return Some(Err(refusal::bad_part(&fault.to_string()))),
    };
    let stamp = core.encoder.stamp(core.turn.now.unix);
    let id = response.message_id();
    let head = Head {
        message_id: if id.is_empty() { stamp.id() } else { id.raw().as_bytes() },
        reply_to: Some(request.message_id()),
        meta: None,
        ..head_of(application, channel, response)
    };
    let rewrite = Rewrite { head, meta: *meta, payload: response.payload_str(), attachments };
    let to = Receiver::of(core, request.requester);
    let frame = rewrite.frame(to, &mut core.pool).map_err(|too_large| too_large.to_answer(to));
    if let Ok(frame) = &frame {
        attachments::note_work(core, to, frame);
    }
    Some(frame)
}

/// Returns the fields of an answer that do not change on its way, without its ids.
pub(crate) fn head_of<'a>(
    application: &'a Application,
    channel: &'a Channel,
    response: &Envelope<'a>,
) -> Head<'a> {
    Head {
        message_id: b"",
        app_id: &application.id_json,
        channel_id: &channel.id_json,
        message_type: MessageType::Response,
        timestamp: response.timestamp_str().as_bytes(),
        reply_to: None,
        meta: response.meta_str().map(str::as_bytes),
    }
}

/// Answers a request with a payload, and with the id and the time of a worker's response if there
/// is one.
fn deliver(core: &mut Core, key: RequestKey, response: Option<&Envelope<'_>>, payload: &str) {
    let Some(request) = core.requests.get(key) else { return };
    let Some((application, channel)) = core.router.names(request.channel) else {
        return abandon(core, key);
    };
    let stamp = core.encoder.stamp(core.turn.now.unix);
    let id = response.map(Envelope::message_id).filter(|id| !id.is_empty());
    let head = Head {
        message_id: id.map_or(stamp.id(), |id| id.raw().as_bytes()),
        app_id: &application.id_json,
        channel_id: &channel.id_json,
        message_type: MessageType::Response,
        timestamp: response.map_or(stamp.time(), |response| response.timestamp_str().as_bytes()),
        reply_to: Some(request.message_id()),
        meta: response
            .filter(|response| takes_meta_of(core, request, response))
            .and_then(Envelope::meta_str)
            .map(str::as_bytes),
    };
    let message = core.encoder.text(&mut core.pool, &head, payload);
    if message.body_bytes() > core.limits.frame_bytes_max {
        branches::note(Branch::AnswerTooLarge);
        core.encoder.recycle(message);
        return fail(core, key, &refusal::answer_too_large(), None);
    }
    let Some(request) = end(core, key) else { return };
    finish(core, &request, &message.frame());
    core.encoder.recycle(message);
}

/// Answers a request with a payload of the process itself that has attachments.
#[cold]
fn deliver_attached(core: &mut Core, key: RequestKey, payload: &Json<'_>) {
    match own_with_attachments(core, key, Meta::default(), payload) {
        Some(Ok(frame)) => finish_with(core, key, &frame),
        Some(Err(why)) => fail(core, key, &why, None),
        None => abandon(core, key),
    }
}

/// Writes a response of the process itself with attachments for its requester. `None`: the request is
/// over.
#[cold]
pub(crate) fn own_with_attachments(
    core: &mut Core,
    key: RequestKey,
    meta: Meta<'_>,
    payload: &Json<'_>,
) -> Option<Result<OutFrame<'static>, Refusal>> {
    let request = core.requests.get(key)?;
    let (application, channel) = core.router.names(request.channel)?;
    let stamp = core.encoder.stamp(core.turn.now.unix);
    let head = Head {
        message_id: stamp.id(),
        app_id: &application.id_json,
        channel_id: &channel.id_json,
        message_type: MessageType::Response,
        timestamp: stamp.time(),
        reply_to: Some(request.message_id()),
        meta: None,
    };
    let to = Receiver::of(core, request.requester);
    let frame = Rewrite::own(head, meta, payload).frame(to, &mut core.pool);
    let frame = frame.map_err(|too_large| too_large.to_answer(to));
    if let Ok(frame) = &frame {
        attachments::note_work(core, to, frame);
    }
    Some(frame)
}

/// Ends a request with a frame that is encoded already.
pub(crate) fn finish_with(core: &mut Core, key: RequestKey, answer: &OutFrame<'_>) {
    if let Some(request) = end(core, key) {
        finish(core, &request, answer);
    }
}

fn finish(core: &mut Core, request: &PendingRequest, answer: &OutFrame<'_>) {
    if !queues::push(core, request.requester, answer) {
        core.counters.answers_undeliverable += 1;
    }
    note_answer(core, request);
}

/// Answers a request with an error, if its requester is still connected. With a reason, its worker is
/// told that it is over.
pub(crate) fn fail(core: &mut Core, key: RequestKey, why: &Refusal, reason: Option<CancelReason>) {
    let Some(request) = core.requests.get(key) else { return };
    let Some((application, channel)) = core.router.names(request.channel) else {
        return abandon(core, key);
    };
    let (app_id, channel_id) = (application.id_json.clone(), channel.id_json.clone());
    let Some(request) = end_unanswered(core, key, reason) else { return };
    let requester = core.connections.get(request.requester);
    if requester.is_some_and(Connection::takes_messages) {
        let address = Address { app_id: &app_id, channel_id: &channel_id };
        answers::say(core, request.requester, address, Some(request.message_id()), why);
        note_answer(core, &request);
    }
}

/// Answers a request that has timed out with an error. From now on its worker's answer is ignored. A
/// stream has this time up to its first part, and from each part to the next.
pub(crate) fn expire(core: &mut Core, key: RequestKey) {
    let Some(request) = core.requests.get(key) else { return };
    let call = core.requests.call(request);
    if let Some(stream) = call.and_then(|call| call.stream.as_ref()) {
        let timeout = core.limits.request_timeout;
        let deadline = timeout.map(|timeout| stream.active_at.saturating_add(timeout));
        if deadline.is_none_or(|deadline| deadline > core.turn.judged) {
            branches::note(Branch::StreamSpared);
            return calls::put_off(core, key, deadline);
        }
    }
    branches::note(Branch::RequestExpired);
    // The timeout may have been removed since the request began.
    let waited = || Moment::from(core.turn.now.monotonic).nanos_since(request.arrived);
    let timeout = core.limits.request_timeout.unwrap_or_else(|| Duration::from_nanos(waited()));
    let why = if request.is_kept() {
        refusal::no_worker_free(timeout)
    } else {
        refusal::request_timed_out(timeout)
    };
    fail(core, key, &why, Some(CancelReason::Deadline));
}

/// Answers a request with an error whose requester gave it less time.
pub(crate) fn expire_by_ttl(core: &mut Core, key: RequestKey) {
    let Some(request) = core.requests.get(key) else { return };
    let Some(ttl) = core.requests.call(request).and_then(|call| call.ttl) else { return };
    branches::note(Branch::TtlOver);
    core.counters.ttls_over += 1;
    let why = refusal::ttl_over(ttl.millis, !request.is_kept());
    fail(core, key, &why, Some(CancelReason::Deadline));
}

/// Drops a request whose requester has left.
pub(crate) fn abandon(core: &mut Core, key: RequestKey) {
    if end_unanswered(core, key, Some(CancelReason::Gone)).is_some() {
        branches::note(Branch::RequestAbandoned);
        core.counters.answers_undeliverable += 1;
    }
}

/// Ends a request that its worker has not answered and may never answer. It no longer counts towards
/// the worker's concurrency.
fn end_unanswered(
    core: &mut Core,
    key: RequestKey,
    reason: Option<CancelReason>,
) -> Option<PendingRequest> {
    if reason.is_some() && core.requests.get(key)?.has_call() {
        calls::note_cancel(core, key);
    }
    let request = end(core, key)?;
    if let Some(reason) = reason {
        *core.counters.cancelled.entry(reason.as_str()).or_default() += 1;
    }
    match request.answerer {
        Answerer::Worker(worker, _) => {
            if let Some(reason) = reason {
                cancels::tell(core, worker, request.id, reason);
            }
            kept::invite(core, worker, request.channel);
        }
        Answerer::Kept(_) => {
            branches::note(Branch::KeptEnded);
            queues::note_fewer_kept(core, request.channel);
            kept::invite_links(core, request.channel);
        }
        Answerer::Thread => {}
    }
    Some(request)
}

/// Removes a request from all tables. A drain may have waited for it, and for nothing else of its
/// worker and its requester.
pub(crate) fn end(core: &mut Core, key: RequestKey) -> Option<PendingRequest> {
    let (connections, router) = (&mut core.connections, &mut core.router);
    let request = core.requests.end(key, connections, router, &mut core.budget)?;
    if let Answerer::Worker(worker, _) = request.answerer {
        core.look_again(worker);
    }
    core.look_again(request.requester);
    if let Some(call) = request.call_place() {
        calls::forget(core, call, &request);
    }
    Some(request)
}

fn note_answer(core: &mut Core, request: &PendingRequest) {
    if request.has_begun() {
        // The first part of its stream was its answer.
        return;
    }
    let answered = core.turn.now.monotonic.into();
    // All the time of a request that no worker got was spent in the queue.
    let began = if request.is_kept() { answered } else { request.began };
    measuring::note_answer(core, request.channel, request.arrived, began, answered);
}
