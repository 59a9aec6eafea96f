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
    fn no_samples_are_no_panic() {
        assert_eq!(Summary::of(Vec::new()), Summary::default());
        assert_eq!(Summary::of(vec![2.0]).p99, 2.0);
    }
}
