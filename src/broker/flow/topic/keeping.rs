//! What is kept of publications: histories, which the operator gives to channels, and last values,
//! which publishers ask for.
//!
//! A channel of which anything is kept has a reference for that, so that it outlives its subscribers.

use std::time::Duration;

use crate::branches::{self, Branch};
use serde::Serialize;

use super::replays;
use crate::broker::flow::forms::{Forms, Publication};
use crate::broker::flow::{answers, channels};
use crate::broker::limits::Limits;
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ApplicationKey, ChannelKey, ConnectionKey};
use crate::broker::state::refusal::{self, Refusal};
use crate::broker::state::timers::{Due, Moment};
use crate::broker::state::topic::Topic;
use crate::broker::state::topic::history::{Bounds, Epoch, History};
use crate::proto::frame::HEADER_BYTES;
use crate::proto::placed::{OWN_PLACE_BYTES_MAX, Open};
use crate::proto::{BufferPool, COPY_BYTES_MAX, Envelope, ErrorCode, Meta, OutFrame, SharedFrame};

/// The form in which peers with the extension get publications of a channel with a history.
pub(crate) enum Placed {
    /// A frame would be too large with its place.
    TooLarge,
    /// It is the newest in the history, which has a small one for itself alone.
    Newest,
    Frames(SharedFrame),
}

impl Placed {
    /// Returns the frames, unless they would be too large. Nothing was kept since then.
    pub(crate) fn into_frames(
        self,
        core: &mut Core,
        channel: ChannelKey,
    ) -> Option<OutFrame<'static>> {
        match self {
            Self::TooLarge => None,
            Self::Newest => {
                let topic = core.router.channels.get(channel)?.topic.as_ref()?;
                let newest = topic.history.as_ref()?.newest_frame()?;
                Some(OutFrame::whole(newest).to_shared(&mut core.pool))
            }
            Self::Frames(frames) => Some(OutFrame::shared(frames)),
        }
    }

    /// Gives the pool back what no queue refers to.
    #[inline]
    pub(crate) fn recycle(self, pool: &mut BufferPool) {
        if let Self::Frames(frames) = self {
            pool.give_shared(frames);
        }
    }
}

/// Gives publications without a `meta` their places in the history of their channel, and keeps them.
/// `None`: it has no history.
pub(crate) fn place(
    core: &mut Core,
    channel: ChannelKey,
    frames: &OutFrame<'_>,
    publications: u32,
) -> Option<Placed> {
    let Core { router, turn, limits, pool, .. } = core;
    let topic = router.channels.get_mut(channel)?.topic.as_deref_mut()?;
    let history = topic.history.as_deref_mut()?;
    let now = turn.now.monotonic.into();
    if publications == 1 && keep_small(history, frames, now, limits, pool) {
        if topic.is_unsettled() {
            settle(core, channel);
        }
        return Some(Placed::Newest);
    }
    Some(place_frames(core, channel, frames, publications))
}

/// Does the same if nobody but the subscribers of the channel hears it, and takes them out of it. They are
/// put back with [`Router::put_list`].
///
/// [`Router::put_list`]: crate::broker::state::router::Router::put_list
#[inline]
pub(crate) fn place_for_subscribers(
    core: &mut Core,
    channel: ChannelKey,
    frames: &OutFrame<'_>,
    publications: u32,
) -> Option<(Placed, Vec<ConnectionKey>)> {
    let Core { router, turn, limits, pool, .. } = core;
    let target = router.channels.get_mut(channel)?;
    let topic = target.topic.as_deref_mut().filter(|topic| topic.is_history_alone())?;
    let history = topic.history.as_deref_mut()?;
    if router.applications.get(target.application)?.patterns.is_some() {
        return None;
    }
    let subscribers = std::mem::take(&mut target.subscribers);
    let now = turn.now.monotonic.into();
    let placed = if publications == 1 && keep_small(history, frames, now, limits, pool) {
        if topic.is_unsettled() {
            settle(core, channel);
        }
        Placed::Newest
    } else {
        place_frames(core, channel, frames, publications)
    };
    Some((placed, subscribers))
}

/// Keeps a publication if it is small enough for a copy, and for the history.
#[expect(clippy::inline_always, reason = "each publication that is kept passes here")]
#[inline(always)]
fn keep_small(
    history: &mut History,
    frames: &OutFrame<'_>,
    now: Moment,
    limits: &Limits,
    pool: &mut BufferPool,
) -> bool {
    let Some(open) = frames.body().map(Open::new) else { return false };
    let bytes = history.tail().frame_bytes(open);
    let is_small = bytes <= COPY_BYTES_MAX && bytes - HEADER_BYTES <= limits.frame_bytes_max;
    let is_kept = is_small && history.may_hold(bytes);
    if is_kept {
        history.push_placed(open, now, pool);
    }
    is_kept
}

/// Does the same for a run, and for a large publication, which the history shares with the queues.
#[inline(never)]
fn place_frames(
    core: &mut Core,
    channel: ChannelKey,
    frames: &OutFrame<'_>,
    publications: u32,
) -> Placed {
    let found = core.router.channels.get_mut(channel);
    let Some(topic) = found.and_then(|found| found.topic.as_deref_mut()) else {
        return Placed::TooLarge;
    };
    let Some(history) = topic.history.as_deref_mut() else { return Placed::TooLarge };
    let now = core.turn.now.monotonic.into();
    let whole = frames.as_bytes().is_none().then(|| frames.to_shared(&mut core.pool));
    let mut rest = whole.as_ref().unwrap_or(frames).as_bytes().unwrap_or_default();
    let mut placed = core.pool.take(frames.len() + publications as usize * Open::new(b"").room());
    while let Some((length, behind)) = rest.split_first_chunk::<HEADER_BYTES>()
        && let Some((body, behind)) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)
    {
        rest = behind;
        let open = Open::new(body);
        history.tail().append_to(&mut placed, open);
        if publications > 1 {
            history.push_placed(open, now, &mut core.pool);
        }
    }
    let placed = core.pool.share(placed);
    // A run is of small frames, which are far from the limit.
    let is_too_large =
        publications == 1 && placed.bytes().len() - HEADER_BYTES > core.limits.frame_bytes_max;
    if is_too_large {
        history.skip(&mut core.pool);
    } else if publications == 1 {
        history.push(&OutFrame::shared(placed.clone()), false, now, &mut core.pool);
    }
    if topic.is_unsettled() {
        settle(core, channel);
    }
    if let Some(whole) = whole {
        whole.recycle(&mut core.pool);
    }
    if is_too_large {
        core.pool.give_shared(placed);
        return Placed::TooLarge;
    }
    Placed::Frames(placed)
}

/// Returns the place that the next publication of a channel will have in its history, if it has one.
pub(crate) fn next_place(core: &Core, channel: ChannelKey) -> Option<(Epoch, u64)> {
    let topic = core.router.channels.get(channel)?.topic.as_ref()?;
    topic.history.as_ref().map(|history| (history.epoch(), history.next_offset()))
}

/// Returns the place of the newest publication of a channel in its history, if it has one.
pub(crate) fn newest_place(core: &Core, channel: ChannelKey) -> Option<(Epoch, u64)> {
    next_place(core, channel).map(|(epoch, next)| (epoch, next - 1))
}

/// Keeps one publication in the form of peers with the extension, in the channel's history or as its
/// last value.
#[cold]
pub(crate) fn keep(core: &mut Core, channel: ChannelKey, forms: &mut Forms<'_>) {
    let Publication { envelope, meta, position, .. } = *forms.publication();
    let retains = meta.is_some_and(|meta| meta.retain);
    if position.is_none() && !retains {
        return;
    }
    let has_attachments = envelope.has_attachments();
    let frame = forms.topical(core).cloned();
    let now = core.turn.now;
    if let Some(found) = core.router.channels.get_mut(channel)
        && let Some(topic) = found.topic.as_deref_mut()
        && let Some(history) = topic.history.as_deref_mut()
    {
        match &frame {
            Some(frame) => {
                history.push(frame, has_attachments, now.monotonic.into(), &mut core.pool);
            }
            None => history.skip(&mut core.pool),
        }
    }
    if retains {
        forget_last(core, channel);
        let is_null = envelope.payload_str().trim() == "null";
        if let Some(frame) = frame.filter(|_| !is_null) {
            branches::note(Branch::Retained);
            core.router.ensure_topic(channel);
            let frame = frame.to_exact(&mut core.pool);
            let value = core.last_values.add(channel, frame, has_attachments, now.unix);
            core.router.change_topic(channel, |topic| topic.last = Some(value));
        }
    }
    settle(core, channel);
}

fn topic_of(core: &mut Core, channel: ChannelKey) -> Option<&mut Topic> {
    core.router.channels.get_mut(channel)?.topic.as_deref_mut()
}

/// Checks that a publication on a channel with a history is not too large once it has its place there.
#[inline]
pub(crate) fn check_size(core: &Core, channel: ChannelKey, body: &[u8]) -> Result<(), Refusal> {
    let bytes = body.len() + OWN_PLACE_BYTES_MAX;
    if bytes <= core.limits.frame_bytes_max { Ok(()) } else { check_large(core, channel, bytes) }
}

#[cold]
fn check_large(core: &Core, channel: ChannelKey, bytes: usize) -> Result<(), Refusal> {
    if next_place(core, channel).is_none() {
        return Ok(());
    }
    Err(refusal::topic::too_large_with_place(bytes, core.limits.frame_bytes_max))
}

/// Checks that there is room for a publication that is to be the last value of its channel, which may
/// not exist yet.
#[cold]
pub(crate) fn check(
    core: &Core,
    channel: ChannelKey,
    publication: &Publication<'_>,
) -> Result<(), Refusal> {
    let is_null = publication.envelope.payload_str().trim() == "null";
    if !publication.meta.is_some_and(|meta| meta.retain) || is_null {
        return Ok(());
    }
    let topic = core.router.channels.get(channel).and_then(|found| found.topic.as_ref());
    let before = topic.and_then(|topic| topic.last.as_ref());
    let bytes = HEADER_BYTES + publication.body.len() + OWN_PLACE_BYTES_MAX;
    let Limits { retained_values_max, retained_bytes_max, .. } = core.limits;
    if core.last_values.has_room(before, bytes, retained_values_max, retained_bytes_max) {
        return Ok(());
    }
    branches::note(Branch::RetainedRefused);
    Err(refusal::topic::retained_full())
}

/// Tells a publisher that its publication was delivered and kept, and where. A filter may have dropped
/// it, which is not said.
#[cold]
pub(crate) fn acknowledge(
    core: &mut Core,
    to: ConnectionKey,
    channel: Option<ChannelKey>,
    envelope: &Envelope<'_>,
) {
    let place = channel.and_then(|channel| newest_place(core, channel));
    let published = Published {
        status: "published",
        epoch: place.as_ref().map(|(epoch, _)| epoch.as_str()),
        offset: place.as_ref().map(|(_, offset)| *offset),
    };
    answers::respond(core, to, envelope, &published);
}

#[derive(Serialize)]
struct Published<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

/// Returns the channel for a publication of which something is to be kept, if there is none yet.
#[cold]
pub(crate) fn claim(
    core: &mut Core,
    application: ApplicationKey,
    id: &str,
    meta: Option<&Meta<'_>>,
) -> Result<Option<ChannelKey>, Refusal> {
    let app_id = core.router.applications.get(application).map(|found| found.id.clone());
    let has_history = app_id.is_some_and(|app_id| core.limits.history_of(&app_id, id).is_some());
    if !has_history && !meta.is_some_and(|meta| meta.retain) {
        return Ok(None);
    }
    core.budget.take_on(ErrorCode::LimitExceeded, &mut core.counters)?;
    if core.router.channels.len() >= core.limits.channels_max {
        make_room(core, application);
        if core.router.channels.len() >= core.limits.channels_max {
            branches::note(Branch::ChannelsLimited);
            return Err(refusal::too_many_channels());
        }
    }
    let Some(channel) = channels::find_or_create(core, application, id) else { return Ok(None) };
    prepare(core, channel);
    Ok(Some(channel))
}

/// Does the same for a publication of the process itself, whose application need not exist either.
#[cold]
pub(crate) fn claim_own(
    core: &mut Core,
    app_id: &str,
    id: &str,
    meta: Option<&Meta<'_>>,
) -> Result<Option<ChannelKey>, Refusal> {
    let known = core.router.application(app_id);
    if let Some(channel) = known.and_then(|key| core.router.channel(key, id)) {
        return Ok(Some(channel));
    }
    let retains = meta.is_some_and(|meta| meta.retain);
    if !retains && core.limits.history_of(app_id, id).is_none() {
        return Ok(None);
    }
    let application = core.router.find_or_create_application(app_id, core.turn.now.unix);
    let claimed = claim(core, application, id, meta);
    core.router.forget_if_unused(application);
    claimed
}

/// Has a channel keep what is published on it next. The caller settles after that.
pub(crate) fn prepare(core: &mut Core, channel: ChannelKey) {
    core.router.ensure_topic(channel);
    hold(core, channel);
}

/// Forgets what is kept of one of the application's channels, if there are as many channels as there may
/// be: of those that nobody uses among the next [`ROOM_LOOKS`], the one that was published to the longest
/// time ago. What other applications have stays.
fn make_room(core: &mut Core, application: ApplicationKey) {
    channels::forget_unused(core);
    if core.router.channels.len() < core.limits.channels_max {
        return;
    }
    let Some(owner) = core.router.applications.get(application) else { return };
    let before = owner.looked_up_to;
    let next = owner.kept_behind(before).chain(owner.kept_behind(None));
    let looked_at: Vec<ChannelKey> = next.take(ROOM_LOOKS.min(owner.kept.len())).copied().collect();
    core.turn.note_work(looked_at.len() / LOOKS_PER_WORK);
    if let Some(owner) = core.router.applications.get_mut(application) {
        owner.looked_up_to = looked_at.last().copied();
    }
    let now = core.turn.now;
    let unused = looked_at.into_iter().filter_map(|key| {
        let channel = core.router.channels.get(key).filter(|channel| channel.references == 1)?;
        Some((key, channel.topic.as_ref()?))
    });
    let oldest = unused.max_by_key(|(_, topic)| {
        let kept_at = topic.history.as_ref().and_then(|history| history.newest_at());
        let kept_for =
            kept_at.map(|at| Duration::from_nanos(Moment::from(now.monotonic).nanos_since(at)));
        let last_for = topic.last.as_ref().map(|last| now.unix.saturating_sub(last.published_at));
        kept_for.into_iter().chain(last_for).min()
    });
    if let Some((channel, _)) = oldest {
        forget_all(core, channel);
    }
}

/// The channels of which anything is kept that are looked at to make room for another one.
pub(crate) const ROOM_LOOKS: usize = 256;
const LOOKS_PER_WORK: usize = 16;

/// Brings a channel's own reference and its timer in line with what is kept of it. The channel may be
/// removed by that.
#[cold]
pub(crate) fn settle(core: &mut Core, channel: ChannelKey) {
    let Some(topic) = topic_of(core, channel) else { return };
    let oldest = topic.history.as_ref().and_then(|history| {
        let age = history.bounds().age?;
        Some(Duration::from(history.oldest()?) + age)
    });
    let has_timer = topic.ageing.is_some();
    if oldest.is_some() != has_timer {
        let timer = oldest.map(|deadline| core.timers.arm(deadline, Due::Ageing(channel)));
        let before =
            topic_of(core, channel).and_then(|topic| std::mem::replace(&mut topic.ageing, timer));
        if let Some(before) = before {
            core.timers.disarm(before);
        }
    }
    let Some(topic) = topic_of(core, channel) else { return };
    if topic.keeps() {
        hold(core, channel);
        return;
    }
    if !topic.replaying.is_empty() {
        replays::note_emptied(core, channel);
    }
    if let Some(found) = core.router.channels.get_mut(channel)
        && let Some(topic) = found.topic.as_deref_mut()
    {
        if let Some(history) = &mut topic.history {
            history.release_unused(&mut core.pool);
        }
        let held = std::mem::take(&mut topic.holds);
        core.router.forget_idle_topic(channel);
        if held {
            core.router.note_kept(channel, false);
            core.router.release(channel);
        }
    }
}

fn hold(core: &mut Core, channel: ChannelKey) {
    let held = topic_of(core, channel).map(|topic| std::mem::replace(&mut topic.holds, true));
    if held == Some(false) {
        core.router.note_kept(channel, true);
        core.router.retain(channel);
    }
}

/// Forgets messages that have become too old.
#[cold]
pub(crate) fn age(core: &mut Core, channel: ChannelKey) {
    branches::note(Branch::HistoryAged);
    let now = core.turn.now.monotonic.into();
    if let Some(found) = core.router.channels.get_mut(channel)
        && let Some(topic) = found.topic.as_deref_mut()
    {
        topic.ageing = None;
        if let Some(history) = &mut topic.history {
            history.forget_old(now, &mut core.pool);
        }
    }
    settle(core, channel);
}

/// Forgets the messages of a channel's history. Returns how many there were. The caller settles.
pub(crate) fn forget_history(core: &mut Core, channel: ChannelKey) -> usize {
    let Some(found) = core.router.channels.get_mut(channel) else { return 0 };
    let history = found.topic.as_deref_mut().and_then(|topic| topic.history.as_deref_mut());
    history.map_or(0, |history| history.clear(&mut core.pool))
}

/// Forgets the last value of a channel. Returns whether there was one. The caller settles.
pub(crate) fn forget_last(core: &mut Core, channel: ChannelKey) -> bool {
    let Some(value) = topic_of(core, channel).and_then(|topic| topic.last.take()) else {
        return false;
    };
    core.last_values.remove(&value);
    core.pool.give_shared(value.frame);
    true
}

/// Forgets all that is kept of a channel.
pub(crate) fn forget_all(core: &mut Core, channel: ChannelKey) {
    forget_history(core, channel);
    forget_last(core, channel);
    settle(core, channel);
}

/// Applies changed histories to all channels.
#[cold]
pub(crate) fn reconfigure(core: &mut Core) {
    for channel in core.router.channels.keys() {
        let Some((owner, found)) = core.router.names(channel) else { continue };
        let bounds = core.limits.history_of(&owner.id, &found.id).map(Bounds::from);
        let before = found.topic.as_ref().and_then(|topic| topic.history.as_ref());
        match (before.map(|history| history.bounds()), bounds) {
            (None, None) => {}
            (Some(before), Some(bounds)) if before == bounds => {}
            (None, Some(_)) => channels::give_history(core, channel),
            (Some(_), Some(bounds)) => {
                branches::note(Branch::HistoryBoundsChanged);
                let now = core.turn.now.monotonic.into();
                if let Some(found) = core.router.channels.get_mut(channel)
                    && let Some(topic) = found.topic.as_deref_mut()
                    && let Some(history) = &mut topic.history
                {
                    history.change_bounds(bounds, now, &mut core.pool);
                    if let Some(timer) = topic.ageing.take() {
                        core.timers.disarm(timer);
                    }
                }
                settle(core, channel);
            }
            (Some(_), None) => {
                branches::note(Branch::HistoryTaken);
                // If there is another one later, its offsets mean other publications.
                replays::doom_all(core, channel);
                forget_history(core, channel);
                core.router.change_topic(channel, |topic| topic.history = None);
                settle(core, channel);
            }
        }
    }
}

/// Forgets the oldest messages of all histories, and then the oldest last values, until no more memory
/// than this is held or nothing is kept any more.
#[cold]
pub(crate) fn shrink(core: &mut Core, bytes_max: usize) {
    if core.memory_bytes() <= bytes_max {
        return;
    }
    let mut oldest: std::collections::BTreeSet<_> = core
        .router
        .channels
        .iter()
        .filter_map(|(key, channel)| {
            Some((channel.topic.as_ref()?.history.as_ref()?.oldest()?, key))
        })
        .collect();
    while core.memory_bytes() > bytes_max
        && let Some((_, channel)) = oldest.pop_first()
    {
        branches::note(Branch::HistoryShrunk);
        let Some(found) = core.router.channels.get_mut(channel) else { continue };
        let Some(history) = found.topic.as_deref_mut().and_then(|topic| topic.history.as_mut())
        else {
            continue;
        };
        history.shrink(&mut core.pool);
        if let Some(next) = history.oldest() {
            oldest.insert((next, channel));
        } else {
            settle(core, channel);
        }
        core.pool.trim();
    }
    while core.memory_bytes() > bytes_max
        && let Some(channel) = core.last_values.oldest()
    {
        branches::note(Branch::RetainedShed);
        if !forget_last(core, channel) {
            break;
        }
        settle(core, channel);
        core.pool.trim();
    }
}
