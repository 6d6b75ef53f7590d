//! Workers, which are connections that serve requests: their channels, the choice of a worker for a
//! message, and their answers.

use std::num::NonZeroU32;
use std::time::Duration;

use super::forwarding::{self, Forward};
use super::{
    calls, cancels, channels, hand_out, interest, kept, measuring, queues, requests, streams,
};
use crate::branches::{self, Branch};
use crate::broker::limits::{WORKER_STUCK_AFTER, WORKERS_PER_CHANNEL_MAX};
use crate::broker::state::budget::OWED_BYTES;
use crate::broker::state::connection::{Connection, Obstacle, Worker};
use crate::broker::state::core::Core;
use crate::broker::state::counters::APPLICATION;
use crate::broker::state::keys::{ApplicationKey, ChannelKey, ConnectionKey, RequestKey};
use crate::broker::state::refusal::{self, Refusal, Stop};
use crate::broker::state::router::Channel;
use crate::broker::state::service::{Elsewhere, LOAD_SHIFT, Service};
use crate::proto::frame::HEADER_BYTES;
use crate::proto::{
    Envelope, ErrorCode, Extensions, JsonStr, MessageType, Meta, exact_members, has_attachments,
};

/// The outcome of an attempt to pass a message to the workers of its channel.
#[derive(Debug)]
pub(crate) enum Offer {
    Forwarded,
    NoWorkers,
    /// All of them are slow readers, so the message has to wait.
    Congested,
    Refused(Refusal),
}

/// Makes a connection a worker of the channel, or changes the number of unanswered requests that it
/// gets at a time, which is not limited without a `concurrency`, and, for a link, what its other end has.
pub(crate) fn serve(
    core: &mut Core,
    key: ConnectionKey,
    channel: ChannelKey,
    concurrency: Option<NonZeroU32>,
    elsewhere: Option<Elsewhere>,
) -> Result<(), Stop> {
    let is_link = elsewhere.is_some();
    let Some(session) = core.connections.session_mut(key) else { return Ok(()) };
    let Some(Channel { service, .. }) = core.router.channels.get(channel) else { return Ok(()) };
    let worker = session.worker.get_or_insert_default();
    let known = service.worker(key);
    if known.is_none()
        && (worker.channels.len() >= core.limits.services_per_connection_max && !is_link
            || service.workers.len() >= WORKERS_PER_CHANNEL_MAX)
    {
        branches::note(Branch::ServicesLimited);
        return Err(refusal::too_many_services().into());
    }
    let is_counted = known.is_some_and(|known| known.concurrency.is_some() || known.is_link());
    let mut in_flight = 0;
    if (concurrency.is_some() || is_link) && !is_counted && !worker.in_flight.is_empty() {
        let work = worker.in_flight.len().div_ceil(LOOKS_PER_WORK);
        let Some(connection) = core.connections.get_mut(key) else { return Ok(()) };
        if !core.turn.charge_or_wait(key, connection, work, &mut core.counters) {
            return Err(Stop::Held);
        }
        core.turn.note_work(work);
        let worker = connection.session().and_then(|session| session.worker.as_ref());
        let requests = worker.map_or(&[][..], |worker| &worker.in_flight);
        in_flight = core.requests.count_of(channel, requests);
    }
    let is_new = known.is_none();
    if let Some(Channel { service, .. }) = core.router.channels.get_mut(channel) {
        service.set_worker(key, concurrency, in_flight, elsewhere);
    }
    if is_new {
        let session = core.connections.session_mut(key);
        if let Some(worker) = session.and_then(|session| session.worker.as_mut()) {
            worker.channels.push(channel);
        }
        core.router.count_worker(channel, true);
        core.router.retain(channel);
        interest::note_workers(core, channel);
        let obstacle = Obstacle::Worker(channel);
        branches::note_if(Branch::NewWorkerWakes, || {
            core.router.line(obstacle).is_some_and(|line| !line.is_empty())
        });
        queues::wake_first(core, obstacle);
    }
    kept::invite(core, key, channel);
    Ok(())
}

/// Looks at so many requests of a worker are as much work as a delivery.
const LOOKS_PER_WORK: usize = 4;

/// Ends a connection's service of a channel. It may still answer the requests that it has.
pub(crate) fn remove(core: &mut Core, key: ConnectionKey, channel: ChannelKey) {
    let session = core.connections.session_mut(key);
    let Some(worker) = session.and_then(|session| session.worker.as_mut()) else { return };
    let Some(at) = worker.channels.iter().position(|served| *served == channel) else { return };
    worker.channels.swap_remove(at);
    detach(core, key, channel);
    channels::disown_unused(core, key, channel);
}

/// Fails the requests of a worker that went away.
pub(crate) fn retire(
    core: &mut Core,
    key: ConnectionKey,
    application: ApplicationKey,
    worker: Worker,
) {
    if let Some(application) = core.router.applications.get(application) {
        core.router.departed.keep_worker(&application.id, key, worker.round_trip);
    }
    core.budget.tables_bytes -= worker.owed.len() * OWED_BYTES;
    let lost = refusal::worker_lost();
    for request in worker.in_flight {
        branches::note(Branch::WorkerLost);
        if calls::has_retry(core, request) {
            core.turn.lost.push(request);
        } else {
            requests::fail(core, request, &lost, None);
        }
    }
    give_again(core);
    for channel in worker.channels {
        detach(core, key, channel);
    }
}

fn detach(core: &mut Core, key: ConnectionKey, channel: ChannelKey) {
    if let Some(Channel { service, .. }) = core.router.channels.get_mut(channel) {
        service.remove_worker(key);
        if service.workers.is_empty() {
            hand_out::give_up(core, channel);
        } else if service.workers.len() == service.links as usize && !service.kept.is_empty() {
            hand_out::give_up_for_links(core, channel);
        }
    }
    core.router.count_worker(channel, false);
    interest::note_workers(core, channel);
    core.router.release(channel);
}

/// Passes a request or notification on to the least loaded worker of its channel, or keeps the
/// request if none has room.
pub(crate) fn offer(
    core: &mut Core,
    from: ConnectionKey,
    channel: ChannelKey,
    envelope: &Envelope<'_>,
    meta: Option<&Meta<'_>>,
    body: &[u8],
) -> Offer {
    let message_type = envelope.message_type();
    let is_request = message_type == MessageType::Request;
    let is_attached = meta.is_some() && envelope.has_attachments();
    let worker = match least_loaded(core, channel, from, is_request, needed(is_attached)) {
        Choice::Worker(worker) => Some(worker),
        Choice::Keep => None,
        Choice::TooMuchKept => return Offer::Refused(refusal::too_much_kept()),
        Choice::AllBehind => return Offer::Congested,
        Choice::NoWorkers => return Offer::NoWorkers,
    };
    let id;
    let mut request = None;
    let message_id = if is_request {
        let key = match requests::begin(core, from, channel, envelope, worker) {
            Ok(key) => key,
            Err(why) => return Offer::Refused(why),
        };
        request = Some(key);
        let Some(pending) = core.requests.get(key) else { return Offer::NoWorkers };
        id = pending.id.text();
        id.as_bytes()
    } else {
        envelope.message_id().raw().as_bytes()
    };
    if let (Some(meta), Some(request)) = (meta, request) {
        calls::attach(core, request, meta);
    }
    let forward = Forward { worker, request, message_id, envelope, body };
    let forwarded = match meta {
        None => forwarding::plain(core, &forward),
        Some(meta) => forwarding::with_meta(core, &forward, meta),
    };
    match forwarded {
        Ok(()) => Offer::Forwarded,
        Err(why) => Offer::Refused(why),
    }
}

/// Gives requests whose worker was lost to other ones, as many as this turn has room for. Returns
/// whether there was one.
#[cold]
pub(crate) fn give_again(core: &mut Core) -> bool {
    let mut has_given = false;
    while let Some(request) = core.turn.next_lost() {
        has_given = true;
        if !retry(core, request) {
            requests::fail(core, request, &refusal::worker_lost(), None);
        }
    }
    branches::note_if(Branch::LostLeftOver, || !core.turn.lost.is_empty());
    has_given
}

/// Gives a request whose worker was lost to another one that has room, unless it is over by now.
/// Returns whether it did.
#[cold]
fn retry(core: &mut Core, key: RequestKey) -> bool {
    let Some(request) = core.requests.get(key) else { return false };
    let (channel, requester) = (request.channel, request.requester);
    let workers = core.router.channels.get(channel).map_or(0, |found| found.service.workers.len());
    core.turn.note_work(1 + workers / LOOKS_PER_WORK);
    let Some(frame) = calls::take_retry(core, key) else { return false };
    let needs = needed(has_attachments(&frame.bytes()[HEADER_BYTES..]));
    let Choice::Worker(worker) = least_loaded(core, channel, requester, true, needs) else {
        return false;
    };
    branches::note(Branch::RequestRetried);
    let now = core.turn.now.monotonic;
    let began = core.latency.begin(now.into());
    let (connections, router) = (&mut core.connections, &mut core.router);
    core.requests.reassign(key, worker, began, connections, router);
    if let Some((_, call)) = core.requests.with_call(key)
        && let Some(stream) = &mut call.stream
    {
        stream.restart(now);
    }
    match calls::send_kept(core, key, worker, frame) {
        Ok(()) => {
            measuring::note_handed(core, worker);
            core.counters.forwarded += 1;
            core.counters.retried += 1;
        }
        Err(why) => requests::fail(core, key, &why, None),
    }
    cancels::pass_credit(core, key);
    true
}

/// The worker for a message, or the reason why there is none.
enum Choice {
    Worker(ConnectionKey),
    /// All are at their concurrency: the request has to be kept.
    Keep,
    /// So many are kept that another one is refused.
    TooMuchKept,
    /// All are slow readers.
    AllBehind,
    NoWorkers,
}

/// Returns the extensions without which a worker gets a message in another form.
#[inline]
fn needed(is_attached: bool) -> Extensions {
    if is_attached { Extensions::BINARY } else { Extensions::NONE }
}

/// Chooses the worker with the fewest requests in flight among those with the extensions, or else among
/// the others, or none if the request has to be kept. A worker that is stuck gets nothing while another
/// one has room. If all others are at their concurrency, it gets some: it may just be slow, and what it
/// gets is bounded by its own.
fn least_loaded(
    core: &mut Core,
    key: ChannelKey,
    from: ConnectionKey,
    is_request: bool,
    needs: Extensions,
) -> Choice {
    let Some(channel) = core.router.channels.get_mut(key) else { return Choice::NoWorkers };
    let Service { workers, next, kept, links, .. } = &mut channel.service;
    if workers.is_empty() {
        return Choice::NoWorkers;
    }
    if *links > 0 {
        return least_loaded_with_links(core, key, from, is_request, needs);
    }
    if is_request && !kept.is_empty() {
        // Those that came before it have to be handed out first.
        return if kept::is_full(core, key) { Choice::TooMuchKept } else { Choice::Keep };
    }
    let stuck_since = core.turn.now.monotonic.checked_sub(WORKER_STUCK_AFTER);
    let first = *next % workers.len();
    let mut chosen: Option<((u8, usize), usize, ConnectionKey)> = None;
    for offset in 0..workers.len() {
        let at = first + offset;
        let at = if at < workers.len() { at } else { at - workers.len() };
        let worker = workers[at];
        if is_request && !worker.has_room() {
            continue;
        }
        let connection = core.connections.get(worker.key);
        let Some(load) = load_of(connection, stuck_since, needs) else { continue };
        // Of equally loaded workers, the first one gets the request, and the next search starts
        // behind it.
        if chosen.is_none_or(|(least, ..)| load < least) {
            chosen = Some((load, at, worker.key));
        }
    }
    let is_behind = |key| core.connections.get(key).is_some_and(|c| c.congested.is_some());
    branches::note_if(Branch::WorkerBehindSkipped, || {
        workers.iter().any(|worker| is_behind(worker.key))
    });
    let Some((_, at, worker)) = chosen else {
        let is_one_full = workers.iter().any(|worker| !worker.has_room() && !is_behind(worker.key));
        return if is_request && is_one_full { Choice::Keep } else { Choice::AllBehind };
    };
    branches::note_if(Branch::WorkersTakeTurns, || first > 0 && at == first);
    branches::note_if(Branch::WorkerWithLessChosen, || {
        at != first && !is_behind(workers[first].key)
    });
    *next = at + 1;
    Choice::Worker(worker)
}

/// The workers behind a link are chosen as if each had so many more requests in flight, because a local one
/// answers sooner.
const LINK_HANDICAP: u64 = 8;

/// Does the same for a channel that links serve, too. What is in flight behind a link is shared by the workers
/// there. Links get nothing that comes from a link, so that no message goes round.
#[cold]
fn least_loaded_with_links(
    core: &mut Core,
    key: ChannelKey,
    from: ConnectionKey,
    is_request: bool,
    needs: Extensions,
) -> Choice {
    let is_of_link = core.connections.is_link(from);
    let Some(channel) = core.router.channels.get_mut(key) else { return Choice::NoWorkers };
    let Service { workers, next, kept, .. } = &mut channel.service;
    let is_behind_kept = is_request && !kept.is_empty();
    let stuck_since = core.turn.now.monotonic.checked_sub(WORKER_STUCK_AFTER);
    let first = *next % workers.len();
    let mut chosen = None;
    let (mut may_any, mut is_one_full) = (false, false);
    for at in (first..workers.len()).chain(0..first) {
        let worker = workers[at];
        if is_of_link && worker.is_link() {
            continue;
        }
        may_any = true;
        let connection = core.connections.get(worker.key);
        let is_full = is_request && !worker.has_room();
        // Those that came before it have to be handed out first. A link may get it all the same: what is
        // kept although a link has room came from a link.
        if is_full || is_behind_kept && !worker.is_link() {
            is_one_full |= connection.is_some_and(|found| found.congested.is_none());
            continue;
        }
        let Some((against, in_flight)) = load_of(connection, stuck_since, needs) else { continue };
        let load = match worker.load_elsewhere() {
            Some(load) => load + (LINK_HANDICAP << LOAD_SHIFT),
            None => (in_flight as u64 + 1) << LOAD_SHIFT,
        };
        let load = (against, load, worker.is_link());
        if chosen.is_none_or(|(least, _)| load < least) {
            chosen = Some((load, at));
        }
    }
    match chosen {
        Some((_, at)) => {
            *next = at + 1;
            Choice::Worker(workers[at].key)
        }
        None if !may_any => Choice::NoWorkers,
        None if is_behind_kept || is_request && is_one_full => {
            if kept::is_full(core, key) {
                Choice::TooMuchKept
            } else {
                Choice::Keep
            }
        }
        None => Choice::AllBehind,
    }
}

/// Returns how much speaks against a worker, that it is stuck more than that it lacks an extension, and
/// the number of its requests in flight. One that is a slow reader gets nothing.
#[inline]
fn load_of(
    worker: Option<&Connection>,
    stuck_since: Option<Duration>,
    needs: Extensions,
) -> Option<(u8, usize)> {
    let connection = worker.filter(|connection| connection.congested.is_none())?;
    let worker = connection.session()?.worker.as_ref()?;
    let is_silent = worker.silent_since.is_some_and(|since| Some(since) < stuck_since);
    // One that was told to stop may have had nothing to say. It is tried with one request.
    let is_tried = || {
        worker.in_flight.len() == worker.stalled && connection.extensions.contains(Extensions::CALL)
    };
    let is_stuck = is_silent && !is_tried();
    let lacks_one = !connection.extensions.contains(needs);
    Some((2 * u8::from(is_stuck) + u8::from(lacks_one), worker.in_flight.len()))
}

/// Passes a worker's response on to the requester. Returns whether `from` was the worker of that
/// request.
pub(crate) fn take_answer(
    core: &mut Core,
    from: ConnectionKey,
    response: &Envelope<'_>,
    body: &[u8],
) -> bool {
    let Some(reply_to) = response.reply_to() else { return false };
    let id = reply_to.decode();
    let found = core.requests.find(&id).filter(|(_, request)| request.is_with(from));
    let Some((key, request)) = found else {
        // It comes too late, and shows that its worker is not stuck.
        measuring::note_answer_of(core, from);
        return false;
    };
    let (channel, began, has_begun) = (request.channel, request.began, request.has_begun());
    if !has_begun {
        measuring::record_round_trip(core, from, began);
    }
    if let Some(text) = response.meta_str() {
        take_extended(core, (from, key), response, text, body);
    } else {
        count_error(core, response);
        requests::relay(core, key, response, body);
        if has_begun {
            measuring::note_answer_of(core, from);
        }
    }
    if core.requests.kept() > 0 {
        hand_out::first(core, channel, from);
    }
    true
}

/// Takes a response with a `meta`, which may be a part of a stream.
#[cold]
fn take_extended(
    core: &mut Core,
    (from, key): (ConnectionKey, RequestKey),
    response: &Envelope<'_>,
    meta: &str,
    body: &[u8],
) {
    let meta = streams::read_meta(core, from, response, meta);
    // A part is no error whatever its payload, and a response with an unusable `meta` is no answer.
    if meta.is_ok_and(|meta| meta.seq.is_none()) {
        count_error(core, response);
    }
    streams::take(core, from, key, response, body, meta);
    measuring::note_answer_of(core, from);
}

#[inline]
fn count_error(core: &mut Core, response: &Envelope<'_>) {
    if let Some(code) = error_code(response.payload_str()) {
        core.counters.count_worker_error(code);
    }
}

/// Errors are shorter. Longer answers are not looked into.
const ERROR_BYTES_MAX: usize = 16 << 10;
/// The beginning of the codes that workers define.
const OWN_CODES: &str = "app:";

/// The members of an error, one of which is the first.
const ERROR_MEMBERS: [&str; 4] = ["\"status\"", "\"code\"", "\"error\"", "\"details\""];

/// Returns the code of an answer that is an error. Most other answers cost a look at their first
/// bytes.
fn error_code(payload: &str) -> Option<&'static str> {
    let first = payload.strip_prefix('{')?.trim_ascii_start();
    if payload.len() > ERROR_BYTES_MAX || !ERROR_MEMBERS.iter().any(|key| first.starts_with(key)) {
        return None;
    }
    let [status, code, error, _details] =
        exact_members(payload, ["status", "code", "error", "details"])?;
    string(status?).filter(|status| status.matches("error"))?;
    string(error?)?;
    let code = string(code?)?;
    if code.beginning(OWN_CODES.len()) == OWN_CODES {
        return Some(APPLICATION);
    }
    ErrorCode::ALL.into_iter().map(ErrorCode::as_str).find(|known| code.matches(known))
}

/// Returns the string that a value is.
fn string(value: &str) -> Option<JsonStr<'_>> {
    let raw = value.strip_prefix('"')?.strip_suffix('"')?;
    Some(JsonStr::new(raw, raw.contains('\\')))
}

#[cfg(test)]
mod tests {
    use super::error_code;

    #[test]
    fn an_error_of_a_worker_is_told_from_other_answers() {
        for (payload, code) in [
            (r#"{"status":"error","code":"handler_failed","error":"why"}"#, Some("handler_failed")),
            (
                r#"{ "status": "error", "error": "why", "code": "limit_exceeded"}"#,
                Some("limit_exceeded"),
            ),
            (r#"{"status":"error","code":"app:no_tea","error":"why","details":[1]}"#, Some("app")),
            (r#"{"status":"error","code":"own","error":"why"}"#, None),
            (r#"{"status":"error","code":"timeout"}"#, None),
            (r#"{"status":"error","code":7,"error":"why"}"#, None),
            (r#"{"status":"ok","code":"timeout","error":"why"}"#, None),
            (r#"{"code":"timeout","error":"why","status":"error"}"#, Some("timeout")),
            (r#"{"code":"t\u0069meout","error":"\"","status":"error"}"#, Some("timeout")),
            (r#"{"details":{},"status":"error","error":"","code":"app:"}"#, Some("app")),
            (r#"{"other":1,"status":"error","error":"why","code":"timeout"}"#, None),
            (r#"{"code":"timeout","error":"why"}"#, None),
            (r#"{"status":"error","error":"why","code":"timeout","other":1}"#, None),
            (r#"{"status":"error","error":"why","code":"timeout","code":"app:x"}"#, None),
            ("{}", None),
            ("[]", None),
            ("\"status\"", None),
        ] {
            assert_eq!(error_code(payload), code, "{payload}");
        }
        let long = "x".repeat(super::ERROR_BYTES_MAX);
        let long = format!(r#"{{"status":"error","code":"timeout","error":"{long}"}}"#);
        assert_eq!(error_code(&long), None);
    }
}
