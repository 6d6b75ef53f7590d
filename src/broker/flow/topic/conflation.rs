//! Subscribers that get the newest publication of each channel alone while they read too slowly.
//!
//! What is conflated never takes a queue over its high-water mark, so that such a subscriber holds
//! nobody back and has no grace. What waits for it counts as its memory.

use crate::branches::{self, Branch};
use crate::broker::flow::queues;
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ChannelKey, ConnectionKey};
use crate::proto::OutFrame;
use crate::proto::pattern;

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

/// Ends the waiting of those publications that a connection no longer conflates, because it ended a
/// subscription. Those that it still subscribes to go into its queue, and the others are dropped.
pub(crate) fn note_unsubscribed(core: &mut Core, key: ConnectionKey) {
    let Some(connection) = core.connections.get_mut(key) else { return };
    let Some(session) = connection.session_mut() else { return };
    let application = session.application;
    let Some(topic) = session.topic.as_mut().filter(|topic| !topic.pending.is_empty()) else {
        return;
    };
    let mut pending = std::mem::take(&mut topic.pending);
    let before = pending.bytes();
    let router = &core.router;
    let subscriptions = &session.subscriptions;
    let seats = topic.patterns.iter();
    let patterns: Vec<(String, bool)> =
        seats.map(|(node, seat)| (router.patterns.text(*node), seat.is_live())).collect();
    core.turn.note_work(pending.len() * (1 + patterns.len()) / LOOKS_PER_WORK);
    // Whether its subscription to a channel is live, if it has one.
    let of_channel = |channel: &str| {
        let channel = router.channel(application, channel)?;
        subscriptions.get(&channel).map(|seat| seat.is_live())
    };
    let has = |channel: &str, wants_live: bool| {
        of_channel(channel) == Some(wants_live)
            || patterns
                .iter()
                .any(|(text, is_live)| *is_live == wants_live && pattern::matches(text, channel))
    };
    let gone = pending.take_all_but(|channel| has(channel, false));
    let live: Vec<_> = gone.into_iter().filter(|(channel, _)| has(channel, true)).collect();
    core.budget.tables_bytes -= before - pending.bytes();
    topic.pending = pending;
    for (_, frame) in live {
        queues::push(core, key, &OutFrame::shared(frame));
    }
    if let Some(connection) = core.connections.get_mut(key) {
        connection.mind_room();
    }
}
