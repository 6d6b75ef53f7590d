//! The source of every choice in a run: a seed, or the bytes of a fuzzer.

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng, SeedableRng};

/// Everything that is left to chance in a simulated run.
pub(super) enum Decisions {
    Seeded(Box<ChaCha8Rng>),
    Given { bytes: Vec<u8>, at: usize },
}

impl Decisions {
    pub(super) fn seeded(seed: u64) -> Self {
        Self::Seeded(Box::new(ChaCha8Rng::seed_from_u64(seed)))
    }

    pub(super) fn given(bytes: &[u8]) -> Self {
        Self::Given { bytes: bytes.to_vec(), at: 0 }
    }

    /// Returns whether there are choices left.
    pub(super) fn is_exhausted(&self) -> bool {
        match self {
            Self::Seeded(_) => false,
            Self::Given { bytes, at } => *at >= bytes.len(),
        }
    }

    /// Returns a number below `bound`, which is not zero. After the end of given bytes it is zero.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        debug_assert!(bound > 0);
        match self {
            Self::Seeded(rng) => (rng.next_u64() % bound as u64) as usize,
            Self::Given { bytes, at } => {
                let width = if bound <= 256 { 1 } else { 3 };
                let mut value = 0;
                for _ in 0..width {
                    value = value << 8 | usize::from(bytes.get(*at).copied().unwrap_or(0));
                    *at += 1;
                }
                value % bound
            }
        }
    }

    /// Returns whether an event happens that has a chance of `per_mille` in a thousand. After the
    /// end of given bytes it does not happen.
    pub(super) fn chance(&mut self, per_mille: usize) -> bool {
        per_mille > 0 && self.below(1_000) >= 1_000 - per_mille.min(1_000)
    }

    /// Picks one of several by weight.
    pub(super) fn weighted<T: Copy>(&mut self, choices: &[(usize, T)]) -> T {
        let total: usize = choices.iter().map(|(weight, _)| weight).sum();
        let mut at = self.below(total);
        for (weight, choice) in choices {
            if at < *weight {
                return *choice;
            }
            at -= weight;
        }
        choices[0].1
    }
}
