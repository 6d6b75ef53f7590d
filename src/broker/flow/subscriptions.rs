//! The subscribers of a channel, and deliveries to them.

use std::collections::btree_map::Entry;

use serde::Serialize;

use super::forms::{Forms, Publication, SHARED_BY_MIN};
use super::topic::{self, conflation, publishing, replays};
use super::{answers, channels, interest, queues};
use crate::branches::{self, Branch};
use crate::broker::limits::Limits;
use crate::broker::state::budget::SUBSCRIPTION_BYTES;
use crate::broker::state::connection::{Obstacle, Session};
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ChannelKey, ConnectionKey};
use crate::broker::state::refusal::{self, Refusal};
use crate::broker::state::topic::seat::{List, Seat};
use crate::broker::state::topic::wanted::{self, Wanted};
use crate::proto::{Envelope, ErrorCode, Extensions, OutFrame};

/// Puts the frames of one publication or of several into the queue of every subscriber. Returns
/// how many took them.
pub(crate) fn fan_out(
    core: &mut Core,
    channel: ChannelKey,
    frames: &OutFrame<'_>,
    publications: u32,
) -> usize {
    let Some(target) = core.router.channels.get_mut(channel) else {
        core.router.patterns.run_is_of_link = false;
        note_unheard(core, publications);
        return 0;
    };
    if target.is_topical {
        return topic::fan_out::fan_out(core, channel, frames, publications);
    }
    // Sending does not change the list of subscribers: a connection that has to be closed is closed
    // later.
    let subscribers = std::mem::take(&mut target.subscribers);
    let shared = (subscribers.len() >= SHARED_BY_MIN).then(|| frames.to_shared(&mut core.pool));
    let frames = shared.as_ref().unwrap_or(frames);
    let reached = subscribers.iter().filter(|key| queues::put(core, **key, frames)).count();
    let work = core.turn.fan_out_work(subscribers.len(), frames.len());
    if let Some(target) = core.router.channels.get_mut(channel) {
        target.subscribers = subscribers;
        if reached == 0 {
            target.unheard += u64::from(publications);
            core.counters.publications_unheard += u64::from(publications);
        }
    }
    let deliveries = reached as u64 * u64::from(publications);
    core.counters.publications += u64::from(publications);
    core.counters.deliveries += deliveries;
    core.counters.frames_out += deliveries;
    core.counters.bytes_out += (reached * frames.len()) as u64;
    core.turn.note_work(work);
    reached
}

/// Does the same for one publication in the form that each subscriber takes.
pub(crate) fn fan_out_in_forms(
    core: &mut Core,
    channel: ChannelKey,
    publication: &Publication<'_>,
) -> usize {
    let Some(target) = core.router.channels.get_mut(channel) else {
        note_unheard(core, 1);
        return 0;
    };
    if target.is_topical {
        return publishing::publish(core, channel, publication);
    }
    let subscribers = std::mem::take(&mut target.subscribers);
    let reached = push_in_forms(core, &subscribers, publication);
    if let Some(target) = core.router.channels.get_mut(channel) {
        target.subscribers = subscribers;
    }
    core.counters.publications += 1;
    core.counters.deliveries += reached as u64;
    if reached == 0 {
        core.note_unheard(channel, 1);
    }
    reached
}

/// Puts a message with a `meta` into the queue of every connection of a list, in the form that each
/// takes. Returns how many took it.
pub(crate) fn push_in_forms(
    core: &mut Core,
    keys: &[ConnectionKey],
    publication: &Publication<'_>,
) -> usize {
    let mut forms = Forms::new(publication, keys.len() >= SHARED_BY_MIN);
    let mut reached = 0;
    for key in keys {
        match forms.of(core, *key) {
            Some(frame) => reached += usize::from(queues::push(core, *key, frame)),
            None => core.counters.publications_too_large += 1,
        }
    }
    let work = core.turn.fan_out_work(keys.len(), publication.body.len());
    core.turn.note_work(work);
    reached
}

/// Counts publications to a channel that does not exist.
pub(crate) fn note_unheard(core: &mut Core, publications: u32) {
    core.counters.publications += u64::from(publications);
    core.counters.publications_unheard += u64::from(publications);
}

/// Subscribes a peer that asks for it.
#[expect(
    clippy::inline_always,
    reason = "most peers want nothing but the subscription, and there is less to do for them"
)]
#[inline(always)]
pub(crate) fn subscribe(
    core: &mut Core,
    from: ConnectionKey,
    channel: ChannelKey,
    envelope: &Envelope<'_>,
    wanted: &Wanted<'_>,
) -> Result<(), Refusal> {
    let Some(session) = core.connections.session(from) else { return Ok(()) };
    let is_new = !session.subscriptions.contains_key(&channel);
    if is_new {
        check_room_of(session, &core.limits)?;
        core.budget.take_on(ErrorCode::LimitExceeded, &mut core.counters)?;
    } else if wanted.asks_for_past() {
        return Err(refusal::topic::past_of_subscribed());
    }
    if !wanted.ack && !wanted.asks_for_past() {
        add_as_wanted(core, from, channel, wanted);
    } else {
        subscribe_and_answer(core, from, channel, envelope, wanted, is_new);
    }
    Ok(())
}

/// Subscribes a peer that wants an answer. It may also want what was kept of the channel.
#[inline(never)]
fn subscribe_and_answer(
    core: &mut Core,
    from: ConnectionKey,
    channel: ChannelKey,
    envelope: &Envelope<'_>,
    wanted: &Wanted<'_>,
    is_new: bool,
) {
    let mut found = replays::find(core, channel, wanted);
    if found.has_replay() {
        found.go_on_from(core, from, channel);
    }
    if is_new && !found.has_replay() {
        add_as_wanted(core, from, channel, wanted);
    }
    let knows_places = knows_places(core, from);
    let newest = found.newest.as_ref().filter(|_| knows_places);
    let subscribed = Subscribed {
        status: "subscribed",
        epoch: newest.map(|(epoch, _)| epoch.as_str()),
        offset: newest.map(|(_, offset)| *offset),
        recovered: found.recovered,
        messages: found.recovered.map(|_| found.messages),
    };
    answers::respond(core, from, envelope, &subscribed);
    if is_new && found.has_replay() {
        let list = if wanted.conflate { List::Conflating } else { List::Live };
        replays::begin(core, from, channel, &found, list);
    }
}

/// Unsubscribes a peer that asks for it.
pub(crate) fn unsubscribe(
    core: &mut Core,
    from: ConnectionKey,
    channel: ChannelKey,
    envelope: &Envelope<'_>,
    wanted: &Wanted<'_>,
) {
    drop_one(core, from, channel);
    if wanted.ack {
        answer(core, from, envelope, "unsubscribed");
    }
}

pub(crate) fn answer(
    core: &mut Core,
    to: ConnectionKey,
    envelope: &Envelope<'_>,
    status: &'static str,
) {
    answers::respond(core, to, envelope, &Status { status });
}

/// Answers the subscribe of a pattern that asks for the newest messages.
pub(crate) fn answer_recovered(core: &mut Core, to: ConnectionKey, envelope: &Envelope<'_>) {
    let subscribed = Subscribed {
        status: "subscribed",
        epoch: None,
        offset: None,
        recovered: Some(true),
        messages: None,
    };
    answers::respond(core, to, envelope, &subscribed);
}

/// Checks that a connection may have another subscription.
pub(crate) fn check_room(core: &Core, key: ConnectionKey) -> Result<(), Refusal> {
    let session = core.connections.session(key).filter(|_| !core.connections.is_link(key));
    session.map_or(Ok(()), |session| check_room_of(session, &core.limits))
}

#[inline]
fn check_room_of(session: &Session, limits: &Limits) -> Result<(), Refusal> {
    let of_patterns = session.topic.as_ref().map_or(0, |topic| topic.patterns.len());
    if session.subscriptions.len() + of_patterns >= limits.subscriptions_per_connection_max {
        branches::note(Branch::SubscriptionsLimited);
        return Err(refusal::too_many_subscriptions());
    }
    Ok(())
}

/// Adds a connection to a channel's subscribers, if it is not one yet.
pub(crate) fn add(core: &mut Core, key: ConnectionKey, channel: ChannelKey) {
    add_to(core, key, channel, List::Live);
}

#[inline]
fn add_as_wanted(core: &mut Core, key: ConnectionKey, channel: ChannelKey, wanted: &Wanted<'_>) {
    if wanted.conflate {
        core.router.ensure_topic(channel);
        add_to(core, key, channel, List::Conflating);
    } else {
        add(core, key, channel);
    }
}

#[expect(clippy::inline_always, reason = "there is less to do in the list that most are in")]
#[inline(always)]
fn add_to(core: &mut Core, key: ConnectionKey, channel: ChannelKey, list: List) {
    let Some(connection) = core.connections.get_mut(key) else { return };
    let congested = u32::from(connection.congested.is_some() && list == List::Live);
    let Some(session) = connection.session_mut() else { return };
    let Some(target) = core.router.channels.get_mut(channel) else { return };
    if let Entry::Vacant(place) = session.subscriptions.entry(channel) {
        let subscribers = target.list_mut(list);
        place.insert(Seat::new(list, subscribers.len()));
        subscribers.push(key);
        let is_first = subscribers.len() == 1;
        target.congested += congested;
        core.budget.tables_bytes += SUBSCRIPTION_BYTES;
        core.router.retain(channel);
        if is_first {
            interest::note_subscribers(core, channel);
        }
    }
}

/// Ends a connection's subscription. Returns whether it had one.
pub(crate) fn drop_one(core: &mut Core, key: ConnectionKey, channel: ChannelKey) -> bool {
    let Some(connection) = core.connections.get_mut(key) else { return false };
    let congested = connection.congested.is_some();
    let Some(session) = connection.session_mut() else { return false };
    let may_be_replayed = session.topic.is_some();
    let Some(seat) = session.subscriptions.remove(&channel) else { return false };
    if congested
        && seat.is_live()
        && let Some(target) = core.router.channels.get_mut(channel)
    {
        target.congested -= 1;
        queues::wake_first(core, Obstacle::Subscriber(channel));
    }
    if may_be_replayed {
        replays::note_unsubscribed(core, key, channel);
    }
    let is_live = seat.is_live();
    // It may be the last that keeps the channel.
    let ended =
        core.router.channels.get(channel).filter(|_| !is_live).map(|found| found.id.clone());
    remove(core, channel, seat);
    if let Some(ended) = ended {
        conflation::note_unsubscribed(core, key, |waiting| *waiting == *ended);
    }
    channels::disown_unused(core, key, channel);
    true
}

/// Removes one entry from a list of a channel. The last entry moves into its place.
pub(crate) fn remove(core: &mut Core, channel: ChannelKey, seat: Seat) {
    let Some(target) = core.router.channels.get_mut(channel) else { return };
    core.budget.tables_bytes -= SUBSCRIPTION_BYTES;
    let list = match seat.list() {
        List::Live => &mut target.subscribers,
        List::Conflating => target.list_mut(List::Conflating),
        List::Replaying | List::Link => {
            interest::note_subscribers(core, channel);
            return core.router.release(channel);
        }
    };
    list.swap_remove(seat.position());
    let was_last = list.is_empty();
    if let Some(moved) = list.get(seat.position())
        && let Some(session) = core.connections.session_mut(*moved)
    {
        session.subscriptions.insert(channel, seat);
    }
    if !seat.is_live() {
        core.router.forget_idle_topic(channel);
    }
    if was_last {
        interest::note_subscribers(core, channel);
    }
    core.router.release(channel);
}

fn knows_places(core: &Core, key: ConnectionKey) -> bool {
    let connection = core.connections.get(key);
    connection.is_some_and(|found| found.extensions.contains(Extensions::TOPIC))
}

/// The answer to a subscribe.
#[derive(Serialize)]
struct Subscribed<'a> {
    status: &'static str,
    /// The channel's history.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<&'a str>,
    /// The newest publication in it, 0 if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// What was asked for is there and follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered: Option<bool>,
    /// The messages that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<u64>,
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

/// What every peer may ask for in a subscribe or unsubscribe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) wants_answer: bool,
    /// It negotiated the extension `topic`, so that it may ask for more.
    pub(crate) has_topic: bool,
}

/// Reads the payload of a subscribe or unsubscribe, which may only name its own connection.
#[inline(never)]
pub(crate) fn read_own_payload(
    core: &Core,
    from: ConnectionKey,
    envelope: &Envelope<'_>,
) -> Result<Asked, Refusal> {
    let connection = core.connections.get(from);
    let has_topic = connection.is_some_and(|it| it.extensions.contains(Extensions::TOPIC));
    let own = connection.and_then(|it| it.session()).map(|session| &*session.id);
    Ok(Asked { wants_answer: wanted::wants_answer(envelope.payload_str(), own)?, has_topic })
}
