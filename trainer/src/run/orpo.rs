//! Odds-ratio preference optimisation for the loop. Leaves its loss to `losses`.

use rectify_feedback::PreferenceRecord;

use super::json;
use super::logprobs::{Asked, TokenLogprobs};
use super::method::{Pass, Stats};
use super::offline::{self, Example, Objective};
use super::pairs;
use super::progress::{Control, TrainReport};
use crate::config::OrpoConfig;
use crate::error::TrainError;
use crate::losses::{Completions, OrpoBatch, OrpoLoss, TokenLoss};

/// Odds-ratio preference optimisation on `prompt`/`chosen`/`rejected` lines.
///
/// # Errors
/// One sentence that names the setting, file or line; see [`TrainError`].
pub fn train_orpo(config: &OrpoConfig, control: &mut Control<'_>) -> Result<TrainReport, TrainError> {
    config.validate()?;
    let settings = (&config.train, json(config)?);
    offline::train("orpo", settings, config.disable_dropout, |_, _, _| Ok(config.loss()), control)
}

impl Objective for OrpoLoss {
    type Line = PreferenceRecord;
    type Before = ();

    /// The chosen answer with its prompt, and the rejected one.
    fn asked(&self, example: &Example<Self>) -> Vec<Asked> {
        let [chosen, rejected] =
            [0, 1].map(|side| Asked::completion(&example.prompt, &example.answers[side]));
        vec![chosen.whole(), rejected]
    }

    fn loss_tokens(&self, example: &Example<Self>) -> f64 {
        (example.prompt.len() + example.answers[0].len() - 1) as f64
    }

    fn evaluate(
        &self,
        batch: &[&Example<Self>],
        (): (),
        policy: &TokenLogprobs,
        pass: Pass,
        stats: &mut Stats,
    ) -> TokenLoss {
        let demonstrations: Vec<_> = policy.spans.iter().step_by(2).cloned().collect();
        let mut completions = policy.clone();
        for (span, example) in completions.spans.iter_mut().step_by(2).zip(batch) {
            span.start = span.end - example.num_learnt(0);
        }
        let orpo = OrpoBatch {
            policy: completions.completions(),
            demonstrations: Completions { logprobs: &policy.values, spans: &demonstrations },
        };
        let out = self.evaluate(&orpo, pass.means());
        let rewards: Vec<[f64; 2]> =
            out.logprobs.iter().map(|pair| pair.map(|logprob| self.beta * logprob)).collect();
        pairs::add_metrics(stats, &completions, &rewards, &out.logprobs);
        for log_odds in &out.log_odds {
            stats.add("log_odds_chosen", *log_odds, 1.0);
            stats.add("log_odds_ratio", -crate::losses::softplus(-log_odds), 1.0);
        }
        let nll: f64 =
            demonstrations.iter().map(|span| -policy.values[span.clone()].iter().sum::<f64>()).sum();
        stats.add("nll_loss", nll, demonstrations.iter().map(|span| span.len() as f64).sum());
        out.total
    }
}
