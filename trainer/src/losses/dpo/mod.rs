//! Direct preference optimisation and its family: a batch of pairs to a loss and its gradient to every token. Leaves the
//! formula of each member to `loss_type`, models and data to `run`.

mod divergence;
mod loss_type;

pub use divergence::FDivergence;
pub use loss_type::DpoLossType;
pub(super) use loss_type::smoothed;

use super::completions::{Completions, Normalizer, Reduction, TokenLoss};
use super::dual::Dual;
use loss_type::{Knobs, Terms};

/// A member of the family, or a weighted sum of them. `h = (ln π − ln π_ref)(y_w) − (ln π − ln π_ref)(y_l)` is what DPO
/// (Rafailov et al. 2023, arXiv:2305.18290, Eq. 7) pushes up.
#[derive(Clone, Debug, PartialEq)]
pub struct DpoLoss {
    /// Members and their weights.
    pub terms: Vec<(DpoLossType, f64)>,
    /// Strength `β`; IPO's `τ`.
    pub beta: f64,
    /// Share `ε` of labels taken to be wrong, for the members that know it.
    pub label_smoothing: f64,
    /// DiscoPOP's temperature.
    pub discopop_tau: f64,
    /// What keeps the policy near the reference.
    pub divergence: FDivergence,
    /// Weight of the longer answer's tokens beyond the shorter one's length; `None` is 1.
    pub ld_alpha: Option<f64>,
}

/// Pairs of one pass.
#[derive(Clone, Copy, Debug)]
pub struct DpoBatch<'a> {
    /// Policy: `2 · num_pairs` completions, chosen and rejected in turn.
    pub policy: Completions<'a>,
    /// Reference: chosen and rejected of each pair, reduced as [`DpoLoss::reduction`] says; zeros are "reference-free".
    pub reference: &'a [[f64; 2]],
    /// Weight of each pair's comparison, without gradient: WPO, Zhou et al. 2024 (arXiv:2406.11827), Eq. 2. `None` is 1.
    pub weights: Option<&'a [f64]>,
}

/// What a batch gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DpoOutput {
    /// The loss and its gradient to every token of the policy.
    pub total: TokenLoss,
    /// `ln π(y|x)` of chosen and rejected, under `ld_alpha`.
    pub logprobs: Vec<[f64; 2]>,
    /// Those minus the reference's; times `β` they are DPO's implicit rewards.
    pub log_ratios: Vec<[f64; 2]>,
}

impl DpoLoss {
    /// How a completion of a pair is read.
    pub fn reduction(&self, chosen_tokens: usize, rejected_tokens: usize) -> Reduction {
        match self.ld_alpha {
            None => Reduction::Sum,
            Some(alpha) => Reduction::Tail { shared: chosen_tokens.min(rejected_tokens), alpha },
        }
    }

    /// Loss and gradient of a batch.
    pub fn evaluate(&self, batch: &DpoBatch<'_>, normalizer: Normalizer) -> DpoOutput {
        let policy = &batch.policy;
        let mut out = DpoOutput::default();
        out.total.grad = vec![0.0; policy.logprobs.len()];
        for (pair, reference) in batch.reference.iter().enumerate() {
            let reduction = self.pair_reduction(policy, pair);
            let logprobs = [policy.reduce(2 * pair, reduction), policy.reduce(2 * pair + 1, reduction)];
            out.logprobs.push(logprobs);
            out.log_ratios.push([logprobs[0] - reference[0], logprobs[1] - reference[1]]);
        }
        for (loss_type, weight) in &self.terms {
            match loss_type {
                DpoLossType::Sft => self.add_likelihood(batch, *weight, normalizer, &mut out.total),
                _ => self.add_term(*loss_type, batch, weight / normalizer.examples, &mut out),
            }
        }
        out
    }

    fn pair_reduction(&self, policy: &Completions<'_>, pair: usize) -> Reduction {
        self.reduction(policy.num_tokens(2 * pair), policy.num_tokens(2 * pair + 1))
    }

    fn add_term(&self, loss_type: DpoLossType, batch: &DpoBatch<'_>, scale: f64, out: &mut DpoOutput) {
        let knobs = Knobs { beta: self.beta, epsilon: self.label_smoothing, discopop_tau: self.discopop_tau };
        for (index, meeting) in loss_type.meetings(&out.logprobs, &out.log_ratios).iter().enumerate() {
            let chosen = Dual::<2>::input(meeting.log_ratios[0], 0);
            let rejected = Dual::input(meeting.log_ratios[1], 1);
            let num_tokens = [0, 1].map(|side| {
                // An answer cut to nothing has a mean of zero.
                batch.policy.num_tokens(2 * meeting.pairs[side] + side).max(1) as f64
            });
            let scores = [chosen, rejected].map(|ratio| self.divergence.score(ratio));
            let loss = loss_type.loss(&Terms { ratios: [chosen, rejected], scores, num_tokens }, knobs);
            let scale = scale * batch.weights.map_or(1.0, |weights| weights[index]);
            out.total.loss += scale * loss.value;
            for (side, slope) in loss.grad.into_iter().enumerate() {
                let pair = meeting.pairs[side];
                let reduction = self.pair_reduction(&batch.policy, pair);
                batch.policy.spread(2 * pair + side, reduction, scale * slope, &mut out.total.grad);
            }
        }
    }

    /// `−ln π` per token of the chosen answers.
    fn add_likelihood(
        &self,
        batch: &DpoBatch<'_>,
        weight: f64,
        normalizer: Normalizer,
        into: &mut TokenLoss,
    ) {
        for pair in 0..batch.reference.len() {
            batch.policy.add_likelihood(2 * pair, -weight / normalizer.tokens.max(1.0), into);
        }
    }
}

#[cfg(test)]
mod tests;
