//! Latencies, which are recorded at a turn's end, when the kernel has all of its bytes.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::histogram::Durations;
use super::keys::{ChannelKey, ConnectionKey};
use super::timers::Moment;

/// The subject of a latency. All are measured inside the server, so they include neither the time
/// of a peer nor that of the kernel.
///
/// ```
/// use ipc_framework::Measure;
///
/// assert_eq!(Measure::Handler.as_str(), "handler");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Measure {
    /// From the turn in which a request's last byte was read to the end of the turn in which
    /// its answer, which may be an error, went to the kernel.
    Request,
    /// The first part of [`Measure::Request`]: until its handler began or a worker was chosen.
    Queue,
    /// The second part of it: until the handler, the thread or the worker had answered.
    Handler,
    /// From the turn in which a publication's last byte was read to the end of the turn in
    /// which it was offered to the kernel for its last subscriber. The further delay by a
    /// subscriber that does not read shows in
    /// [`Counters::publishers_held`](crate::Counters::publishers_held).
    Publication,
    /// From passing a request on to a worker to reading its answer, by worker.
    Worker,
}

impl Measure {
    /// The measures of a channel.
    const OF_CHANNELS: [Self; 4] = [Self::Request, Self::Queue, Self::Handler, Self::Publication];

    /// Returns the name in logs and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Queue => "queue",
            Self::Handler => "handler",
            Self::Publication => "publication",
            Self::Worker => "worker",
        }
    }
}

/// The subject of one histogram.
///
/// ```
/// # use ipc_framework::{Config, Measure, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config::default().port(0))?;
/// server.context().for_each_histogram(|of, histogram| {
///     if of.measure == Measure::Request {
///         println!("{}/{}: {} ns", of.app_id, of.channel_id, histogram.value_at_quantile(0.99));
///     }
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LatencyOf<'a> {
    /// The application.
    pub app_id: &'a str,
    /// The channel; empty for a worker, which may serve many.
    pub channel_id: &'a str,
    /// The worker, for [`Measure::Worker`].
    pub worker: Option<ConnectionKey>,
    /// The measure.
    pub measure: Measure,
    /// A number that no other histogram has. One that is emptied gets a new number, and so does that
    /// of a channel that was removed and created again.
    pub serial: u64,
    /// Set if the channel or worker is gone. Its histogram is kept for a while.
    pub is_gone: bool,
}

/// A distribution in microseconds.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config::default().port(0))?;
/// for (channel_id, latency) in server.context().list_latencies("shop") {
///     if let Some(request) = latency.request {
///         println!("{channel_id}: p99 {} us of {}", request.p99_us, request.count);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it")]
pub struct LatencySummary {
    pub count: u64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

/// The latencies of one channel. Those without a measurement are `None`.
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config::default().port(0))?;
/// // Channels appear once something of theirs was measured.
/// assert!(server.context().list_latencies("shop").is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ChannelLatency {
    /// See [`Measure::Request`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<LatencySummary>,
    /// See [`Measure::Queue`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<LatencySummary>,
    /// See [`Measure::Handler`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<LatencySummary>,
    /// See [`Measure::Publication`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publication: Option<LatencySummary>,
}

/// The most histograms at a time, of 18 KiB each, besides those of channels that the embedder set up.
/// Further channels that peers create are not measured.
const HISTOGRAMS_MAX: usize = 1_024;
/// The most histograms of removed channels and workers, which are kept for a program that reads them
/// from time to time. The oldest ones are dropped.
const DEPARTED_MAX: usize = 256;
/// The most samples that wait for the turn's end. In a turn with more, the earlier ones count as
/// sent when there is no more room.
const SAMPLES_MAX: usize = 8_192;

/// The next number of a histogram, see [`LatencyOf::serial`].
static SERIAL: AtomicU64 = AtomicU64::new(0);

fn next_serial() -> u64 {
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

/// One histogram, which is created with its first sample.
#[derive(Debug, Default)]
pub(crate) struct Distribution(Option<Box<Recorded>>);

#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) durations: Durations,
    pub(crate) serial: u64,
    /// One of [`HISTOGRAMS_MAX`], given back when this is dropped.
    _place: Option<Arc<()>>,
}

impl Distribution {
    #[inline]
    pub(crate) fn record(
        &mut self,
        elapsed_nanos: u64,
        count: u32,
        places: &Arc<()>,
        is_pinned: bool,
    ) {
        if self.0.is_none() {
            self.begin(places, is_pinned);
        }
        if let Some(recorded) = &mut self.0 {
            recorded.durations.record(elapsed_nanos, count);
        }
    }

    #[cold]
    fn begin(&mut self, places: &Arc<()>, is_pinned: bool) {
        if is_pinned || Arc::strong_count(places) <= HISTOGRAMS_MAX {
            let place = (!is_pinned).then(|| places.clone());
            let recorded =
                Recorded { durations: Durations::default(), serial: next_serial(), _place: place };
            self.0 = Some(Box::new(recorded));
        }
    }

    pub(crate) fn recorded(&self) -> Option<&Recorded> {
        self.0.as_deref().filter(|recorded| !recorded.durations.is_empty())
    }

    pub(crate) fn reset(&mut self) {
        if let Some(recorded) = &mut self.0 {
            recorded.durations.reset();
            recorded.serial = next_serial();
        }
    }

    pub(crate) fn summary(&self) -> Option<LatencySummary> {
        self.recorded().map(|recorded| summary(&recorded.durations.to_histogram()))
    }
}

/// Finds all quantiles in one pass; to look each up would take a pass each.
fn summary(nanos: &Histogram<u32>) -> LatencySummary {
    const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];
    let micros = |nanos: u64| nanos as f64 / 1_000.0;
    let mut at = [micros(nanos.max()); QUANTILES.len()];
    let (mut seen, mut next) = (0, 0);
    for step in nanos.iter_recorded() {
        seen += step.count_since_last_iteration();
        while next < QUANTILES.len() && seen as f64 >= QUANTILES[next] * nanos.len() as f64 {
            at[next] = micros(step.value_iterated_to().min(nanos.max()));
            next += 1;
        }
    }
    LatencySummary {
        count: nanos.len(),
        mean_us: nanos.mean() / 1_000.0,
        p50_us: at[0],
        p90_us: at[1],
        p99_us: at[2],
        p999_us: at[3],
        max_us: micros(nanos.max()),
    }
}

/// The histograms of one channel, in the order of [`Measure::OF_CHANNELS`].
#[derive(Debug, Default)]
pub(crate) struct ChannelLatencies([Distribution; 4]);

impl ChannelLatencies {
    pub(crate) fn of(&mut self, measure: Measure) -> &mut Distribution {
        &mut self.0[measure as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Measure, &Distribution)> {
        Measure::OF_CHANNELS.into_iter().zip(&self.0)
    }

    pub(crate) fn reset(&mut self) {
        self.0.iter_mut().for_each(Distribution::reset);
    }

    pub(crate) fn report(&self) -> Option<ChannelLatency> {
        let [request, queue, handler, publication] = self.0.each_ref().map(Distribution::summary);
        let report = ChannelLatency { request, queue, handler, publication };
        (report != ChannelLatency::default()).then_some(report)
    }
}

/// Histograms of channels and workers that are gone.
#[derive(Debug, Default)]
pub(crate) struct Departed(VecDeque<DepartedHistogram>);

#[derive(Debug)]
pub(crate) struct DepartedHistogram {
    pub(crate) app_id: Arc<str>,
    pub(crate) channel_id: Arc<str>,
    pub(crate) worker: Option<ConnectionKey>,
    pub(crate) measure: Measure,
    pub(crate) recorded: Box<Recorded>,
}

impl Departed {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &DepartedHistogram> {
        self.0.iter()
    }

    pub(crate) fn keep_channel(
        &mut self,
        app_id: &Arc<str>,
        channel_id: &Arc<str>,
        latencies: ChannelLatencies,
    ) {
        for (measure, distribution) in Measure::OF_CHANNELS.into_iter().zip(latencies.0) {
            self.keep(app_id, channel_id, None, measure, distribution);
        }
    }

    pub(crate) fn keep_worker(
        &mut self,
        app_id: &Arc<str>,
        worker: ConnectionKey,
        round_trip: Distribution,
    ) {
        self.keep(app_id, &Arc::from(""), Some(worker), Measure::Worker, round_trip);
    }

    fn keep(
        &mut self,
        app_id: &Arc<str>,
        channel_id: &Arc<str>,
        worker: Option<ConnectionKey>,
        measure: Measure,
        distribution: Distribution,
    ) {
        let Some(recorded) = distribution.0.filter(|recorded| !recorded.durations.is_empty())
        else {
            return;
        };
        if self.0.len() >= DEPARTED_MAX {
            self.0.pop_front();
        }
        let (app_id, channel_id) = (app_id.clone(), channel_id.clone());
        self.0.push_back(DepartedHistogram { app_id, channel_id, worker, measure, recorded });
    }
}

/// A latency that ends with the turn.
#[derive(Debug)]
pub(crate) enum Sample {
    Answer { channel: ChannelKey, arrived: Moment, began: Moment, answered: Moment },
    Publications { channel: ChannelKey, arrived: Moment, count: u32 },
}

/// Samples that wait for the turn's end, and the clock that times handlers.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    samples: Vec<Sample>,
    stopwatch: Stopwatch,
    /// The end of the last handler of this turn.
    handled: Moment,
    pub(crate) places: Arc<()>,
}

/// A clock that is read during a turn. Without one, as in a simulation, handlers take no time.
#[derive(Default)]
struct Stopwatch(Option<Box<dyn Fn() -> Duration + Send>>);

impl fmt::Debug for Stopwatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stopwatch").field(&self.0.is_some()).finish()
    }
}

impl Recorder {
    pub(crate) fn set_stopwatch(&mut self, read: impl Fn() -> Duration + Send + 'static) {
        self.stopwatch = Stopwatch(Some(Box::new(read)));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Returns whether the samples have to be recorded before another one is taken.
    pub(crate) fn is_full(&self) -> bool {
        self.samples.len() >= SAMPLES_MAX
    }

    pub(crate) fn take(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// Returns all samples, and the places that new histograms take.
    pub(crate) fn drain(&mut self) -> (impl Iterator<Item = Sample>, &Arc<()>) {
        (self.samples.drain(..), &self.places)
    }

    /// Returns the time in the middle of a turn, if there is a clock.
    #[inline]
    pub(crate) fn time(&self) -> Option<Moment> {
        self.stopwatch.0.as_ref().map(|read| read().into())
    }

    /// Returns the start time of a handler that is called now. It is the end of the last one, so
    /// that the clock is read only at the end of each.
    #[inline]
    pub(crate) fn begin(&self, now: Moment) -> Moment {
        self.handled.max(now)
    }

    #[inline]
    pub(crate) fn end(&mut self, began: Moment) -> Moment {
        self.handled = self.time().unwrap_or(began);
        self.handled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_one_pass_are_those_of_the_histogram() {
        let mut distribution = Distribution::default();
        let places = Arc::new(());
        for micros in 1..=2_000 {
            distribution.record(micros * micros * 1_000, 1, &places, false);
        }
        let nanos = distribution.recorded().unwrap().durations.to_histogram();
        let summary = distribution.summary().unwrap();
        let at = |quantile| nanos.value_at_quantile(quantile);
        let all = [summary.p50_us, summary.p90_us, summary.p99_us, summary.p999_us, summary.max_us];
        assert_eq!(summary.count, 2_000);
        for (micros, nanos) in
            all.into_iter().zip([at(0.5), at(0.9), at(0.99), at(0.999), nanos.max()])
        {
            assert!((micros * 1_000.0 - nanos as f64).abs() < 0.5, "{micros} and {nanos}");
        }
    }

    #[test]
    fn peers_cannot_make_any_number_of_histograms() {
        let places = Arc::new(());
        let mut distributions: Vec<Distribution> = Vec::new();
        distributions.resize_with(HISTOGRAMS_MAX + 1, Distribution::default);
        for distribution in &mut distributions {
            distribution.record(1_000, 1, &places, false);
        }
        let last = distributions.last_mut().unwrap();
        assert_eq!(last.summary(), None);
        last.record(1_000, 1, &places, true);
        assert!(last.summary().is_some(), "what the embedder set up is always measured");
        assert_eq!(Arc::strong_count(&places), HISTOGRAMS_MAX + 1, "and takes no place");
        distributions.truncate(1);
        assert_eq!(Arc::strong_count(&places), 2, "places are given back");
    }
}
