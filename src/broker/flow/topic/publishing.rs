//! What a publication does on a topical channel.

use super::audience::{self, Matching};
use super::keeping::{self, Placed};
use super::{conflation, replays, verdicts};
use crate::broker::flow::forms::{Forms, Publication};
use crate::broker::flow::queues;
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ApplicationKey, ChannelKey, ConnectionKey};
use crate::broker::state::topic::seat::List;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::{Envelope, Extensions, OutFrame, Position};

/// From this many subscribers on it is cheaper that their queues refer to one copy of a small frame.
const SHARED_BY_MIN: usize = 4;

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
    let mut forms = Forms::new(publication, matching.nodes.len() >= SHARED_BY_MIN);
    if let Some(channel) = channel {
        keeping::keep(core, channel, &mut forms);
    }
    let undecided_before = core.agenda.undecided.len();
    let (reached, asked) =
        audience::for_each(core, channel, matching, |core, key, list, by_pattern| {
            let Some(frame) = forms.of(core, key) else {
                core.counters.publications_too_large += 1;
                return false;
            };
            if by_pattern && let Some(is_taken) = verdicts::stop(core, key, &name, list, frame, 1) {
                return is_taken;
            }
            match list {
                List::Live | List::Replaying => queues::push(core, key, frame),
                List::Conflating => conflation::push(core, key, &name, frame),
            }
        });
    let work = core.turn.fan_out_work(asked, publication.body.len());
    core.turn.note_work(work);
    core.counters.publications += 1;
    core.counters.deliveries += (reached - waiting(core, undecided_before)) as u64;
    match channel {
        Some(channel) if reached == 0 => core.note_unheard(channel, 1),
        _ => core.counters.publications_unheard += u64::from(reached == 0),
    }
    reached
}

/// Returns how many of those that a publication reaches wait for the filter. They are counted when it is
/// delivered to them.
fn waiting(core: &Core, undecided_before: usize) -> usize {
    core.agenda.undecided.len() - undecided_before
}

#[inline]
fn knows_places(core: &Core, key: ConnectionKey) -> bool {
    let connection = core.connections.get(key);
    connection.is_some_and(|found| found.extensions.contains(Extensions::TOPIC))
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
        let place = Position { epoch: "0123456789ab", offset: 0 }.frame_bytes_max(&[]);
        let bytes_max = frames.len() + publications as usize * place;
        replays::make_way(core, channel, publications, bytes_max);
    }
    let placed = keeping::place(core, channel, frames, publications);
    let has_filter = core.server.filter_generation > 0;
    let name = has_filter.then(|| core.router.channels.get(channel).map(|found| found.id.clone()));
    let name = name.flatten();
    let matching = audience::take(core, channel);
    let of_channel = core.router.channels.get(channel).map_or(0, |found| found.subscribers.len());
    let is_shared = of_channel + matching.nodes.len() >= SHARED_BY_MIN;
    let shared = is_shared.then(|| frames.to_shared(&mut core.pool));
    let frames = shared.as_ref().unwrap_or(frames);
    let mut placed_bytes = 0;
    let undecided_before = core.agenda.undecided.len();
    let (reached, asked) =
        audience::for_each(core, Some(channel), &matching, |core, key, list, by_pattern| {
            let own = match &placed {
                Placed::Frames(placed) if knows_places(core, key) => placed,
                Placed::TooLarge if knows_places(core, key) => {
                    core.counters.publications_too_large += 1;
                    return false;
                }
                _ => frames,
            };
            if by_pattern
                && let Some(name) = &name
                && let Some(is_taken) = verdicts::stop(core, key, name, list, own, publications)
            {
                return is_taken;
            }
            placed_bytes += own.len() - frames.len();
            queues::put(core, key, own)
        });
    audience::give_back(core, matching);
    let delivered = reached - waiting(core, undecided_before);
    let deliveries = delivered as u64 * u64::from(publications);
    core.counters.publications += u64::from(publications);
    core.counters.deliveries += deliveries;
    core.counters.frames_out += deliveries;
    core.counters.bytes_out += (delivered * frames.len() + placed_bytes) as u64;
    let work = core.turn.fan_out_work(asked, frames.len());
    core.turn.note_work(work);
    if reached == 0 {
        core.note_unheard(channel, publications);
    }
    reached
}
