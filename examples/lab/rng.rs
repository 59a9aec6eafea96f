//! Seeded randomness in the few shapes the generators need. Leaves distributions of any other kind out.

use rand::{Rng as _, SeedableRng};
pub use rand_chacha::ChaCha8Rng as LabRng;

/// A generator for one purpose: the same `(seed, purpose)` always gives the same numbers, and two purposes never
/// share a stream, so that adding one data file does not change another.
pub fn rng_for(seed: u64, purpose: &str) -> LabRng {
    let mut rng = LabRng::seed_from_u64(seed);
    rng.set_stream(fnv(purpose));
    rng
}

/// One of `items`, uniformly. `items` is not empty.
pub fn pick<'a, T: ?Sized>(rng: &mut LabRng, items: &[&'a T]) -> &'a T {
    items[rng.random_range(0..items.len())]
}

/// An index below `len`, uniformly; `len > 0`.
pub fn index(rng: &mut LabRng, len: usize) -> usize {
    rng.random_range(0..len)
}

/// True with this probability.
pub fn chance(rng: &mut LabRng, probability: f64) -> bool {
    rng.random::<f64>() < probability
}

/// An index drawn in proportion to `weights`, which are not negative and not all zero.
pub fn weighted(rng: &mut LabRng, weights: &[f64]) -> usize {
    let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
    for (i, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return i;
        }
    }
    weights.len() - 1
}

/// FNV-1a: decides which operands are held out, so it must never change with a library version.
pub fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Whether the thing of this name is held out: about one in `one_in`.
pub fn held_out(name: &str, one_in: u64) -> bool {
    // FNV's low bits are weak for short names; the high ones are mixed well.
    (fnv(name) >> 33).is_multiple_of(one_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_two_purposes_differ_and_repeat() {
        let draw = |purpose| index(&mut rng_for(7, purpose), 1 << 30);
        assert_eq!(draw("sft"), draw("sft"));
        assert_ne!(draw("sft"), draw("eval"));
    }

    #[test]
    fn weighted_never_picks_a_zero_weight() {
        let mut rng = rng_for(1, "w");
        assert!((0..200).all(|_| weighted(&mut rng, &[0.0, 1.0, 0.0]) == 1));
    }
}
