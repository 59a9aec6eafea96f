//! The probation's comparison: what people got from the candidate beside what they got from the active version, and when
//! the difference is a breach. Pure functions; leaves collecting to `observe`.
//!
//! The comparison is looked at again and again, so its intervals hold at all times at once: asymptotic confidence
//! sequences, Waudby-Smith et al. 2021 (arXiv:2103.06476), Eq. 7, for the difference of two means.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Sum and sum of squares of a measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    /// How many.
    pub n: u64,
    /// Their mean.
    pub mean: f64,
    /// Sum of squared differences from the mean.
    m2: f64,
}

impl Moments {
    /// Adds one (Welford 1962).
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.n += 1;
        let delta = value - self.mean;
        self.mean += delta / self.n as f64;
        self.m2 += delta * (value - self.mean);
    }

    /// Variance of the mean. Two imagined observations at the ends of `[0, 1]` keep shares off zero variance.
    fn error(&self, is_share: bool) -> f64 {
        let n = self.n as f64;
        let prior = if is_share { 0.5 } else { 0.0 };
        (self.m2 + prior) / ((n - 1.0).max(1.0) * n.max(1.0))
    }
}

/// What was measured of one arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmStats {
    /// Rewards of answers.
    pub reward: Moments,
    /// Votes: 1 for a bad one.
    pub thumbs_down: Moments,
    /// Tokens of answers.
    pub length: Moments,
    /// Answers: 1 for a refusal.
    pub refusal: Moments,
}

/// By how much a candidate may be worse before it is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Chance of taking back a candidate that is no worse, over the whole probation and all measurements.
    pub alpha: f64,
    /// Answers and votes of each arm before a comparison counts.
    pub min_observations: u64,
    /// Reward, in standard deviations of the active version's.
    pub reward: f64,
    /// Share of bad votes.
    pub thumbs_down: f64,
    /// Mean length, as a share of the active version's, longer or shorter.
    pub length: f64,
    /// Share of refusals.
    pub refusal: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { alpha: 0.05, min_observations: 20, reward: 0.1, thumbs_down: 0.05, length: 0.5, refusal: 0.05 }
    }
}

/// A candidate beside the active version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The active version's.
    pub active: ArmStats,
    /// The candidate's.
    pub canary: ArmStats,
    /// What is surely worse, and by how much.
    pub breach: Option<String>,
}

/// How far a mean may lie from its estimate, at every look: the radius for `n` observations whose mean has the variance
/// `error`. `n` from which the sequence is tightest: 100.
fn radius(n: f64, error: f64, alpha: f64) -> f64 {
    let tightest = 100.0;
    let rho2 = (-2.0 * alpha.ln() + (-2.0 * alpha.ln() + 1.0).ln()) / tightest;
    let nr = n * rho2;
    (error * (nr + 1.0) / nr * ((nr + 1.0) / (alpha * alpha)).ln()).sqrt()
}

/// The interval of `canary − active` at every look.
fn difference(canary: &Moments, active: &Moments, is_share: bool, alpha: f64) -> (f64, f64, f64) {
    let error = canary.error(is_share) + active.error(is_share);
    let n = canary.n.min(active.n) as f64;
    let (value, radius) = (canary.mean - active.mean, radius(n, error, alpha));
    (value, value - radius, value + radius)
}

impl Comparison {
    /// Compares two arms.
    pub fn new(active: ArmStats, canary: ArmStats, limits: &Limits) -> Self {
        // Four measurements, and each may lie to both sides.
        let alpha = limits.alpha / 4.0;
        let known = |active: &Moments, canary: &Moments| active.n.min(canary.n) >= limits.min_observations;
        let mut breach = None;
        let mut worse = |what: &str, amount: String| {
            breach.get_or_insert_with(|| format!("{what} of the candidate is {amount}"));
        };
        if known(&active.thumbs_down, &canary.thumbs_down) {
            let (value, low, high) = difference(&canary.thumbs_down, &active.thumbs_down, true, alpha);
            if low > limits.thumbs_down {
                let limit = 100.0 * limits.thumbs_down;
                worse(
                    "the share of bad votes",
                    format!("{}, above the limit of {limit:.1}", points(value, low, high)),
                );
            }
        }
        if known(&active.reward, &canary.reward) {
            let (value, low, high) = difference(&canary.reward, &active.reward, false, alpha);
            let deviation = (active.reward.error(false) * active.reward.n as f64).sqrt();
            let limit = -limits.reward * deviation;
            if high < limit {
                worse(
                    "the reward",
                    format!("{value:+.3} [{low:+.3}, {high:+.3}], below the limit of {limit:+.3}"),
                );
            }
        }
        if known(&active.refusal, &canary.refusal) {
            let (value, low, high) = difference(&canary.refusal, &active.refusal, true, alpha);
            if low > limits.refusal {
                let limit = 100.0 * limits.refusal;
                worse(
                    "the share of refusals",
                    format!("{}, above the limit of {limit:.1}", points(value, low, high)),
                );
            }
        }
        if known(&active.length, &canary.length) {
            let (value, low, high) = difference(&canary.length, &active.length, false, alpha);
            let limit = limits.length * active.length.mean;
            if low > limit || high < -limit {
                worse(
                    "the length",
                    format!("{value:+.1} tokens [{low:+.1}, {high:+.1}], beyond the limit of ±{limit:.1}"),
                );
            }
        }
        Self { active, canary, breach }
    }

    /// Shows both arms in the metrics.
    pub(super) fn report(&self) {
        for (arm, stats) in [("active", &self.active), ("canary", &self.canary)] {
            for (what, moments) in [
                ("reward", &stats.reward),
                ("thumbs_down", &stats.thumbs_down),
                ("length", &stats.length),
                ("refusal", &stats.refusal),
            ] {
                let mean = metrics::gauge!("rectify_probation_mean", "arm" => arm, "measurement" => what);
                mean.set(moments.mean);
                let n =
                    metrics::gauge!("rectify_probation_observations", "arm" => arm, "measurement" => what);
                n.set(moments.n as f64);
            }
        }
    }
}

fn points(value: f64, low: f64, high: f64) -> String {
    let [value, low, high] = [value, low, high].map(|share| 100.0 * share);
    format!("{value:+.1} points [{low:+.1}, {high:+.1}]")
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn votes(rng: &mut StdRng, arm: &mut ArmStats, down: f64) {
        arm.thumbs_down.add(f64::from(u8::from(rng.random_bool(down))));
        arm.refusal.add(0.0);
        arm.length.add(rng.random_range(10.0..20.0));
        arm.reward.add(rng.random_range(-1.0..1.0));
    }

    /// Looks after every vote, as a probation does; the vote at which it breaks off.
    fn probation(seed: u64, active: f64, canary: f64, most: usize) -> Option<usize> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut arms = [ArmStats::default(); 2];
        (0..most).find(|_| {
            votes(&mut rng, &mut arms[0], active);
            votes(&mut rng, &mut arms[1], canary);
            Comparison::new(arms[0], arms[1], &Limits::default()).breach.is_some()
        })
    }

    #[test]
    fn a_candidate_that_is_no_worse_is_left_alone_however_often_one_looks() {
        let broken = (0..200).filter(|seed| probation(*seed, 0.3, 0.3, 400).is_some()).count();
        assert!(broken <= 4, "{broken} of 200 probations broke off for nothing");
    }

    #[test]
    fn a_bad_candidate_is_found_soon() {
        for seed in 0..50 {
            let at = probation(seed, 0.1, 0.8, 400).expect("found");
            assert!(at < 80, "only after {at} votes");
        }
    }

    #[test]
    fn every_measurement_can_speak_against_it() {
        let arm = |down: f64, reward: f64, length: f64, refusal: f64| {
            let mut arm = ArmStats::default();
            for index in 0..200 {
                let noise = f64::from(index % 2) - 0.5;
                arm.thumbs_down.add(f64::from(u8::from(f64::from(index) < 200.0 * down)));
                arm.refusal.add(f64::from(u8::from(f64::from(index) < 200.0 * refusal)));
                arm.reward.add(reward + noise);
                arm.length.add(length + noise);
            }
            arm
        };
        let active = arm(0.1, 1.0, 20.0, 0.05);
        let limits = Limits::default();
        let says = |canary| Comparison::new(active, canary, &limits).breach.unwrap_or_default();
        assert_eq!(says(active), "");
        assert!(
            says(arm(0.6, 1.0, 20.0, 0.05))
                .starts_with("the share of bad votes of the candidate is +50.0 points")
        );
        assert!(says(arm(0.1, 0.0, 20.0, 0.05)).starts_with("the reward"));
        assert!(says(arm(0.1, 1.0, 40.0, 0.05)).starts_with("the length"));
        assert!(says(arm(0.1, 1.0, 5.0, 0.05)).starts_with("the length"));
        assert!(says(arm(0.1, 1.0, 20.0, 0.5)).starts_with("the share of refusals"));
        let few = ArmStats { thumbs_down: Moments { n: 3, mean: 1.0, m2: 0.0 }, ..ArmStats::default() };
        assert_eq!(says(few), "");
    }
}
