//! Contrastive preference optimisation and SimPO for the loop. Leaves their losses to `losses`.

use rectify_feedback::PreferenceRecord;

use super::json;
use super::logprobs::TokenLogprobs;
use super::method::{Pass, Stats};
use super::offline::{self, Example, Objective};
use super::pairs;
use super::progress::{Control, TrainReport};
use crate::config::CpoConfig;
use crate::error::TrainError;
use crate::losses::{CpoLoss, TokenLoss};

/// Contrastive preference optimisation or SimPO on `prompt`/`chosen`/`rejected` lines.
///
/// # Errors
/// One sentence that names the setting, file or line; see [`TrainError`].
pub fn train_cpo(config: &CpoConfig, control: &mut Control<'_>) -> Result<TrainReport, TrainError> {
    config.validate()?;
    let settings = (&config.train, json(config)?);
    offline::train("cpo", settings, config.disable_dropout, |_, _, _| Ok(config.loss()), control)
}

impl Objective for CpoLoss {
    type Line = PreferenceRecord;
    type Before = ();

    fn loss_tokens(&self, example: &Example<Self>) -> f64 {
        example.num_learnt(0) as f64
    }

    fn evaluate(
        &self,
        _: &[&Example<Self>],
        (): (),
        policy: &TokenLogprobs,
        pass: Pass,
        stats: &mut Stats,
    ) -> TokenLoss {
        let out = self.evaluate(&policy.completions(), pass.means());
        pairs::add_metrics(stats, policy, &out.rewards, &out.logprobs);
        let chosen = policy.spans.iter().step_by(2);
        let num_tokens: usize = chosen.clone().map(ExactSizeIterator::len).sum();
        let nll: f64 = match self.cpo_alpha {
            0.0 => 0.0, // TRL's, which is not computed then.
            _ => chosen.map(|span| -policy.values[span.clone()].iter().sum::<f64>()).sum(),
        };
        stats.add("nll_loss", nll, num_tokens as f64);
        out.total
    }
}
