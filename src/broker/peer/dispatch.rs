//! Parses one frame, checks it against the rules, and carries it out.

use super::{searching, system, unserved};
use crate::branches::{self, Branch};
use crate::broker::embed::handlers::Handlers;
use crate::broker::embed::request::{Parts, Verdict};
use crate::broker::flow::run::{self, Run};
use crate::broker::flow::topic::{audience, keeping, patterns, publishing, replays, searches};
use crate::broker::flow::workers::Offer;
use crate::broker::flow::{
    answers, calls, channels, closing, queues, streams, subscriptions, workers,
};
use crate::broker::state::connection::{Obstacle, State};
use crate::broker::state::core::Core;
use crate::broker::state::keys::{ApplicationKey, ChannelKey, ConnectionKey};
use crate::broker::state::refusal::{self, Refusal, Stop};
use crate::broker::state::topic::wanted::Wanted;
use crate::proto::system::SYSTEM;
use crate::proto::{Envelope, Extensions, MessageType};

/// The outcome of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Consumed,
    Held,
}

/// Carries out a frame of a connection. A publication joins the run, which the caller delivers in the
/// end.
pub(crate) fn dispatch(
    core: &mut Core,
    handlers: &mut Handlers,
    from: ConnectionKey,
    extensions: Extensions,
    body: &[u8],
    run: &mut Run<'_>,
) -> Outcome {
    let parsed = if extensions.is_empty() {
        Envelope::parse(body)
    } else if extensions.contains(Extensions::BINARY) {
        Envelope::parse_binary(body)
    } else {
        Envelope::parse_extended(body)
    };
    let envelope = match &parsed {
        Ok(envelope) => envelope,
        Err(error) => {
            if !run.deliver(core) {
                return Outcome::Held;
            }
            answers::refuse_unread(core, from, error);
            return Outcome::Consumed;
        }
    };
    if envelope.message_type() != MessageType::Publish && !run.deliver(core) {
        return Outcome::Held;
    }
    let Some(connection) = core.connections.get(from) else { return Outcome::Consumed };
    let served = match connection.state() {
        State::Handshake => system::connect(core, from, envelope).map_err(Stop::Refused),
        State::Open(session) => {
            let application = session.application;
            check(core, application, envelope)
                .map_err(Stop::Refused)
                .and_then(|()| serve(core, handlers, from, application, envelope, body, run))
        }
        State::Superseded | State::Closing | State::Lingering | State::Closed => Ok(()),
    };
    match served {
        Ok(()) => Outcome::Consumed,
        Err(Stop::Held) => Outcome::Held,
        Err(Stop::Refused(why)) => {
            if !run.deliver(core) {
                return Outcome::Held;
            }
            closing::refuse(core, from, envelope, &why);
            Outcome::Consumed
        }
    }
}

/// Checks a message against the rules for its connection.
fn check(core: &mut Core, key: ApplicationKey, envelope: &Envelope<'_>) -> Result<(), Refusal> {
    let Some(application) = core.router.applications.get_mut(key) else { return Ok(()) };
    if !envelope.app_id().matches(&application.id) {
        return Err(refusal::other_application());
    }
    if envelope.message_id().is_empty() {
        return Err(refusal::message_id_empty());
    }
    application.last_activity = core.turn.now.unix;
    Ok(())
}

fn serve(
    core: &mut Core,
    handlers: &mut Handlers,
    from: ConnectionKey,
    application: ApplicationKey,
    envelope: &Envelope<'_>,
    body: &[u8],
    run: &mut Run<'_>,
) -> Result<(), Stop> {
    let message_type = envelope.message_type();
    if message_type == MessageType::Response {
        take_response(core, handlers, from, application, envelope, body);
        return Ok(());
    }
    let storage;
    let mut meta = None;
    if let Some(text) = envelope.meta_str() {
        storage = streams::read_meta(core, from, envelope, text).map_err(|fault| {
            branches::note_if(Branch::AttachmentsRefused, || envelope.has_attachments());
            refusal::bad_meta(fault)
        })?;
        if storage.bin.is_some() && has_no_reader(envelope) {
            return Err(refusal::attachments_unread().into());
        }
        meta = Some(&storage).filter(|meta| !meta.is_empty());
    }
    if envelope.channel_id().matches(SYSTEM) {
        match message_type {
            MessageType::Request => return system::request(core, from, envelope),
            MessageType::Notification if calls::has(core, from, Extensions::CALL) => {
                if core.connections.is_link(from) && system::notified(core, from, envelope)? {
                    return Ok(());
                }
                return Ok(streams::notified(core, from, envelope)?);
            }
            // This is a heartbeat.
            MessageType::Notification => return Ok(()),
            _ => {}
        }
    }
    let known = channels::find(core, from, application, envelope);
    let channel = match known {
        Some(channel) => channel,
        None if handlers.has_fallback(core, message_type) => {
            channels::find_or_claim(core, from, application, &envelope.channel_id().decode())?
        }
        None => ChannelKey::NOWHERE,
    };
    let parts = Parts { envelope, from, channel, meta };
    match message_type {
        MessageType::Publish if known.is_some() && envelope.meta_str().is_none() => {
            publish(core, handlers, parts, body, run, false)
        }
        MessageType::Publish
            if envelope.meta_str().is_some() || !core.limits.histories.is_empty() =>
        {
            publish_and_keep(core, handlers, parts, application, body, run)
        }
        MessageType::Publish => publish_to_nobody(core, handlers, parts, application, body, run),
        MessageType::Subscribe | MessageType::Unsubscribe => {
            change_subscription(core, handlers, parts, application)
        }
        MessageType::Request => request(core, handlers, parts, body),
        _ => notify(core, handlers, parts, body),
    }
}

/// Returns whether nobody reads the attachments of a message, because the server itself takes it.
#[cold]
fn has_no_reader(envelope: &Envelope<'_>) -> bool {
    let changes_subscription =
        matches!(envelope.message_type(), MessageType::Subscribe | MessageType::Unsubscribe);
    changes_subscription || envelope.channel_id().matches(SYSTEM)
}

/// A publication to a channel that exists. One that `is_alone` joins no run.
#[expect(
    clippy::inline_always,
    reason = "each publication passes here, and a call costs some fifty instructions"
)]
#[inline(always)]
fn publish(
    core: &mut Core,
    handlers: &mut Handlers,
    parts: Parts<'_>,
    body: &[u8],
    run: &mut Run<'_>,
    is_alone: bool,
) -> Result<(), Stop> {
    let Parts { from, channel, .. } = parts;
    // A filter may publish to the same channel.
    let may_join =
        !is_alone && run.may_take(&core.limits, channel, body) && !handlers.has_filter(core);
    if !may_join {
        if !run.deliver(core) {
            return Err(Stop::Held);
        }
        handlers.decide(core);
    }
    let target = core.router.channels.get(channel);
    let (mut subscribers, needs_a_look) = target.map_or((0, false), |channel| {
        (channel.subscribers.len(), channel.congested > 0 || channel.is_topical)
    });
    let mut goes_apart = is_alone;
    if needs_a_look {
        (subscribers, goes_apart) = look_at(core, from, channel, is_alone, body)?;
    }
    charge(core, from, subscribers, body)?;
    if handlers.filter(core, parts)? == Verdict::Drop {
        return Ok(());
    }
    if goes_apart {
        deliver_apart(core, channel, parts, body, run, is_alone);
    } else {
        run.publish(core, channel, body);
    }
    Ok(())
}

/// Delivers a publication by itself, or in a run that reaches no link, because its publisher is one.
#[cold]
#[inline(never)]
fn deliver_apart(
    core: &mut Core,
    channel: ChannelKey,
    parts: Parts<'_>,
    body: &[u8],
    run: &mut Run<'_>,
    is_alone: bool,
) {
    let extent = audience::extent(&core.router, channel);
    let may_join = !is_alone && extent.is_some_and(|extent| !extent.is_one_by_one);
    if may_join && core.connections.is_link(parts.from) {
        core.router.patterns.run_is_of_link = true;
        run.publish(core, channel, body);
    } else {
        deliver_alone(core, channel, parts, body);
    }
}

#[cold]
fn deliver_alone(core: &mut Core, channel: ChannelKey, parts: Parts<'_>, body: &[u8]) {
    let publication = parts.publication(core, body);
    run::deliver_alone(core, channel, &publication);
}

#[inline(never)]
fn publish_alone(
    core: &mut Core,
    handlers: &mut Handlers,
    parts: Parts<'_>,
    body: &[u8],
    run: &mut Run<'_>,
) -> Result<(), Stop> {
    publish(core, handlers, parts, body, run, true)
}

/// A publication with a `meta`, or to a channel that does not exist and may have a history. It may have
/// to be kept and to be answered.
#[cold]
fn publish_and_keep(
    core: &mut Core,
    handlers: &mut Handlers,
    mut parts: Parts<'_>,
    application: ApplicationKey,
    body: &[u8],
    run: &mut Run<'_>,
) -> Result<(), Stop> {
    if !run.deliver(core) {
        return Err(Stop::Held);
    }
    let publication = parts.publication(core, body);
    keeping::check(core, parts.channel, &publication)?;
    let is_known = core.router.channels.get(parts.channel).is_some();
    let claimed = if is_known {
        None
    } else {
        keeping::claim(core, application, &parts.envelope.channel_id().decode(), parts.meta)?
    };
    parts.channel = claimed.unwrap_or(parts.channel);
    if parts.meta.is_some_and(|meta| meta.retain) {
        keeping::prepare(core, parts.channel);
    }
    let published = if is_known || claimed.is_some() {
        publish_alone(core, handlers, parts, body, run)
    } else {
        publish_to_nobody(core, handlers, parts, application, body, run)
    };
    run.deliver(core);
    keeping::settle(core, parts.channel);
    published?;
    if parts.meta.is_some_and(|meta| meta.ack) {
        let channel = channels::find(core, parts.from, application, parts.envelope);
        keeping::acknowledge(core, parts.from, channel, parts.envelope);
    }
    Ok(())
}

/// Charges the turn with a publication, which waits if there is no room for it or no memory.
#[expect(clippy::inline_always, reason = "each publication passes here")]
#[inline(always)]
fn charge(
    core: &mut Core,
    from: ConnectionKey,
    subscribers: usize,
    body: &[u8],
) -> Result<(), Stop> {
    let Some(connection) = core.connections.get_mut(from) else { return Ok(()) };
    if core.budget.is_pausing() {
        core.budget.pause(from, connection, &mut core.counters);
        return Err(Stop::Held);
    }
    let work = core.turn.fan_out_work(subscribers, body.len());
    if core.turn.charge_or_wait(from, connection, work, &mut core.counters) {
        Ok(())
    } else {
        Err(Stop::Held)
    }
}

/// Counts those who hear a publication on a channel that is congested or topical, and returns whether
/// it is delivered apart from those of others. If one of them reads too slowly, its publisher waits.
#[inline]
fn look_at(
    core: &mut Core,
    from: ConnectionKey,
    channel: ChannelKey,
    is_alone: bool,
    body: &[u8],
) -> Result<(usize, bool), Stop> {
    keeping::check_size(core, channel, body)?;
    let known = audience::extent(&core.router, channel);
    let found = match known.map_or_else(|| audience::measure(core, channel), Ok) {
        Ok(found) => found,
        Err(obstacle) => {
            queues::park(core, from, obstacle);
            return Err(Stop::Held);
        }
    };
    let goes_apart = is_alone || found.is_one_by_one || core.connections.is_link(from);
    Ok((found.subscribers, goes_apart))
}

/// A publication to a channel that does not exist, and so has no subscribers.
fn publish_to_nobody(
    core: &mut Core,
    handlers: &mut Handlers,
    parts: Parts<'_>,
    application: ApplicationKey,
    body: &[u8],
    run: &mut Run<'_>,
) -> Result<(), Stop> {
    if handlers.has_filter(core) {
        // A filter may publish.
        if !run.deliver(core) {
            return Err(Stop::Held);
        }
        if handlers.filter(core, parts)? == Verdict::Drop {
            return Ok(());
        }
        // It may also have subscribed somebody.
        if let Some(channel) = channels::find(core, parts.from, application, parts.envelope) {
            deliver_alone(core, channel, parts, body);
            return Ok(());
        }
    }
    let owner = core.router.applications.get(application);
    if owner.is_some_and(|owner| owner.patterns.is_some()) {
        return publish_to_patterns(core, parts, application, body, run);
    }
    subscriptions::note_unheard(core, 1);
    Ok(())
}

/// A publication to a channel that does not exist, in an application with patterns. If some match, the
/// channel is created, so that they need not be looked up again.
#[cold]
fn publish_to_patterns(
    core: &mut Core,
    parts: Parts<'_>,
    application: ApplicationKey,
    body: &[u8],
    run: &mut Run<'_>,
) -> Result<(), Stop> {
    let Parts { envelope, from, .. } = parts;
    if !run.deliver(core) {
        return Err(Stop::Held);
    }
    let id = envelope.channel_id().decode();
    let matching = audience::look_up_name(core, application, &id);
    let measured = audience::measure_patterns(core, &matching);
    // What comes from a link reaches no other.
    let is_heard = if core.connections.is_link(from) {
        let nodes = &core.router.patterns.nodes;
        let mut found = matching.nodes.iter().filter_map(|key| nodes.get(*key));
        found.any(|node| node.subscribers() > 0)
    } else {
        !matching.nodes.is_empty()
    };
    audience::give_back(core, matching);
    let subscribers = match measured {
        Ok(found) => found.subscribers,
        Err(obstacle) => {
            queues::park(core, from, obstacle);
            return Err(Stop::Held);
        }
    };
    if !is_heard {
        subscriptions::note_unheard(core, 1);
        return Ok(());
    }
    charge(core, from, subscribers, body)?;
    if let Ok(channel) = channels::find_or_claim(core, from, application, &id) {
        deliver_alone(core, channel, parts, body);
    } else {
        // There is no room for another channel.
        let publication = parts.publication(core, body);
        publishing::publish_unlisted(core, application, &id, &publication);
    }
    Ok(())
}

fn change_subscription(
    core: &mut Core,
    handlers: &mut Handlers,
    parts: Parts<'_>,
    application: ApplicationKey,
) -> Result<(), Stop> {
    let asked = subscriptions::read_own_payload(core, parts.from, parts.envelope)?;
    let wanted = Wanted::plain(asked.wants_answer);
    if asked.has_topic {
        change_with_topic(core, handlers, parts, application, wanted)
    } else {
        change_as_wanted(core, handlers, parts, application, &wanted)
    }
}

/// Does the same for a peer with the extension `topic`, which may mean a pattern.
#[cold]
#[inline(never)]
fn change_with_topic<'a>(
    core: &mut Core,
    handlers: &mut Handlers,
    parts: Parts<'a>,
    application: ApplicationKey,
    wanted: Wanted<'a>,
) -> Result<(), Stop> {
    let Parts { envelope, from, .. } = parts;
    // It may hear through a pattern what it published itself.
    handlers.decide(core);
    let mut wanted = wanted.with_topic(envelope.payload_str())?;
    let is_link = core.connections.is_link(from);
    if is_link {
        if !wanted.pattern {
            return Err(refusal::link_hears_patterns().into());
        }
        // It hears what is live, each publication of it.
        (wanted.last, wanted.conflate) = (None, false);
    }
    if !wanted.pattern {
        return change_as_wanted(core, handlers, parts, application, &wanted);
    }
    let subscribes = envelope.message_type() == MessageType::Subscribe;
    if subscribes && !patterns::charge(core, from, application) {
        return Err(Stop::Held);
    }
    if !is_link && handlers.filter(core, parts)? == Verdict::Drop {
        return Ok(());
    }
    if let Some(last) = patterns::change(core, from, application, envelope, &wanted)? {
        searches::begin(core, from, &envelope.channel_id().decode(), last);
        searching::go_on(core, handlers, from);
        replays::start(core, from);
    }
    Ok(())
}

#[expect(clippy::inline_always, reason = "there is less to do for a peer without the extension")]
#[inline(always)]
fn change_as_wanted(
    core: &mut Core,
    handlers: &mut Handlers,
    parts: Parts<'_>,
    application: ApplicationKey,
    wanted: &Wanted<'_>,
) -> Result<(), Stop> {
    if handlers.filter(core, parts)? == Verdict::Drop {
        return Ok(());
    }
    let Parts { envelope, from, mut channel, .. } = parts;
    if envelope.message_type() != MessageType::Subscribe {
        subscriptions::unsubscribe(core, from, channel, envelope, wanted);
        return Ok(());
    }
    // It does not exist yet, or the filter has removed it.
    if core.router.channels.get(channel).is_none() {
        let id = envelope.channel_id().decode();
        channel = channels::find_or_claim(core, from, application, &id)?;
    }
    let done = subscriptions::subscribe(core, from, channel, envelope, wanted);
    if done.is_err() {
        channels::disown_unused(core, from, channel);
    }
    Ok(done?)
}

fn request(
    core: &mut Core,
    handlers: &mut Handlers,
    parts: Parts<'_>,
    body: &[u8],
) -> Result<(), Stop> {
    if core.is_draining() {
        return Err(refusal::shutting_down().into());
    }
    if let Some(millis) = parts.meta.and_then(|meta| meta.ttl_millis)
        && calls::deadline(core, millis) <= core.turn.now.monotonic
    {
        // It was held back for its whole time.
        branches::note(Branch::TtlOverOnArrival);
        core.counters.ttls_over += 1;
        return Err(refusal::ttl_over(millis, false).into());
    }
    if handlers.request(core, parts) {
        return Ok(());
    }
    match workers::offer(core, parts.from, parts.channel, parts.envelope, parts.meta, body) {
        Offer::Forwarded => Ok(()),
        Offer::Refused(why) => Err(why.into()),
        Offer::Congested => {
            queues::park(core, parts.from, Obstacle::Worker(parts.channel));
            Err(Stop::Held)
        }
        Offer::NoWorkers => Err(unserved::no_handler(core, parts.from, parts.envelope).into()),
    }
}

fn notify(
    core: &mut Core,
    handlers: &mut Handlers,
    parts: Parts<'_>,
    body: &[u8],
) -> Result<(), Stop> {
    if handlers.deliver(core, parts) {
        return Ok(());
    }
    match workers::offer(core, parts.from, parts.channel, parts.envelope, parts.meta, body) {
        Offer::Congested => {
            queues::park(core, parts.from, Obstacle::Worker(parts.channel));
            return Err(Stop::Held);
        }
        // The notification would be lost without an error.
        Offer::Refused(why) => return Err(why.into()),
        Offer::NoWorkers => core.counters.notifications_unhandled += 1,
        Offer::Forwarded => {}
    }
    Ok(())
}

/// A response answers the request that its sender holds as a worker, or else goes to the channel's
/// response handler. Nothing is ever sent back for one.
fn take_response(
    core: &mut Core,
    handlers: &mut Handlers,
    from: ConnectionKey,
    application: ApplicationKey,
    envelope: &Envelope<'_>,
    body: &[u8],
) {
    if workers::take_answer(core, from, envelope, body) {
        return;
    }
    if envelope.has_attachments() && envelope.attachments().is_err() {
        core.counters.responses_ignored += 1;
        return;
    }
    let channel = core.router.channel(application, &envelope.channel_id().decode());
    let handled = channel.is_some_and(|channel| {
        handlers.deliver(core, Parts { envelope, from, channel, meta: None })
    });
    if !handled {
        core.counters.responses_ignored += 1;
    }
}
