//! Odds-ratio preference optimisation: likelihood of the chosen answer and a penalty, without a reference.

use super::completions::{Completions, Normalizer, Reduction, TokenLoss};
use super::dual::Dual;

/// `−mean ln π(x, y_w) − λ ln σ(ln odds(y_w|x) − ln odds(y_l|x))` with `odds = p / (1 − p)` and `p` the geometric mean of
/// a completion's token probabilities: Hong et al. 2024 (arXiv:2403.07691), Eqs. 4, 6 and 7. The likelihood is that of
/// the prompt and the chosen answer per token, as TRL's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OrpoLoss {
    /// Weight `λ`.
    pub beta: f64,
}

/// Pairs of one pass.
#[derive(Clone, Copy, Debug)]
pub struct OrpoBatch<'a> {
    /// `2 · num_pairs` completions, chosen and rejected in turn.
    pub policy: Completions<'a>,
    /// Prompt with chosen completion of each pair, over the same log-probabilities.
    pub demonstrations: Completions<'a>,
}

/// What a batch gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OrpoOutput {
    /// The loss and its gradient to every token.
    pub total: TokenLoss,
    /// The likelihood's part of the loss.
    pub nll_loss: f64,
    /// `ln p` of chosen and rejected; times `λ` TRL's rewards.
    pub logprobs: Vec<[f64; 2]>,
    /// `ln odds(y_w) − ln odds(y_l)`.
    pub log_odds: Vec<f64>,
}

impl OrpoLoss {
    /// Loss and gradient of a batch.
    pub fn evaluate(&self, batch: &OrpoBatch<'_>, normalizer: Normalizer) -> OrpoOutput {
        const MEAN: Reduction = Reduction::Length(1.0);
        let mut out = OrpoOutput::default();
        let total = &mut out.total;
        total.grad = vec![0.0; batch.policy.logprobs.len()];
        for pair in 0..batch.demonstrations.spans.len() {
            batch.demonstrations.add_likelihood(pair, -1.0 / normalizer.tokens.max(1.0), total);
        }
        out.nll_loss = total.loss;
        for pair in 0..batch.policy.spans.len() / 2 {
            let [chosen, rejected] = [0, 1].map(|side| {
                let logprob = batch.policy.reduce(2 * pair + side, MEAN);
                Dual::<2>::input(logprob, side)
            });
            let log_odds = (chosen - chosen.ln_1m_exp()) - (rejected - rejected.ln_1m_exp());
            let loss = log_odds.log_sigmoid() * (-self.beta / normalizer.examples);
            total.loss += loss.value;
            for (side, slope) in loss.grad.into_iter().enumerate() {
                batch.policy.spread(2 * pair + side, MEAN, slope, &mut total.grad);
            }
            out.logprobs.push([chosen.value, rejected.value]);
            out.log_odds.push(log_odds.value);
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
        for case in cases(include_str!("../../fixtures/losses_orpo.json")) {
            let number = |name: &str| case[name].as_f64().unwrap();
            // Chosen ones begin with their prompt.
            let tokens = Tokens::new(&case["logprobs"]);
            let prompts: Vec<usize> = serde_json::from_value(case["prompt_tokens"].clone()).unwrap();
            let mut spans = tokens.spans.clone();
            spans.iter_mut().step_by(2).zip(prompts).for_each(|(span, prompt)| span.start += prompt);
            let demonstrations: Vec<_> = tokens.spans.iter().step_by(2).cloned().collect();
            let batch = OrpoBatch {
                policy: Completions { spans: &spans, ..tokens.completions() },
                demonstrations: Completions { spans: &demonstrations, ..tokens.completions() },
            };
            let normalizer = Normalizer {
                examples: demonstrations.len() as f64,
                tokens: demonstrations.iter().map(|span| span.len() as f64).sum(),
            };
            let out = OrpoLoss { beta: number("beta") }.evaluate(&batch, normalizer);
            let mean_odds = out.log_odds.iter().sum::<f64>() / normalizer.examples;
            close(
                &case,
                "loss, nll_loss, log_odds",
                &[out.total.loss, out.nll_loss, mean_odds],
                &[number("loss"), number("nll_loss"), number("log_odds")],
            );
            close(&case, "grad", &out.total.grad, &Tokens::new(&case["grad"]).logprobs);
        }
    }
}
