//! The memory budget, and the measures of the server when memory runs short.
//!
//! They follow one another by fractions of [`Limits::memory_bytes_max`](crate::Limits), the whole:
//! 1. above three quarters, new connections, channels and subscriptions are refused, and a
//!    connection whose message stays unfinished for long is closed;
//! 2. above seven eighths, unfinished messages and publications wait, until less than three quarters
//!    is held again or the grace of slow consumers is over;
//! 3. then, or at once above the whole, the connections that hold the most are closed, one after the
//!    other.
//!
//! If the whole is lowered below the memory that is held, the second stage begins with its grace.

use super::topic::keeping;
use super::{channels, closing};
use crate::branches::{self, Branch};
use crate::broker::state::budget::{
    CALL_BYTES, CHANNEL_BYTES, MemoryPressure, OWED_BYTES, REPLAY_BYTES, REQUEST_BYTES,
    SUBSCRIPTION_BYTES,
};
use crate::broker::state::connection::{Connection, Held};
use crate::broker::state::core::Core;
use crate::broker::state::events::Action;
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::refusal::{self, Refusal};
use crate::broker::state::timers::Due;

/// An unfinished message up to this size does not wait, so that a peer that writes header and body
/// separately is not held back because of a header.
const SMALL_BYTES_MAX: usize = 4 << 10;

/// The time for an unfinished message while others are refused for lack of memory, in graces.
const UNFINISHED_GRACES_MAX: u32 = 6;

/// The fraction of the grace that is left if memory is short again soon after connections were
/// closed. In that case many connections hold it.
const GRACE_PARTS: u32 = 10;

/// Checks the budget. It is called after everything that may add to it.
pub(crate) fn mind(core: &mut Core) {
    if !is_ample(core) {
        apply_pressure(core);
    }
}

/// Returns whether there is enough memory, and was when it was last looked at.
#[inline]
pub(crate) fn is_ample(core: &Core) -> bool {
    core.budget.pressure == MemoryPressure::None && core.memory_bytes() <= refuse_above_bytes(core)
}

#[inline]
fn refuse_above_bytes(core: &Core) -> usize {
    core.limits.memory_bytes_max / 4 * 3
}

#[cold]
fn apply_pressure(core: &mut Core) {
    // Free buffers, which are kept for speed, are released first, and channels that nobody uses.
    core.pool.trim();
    if core.budget.pressure == MemoryPressure::None {
        channels::forget_unused(core);
    }
    if core.router.holding > 0 && core.memory_bytes() > refuse_above_bytes(core) {
        // What is kept for later goes before anybody is refused or closed. A little more of it goes
        // than has to, so that not every message comes here.
        let bytes_max = core.limits.memory_bytes_max / 16 * 11;
        keeping::shrink(core, bytes_max);
    }
    // Above the whole, there is no grace.
    let whole_bytes = core.budget.former_bytes_max.unwrap_or(core.limits.memory_bytes_max);
    shed_down_to(core, whole_bytes);
    let held_bytes = core.memory_bytes();
    core.budget.former_bytes_max.take_if(|_| held_bytes <= core.limits.memory_bytes_max);
    let pause_above_bytes = core.limits.memory_bytes_max / 8 * 7;
    let before = core.budget.pressure;
    let after = if held_bytes > pause_above_bytes {
        MemoryPressure::Pausing
    } else if held_bytes <= refuse_above_bytes(core) {
        MemoryPressure::None
    } else {
        // Connections that wait go on only once there is room for more than the next read.
        before.max(MemoryPressure::Refusing)
    };
    if before == after {
        return;
    }
    match after {
        MemoryPressure::None => {}
        MemoryPressure::Refusing => branches::note(Branch::MemoryRefusing),
        MemoryPressure::Pausing => branches::note(Branch::MemoryPausing),
    }
    core.budget.pressure = after;
    if after > before {
        crate::trace::memory_short(held_bytes, core.limits.memory_bytes_max);
        arm_grace(core);
    }
    if after == MemoryPressure::Pausing {
        for key in core.connections.keys() {
            mind_unfinished(core, key);
        }
    } else if before == MemoryPressure::Pausing {
        resume_paused(core);
    }
}

fn resume_paused(core: &mut Core) {
    for key in std::mem::take(&mut core.budget.paused) {
        let Some(connection) = core.connections.get_mut(key) else { continue };
        if connection.held == Held::Memory {
            branches::note(Branch::MemoryResumed);
            connection.held = Held::No;
            connection.last_activity = core.turn.now.monotonic.into();
            connection.unfinished_since = core.turn.now.monotonic.into();
            core.agenda.actions.push_back(Action::Resume(key));
        }
    }
}

/// Applies a changed whole. If more than that is held, connections wait first, with a grace of their
/// own.
pub(crate) fn begin_whole(core: &mut Core, before_bytes_max: usize) {
    let now_bytes_max = core.limits.memory_bytes_max;
    core.budget.former_bytes_max.take_if(|former| *former <= now_bytes_max);
    core.pool.trim();
    if before_bytes_max <= now_bytes_max || core.memory_bytes() <= now_bytes_max {
        return;
    }
    branches::note(Branch::MemoryLowered);
    core.budget.former_bytes_max.get_or_insert(before_bytes_max);
    core.budget.grace_ended = None;
    if core.budget.is_pausing() {
        arm_grace(core);
    }
}

/// The time that connections may wait begins anew.
pub(crate) fn renew_grace(core: &mut Core) {
    if core.budget.is_pausing() { arm_grace(core) } else { end_grace(core) }
}

fn arm_grace(core: &mut Core) {
    let whole = core.limits.slow_consumer_grace;
    let (now, ended) = (core.turn.now.monotonic, core.budget.grace_ended);
    let is_again = ended.is_some_and(|at| now < at.saturating_add(whole));
    if is_again {
        branches::note(Branch::MemoryGraceShort);
    }
    let deadline = core.turn.deadline_in(if is_again { whole / GRACE_PARTS } else { whole });
    core.timers.reset(&mut core.budget.grace, Some((deadline, Due::Memory)));
}

/// Ends the grace: closes the connections that hold the most, to make room for those that wait.
pub(crate) fn end_grace(core: &mut Core) {
    branches::note(Branch::MemoryGraceEnded);
    core.budget.grace = None;
    core.budget.former_bytes_max = None;
    match core.budget.pressure {
        MemoryPressure::None => return,
        MemoryPressure::Refusing => shed_unfinished(core),
        MemoryPressure::Pausing => {
            core.budget.grace_ended = Some(core.turn.now.monotonic);
            let bytes_max = refuse_above_bytes(core);
            shed_down_to(core, bytes_max);
        }
    }
    apply_pressure(core);
    let may_end = match core.budget.pressure {
        MemoryPressure::None => false,
        MemoryPressure::Refusing => core.connections.iter().any(|(_, c)| holds_unfinished(c)),
        // The rest is held by no connection in particular, and may be released by itself.
        MemoryPressure::Pausing => true,
    };
    if may_end && core.budget.grace.is_none() {
        arm_grace(core);
    }
}

/// Closes connections whose message stays unfinished while others are refused for lack of memory.
fn shed_unfinished(core: &mut Core) {
    let patience = core.limits.slow_consumer_grace.saturating_mul(UNFINISHED_GRACES_MAX);
    let began_before = core.turn.now.monotonic.checked_sub(patience);
    for key in core.connections.keys() {
        let Some(connection) = core.connections.get(key) else { continue };
        let is_late =
            began_before.is_some_and(|before| connection.unfinished_since <= before.into());
        // A connection that is held back could not send the rest.
        if is_late && connection.may_proceed() && holds_unfinished(connection) {
            let held_bytes = held_bytes(connection);
            branches::note(Branch::UnfinishedShed);
            shed(core, key, held_bytes, &refusal::message_unfinished(patience));
        }
    }
}

/// While memory is short, limits the time for the rest of an unfinished message, or stops reading it.
pub(crate) fn mind_unfinished(core: &mut Core, key: ConnectionKey) {
    if core.budget.pressure == MemoryPressure::None {
        return;
    }
    let Some(connection) = core.connections.get_mut(key) else { return };
    if !holds_unfinished(connection) {
        return;
    }
    if core.budget.is_pausing() {
        core.budget.pause(key, connection, &mut core.counters);
    } else if core.budget.grace.is_none() {
        arm_grace(core);
    }
}

/// Closes the connections that hold the most, which need not include the one that added the last
/// byte, until no more than `bytes_max` is held or no connection holds anything.
fn shed_down_to(core: &mut Core, bytes_max: usize) {
    while core.memory_bytes() > bytes_max {
        let connections = core.connections.iter();
        let mut holders: Vec<(usize, ConnectionKey)> = connections
            .map(|(key, connection)| (held_bytes(connection), key))
            .filter(|(held_bytes, _)| *held_bytes > 0)
            .collect();
        if holders.is_empty() {
            return;
        }
        holders.sort_unstable_by_key(|(held_bytes, key)| (std::cmp::Reverse(*held_bytes), *key));
        for (held_bytes, key) in holders {
            if core.memory_bytes() <= bytes_max {
                return;
            }
            branches::note(Branch::MemoryShed);
            shed(core, key, held_bytes, &refusal::holds_the_most());
            core.pool.trim();
        }
    }
}

fn shed(core: &mut Core, key: ConnectionKey, held_bytes: usize, why: &Refusal) {
    let Some(connection) = core.connections.get(key) else { return };
    crate::trace::out_of_memory(&core.who(key), held_bytes);
    if connection.takes_messages() && connection.send.is_empty() {
        core.counters.memory_sheds += 1;
        closing::report(core, key, why);
    } else {
        // It gets no error: it got one before, or it does not read its queue.
        core.counters.memory_sheds += u64::from(connection.is_live());
        closing::close_now(core, key);
    }
}

/// Returns whether a connection has a buffer for an unfinished message. One that has not completed
/// its handshake does not count, because it holds little, and not for long.
fn holds_unfinished(connection: &Connection) -> bool {
    connection.session().is_some() && connection.recv.capacity() > SMALL_BYTES_MAX
}

/// Returns the memory of a connection in addition to that of every connection.
pub(crate) fn held_bytes(connection: &Connection) -> usize {
    // Most requests of a peer with extensions have extras, and those that do not are not told apart.
    let call_bytes = if connection.extensions.is_empty() { 0 } else { CALL_BYTES };
    let request_bytes = REQUEST_BYTES + call_bytes;
    let tables_bytes = connection.session().map_or(0, |session| {
        let owed = session.worker.as_ref().map_or(0, |worker| worker.owed.len());
        session.created.len() * CHANNEL_BYTES
            + session.calls.as_ref().map_or(0, |index| index.bytes())
            + owed * OWED_BYTES
            + session.subscriptions.len() * SUBSCRIPTION_BYTES
            + session.topic.as_ref().map_or(0, |topic| {
                topic.patterns.len() * SUBSCRIPTION_BYTES
                    + topic.replays.len() * REPLAY_BYTES
                    + topic.pending.held_bytes()
                    + topic.verdicts.bytes()
            })
            + session.requests.len() * request_bytes
            + session.request_bytes
    });
    connection.recv.capacity() + connection.send.len() + tables_bytes
}
