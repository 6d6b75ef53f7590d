//! What a publication does on a topical channel.

use super::audience::{self, Matching};
use super::conflation;
use crate::broker::flow::forms::{Forms, Publication};
use crate::broker::flow::queues;
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ApplicationKey, ChannelKey};
use crate::broker::state::topic::seat::List;
use crate::proto::OutFrame;

/// From this many subscribers on it is cheaper that their queues refer to one copy of a small frame.
const SHARED_BY_MIN: usize = 4;

/// Returns whether publications on this channel have to be delivered one by one, because each has a
/// place of its own in what the channel keeps.
pub(crate) fn is_one_by_one(core: &Core, channel: ChannelKey) -> bool {
    let topic = core.router.channels.get(channel).and_then(|target| target.topic.as_ref());
    topic.is_some_and(|topic| topic.is_one_by_one())
}

/// Delivers one publication, in the form that each subscriber takes. Returns how many got it.
///
/// This is all that a publication does on a channel with a topic, whoever publishes.
pub(crate) fn publish(
    core: &mut Core,
    channel: ChannelKey,
    publication: &Publication<'_>,
) -> usize {
    let matching = audience::take(core, channel);
    let reached = deliver(core, Some(channel), &matching, publication);
    audience::give_back(core, matching);
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
    let mut forms = Forms::new(publication, matching.nodes.len() >= SHARED_BY_MIN);
    let (reached, asked) = audience::for_each(core, channel, matching, |core, key, list| {
        let Some(frame) = forms.of(core, key) else {
            core.counters.publications_too_large += 1;
            return false;
        };
        match list {
            List::Live => queues::push(core, key, frame),
            List::Conflating => conflation::push(core, key, publication, frame),
        }
    });
    let work = core.turn.fan_out_work(asked, publication.body.len());
    core.turn.note_work(work);
    core.counters.publications += 1;
    core.counters.deliveries += reached as u64;
    core.counters.publications_unheard += u64::from(reached == 0);
    reached
}

/// Puts the frames of one publication or of several, which all subscribers get as they are, into the
/// queues of the subscribers of a channel and of the patterns that match it. Returns how many took
/// them.
pub(crate) fn fan_out(
    core: &mut Core,
    channel: ChannelKey,
    frames: &OutFrame<'_>,
    publications: u32,
) -> usize {
    let matching = audience::take(core, channel);
    let of_channel = core.router.channels.get(channel).map_or(0, |found| found.subscribers.len());
    let is_shared = of_channel + matching.nodes.len() >= SHARED_BY_MIN;
    let shared = is_shared.then(|| frames.to_shared(&mut core.pool));
    let frames = shared.as_ref().unwrap_or(frames);
    let (reached, asked) =
        audience::for_each(core, Some(channel), &matching, |core, key, _list| {
            queues::put(core, key, frames)
        });
    audience::give_back(core, matching);
    let deliveries = reached as u64 * u64::from(publications);
    core.counters.publications += u64::from(publications);
    core.counters.deliveries += deliveries;
    core.counters.frames_out += deliveries;
    core.counters.bytes_out += (reached * frames.len()) as u64;
    let work = core.turn.fan_out_work(asked, frames.len());
    core.turn.note_work(work);
    if reached == 0 {
        core.counters.publications_unheard += u64::from(publications);
    }
    reached
}
