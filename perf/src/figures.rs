//! The names of the figures, and the arithmetic over repetitions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One number that a run yields. The unit stands last in the name.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    P50Us,
    P90Us,
    P99Us,
    P999Us,
    MaxUs,
    /// Answers, or deliveries to subscribers.
    PerSecond,
    /// Megabytes of payload, counted there and back.
    MegabytesPerSecond,
    /// Processor time of the server for an answer or a publication.
    ServerCpuUs,
    /// Share of the time in which the server ran on its processor.
    ServerBusy,
    GeneratorBusy,
    /// Share of one processor that other processes used meanwhile, on both processors together. It
    /// has to be near zero for the other figures to be reliable.
    OthersBusy,
    /// Growth of the server's resident memory.
    BytesPerIdleConnection,
    /// The same for a channel with one subscription.
    BytesPerIdleChannel,
    PollsPerRequest,
    ReadsPerRequest,
    WritesPerRequest,
    OtherSyscallsPerRequest,
    SyscallsPerRequest,
    /// Processor time of the process with the Python client for a request or a publication, as
    /// `getrusage` counts it.
    PythonCpuUs,
    ImportMs,
    /// Growth of the resident memory by the import.
    ImportMegabytes,
    /// The median round trip of a request to the worker whose streams are left.
    RoundTripUs,
    /// Its 99th percentile, which tells how quiet the machine was.
    RoundTripP99Us,
    /// The 99th percentile of the time to know of an end, in median round trips.
    RoundTripsToKnow,
}

impl Figure {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::P50Us => "p50, µs",
            Self::P90Us => "p90, µs",
            Self::P99Us => "p99, µs",
            Self::P999Us => "p99.9, µs",
            Self::MaxUs => "max, µs",
            Self::PerSecond => "per second",
            Self::MegabytesPerSecond => "MB/s",
            Self::ServerCpuUs => "server CPU, µs each",
            Self::ServerBusy => "server busy",
            Self::GeneratorBusy => "generator busy",
            Self::OthersBusy => "others busy",
            Self::BytesPerIdleConnection => "bytes per idle connection",
            Self::BytesPerIdleChannel => "bytes per idle channel",
            Self::PollsPerRequest => "polls per request",
            Self::ReadsPerRequest => "reads per request",
            Self::WritesPerRequest => "writes per request",
            Self::OtherSyscallsPerRequest => "other calls per request",
            Self::SyscallsPerRequest => "system calls per request",
            Self::PythonCpuUs => "Python CPU, µs each",
            Self::ImportMs => "import, ms",
            Self::ImportMegabytes => "import, MB",
            Self::RoundTripUs => "round trip p50, µs",
            Self::RoundTripP99Us => "round trip p99, µs",
            Self::RoundTripsToKnow => "p99 in round trips",
        }
    }
}

/// The figures of one run.
pub(crate) type Sample = BTreeMap<Figure, f64>;

/// The figures of all repetitions of one entrant, in their order. A repetition that failed has
/// `None`.
pub(crate) type Series = BTreeMap<Figure, Vec<Option<f64>>>;

/// The median of some values, with the least and the greatest.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Summary {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[middle - 1], upper),
            _ => upper,
        };
        Some(Self { median, min: values[0], max: values[values.len() - 1] })
    }

    /// Summarizes the ratios of figures that were measured in the same round.
    pub(crate) fn of_ratios(over: &[Option<f64>], under: &[Option<f64>]) -> Option<Self> {
        let pairs = over.iter().zip(under);
        Self::of(pairs.filter_map(|(over, under)| Some((*over)? / (*under)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_two_middles() {
        let of = |values: &[f64]| Summary::of(values.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[f64::NAN]), None);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(Summary { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), Some(Summary { median: 2.5, min: 1.0, max: 4.0 }));
    }

    #[test]
    fn a_ratio_compares_what_ran_in_the_same_round() {
        let over = [Some(2.0), Some(30.0), None, Some(5.0)];
        let under = [Some(1.0), Some(10.0), Some(1.0), None];
        let ratios = Summary::of_ratios(&over, &under);
        assert_eq!(ratios, Some(Summary { median: 2.5, min: 2.0, max: 3.0 }));
    }
}
