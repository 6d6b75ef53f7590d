//! Sends subscribers what was kept before they came: behind the answer to their subscribe, and before
//! what is published from then on.
//!
//! A subscriber whose replay is not over stands in no list of its channel, and holds no publisher
//! back. What is published meanwhile waits for it in the history, or, where the channel has only a
//! last value, has that sent first. Whoever falls behind the history is closed as a slow consumer:
//! it was told that it would get everything.

use crate::branches::{self, Branch};
use crate::broker::flow::attachments::{self, Receiver, Rewrite, head_of};
use crate::broker::flow::{interest, queues};
use crate::broker::state::budget::{REPLAY_BYTES, SUBSCRIPTION_BYTES};
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ChannelKey, ConnectionKey};
use crate::broker::state::topic::Topic;
use crate::broker::state::topic::history::{Epoch, History};
use crate::broker::state::topic::replays::{Next, Replay};
use crate::broker::state::topic::seat::{List, Seat};
use crate::broker::state::topic::session::TopicSession;
use crate::broker::state::topic::wanted::Wanted;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::pattern;
use crate::proto::{Envelope, Meta, OutFrame};

use super::{audience, conflation};

/// A connection is sent so many bytes of what was kept in one go, or a single message that is larger.
const GO_BYTES_MAX: usize = 64 << 10;
/// So many channels that are looked at for a pattern are as much work as a delivery.
const LOOKS_PER_WORK: usize = 8;

/// What a subscribe finds of a channel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    /// The history, and the offset of its newest publication.
    pub(crate) newest: Option<(Epoch, u64)>,
    /// What was asked for is there, if anything was.
    pub(crate) recovered: Option<bool>,
    /// The messages of the replay.
    pub(crate) messages: u64,
    next: Option<Next>,
}

/// Looks up what a subscribe to a channel asks for.
pub(crate) fn find(core: &mut Core, channel: ChannelKey, wanted: &Wanted<'_>) -> Found {
    let now = core.turn.now.monotonic.into();
    let found = core.router.channels.get_mut(channel);
    let topic = found.and_then(|found| found.topic.as_deref_mut());
    let Some(topic) = topic else {
        return Found { recovered: wanted.asks_for_past().then_some(false), ..Found::default() };
    };
    let mut found = Found::default();
    let mut next = None;
    if let Some(history) = &mut topic.history {
        history.forget_old(now, &mut core.pool);
        found.newest = Some((history.epoch(), history.offset()));
        next = wanted.since.and_then(|since| {
            let next = since.offset.checked_add(1)?;
            (history.epoch().as_str() == since.epoch && history.reaches_back_to(next))
                .then_some(next)
        });
    }
    if !wanted.asks_for_past() {
        return found;
    }
    found.recovered = Some(match wanted.since {
        Some(_) => next.is_some(),
        None => topic.history.is_some() || topic.last.is_some(),
    });
    if let (None, Some(last)) = (next, wanted.last) {
        (found.next, found.messages) = newest(topic, last);
    } else if let (Some(next), Some((_, offset))) = (next, found.newest) {
        found.messages = (offset + 1).saturating_sub(next);
        found.next = (found.messages > 0).then_some(Next::Offset(next));
    }
    branches::note(match found.recovered {
        Some(true) => Branch::Recovered,
        _ => Branch::NotRecovered,
    });
    found
}

/// Returns the beginning of the newest messages of a channel, and how many there are.
fn newest(topic: &Topic, last: u32) -> (Option<Next>, u64) {
    if let Some(history) = topic.history.as_ref().filter(|history| !history.is_empty()) {
        let next = history.newest(last.into());
        return (Some(Next::Offset(next)), history.next_offset() - next);
    }
    match topic.last {
        Some(_) => (Some(Next::LastValue), 1),
        None => (None, 0),
    }
}

impl Found {
    /// Begins where the replay of a pattern is that takes what is published meanwhile: there would be a gap
    /// between that and this one.
    #[cold]
    pub(crate) fn go_on_from(&mut self, core: &Core, key: ConnectionKey, channel: ChannelKey) {
        if let Some(Replay { next: Next::Offset(before), .. }) = of_channel(core, key, channel)
            && let Some(Next::Offset(next)) = self.next
            && before < next
        {
            self.messages += next - before;
            self.next = Some(Next::Offset(before));
        }
    }

    /// Returns whether there is anything to send before what is published from now on.
    pub(crate) fn has_replay(&self) -> bool {
        self.next.is_some()
    }
}

/// Subscribes a connection to a channel of which it is sent what was found before it joins a list. It
/// has no subscription to that channel yet.
pub(crate) fn begin(
    core: &mut Core,
    key: ConnectionKey,
    channel: ChannelKey,
    found: &Found,
    joins: List,
) {
    let Some(next) = found.next else { return };
    // A pattern had asked for the same.
    forget(core, key, channel);
    if matches!(next, Next::Offset(_)) {
        conflation::note_replayed(core, key, channel);
    }
    let Some(session) = core.connections.session_mut(key) else { return };
    session.subscriptions.insert(channel, Seat::new(List::Replaying, 0));
    core.budget.tables_bytes += SUBSCRIPTION_BYTES;
    core.router.retain(channel);
    push(core, key, Replay { channel, next, joins: Some(joins) });
    interest::note_subscribers(core, channel);
    start(core, key);
}

/// Sends a connection the newest messages of a channel that its new pattern matches, unless it hears the
/// channel already.
pub(crate) fn begin_of_pattern(
    core: &mut Core,
    key: ConnectionKey,
    channel: ChannelKey,
    last: u32,
) {
    let found = core.router.channels.get(channel);
    let Some(topic) = found.and_then(|found| found.topic.as_ref()) else { return };
    if let (Some(next), _) = newest(topic, last)
        && !hears(core, key, channel)
    {
        push(core, key, Replay { channel, next, joins: None });
    }
}

/// Returns whether a connection hears a channel beside its newest pattern.
fn hears(core: &mut Core, key: ConnectionKey, channel: ChannelKey) -> bool {
    let Some(session) = core.connections.session(key) else { return true };
    if session.subscriptions.contains_key(&channel) {
        return true;
    }
    let topic = core.router.channels.get(channel).and_then(|found| found.topic.as_ref());
    if topic.is_some_and(|topic| topic.replaying.contains(&key)) {
        return true;
    }
    patterns_of(core, key, channel) > 1
}

/// Returns by how many patterns a connection hears a channel.
fn patterns_of(core: &mut Core, key: ConnectionKey, channel: ChannelKey) -> usize {
    let session = core.connections.session(key);
    let has_any = |topic: &TopicSession| !topic.patterns.is_empty();
    if !session.and_then(|session| session.topic.as_deref()).is_some_and(has_any) {
        return 0;
    }
    let matching = audience::take(core, channel);
    let session = core.connections.session(key);
    let own = session.and_then(|session| session.topic.as_ref());
    let patterns = own.map_or(0, |own| {
        matching.nodes.iter().filter(|node| own.patterns.contains_key(node)).count()
    });
    audience::give_back(core, matching);
    patterns
}

fn push(core: &mut Core, key: ConnectionKey, replay: Replay) {
    let Some(connection) = core.connections.get_mut(key) else { return };
    (connection.is_replaying, connection.awaits_room) = (true, true);
    let Some(session) = connection.session_mut() else { return };
    session.topic.get_or_insert_default().replays.push(replay);
    core.budget.tables_bytes += REPLAY_BYTES;
    core.router.change_topic(replay.channel, |topic| topic.replaying.insert(key));
}

/// Begins at once, unless others wait for their turn.
pub(crate) fn start(core: &mut Core, key: ConnectionKey) {
    if core.turn.may_replay() {
        go_on(core, key);
    } else {
        core.turn.queue_replay(key, &mut core.connections);
    }
}

/// Sends a connection more of what was kept, up to half its high-water mark.
#[cold]
pub(crate) fn go_on(core: &mut Core, key: ConnectionKey) {
    let mut left = GO_BYTES_MAX;
    while let Some(replay) = first(core, key) {
        let room = room(core, key);
        if room == 0 {
            // Its queue goes on once it has drained.
            return;
        }
        if left == 0 {
            return core.turn.queue_replay(key, &mut core.connections);
        }
        match step(core, key, replay, room.min(left)) {
            Step::Sent(next, bytes) => {
                advance(core, key, replay.channel, next);
                left = left.saturating_sub(bytes);
            }
            Step::Over(bytes) => {
                finish(core, key, replay);
                left = left.saturating_sub(bytes);
            }
            Step::Overtaken => return doom(core, key),
        }
    }
}

/// Lets a connection go on whose queue has drained.
#[cold]
pub(crate) fn note_sent(core: &mut Core, key: ConnectionKey) {
    let Some(connection) = core.connections.get(key) else { return };
    if connection.send.len() <= connection.high_water_bytes(&core.limits) / 4 {
        core.turn.queue_replay(key, &mut core.connections);
    }
}

/// Gives those whose replay of a channel is not over what they would lose by publications of so many
/// bytes, as far as their queues have room. Who has none is closed.
#[cold]
pub(crate) fn make_way(core: &mut Core, channel: ChannelKey, publications: u32, bytes: usize) {
    let found = core.router.channels.get(channel);
    let Some(topic) = found.and_then(|found| found.topic.as_ref()) else { return };
    let survivor = topic.history.as_ref().map(|history| history.survivor(publications, bytes));
    let readers: Vec<ConnectionKey> = topic.replaying.iter().copied().collect();
    core.turn.note_work(readers.len());
    for key in readers {
        while let Some(replay) = of_channel(core, key, channel) {
            let is_late = match (replay.next, survivor) {
                (Next::Offset(next), Some(survivor)) => next < survivor,
                _ => true,
            };
            if !is_late {
                break;
            }
            let room = match replay.next {
                // There is nothing that could wait for it.
                Next::LastValue => usize::MAX,
                Next::Offset(_) => room(core, key),
            };
            if room == 0 {
                doom(core, key);
                break;
            }
            match step(core, key, replay, room) {
                Step::Sent(next, _) => advance(core, key, channel, next),
                Step::Over(_) => finish(core, key, replay),
                Step::Overtaken => {
                    doom(core, key);
                    break;
                }
            }
        }
    }
}

enum Step {
    /// Something was sent, and this is next.
    Sent(Next, usize),
    /// The last of it was sent, in so many bytes, if anything was left.
    Over(usize),
    /// What comes next is not kept any more.
    Overtaken,
}

/// Sends a connection a part of a replay: no more than `bytes_max`, or a single message.
fn step(core: &mut Core, key: ConnectionKey, replay: Replay, bytes_max: usize) -> Step {
    let to = Receiver::of(core, key);
    let found = core.router.channels.get_mut(replay.channel);
    let Some(topic) = found.and_then(|found| found.topic.as_mut()) else { return Step::Overtaken };
    let next = match replay.next {
        Next::Offset(next) => next,
        Next::LastValue => {
            let Some(value) = &topic.last else { return Step::Over(0) };
            let (frame, has_attachments) = (value.frame.clone(), value.has_attachments);
            let bytes = frame.bytes().len();
            send(core, key, to, &OutFrame::shared(frame), 1, has_attachments);
            return Step::Over(bytes);
        }
    };
    // It leaves its place while its messages are put into a queue.
    let Some(history) = topic.history.take() else { return Step::Overtaken };
    let step = step_through(core, key, to, &history, next, bytes_max);
    let found = core.router.channels.get_mut(replay.channel);
    if let Some(topic) = found.and_then(|found| found.topic.as_mut()) {
        topic.history = Some(history);
    }
    step
}

fn step_through(
    core: &mut Core,
    key: ConnectionKey,
    to: Receiver,
    history: &History,
    next: u64,
    bytes_max: usize,
) -> Step {
    if !history.reaches_back_to(next) {
        return Step::Overtaken;
    }
    let Some(piece) = history.piece(next, bytes_max, to.needs_base64()) else {
        return Step::Over(0);
    };
    send(core, key, to, &piece.frames, piece.messages, piece.has_attachments);
    Step::Sent(Next::Offset(next + u64::from(piece.messages)), piece.frames.len())
}

fn send(
    core: &mut Core,
    key: ConnectionKey,
    to: Receiver,
    frames: &OutFrame<'_>,
    messages: u32,
    has_attachments: bool,
) {
    branches::note(Branch::Replayed);
    core.turn.note_work(core.turn.fan_out_work(1, frames.len()));
    let is_sent = if has_attachments && to.needs_base64() {
        let Some(frame) = in_base64(core, to, frames) else {
            core.counters.publications_too_large += 1;
            return;
        };
        queues::put(core, key, &frame)
    } else {
        queues::put(core, key, frames)
    };
    if is_sent {
        core.counters.replayed += u64::from(messages);
        core.counters.frames_out += u64::from(messages);
        core.counters.bytes_out += frames.len() as u64;
    }
}

/// Writes a message with attachments anew for a connection that takes them in base64.
fn in_base64(core: &mut Core, to: Receiver, frame: &OutFrame<'_>) -> Option<OutFrame<'static>> {
    let shared = frame.to_kept(&mut core.pool);
    let envelope = Envelope::parse_binary(&shared.bytes()[HEADER_BYTES..]).ok()?;
    let rewrite = Rewrite {
        head: head_of(&envelope),
        meta: Meta::parse_known(envelope.meta_str()?).ok()?,
        payload: envelope.payload_str(),
        attachments: envelope.attachments().ok()?,
    };
    let frame = rewrite.frame(to, &mut core.pool).ok()?;
    attachments::note_work(core, to, &frame);
    Some(frame)
}

/// Returns the bytes that a connection may be sent of what was kept; none if its queue is too full.
fn room(core: &Core, key: ConnectionKey) -> usize {
    let Some(connection) = core.connections.get(key) else { return 0 };
    let room =
        (connection.high_water_bytes(&core.limits) / 2).saturating_sub(connection.send.len());
    if !connection.takes_messages() {
        0
    } else if connection.send.is_empty() {
        room.max(1)
    } else {
        room
    }
}

fn first(core: &Core, key: ConnectionKey) -> Option<Replay> {
    core.connections.session(key)?.topic.as_ref()?.replays.first()
}

fn of_channel(core: &Core, key: ConnectionKey, channel: ChannelKey) -> Option<Replay> {
    core.connections.session(key)?.topic.as_ref()?.replays.of_channel(channel)
}

fn advance(core: &mut Core, key: ConnectionKey, channel: ChannelKey, next: Next) {
    let session = core.connections.session_mut(key);
    if let Some(topic) = session.and_then(|session| session.topic.as_mut()) {
        topic.replays.advance(channel, next);
    }
}

/// Ends a replay: from now on the connection gets what is published.
fn finish(core: &mut Core, key: ConnectionKey, over: Replay) {
    branches::note(Branch::ReplayOver);
    let Some(connection) = core.connections.get_mut(key) else { return };
    let is_congested = connection.congested.is_some();
    if let Some(list) = over.joins
        && let Some(session) = connection.session_mut()
        && let Some(target) = core.router.channels.get_mut(over.channel)
    {
        let subscribers = target.list_mut(list);
        session.subscriptions.insert(over.channel, Seat::new(list, subscribers.len()));
        subscribers.push(key);
        target.congested += u32::from(is_congested && list == List::Live);
    }
    forget(core, key, over.channel);
}

/// Forgets the replay of a channel to a connection, if there is one. A subscription to the channel is up
/// to the caller.
pub(crate) fn forget(core: &mut Core, key: ConnectionKey, channel: ChannelKey) {
    let Some(connection) = core.connections.get_mut(key) else { return };
    let session = connection.session_mut();
    let Some(topic) = session.and_then(|session| session.topic.as_mut()) else { return };
    if !topic.replays.remove(channel) {
        return;
    }
    mind(core, key);
    release(core, key, channel);
}

/// Notes whether a connection is still to be sent what was kept.
pub(crate) fn mind(core: &mut Core, key: ConnectionKey) {
    let Some(connection) = core.connections.get_mut(key) else { return };
    let session = connection.session_mut();
    let Some(topic) = session.and_then(|session| session.topic.as_ref()) else { return };
    if topic.replays.is_empty() && topic.search.is_none() {
        connection.is_replaying = false;
        connection.mind_room();
    }
}

/// Ends the replay of a channel that a connection subscribes to no longer. If a pattern of it matches the
/// channel, it is still sent what that would miss.
#[cold]
pub(crate) fn note_unsubscribed(core: &mut Core, key: ConnectionKey, channel: ChannelKey) {
    if of_channel(core, key, channel).is_none() {
        return;
    }
    if patterns_of(core, key, channel) == 0 {
        return forget(core, key, channel);
    }
    let session = core.connections.session_mut(key);
    if let Some(topic) = session.and_then(|session| session.topic.as_mut()) {
        topic.replays.join_none(channel);
    }
}

/// Forgets all replays to a connection that a pattern of it has begun, but for those of channels that it
/// still hears: what was published meanwhile waits for it there.
pub(crate) fn forget_of_pattern(core: &mut Core, key: ConnectionKey, pattern: &str) {
    let session = core.connections.session(key);
    let Some(topic) = session.and_then(|session| session.topic.as_ref()) else { return };
    core.turn.note_work(topic.replays.len() / LOOKS_PER_WORK);
    let begun = topic.replays.iter().filter(|replay| {
        let channel = core.router.channels.get(replay.channel);
        let matches = channel.is_some_and(|channel| pattern::matches(pattern, &channel.id));
        replay.joins.is_none() && matches
    });
    let gone: Vec<ChannelKey> = begun.map(|replay| replay.channel).collect();
    core.turn.note_work(gone.len());
    for channel in gone {
        let session = core.connections.session(key);
        let subscribes = session.is_some_and(|own| own.subscriptions.contains_key(&channel));
        if !subscribes && patterns_of(core, key, channel) == 0 {
            forget(core, key, channel);
        }
    }
}

/// Closes those who are still sent what was kept of a channel, because its history goes.
pub(crate) fn doom_all(core: &mut Core, channel: ChannelKey) {
    let found = core.router.channels.get(channel);
    let Some(topic) = found.and_then(|found| found.topic.as_ref()) else { return };
    for key in topic.replaying.clone() {
        if let Some(Replay { next: Next::Offset(_), .. }) = of_channel(core, key, channel) {
            doom(core, key);
        }
    }
}

/// Ends the replays of a channel that keeps nothing any more: whoever has had everything is done, and
/// the others are closed. A channel without anything kept may be gone before they read on.
#[cold]
pub(crate) fn note_emptied(core: &mut Core, channel: ChannelKey) {
    let found = core.router.channels.get(channel);
    let Some(topic) = found.and_then(|found| found.topic.as_ref()) else { return };
    let end = topic.history.as_ref().map_or(0, |history| history.next_offset());
    for key in topic.replaying.clone() {
        match of_channel(core, key, channel) {
            Some(Replay { next: Next::Offset(next), .. }) if next < end => doom(core, key),
            Some(replay) => finish(core, key, replay),
            None => {}
        }
    }
}

/// Forgets a replay of a connection that is in no session any more.
pub(crate) fn release(core: &mut Core, key: ConnectionKey, channel: ChannelKey) {
    core.budget.tables_bytes -= REPLAY_BYTES;
    core.router.change_topic(channel, |topic| topic.replaying.remove(&key));
    core.router.forget_idle_topic(channel);
}

/// Closes a connection that was told that it would get what is not kept any more.
fn doom(core: &mut Core, key: ConnectionKey) {
    let Some(connection) = core.connections.get_mut(key) else { return };
    if !std::mem::replace(&mut connection.doomed, true) {
        branches::note(Branch::Overtaken);
        core.counters.slow_consumers += 1;
        core.agenda.doomed.push(key);
    }
}
