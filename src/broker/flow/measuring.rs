//! Latencies: taken when a message is answered or published, and recorded at the turn's end, when
//! the kernel has all of its bytes.

use hdrhistogram::Histogram;

use crate::broker::state::core::Core;
use crate::broker::state::keys::{ChannelKey, ConnectionKey};
use crate::broker::state::latency::{Departed, LatencyOf, Measure, Sample};
use crate::broker::state::timers::Moment;

/// Takes the latency of a request that is answered with a value or an error.
pub(crate) fn note_answer(
    core: &mut Core,
    channel: ChannelKey,
    arrived: Moment,
    began: Moment,
    answered: Moment,
) {
    note(core, Sample::Answer { channel, arrived, began, answered });
}

/// Takes the latency of publications that are in the queues of their subscribers.
pub(crate) fn note_publications(core: &mut Core, channel: ChannelKey, arrived: Moment, count: u32) {
    note(core, Sample::Publications { channel, arrived, count });
}

fn note(core: &mut Core, sample: Sample) {
    if core.latency.is_full() {
        let now = core.latency.time().unwrap_or(core.turn.now.monotonic.into());
        record(core, now);
    }
    core.latency.take(sample);
}

/// Records the latencies of everything that left in this turn, which ends now.
pub(crate) fn record(core: &mut Core, now: Moment) {
    let (samples, places) = core.latency.drain();
    for sample in samples {
        let (Sample::Answer { channel, arrived, .. }
        | Sample::Publications { channel, arrived, .. }) = sample;
        let Some(channel) = core.router.channels.get_mut(channel) else { continue };
        let is_pinned = channel.pinned;
        let mut record = |measure, from, to: Moment, count| {
            let elapsed_nanos = to.nanos_since(from);
            channel.latencies.of(measure).record(elapsed_nanos, count, places, is_pinned);
        };
        match sample {
            Sample::Answer { began, answered, .. } => {
                record(Measure::Request, arrived, now, 1);
                record(Measure::Queue, arrived, began, 1);
                record(Measure::Handler, began, answered, 1);
            }
            Sample::Publications { count, .. } => {
                record(Measure::Publication, arrived, now, count);
            }
        }
    }
}

/// Records the round trip of a worker that has answered a request which it got at `began`.
pub(crate) fn record_round_trip(core: &mut Core, worker: ConnectionKey, began: Moment) {
    let now = core.turn.now.monotonic;
    let session = core.connections.session_mut(worker);
    if let Some(worker) = session.and_then(|session| session.worker.as_mut()) {
        // The request that is answered is still among those in flight.
        worker.silent_since = (worker.in_flight.len() > 1 + worker.stalled).then_some(now);
        let elapsed_nanos = Moment::from(now).nanos_since(began);
        worker.round_trip.record(elapsed_nanos, 1, &core.latency.places, false);
    }
}

/// Notes that a worker is given a request, from which on it may be silent for too long.
#[inline]
pub(crate) fn note_handed(core: &mut Core, worker: ConnectionKey) {
    let session = core.connections.session_mut(worker);
    if let Some(worker) = session.and_then(|session| session.worker.as_mut()) {
        worker.silent_since.get_or_insert(core.turn.now.monotonic);
    }
}

/// Notes an answer to a request that is over.
pub(crate) fn note_answer_of(core: &mut Core, worker: ConnectionKey) {
    let session = core.connections.session_mut(worker);
    if let Some(worker) = session.and_then(|session| session.worker.as_mut()) {
        let has_more = worker.in_flight.len() > worker.stalled;
        worker.silent_since = has_more.then_some(core.turn.now.monotonic);
    }
}

/// Notes that a stream of a worker waits for credit.
pub(crate) fn note_stall(core: &mut Core, worker: ConnectionKey) {
    let session = core.connections.session_mut(worker);
    if let Some(worker) = session.and_then(|session| session.worker.as_mut()) {
        worker.stalled += 1;
    }
}

/// Notes that a stream of a worker no longer waits for credit.
pub(crate) fn note_credit(core: &mut Core, worker: ConnectionKey) {
    let now = core.turn.now.monotonic;
    let session = core.connections.session_mut(worker);
    if let Some(worker) = session.and_then(|session| session.worker.as_mut()) {
        worker.stalled -= 1;
        if worker.in_flight.len() > worker.stalled {
            worker.silent_since.get_or_insert(now);
        }
    }
}

/// Passes every histogram that is not empty to `visit`.
pub(crate) fn for_each_histogram(
    core: &Core,
    mut visit: impl FnMut(LatencyOf<'_>, &Histogram<u32>),
) {
    for gone in core.router.departed.iter() {
        let of = LatencyOf {
            app_id: &gone.app_id,
            channel_id: &gone.channel_id,
            worker: gone.worker,
            measure: gone.measure,
            serial: gone.recorded.serial,
            is_gone: true,
        };
        visit(of, &gone.recorded.durations.to_histogram());
    }
    for (_, channel) in core.router.channels.iter() {
        let Some(application) = core.router.applications.get(channel.application) else { continue };
        for (measure, distribution) in channel.latencies.iter() {
            let Some(recorded) = distribution.recorded() else { continue };
            let of = LatencyOf {
                app_id: &application.id,
                channel_id: &channel.id,
                worker: None,
                measure,
                serial: recorded.serial,
                is_gone: false,
            };
            visit(of, &recorded.durations.to_histogram());
        }
    }
    for (key, connection) in core.connections.iter() {
        let Some(session) = connection.session() else { continue };
        let Some(application) = core.router.applications.get(session.application) else { continue };
        let worker = session.worker.as_ref();
        let Some(recorded) = worker.and_then(|worker| worker.round_trip.recorded()) else {
            continue;
        };
        let of = LatencyOf {
            app_id: &application.id,
            channel_id: "",
            worker: Some(key),
            measure: Measure::Worker,
            serial: recorded.serial,
            is_gone: false,
        };
        visit(of, &recorded.durations.to_histogram());
    }
}

/// Empties all histograms.
pub(crate) fn reset(core: &mut Core) {
    core.router.departed = Departed::default();
    core.router.channels.values_mut().for_each(|channel| channel.latencies.reset());
    for connection in core.connections.values_mut() {
        let session = connection.session_mut();
        if let Some(worker) = session.and_then(|session| session.worker.as_mut()) {
            worker.round_trip.reset();
        }
    }
}
