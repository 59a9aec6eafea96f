//! Adaptive N: draw candidates in rounds and stop when another one is not worth its cost, as in Pandora's problem
//! (Weitzman 1979; for language models arXiv:2510.01394). Easy prompts cost few candidates, hard ones many.

use super::ledger::Ledger;
use super::{Action, Strategy, StrategyEvent};
use crate::EngineError;

/// Stops when the expected gain of one more candidate is below its cost.
///
/// The reward of the next candidate is thought to be, after `k` draws, one of those seen with probability `k/(w + k)` and
/// one of the prior, a normal distribution over the rewards of any prompt, else: a Dirichlet process of weight `w`
/// (Ferguson 1973). What was seen never exceeds the best, so the expected gain is `w/(w + k) · E[max(X − best, 0)]` with
/// `X` from the prior. A good answer ends it at once; a prompt whose answers are all poor goes on for a while, for the prior
/// knows of better ones, but not for ever. The spread of the prompt's own rewards would mislead: a few poor answers are
/// much alike, and look as if there were nothing better.
///
/// Rounds are decided when all of their candidates are judged, so the number drawn does not depend on the order in which
/// they ended.
#[derive(Clone, Debug)]
pub struct Adaptive {
    ledger: Ledger,
    settings: AdaptiveSettings,
    /// Candidates begun.
    num_begun: usize,
}

/// Settings of [`Adaptive`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveSettings {
    /// What a candidate must be expected to add to the best reward.
    pub cost: f32,
    /// Candidates before the first decision.
    pub first: usize,
    /// Candidates between decisions.
    pub round: usize,
    /// Mean of the prior: of the rewards that single answers get.
    pub reward_mean: f32,
    /// Its standard deviation.
    pub reward_std: f32,
    /// How many draws the prior counts for.
    pub prior_weight: f32,
}

impl Default for AdaptiveSettings {
    fn default() -> Self {
        Self { cost: 0.05, first: 4, round: 4, reward_mean: 0.0, reward_std: 1.0, prior_weight: 4.0 }
    }
}

impl AdaptiveSettings {
    /// Checks every range.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] naming the field and what would be right.
    pub fn validate(&self) -> Result<(), EngineError> {
        let Self { cost, first, round, reward_mean, reward_std, prior_weight } = *self;
        let refuse = |param, message: String| Err(EngineError::invalid(param, message));
        if !(cost.is_finite() && cost >= 0.0) {
            let message = format!("alignment.early_stop.cost is {cost}, but must be a number of at least 0");
            return refuse("alignment.early_stop.cost", message);
        }
        for (param, value) in [("alignment.early_stop.first", first), ("alignment.early_stop.round", round)] {
            if value == 0 {
                return refuse(param, format!("{param} is 0, but must be at least 1 candidate"));
            }
        }
        if !reward_mean.is_finite() {
            let message = "alignment.early_stop.reward_mean must be a finite number";
            return refuse("alignment.early_stop.reward_mean", message.into());
        }
        let positive = [
            ("alignment.early_stop.reward_std", reward_std),
            ("alignment.early_stop.prior_weight", prior_weight),
        ];
        for (param, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                return refuse(param, format!("{param} is {value}, but must be a number above 0"));
            }
        }
        Ok(())
    }

    /// What one more draw is expected to add to the highest of `values`; 0 without any, since a scorer that has failed for
    /// all so far is not worth more.
    fn expected_gain(&self, values: &[f64]) -> f64 {
        let Some(best) = values.iter().copied().max_by(f64::total_cmp) else { return 0.0 };
        let (mean, std) = (f64::from(self.reward_mean), f64::from(self.reward_std));
        let weight = f64::from(self.prior_weight);
        weight / (weight + values.len() as f64) * std * excess((best - mean) / std)
    }
}

impl Adaptive {
    pub(super) fn new(ledger: Ledger, settings: AdaptiveSettings) -> Self {
        let num_begun = settings.first.max(ledger.num_choices()).min(ledger.entries.len());
        Self { ledger, settings, num_begun }
    }
}

impl Strategy for Adaptive {
    fn start(&mut self, actions: &mut Vec<Action>) {
        actions.extend((0..self.num_begun).map(|index| Action::Run { index, until: usize::MAX }));
    }

    fn on_event(&mut self, event: StrategyEvent, actions: &mut Vec<Action>) {
        if let Some(index) = self.ledger.note(event) {
            actions.push(Action::Score(index));
        }
        if !self.ledger.all_judged(0..self.num_begun) {
            return;
        }
        let n = self.ledger.entries.len();
        if self.num_begun == n
            || self.settings.expected_gain(&self.ledger.values()) < f64::from(self.settings.cost)
        {
            actions.push(Action::Select(self.ledger.outcome()));
            return;
        }
        let end = (self.num_begun + self.settings.round).min(n);
        actions.extend((self.num_begun..end).map(|index| Action::Run { index, until: usize::MAX }));
        self.num_begun = end;
    }
}

/// `E max(X − z, 0)` of a standard normal `X`: `φ(z) − z(1 − Φ(z))`.
fn excess(z: f64) -> f64 {
    let density = (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
    density - z * upper_tail(z)
}

/// `1 − Φ(z)` to 1e-7: Abramowitz and Stegun 26.2.17.
fn upper_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let poly = [1.330_274_429, -1.821_255_978, 1.781_477_937, -0.356_563_782, 0.319_381_530];
    let series = poly.iter().fold(0.0, |sum, coefficient| (sum + coefficient) * t);
    let tail = series * (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
    if z < 0.0 { 1.0 - tail } else { tail }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, prop_assert_eq, prop_oneof, proptest};

    use super::super::simulation::{World, ledger, play};
    use super::*;

    proptest! {
        #[test]
        fn equals_brute_force_in_every_order_of_events(
            n in 1usize..14,
            first in 1usize..5,
            round in 1usize..4,
            cost in prop_oneof![Just(0.0f32), Just(0.2), Just(1.0)],
            failing in prop_oneof![2 => Just(0u64), 1 => Just(30), 1 => Just(100)],
            seed: u64,
            order: u64,
        ) {
            let world = World { seed, failing };
            let settings = AdaptiveSettings { cost, first, round, ..AdaptiveSettings::default() };
            let mut strategy = Adaptive::new(ledger(n, 1), settings);
            let played = play(&world, &mut strategy, n, order);
            let mut drawn = first.min(n);
            while drawn < n {
                let values: Vec<f64> =
                    (0..drawn).filter_map(|i| world.reward(&world.answer(i)).ok()).map(f64::from).collect();
                if settings.expected_gain(&values) < f64::from(cost) {
                    break;
                }
                drawn = n.min(drawn + round);
            }
            let ended: Vec<usize> = (0..drawn).collect();
            prop_assert_eq!(&played.ended, &ended);
            prop_assert_eq!(played.num_tokens, ended.iter().map(|&i| world.answer(i).len()).sum::<usize>());
            prop_assert_eq!(played.outcome.selected, world.best_of(&ended, 1));
        }
    }

    #[test]
    fn the_gain_is_the_integral_it_stands_for() {
        // ∫ max(x − z, 0) φ(x) dx by the trapezoidal rule.
        for z in [-2.0, -0.5, 0.0, 0.7, 1.5, 3.0] {
            let step = 1e-3;
            let integral: f64 = (0..12_000)
                .map(|i| z + f64::from(i) * step)
                .map(|x| (x - z) * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt() * step)
                .sum();
            assert!((excess(z) - integral).abs() < 1e-6, "{z}: {} for {integral}", excess(z));
        }
    }

    #[test]
    fn a_good_answer_ends_it_and_poor_ones_go_on_for_a_while() {
        let settings = AdaptiveSettings::default();
        let gain = |values: &[f64]| settings.expected_gain(values);
        assert!(gain(&[2.5, 0.0]) < 0.01 && gain(&[-1.0, -1.1, -1.0, -1.0]) > 0.5);
        assert!(gain(&[-1.0; 64]) < gain(&[-1.0; 4]) && gain(&[-1.0; 64]) > 0.0);
        assert_eq!(gain(&[]), 0.0);
        // Half of the weight is the prior's after as many draws as it counts for.
        assert!((gain(&[0.0; 4]) - 0.5 / std::f64::consts::TAU.sqrt()).abs() < 1e-6);
    }
}
