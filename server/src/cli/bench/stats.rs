//! Percentiles and medians of measured times. Leaves measuring to the benches.

use serde::Serialize;

/// Mean and percentiles, in the unit of the samples; all 0 without samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Summary {
    /// Stands above lines of [`Summary::line`].
    pub(super) const HEAD: &str = "milliseconds                mean       p50       p90       p99       max";

    /// Times in seconds, shown in milliseconds.
    pub(super) fn line(&self, name: &str) -> String {
        let [mean, p50, p90, p99, max] =
            [self.mean, self.p50, self.p90, self.p99, self.max].map(|seconds| 1e3 * seconds);
        format!("{name:<22}{mean:>10.1}{p50:>10.1}{p90:>10.1}{p99:>10.1}{max:>10.1}")
    }

    pub(super) fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let Some(&max) = samples.last() else { return Self::default() };
        let mean = samples.iter().sum::<f64>() / samples.len() as f64;
        let rank = |share| percentile(&samples, share);
        Self { mean, p50: rank(0.5), p90: rank(0.9), p99: rank(0.99), max }
    }
}

/// Where the median of what samples are drawn from lies with a probability of at least 95 %: between two of them, by the
/// binomial distribution of how many lie below it; the first and the last if they are too few.
pub(super) fn middle(mut samples: Vec<f64>) -> [f64; 2] {
    samples.sort_by(f64::total_cmp);
    let (Some(&first), Some(&last)) = (samples.first(), samples.last()) else { return [0.0; 2] };
    let count = samples.len() as f64;
    // The chance that exactly `below` of them lie below, and of so many or fewer.
    let (mut chance, mut fewer) = ((-count).exp2(), 0.0);
    for below in 0..samples.len() / 2 {
        fewer += chance;
        if fewer > 0.025 {
            return match below.checked_sub(1) {
                Some(below) => [samples[below], samples[samples.len() - 1 - below]],
                None => [first, last],
            };
        }
        chance *= (count - below as f64) / (below as f64 + 1.0);
    }
    [first, last]
}

/// The `share`-quantile of sorted samples, linear between neighbours (NumPy's default).
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_numpys() {
        // np.percentile([4, 1, 3, 2], [50, 90, 99]) → 2.5, 3.7, 3.97
        let summary = Summary::of(vec![4.0, 1.0, 3.0, 2.0]);
        let expected = [2.5, 2.5, 3.7, 3.97, 4.0];
        let found = [summary.mean, summary.p50, summary.p90, summary.p99, summary.max];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
    }

    #[test]
    fn the_median_lies_where_the_binomial_distribution_says() {
        let samples = |count: usize| (0..count).rev().map(|i| i as f64).collect::<Vec<_>>();
        // scipy.stats.binom.ppf(0.025, n, 0.5) → 4, 10 and 40 for n = 15, 30 and 100: the fourth from either end, and so on.
        assert_eq!(middle(samples(15)), [3.0, 11.0]);
        assert_eq!(middle(samples(30)), [9.0, 20.0]);
        assert_eq!(middle(samples(100)), [39.0, 60.0]);
        assert_eq!((middle(samples(3)), middle(Vec::new())), ([0.0, 2.0], [0.0; 2]));
    }

    #[test]
    fn no_samples_are_no_panic() {
        assert_eq!(Summary::of(Vec::new()), Summary::default());
        assert_eq!(Summary::of(vec![2.0]).p99, 2.0);
    }
}
