//! Randomness without state: each draw is a function of the request's seed, the candidate and the position, so neither
//! the batch nor preemption can change it. Leaves distributions to the rest of the sampler.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Which draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Of the request.
    pub seed: u64,
    /// Index of the candidate.
    pub candidate: usize,
    /// Index of the token among the generated ones.
    pub position: usize,
}

impl Draw {
    /// A number in [0, 1), with 53 random bits.
    pub fn uniform(self) -> f64 {
        self.uniforms().next().unwrap_or_default()
    }

    /// As many of them as are asked for.
    pub fn uniforms(self) -> impl Iterator<Item = f64> {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&(self.candidate as u64).to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(self.position as u64);
        std::iter::repeat_with(move || (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_coordinate_changes_the_draw_and_nothing_else_does() {
        let draw = Draw { seed: 1, candidate: 2, position: 3 };
        assert_eq!(draw.uniform(), draw.uniform());
        for other in [Draw { seed: 2, ..draw }, Draw { candidate: 3, ..draw }, Draw { position: 4, ..draw }] {
            assert_ne!(draw.uniform(), other.uniform());
        }
    }

    #[test]
    fn draws_are_uniform() {
        let n = 20_000;
        let mean =
            (0..n).map(|i| Draw { seed: 7, candidate: i % 7, position: i }.uniform()).sum::<f64>() / n as f64;
        // Four standard errors.
        assert!((mean - 0.5).abs() < 4.0 * (1.0 / 12.0 / n as f64).sqrt(), "{mean}");
    }
}
