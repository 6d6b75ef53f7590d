//! The plan of a measurement, its clock, and its result.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::latency;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Load {
    #[default]
    Request,
    Publish,
    FanOut,
}

impl Load {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Publish => "publish",
            Self::FanOut => "fan-out",
        }
    }
}

pub(super) struct Plan {
    pub(super) load: Load,
    pub(super) channel: Option<String>,
    pub(super) clients: u32,
    pub(super) payload_bytes: usize,
    pub(super) rate: Option<f64>,
    /// Messages of each connection that may be in flight in an open loop.
    pub(super) in_flight_max: usize,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
}

/// The clock by which all threads measure.
pub(super) struct Clock {
    pub(super) start: Instant,
    pub(super) measure_from: Instant,
    pub(super) end: Instant,
    stopped: AtomicBool,
    /// Messages so far for the progress bar, those of the warm-up included.
    pub(super) done: AtomicU64,
    /// Messages of an open loop that were due and could not be sent in time.
    unsent: AtomicU64,
    /// Messages of an open loop that were not answered in time.
    unanswered: AtomicU64,
}

/// The result of a measurement.
pub(super) struct Tally {
    pub(super) nanos: Histogram<u64>,
    pub(super) took: Duration,
    pub(super) unsent: u64,
    pub(super) unanswered: u64,
}

impl Clock {
    pub(super) fn start(plan: &Plan) -> Self {
        let start = Instant::now();
        let measure_from = start + plan.warmup;
        Self {
            start,
            measure_from,
            end: measure_from + plan.duration,
            stopped: AtomicBool::new(false),
            done: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn note_unsent(&self, messages: u64) {
        self.unsent.fetch_add(messages, Ordering::Relaxed);
    }

    pub(super) fn note_unanswered(&self, due: Instant) {
        if due >= self.measure_from {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_stopped() || Instant::now() >= self.end
    }

    /// Counts a message that was due then and is done now.
    pub(super) fn count(&self, nanos: &mut Histogram<u64>, due: Instant) {
        self.done.fetch_add(1, Ordering::Relaxed);
        if due >= self.measure_from {
            latency::record(nanos, due.elapsed());
        }
    }
}

pub(super) type Measured = Result<Histogram<u64>, Failure>;

pub(super) fn sum_up(
    clock: &Clock,
    threads: Vec<ScopedJoinHandle<'_, Measured>>,
    watch: &impl Fn(&Clock),
) -> Result<Tally, Failure> {
    while !threads.iter().all(ScopedJoinHandle::is_finished) {
        watch(clock);
    }
    let mut nanos = latency::histogram();
    for thread in threads {
        let measured = thread.join().unwrap_or_else(|_| Err(Failure::runtime("a bug of ours")))?;
        nanos
            .add(&measured)
            .map_err(|error| Failure::runtime(format!("cannot add up latencies: {error:?}")))?;
    }
    let end = Instant::now().min(clock.end);
    let took = end.saturating_duration_since(clock.measure_from);
    let [unsent, unanswered] =
        [&clock.unsent, &clock.unanswered].map(|count| count.load(Ordering::Relaxed));
    Ok(Tally { nanos, took, unsent, unanswered })
}

pub(super) fn late(timeout: Duration) -> Failure {
    let timeout = humantime::format_duration(timeout);
    Failure::Timeout(format!(
        "a publication did not arrive within {timeout}; see `ipc stats` for readers that were too \
         slow, or give a longer --timeout"
    ))
}
