//! The plan of a measurement, its clock, and its result.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use hdrhistogram::Histogram;
use ipc_framework::Json;
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
    Stream,
}

impl Load {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Publish => "publish",
            Self::FanOut => "fan-out",
            Self::Stream => "stream",
        }
    }
}

pub(super) struct Plan {
    pub(super) load: Load,
    pub(super) channel: Option<String>,
    pub(super) clients: u32,
    /// The payload of requests and publications. Without one, it is text of so many bytes.
    pub(super) payload: Option<Json<'static>>,
    pub(super) payload_bytes: usize,
    /// Streams of each connection, side by side.
    pub(super) streams: usize,
    /// Parts of a stream that may wait for their reader.
    pub(super) credit: u32,
    /// Parts of each stream, where the load has a worker of its own.
    pub(super) parts: u32,
    /// Error answers are counted, and do not end the load.
    pub(super) expects_errors: bool,
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
    pub(super) counted: Counted,
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
    pub(super) fn count(&self, counted: &mut Counted, due: Instant) {
        self.done.fetch_add(1, Ordering::Relaxed);
        if due >= self.measure_from {
            latency::record(&mut counted.nanos, due.elapsed());
        }
    }

    /// Counts a request that was answered with an error.
    pub(super) fn count_error(&self, counted: &mut Counted, due: Instant, code: &str) {
        self.count(counted, due);
        self.note_error(counted, due, code);
    }

    /// Notes the code of a request that is counted.
    pub(super) fn note_error(&self, counted: &mut Counted, due: Instant, code: &str) {
        if due >= self.measure_from {
            counted.add_errors(code, 1);
        }
    }

    /// Counts a part of a stream that came now.
    pub(super) fn count_part(&self, counted: &mut Counted) {
        self.done.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        counted.parts += u64::from(now >= self.measure_from && now < self.end);
    }

    /// Counts the first part, which came now, of a stream that was asked for then.
    pub(super) fn count_first_part(&self, counted: &mut Counted, began: Instant) {
        if began >= self.measure_from {
            latency::record(&mut counted.first_part_nanos, began.elapsed());
        }
    }

    /// Counts a stream that was asked for then and ended now.
    pub(super) fn count_stream(&self, counted: &mut Counted, began: Instant) {
        if began >= self.measure_from {
            latency::record(&mut counted.nanos, began.elapsed());
        }
    }
}

/// The messages that one thread has counted.
pub(super) struct Counted {
    /// The latencies of messages, and of whole streams.
    pub(super) nanos: Histogram<u64>,
    /// The latencies to the first parts of streams.
    pub(super) first_part_nanos: Histogram<u64>,
    /// Parts of streams.
    pub(super) parts: u64,
    /// Error answers by code. Their latencies count as well.
    pub(super) errors: BTreeMap<String, u64>,
}

/// Codes that are counted apart. Whoever serves the channel makes them up.
const CODES_MAX: usize = 100;
/// The name of all others.
const OTHERS: &str = "others";

impl Counted {
    pub(super) fn new() -> Self {
        Self {
            nanos: latency::histogram(),
            first_part_nanos: latency::histogram(),
            parts: 0,
            errors: BTreeMap::new(),
        }
    }

    fn add_errors(&mut self, code: &str, count: u64) {
        if let Some(known) = self.errors.get_mut(code) {
            *known += count;
        } else {
            let code = if self.errors.len() < CODES_MAX { code } else { OTHERS };
            *self.errors.entry(code.to_owned()).or_default() += count;
        }
    }

    fn add(&mut self, other: &Self) -> Result<(), Failure> {
        for (code, count) in &other.errors {
            self.add_errors(code, *count);
        }
        self.parts += other.parts;
        let added = self.nanos.add(&other.nanos);
        let added = added.and_then(|()| self.first_part_nanos.add(&other.first_part_nanos));
        added.map_err(|error| Failure::runtime(format!("cannot add up latencies: {error:?}")))
    }
}

pub(super) type Measured = Result<Counted, Failure>;

pub(super) fn sum_up(
    clock: &Clock,
    threads: Vec<ScopedJoinHandle<'_, Measured>>,
    watch: &impl Fn(&Clock),
) -> Result<Tally, Failure> {
    while !threads.iter().all(ScopedJoinHandle::is_finished) {
        watch(clock);
    }
    let mut sum = Counted::new();
    for thread in threads {
        sum.add(&thread.join().unwrap_or_else(|_| Err(Failure::runtime("a bug of ours")))?)?;
    }
    let end = Instant::now().min(clock.end);
    let took = end.saturating_duration_since(clock.measure_from);
    let [unsent, unanswered] =
        [&clock.unsent, &clock.unanswered].map(|count| count.load(Ordering::Relaxed));
    Ok(Tally { counted: sum, took, unsent, unanswered })
}

pub(super) fn late(timeout: Duration) -> Failure {
    let timeout = humantime::format_duration(timeout);
    Failure::Timeout(format!(
        "a publication did not arrive within {timeout}; see `ipc stats` for readers that were too \
         slow, or give a longer --timeout"
    ))
}
