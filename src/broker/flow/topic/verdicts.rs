//! Channels that are heard through a pattern, and the filter of the process: it is asked about each of
//! them before its first publication, as if the connection subscribed to the channel.

use std::sync::Arc;

use super::conflation;
use crate::branches::{self, Branch};
use crate::broker::flow::queues;
use crate::broker::state::core::Core;
use crate::broker::state::keys::ConnectionKey;
use crate::broker::state::topic::seat::List;
use crate::broker::state::topic::verdicts::Undecided;
use crate::proto::OutFrame;

/// Returns what becomes of a publication that a connection hears through a pattern. `None`: it is
/// delivered. Otherwise the filter refuses that channel, or is asked before it is delivered; returns
/// whether it was taken.
#[inline]
pub(crate) fn stop(
    core: &mut Core,
    to: ConnectionKey,
    channel: &str,
    list: List,
    frame: &OutFrame<'_>,
    publications: u32,
) -> Option<bool> {
    if core.server.filter_generation == 0 {
        return None;
    }
    look_up(core, to, channel, list, frame, publications)
}

#[cold]
fn look_up(
    core: &mut Core,
    to: ConnectionKey,
    channel: &str,
    list: List,
    frame: &OutFrame<'_>,
    publications: u32,
) -> Option<bool> {
    match verdict(core, to, channel) {
        Some(true) if !waits_already(core, to, channel) => None,
        Some(false) => {
            branches::note(Branch::RefusedByPattern);
            Some(false)
        }
        Some(true) | None => {
            let frame = frame.to_kept(&mut core.pool);
            let undecided = Undecided { to, channel: channel.into(), list, frame, publications };
            core.agenda.undecided.push_back(undecided);
            Some(true)
        }
    }
}

/// Returns whether earlier publications of a channel are still to be delivered to a connection. The filter may
/// publish while it is asked about another channel, and what it publishes comes behind those.
fn waits_already(core: &Core, to: ConnectionKey, channel: &str) -> bool {
    let mut waiting = core.agenda.undecided.iter();
    core.agenda.is_deciding && waiting.any(|other| other.to == to && *other.channel == *channel)
}

/// Returns what the present filter has said of a channel.
pub(crate) fn verdict(core: &Core, to: ConnectionKey, channel: &str) -> Option<bool> {
    let topic = core.connections.session(to)?.topic.as_ref()?;
    topic.verdicts.get(core.server.filter_generation, channel)
}

/// Returns whether there is a filter that has not allowed a channel.
pub(crate) fn refuses(core: &Core, to: ConnectionKey, channel: &str) -> bool {
    core.server.filter_generation > 0 && verdict(core, to, channel) != Some(true)
}

/// Notes what the filter says of a channel.
pub(crate) fn note(core: &mut Core, to: ConnectionKey, channel: &Arc<str>, is_allowed: bool) {
    let generation = core.server.filter_generation;
    let session = core.connections.session_mut(to);
    let Some(topic) = session.and_then(|session| session.topic.as_mut()) else { return };
    core.budget.tables_bytes -= topic.verdicts.bytes();
    topic.verdicts.set(generation, channel, is_allowed);
    core.budget.tables_bytes += topic.verdicts.bytes();
}

/// Delivers what has waited for the verdict.
pub(crate) fn deliver(core: &mut Core, undecided: Undecided) {
    let Undecided { to, channel, list, frame, publications } = undecided;
    let frame = OutFrame::shared(frame);
    let is_taken = match list {
        List::Conflating => conflation::push(core, to, &channel, &frame),
        List::Live | List::Replaying | List::Link => queues::push(core, to, &frame),
    };
    core.counters.deliveries += u64::from(is_taken) * u64::from(publications);
}

/// Forgets the verdicts on a connection, whose patterns have changed.
pub(crate) fn forget(core: &mut Core, key: ConnectionKey) {
    let session = core.connections.session_mut(key);
    if let Some(topic) = session.and_then(|session| session.topic.as_mut()) {
        core.budget.tables_bytes -= topic.verdicts.bytes();
        topic.verdicts.clear();
    }
}
