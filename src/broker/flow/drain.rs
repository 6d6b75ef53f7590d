//! The end of the server: it answers the requests in flight, notifies all peers, and sends their
//! queues.

use super::{answers, closing, kept, requests};
use crate::branches::{self, Branch};
use crate::broker::state::connection::Connection;
use crate::broker::state::core::{Core, Lifecycle};
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::refusal;
use crate::broker::state::timers::Due;
use crate::proto::system::CancelReason;

/// Begins to drain: new requests are refused, and all peers are notified. Messages that have arrived
/// are still processed. Each connection is closed after them, once it has no request in flight, see
/// [`close_if_idle`].
pub(crate) fn begin(core: &mut Core) {
    if core.is_draining() {
        return;
    }
    core.server.lifecycle = Lifecycle::Draining;
    let deadline = core.turn.deadline_in(core.limits.drain_timeout);
    core.timers.arm(deadline, Due::DrainDeadline);
    crate::trace::draining(core.connections.len(), core.requests.len());
    for key in core.connections.keys() {
        let is_told = |found: &Connection| found.is_live() && !found.is_link();
        if core.connections.get(key).is_some_and(is_told) {
            answers::report(core, key, &refusal::drain_notice());
        }
        core.look_again(key);
    }
}

/// Closes a connection of which nothing more can be read, if the server drains and no request of the
/// connection or for it is in flight or kept.
pub(crate) fn close_if_idle(core: &mut Core, key: ConnectionKey) {
    let Some(connection) = core.connections.get(key) else { return };
    // If its queue was sent in this turn, it may go on, and has not done so yet.
    let has_frame = connection.recv.has_frame(connection.frame_bytes_max as usize);
    if !core.is_draining() || !connection.may_proceed() || has_frame {
        branches::note(Branch::DrainFoundBusy);
        return;
    }
    let busy = connection
        .session()
        .is_some_and(|session| !session.requests.is_empty() || session.requests_in_flight() > 0);
    if !busy && !kept::are_for(core, key) {
        branches::note(Branch::DrainClosed);
        closing::begin(core, key);
    }
}

/// Ends a drain that took too long: requesters that still wait get an error, and bytes that do not
/// fit into the kernel at once are lost.
pub(crate) fn cut_off(core: &mut Core) {
    let pending = core.requests.keys();
    crate::trace::drained(pending.len());
    branches::note(Branch::DrainCutOff);
    for request in pending {
        requests::fail(core, request, &refusal::cut_off(), Some(CancelReason::Drain));
    }
    for key in core.connections.keys() {
        closing::begin(core, key);
    }
    core.server.lifecycle = Lifecycle::CutOff;
}

/// Returns whether the server can end: all connections are closed, or the drain's time is up.
#[inline]
pub(crate) fn is_over(core: &Core) -> bool {
    match core.server.lifecycle {
        Lifecycle::Running => false,
        Lifecycle::Draining => core.connections.len() == 0,
        // Each connection had one more flush, for the bytes that fit into the kernel.
        Lifecycle::CutOff => core.agenda.has_no_actions(),
    }
}
