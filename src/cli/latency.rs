//! Latencies, recorded and displayed.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde::Serialize;

use super::answers::Summary;
use super::failure::Failure;

/// Three digits of every value are exact.
const SIGNIFICANT_DIGITS: u8 = 3;
const NANOS_PER_MILLISECOND: f64 = 1_000_000.0;

/// Returns a histogram of nanoseconds that grows with the values recorded.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new(SIGNIFICANT_DIGITS).expect("three digits are among those allowed")
}

pub(super) fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
    // Records a duration. The histogram grows with the value, and refuses only values for which no
    // machine has the memory. Zero is below its resolution.
    let _ = histogram.record(nanos.max(1));
}

pub(super) fn micros(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e7).round() / 10.0
}

/// Displays microseconds below a millisecond, milliseconds above.
pub(super) fn shown(duration: Duration) -> String {
    shown_micros(duration.as_secs_f64() * 1e6)
}

pub(super) fn shown_micros(micros: f64) -> String {
    match micros {
        micros if micros < 1_000.0 => format!("{micros:.1} µs"),
        micros if micros < 1_000_000.0 => format!("{:.2} ms", micros / 1e3),
        micros => format!("{:.2} s", micros / 1e6),
    }
}

/// A distribution in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latency {
    /// Absent for latencies that come from a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) min: Option<f64>,
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    #[serde(rename = "p99.9")]
    pub(super) p999: f64,
    pub(super) max: f64,
}

impl Latency {
    /// Returns the latencies that a histogram has, if there are any.
    pub(super) fn of_any(nanos: &Histogram<u64>) -> Option<Self> {
        (!nanos.is_empty()).then(|| Self::of(nanos))
    }

    pub(super) fn of(nanos: &Histogram<u64>) -> Self {
        let at = |quantile| rounded(nanos.value_at_quantile(quantile) as f64);
        Self {
            min: Some(rounded(nanos.min() as f64)),
            mean: rounded(nanos.mean()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: rounded(nanos.max() as f64),
        }
    }

    /// Returns the values with the names that a screen shows.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let min = self.min.map(|min| ("min", min));
        min.into_iter().chain([
            ("mean", self.mean),
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p999),
            ("max", self.max),
        ])
    }
}

impl From<&Summary> for Latency {
    fn from(server: &Summary) -> Self {
        Self {
            min: None,
            mean: server.mean_us,
            p50: server.p50_us,
            p90: server.p90_us,
            p99: server.p99_us,
            p999: server.p999_us,
            max: server.max_us,
        }
    }
}

/// Converts nanoseconds to microseconds with one decimal.
fn rounded(nanos: f64) -> f64 {
    (nanos / 100.0).round() / 10.0
}

/// Creates the file of [`write_log`] early, so that an unwritable path shows at once.
pub(super) fn create_log(path: &Path) -> Result<(), Failure> {
    File::create(path).map(drop).map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    Failure::runtime(format!("cannot write {path}: {error}; check its path and permissions"))
}

/// The tag of the latencies to the first parts of streams.
const FIRST_PART: &str = "first-part";

/// Writes an interval log of one interval, which the tools of `HdrHistogram` read. It has no tag,
/// because these tools show intervals with a tag only to those who name it. The latencies to the
/// first parts of streams are a second one, with a tag.
pub(super) fn write_log(
    path: &Path,
    nanos: &Histogram<u64>,
    first_parts: Option<&Histogram<u64>>,
    took: Duration,
) -> Result<(), Failure> {
    let write = || {
        let mut out = BufWriter::new(File::create(path)?);
        let start = SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut serializer = V2DeflateSerializer::new();
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment("[Logged by ipc bench; values in nanoseconds]")
            .with_start_time(start)
            .with_base_time(start)
            .with_max_value_divisor(NANOS_PER_MILLISECOND)
            .begin_log_with(&mut out, &mut serializer)?;
        let histograms = [(Some(nanos), None), (first_parts, Tag::new(FIRST_PART))];
        for (nanos, tag) in histograms {
            let Some(nanos) = nanos else { continue };
            log.write_histogram(nanos, Duration::ZERO, took, tag)
                .map_err(|error| io::Error::other(format!("{error:?}")))?;
        }
        out.flush()
    };
    write().map_err(|error: io::Error| unwritable(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_shown_in_the_unit_that_fits() {
        assert_eq!(shown(Duration::from_nanos(12_345)), "12.3 µs");
        assert_eq!(shown(Duration::from_micros(12_345)), "12.35 ms");
        assert_eq!(shown(Duration::from_millis(1_500)), "1.50 s");
        assert!((micros(Duration::from_nanos(12_345)) - 12.3).abs() < 1e-9);
    }

    #[test]
    fn a_distribution_is_in_microseconds() {
        let mut nanos = histogram();
        record(&mut nanos, Duration::ZERO);
        record(&mut nanos, Duration::from_micros(10));
        let latency = Latency::of(&nanos);
        assert!((latency.max - 10.0).abs() < 0.1 && latency.min < Some(0.1), "{latency:?}");
    }
}
