//! Queues and backpressure: a sender waits for a slow reader, and the slow reader has a grace.

use super::kept;
use crate::branches::{self, Branch};
use crate::broker::state::connection::{Connection, Connections, Held, Obstacle};
use crate::broker::state::core::Core;
use crate::broker::state::events::Action;
use crate::broker::state::keys::{ChannelKey, ConnectionKey};
use crate::broker::state::timers::Due;
use crate::proto::{BufferPool, OutFrame};

/// Puts a frame into a connection's queue; it is sent at the turn's end. Returns whether the
/// connection still takes messages.
pub(crate) fn push(core: &mut Core, to: ConnectionKey, frame: &OutFrame<'_>) -> bool {
    let is_taken = put(core, to, frame);
    if is_taken {
        core.counters.frames_out += 1;
        core.counters.bytes_out += frame.len() as u64;
    }
    is_taken
}

/// Does the same as [`push`], but leaves it to the caller to count the frame.
#[expect(
    clippy::inline_always,
    reason = "each delivery passes here, and a call costs 20 instructions"
)]
#[inline(always)]
pub(crate) fn put(core: &mut Core, to: ConnectionKey, frame: &OutFrame<'_>) -> bool {
    put_picked(core, to, |_, _| Some(frame))
}

/// Does the same with the frame that a function picks for the connection, if it picks one. Whoever has to
/// look at the connection anyhow spares a look-up with it.
#[expect(
    clippy::inline_always,
    reason = "each delivery passes here, and a call costs 20 instructions"
)]
#[inline(always)]
pub(crate) fn put_picked<'f>(
    core: &mut Core,
    to: ConnectionKey,
    pick: impl FnOnce(&mut Connection, &mut BufferPool) -> Option<&'f OutFrame<'f>>,
) -> bool {
    let queue_bytes_max = core.connections.queue_bytes_max;
    let Some(connection) = core.connections.get_mut(to) else { return false };
    let Some(frame) = pick(connection, &mut core.pool) else { return false };
    if !connection.takes_messages() {
        return false;
    }
    if connection.send.len() + frame.len() > queue_bytes_max
        && connection.send.len() + frame.len() > queue_bytes_max + conflated_bytes(connection)
    {
        branches::note(Branch::QueueOverBound);
        core.counters.slow_consumers += 1;
        connection.doomed = true;
        core.agenda.doomed.push(to);
        return false;
    }
    connection.send.push(frame, &mut core.pool);
    connection.ask_for_flush(to, &mut core.agenda);
    if connection.send.len() > connection.high_water_bytes(&core.limits)
        && connection.congested.is_none()
    {
        congest(core, to);
    }
    true
}

/// Returns the bytes of the largest conflated publication that took a queue over its high-water mark by
/// itself. It holds nobody back, so that whatever else a queue may hold comes on top.
#[cold]
fn conflated_bytes(connection: &Connection) -> usize {
    let topic = connection.session().and_then(|session| session.topic.as_ref());
    topic.map_or(0, |topic| topic.conflated_bytes)
}

/// Lets those who wait for a queue that was over its high-water mark go on, if it has drained.
pub(crate) fn note_sent(core: &mut Core, key: ConnectionKey) {
    let Some(connection) = core.connections.get(key) else { return };
    if connection.congested.is_some()
        && connection.send.len() <= connection.high_water_bytes(&core.limits) / 2
    {
        uncongest(core, key);
    }
}

/// Does the same for a queue that is within its high-water mark now that this is higher.
pub(crate) fn note_higher_mark(core: &mut Core, key: ConnectionKey) {
    let Some(connection) = core.connections.get(key) else { return };
    if connection.send.len() <= connection.high_water_bytes(&core.limits) {
        uncongest(core, key);
    }
}

/// Begins the grace of a queue that went over its high-water mark. From now on, senders that would
/// add to it are held back.
fn congest(core: &mut Core, key: ConnectionKey) {
    let deadline = core.turn.deadline_in(core.limits.slow_consumer_grace);
    let Some(connection) = core.connections.get_mut(key) else { return };
    debug_assert!(connection.congested.is_none());
    connection.congested = Some(core.timers.arm(deadline, Due::Grace(key)));
    connection.awaits_room = true;
    let Some(session) = connection.session() else { return };
    for (channel, seat) in &session.subscriptions {
        if let Some(channel) = core.router.channels.get_mut(*channel).filter(|_| seat.is_live()) {
            channel.congested += 1;
        }
    }
    for (node, seat) in session.topic.iter().flat_map(|topic| &topic.patterns) {
        if seat.is_live() {
            core.router.patterns.note_congested(*node);
        }
    }
}

/// The grace of a connection whose queue is over its mark begins anew.
pub(crate) fn renew_grace(core: &mut Core, key: ConnectionKey) {
    let deadline = core.turn.deadline_in(core.limits.slow_consumer_grace);
    let Some(connection) = core.connections.get_mut(key) else { return };
    if connection.congested.is_some() {
        core.timers.reset(&mut connection.congested, Some((deadline, Due::Grace(key))));
    }
}

/// Lets all senders go on that waited for a queue, because it drained or its connection leaves.
pub(crate) fn uncongest(core: &mut Core, key: ConnectionKey) {
    let Some(connection) = core.connections.get_mut(key) else { return };
    let Some(grace) = connection.congested.take() else { return };
    connection.mind_room();
    // It could say nothing until now.
    connection.last_activity = core.turn.now.monotonic.into();
    connection.gives_way = connection.held == Held::NextTurn;
    core.timers.disarm(grace);
    branches::note(Branch::Decongested);
    wake_all_behind(core, key);
    // The slow reader itself goes on after them. Before them, it would fill its queue with its own
    // answers again in every turn, and they would never find it drained.
    core.agenda.actions.push_back(Action::Resume(key));
}

fn wake_all_behind(core: &mut Core, key: ConnectionKey) {
    let Some(session) = core.connections.session(key) else { return };
    let live = session.subscriptions.iter().filter(|(_, seat)| seat.is_live());
    let live = live.map(|(channel, _)| *channel);
    let patterns = session.topic.iter().flat_map(|topic| &topic.patterns);
    let patterns = patterns.filter(|(_, seat)| seat.is_live()).map(|(node, _)| *node);
    for channel in live.clone() {
        if let Some(channel) = core.router.channels.get_mut(channel) {
            channel.congested -= 1;
        }
    }
    for node in patterns.clone() {
        core.router.patterns.note_decongested(node);
    }
    let subscribed = live.map(Obstacle::Subscriber).chain(patterns.map(Obstacle::Pattern));
    let served = session.worker.iter().flat_map(|worker| &worker.channels);
    let served = served.map(|key| Obstacle::Worker(*key));
    // Both lists are bounded per connection, and this is not a hot path.
    let obstacles: Vec<Obstacle> = subscribed.chain(served).collect();
    for obstacle in &obstacles {
        wake_first(core, *obstacle);
    }
    // An invitation lets the slow reader itself go on, too.
    for obstacle in obstacles {
        if let Obstacle::Worker(channel) = obstacle {
            kept::invite(core, key, channel);
        }
    }
    kept::invite_owed(core, key);
}

/// Holds a connection's next message back until the obstacle is gone. A connection that was woken
/// from this obstacle and finds it there again keeps its place at the front.
pub(crate) fn park(core: &mut Core, key: ConnectionKey, obstacle: Obstacle) {
    let Some(connection) = core.connections.get_mut(key) else { return };
    // A handler may have closed the connection before it passed the message on.
    if !connection.is_live() {
        return;
    }
    let Some(line) = core.router.line(obstacle) else { return };
    branches::note(match obstacle {
        Obstacle::Subscriber(_) => Branch::PublisherParked,
        Obstacle::Pattern(_) => Branch::ParkedAtPattern,
        Obstacle::Worker(_) => Branch::RequesterParked,
    });
    connection.held = Held::Behind(obstacle);
    core.counters.publishers_held += 1;
    if connection.woken == Some(obstacle) {
        branches::note(Branch::KeptItsPlace);
        connection.woken = None;
        line.push_front(key, ());
    } else {
        line.push_back(key, ());
        // The obstacle stays in its table as long as a connection waits for it.
        core.router.retain_obstacle(obstacle);
    }
}

/// Lets the first connection behind an obstacle go on. The next one follows after its turn. If all
/// were woken at once, all would be processed again for a single one that can pass.
pub(crate) fn wake_first(core: &mut Core, obstacle: Obstacle) {
    if core.router.is_blocked(obstacle) {
        return;
    }
    let Some(line) = core.router.line(obstacle) else { return };
    let first = line.first(|key| waits(&core.connections, key, obstacle));
    let Some((key, ())) = first else { return };
    line.pop_first();
    if let Some(connection) = core.connections.get_mut(key) {
        connection.held = Held::No;
        connection.woken = Some(obstacle);
        core.agenda.actions.push_back(Action::Resume(key));
    }
}

/// Lets a drain go on that waited for the requests of a channel that were kept.
pub(crate) fn note_fewer_kept(core: &mut Core, channel: ChannelKey) {
    if core.is_draining()
        && let Some(found) = core.router.channels.get(channel)
        && found.service.kept.is_empty()
    {
        // The drain may have waited for them, and for nothing else of these workers.
        let workers = found.service.workers.clone();
        workers.iter().for_each(|worker| core.look_again(worker.key));
    }
}

/// Lets the next connection go on after a woken one had its turn.
pub(crate) fn pass_on_wake(core: &mut Core, key: ConnectionKey) {
    let Some(connection) = core.connections.get_mut(key) else { return };
    let Some(obstacle) = connection.woken.take() else { return };
    branches::note(Branch::WakePassedOn);
    wake_first(core, obstacle);
    core.router.release_obstacle(obstacle);
}

/// Removes a connection that leaves from the line in which it waits.
pub(crate) fn unpark(core: &mut Core, key: ConnectionKey) {
    pass_on_wake(core, key);
    let Some(connection) = core.connections.get_mut(key) else { return };
    let Held::Behind(obstacle) = connection.held else { return };
    branches::note(Branch::LeftWhileParked);
    connection.held = Held::No;
    if let Some(line) = core.router.line(obstacle) {
        line.leave(|key| waits(&core.connections, key, obstacle));
    }
    // Its socket was not read meanwhile, so an end of the stream may not have been noticed.
    core.agenda.actions.push_back(Action::Resume(key));
    core.router.release_obstacle(obstacle);
}

fn waits(connections: &Connections, key: ConnectionKey, obstacle: Obstacle) -> bool {
    connections.get(key).is_some_and(|connection| connection.held == Held::Behind(obstacle))
}
