//! Counters and latencies for Prometheus.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;
use ipc_framework::{Handle, Stats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::channels::{self, Channels, Numbers};
use super::histograms::{self, Subject};
use super::nats_metrics;
use super::series::Series;

/// The type of exemplars' labels; there are none.
type NoLabels = [(&'static str, &'static str); 0];
/// Upper bounds of the buckets in nanoseconds: 1, 2, 5 per decade from 1 µs to 10 s.
const BUCKET_NANOS: [u64; 22] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];
const NANOS_PER_SECOND: f64 = 1e9;

/// What is needed for scrapes besides the server.
pub(super) struct Metrics {
    /// The channels with series of their own.
    channels_max: usize,
    series: Mutex<Series>,
}

impl Metrics {
    pub(super) fn new(channels_max: usize) -> Self {
        Self { channels_max, series: Mutex::new(Series::new(channels_max)) }
    }
}

/// Returns counters and latencies in the format `OpenMetrics`, or the reason why there are none.
pub(super) fn open_metrics(handle: &Handle, metrics: &Metrics) -> Result<String, String> {
    let stats = handle.stats().map_err(|error| error.to_string())?;
    let copied = channels::copy(handle, metrics.channels_max);
    let channels = copied.map_err(|error| error.to_string())?;
    let copied = histograms::copy(handle).map_err(|error| error.to_string())?;
    let mut series = metrics.series.lock().unwrap_or_else(PoisonError::into_inner);
    let latencies = series.add(copied, &channels, Instant::now());
    drop(series);
    let mut registry = Registry::with_prefix("ipc");
    registry.register_collector(Box::new(Snapshot { stats, channels, latencies }));
    let mut text = String::new();
    text::encode(&mut text, &registry).map_err(|error| error.to_string())?;
    Ok(text)
}

#[derive(Debug)]
struct Snapshot {
    stats: Stats,
    channels: Channels,
    latencies: BTreeMap<Subject, Histogram<u32>>,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counters = &self.stats.counters;
        for (name, help, value) in [
            (
                "connections_accepted",
                "Connections accepted, the refused ones included",
                counters.accepted,
            ),
            ("connections_shed", "Connections closed for lack of descriptors", counters.shed),
            ("frames_received", "Whole frames received", counters.frames_in),
            ("received_bytes", "Bytes received", counters.bytes_in),
            ("frames_sent", "Frames put into queues", counters.frames_out),
            ("sent_bytes", "Bytes put into queues", counters.bytes_out),
            ("publications", "Publications, from peers and from inside", counters.publications),
            (
                "publications_conflated",
                "Publications that a slow reader did not get, because a newer one took their place",
                counters.publications_conflated,
            ),
            (
                "publications_unheard",
                "Publications without a subscriber",
                counters.publications_unheard,
            ),
            ("deliveries", "Publications times subscribers reached", counters.deliveries),
            ("forwarded", "Messages passed on to workers", counters.forwarded),
            (
                "notifications_unhandled",
                "Notifications that nothing handled",
                counters.notifications_unhandled,
            ),
            ("responses_ignored", "Responses that answer nothing", counters.responses_ignored),
            (
                "answers_undeliverable",
                "Answers whose requester had left",
                counters.answers_undeliverable,
            ),
            ("handler_failures", "Handlers that returned an error", counters.handler_failures),
            ("handler_panics", "Handlers and hooks that panicked", counters.handler_panics),
            ("publishers_held", "Messages held back for a slow reader", counters.publishers_held),
            (
                "slow_consumers",
                "Connections closed because they read too slowly",
                counters.slow_consumers,
            ),
            (
                "handshake_timeouts",
                "Connections closed because their handshake took too long",
                counters.handshake_timeouts,
            ),
            ("idle_closed", "Connections closed because they said nothing", counters.idle_closed),
            (
                "memory_refusals",
                "Connections, channels and subscriptions refused for lack of memory",
                counters.memory_refusals,
            ),
            (
                "memory_pauses",
                "Times a connection had to wait for lack of memory",
                counters.memory_pauses,
            ),
            (
                "memory_sheds",
                "Connections closed because they held the most memory",
                counters.memory_sheds,
            ),
            ("memory_shared", "Connections that went to shared memory", counters.memory_shared),
            (
                "transport_failures",
                "Connections that broke TLS or rings",
                counters.transport_failures,
            ),
            ("wakeups", "Times the loop was woken from sleep", counters.wakeups),
            ("spins", "Polls without sleep that found nothing", counters.spins),
            ("yields", "Turns a connection gave up with frames left", counters.yields),
            (
                "publications_too_large",
                "Publications with attachments that exceed the limit in base64",
                counters.publications_too_large,
            ),
            ("ttls_over", "Requests whose own deadline was over first", counters.ttls_over),
            ("retried", "Requests that went to a second worker", counters.retried),
            ("stream_parts", "Parts of streams passed on", counters.stream_parts),
            (
                "credit_stalls",
                "Parts that used up the credit of their stream",
                counters.credit_stalls,
            ),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabels, u64, u64>(&value, None)?;
        }
        self.encode_labelled(&mut encoder)?;
        self.encode_gauges(&mut encoder)?;
        if let Some(nats) = &self.stats.nats {
            nats_metrics::encode(&mut encoder, nats)?;
        }
        self.encode_channels(&mut encoder)?;
        self.encode_latencies(encoder)
    }
}

impl Snapshot {
    fn encode_labelled(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counters = &self.stats.counters;
        for (name, help, label, values) in [
            ("errors", "Error answers of the server and of workers", "code", &counters.errors),
            ("worker_errors", "Error answers of workers alone", "code", &counters.worker_errors),
            ("cancelled", "Requests that ended before an answer", "reason", &counters.cancelled),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (value_of_label, value) in values {
                family
                    .encode_family(&[(label, *value_of_label)])?
                    .encode_counter::<NoLabels, u64, u64>(value, None)?;
            }
        }
        Ok(())
    }

    fn encode_gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, value) in [
            (
                "connections",
                "Connections that have completed their handshake",
                self.stats.total_connections,
            ),
            ("applications", "Applications known now", self.stats.total_applications),
            ("channels", "Channels known now", self.stats.total_channels),
            ("patterns", "Patterns that somebody has subscribed to", self.stats.total_patterns),
            ("pending_requests", "Requests that wait for an answer", self.stats.pending_requests),
            (
                "kept_requests",
                "Requests that wait until a worker has room",
                self.stats.kept_requests,
            ),
            (
                "buffered_bytes",
                "Bytes held in queues and unfinished frames",
                self.stats.buffered_bytes,
            ),
            ("memory_bytes", "Memory that clients make the server hold", self.stats.memory_bytes),
            ("memory_bytes_max", "The limit on that", self.stats.max_memory),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&(value as u64))?;
        }
        encoder
            .encode_descriptor(
                "uptime",
                "Time since the start",
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?
            .encode_gauge(&self.stats.uptime_seconds)
    }

    fn encode_channels(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let subscribers: fn(&Numbers) -> u64 = |numbers| numbers.subscribers;
        let workers: fn(&Numbers) -> u64 = |numbers| numbers.workers;
        for (name, help, of) in [
            ("channel_subscribers", "Connections that subscribe to a channel", subscribers),
            ("channel_workers", "Connections that serve a channel", workers),
        ] {
            let mut gauges = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for ((application, channel), numbers) in &self.channels {
                let labels = [("application", &**application), ("channel", &**channel)];
                gauges.encode_family(&labels)?.encode_gauge(&of(numbers))?;
            }
        }
        Ok(())
    }

    fn encode_latencies(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Where time goes inside the server, by measure";
        let unit = Some(&Unit::Seconds);
        let mut latencies =
            encoder.encode_descriptor("latency", help, unit, MetricType::Histogram)?;
        for (subject, histogram) in &self.latencies {
            let labels = [
                ("application", subject.application.as_str()),
                ("channel", subject.channel.as_str()),
                ("measure", subject.measure.as_str()),
            ];
            let sum = histogram.mean() * histogram.len() as f64 / NANOS_PER_SECOND;
            latencies.encode_family(&labels)?.encode_histogram::<NoLabels>(
                sum,
                histogram.len(),
                &buckets(histogram),
                None,
            )?;
        }
        Ok(())
    }
}

/// Returns the counts between one bound and the next; the last one has no upper bound.
fn buckets(nanos: &Histogram<u32>) -> Vec<(f64, u64)> {
    let mut counts = [0; BUCKET_NANOS.len() + 1];
    for step in nanos.iter_recorded() {
        let nanos = nanos.lowest_equivalent(step.value_iterated_to());
        let at = BUCKET_NANOS.partition_point(|bound| *bound < nanos);
        counts[at] += step.count_since_last_iteration();
    }
    let bounds = BUCKET_NANOS.iter().map(|bound| *bound as f64 / NANOS_PER_SECOND);
    bounds.chain([f64::INFINITY]).zip(counts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_one_bucket() {
        let mut nanos = Histogram::<u32>::new_with_bounds(1, 3_600_000_000_000, 2).unwrap();
        for value in [1, 999, 1_500, 42_000, 9_999_999_999, 60_000_000_000] {
            nanos.record(value).unwrap();
        }
        let buckets = buckets(&nanos);
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 6);
        assert_eq!((buckets[0].1, buckets.last().unwrap().1), (2, 1));
    }
}
