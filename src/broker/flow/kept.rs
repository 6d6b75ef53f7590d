//! Requests that are kept because each worker of their channel has as many unanswered ones as it
//! takes at a time.
//!
//! As long as requests of a channel are kept, each of its workers is at its limit, or is a slow
//! reader, or is about to be handed some of them. So whatever gives a worker room either hands it the
//! first one at once, as an answer does, or invites it to take some in its next turn, see
//! [`hand_out`](super::hand_out).

use crate::branches::{self, Branch};
use crate::broker::limits::KEPT_MARKS_MAX;
use crate::broker::state::core::Core;
use crate::broker::state::events::Action;
use crate::broker::state::keys::{ChannelKey, ConnectionKey, RequestKey};
use crate::broker::state::service::ServiceWorker;
use crate::proto::OutFrame;

/// Keeps a request until a worker has room. The frame is the one that the worker will get.
#[cold]
pub(crate) fn keep(core: &mut Core, request: RequestKey, frame: &OutFrame<'_>) {
    branches::note(Branch::RequestKept);
    let frame = frame.to_kept(&mut core.pool);
    core.requests.keep(request, frame, &mut core.connections, &mut core.router);
}

/// Lets a worker take requests that are kept for a channel in its next turn, if there are any.
pub(crate) fn invite(core: &mut Core, worker: ConnectionKey, channel: ChannelKey) {
    if !is_empty(core, channel) {
        resume(core, worker);
    }
}

/// Lets the links among the workers of a channel take requests that are kept, because the first one is
/// another now: it may be one that they may take, as one of another link is not.
#[cold]
pub(crate) fn invite_links(core: &mut Core, channel: ChannelKey) {
    let Some(found) = core.router.channels.get(channel) else { return };
    for worker in found.service.workers.clone().into_iter().filter(ServiceWorker::is_link) {
        invite(core, worker.key, channel);
    }
}

/// Lets a connection whose queue has room again be told in its next turn what it is owed as a worker,
/// and the workers of its streams of the credit that it gave.
pub(crate) fn invite_owed(core: &mut Core, key: ConnectionKey) {
    let Some(session) = core.connections.session(key) else { return };
    let is_owed = session.worker.as_ref().is_some_and(|duties| !duties.owed.is_empty());
    if is_owed || session.calls.is_some() {
        resume(core, key);
    }
}

/// Lets a worker take requests, and be told what it is owed, in its next turn.
pub(crate) fn resume(core: &mut Core, worker: ConnectionKey) {
    let Some(connection) = core.connections.get_mut(worker) else { return };
    if !std::mem::replace(&mut connection.takes_kept, true) {
        core.agenda.actions.push_back(Action::Resume(worker));
    }
}

/// Returns whether so many bytes are kept for a channel that more are refused.
#[cold]
pub(crate) fn is_full(core: &Core, channel: ChannelKey) -> bool {
    let bytes_max = core.limits.queue_high_water_bytes.saturating_mul(KEPT_MARKS_MAX);
    core.router.channels.get(channel).is_some_and(|found| found.service.kept.bytes() > bytes_max)
}

/// Returns whether requests are kept that a connection may be handed.
pub(crate) fn are_for(core: &Core, worker: ConnectionKey) -> bool {
    let session = core.connections.session(worker);
    let duties = session.and_then(|session| session.worker.as_ref());
    duties.is_some_and(|duties| duties.channels.iter().any(|channel| !is_empty(core, *channel)))
}

fn is_empty(core: &Core, channel: ChannelKey) -> bool {
    core.router.channels.get(channel).is_none_or(|found| found.service.kept.is_empty())
}
