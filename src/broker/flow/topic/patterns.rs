//! Subscriptions to patterns.

use super::{conflation, replays, verdicts};
use crate::broker::flow::{interest, queues, subscriptions};
use crate::broker::state::budget::SUBSCRIPTION_BYTES;
use crate::broker::state::connection::Obstacle;
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ApplicationKey, ConnectionKey, NodeKey};
use crate::broker::state::refusal::{self, Refusal};
use crate::broker::state::topic::seat::{List, Seat};
use crate::broker::state::topic::session::TopicSession;
use crate::broker::state::topic::wanted::Wanted;
use crate::proto::pattern;
use crate::proto::{Envelope, ErrorCode, MessageType};

/// Channels that get a mark with the first pattern of their application: so many are as much work as
/// a delivery.
const MARKS_PER_WORK: usize = 4;

/// Subscribes a peer to a pattern, or unsubscribes it. Returns the number of publications that it asks for
/// of each channel that the pattern matches.
#[cold]
pub(crate) fn change(
    core: &mut Core,
    from: ConnectionKey,
    application: ApplicationKey,
    envelope: &Envelope<'_>,
    wanted: &Wanted<'_>,
) -> Result<Option<u32>, Refusal> {
    let pattern = envelope.channel_id().decode();
    let is_subscribe = envelope.message_type() == MessageType::Subscribe;
    if !is_subscribe {
        unsubscribe(core, from, application, &pattern)?;
        if wanted.ack {
            subscriptions::answer(core, from, envelope, "unsubscribed");
        }
        return Ok(None);
    }
    check_pattern(&pattern)?;
    if wanted.last.is_some() && node_of(core, from, application, &pattern).is_some() {
        return Err(refusal::topic::past_of_subscribed());
    }
    subscribe(core, from, application, &pattern, wanted)?;
    let Some(last) = wanted.last else {
        if wanted.ack {
            subscriptions::answer(core, from, envelope, "subscribed");
        }
        return Ok(None);
    };
    subscriptions::answer_recovered(core, from, envelope);
    Ok(Some(last))
}

/// Charges the turn with the marks of all channels of an application, which its first pattern makes. Returns
/// false if its subscriber has to wait for a later turn.
#[cold]
pub(crate) fn charge(core: &mut Core, from: ConnectionKey, application: ApplicationKey) -> bool {
    let Some(owner) = core.router.applications.get(application) else { return true };
    if owner.patterns.is_some() {
        return true;
    }
    let work = owner.channels.len() / MARKS_PER_WORK;
    let Some(connection) = core.connections.get_mut(from) else { return true };
    core.turn.charge_or_wait(from, connection, work, &mut core.counters)
}

/// Subscribes a connection to a pattern.
pub(crate) fn subscribe(
    core: &mut Core,
    from: ConnectionKey,
    application: ApplicationKey,
    pattern: &str,
    wanted: &Wanted<'_>,
) -> Result<(), Refusal> {
    check_pattern(pattern)?;
    if node_of(core, from, application, pattern).is_some() {
        return Ok(());
    }
    subscriptions::check_room(core, from)?;
    core.budget.take_on(ErrorCode::LimitExceeded, &mut core.counters)?;
    let list = match wanted.conflate {
        _ if core.connections.is_link(from) => List::Link,
        true => List::Conflating,
        false => List::Live,
    };
    plant(core, application);
    let Some(connection) = core.connections.get_mut(from) else { return Ok(()) };
    let is_congested = connection.congested.is_some() && list != List::Conflating;
    let Some(session) = connection.session_mut() else { return Ok(()) };
    let router = &mut core.router;
    let owner = router.applications.get_mut(application);
    let Some(tree) = owner.and_then(|own| own.patterns.as_mut()) else { return Ok(()) };
    let node = router.patterns.node_or_new(tree, pattern);
    let seat = router.patterns.seat(tree, node, from, list);
    session.topic.get_or_insert_default().patterns.insert(node, seat);
    core.budget.tables_bytes += SUBSCRIPTION_BYTES;
    if is_congested {
        router.patterns.note_congested(node);
    }
    interest::note_pattern(core, node);
    Ok(())
}

/// Ends a connection's subscription to a pattern.
pub(crate) fn unsubscribe(
    core: &mut Core,
    from: ConnectionKey,
    application: ApplicationKey,
    pattern: &str,
) -> Result<(), Refusal> {
    check_pattern(pattern)?;
    let Some(node) = node_of(core, from, application, pattern) else { return Ok(()) };
    let Some(connection) = core.connections.get_mut(from) else { return Ok(()) };
    let is_congested = connection.congested.is_some();
    let session = connection.session_mut().and_then(|session| session.topic.as_mut());
    let Some(seat) = session.and_then(|topic| topic.patterns.remove(&node)) else { return Ok(()) };
    if is_congested && seat.is_live() {
        core.router.patterns.note_decongested(node);
        queues::wake_first(core, Obstacle::Pattern(node));
    }
    replays::forget_of_pattern(core, from, pattern);
    remove(core, application, node, seat);
    conflation::note_unsubscribed(core, from, |channel| pattern::matches(pattern, channel));
    verdicts::forget(core, from);
    Ok(())
}

/// Removes one entry from the list of a pattern.
pub(crate) fn remove(core: &mut Core, application: ApplicationKey, node: NodeKey, seat: Seat) {
    let router = &mut core.router;
    let owner = router.applications.get_mut(application);
    let Some(tree) = owner.and_then(|own| own.patterns.as_mut()) else { return };
    core.budget.tables_bytes -= SUBSCRIPTION_BYTES;
    if let Some(moved) = router.patterns.unseat(tree, node, seat)
        && let Some(session) = core.connections.session_mut(moved)
        && let Some(topic) = &mut session.topic
    {
        topic.patterns.insert(node, seat);
    }
    interest::note_pattern(core, node);
    core.router.release_node(node);
}

/// Ends all subscriptions of a connection that leaves.
pub(crate) fn leave(
    core: &mut Core,
    key: ConnectionKey,
    application: ApplicationKey,
    topic: TopicSession,
) {
    for replay in topic.replays.iter() {
        replays::release(core, key, replay.channel);
    }
    core.router.searches.running -= usize::from(topic.search.is_some());
    core.budget.tables_bytes -= topic.pending.bytes() + topic.verdicts.bytes();
    for (node, seat) in topic.patterns {
        remove(core, application, node, seat);
    }
}

/// Returns the node of a pattern that a connection has subscribed to.
fn node_of(
    core: &Core,
    from: ConnectionKey,
    application: ApplicationKey,
    pattern: &str,
) -> Option<NodeKey> {
    let topic = core.connections.session(from)?.topic.as_ref()?;
    let tree = core.router.applications.get(application)?.patterns.as_ref()?;
    let node = core.router.patterns.node(tree, pattern)?;
    topic.patterns.contains_key(&node).then_some(node)
}

fn check_pattern(pattern: &str) -> Result<(), Refusal> {
    pattern::fault(pattern).map_or(Ok(()), |why| Err(refusal::topic::no_pattern(why)))
}

/// Gives an application a tree for its patterns, and marks its channels.
fn plant(core: &mut Core, application: ApplicationKey) {
    let router = &mut core.router;
    let Some(owner) = router.applications.get_mut(application) else { return };
    if owner.patterns.is_some() {
        return;
    }
    owner.patterns = Some(router.patterns.plant(application));
    core.turn.note_work(owner.channels.len() / MARKS_PER_WORK);
    for channel in owner.channels.values() {
        if let Some(channel) = router.channels.get_mut(*channel) {
            channel.is_topical = true;
        }
    }
}
