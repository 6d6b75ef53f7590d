//! Hands requests that were kept to workers that have room.

use super::{calls, cancels, kept, measuring, queues, requests};
use crate::branches::{self, Branch};
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ChannelKey, ConnectionKey, RequestKey};
use crate::broker::state::refusal;
use crate::broker::state::requests::PendingRequest;
use crate::broker::state::service::ServiceWorker;
use crate::proto::OutFrame;

/// Hands the first request that is kept for a channel to a worker, if that has room. Returns whether
/// it got one.
#[cold]
pub(crate) fn first(core: &mut Core, channel: ChannelKey, worker: ConnectionKey) -> bool {
    let Some(service) = core.router.channels.get(channel).map(|found| &found.service) else {
        return false;
    };
    let Some(first) = service.kept.first() else { return false };
    let links = service.links;
    if links > 0 && goes_round(core, first, worker) {
        return false;
    }
    let has_room = service.worker(worker).is_some_and(ServiceWorker::has_room);
    let connection = core.connections.get(worker).filter(|found| found.takes_messages());
    if !has_room || connection.is_none_or(|found| found.congested.is_some()) {
        return false;
    }
    let now = core.turn.now.monotonic;
    let began = core.latency.begin(now.into());
    let (connections, router) = (&mut core.connections, &mut core.router);
    let frame = core.requests.hand_out(first, worker, began, connections, router);
    let Some(frame) = frame else { return false };
    branches::note(Branch::KeptHandedOut);
    if core.requests.get(first).is_some_and(PendingRequest::has_call) {
        calls::keep_for_retry(core, first, &frame);
        match calls::send_kept(core, first, worker, frame) {
            Ok(()) => note_handed(core, worker),
            Err(why) => requests::fail(core, first, &why, None),
        }
        cancels::pass_credit(core, first);
    } else {
        note_handed(core, worker);
        queues::push(core, worker, &OutFrame::shared(frame));
    }
    queues::note_fewer_kept(core, channel);
    if links > 0 {
        kept::invite_links(core, channel);
    }
    true
}

/// Returns whether a request comes from a link, and its worker is one.
#[cold]
fn goes_round(core: &Core, request: RequestKey, worker: ConnectionKey) -> bool {
    let requester = core.requests.get(request).map(|request| request.requester);
    core.connections.is_link(worker)
        && requester.is_some_and(|requester| core.connections.is_link(requester))
}

fn note_handed(core: &mut Core, worker: ConnectionKey) {
    measuring::note_handed(core, worker);
    core.counters.forwarded += 1;
}

/// Tells a connection what it is owed, and hands it what it has room for, if it was invited. It gets
/// no more in a turn than a connection may send in one. What it owes to the workers of its own streams
/// is passed on before.
#[cold]
pub(crate) fn to_invited(core: &mut Core, worker: ConnectionKey) {
    let Some(connection) = core.connections.get_mut(worker) else { return };
    if !std::mem::take(&mut connection.takes_kept) {
        return;
    }
    let most = core.limits.turn.frames_per_connection_max.min(core.turn.steps_max);
    cancels::pass_all_credit(core, worker);
    let mut left = cancels::settle(core, worker, most);
    if left == 0 {
        // There may be more, and it may serve no channel any more.
        return kept::resume(core, worker);
    }
    for at in 0.. {
        let session = core.connections.session(worker);
        let duties = session.and_then(|session| session.worker.as_ref());
        let Some(&channel) = duties.and_then(|duties| duties.channels.get(at)) else { return };
        while left > 0 && first(core, channel, worker) {
            branches::note(Branch::KeptTaken);
            left -= 1;
        }
        if left == 0 {
            // There may be more. The next turn begins with the next channel, so that each gets its turn.
            let session = core.connections.session_mut(worker);
            if let Some(duties) = session.and_then(|session| session.worker.as_mut()) {
                duties.channels.rotate_left(at + 1);
            }
            return kept::resume(core, worker);
        }
    }
}

/// Answers the requests that are kept for a channel and come from links, because only links serve it by
/// now, and lets these take the others.
#[cold]
pub(crate) fn give_up_for_links(core: &mut Core, channel: ChannelKey) {
    let of_links = core.requests.keys().into_iter().filter(|key| {
        core.requests.get(*key).is_some_and(|request| {
            request.channel == channel
                && request.is_kept()
                && core.connections.is_link(request.requester)
        })
    });
    for request in of_links.collect::<Vec<_>>() {
        requests::fail(core, request, &refusal::workers_left(), None);
    }
    kept::invite_links(core, channel);
}

/// Answers all requests that are kept for a channel whose last worker has left.
pub(crate) fn give_up(core: &mut Core, channel: ChannelKey) {
    while let Some(found) = core.router.channels.get(channel)
        && let Some(first) = found.service.kept.first()
    {
        branches::note(Branch::KeptGivenUp);
        requests::fail(core, first, &refusal::workers_left(), None);
    }
}
