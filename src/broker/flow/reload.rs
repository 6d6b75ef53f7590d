//! Changes the limits and access rules of a running server.

use super::topic::keeping;
use super::{calls, memory, queues};
use crate::branches::{self, Branch};
use crate::broker::access::Access;
use crate::broker::limits::Limits;
use crate::broker::state::connection::State;
use crate::broker::state::core::Core;
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::timers::Due;

/// Replaces limits and access rules. No connection is closed: timers that run keep their deadline,
/// and whatever exceeds a lowered limit stays until it ends by itself.
pub(crate) fn reconfigure(core: &mut Core, limits: Limits, access: Access) {
    let before = std::mem::replace(&mut core.limits, limits);
    core.access = access;
    branches::note(Branch::Reloaded);
    core.turn.change_limits(&core.limits.turn);
    let connections = &mut core.connections;
    // This bound is only ever raised: a queue above the lower one had been allowed, and has a grace.
    connections.queue_bytes_max = connections.queue_bytes_max.max(core.limits.queue_bytes_max());
    let is_raised = core.limits.frame_bytes_max > before.frame_bytes_max;
    // What comes by a link was allowed where it comes from. The bridge refuses it one by one, and the link stays.
    for connection in connections.values_mut().filter(|found| is_raised || !found.is_link()) {
        connection.change_frame_limit(core.limits.frame_bytes_max);
    }
    if core.limits.idle_timeout != before.idle_timeout {
        for key in core.connections.keys() {
            arm_idle(core, key);
        }
    }
    if core.limits.queue_high_water_bytes > before.queue_high_water_bytes {
        core.connections.keys().into_iter().for_each(|key| queues::note_higher_mark(core, key));
    }
    if before.request_timeout.is_none()
        && let Some(timeout) = core.limits.request_timeout
    {
        calls::begin_timeouts(core, timeout);
    }
    if core.limits.histories != before.histories {
        keeping::reconfigure(core);
    }
    memory::begin_whole(core, before.memory_bytes_max);
    memory::mind(core);
}

/// Restarts the idle timeout, because a connection that was silent before did not know of it.
fn arm_idle(core: &mut Core, key: ConnectionKey) {
    let deadline = core.limits.idle_timeout.map(|timeout| core.turn.deadline_in(timeout));
    let Some(connection) = core.connections.get_mut(key) else { return };
    let is_timed = matches!(connection.state(), State::Open(_) | State::Superseded);
    if is_timed && !connection.is_link() {
        let idle = deadline.map(|deadline| (deadline, Due::Idle(key)));
        core.timers.reset(&mut connection.timer, idle);
    }
}
