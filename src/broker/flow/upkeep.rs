//! The end of each call, and the passing of time.

use std::time::Duration;

use super::topic::keeping;
use super::{closing, drain, memory, queues, requests, workers};
use crate::branches::{self, Branch};
use crate::broker::limits::AWAY_MIN;
use crate::broker::state::core::Core;
use crate::broker::state::timers::Due;

/// Returns whether [`settle`] has nothing to do, and there is no news for the hooks.
#[inline]
pub(crate) fn is_settled(core: &Core) -> bool {
    core.agenda.is_settled() && memory::is_ample(core)
}

/// Closes connections that could not be closed while they were iterated over, and checks the memory
/// budget.
pub(crate) fn settle(core: &mut Core) {
    while let Some(key) = core.agenda.doomed.pop() {
        closing::close_now(core, key);
    }
    memory::mind(core);
}

/// Returns the time at which [`expire`] has something to do.
#[inline]
pub(crate) fn next_deadline(core: &Core) -> Option<Duration> {
    if core.turn.lost.is_empty() { next_timer(core) } else { Some(Duration::ZERO) }
}

#[inline]
fn next_timer(core: &Core) -> Option<Duration> {
    match (core.timers.next_deadline(), core.requests.next_deadline()) {
        (Some(timer), Some(request)) => Some(timer.min(request)),
        (timer, request) => timer.or(request),
    }
}

/// Returns whether [`expire`] has something to do now.
#[inline]
pub(crate) fn is_due(core: &Core) -> bool {
    next_deadline(core).is_some_and(|deadline| deadline <= core.turn.now.monotonic)
}

/// Goes on with what an earlier turn left over, or carries out the earliest timer that is due. Returns
/// whether there was anything to do.
pub(crate) fn expire(core: &mut Core) -> bool {
    if !core.turn.lost.is_empty() && workers::give_again(core) {
        return true;
    }
    let now = core.turn.judged;
    let request = core.requests.overdue(now);
    if let Some(key) = request.filter(|_| core.requests.next_deadline() == next_timer(core)) {
        requests::expire(core, key);
        return true;
    }
    let Some((deadline, due)) = core.timers.expire(now) else { return false };
    match due {
        Due::Linger(key) if was_away(core, deadline) => closing::wait_longer(core, key),
        Due::Grace(key) if was_away(core, deadline) => queues::renew_grace(core, key),
        Due::Memory if was_away(core, deadline) => memory::renew_grace(core),
        Due::Handshake(key) => closing::time_out_handshake(core, key),
        Due::Linger(key) => {
            branches::note(Branch::LingerEnded);
            closing::close_now(core, key);
        }
        Due::Idle(key) => closing::check_idle(core, key),
        Due::Grace(key) => closing::end_grace(core, key),
        Due::Stream(key) => requests::expire(core, key),
        Due::Deadline(key) => requests::expire_by_ttl(core, key),
        Due::Memory => memory::end_grace(core),
        Due::Ageing(channel) => keeping::age(core, channel),
        Due::Bus(key) => closing::begin(core, key),
        Due::DrainDeadline => drain::cut_off(core),
    }
    true
}

/// Returns whether the server did not run when a deadline came, as in a container that was paused.
/// Nobody can read meanwhile what the server has not sent, so the grace of slow readers begins anew.
fn was_away(core: &Core, deadline: Duration) -> bool {
    core.turn.now.monotonic.saturating_sub(deadline) > AWAY_MIN
}
