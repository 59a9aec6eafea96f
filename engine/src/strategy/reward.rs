//! From the rewards of one or several reward models to the number that decides: combination and length. Leaves running
//! the models to the engine and picking to `select`.

use crate::EngineError;

/// How the rewards of several reward models become one. Of a single one each is the reward itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Combine {
    /// The mean.
    Mean,
    /// The worst: an answer must please every member of the ensemble (Coste et al. 2023, arXiv:2310.02743).
    Min,
    /// The weighted sum, one weight for each model.
    Weighted(Vec<f32>),
    /// `mean − λ·variance`, the variance over the members: uncertainty-weighted optimisation, ibid.
    MeanMinusVar(f32),
    /// `mean − λ·std`: the same in units of the reward.
    MeanMinusStd(f32),
    /// Of two models, helpfulness and safety: the first's reward if the second's is at least this, else the second's
    /// (as Llama 2 gates, Touvron et al. 2023, arXiv:2307.09288 §3.2.3).
    SafetyGated(f32),
}

impl Combine {
    /// The word for it on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Weighted(_) => "weighted",
            Self::MeanMinusVar(_) => "mean_minus_var",
            Self::MeanMinusStd(_) => "mean_minus_std",
            Self::SafetyGated(_) => "safety_gated",
        }
    }

    /// One reward of `rewards`, one for each model in its order; at least one.
    pub fn apply(&self, rewards: &[f32]) -> f64 {
        let num_models = rewards.len() as f64;
        let all = || rewards.iter().map(|&reward| f64::from(reward));
        let mean = || all().sum::<f64>() / num_models;
        let variance = || all().map(|reward| (reward - mean()).powi(2)).sum::<f64>() / num_models;
        match self {
            Self::Mean => mean(),
            Self::Min => all().fold(f64::INFINITY, f64::min),
            Self::Weighted(weights) => all().zip(weights).map(|(reward, &w)| reward * f64::from(w)).sum(),
            Self::MeanMinusVar(lambda) => mean() - f64::from(*lambda) * variance(),
            Self::MeanMinusStd(lambda) => mean() - f64::from(*lambda) * variance().sqrt(),
            Self::SafetyGated(threshold) => match rewards {
                [helpful, safety, ..] if safety >= threshold => f64::from(*helpful),
                [_, safety, ..] => f64::from(*safety),
                _ => mean(),
            },
        }
    }

    /// Checks that it fits `num_models` reward models.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] naming the field and what would be right.
    pub fn validate(&self, num_models: usize) -> Result<(), EngineError> {
        let finite = |param: &'static str, value: f32| {
            let message = || format!("{param} is {value}, but must be a finite number");
            if value.is_finite() { Ok(()) } else { Err(EngineError::invalid(param, message())) }
        };
        match self {
            Self::Mean | Self::Min => Ok(()),
            Self::Weighted(weights) if weights.len() != num_models => {
                let num_weights = weights.len();
                let message = format!(
                    "alignment.reward.weights has {num_weights} weights for {num_models} reward models"
                );
                Err(EngineError::invalid("alignment.reward.weights", message))
            }
            Self::Weighted(weights) => {
                weights.iter().try_for_each(|&weight| finite("alignment.reward.weights", weight))
            }
            Self::MeanMinusVar(lambda) | Self::MeanMinusStd(lambda) => {
                finite("alignment.reward.lambda", *lambda)
            }
            Self::SafetyGated(_) if num_models != 2 => {
                let message = format!(
                    "alignment.reward names {num_models} reward models, but safety_gated takes two, `helpful` and `safety`"
                );
                Err(EngineError::invalid("alignment.reward", message))
            }
            Self::SafetyGated(threshold) => finite("alignment.reward.threshold", *threshold),
        }
    }
}

/// What length costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LengthPenalty {
    /// `R − λ·tokens`; 0 is no penalty.
    Subtract(f32),
    /// `R / tokens`: only of use where rewards add up over an answer, for a negative reward grows with length.
    Divide,
}

impl LengthPenalty {
    /// The reward of an answer of `num_tokens`, after its cost.
    pub fn apply(self, reward: f32, num_tokens: usize) -> f64 {
        match self {
            Self::Subtract(penalty) => f64::from(reward) - f64::from(penalty) * num_tokens as f64,
            Self::Divide => f64::from(reward) / num_tokens.max(1) as f64,
        }
    }

    /// Checks its range.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if it is no finite number.
    pub fn validate(self) -> Result<(), EngineError> {
        match self {
            Self::Subtract(penalty) if !penalty.is_finite() => {
                let message = "alignment.length_penalty must be a finite number";
                Err(EngineError::invalid("alignment.length_penalty", message))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_are_their_formulas() {
        let rewards = [1.0f32, 4.0, -2.0];
        let close = |combine: Combine, expected: f64| {
            let got = combine.apply(&rewards);
            assert!((got - expected).abs() < 1e-6, "{combine:?}: {got}");
        };
        // Mean 1, variance (0 + 9 + 9) / 3 = 6.
        close(Combine::Mean, 1.0);
        close(Combine::Min, -2.0);
        close(Combine::Weighted(vec![1.0, 0.5, 2.0]), -1.0);
        close(Combine::MeanMinusVar(0.5), -2.0);
        close(Combine::MeanMinusStd(0.5), 1.0 - 0.5 * 6f64.sqrt());
        for combine in [Combine::Mean, Combine::Min, Combine::MeanMinusVar(2.0), Combine::MeanMinusStd(2.0)] {
            assert_eq!(combine.apply(&[0.1]), f64::from(0.1f32), "{combine:?} of one model is its reward");
        }
    }

    #[test]
    fn an_unsafe_answer_counts_by_its_safety_however_helpful() {
        let gate = Combine::SafetyGated(0.15);
        let mut answers = [(9.0, -3.0), (1.0, 0.15), (2.0, 0.9), (99.0, 0.1)];
        answers.sort_by(|a, b| gate.apply(&[b.0, b.1]).total_cmp(&gate.apply(&[a.0, a.1])));
        assert_eq!(answers, [(2.0, 0.9), (1.0, 0.15), (99.0, 0.1), (9.0, -3.0)]);
    }

    #[test]
    fn a_combination_that_does_not_fit_is_refused() {
        for (combine, num_models) in [
            (Combine::Weighted(vec![1.0]), 2),
            (Combine::Weighted(vec![1.0, f32::NAN]), 2),
            (Combine::SafetyGated(0.0), 1),
            (Combine::SafetyGated(f32::INFINITY), 2),
            (Combine::MeanMinusStd(f32::NAN), 2),
        ] {
            assert!(combine.validate(num_models).is_err(), "{combine:?}");
        }
        assert!(Combine::SafetyGated(0.0).validate(2).is_ok());
    }

    #[test]
    fn length_costs_by_the_token_or_divides() {
        assert_eq!(LengthPenalty::Subtract(0.5).apply(3.0, 4), 1.0);
        assert_eq!(LengthPenalty::Divide.apply(3.0, 4), 0.75);
        assert!(LengthPenalty::Subtract(f32::NAN).validate().is_err());
    }
}
