//! The pauses between attempts to reconnect.

use std::time::Duration;

use chacha20::ChaCha8Rng;
use chacha20::rand_core::Rng;

/// A shorter pause would make a busy loop.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// The pauses with which a [`Client`](super::Client) reconnects after its connection is lost.
///
/// The pause before an attempt is random between zero and a bound, so that clients which lost the
/// same server do not reconnect all at once. The bound starts at `pause_min` and doubles with every
/// failed attempt up to `pause_max`. A connection counts as failed too if it ended before it
/// brought an answer to a request of the program, a publication or a request to serve, and before
/// it had lasted for `pause_max`.
///
/// ```
/// use ipc_framework::client::Reconnect;
/// use std::time::Duration;
///
/// let reconnect = Reconnect::new(Duration::from_millis(50), Duration::from_secs(1));
/// assert!(reconnect.pause_max < Reconnect::default().pause_max);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reconnect {
    /// The bound of the first pause; 50 ms by default.
    pub pause_min: Duration,
    /// The ceiling of that bound; 5 s by default.
    pub pause_max: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(5))
    }
}

impl Reconnect {
    /// Returns pauses whose bound starts at `pause_min` and doubles up to `pause_max`.
    pub fn new(pause_min: Duration, pause_max: Duration) -> Self {
        Self { pause_min, pause_max }
    }

    /// Returns the bound of the pause after this many failures.
    pub(super) fn bound(&self, failures: u32) -> Duration {
        let factor = 2u32.checked_pow(failures).unwrap_or(u32::MAX);
        self.pause_min.max(PAUSE_MIN).saturating_mul(factor).min(self.pause_max.max(PAUSE_MIN))
    }

    /// Returns a random pause, uniform below its bound.
    pub(super) fn pause(&self, failures: u32, random: &mut ChaCha8Rng) -> Duration {
        self.bound(failures).mul_f64(f64::from(random.next_u32()) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use chacha20::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn the_bound_doubles_up_to_its_ceiling_and_pauses_fill_it() {
        let reconnect = Reconnect::default();
        let bounds: Vec<u128> =
            [0, 1, 2, 6, 7, 1000].map(|failures| reconnect.bound(failures).as_millis()).into();
        assert_eq!(bounds, [50, 100, 200, 3200, 5000, 5000]);
        let mut random = ChaCha8Rng::from_seed([7; 32]);
        let pauses: Vec<Duration> = (0..1000).map(|_| reconnect.pause(100, &mut random)).collect();
        assert!(pauses.iter().all(|pause| *pause <= reconnect.pause_max));
        assert!(pauses.iter().any(|pause| *pause < reconnect.pause_max / 20));
        assert!(pauses.iter().any(|pause| *pause > reconnect.pause_max / 20 * 19));
    }
}
