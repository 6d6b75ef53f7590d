//! The subscribers of a channel, and deliveries to them.

use std::collections::btree_map::Entry;

use serde::Serialize;

use super::attachments::{self, Receiver, Rewrite};
use super::{answers, channels, queues};
use crate::branches::{self, Branch};
use crate::broker::state::budget::SUBSCRIPTION_BYTES;
use crate::broker::state::connection::Obstacle;
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ChannelKey, ConnectionKey};
use crate::broker::state::refusal::{self, Refusal};
use crate::proto::{Envelope, ErrorCode, Member, OutFrame, members};

/// Subscribers from which on it is cheaper that their queues refer to one copy of a small frame than
/// that each has its own.
const SHARED_BY_MIN: usize = 4;

/// Puts the frames of one publication or of several into the queue of every subscriber. Returns
/// how many took them.
pub(crate) fn fan_out(
    core: &mut Core,
    channel: ChannelKey,
    frames: &OutFrame<'_>,
    publications: u32,
) -> usize {
    let Some(target) = core.router.channels.get_mut(channel) else {
        note_unheard(core, publications);
        return 0;
    };
    // Sending does not change the list of subscribers: a connection that has to be closed is closed
    // later.
    let subscribers = std::mem::take(&mut target.subscribers);
    let shared = (subscribers.len() >= SHARED_BY_MIN).then(|| frames.to_shared(&mut core.pool));
    let frames = shared.as_ref().unwrap_or(frames);
    let reached = subscribers.iter().filter(|key| queues::put(core, **key, frames)).count();
    let work = core.turn.fan_out_work(subscribers.len(), frames.len());
    if let Some(target) = core.router.channels.get_mut(channel) {
        target.subscribers = subscribers;
    }
    let deliveries = reached as u64 * u64::from(publications);
    core.counters.publications += u64::from(publications);
    core.counters.deliveries += deliveries;
    core.counters.frames_out += deliveries;
    core.counters.bytes_out += (reached * frames.len()) as u64;
    core.turn.note_work(work);
    if reached == 0 {
        core.counters.publications_unheard += u64::from(publications);
    }
    reached
}

/// Does the same for a publication with a `meta`, in the form that each subscriber takes.
pub(crate) fn fan_out_with_meta(
    core: &mut Core,
    channel: ChannelKey,
    envelope: &Envelope<'_>,
    body: &[u8],
) -> usize {
    let Some(target) = core.router.channels.get_mut(channel) else {
        note_unheard(core, 1);
        return 0;
    };
    let subscribers = std::mem::take(&mut target.subscribers);
    let reached = push_in_forms(core, &subscribers, envelope, body);
    if let Some(target) = core.router.channels.get_mut(channel) {
        target.subscribers = subscribers;
    }
    core.counters.publications += 1;
    core.counters.deliveries += reached as u64;
    if reached == 0 {
        core.counters.publications_unheard += 1;
    }
    reached
}

/// Puts a message with a `meta` into the queue of every connection of a list, in the form that each
/// takes. Returns how many took it.
pub(crate) fn push_in_forms(
    core: &mut Core,
    keys: &[ConnectionKey],
    envelope: &Envelope<'_>,
    body: &[u8],
) -> usize {
    let is_shared = keys.len() >= SHARED_BY_MIN;
    let mut forms =
        Forms { envelope, body, is_shared, made: [Made::NotYet, Made::NotYet, Made::NotYet] };
    let mut reached = 0;
    for key in keys {
        match forms.of(core, *key) {
            Some(frame) => reached += usize::from(queues::push(core, *key, frame)),
            None => core.counters.publications_too_large += 1,
        }
    }
    let work = core.turn.fan_out_work(keys.len(), body.len());
    core.turn.note_work(work);
    reached
}

/// The frames of a publication with a `meta`. Each is written when the first subscriber needs it.
struct Forms<'a> {
    envelope: &'a Envelope<'a>,
    body: &'a [u8],
    is_shared: bool,
    /// By [`Form`].
    made: [Made<'a>; 3],
}

enum Made<'a> {
    NotYet,
    TooLarge,
    Frame(OutFrame<'a>),
}

#[derive(Clone, Copy)]
enum Form {
    /// As it came.
    Whole,
    /// With its `meta`, and attachments in base64.
    InBase64,
    /// Without its `meta`, and attachments in base64.
    Plain,
}

impl<'a> Forms<'a> {
    /// Returns the frame for a subscriber, unless that would be too large.
    fn of(&mut self, core: &mut Core, key: ConnectionKey) -> Option<&OutFrame<'a>> {
        let to = Receiver::of(core, key);
        let form = if to.extensions.is_empty() {
            Form::Plain
        } else if self.envelope.has_attachments() && to.needs_base64() {
            Form::InBase64
        } else {
            Form::Whole
        };
        let place = form as usize;
        if matches!(self.made[place], Made::NotYet) {
            self.made[place] = self.make(core, to, form).map_or(Made::TooLarge, Made::Frame);
        }
        match &self.made[place] {
            Made::Frame(frame) => Some(frame),
            Made::NotYet | Made::TooLarge => None,
        }
    }

    fn make(&self, core: &mut Core, to: Receiver, form: Form) -> Option<OutFrame<'a>> {
        let frame = match form {
            Form::Whole => OutFrame::relay(self.body, &mut core.pool),
            Form::InBase64 | Form::Plain => match self.envelope.without_meta(self.body) {
                Some([before, behind]) => {
                    OutFrame::relay_pieces([before, behind, b""], &mut core.pool)
                }
                None => return self.rewrite(core, to),
            },
        };
        if self.envelope.has_attachments() {
            branches::note(Branch::AttachmentsRelayed);
        }
        let is_shared = self.is_shared || self.envelope.has_attachments();
        Some(if is_shared { frame.to_shared(&mut core.pool) } else { frame })
    }

    #[cold]
    fn rewrite(&self, core: &mut Core, to: Receiver) -> Option<OutFrame<'a>> {
        let rewrite = Rewrite {
            head: attachments::head_of(self.envelope),
            meta: self.envelope.read_meta()?.ok()?,
            payload: self.envelope.payload_str(),
            attachments: self.envelope.attachments().ok()?,
        };
        let frame = rewrite.frame(to, &mut core.pool).ok()?;
        if self.envelope.has_attachments() {
            attachments::note_work(core, to, &frame);
        }
        Some(frame)
    }
}

/// Counts publications to a channel that does not exist.
pub(crate) fn note_unheard(core: &mut Core, publications: u32) {
    core.counters.publications += u64::from(publications);
    core.counters.publications_unheard += u64::from(publications);
}

/// Subscribes a peer that asks for it.
pub(crate) fn subscribe(
    core: &mut Core,
    from: ConnectionKey,
    channel: ChannelKey,
    envelope: &Envelope<'_>,
) -> Result<(), Refusal> {
    let wants_answer = read_own_payload(core, from, envelope)?;
    let Some(session) = core.connections.session(from) else { return Ok(()) };
    if !session.subscriptions.contains_key(&channel) {
        if session.subscriptions.len() >= core.limits.subscriptions_per_connection_max {
            branches::note(Branch::SubscriptionsLimited);
            return Err(refusal::too_many_subscriptions());
        }
        core.budget.take_on(ErrorCode::LimitExceeded, &mut core.counters)?;
    }
    add(core, from, channel);
    if wants_answer {
        answers::respond(core, from, envelope, &Status { status: "subscribed" });
    }
    Ok(())
}

/// Unsubscribes a peer that asks for it.
pub(crate) fn unsubscribe(
    core: &mut Core,
    from: ConnectionKey,
    channel: ChannelKey,
    envelope: &Envelope<'_>,
) -> Result<(), Refusal> {
    let wants_answer = read_own_payload(core, from, envelope)?;
    drop_one(core, from, channel);
    if wants_answer {
        answers::respond(core, from, envelope, &Status { status: "unsubscribed" });
    }
    Ok(())
}

/// Adds a connection to a channel's list, if it is not there yet.
pub(crate) fn add(core: &mut Core, key: ConnectionKey, channel: ChannelKey) {
    let Some(connection) = core.connections.get_mut(key) else { return };
    let congested = u32::from(connection.congested.is_some());
    let Some(session) = connection.session_mut() else { return };
    let Some(target) = core.router.channels.get_mut(channel) else { return };
    if let Entry::Vacant(place) = session.subscriptions.entry(channel) {
        place.insert(target.subscribers.len() as u32);
        target.subscribers.push(key);
        target.congested += congested;
        core.budget.tables_bytes += SUBSCRIPTION_BYTES;
        core.router.retain(channel);
    }
}

/// Ends a connection's subscription. Returns whether it had one.
pub(crate) fn drop_one(core: &mut Core, key: ConnectionKey, channel: ChannelKey) -> bool {
    let Some(connection) = core.connections.get_mut(key) else { return false };
    let congested = connection.congested.is_some();
    let session = connection.session_mut();
    let position = session.and_then(|session| session.subscriptions.remove(&channel));
    let Some(position) = position else { return false };
    if congested && let Some(target) = core.router.channels.get_mut(channel) {
        target.congested -= 1;
        queues::wake_first(core, Obstacle::Subscriber(channel));
    }
    remove(core, channel, position);
    channels::disown_unused(core, key, channel);
    true
}

/// Removes one entry from a channel's list. The last entry moves into its place.
pub(crate) fn remove(core: &mut Core, channel: ChannelKey, position: u32) {
    let Some(target) = core.router.channels.get_mut(channel) else { return };
    target.subscribers.swap_remove(position as usize);
    core.budget.tables_bytes -= SUBSCRIPTION_BYTES;
    if let Some(moved) = target.subscribers.get(position as usize)
        && let Some(session) = core.connections.session_mut(*moved)
    {
        session.subscriptions.insert(channel, position);
    }
    core.router.release(channel);
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

/// Reads the payload of a subscribe or unsubscribe, which may only name its own connection.
/// Returns whether it asks for an answer.
fn read_own_payload(
    core: &Core,
    from: ConnectionKey,
    envelope: &Envelope<'_>,
) -> Result<bool, Refusal> {
    let own = core.connections.session(from).map(|session| &*session.id);
    match members(envelope.payload_str(), ["connection_id", "ack"]) {
        // Without an id, the message means its own connection.
        Some([Member::Absent, ack]) => Ok(ack == Member::True),
        Some([Member::String(id), ack]) if own.is_some_and(|own| id.matches(own)) => {
            Ok(ack == Member::True)
        }
        Some([Member::String(_), _]) => Err(refusal::subscribes_another()),
        _ => Err(refusal::subscription_payload()),
    }
}
