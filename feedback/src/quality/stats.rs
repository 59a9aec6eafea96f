//! The measures the rules report, each with its interval: a proportion, a difference of two, Cohen's κ, and how often
//! one sample exceeds another. Leaves what is too much or too little to the rules.

use serde::{Deserialize, Deserializer, Serialize};

/// Two-sided 95 %.
const Z: f64 = 1.959_964;

/// An estimate and its 95 % interval. JSON knows finite numbers alone: there an open end, and an estimate that is no number,
/// are `null`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate.
    #[serde(deserialize_with = "or_no_number")]
    pub value: f64,
    /// Lower end.
    #[serde(deserialize_with = "or_open_below")]
    pub low: f64,
    /// Upper end.
    #[serde(deserialize_with = "or_open_above")]
    pub high: f64,
}

fn or_no_number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

fn or_open_below<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NEG_INFINITY))
}

fn or_open_above<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::INFINITY))
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} [{:.2}, {:.2}]", self.value, self.low, self.high)
    }
}

/// A proportion with Wilson's score interval (1927); `None` without trials.
pub fn proportion(successes: usize, trials: usize) -> Option<Interval> {
    if trials == 0 {
        return None;
    }
    let (n, p) = (trials as f64, successes as f64 / trials as f64);
    let scale = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / scale;
    let half = Z / scale * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    Some(Interval { value: p, low: (centre - half).max(0.0), high: (centre + half).min(1.0) })
}

/// The difference of two independent proportions, `a − b`, with Newcombe's interval (1998, method 10).
pub fn difference(a: Interval, b: Interval) -> Interval {
    let value = a.value - b.value;
    let low = ((a.value - a.low).powi(2) + (b.high - b.value).powi(2)).sqrt();
    let high = ((a.high - a.value).powi(2) + (b.value - b.low).powi(2)).sqrt();
    Interval { value, low: value - low, high: value + high }
}

/// How far two raters of the same things agree.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Things both rated.
    pub num: usize,
    /// The share in which they agree.
    pub observed: Interval,
    /// Cohen's κ (1960): agreement beyond chance, with its large-sample interval; none if one answer is all that both
    /// ever gave.
    pub kappa: Option<Interval>,
}

/// Agreement of two raters' yes/no answers; `None` without any.
pub fn agreement(pairs: impl IntoIterator<Item = (bool, bool)>) -> Option<Agreement> {
    let (mut num, mut equal, mut yes_a, mut yes_b) = (0, 0, 0, 0);
    for (a, b) in pairs {
        num += 1;
        equal += usize::from(a == b);
        yes_a += usize::from(a);
        yes_b += usize::from(b);
    }
    let observed = proportion(equal, num)?;
    let n = num as f64;
    let (a, b) = (yes_a as f64 / n, yes_b as f64 / n);
    let chance = a * b + (1.0 - a) * (1.0 - b);
    let kappa = (chance < 1.0).then(|| {
        let value = (observed.value - chance) / (1.0 - chance);
        let error = (observed.value * (1.0 - observed.value) / n).sqrt() / (1.0 - chance);
        Interval { value, low: (value - Z * error).max(-1.0), high: (value + Z * error).min(1.0) }
    });
    Some(Agreement { num, observed, kappa })
}

/// The chance that a number of `a` exceeds one of `b`, ties counting half (the Mann–Whitney statistic, the area under
/// the ROC curve), with Hanley & McNeil's interval (1982); `None` if either is empty.
pub fn exceeds(a: &[f64], b: &[f64]) -> Option<Interval> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let mut sorted = b.to_vec();
    sorted.sort_by(f64::total_cmp);
    let wins = |x: &f64| {
        let below = sorted.partition_point(|y| y < x);
        let not_above = sorted.partition_point(|y| y <= x);
        (below + not_above) as f64 / 2.0
    };
    let (m, n) = (a.len() as f64, b.len() as f64);
    let value = a.iter().map(wins).sum::<f64>() / (m * n);
    let (q1, q2) = (value / (2.0 - value), 2.0 * value * value / (1.0 + value));
    let square = value * value;
    let variance = value * (1.0 - value) + (m - 1.0) * (q1 - square) + (n - 1.0) * (q2 - square);
    let error = (variance.max(0.0) / (m * n)).sqrt();
    Some(Interval { value, low: (value - Z * error).max(0.0), high: (value + Z * error).min(1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(interval: Interval, low: f64, high: f64) {
        let close = (interval.low - low).abs() < 5e-5 && (interval.high - high).abs() < 5e-5;
        assert!(close, "{interval:?}, not [{low}, {high}]");
    }

    #[test]
    fn proportions_and_differences_match_newcombe() {
        // Newcombe 1998, Statistics in Medicine 17: p. 861 table I (81 of 263), p. 877 table II (56/70 − 48/80).
        near(proportion(81, 263).expect("trials"), 0.2553, 0.3662);
        let of = |k, n| proportion(k, n).expect("trials");
        near(difference(of(56, 70), of(48, 80)), 0.0524, 0.3339);
    }

    #[test]
    fn kappa_matches_cohen() {
        // 20 both yes, 15 both no, 5 and 10 apart: agreement 0.7, chance 0.5, κ = 0.4.
        let pairs = [(true, true, 20), (true, false, 5), (false, true, 10), (false, false, 15)];
        let pairs = pairs.iter().flat_map(|&(a, b, times)| std::iter::repeat_n((a, b), times));
        let agreement = agreement(pairs).expect("pairs");
        assert_eq!(agreement.num, 50);
        assert!((agreement.kappa.expect("both answers").value - 0.4).abs() < 1e-12);
    }

    #[test]
    fn kappa_is_silent_when_there_is_one_answer_only() {
        assert_eq!(agreement([(true, true); 4]).expect("pairs").kappa, None);
        assert_eq!(agreement([]), None);
    }

    #[test]
    fn exceeding_counts_ties_half() {
        assert_eq!(exceeds(&[1.0, 3.0], &[2.0, 3.0]).expect("both").value, 0.375);
        assert_eq!(exceeds(&[2.0], &[1.0, 0.0]).expect("both").value, 1.0);
        assert!(exceeds(&[], &[1.0]).is_none());
    }
}
