//! Reproducible numbers for seeds and loads: a mix of a seed and an index, without state. Leaves the sampler's draws to
//! the engine.

/// SplitMix64 (Steele et al. 2014): a bijective mix of `seed + index · φ`, so neighbours share nothing.
pub(crate) fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number in `(0, 1]`.
pub(crate) fn unit(seed: u64, index: u64) -> f64 {
    ((mix(seed, index) >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

/// A whole number in `low..=high`.
pub(crate) fn between(seed: u64, index: u64, low: usize, high: usize) -> usize {
    low + (mix(seed, index) % (high.saturating_sub(low) as u64 + 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_indices_have_different_numbers() {
        let numbers: std::collections::HashSet<u64> = (0..1000).map(|index| mix(42, index)).collect();
        assert_eq!(numbers.len(), 1000);
    }

    #[test]
    fn units_fill_the_interval_evenly() {
        let mut counts = [0; 10];
        for index in 0..10_000 {
            let unit = unit(1, index);
            assert!(unit > 0.0 && unit <= 1.0);
            counts[((unit * 10.0) as usize).min(9)] += 1;
        }
        // Ten bins of 1000 ± 5 standard deviations.
        assert!(counts.iter().all(|&count: &i32| (count - 1000).abs() < 150), "{counts:?}");
    }

    #[test]
    fn between_includes_both_ends() {
        let numbers: std::collections::BTreeSet<usize> =
            (0..200).map(|index| between(3, index, 4, 6)).collect();
        assert_eq!(numbers.into_iter().collect::<Vec<_>>(), [4, 5, 6]);
        assert_eq!(between(3, 0, 7, 7), 7);
    }
}
