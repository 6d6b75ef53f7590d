//! The memory budget: what happens when memory runs short.
//!
//! In this order, by parts of [`Limits::memory_bytes_max`](crate::Limits):
//! 1. over three quarters nothing new comes in: connections, channels, subscriptions. A connection
//!    whose message is unfinished for long is closed;
//! 2. over seven eighths unfinished messages and publications wait, until it is below three
//!    quarters again or the grace of slow consumers is over;
//! 3. then, or at once over the whole, the connection that holds the most is closed, and the next
//!    one.
//!
//! A whole that is lowered below what is held begins with the second stage, and with its grace.

use super::closing;
use crate::broker::state::budget::{
    CHANNEL_BYTES, MemoryPressure, REQUEST_BYTES, SUBSCRIPTION_BYTES,
};
use crate::broker::state::connection::{Connection, Held};
use crate::broker::state::core::Core;
use crate::broker::state::events::Action;
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::refusal::{self, Refusal};
use crate::broker::state::timers::Due;

/// An unfinished message up to this size does not wait: a peer that writes header and body apart
/// is not to be held up for a header.
const SMALL_BYTES_MAX: usize = 4 << 10;

/// An unfinished message may take so many graces while others are refused for want of memory.
const UNFINISHED_GRACES_MAX: u32 = 6;

/// If memory is short again soon after connections were closed for it, many connections hold it:
/// they get only a part of the grace.
const GRACE_PARTS: u32 = 10;

/// Looks whether the budget still holds. Called after everything that may add to it.
pub(crate) fn mind(core: &mut Core) {
    let is_ample = core.memory_bytes() <= refuse_above_bytes(core);
    if !is_ample || core.budget.pressure != MemoryPressure::None {
        apply_pressure(core);
    }
}

fn refuse_above_bytes(core: &Core) -> usize {
    core.limits.memory_bytes_max / 4 * 3
}

#[cold]
fn apply_pressure(core: &mut Core) {
    // Memory that is kept for speed goes first.
    core.pool.trim();
    // Over the whole there is no grace.
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
        // Connections that wait go on only when there is room for more than the next read.
        before.max(MemoryPressure::Refusing)
    };
    if before == after {
        return;
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
            connection.held = Held::No;
            connection.unfinished_since = core.turn.now.monotonic.into();
            core.agenda.actions.push_back(Action::Resume(key));
        }
    }
}

/// The whole is another one from now on. Where more is held than there may be now, that begins
/// with waiting, too, and with a grace of its own.
pub(crate) fn begin_whole(core: &mut Core, before_bytes_max: usize) {
    let now_bytes_max = core.limits.memory_bytes_max;
    core.budget.former_bytes_max.take_if(|former| *former <= now_bytes_max);
    core.pool.trim();
    if before_bytes_max <= now_bytes_max || core.memory_bytes() <= now_bytes_max {
        return;
    }
    core.budget.former_bytes_max.get_or_insert(before_bytes_max);
    core.budget.grace_ended = None;
    if core.budget.is_pausing() {
        arm_grace(core);
    }
}

fn arm_grace(core: &mut Core) {
    let whole = core.limits.slow_consumer_grace;
    let (now, ended) = (core.turn.now.monotonic, core.budget.grace_ended);
    let is_again = ended.is_some_and(|at| now < at.saturating_add(whole));
    let deadline = core.turn.deadline_in(if is_again { whole / GRACE_PARTS } else { whole });
    core.timers.reset(&mut core.budget.grace, Some((deadline, Due::Memory)));
}

/// Waiting has not helped: room is made for those that wait, at the cost of the largest.
pub(crate) fn end_grace(core: &mut Core) {
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
        // The rest is nobody's fault, and may be given back by itself.
        MemoryPressure::Pausing => true,
    };
    if may_end && core.budget.grace.is_none() {
        arm_grace(core);
    }
}

/// Closes connections whose message does not come to its end while others are refused for it.
fn shed_unfinished(core: &mut Core) {
    let patience = core.limits.slow_consumer_grace * UNFINISHED_GRACES_MAX;
    let began_before = core.turn.now.monotonic.checked_sub(patience);
    for key in core.connections.keys() {
        let Some(connection) = core.connections.get(key) else { continue };
        let is_late =
            began_before.is_some_and(|before| connection.unfinished_since <= before.into());
        // A connection that is held back cannot help it.
        if is_late && connection.may_proceed() && holds_unfinished(connection) {
            let held_bytes = held_bytes(connection);
            shed(core, key, held_bytes, &refusal::message_unfinished(patience));
        }
    }
}

/// While memory is short, the rest of an unfinished message stays with its sender, or has to come
/// soon.
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

/// Closes the connection that holds the most, which is not the one that happened to add the last
/// byte, and the next one, until no more than this is held or nobody holds anything.
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
            shed(core, key, held_bytes, &refusal::holds_the_most());
            core.pool.trim();
        }
    }
}

fn shed(core: &mut Core, key: ConnectionKey, held_bytes: usize, why: &Refusal) {
    let Some(connection) = core.connections.get(key) else { return };
    crate::trace::out_of_memory(key.index(), held_bytes);
    if connection.takes_messages() && connection.send.is_empty() {
        core.counters.memory_sheds += 1;
        closing::report(core, key, why);
    } else {
        // It was told already, or it holds what it does not read.
        core.counters.memory_sheds += u64::from(connection.is_live());
        closing::close_now(core, key);
    }
}

/// Returns whether a connection keeps room for a message that is not there yet. One that has not
/// completed its handshake holds little, and not for long.
fn holds_unfinished(connection: &Connection) -> bool {
    connection.session().is_some() && connection.recv.capacity() > SMALL_BYTES_MAX
}

/// The part of the budget that a connection binds beyond what every connection takes.
fn held_bytes(connection: &Connection) -> usize {
    let tables_bytes = connection.session().map_or(0, |session| {
        session.created.len() * CHANNEL_BYTES
            + session.subscriptions.len() * SUBSCRIPTION_BYTES
            + session.requests.len() * REQUEST_BYTES
            + session.message_id_bytes
    });
    connection.recv.capacity() + connection.send.len() + tables_bytes
}
