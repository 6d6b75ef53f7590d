//! Finds, creates, pins and removes channels and applications.

use crate::branches::{self, Branch};
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ApplicationKey, ChannelKey, ConnectionKey};
use crate::broker::state::refusal::{self, Refusal};
use crate::broker::state::topic::history::{Epoch, History};
use crate::proto::{Envelope, ErrorCode, ID_BYTES_MAX};

/// Looks at so many channels of a connection are as much work as a delivery.
const LOOKS_PER_WORK: usize = 16;

/// Returns the channel that a message names, if there is one. A message does not create the channel
/// that it names: a channel that nobody hears or serves leaves nothing behind.
#[inline]
pub(crate) fn find(
    core: &mut Core,
    from: ConnectionKey,
    application: ApplicationKey,
    envelope: &Envelope<'_>,
) -> Option<ChannelKey> {
    let id = envelope.channel_id();
    let session = core.connections.session_mut(from)?;
    for &key in session.recent.iter().flatten() {
        // The key of a removed channel is stale, and its name may belong to a new one.
        if core.router.channels.get(key).is_some_and(|channel| id.matches(&channel.id)) {
            return Some(key);
        }
    }
    let key = core.router.channel(application, &id.decode())?;
    session.remember(key);
    Some(key)
}

/// Returns the channel with this id. If there is none, it creates one that belongs to the connection.
pub(crate) fn find_or_claim(
    core: &mut Core,
    from: ConnectionKey,
    application: ApplicationKey,
    id: &str,
) -> Result<ChannelKey, Refusal> {
    let known = core.router.channel(application, id);
    if known.is_none() {
        core.budget.take_on(ErrorCode::LimitExceeded, &mut core.counters)?;
        if is_full(core, from) && !make_room(core, from) {
            branches::note(Branch::ChannelsLimited);
            return Err(refusal::too_many_channels());
        }
    }
    if core.connections.session(from).is_none() {
        return Err(refusal::connection_closing());
    }
    let created = if known.is_none() { create(core, application, id) } else { None };
    let key = known.or(created).ok_or_else(refusal::connection_closing)?;
    let session = core.connections.session_mut(from);
    let session = session.ok_or_else(refusal::connection_closing)?;
    if created.is_some() {
        core.router.retain(key);
        session.created.push(key);
    }
    session.remember(key);
    Ok(key)
}

/// Returns whether there are as many channels as there may be, in all or of this connection.
fn is_full(core: &Core, from: ConnectionKey) -> bool {
    let created = core.connections.session(from).map_or(0, |session| session.created.len());
    core.router.channels.len() >= core.limits.channels_max
        || created >= core.limits.channels_per_connection_max && !core.connections.is_link(from)
}

/// Removes channels that nobody uses any more, those of the connection first. Returns whether there
/// is room for another one.
#[cold]
fn make_room(core: &mut Core, from: ConnectionKey) -> bool {
    branches::note(Branch::ChannelsReclaimed);
    disown_all_unused(core, from);
    if core.router.channels.len() >= core.limits.channels_max {
        forget_unused(core);
    }
    !is_full(core, from)
}

/// Removes all channels that nobody uses any more, at most once a turn, because it looks at all.
pub(crate) fn forget_unused(core: &mut Core) {
    let now = Some(core.turn.now.monotonic);
    if core.router.swept_at != now {
        core.router.swept_at = now;
        for key in core.connections.keys() {
            disown_all_unused(core, key);
        }
    }
}

/// A connection gives up the channels that it was the first to name and that nobody uses.
fn disown_all_unused(core: &mut Core, key: ConnectionKey) {
    let Some(session) = core.connections.session_mut(key) else { return };
    core.turn.note_work(session.created.len().div_ceil(LOOKS_PER_WORK));
    let router = &mut core.router;
    session.created.retain(|channel| {
        let is_used = router.is_used(*channel);
        if !is_used {
            router.release(*channel);
        }
        is_used
    });
}

/// Ends a connection's use of a channel. If the connection was the first to name it and nobody else
/// uses it, the channel is removed, so that a connection can use ever new names.
pub(crate) fn disown_unused(core: &mut Core, from: ConnectionKey, channel: ChannelKey) {
    if core.router.is_used(channel) {
        return;
    }
    let Some(session) = core.connections.session_mut(from) else { return };
    if let Some(at) = session.created.iter().position(|created| *created == channel) {
        branches::note(Branch::ChannelForgotten);
        session.created.swap_remove(at);
        core.router.release(channel);
    }
}

/// Creates a channel or finds it, and keeps it until it is removed. `None` if there is no such
/// application.
///
/// # Panics
/// If the id could not stand in a message.
pub(crate) fn pin_channel(
    core: &mut Core,
    application: ApplicationKey,
    id: &str,
) -> Option<ChannelKey> {
    let key = find_or_create(core, application, id)?;
    core.router.channels.get_mut(key)?.pinned = true;
    Some(key)
}

/// Creates a channel or finds it. A new one has no reference yet: the caller adds one.
///
/// # Panics
/// If the id could not stand in a message.
pub(crate) fn find_or_create(
    core: &mut Core,
    application: ApplicationKey,
    id: &str,
) -> Option<ChannelKey> {
    assert_usable(id);
    let known = core.router.channel(application, id);
    known.or_else(|| create(core, application, id))
}

fn create(core: &mut Core, application: ApplicationKey, id: &str) -> Option<ChannelKey> {
    let key = core.router.create_channel(application, id, core.turn.now.unix)?;
    if !core.limits.histories.is_empty() {
        give_history(core, key);
    }
    Some(key)
}

/// Gives a channel the history that the operator wants, if any.
#[cold]
pub(crate) fn give_history(core: &mut Core, channel: ChannelKey) {
    let Some((owner, found)) = core.router.names(channel) else { return };
    let Some(rule) = core.limits.history_of(&owner.id, &found.id) else { return };
    branches::note(Branch::HistoryGiven);
    let history = History::new(Epoch(core.encoder.epoch()), rule.into());
    core.router.ensure_topic(channel);
    core.router.change_topic(channel, |topic| topic.history = Some(Box::new(history)));
}

pub(crate) fn assert_usable(id: &str) {
    assert!(
        !id.is_empty() && id.len() <= ID_BYTES_MAX,
        "an id has 1 to {ID_BYTES_MAX} bytes, this one has {}",
        id.len()
    );
}
