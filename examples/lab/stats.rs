//! Intervals for the report: Wilson for one proportion, a bootstrap over prompts for clustered ones.

use crate::rng::{index, rng_for};

/// A proportion with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// The point estimate.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// In percent, as reports print it: `93.0 [91.4, 94.5]`.
    pub fn percent(&self) -> String {
        format!("{:.1} [{:.1}, {:.1}]", 100.0 * self.value, 100.0 * self.low, 100.0 * self.high)
    }
}

/// Wilson's score interval at 95 % for `successes` of `total` independent trials; `total > 0`.
pub fn wilson(successes: usize, total: usize) -> Interval {
    const Z: f64 = 1.959_964;
    let (n, p) = (total as f64, successes as f64 / total as f64);
    let centre = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    Interval { value: p, low: (centre - half).max(0.0), high: (centre + half).min(1.0) }
}

/// Percentile bootstrap at 95 % of the mean of `means`, one per prompt: prompts are the unit that is drawn again,
/// because the answers to one prompt are not independent of each other. `means` is not empty.
pub fn bootstrap_mean(means: &[f64], seed: u64) -> Interval {
    const ROUNDS: usize = 2000;
    let mut rng = rng_for(seed, "bootstrap");
    let mean = |sum: f64| sum / means.len() as f64;
    let mut draws: Vec<f64> = (0..ROUNDS)
        .map(|_| mean((0..means.len()).map(|_| means[index(&mut rng, means.len())]).sum()))
        .collect();
    draws.sort_by(f64::total_cmp);
    Interval {
        value: mean(means.iter().sum()),
        low: draws[ROUNDS * 25 / 1000],
        high: draws[ROUNDS * 975 / 1000],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_matches_the_textbook() {
        // 81 of 263: Newcombe 1998 (Statistics in Medicine 17), table I, method 3.
        let interval = wilson(81, 263);
        assert!(
            (interval.low - 0.2553).abs() < 5e-5 && (interval.high - 0.3662).abs() < 5e-5,
            "{interval:?}"
        );
    }

    #[test]
    fn bootstrap_brackets_the_mean_and_repeats() {
        let means: Vec<f64> = (0..100).map(|i| f64::from(i % 2)).collect();
        let interval = bootstrap_mean(&means, 1);
        assert!(interval.low < 0.5 && 0.5 < interval.high && interval.high - interval.low < 0.25);
        assert_eq!(interval, bootstrap_mean(&means, 1));
    }
}
