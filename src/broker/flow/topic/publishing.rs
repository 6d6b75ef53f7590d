//! What a publication does on a topical channel.

use super::audience::{self, Deliver, Hearer, Matching};
use super::keeping::{self, Placed};
use super::{conflation, replays, verdicts};
use crate::broker::flow::forms::{Forms, Publication, SHARED_BY_MIN};
use crate::broker::flow::queues;
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ApplicationKey, ChannelKey};
use crate::broker::state::topic::seat::List;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::placed::OWN_PLACE_BYTES_MAX;
use crate::proto::{BufferPool, Envelope, Extensions, OutFrame, Position};

/// Those who hear what the process itself publishes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hearers<'a> {
    OfChannel(ChannelKey),
    /// There is no such channel, but its name may match patterns of the application.
    OfPatterns(ApplicationKey, &'a str),
}

impl<'a> Hearers<'a> {
    /// Finds those who may hear a channel. `None`: nobody does.
    #[inline]
    pub(crate) fn find(core: &mut Core, app_id: &str, channel_id: &'a str) -> Option<Self> {
        let application = core.router.application(app_id);
        match application.and_then(|key| core.router.channel(key, channel_id)) {
            Some(channel) => Some(Self::OfChannel(channel)),
            None => Self::find_unlisted(core, app_id, channel_id),
        }
    }

    /// Finds those who may hear a channel that does not exist, which may have to exist from now on.
    #[cold]
    #[inline(never)]
    fn find_unlisted(core: &mut Core, app_id: &str, channel_id: &'a str) -> Option<Self> {
        if !core.limits.histories.is_empty()
            && let Some(channel) = keeping::claim_own(core, app_id, channel_id, None).ok().flatten()
        {
            return Some(Self::OfChannel(channel));
        }
        let key = core.router.application(app_id)?;
        let application = core.router.applications.get(key)?;
        application.patterns.map(|_| Self::OfPatterns(key, channel_id))
    }
}

/// Delivers one publication, in the form that each subscriber takes. Returns how many got it.
///
/// This is all that a publication does on a channel with a topic, whoever publishes.
pub(crate) fn publish(
    core: &mut Core,
    channel: ChannelKey,
    publication: &Publication<'_>,
) -> usize {
    let place = keeping::next_place(core, channel);
    let position =
        place.as_ref().map(|(epoch, offset)| Position { epoch: epoch.as_str(), offset: *offset });
    let publication = Publication { position, ..*publication };
    if audience::is_replaying(core, channel) {
        let bytes_max = position.map_or(0, |place| place.frame_bytes_max(publication.body));
        replays::make_way(core, channel, 1, bytes_max);
    }
    let matching = audience::take(core, channel);
    let reached = deliver(core, Some(channel), &matching, &publication);
    audience::give_back(core, matching);
    keeping::settle(core, channel);
    reached
}

/// Delivers one publication on a channel that has no entry. Only patterns can match it.
#[cold]
pub(crate) fn publish_unlisted(
    core: &mut Core,
    application: ApplicationKey,
    name: &str,
    publication: &Publication<'_>,
) -> usize {
    let matching = audience::look_up_name(core, application, name);
    let reached = deliver(core, None, &matching, publication);
    audience::give_back(core, matching);
    reached
}

fn deliver(
    core: &mut Core,
    channel: Option<ChannelKey>,
    matching: &Matching,
    publication: &Publication<'_>,
) -> usize {
    let name = publication.envelope.channel_id().decode();
    let forms = Forms::new(publication, is_for_many(core, channel, matching));
    let mut each = InForms { forms, name: &name, again: 0 };
    if let Some(channel) = channel {
        keeping::keep(core, channel, &mut each.forms);
    }
    let undecided_before = core.agenda.undecided.len();
    let (reached, all) = audience::for_each(core, channel, matching, &mut each);
    let work = core.turn.fan_out_work(all - each.again, publication.body.len());
    core.turn.note_work(work);
    core.counters.publications += 1;
    core.counters.deliveries += (reached - waiting(core, undecided_before)) as u64;
    match channel {
        Some(channel) if reached == 0 => core.note_unheard(channel, 1),
        _ => core.counters.publications_unheard += u64::from(reached == 0),
    }
    reached
}

/// Returns whether so many hear a publication that their queues are to share small frames, too. A pattern
/// counts as one of them.
fn is_for_many(core: &Core, channel: Option<ChannelKey>, matching: &Matching) -> bool {
    let channel = channel.and_then(|channel| core.router.channels.get(channel));
    let of_channel = channel.map_or(0, |found| found.subscribers.len());
    of_channel + matching.nodes.len() >= SHARED_BY_MIN
}

/// A publication in the form that each subscriber takes.
struct InForms<'a> {
    forms: Forms<'a>,
    name: &'a str,
    /// Subscriptions of those who have it already.
    again: usize,
}

impl Deliver for InForms<'_> {
    fn deliver(&mut self, core: &mut Core, to: Hearer) -> bool {
        let Hearer { key, list, by_pattern, round } = to;
        if !core.connections.is_first(key, round) {
            self.again += 1;
            return false;
        }
        let Some(frame) = self.forms.of(core, key) else {
            core.counters.publications_too_large += 1;
            return false;
        };
        if by_pattern && let Some(is_taken) = verdicts::stop(core, key, self.name, list, frame, 1) {
            return is_taken;
        }
        match list {
            List::Live | List::Replaying => queues::push(core, key, frame),
            List::Conflating => conflation::push(core, key, self.name, frame),
        }
    }
}

/// Returns how many of those that a publication reaches wait for the filter. They are counted when it is
/// delivered to them.
fn waiting(core: &Core, undecided_before: usize) -> usize {
    core.agenda.undecided.len() - undecided_before
}

/// Delivers one publication of the process itself by itself. `None`: it has no ids that a peer could
/// send, and is delivered as it is.
#[cold]
pub(crate) fn publish_own(
    core: &mut Core,
    hearers: Hearers<'_>,
    frame: &OutFrame<'_>,
) -> Option<usize> {
    let frame = frame.to_kept(&mut core.pool);
    let body = &frame.bytes()[HEADER_BYTES..];
    let envelope = Envelope::parse_binary(body).ok()?;
    let publication = Publication { envelope: &envelope, body, meta: None, position: None };
    Some(match hearers {
        Hearers::OfChannel(channel) => publish(core, channel, &publication),
        Hearers::OfPatterns(application, name) => {
            publish_unlisted(core, application, name, &publication)
        }
    })
}

/// Publications that all subscribers get as they are.
struct AsTheyAre<'a> {
    frames: &'a OutFrame<'a>,
    /// Subscriptions of those who have them already.
    again: usize,
}

impl Deliver for AsTheyAre<'_> {
    #[expect(clippy::inline_always, reason = "each delivery passes here")]
    #[inline(always)]
    fn deliver(&mut self, core: &mut Core, to: Hearer) -> bool {
        queues::put_picked(core, to.key, |connection, _| {
            if connection.is_first(to.round) {
                Some(self.frames)
            } else {
                self.again += 1;
                None
            }
        })
    }
}

/// The copies of publications without a `meta` on a channel with a history, or where the filter is asked
/// about it. Each is made when the first subscriber needs it.
struct Copies<'a> {
    frames: &'a OutFrame<'a>,
    publications: u32,
    /// The channel's name, if the filter is asked.
    name: Option<&'a str>,
    /// Many queues are to refer to one copy.
    is_shared: bool,
    shared: Option<OutFrame<'static>>,
    placed: Placed<'a>,
    again: usize,
    too_large: usize,
    bytes_out: usize,
}

impl Deliver for Copies<'_> {
    #[expect(clippy::inline_always, reason = "each delivery passes here")]
    #[inline(always)]
    fn deliver(&mut self, core: &mut Core, to: Hearer) -> bool {
        if to.by_pattern && self.name.is_some() {
            return self.deliver_if_allowed(core, to);
        }
        let mut bytes = 0;
        let is_taken = queues::put_picked(core, to.key, |connection, pool| {
            if !connection.is_first(to.round) {
                self.again += 1;
                return None;
            }
            let own = self.of(connection.extensions, pool)?;
            bytes = own.len();
            Some(own)
        });
        if is_taken {
            self.bytes_out += bytes;
        }
        is_taken
    }
}

impl Copies<'_> {
    /// Returns the one for a subscriber with these extensions, unless that would be too large.
    #[expect(clippy::inline_always, reason = "each delivery passes here")]
    #[inline(always)]
    fn of(&mut self, extensions: Extensions, pool: &mut BufferPool) -> Option<&OutFrame<'_>> {
        if extensions.contains(Extensions::TOPIC) && !matches!(self.placed, Placed::Not) {
            let placed = self.placed.frames(pool);
            self.too_large += usize::from(placed.is_none());
            return placed;
        }
        if self.is_shared && self.shared.is_none() {
            self.share(pool);
        }
        Some(self.shared.as_ref().unwrap_or(self.frames))
    }

    #[inline(never)]
    fn share(&mut self, pool: &mut BufferPool) {
        self.shared = Some(self.frames.to_shared(pool));
    }

    /// Delivers to one that hears the channel through a pattern, if the filter allows it.
    #[cold]
    fn deliver_if_allowed(&mut self, core: &mut Core, to: Hearer) -> bool {
        let Hearer { key, list, round, .. } = to;
        if !core.connections.is_first(key, round) {
            self.again += 1;
            return false;
        }
        let (publications, name) = (self.publications, self.name.unwrap_or_default());
        let extensions = core.connections.get(key).map(|found| found.extensions);
        let Some(own) = self.of(extensions.unwrap_or_default(), &mut core.pool) else {
            return false;
        };
        if let Some(is_taken) = verdicts::stop(core, key, name, list, own, publications) {
            return is_taken;
        }
        let (bytes, is_taken) = (own.len(), queues::put(core, key, own));
        self.bytes_out += if is_taken { bytes } else { 0 };
        is_taken
    }

    /// Gives the pool back what no queue refers to.
    fn recycle(self, pool: &mut BufferPool) {
        self.placed.recycle(pool);
        if let Some(shared) = self.shared {
            shared.recycle(pool);
        }
    }
}

/// Puts the frames of one publication or of several, which all subscribers get as they are, into the
/// queues of the subscribers of a channel and of the patterns that match it. Returns how many took
/// them.
#[cold]
#[inline(never)]
pub(crate) fn fan_out(
    core: &mut Core,
    channel: ChannelKey,
    frames: &OutFrame<'_>,
    publications: u32,
) -> usize {
    if publications == 1
        && audience::is_one_by_one(core, channel)
        && let Some(reached) = publish_own(core, Hearers::OfChannel(channel), frames)
    {
        return reached;
    }
    if audience::is_replaying(core, channel) {
        let bytes_max = frames.len() + publications as usize * OWN_PLACE_BYTES_MAX;
        replays::make_way(core, channel, publications, bytes_max);
    }
    let placed = keeping::place(core, channel, frames, publications);
    let has_filter = core.server.filter_generation > 0;
    let name = has_filter.then(|| core.router.channels.get(channel).map(|found| found.id.clone()));
    let name = name.flatten();
    let matching = audience::take(core, channel);
    let is_shared = is_for_many(core, Some(channel), &matching);
    let undecided_before = core.agenda.undecided.len();
    let (reached, all, again, bytes_out);
    if matches!(placed, Placed::Not) && name.is_none() {
        let shared = is_shared.then(|| frames.to_shared(&mut core.pool));
        let frames = shared.as_ref().unwrap_or(frames);
        let mut each = AsTheyAre { frames, again: 0 };
        (reached, all) = audience::for_each(core, Some(channel), &matching, &mut each);
        (again, bytes_out) = (each.again, reached * frames.len());
    } else {
        let mut each = Copies {
            frames,
            publications,
            name: name.as_deref(),
            is_shared,
            shared: None,
            placed,
            again: 0,
            too_large: 0,
            bytes_out: 0,
        };
        (reached, all) = audience::for_each(core, Some(channel), &matching, &mut each);
        (again, bytes_out) = (each.again, each.bytes_out);
        core.counters.publications_too_large += each.too_large as u64;
        each.recycle(&mut core.pool);
    }
    audience::give_back(core, matching);
    let delivered = reached - waiting(core, undecided_before);
    let deliveries = delivered as u64 * u64::from(publications);
    core.counters.publications += u64::from(publications);
    core.counters.deliveries += deliveries;
    core.counters.frames_out += deliveries;
    core.counters.bytes_out += bytes_out as u64;
    let work = core.turn.fan_out_work(all - again, frames.len());
    core.turn.note_work(work);
    if reached == 0 {
        core.note_unheard(channel, publications);
    }
    reached
}
