//! RRHF for the loop. Leaves its loss to `losses`.

use rectify_feedback::RankedRecord;

use super::json;
use super::logprobs::TokenLogprobs;
use super::method::{Pass, Stats};
use super::offline::{self, Example, Objective};
use super::progress::{Control, TrainReport};
use crate::config::RrhfConfig;
use crate::data::Fingerprint;
use crate::error::TrainError;
use crate::losses::{RrhfBatch, RrhfLoss, TokenLoss};

/// RRHF on lines of a `prompt` with ranked answers.
///
/// # Errors
/// One sentence that names the setting, file or line; see [`TrainError`].
pub fn train_rrhf(config: &RrhfConfig, control: &mut Control<'_>) -> Result<TrainReport, TrainError> {
    config.validate()?;
    let settings = (&config.train, json(config)?);
    offline::train("rrhf", settings, config.disable_dropout, |_, _, _| Ok(config.loss()), control)
}

impl Objective for RrhfLoss {
    type Line = RankedRecord;
    type Before = ();

    fn hash_label(&self, rewards: &Vec<f64>, fingerprint: &mut Fingerprint) {
        rewards.iter().for_each(|reward| fingerprint.number(*reward));
    }

    fn evaluate(
        &self,
        batch: &[&Example<Self>],
        (): (),
        policy: &TokenLogprobs,
        pass: Pass,
        stats: &mut Stats,
    ) -> TokenLoss {
        let rewards: Vec<f64> = batch.iter().flat_map(|example| example.label.iter().copied()).collect();
        let mut groups = Vec::with_capacity(batch.len());
        let mut start = 0;
        for example in batch {
            groups.push(start..start + example.answers.len());
            start += example.answers.len();
        }
        let ranked = RrhfBatch { policy: policy.completions(), rewards: &rewards, groups: &groups };
        let out = self.evaluate(&ranked, pass.means());
        let (num_prompts, rescale) = (groups.len() as f64, pass.normalizer);
        stats.add("rank_loss", out.rank_loss * rescale, num_prompts);
        stats.add("sft_loss", out.sft_loss * rescale, num_prompts);
        let (right, all) = out.ranked_right;
        if all > 0 {
            stats.add("rewards/accuracies", right as f64, all as f64);
        }
        for (index, span) in policy.spans.iter().enumerate() {
            stats.add("entropy", policy.sum(index, |token| f64::from(token.entropy)), span.len() as f64);
        }
        out.total
    }
}
