//! The end of each call, and the passing of time.

use super::{closing, drain, memory, requests};
use crate::broker::state::core::Core;
use crate::broker::state::timers::Due;

/// Closes connections that could not be closed while they were iterated over, and looks at the
/// memory.
pub(crate) fn settle(core: &mut Core) {
    while let Some(key) = core.agenda.doomed.pop() {
        closing::close_now(core, key);
    }
    memory::mind(core);
}

/// Does one thing that is due.
pub(crate) fn expire(core: &mut Core, due: Due) {
    match due {
        Due::Handshake(key) => closing::time_out_handshake(core, key),
        Due::Linger(key) => closing::close_now(core, key),
        Due::Idle(key) => closing::check_idle(core, key),
        Due::Grace(key) => closing::end_grace(core, key),
        Due::Request(key) => requests::expire(core, key),
        Due::Memory => memory::end_grace(core),
        Due::DrainDeadline => drain::cut_off(core),
    }
}
