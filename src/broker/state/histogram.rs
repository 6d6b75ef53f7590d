//! Counts of durations in log-linear buckets, recorded in a few instructions.
//!
//! The buckets are those of an `hdrhistogram::Histogram` with the same bounds, so that a reader
//! gets one without a loss. Its own `record` takes ten times as long as the one here, because it
//! serves any bounds and keeps totals that only readers need.

use hdrhistogram::Histogram;

/// One hour, which is longer than any sensible request timeout.
const NANOS_MAX: u64 = 3_600_000_000_000;
/// Two significant digits: 1 % is below the noise of any machine.
const SIGNIFICANT_DIGITS: u8 = 2;
/// Buckets that are one nanosecond wide. Two digits need 200, rounded up to a power of two.
const UNIT_BUCKETS: u64 = 256;
const UNIT_BUCKETS_LOG2: u32 = UNIT_BUCKETS.ilog2();
/// Each power of two above them is divided into so many buckets.
const BUCKETS_PER_POWER: u64 = UNIT_BUCKETS / 2;
const BUCKETS: usize = bucket_of(NANOS_MAX) + 1;

/// Durations from 0 to an hour; a longer one counts as an hour.
pub(crate) struct Durations {
    counts: Box<[u32; BUCKETS]>,
}

impl Durations {
    #[inline]
    pub(crate) fn record(&mut self, nanos: u64, count: u32) {
        let counted = &mut self.counts[bucket_of(nanos.min(NANOS_MAX))];
        *counted = counted.saturating_add(count);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    pub(crate) fn reset(&mut self) {
        self.counts.fill(0);
    }

    /// The same durations in nanoseconds, for readers.
    pub(crate) fn to_histogram(&self) -> Histogram<u32> {
        let mut nanos = Histogram::new_with_bounds(1, NANOS_MAX, SIGNIFICANT_DIGITS)
            .unwrap_or_else(|_| unreachable!("the bounds are constants in range"));
        for (bucket, count) in self.counts.iter().enumerate() {
            if *count > 0 {
                nanos.saturating_record_n(lowest_of(bucket), *count);
            }
        }
        nanos
    }
}

impl Default for Durations {
    fn default() -> Self {
        let counts = vec![0; BUCKETS].into_boxed_slice();
        let counts = counts.try_into().unwrap_or_else(|_| unreachable!("it has that length"));
        Self { counts }
    }
}

impl std::fmt::Debug for Durations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let recorded: u64 = self.counts.iter().map(|count| u64::from(*count)).sum();
        f.debug_struct("Durations").field("recorded", &recorded).finish_non_exhaustive()
    }
}

const fn bucket_of(nanos: u64) -> usize {
    // The number of times that the value is halved until it lies among the buckets of one nanosecond.
    let power = u64::BITS - UNIT_BUCKETS_LOG2 - (nanos | (UNIT_BUCKETS - 1)).leading_zeros();
    (power as u64 * BUCKETS_PER_POWER + (nanos >> power)) as usize
}

const fn lowest_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < UNIT_BUCKETS {
        return bucket;
    }
    let power = bucket / BUCKETS_PER_POWER - 1;
    (bucket - power * BUCKETS_PER_POWER) << power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_buckets_are_those_of_the_library() {
        let library: Histogram<u32> =
            Histogram::new_with_bounds(1, NANOS_MAX, SIGNIFICANT_DIGITS).unwrap();
        for bucket in 0..BUCKETS {
            let lowest = lowest_of(bucket);
            assert_eq!(bucket_of(lowest), bucket);
            assert_eq!(library.lowest_equivalent(lowest), lowest, "bucket {bucket}");
            let highest = library.highest_equivalent(lowest);
            assert_eq!(bucket_of(highest.min(NANOS_MAX)), bucket, "{highest}");
        }
    }

    #[test]
    fn a_reader_sees_what_the_library_would_have_recorded() {
        let mut durations = Durations::default();
        let mut library: Histogram<u32> =
            Histogram::new_with_bounds(1, NANOS_MAX, SIGNIFICANT_DIGITS).unwrap();
        assert!(durations.is_empty());
        for step in 0..50_000_u64 {
            // Steps that grow, from nothing to beyond the hour.
            let nanos = step.pow(3) * (1 + step % 7);
            durations.record(nanos, 1);
            library.saturating_record(nanos.min(NANOS_MAX));
        }
        durations.record(u64::MAX, 1);
        library.saturating_record(NANOS_MAX);
        let seen = durations.to_histogram();
        assert_eq!(seen.len(), library.len());
        assert_eq!(seen.max(), library.max());
        for quantile in [0.0, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0] {
            assert_eq!(seen.value_at_quantile(quantile), library.value_at_quantile(quantile));
        }
        durations.reset();
        assert!(durations.is_empty() && durations.to_histogram().is_empty());
    }
}
