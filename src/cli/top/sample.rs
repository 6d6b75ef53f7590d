//! Samples of the server's statistics, and their rates of change.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ipc_framework::client::Connection;
use serde::Serialize;

use crate::cli::answers::{self, Channels, Latencies, NatsStats, Stats, Summary, ask};
use crate::cli::failure::Failure;
use crate::cli::latency::{self, Latency};

/// Samples for the widest screens.
const SAMPLES_KEPT: usize = 300;
/// Samples for the widest column of latencies.
const TREND_SAMPLES_KEPT: usize = 40;

/// One sample of the server's statistics.
pub(super) struct Sample {
    at: Instant,
    /// Round trip of the first request.
    rtt: Duration,
    stats: Stats,
    channels: Channels,
    latencies: Latencies,
}

impl Sample {
    pub(super) fn take(connection: &mut Connection) -> Result<Self, Failure> {
        let begin = Instant::now();
        let stats = ask(connection, "get_stats")?;
        Ok(Self {
            rtt: begin.elapsed(),
            stats,
            channels: ask(connection, "list_channels")?,
            latencies: ask(connection, "get_latency")?,
            at: Instant::now(),
        })
    }

    /// Returns the latencies of a channel's requests and of its publications.
    fn summaries(&self, channel: &str) -> [Option<&Summary>; 2] {
        let latency = self.latencies.channels.get(channel);
        latency.map_or([None; 2], |of| [of.request.as_ref(), of.publication.as_ref()])
    }
}

/// Rates of the whole server per second.
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
    /// As `publications_per_second`, `None` if there is nothing to compare with.
    pub(super) requests_per_second: Option<f64>,
    pub(super) publications_per_second: Option<f64>,
    pub(super) subscribers: u64,
    pub(super) workers: u64,
    pub(super) has_handler: bool,
    /// Requests that wait until one of the workers has room.
    pub(super) kept_requests: u64,
    /// Publications in its history, if it has one.
    pub(super) kept_publications: Option<u64>,
    /// The age of its last value, if it has one.
    pub(super) retained_age_seconds: Option<f64>,
    /// Latencies of requests, or of publications if there were no requests, in microseconds.
    pub(super) latency_us: Option<Latency>,
    /// Mean latency since the last sample.
    pub(super) recent_mean_us: Option<f64>,
}

/// The last mean latencies of a channel, oldest first; `None` if nothing happened.
pub(super) type Trend = VecDeque<Option<f64>>;

/// A sample, as `--json` shows it.
#[derive(Debug, Serialize)]
pub(super) struct Document<'a> {
    connections: u64,
    pending_requests: u64,
    kept_requests: u64,
    buffered_bytes: u64,
    uptime_seconds: f64,
    rtt_us: f64,
    /// Only where the server joins others.
    #[serde(skip_serializing_if = "Option::is_none")]
    nats: Option<NatsStats>,
    /// Absent (null) in a sample that has none before it with which it could be compared.
    per_second: Option<Rates>,
    channels: &'a [Row],
}

/// The last sample, its comparison with the one before, and the rates until then.
#[derive(Default)]
pub(super) struct History {
    last: Option<Sample>,
    /// The rates until each sample, as far as they are known.
    pub(super) rates: VecDeque<Option<Rates>>,
    pub(super) rows: Vec<Row>,
    /// The trends of channels in which something happened lately.
    trends: BTreeMap<String, Trend>,
}

impl History {
    pub(super) fn add(&mut self, sample: Sample) {
        // A restarted server counts from zero, so its samples cannot be compared with those before.
        let before = self
            .last
            .as_ref()
            .filter(|before| before.stats.uptime_seconds <= sample.stats.uptime_seconds);
        let rates = before.map(|before| rates(before, &sample));
        self.rows = rows(before, &sample);
        self.note_trends();
        self.rates.push_back(rates);
        if self.rates.len() > SAMPLES_KEPT {
            self.rates.pop_front();
        }
        self.last = Some(sample);
    }

    fn note_trends(&mut self) {
        let mut before = std::mem::take(&mut self.trends);
        for row in &self.rows {
            let mut trend = before.remove(&row.channel).unwrap_or_default();
            trend.push_back(row.recent_mean_us);
            if trend.len() > TREND_SAMPLES_KEPT {
                trend.pop_front();
            }
            // Idle channels may be many, and have no trend.
            if trend.iter().any(Option::is_some) {
                self.trends.insert(row.channel.clone(), trend);
            }
        }
    }

    pub(super) fn trend(&self, channel: &str) -> Option<&Trend> {
        self.trends.get(channel)
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.last.as_ref().map(|sample| sample.rtt)
    }

    pub(super) fn stats(&self) -> Option<&Stats> {
        self.last.as_ref().map(|sample| &sample.stats)
    }

    pub(super) fn latest(&self) -> Option<Rates> {
        self.rates.back().copied().flatten()
    }

    pub(super) fn document(&self) -> Document<'_> {
        let stats = self.stats().cloned().unwrap_or_default();
        Document {
            connections: stats.total_connections,
            pending_requests: stats.pending_requests,
            kept_requests: stats.kept_requests,
            buffered_bytes: stats.buffered_bytes,
            uptime_seconds: stats.uptime_seconds,
            rtt_us: latency::micros(self.rtt().unwrap_or_default()),
            nats: stats.nats,
            per_second: self.latest(),
            channels: &self.rows,
        }
    }
}

/// Returns how much was added per second. Counters that were reset count as zero.
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

/// Returns the mean of the values between two summaries.
fn recent_mean(old: Option<&Summary>, new: &Summary) -> Option<f64> {
    let (count, sum) = old.map_or((0, 0.0), |old| (old.count, old.mean_us * old.count as f64));
    // With fewer values than before the latencies were reset.
    let added = new.count.checked_sub(count).filter(|added| *added > 0)?;
    let mean = (new.mean_us * new.count as f64 - sum) / added as f64;
    Some((mean.max(0.0) * 10.0).round() / 10.0)
}

fn rows(before: Option<&Sample>, now: &Sample) -> Vec<Row> {
    let row = |(name, channel): (&String, &answers::Channel)| {
        let [request, publication] = now.summaries(name);
        // A channel that was not there before had no messages.
        let old = before.map_or([None; 2], |before| before.summaries(name));
        let count = |of: Option<&Summary>| of.map_or(0, |of| of.count);
        let rate = |old: u64, new: u64| {
            let before = before?;
            let seconds = now.at.duration_since(before.at).as_secs_f64();
            Some(per_second(old, new, seconds))
        };
        let unheard = |sample: &Sample| {
            sample.channels.get(name).map_or(0, |channel| channel.publications_unheard)
        };
        let published = count(old[1]) + before.map_or(0, unheard);
        Row {
            channel: name.clone(),
            requests_per_second: rate(count(old[0]), count(request)),
            publications_per_second: rate(published, count(publication) + unheard(now)),
            subscribers: channel.subscribers,
            workers: channel.workers,
            has_handler: channel.has_handler,
            kept_requests: channel.kept_requests,
            kept_publications: channel.history.as_ref().map(|history| history.messages),
            retained_age_seconds: channel.retained_age_seconds,
            latency_us: request.or(publication).map(Latency::from),
            recent_mean_us: before.and_then(|_| match request {
                Some(request) => recent_mean(old[0], request),
                None => recent_mean(old[1], publication?),
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

    #[test]
    fn a_recent_mean_is_of_what_was_added() {
        let summary = |count, mean_us| Summary { count, mean_us, ..Summary::default() };
        let old = summary(1_000, 10.0);
        assert_eq!(recent_mean(Some(&old), &summary(1_010, 11.0)), Some(111.0));
        assert_eq!(recent_mean(None, &summary(4, 2.5)), Some(2.5));
        assert_eq!(recent_mean(Some(&old), &old), None, "nothing happened");
        assert_eq!(recent_mean(Some(&old), &summary(3, 2.5)), None, "emptied in between");
    }
}
