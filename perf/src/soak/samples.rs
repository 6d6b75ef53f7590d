//! Memory and descriptors of the server over time.

use serde::Serialize;

/// What the median of the last quarter may be above that of the second: room for buffers that
/// a rarer mix fills later, far below what a leak of one message a round would be.
const GROWTH_MAX: f64 = 1.15;
const GROWTH_BYTES_MAX: u64 = 8 << 20;
/// What the server keeps in free buffers.
pub(super) const FREE_BYTES_MAX: u64 = 24 << 20;
/// As many make a curve; all of a long soak would make a record that nobody opens.
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

/// On a slow machine the free buffers that the server keeps fill to the end of a short run. Up to
/// there it grows by right.
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

/// Every so many, so that few enough are left.
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
