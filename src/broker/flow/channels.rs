//! Finds, creates, pins and removes channels and applications.

use crate::broker::state::core::Core;
use crate::broker::state::keys::{ApplicationKey, ChannelKey, ConnectionKey};
use crate::broker::state::refusal::{self, Refusal};
use crate::proto::{Envelope, ErrorCode, ID_BYTES_MAX};

/// Returns the channel that a message names, and creates it if there is none.
pub(crate) fn resolve(
    core: &mut Core,
    from: ConnectionKey,
    application: ApplicationKey,
    envelope: &Envelope<'_>,
) -> Result<ChannelKey, Refusal> {
    let id = envelope.channel_id();
    let session = core.connections.session(from);
    let recent = session.into_iter().flat_map(|session| session.recent.iter().flatten());
    for &key in recent {
        // The key of a removed channel is stale, and its name may belong to a new one.
        if core.router.channels.get(key).is_some_and(|channel| id.matches(&channel.id)) {
            return Ok(key);
        }
    }
    find_or_claim(core, from, application, &id.decode())
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
    }
    let session = core.connections.session_mut(from);
    let session = session.ok_or_else(refusal::connection_closing)?;
    let key = if let Some(key) = known {
        key
    } else {
        if core.router.channels.len() >= core.limits.channels_max
            || session.created.len() >= core.limits.channels_per_connection_max
        {
            return Err(refusal::too_many_channels());
        }
        let key = core.router.create_channel(application, id, core.turn.now.unix);
        let key = key.ok_or_else(refusal::connection_closing)?;
        core.router.retain(key);
        session.created.push(key);
        key
    };
    session.remember(key);
    Ok(key)
}

/// Ends a connection's use of a channel. If the connection was the first to name it and nobody else
/// uses it, the channel is removed, so that a connection can use ever new names.
pub(crate) fn disown_unused(core: &mut Core, from: ConnectionKey, channel: ChannelKey) {
    if core.router.channels.get(channel).is_none_or(|channel| channel.references > 1) {
        return;
    }
    let Some(session) = core.connections.session_mut(from) else { return };
    if let Some(at) = session.created.iter().position(|created| *created == channel) {
        session.created.swap_remove(at);
        core.router.release(channel);
    }
}

/// Creates an application or finds it, and keeps it for the life of the server.
///
/// # Panics
/// If the id could not stand in a message.
pub(crate) fn pin_application(core: &mut Core, id: &str, name: Option<&str>) -> ApplicationKey {
    assert_usable(id);
    let key = core.router.find_or_create_application(id, core.turn.now.unix);
    if let Some(application) = core.router.applications.get_mut(key) {
        application.pinned = true;
        if let Some(name) = name {
            application.name = name.into();
        }
    }
    key
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
    known.or_else(|| core.router.create_channel(application, id, core.turn.now.unix))
}

fn assert_usable(id: &str) {
    assert!(
        !id.is_empty() && id.len() <= ID_BYTES_MAX,
        "an id has 1 to {ID_BYTES_MAX} bytes, this one has {}",
        id.len()
    );
}
