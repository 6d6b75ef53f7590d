//! The phases of a run, and the figures of its load.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};

use crate::proc;

/// The length of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phases {
    /// Nothing is recorded before this is over.
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
    /// The process whose processor time is measured.
    pub(crate) server: Option<Pid>,
}

/// The figures of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The latencies in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Answers, or publications that reached all subscribers, in the measured time.
    pub(crate) completed: u64,
    /// The same, including those before and after the measured time.
    pub(crate) answered: u64,
    pub(crate) elapsed: Duration,
    /// Processor time that was used meanwhile.
    pub(crate) cpu: Cpu,
}

/// A minute. A longer latency is an error.
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;
/// Three digits: 0.1 %, below the noise of any machine.
const SIGNIFICANT_DIGITS: u8 = 3;

pub(crate) fn new_histogram() -> Histogram<u64> {
    let histogram = Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, SIGNIFICANT_DIGITS);
    histogram.unwrap_or_else(|_| unreachable!("the bounds are constants in range"))
}

/// Processor time of both sides and of the whole machine.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) generator: Duration,
    pub(crate) server: Duration,
    /// Processor time of the whole machine, including these two.
    pub(crate) machine: Duration,
}

impl Cpu {
    fn now(server: Option<Pid>) -> Self {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Self {
            generator: Duration::new(time.tv_sec as u64, time.tv_nsec as u32),
            server: server.and_then(proc::cpu_time).unwrap_or_default(),
            machine: proc::busy_time().unwrap_or_default(),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            generator: self.generator.saturating_sub(before.generator),
            server: self.server.saturating_sub(before.server),
            machine: self.machine.saturating_sub(before.machine),
        }
    }
}

/// Tracks the phases of a run and records the second one.
#[derive(Debug)]
pub(super) struct Recorder {
    epoch: Instant,
    measure_from: u64,
    measure_until: u64,
    latency: Histogram<u64>,
    completed: u64,
    answered: u64,
    server: Option<Pid>,
    cpu_before: Option<Cpu>,
    cpu_after: Option<Cpu>,
}

impl Recorder {
    pub(super) fn new(phases: Phases) -> Self {
        let measure_from = phases.warm_up.as_nanos() as u64;
        Self {
            epoch: Instant::now(),
            measure_from,
            measure_until: measure_from + phases.measure.as_nanos() as u64,
            latency: new_histogram(),
            completed: 0,
            answered: 0,
            server: phases.server,
            cpu_before: None,
            cpu_after: None,
        }
    }

    /// Returns the nanoseconds since the run began.
    pub(super) fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    pub(super) fn is_over(&mut self, now: u64) -> bool {
        if self.cpu_before.is_none() && now >= self.measure_from {
            self.cpu_before = Some(Cpu::now(self.server));
        }
        if now < self.measure_until {
            return false;
        }
        if self.cpu_after.is_none() {
            self.cpu_after = Some(Cpu::now(self.server));
        }
        true
    }

    pub(super) fn is_measured(&self, now: u64) -> bool {
        now >= self.measure_from && now < self.measure_until
    }

    /// Records a request that was sent at `from` and answered at `now`.
    pub(super) fn record(&mut self, from: u64, now: u64) {
        self.answered += 1;
        if self.is_measured(now) {
            self.latency.saturating_record(now - from);
            self.completed += 1;
        }
    }

    /// Records a request that was due at `due` and answered at `now`, however late that is.
    pub(super) fn record_due(&mut self, due: u64, now: u64) {
        self.answered += 1;
        if due >= self.measure_from && due < self.measure_until {
            self.latency.saturating_record(now.saturating_sub(due));
            self.completed += 1;
        }
    }

    pub(super) fn finish(self) -> Outcome {
        let after = self.cpu_after.unwrap_or_default();
        let before = self.cpu_before.unwrap_or(after);
        Outcome {
            latency: self.latency,
            completed: self.completed,
            answered: self.answered,
            elapsed: Duration::from_nanos(self.measure_until - self.measure_from),
            cpu: after.since(before),
        }
    }
}
