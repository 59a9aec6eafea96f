//! Contrastive preference optimisation and SimPO: preferences without a reference.

use serde::{Deserialize, Serialize};

use super::completions::{Completions, Normalizer, Reduction, TokenLoss};
use super::dpo::smoothed;
use super::dual::Dual;

/// Which loss, under TRL's name; `h = r_w − r_l` is the margin of the rewards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpoLossType {
    /// `−ln σ(βh)` on sums: Xu et al. 2024 (arXiv:2401.08417), Eq. 3.
    #[default]
    Sigmoid,
    /// `max(0, 1 − βh)` on sums: SLiC-HF, Zhao et al. 2023 (arXiv:2305.10425).
    Hinge,
    /// `(h − 1/(2β))²` on means: IPO without a reference, Azar et al. 2023 (arXiv:2310.12036), Eq. 17.
    Ipo,
    /// `−ln σ(βh − γ)` on means: SimPO, Meng et al. 2024 (arXiv:2405.14734), Eq. 6.
    Simpo,
}

/// One of the losses, plus `cpo_alpha` times the negative log-likelihood per token of the chosen answers (Eq. 5 of CPO).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpoLoss {
    /// Which.
    pub loss_type: CpoLossType,
    /// Strength `β`.
    pub beta: f64,
    /// Share of labels taken to be wrong, for the logistic losses.
    pub label_smoothing: f64,
    /// SimPO's target margin `γ`.
    pub simpo_gamma: f64,
    /// Rewards `(1 − p^−α) / α` instead of `ln p`, the limit at `α = 0`: AlphaPO, Gupta et al. 2025 (arXiv:2501.03884).
    pub alpha: f64,
    /// Weight of the likelihood.
    pub cpo_alpha: f64,
}

/// What a batch gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CpoOutput {
    /// The loss and its gradient to every token.
    pub total: TokenLoss,
    /// Negative log-likelihood of the chosen answers, over the normaliser; 0 if it has no weight, as TRL.
    pub nll_loss: f64,
    /// `ln π(y|x)` of chosen and rejected, or their means.
    pub logprobs: Vec<[f64; 2]>,
    /// `β r`.
    pub rewards: Vec<[f64; 2]>,
}

impl CpoLoss {
    /// How a completion is read.
    pub fn reduction(&self) -> Reduction {
        match self.loss_type {
            CpoLossType::Ipo | CpoLossType::Simpo => Reduction::Length(1.0),
            CpoLossType::Sigmoid | CpoLossType::Hinge => Reduction::Sum,
        }
    }

    fn reward<const N: usize>(&self, logprob: Dual<N>) -> Dual<N> {
        if self.alpha == 0.0 { logprob } else { (-(logprob * -self.alpha).exp() + 1.0) * self.alpha.recip() }
    }

    fn pair<const N: usize>(&self, margin: Dual<N>) -> Dual<N> {
        match self.loss_type {
            CpoLossType::Sigmoid => smoothed(margin * self.beta, self.label_smoothing),
            CpoLossType::Simpo => smoothed(margin * self.beta - self.simpo_gamma, self.label_smoothing),
            CpoLossType::Hinge => (-margin * self.beta + 1.0).relu(),
            CpoLossType::Ipo => (margin - (2.0 * self.beta).recip()).square(),
        }
    }

    /// Loss and gradient of a batch: `2 · num_pairs` completions, chosen and rejected in turn.
    pub fn evaluate(&self, policy: &Completions<'_>, normalizer: Normalizer) -> CpoOutput {
        let mut out = CpoOutput::default();
        let total = &mut out.total;
        total.grad = vec![0.0; policy.logprobs.len()];
        if self.cpo_alpha != 0.0 {
            for chosen in (0..policy.spans.len()).step_by(2) {
                policy.add_likelihood(chosen, -self.cpo_alpha / normalizer.tokens.max(1.0), total);
            }
            out.nll_loss = total.loss / self.cpo_alpha;
        }
        for pair in 0..policy.spans.len() / 2 {
            let logprobs = [0, 1].map(|side| {
                let logprob = policy.reduce(2 * pair + side, self.reduction());
                Dual::<2>::input(logprob, side)
            });
            let rewards = logprobs.map(|logprob| self.reward(logprob));
            let loss = self.pair(rewards[0] - rewards[1]) * normalizer.examples.recip();
            total.loss += loss.value;
            for (side, slope) in loss.grad.into_iter().enumerate() {
                policy.spread(2 * pair + side, self.reduction(), slope, &mut total.grad);
            }
            out.logprobs.push(logprobs.map(|logprob| logprob.value));
            out.rewards.push(rewards.map(|reward| self.beta * reward.value));
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
        for case in cases(include_str!("../../fixtures/losses_cpo.json")) {
            let number = |name: &str| case[name].as_f64().unwrap();
            let loss = CpoLoss {
                loss_type: serde_json::from_value(case["loss_type"].clone()).unwrap(),
                beta: number("beta"),
                label_smoothing: number("label_smoothing"),
                simpo_gamma: number("simpo_gamma"),
                alpha: number("alpha"),
                cpo_alpha: number("cpo_alpha"),
            };
            let tokens = Tokens::new(&case["logprobs"]);
            let normalizer = tokens.pair_normalizer();
            let out = loss.evaluate(&tokens.completions(), normalizer);
            let mean = |side: usize| out.rewards.iter().map(|r| r[side]).sum::<f64>() / normalizer.examples;
            close(
                &case,
                "loss, nll_loss, rewards",
                &[out.total.loss, out.nll_loss, mean(0), mean(1)],
                &["loss", "nll_loss", "rewards/chosen", "rewards/rejected"].map(number),
            );
            close(&case, "grad", &out.total.grad, &Tokens::new(&case["grad"]).logprobs);
            seen.push(loss.loss_type);
        }
        for loss_type in [CpoLossType::Sigmoid, CpoLossType::Hinge, CpoLossType::Ipo, CpoLossType::Simpo] {
            assert!(seen.contains(&loss_type), "{loss_type:?} has no case");
        }
    }
}
