//! RRHF: ranking several answers of a prompt by their rewards, and imitating the best.

use std::ops::Range;

use super::completions::{Completions, Normalizer, Reduction, TokenLoss};
use super::dual::Dual;

/// `w Σ_{R_i < R_j} max(0, p_i − p_j) − ln π(y_best|x)`, where `p` is a completion's log-probability over its length to
/// `length_penalty`: Yuan et al. 2023 (arXiv:2304.05302), Eqs. 2 to 5, in which `w` and the penalty are 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RrhfLoss {
    /// Weight `w` of the ranking.
    pub rrhf_weight: f64,
    /// Power of the length.
    pub length_penalty: f64,
}

/// Answers of one pass, by prompt.
#[derive(Clone, Copy, Debug)]
pub struct RrhfBatch<'a> {
    /// All answers.
    pub policy: Completions<'a>,
    /// Reward of each.
    pub rewards: &'a [f64],
    /// Answers of each prompt.
    pub groups: &'a [Range<usize>],
}

/// What a batch gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RrhfOutput {
    /// The loss and its gradient to every token.
    pub total: TokenLoss,
    /// The ranking's part of the loss, before its weight.
    pub rank_loss: f64,
    /// The imitation's part.
    pub sft_loss: f64,
    /// `p` of each answer.
    pub scores: Vec<f64>,
    /// Comparisons of answers with different rewards that the policy makes the same way; and all of them.
    pub ranked_right: (usize, usize),
}

impl RrhfLoss {
    /// Loss and gradient of a batch; a mean over prompts.
    pub fn evaluate(&self, batch: &RrhfBatch<'_>, normalizer: Normalizer) -> RrhfOutput {
        let RrhfBatch { policy, rewards, groups } = batch;
        let reduction = Reduction::Length(self.length_penalty);
        let scores: Vec<f64> =
            (0..policy.spans.len()).map(|answer| policy.reduce(answer, reduction)).collect();
        let mut out = RrhfOutput { scores, ..RrhfOutput::default() };
        let total = &mut out.total;
        total.grad = vec![0.0; policy.logprobs.len()];
        let scale = normalizer.examples.recip();
        for group in groups.iter() {
            // Of equals, the first.
            let best = group.clone().max_by(|a, b| rewards[*a].total_cmp(&rewards[*b]).then(b.cmp(a)));
            if let Some(best) = best {
                policy.add_likelihood(best, -scale, total);
            }
        }
        out.sft_loss = total.loss;
        let answers = groups.iter().flat_map(|group| group.clone().map(move |worse| (group, worse)));
        for (group, worse) in answers {
            for better in group.clone().filter(|better| rewards[worse] < rewards[*better]) {
                let margin = Dual::<2>::input(out.scores[worse], 0) - Dual::input(out.scores[better], 1);
                let loss = margin.relu() * scale;
                out.rank_loss += loss.value;
                for (answer, slope) in [worse, better].into_iter().zip(loss.grad) {
                    policy.spread(answer, reduction, self.rrhf_weight * slope, &mut total.grad);
                }
                out.ranked_right.0 += usize::from(margin.value < 0.0);
                out.ranked_right.1 += 1;
            }
        }
        total.loss += self.rrhf_weight * out.rank_loss;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::fixture::{Tokens, cases, close};

    #[test]
    fn value_and_gradients_are_pytorchs() {
        for case in cases(include_str!("../../fixtures/losses_rrhf.json")) {
            let number = |name: &str| case[name].as_f64().unwrap();
            let loss =
                RrhfLoss { rrhf_weight: number("rrhf_weight"), length_penalty: number("length_penalty") };
            let tokens = Tokens::new(&case["logprobs"]);
            let rewards: Vec<f64> = serde_json::from_value(case["rewards"].clone()).unwrap();
            let sizes: Vec<usize> = serde_json::from_value(case["group_sizes"].clone()).unwrap();
            let mut groups = Vec::new();
            for size in sizes {
                let start = groups.last().map_or(0, |group: &Range<usize>| group.end);
                groups.push(start..start + size);
            }
            let batch = RrhfBatch { policy: tokens.completions(), rewards: &rewards, groups: &groups };
            let normalizer = Normalizer { examples: groups.len() as f64, tokens: 0.0 };
            let out = loss.evaluate(&batch, normalizer);
            close(&case, "loss", &[out.total.loss], &[number("loss")]);
            close(&case, "grad", &out.total.grad, &Tokens::new(&case["grad"]).logprobs);
        }
    }
}
