//! What the server told, and how fast it changed.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ipc_framework::client::Connection;
use serde::Serialize;

use crate::cli::answers::{self, Channels, Latencies, Stats, Summary, ask};
use crate::cli::failure::Failure;
use crate::cli::latency::{self, Latency};

/// As many as the widest screens show.
const SAMPLES_KEPT: usize = 300;
/// As many as the widest column of latencies shows.
const TREND_SAMPLES_KEPT: usize = 40;

/// One look at the server.
pub(super) struct Sample {
    at: Instant,
    /// How long the server took to answer the first question.
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
    pub(super) latency_us: Option<Latency>,
    /// Of those since the last sample.
    pub(super) recent_mean_us: Option<f64>,
}

/// The last means of a channel, oldest first; none where nothing happened.
pub(super) type Trend = VecDeque<Option<f64>>;

/// What `--json` shows of a sample.
#[derive(Debug, Serialize)]
pub(super) struct Document<'a> {
    connections: u64,
    pending_requests: u64,
    buffered_bytes: u64,
    uptime_seconds: f64,
    rtt_us: f64,
    per_second: Rates,
    channels: &'a [Row],
}

/// The last sample, what it means beside the one before, and the rates until then.
#[derive(Default)]
pub(super) struct History {
    last: Option<Sample>,
    pub(super) rates: VecDeque<Rates>,
    pub(super) rows: Vec<Row>,
    /// Of the channels in which something happened lately.
    trends: BTreeMap<String, Trend>,
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
            // Idle channels may be many, and have nothing to show.
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
            rtt_us: latency::micros(self.rtt().unwrap_or_default()),
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

/// The mean of what came between the two.
fn recent_mean(old: Option<&Summary>, new: &Summary) -> Option<f64> {
    let (count, sum) = old.map_or((0, 0.0), |old| (old.count, old.mean_us * old.count as f64));
    // Fewer than before: the latencies were emptied.
    let added = new.count.checked_sub(count).filter(|added| *added > 0)?;
    let mean = (new.mean_us * new.count as f64 - sum) / added as f64;
    Some((mean.max(0.0) * 10.0).round() / 10.0)
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
