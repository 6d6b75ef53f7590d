//! Publications that go into queues as they came, or with their place behind them.

use super::audience::{self, Deliver, Hearer};
use super::keeping::{self, Placed};
use super::{publishing, verdicts};
use crate::broker::flow::forms::{Publication, SHARED_BY_MIN};
use crate::broker::flow::queues;
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ChannelKey, ConnectionKey};
use crate::broker::state::topic::seat::List;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::placed::OWN_PLACE_BYTES_MAX;
use crate::proto::{BufferPool, Envelope, Extensions, OutFrame};

/// Publications that all subscribers get as they are.
struct AsTheyAre<'a> {
    frames: &'a OutFrame<'a>,
    publications: u32,
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

    fn deliver_to_link(&mut self, core: &mut Core, link: ConnectionKey) {
        push_to_link(core, link, self.frames, self.publications);
    }
}

/// The copies of publications without a `meta` on a channel with a history, or where the filter is asked
/// about it.
struct Copies<'a> {
    frames: &'a OutFrame<'a>,
    publications: u32,
    /// The channel's name, if the filter is asked.
    name: Option<&'a str>,
    /// Many queues are to refer to one copy.
    is_shared: bool,
    /// That copy, once the first subscriber needs it.
    shared: Option<OutFrame<'static>>,
    has_history: bool,
    /// With their places, unless they would be too large.
    placed: Option<OutFrame<'static>>,
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

    fn deliver_to_link(&mut self, core: &mut Core, link: ConnectionKey) {
        push_to_link(core, link, self.frames, self.publications);
    }
}

impl Copies<'_> {
    /// Returns the one for a subscriber with these extensions, unless that would be too large.
    #[expect(clippy::inline_always, reason = "each delivery passes here")]
    #[inline(always)]
    fn of(&mut self, extensions: Extensions, pool: &mut BufferPool) -> Option<&OutFrame<'_>> {
        if self.has_history && extensions.contains(Extensions::TOPIC) {
            self.too_large += usize::from(self.placed.is_none());
            return self.placed.as_ref();
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
        [self.placed, self.shared].into_iter().flatten().for_each(|copy| copy.recycle(pool));
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
    let is_of_link = std::mem::take(&mut core.router.patterns.run_is_of_link);
    let found = keeping::place_for_subscribers(core, channel, frames, publications);
    if let Some((placed, subscribers)) = found {
        return fan_out_with_places(core, channel, frames, publications, placed, subscribers);
    }
    let bytes_max = frames.len() + publications as usize * OWN_PLACE_BYTES_MAX;
    let matching = publishing::take_with_room(core, channel, publications, bytes_max);
    if publications == 1 && matching.conflates {
        let frame = frames.to_kept(&mut core.pool);
        let body = &frame.bytes()[HEADER_BYTES..];
        // The process may have given it ids that no peer could send.
        if let Ok(envelope) = Envelope::parse_binary(body) {
            let publication =
                Publication { envelope: &envelope, body, meta: None, position: None, is_of_link };
            return publishing::publish_to(core, channel, matching, &publication);
        }
    }
    let placed =
        matching.has_history.then(|| keeping::place(core, channel, frames, publications)).flatten();
    let has_filter = core.server.filter_generation > 0;
    let name = has_filter.then(|| core.router.channels.get(channel).map(|found| found.id.clone()));
    let name = name.flatten();
    let is_shared = matching.are_many();
    let undecided_before = core.agenda.undecided.len();
    let (reached, all, again, bytes_out);
    if placed.is_none() && name.is_none() {
        let shared = is_shared.then(|| frames.to_shared(&mut core.pool));
        let frames = shared.as_ref().unwrap_or(frames);
        let mut each = AsTheyAre { frames, publications, again: 0 };
        (reached, all) = audience::for_each(core, Some(channel), &matching, is_of_link, &mut each);
        (again, bytes_out) = (each.again, reached * frames.len());
    } else {
        let mut each = Copies {
            frames,
            publications,
            name: name.as_deref(),
            is_shared,
            shared: None,
            has_history: placed.is_some(),
            placed: placed.and_then(|placed| placed.into_frames(core, channel)),
            again: 0,
            too_large: 0,
            bytes_out: 0,
        };
        (reached, all) = audience::for_each(core, Some(channel), &matching, is_of_link, &mut each);
        (again, bytes_out) = (each.again, each.bytes_out);
        core.counters.publications_too_large += each.too_large as u64;
        each.recycle(&mut core.pool);
    }
    audience::give_back(core, matching);
    let delivered = reached - publishing::waiting(core, undecided_before);
    note_delivered(core, channel, publications, reached, delivered, bytes_out);
    let work = core.turn.fan_out_work(all - again, frames.len());
    core.turn.note_work(work);
    reached
}

/// Does the same on a channel that has a history, and no other hearers than these subscribers.
fn fan_out_with_places(
    core: &mut Core,
    channel: ChannelKey,
    frames: &OutFrame<'_>,
    publications: u32,
    placed: Placed,
    subscribers: Vec<ConnectionKey>,
) -> usize {
    // Most channels have subscribers of one kind alone.
    let first = subscribers.first().and_then(|key| core.connections.get(*key));
    let first_gets_places = first.is_some_and(|it| it.extensions.contains(Extensions::TOPIC));
    let mut all = Delivered { are_all: true, ..Delivered::default() };
    if first_gets_places {
        all = deliver_placed(core, channel, &subscribers, placed);
        if !all.are_all {
            all.add(&deliver_plain(core, &subscribers, frames));
        }
    } else {
        if first.is_some() {
            all = deliver_plain(core, &subscribers, frames);
        }
        if all.are_all {
            placed.recycle(&mut core.pool);
        } else {
            all.add(&deliver_placed(core, channel, &subscribers, placed));
        }
    }
    let work = core.turn.fan_out_work(subscribers.len(), frames.len());
    core.turn.note_work(work);
    core.router.put_list(channel, List::Live, subscribers);
    note_delivered(core, channel, publications, all.reached, all.reached, all.bytes);
    all.reached
}

/// Deliveries to those who get the places of publications, or to the others.
#[derive(Default)]
struct Delivered {
    reached: usize,
    bytes: usize,
    /// There are no others.
    are_all: bool,
}

impl Delivered {
    fn add(&mut self, more: &Self) {
        (self.reached, self.bytes) = (self.reached + more.reached, self.bytes + more.bytes);
    }
}

fn deliver_plain(core: &mut Core, to: &[ConnectionKey], frames: &OutFrame<'_>) -> Delivered {
    let shared = (to.len() >= SHARED_BY_MIN).then(|| frames.to_shared(&mut core.pool));
    let frames = shared.as_ref().unwrap_or(frames);
    let delivered = deliver_to_some(core, to, Extensions::NONE, frames);
    if let Some(shared) = shared {
        shared.recycle(&mut core.pool);
    }
    delivered
}

#[inline(never)]
fn deliver_placed(
    core: &mut Core,
    channel: ChannelKey,
    to: &[ConnectionKey],
    placed: Placed,
) -> Delivered {
    let Some(frames) = placed.into_frames(core, channel) else {
        return note_too_large(core, to);
    };
    let delivered = deliver_to_some(core, to, Extensions::TOPIC, &frames);
    frames.recycle(&mut core.pool);
    delivered
}

/// Delivers to those who have these of the extensions that give publications their places.
#[inline(never)]
fn deliver_to_some(
    core: &mut Core,
    to: &[ConnectionKey],
    have: Extensions,
    frames: &OutFrame<'_>,
) -> Delivered {
    let mut are_all = true;
    let taken = to.iter().filter(|key| {
        queues::put_picked(core, **key, |connection, _| {
            if connection.extensions.and(Extensions::TOPIC) == have {
                return Some(frames);
            }
            are_all = false;
            None
        })
    });
    let reached = taken.count();
    Delivered { reached, bytes: reached * frames.len(), are_all }
}

/// Counts those who do not get a publication because it would be too large with its place.
#[cold]
fn note_too_large(core: &mut Core, to: &[ConnectionKey]) -> Delivered {
    let connections = to.iter().filter_map(|key| core.connections.get(*key));
    let too_large = connections.filter(|it| it.extensions.contains(Extensions::TOPIC)).count();
    core.counters.publications_too_large += too_large as u64;
    Delivered { are_all: too_large == to.len(), ..Delivered::default() }
}

/// Puts the frames of so many publications into the queue of a link.
#[cold]
fn push_to_link(core: &mut Core, link: ConnectionKey, frames: &OutFrame<'_>, publications: u32) {
    if queues::put(core, link, frames) {
        core.counters.frames_out += u64::from(publications);
        core.counters.bytes_out += frames.len() as u64;
    }
}

/// Counts publications, of which some deliveries wait for the filter.
fn note_delivered(
    core: &mut Core,
    channel: ChannelKey,
    publications: u32,
    reached: usize,
    delivered: usize,
    bytes_out: usize,
) {
    let deliveries = delivered as u64 * u64::from(publications);
    core.counters.publications += u64::from(publications);
    core.counters.deliveries += deliveries;
    core.counters.frames_out += deliveries;
    core.counters.bytes_out += bytes_out as u64;
    if reached == 0 {
        core.note_unheard(channel, publications);
    }
}
