//! What the server told, and how fast it changed.

use std::collections::VecDeque;
use std::time::Instant;

use ipc_framework::client::Connection;
use serde::Serialize;

use super::super::answers::{self, Channels, Latencies, Stats, Summary, ask};
use super::Failure;

/// As many as the widest screens show.
const SAMPLES_KEPT: usize = 300;

/// One look at the server.
pub(super) struct Sample {
    at: Instant,
    stats: Stats,
    channels: Channels,
    latencies: Latencies,
}

impl Sample {
    pub(super) fn take(connection: &mut Connection) -> Result<Self, Failure> {
        Ok(Self {
            stats: ask(connection, "get_stats")?,
            channels: ask(connection, "list_channels")?,
            latencies: ask(connection, "get_latency")?,
            at: Instant::now(),
        })
    }

    /// Of a channel's requests and of its publications.
    fn summaries(&self, channel: &str) -> [Option<&Summary>; 2] {
        let latency = self.latencies.channels.get(channel);
        latency.map_or([None; 2], |of| [of.request.as_ref(), of.publication.as_ref()])
    }
}

/// Of the whole server, a second.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Rates {
    pub(super) frames_in: f64,
    pub(super) frames_out: f64,
    pub(super) bytes_in: f64,
    pub(super) bytes_out: f64,
    pub(super) publications: f64,
    pub(super) errors: f64,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) channel: String,
    pub(super) requests_per_second: f64,
    pub(super) publications_per_second: f64,
    pub(super) subscribers: u64,
    pub(super) workers: u64,
    pub(super) has_handler: bool,
    /// Of requests where there were any, of publications otherwise; in microseconds.
    pub(super) latency_us: Option<Percentiles>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    #[serde(rename = "p99.9")]
    pub(super) p999: f64,
    pub(super) max: f64,
}

/// What `--json` shows of a sample.
#[derive(Debug, Serialize)]
pub(super) struct Document<'a> {
    connections: u64,
    pending_requests: u64,
    buffered_bytes: u64,
    uptime_seconds: f64,
    per_second: Rates,
    channels: &'a [Row],
}

/// The last sample, what it means beside the one before, and the rates until then.
#[derive(Default)]
pub(super) struct History {
    last: Option<Sample>,
    pub(super) rates: VecDeque<Rates>,
    pub(super) rows: Vec<Row>,
}

impl History {
    pub(super) fn add(&mut self, sample: Sample) {
        // A server that was started anew counts from zero: nothing to compare with.
        let before = self
            .last
            .as_ref()
            .filter(|before| before.stats.uptime_seconds <= sample.stats.uptime_seconds);
        let rates = before.map_or_else(Rates::default, |before| rates(before, &sample));
        self.rows = rows(before, &sample);
        self.rates.push_back(rates);
        if self.rates.len() > SAMPLES_KEPT {
            self.rates.pop_front();
        }
        self.last = Some(sample);
    }

    pub(super) fn stats(&self) -> Option<&Stats> {
        self.last.as_ref().map(|sample| &sample.stats)
    }

    pub(super) fn latest(&self) -> Rates {
        self.rates.back().copied().unwrap_or_default()
    }

    pub(super) fn document(&self) -> Document<'_> {
        let stats = self.stats().cloned().unwrap_or_default();
        Document {
            connections: stats.total_connections,
            pending_requests: stats.pending_requests,
            buffered_bytes: stats.buffered_bytes,
            uptime_seconds: stats.uptime_seconds,
            per_second: self.latest(),
            channels: &self.rows,
        }
    }
}

/// How much was added in a second. Counters that were reset count as nothing.
fn per_second(before: u64, now: u64, seconds: f64) -> f64 {
    let rate = now.saturating_sub(before) as f64 / seconds.max(1e-3);
    (rate * 10.0).round() / 10.0
}

fn rates(before: &Sample, now: &Sample) -> Rates {
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    let (old, new) = (&before.stats.counters, &now.stats.counters);
    let per_second = |before, now| per_second(before, now, seconds);
    Rates {
        frames_in: per_second(old.frames_in, new.frames_in),
        frames_out: per_second(old.frames_out, new.frames_out),
        bytes_in: per_second(old.bytes_in, new.bytes_in),
        bytes_out: per_second(old.bytes_out, new.bytes_out),
        publications: per_second(old.publications, new.publications),
        errors: per_second(old.errors.values().sum(), new.errors.values().sum()),
    }
}

fn rows(before: Option<&Sample>, now: &Sample) -> Vec<Row> {
    let row = |(name, channel): (&String, &answers::Channel)| {
        let [request, publication] = now.summaries(name);
        // A channel that was not there before has had no messages before.
        let old = before.map_or([None; 2], |before| before.summaries(name));
        let count = |of: Option<&Summary>| of.map_or(0, |of| of.count);
        let rate = |old: Option<&Summary>, new: Option<&Summary>| {
            before.map_or(0.0, |before| {
                let seconds = now.at.duration_since(before.at).as_secs_f64();
                per_second(count(old), count(new), seconds)
            })
        };
        Row {
            channel: name.clone(),
            requests_per_second: rate(old[0], request),
            publications_per_second: rate(old[1], publication),
            subscribers: channel.subscribers,
            workers: channel.workers,
            has_handler: channel.has_handler,
            latency_us: request.or(publication).map(|of| Percentiles {
                p50: of.p50_us,
                p90: of.p90_us,
                p99: of.p99_us,
                p999: of.p999_us,
                max: of.max_us,
            }),
        }
    };
    now.channels.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_was_added_and_never_negative() {
        assert!((per_second(10, 30, 2.0) - 10.0).abs() < 1e-9);
        assert!(per_second(30, 10, 1.0).abs() < 1e-9, "the counters were reset");
    }
}
