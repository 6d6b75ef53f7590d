//! How long requests take, per channel, recorded off the way of the answer.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::ChannelKey;
use super::core::Core;
use super::stats::ChannelLatency;

/// From the turn in which a request was read to the end of the turn in which its answer
/// went to the kernel, in nanoseconds.
#[derive(Debug)]
pub(crate) struct Latency(Histogram<u32>);

/// An hour: a deferred answer takes that long at the most sensible of timeouts.
const NANOS_MAX: u64 = 3_600_000_000_000;
/// Two significant digits: 1 % is below the noise of any machine, and 17 KiB a channel.
const SIGNIFICANT_DIGITS: u8 = 2;

impl Latency {
    fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, NANOS_MAX, SIGNIFICANT_DIGITS);
        Self(histogram.unwrap_or_else(|_| unreachable!("the bounds are constants in range")))
    }

    fn record(&mut self, elapsed: Duration) {
        self.0.saturating_record(elapsed.as_nanos().min(u128::from(NANOS_MAX)) as u64);
    }

    pub(crate) fn report(&self) -> ChannelLatency {
        let micros = |nanos: u64| nanos as f64 / 1_000.0;
        let at = |quantile: f64| micros(self.0.value_at_quantile(quantile));
        ChannelLatency {
            count: self.0.len(),
            mean_us: self.0.mean() / 1_000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(self.0.max()),
        }
    }
}

/// The requests answered in this turn: their times are taken when the turn's bytes are out.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    requests: Vec<(ChannelKey, Duration)>,
}

/// Requests of one turn whose times are taken; those beyond are a sample left out.
const ANSWERED_MAX: usize = 8_192;

impl Answered {
    pub(crate) fn push(&mut self, channel: ChannelKey, arrived: Duration) {
        if self.requests.len() < ANSWERED_MAX {
            self.requests.push((channel, arrived));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

impl Core {
    /// Takes the times of what was answered, now that it is with the kernel.
    pub(crate) fn record_latencies(&mut self, now: Duration) {
        for (channel, arrived) in self.answered.requests.drain(..) {
            if let Some(channel) = self.router.channels.get_mut(channel) {
                let latency = channel.latency.get_or_insert_with(|| Box::new(Latency::new()));
                latency.record(now.saturating_sub(arrived));
            }
        }
    }
}
