//! Kahneman–Tversky optimisation: learning from single answers and whether they were liked. Leaves the choice of
//! mismatched answers to `run`.

use serde::{Deserialize, Serialize};

use super::completions::{Completions, Normalizer, Reduction, TokenLoss};
use super::dual::Dual;

/// Which loss, under TRL's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KtoLossType {
    /// Ethayarajh et al. 2024 (arXiv:2402.01306), Eq. 7.
    #[default]
    Kto,
    /// D'Oosterlinck et al. 2024 (arXiv:2408.06266), Eq. 7, for single answers: as KTO with `z₀ = 0`.
    ApoZeroUnpaired,
}

/// `λ_D (1 − σ(β(r − z₀)))` for a liked answer and `λ_U (1 − σ(β(z₀ − r)))` for another, where `r = ln π − ln π_ref` and
/// `z₀` is an estimate of the KL divergence from the reference, without gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KtoLoss {
    /// Which.
    pub loss_type: KtoLossType,
    /// Strength `β`.
    pub beta: f64,
    /// `λ_D`.
    pub desirable_weight: f64,
    /// `λ_U`.
    pub undesirable_weight: f64,
}

/// Examples of one pass.
#[derive(Clone, Copy, Debug)]
pub struct KtoBatch<'a> {
    /// Policy: one completion per example.
    pub policy: Completions<'a>,
    /// Reference: `ln π_ref(y|x)`.
    pub reference: &'a [f64],
    /// Liked.
    pub labels: &'a [bool],
    /// `z₀`, of [`KtoLoss::kl`].
    pub kl: f64,
}

/// What a batch gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KtoOutput {
    /// The loss and its gradient to every token of the policy.
    pub total: TokenLoss,
    /// `ln π(y|x)`.
    pub logprobs: Vec<f64>,
    /// Minus the reference's; times `β` they are the implicit rewards.
    pub log_ratios: Vec<f64>,
}

impl KtoLoss {
    /// Needs mismatched answers.
    pub fn needs_kl(&self) -> bool {
        self.loss_type == KtoLossType::Kto
    }

    /// `z₀ = max(0, mean of ln π(y′|x) − ln π_ref(y′|x))` over prompts with the answers `y′` of other prompts: section
    /// 4.1 of the paper.
    pub fn kl(log_ratios: &[f64]) -> f64 {
        (log_ratios.iter().sum::<f64>() / log_ratios.len().max(1) as f64).max(0.0)
    }

    /// Loss and gradient of a batch.
    pub fn evaluate(&self, batch: &KtoBatch<'_>, normalizer: Normalizer) -> KtoOutput {
        let mut out = KtoOutput::default();
        out.total.grad = vec![0.0; batch.policy.logprobs.len()];
        let kl = if self.needs_kl() { batch.kl } else { 0.0 };
        for (index, (reference, liked)) in batch.reference.iter().zip(batch.labels).enumerate() {
            let logprob = batch.policy.reduce(index, Reduction::Sum);
            let gain = Dual::<1>::input(logprob - reference, 0) - kl;
            let (gain, weight) =
                if *liked { (gain, self.desirable_weight) } else { (-gain, self.undesirable_weight) };
            // 1 − σ(x), without loss of digits.
            let loss = (gain * -self.beta).sigmoid() * (weight / normalizer.examples);
            out.total.loss += loss.value;
            batch.policy.spread(index, Reduction::Sum, loss.grad[0], &mut out.total.grad);
            out.logprobs.push(logprob);
            out.log_ratios.push(logprob - reference);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::fixture::{Tokens, cases, close};

    #[test]
    fn value_and_gradients_are_trls() {
        let mut seen = Vec::new();
        for case in cases(include_str!("../../fixtures/losses_kto.json")) {
            let loss_type = serde_json::from_value(case["loss_type"].clone()).unwrap();
            let number = |name: &str| case[name].as_f64().unwrap();
            let loss = KtoLoss {
                loss_type,
                beta: number("beta"),
                desirable_weight: number("desirable_weight"),
                undesirable_weight: number("undesirable_weight"),
            };
            let tokens = Tokens::new(&case["logprobs"]);
            let numbers = |name: &str| serde_json::from_value::<Vec<f64>>(case[name].clone()).unwrap();
            let (reference, mismatched) = (numbers("reference"), numbers("kl_log_ratios"));
            let labels: Vec<bool> = serde_json::from_value(case["labels"].clone()).unwrap();
            let batch = KtoBatch {
                policy: tokens.completions(),
                reference: &reference,
                labels: &labels,
                kl: KtoLoss::kl(&mismatched),
            };
            let normalizer = Normalizer { examples: labels.len() as f64, tokens: 0.0 };
            let out = loss.evaluate(&batch, normalizer);
            close(&case, "loss", &[out.total.loss], &[number("loss")]);
            close(&case, "grad", &out.total.grad, &Tokens::new(&case["grad"]).logprobs);
            seen.push(loss_type);
        }
        assert!(seen.contains(&KtoLossType::Kto) && seen.contains(&KtoLossType::ApoZeroUnpaired));
    }
}
