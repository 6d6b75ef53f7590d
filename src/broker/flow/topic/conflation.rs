//! Subscribers that get the newest publication of each channel alone while they read too slowly.
//!
//! What is conflated never takes a queue over its high-water mark, so that such a subscriber holds
//! nobody back and has no grace. What waits for it counts as its memory.

use crate::branches::{self, Branch};
use crate::broker::flow::queues;
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ChannelKey, ConnectionKey};
use crate::broker::state::topic::seat::{List, Seat};
use crate::proto::OutFrame;

/// Looks at so many publications that wait are as much work as a delivery.
const LOOKS_PER_WORK: usize = 4;

/// Puts a publication into the queue of a subscriber that conflates, or keeps it in place of an older
/// one of the same channel. Returns whether the connection still takes messages.
pub(crate) fn push(
    core: &mut Core,
    to: ConnectionKey,
    channel: &str,
    frame: &OutFrame<'_>,
) -> bool {
    let Some(connection) = core.connections.get_mut(to) else { return false };
    if !connection.takes_messages() {
        return false;
    }
    let mark = connection.high_water_bytes(&core.limits);
    let queued = connection.send.len();
    let waits = connection.pending().is_some_and(|pending| !pending.is_empty());
    if !waits && (queued == 0 || queued + frame.len() <= mark) {
        send(core, to, frame);
        return true;
    }
    let frame = frame.to_kept(&mut core.pool);
    let Some(session) = connection.session_mut() else { return false };
    let pending = &mut session.topic.get_or_insert_default().pending;
    core.budget.tables_bytes -= pending.bytes();
    let older = pending.keep(channel, frame);
    core.budget.tables_bytes += pending.bytes();
    connection.awaits_room = true;
    if older.is_some() {
        branches::note(Branch::Conflated);
        core.counters.publications_conflated += 1;
    }
    true
}

/// Adds a frame to a queue. It may be over its mark then, if that frame alone is: then no grace begins.
fn send(core: &mut Core, to: ConnectionKey, frame: &OutFrame<'_>) {
    let Some(connection) = core.connections.get_mut(to) else { return };
    connection.send.push(frame, &mut core.pool);
    if connection.send.len() > connection.high_water_bytes(&core.limits)
        && let Some(session) = connection.session_mut()
    {
        let topic = session.topic.get_or_insert_default();
        topic.conflated_bytes = topic.conflated_bytes.max(frame.len());
    }
    connection.ask_for_flush(to, &mut core.agenda);
    core.counters.frames_out += 1;
    core.counters.bytes_out += frame.len() as u64;
}

/// Sends what waits for a connection whose queue has drained, as far as there is room.
pub(crate) fn note_sent(core: &mut Core, key: ConnectionKey) {
    let Some(connection) = core.connections.get(key) else { return };
    let mark = connection.high_water_bytes(&core.limits);
    if !connection.takes_messages() || connection.send.len() > mark / 2 {
        return;
    }
    let mut sent = 0;
    while let Some(connection) = core.connections.get_mut(key) {
        let queued = connection.send.len();
        let Some(pending) = connection.pending_mut() else { return };
        let has_room =
            pending.next_bytes().is_some_and(|next| queued == 0 || queued + next <= mark);
        if !has_room {
            break;
        }
        let before = pending.bytes();
        let Some(frame) = pending.take_next() else { break };
        core.budget.tables_bytes -= before - pending.bytes();
        send(core, key, &OutFrame::shared(frame));
        sent += 1;
    }
    if sent > 0 {
        branches::note(Branch::ConflatedSent);
    }
    core.turn.note_work(sent);
    if let Some(connection) = core.connections.get_mut(key) {
        connection.mind_room();
    }
}

/// Ends the waiting of a publication of a channel, because the connection is sent it with the others
/// that are kept. Behind those it would come a second time.
pub(crate) fn note_replayed(core: &mut Core, key: ConnectionKey, channel: ChannelKey) {
    let Some(found) = core.router.channels.get(channel) else { return };
    let Some(connection) = core.connections.get_mut(key) else { return };
    let Some(pending) = connection.pending_mut() else { return };
    core.turn.note_work(pending.len() / LOOKS_PER_WORK);
    let before = pending.bytes();
    if !pending.forget(&found.id) {
        return;
    }
    core.budget.tables_bytes -= before - pending.bytes();
    core.counters.publications_conflated += 1;
    connection.mind_room();
}

/// Ends the waiting of publications that a connection no longer conflates, because it ended a
/// subscription, of whose channels `is_meant` says yes. Those that it still subscribes to go into its
/// queue, and the others are dropped.
pub(crate) fn note_unsubscribed(
    core: &mut Core,
    key: ConnectionKey,
    is_meant: impl Fn(&str) -> bool,
) {
    let Some(session) = core.connections.session_mut(key) else { return };
    let application = session.application;
    let Some(topic) = session.topic.as_mut().filter(|topic| !topic.pending.is_empty()) else {
        return;
    };
    let mut pending = std::mem::take(&mut topic.pending);
    let before = pending.bytes();
    let (router, subscriptions, patterns) = (&core.router, &session.subscriptions, &topic.patterns);
    let tree = router.applications.get(application).and_then(|owner| owner.patterns.as_ref());
    let mut looks = pending.len();
    // Those that end and are subscribed to all the same, in their order.
    let mut live = Vec::new();
    let gone = pending.take_all_but(|channel| {
        if !is_meant(channel) {
            return true;
        }
        let (mut conflates, mut is_live) = (false, false);
        let mut note = |seat: &Seat| match seat.list() {
            List::Live => is_live = true,
            List::Conflating => conflates = true,
            List::Replaying | List::Link => {}
        };
        let own = router.channel(application, channel);
        own.and_then(|channel| subscriptions.get(&channel)).into_iter().for_each(&mut note);
        if let Some(tree) = tree {
            looks += router.patterns.find(tree, channel, |node| {
                patterns.get(&node).into_iter().for_each(&mut note);
            });
        }
        if !conflates {
            live.push(is_live);
        }
        conflates
    });
    core.turn.note_work(looks / LOOKS_PER_WORK);
    core.budget.tables_bytes -= before - pending.bytes();
    topic.pending = pending;
    for ((_, frame), _) in gone.into_iter().zip(live).filter(|(_, is_live)| *is_live) {
        queues::push(core, key, &OutFrame::shared(frame));
    }
    if let Some(connection) = core.connections.get_mut(key) {
        connection.mind_room();
    }
}
