//! Memory and descriptors of the server over time.

use serde::Serialize;

/// The greatest ratio of the last quarter's median to that of the second quarter. It leaves room
/// for buffers that rare combinations fill later, and is far below a leak of one message a round.
const GROWTH_MAX: f64 = 1.15;
const GROWTH_BYTES_MAX: u64 = 8 << 20;
/// The memory that the server keeps in free buffers.
pub(super) const FREE_BYTES_MAX: u64 = 24 << 20;
/// The number of samples that a curve needs. All samples of a long soak would make a huge record.
const KEPT_MAX: usize = 400;

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    pub(super) milliseconds: u64,
    pub(super) resident_bytes: u64,
    pub(super) descriptors: usize,
}

pub(super) fn median_bytes(samples: &[Sample]) -> u64 {
    let mut all: Vec<u64> = samples.iter().map(|sample| sample.resident_bytes).collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or(0)
}

/// Checks that memory does not grow. Up to the size of the free buffers it may: on a slow machine,
/// these are still filling at the end of a short run.
pub(super) fn check_growth(idle: Sample, samples: &[Sample]) -> Result<(), String> {
    let quarter = samples.len() / 4;
    let warm_bytes = idle.resident_bytes + FREE_BYTES_MAX;
    let before = median_bytes(&samples[quarter..quarter * 2]).max(warm_bytes);
    let after = median_bytes(&samples[samples.len() - quarter..]);
    let bound = (before as f64 * GROWTH_MAX) as u64 + GROWTH_BYTES_MAX;
    if after <= bound {
        return Ok(());
    }
    Err(format!("memory grows: {before} B at most in the second quarter, {after} B in the last"))
}

/// Drops samples at regular intervals, so that at most [`KEPT_MAX`] are left.
pub(super) fn thin_out(samples: &[Sample]) -> Vec<Sample> {
    let stride = samples.len().div_ceil(KEPT_MAX).max(1);
    samples.iter().step_by(stride).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(resident_bytes: impl Fn(u64) -> u64) -> Vec<Sample> {
        let sample =
            |at| Sample { milliseconds: at, resident_bytes: resident_bytes(at), descriptors: 9 };
        (0..80).map(sample).collect()
    }

    fn check(resident_bytes: impl Fn(u64) -> u64) -> Result<(), String> {
        let samples = samples(resident_bytes);
        check_growth(samples[0], &samples)
    }

    #[test]
    fn memory_that_grows_to_the_end_is_seen() {
        assert!(check(|at| (10 + at) << 20).is_err());
    }

    #[test]
    fn memory_that_settles_after_the_warm_up_passes() {
        assert_eq!(check(|at| at.min(20) << 20), Ok(()));
    }

    #[test]
    fn buffers_that_fill_slowly_pass() {
        assert_eq!(check(|at| (10 + at * 24 / 80) << 20), Ok(()));
    }
}
