//! The end of the server: requests in flight are answered, everybody is told, and all is flushed.

use super::{answers, closing, requests};
use crate::broker::state::connection::Connection;
use crate::broker::state::core::{Core, Lifecycle};
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::refusal;
use crate::broker::state::timers::Due;

/// From here on new requests are refused, and everybody is told. What has arrived is still read
/// and answered: each connection is closed when it is at the end of that and no request of its is
/// in flight, see [`close_if_idle`].
pub(crate) fn begin(core: &mut Core) {
    if core.is_draining() {
        return;
    }
    core.server.lifecycle = Lifecycle::Draining;
    let deadline = core.turn.deadline_in(core.limits.drain_timeout);
    core.timers.arm(deadline, Due::DrainDeadline);
    crate::trace::draining(core.connections.len(), core.requests.len());
    for key in core.connections.keys() {
        if core.connections.get(key).is_some_and(Connection::is_live) {
            answers::report(core, key, &refusal::shutting_down());
        }
        core.look_again(key);
    }
}

/// Nothing more of this connection can be read: closes it if the server drains and it neither
/// waits nor is waited for.
pub(crate) fn close_if_idle(core: &mut Core, key: ConnectionKey) {
    let Some(connection) = core.connections.get(key) else { return };
    if !core.is_draining() || !connection.may_proceed() {
        return;
    }
    let busy = connection
        .session()
        .is_some_and(|session| !session.requests.is_empty() || session.requests_in_flight() > 0);
    if !busy {
        closing::begin(core, key);
    }
}

/// The drain took too long: requesters that still wait are told, and all that does not fit into
/// the kernel at once is lost.
pub(crate) fn cut_off(core: &mut Core) {
    let pending = core.requests.keys();
    crate::trace::drained(pending.len());
    for request in pending {
        requests::fail(core, request, &refusal::cut_off());
    }
    for key in core.connections.keys() {
        closing::begin(core, key);
    }
    core.server.lifecycle = Lifecycle::CutOff;
}

/// Returns whether the server can end: all connections are closed, or the drain's time is up.
pub(crate) fn is_over(core: &Core) -> bool {
    match core.server.lifecycle {
        Lifecycle::Running => false,
        Lifecycle::Draining => core.connections.len() == 0,
        // Each connection had one more flush, for the bytes that fit into the kernel.
        Lifecycle::CutOff => core.agenda.actions.is_empty(),
    }
}
