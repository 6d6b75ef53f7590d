//! The operator has the server forget what it keeps of channels.

use serde::Serialize;

use super::operator;
use crate::broker::flow::answers;
use crate::broker::flow::topic::keeping;
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ChannelKey, ConnectionKey};
use crate::broker::state::refusal::{self, Refusal};
use crate::proto::{Envelope, Member, members};

/// So many channels that are looked at are as much work as a delivery.
const LOOKS_PER_WORK: usize = 8;

/// Forgets the last value of a channel, or those of an application.
#[cold]
pub(crate) fn retained(
    core: &mut Core,
    from: ConnectionKey,
    envelope: &Envelope<'_>,
) -> Result<(), Refusal> {
    purge(core, from, envelope, |core, channel| usize::from(keeping::forget_last(core, channel)))
}

/// Forgets the messages of a channel's history, or those of an application. Their offsets are not given
/// again.
#[cold]
pub(crate) fn histories(
    core: &mut Core,
    from: ConnectionKey,
    envelope: &Envelope<'_>,
) -> Result<(), Refusal> {
    purge(core, from, envelope, keeping::forget_history)
}

fn purge(
    core: &mut Core,
    from: ConnectionKey,
    envelope: &Envelope<'_>,
    forget: impl Fn(&mut Core, ChannelKey) -> usize,
) -> Result<(), Refusal> {
    operator::check(core, from)?;
    let Some([app, channel]) = members(envelope.payload_str(), ["app", "channel"]) else {
        return Err(refusal::topic::purge_invalid());
    };
    let app_id = app.id().ok_or_else(refusal::topic::purge_invalid)?;
    if !matches!(channel, Member::Absent | Member::String(_)) {
        return Err(refusal::topic::purge_invalid());
    }
    let application = core.router.application(&app_id);
    let owner = application.and_then(|key| core.router.applications.get(key));
    let channels: Vec<ChannelKey> = match (owner, channel.id()) {
        (None, _) => Vec::new(),
        (Some(owner), Some(id)) => owner.channels.get(&*id).copied().into_iter().collect(),
        (Some(owner), None) => owner.channels.values().copied().collect(),
    };
    core.turn.note_work(channels.len() / LOOKS_PER_WORK);
    let mut messages = 0;
    for channel in channels {
        messages += forget(core, channel);
        keeping::settle(core, channel);
    }
    // The operator wants the memory back.
    core.pool.trim();
    answers::respond(core, from, envelope, &Purged { status: "purged", messages });
    Ok(())
}

#[derive(Serialize)]
struct Purged {
    status: &'static str,
    messages: usize,
}
