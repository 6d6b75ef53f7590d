//! What a publication does on a topical channel.

use super::audience::{self, Deliver, Hearer, Matching};
use super::keeping;
use super::{conflation, replays, searches, verdicts};
use crate::broker::flow::forms::{Forms, Publication};
use crate::broker::flow::queues;
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ApplicationKey, ChannelKey, ConnectionKey};
use crate::broker::state::refusal::Refusal;
use crate::broker::state::topic::seat::List;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::placed::OWN_PLACE_BYTES_MAX;
use crate::proto::{Envelope, OutFrame, Position};

/// Those who hear what the process itself publishes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hearers<'a> {
    OfChannel(ChannelKey),
    /// There is no such channel, but its name may match patterns of the application.
    OfPatterns(ApplicationKey, &'a str),
}

impl<'a> Hearers<'a> {
    /// Finds those who may hear a channel. `None`: nobody does. It is refused if a history is to begin with
    /// the publication, and there is no room for that.
    #[inline]
    pub(crate) fn find(
        core: &mut Core,
        app_id: &str,
        channel_id: &'a str,
    ) -> Result<Option<Self>, Box<Refusal>> {
        let application = core.router.application(app_id);
        match application.and_then(|key| core.router.channel(key, channel_id)) {
            Some(channel) => Ok(Some(Self::OfChannel(channel))),
            None => Self::find_unlisted(core, app_id, channel_id),
        }
    }

    /// Finds those who may hear a channel that does not exist, which may have to exist from now on.
    #[cold]
    #[inline(never)]
    fn find_unlisted(
        core: &mut Core,
        app_id: &str,
        channel_id: &'a str,
    ) -> Result<Option<Self>, Box<Refusal>> {
        if !core.limits.histories.is_empty()
            && let Some(channel) = keeping::claim_own(core, app_id, channel_id, None)?
        {
            return Ok(Some(Self::OfChannel(channel)));
        }
        let Some(key) = core.router.application(app_id) else { return Ok(None) };
        let application = core.router.applications.get(key);
        let has_patterns = application.is_some_and(|application| application.patterns.is_some());
        Ok(has_patterns.then_some(Self::OfPatterns(key, channel_id)))
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
    let bytes_max = HEADER_BYTES + publication.body.len() + OWN_PLACE_BYTES_MAX;
    let matching = take_with_room(core, channel, 1, bytes_max);
    publish_to(core, channel, matching, publication)
}

/// Takes those who hear a channel, after those who are still sent what was kept have got what they would
/// lose by publications of so many bytes.
#[inline]
pub(super) fn take_with_room(
    core: &mut Core,
    channel: ChannelKey,
    publications: u32,
    bytes: usize,
) -> Matching {
    if core.router.searches.running > 0 {
        searches::catch_up(core, channel);
    }
    let matching = audience::take(core, channel);
    if !matching.is_replaying {
        return matching;
    }
    audience::give_back(core, matching);
    replays::make_way(core, channel, publications, bytes);
    audience::take(core, channel)
}

/// Delivers one publication to those who were found.
pub(super) fn publish_to(
    core: &mut Core,
    channel: ChannelKey,
    matching: Matching,
    publication: &Publication<'_>,
) -> usize {
    let place = keeping::next_place(core, channel);
    let position =
        place.as_ref().map(|(epoch, offset)| Position { epoch: epoch.as_str(), offset: *offset });
    let publication = Publication { position, ..*publication };
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
    let forms = Forms::new(publication, matching.are_many());
    let mut each = InForms { forms, for_links: None, name: &name, again: 0 };
    if let Some(channel) = channel {
        keeping::keep(core, channel, &mut each.forms);
    }
    let undecided_before = core.agenda.undecided.len();
    let (reached, all) =
        audience::for_each(core, channel, matching, publication.is_of_link, &mut each);
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

/// A publication in the form that each subscriber takes.
struct InForms<'a> {
    forms: Forms<'a>,
    /// For links, once there is one.
    for_links: Option<OutFrame<'a>>,
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
            List::Live | List::Replaying | List::Link => queues::push(core, key, frame),
            List::Conflating => conflation::push(core, key, self.name, frame),
        }
    }

    fn deliver_to_link(&mut self, core: &mut Core, link: ConnectionKey) {
        if self.for_links.is_none() {
            self.for_links = self.forms.as_sent(core);
        }
        match &self.for_links {
            Some(frame) => _ = queues::push(core, link, frame),
            None => core.counters.publications_too_large += 1,
        }
    }
}

/// Returns how many of those that a publication reaches wait for the filter. They are counted when it is
/// delivered to them.
pub(super) fn waiting(core: &Core, undecided_before: usize) -> usize {
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
    let (meta, position) = (None, None);
    let publication = Publication { envelope: &envelope, body, meta, position, is_of_link: false };
    Some(match hearers {
        Hearers::OfChannel(channel) => publish(core, channel, &publication),
        Hearers::OfPatterns(application, name) => {
            publish_unlisted(core, application, name, &publication)
        }
    })
}
