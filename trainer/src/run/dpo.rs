//! Direct preference optimisation for the loop. Leaves its losses to `losses`.

use rectify_feedback::PreferenceRecord;

use super::json;
use super::logprobs::{Asked, Role, TokenLogprobs};
use super::method::{Pass, Split, Stats};
use super::model::Model;
use super::offline::{self, Example, Objective, lengths};
use super::pairs;
use super::progress::{Control, TrainReport};
use super::reference::Reference;
use crate::config::DpoConfig;
use crate::data::Splits;
use crate::error::TrainError;
use crate::losses::{DpoBatch, DpoLoss, DpoLossType, TokenLoss};

/// Direct preference optimisation on `prompt`/`chosen`/`rejected` lines.
///
/// # Errors
/// One sentence that names the setting, file or line; see [`TrainError`].
pub fn train_dpo(config: &DpoConfig, control: &mut Control<'_>) -> Result<TrainReport, TrainError> {
    config.validate()?;
    let settings = (&config.train, json(config)?);
    offline::train(
        "dpo",
        settings,
        config.disable_dropout,
        |examples, _, _| Ok(Dpo::new(config, examples)),
        control,
    )
}

/// The loss and what the reference says.
pub(crate) struct Dpo {
    loss: DpoLoss,
    use_weighting: bool,
    reference: Reference<[f64; 2]>,
}

impl Dpo {
    pub(crate) fn new(config: &DpoConfig, examples: &Splits<Example<Self>>) -> Self {
        let absent = config.reference_free.then_some([0.0; 2]);
        let precompute = config.precompute_ref_log_probs;
        Self {
            loss: config.loss(),
            use_weighting: config.use_weighting,
            reference: Reference::new(&config.train, precompute, lengths(examples), absent),
        }
    }

    fn ask(
        &self,
        examples: &[Example<Self>],
        model: &mut Model,
        indices: &[usize],
    ) -> Result<Vec<[f64; 2]>, TrainError> {
        let asked: Vec<Asked> = indices.iter().flat_map(|index| self.asked(&examples[*index])).collect();
        let logprobs = model.token_logprobs(&asked, Role::Reference)?;
        let completions = logprobs.completions();
        let reduce = |pair: usize| {
            let [chosen, rejected] = [2 * pair, 2 * pair + 1];
            let reduction =
                self.loss.reduction(completions.num_tokens(chosen), completions.num_tokens(rejected));
            [chosen, rejected].map(|answer| completions.reduce(answer, reduction))
        };
        Ok((0..indices.len()).map(reduce).collect())
    }
}

impl Objective for Dpo {
    type Line = PreferenceRecord;
    type Before = Vec<[f64; 2]>;

    fn loss_tokens(&self, example: &Example<Self>) -> f64 {
        let likelihood = self.loss.terms.iter().any(|(loss_type, _)| *loss_type == DpoLossType::Sft);
        if likelihood { example.num_learnt(0) as f64 } else { 0.0 }
    }

    fn is_separable(&self) -> bool {
        !self.loss.terms.iter().any(|(loss_type, _)| loss_type.is_of_batch())
    }

    fn start(
        &self,
        examples: &Splits<Example<Self>>,
        model: &mut Model,
        control: &mut Control<'_>,
    ) -> Result<(), TrainError> {
        self.reference
            .start(model, control, |model, split, indices| self.ask(split.of(examples), model, indices))
    }

    fn before(
        &self,
        examples: &[Example<Self>],
        model: &mut Model,
        (split, batch): (Split, &[usize]),
    ) -> Result<Vec<[f64; 2]>, TrainError> {
        self.reference.get(model, split, batch, |model, unknown| self.ask(examples, model, unknown))
    }

    fn evaluate(
        &self,
        _: &[&Example<Self>],
        reference: Vec<[f64; 2]>,
        policy: &TokenLogprobs,
        pass: Pass,
        stats: &mut Stats,
    ) -> TokenLoss {
        let weights = self.use_weighting.then(|| weights(policy));
        let batch =
            DpoBatch { policy: policy.completions(), reference: &reference, weights: weights.as_deref() };
        let out = self.loss.evaluate(&batch, pass.means());
        let rewards: Vec<[f64; 2]> =
            out.log_ratios.iter().map(|ratios| ratios.map(|ratio| self.loss.beta * ratio)).collect();
        pairs::add_metrics(stats, policy, &rewards, &out.logprobs);
        out.total
    }
}

/// WPO's weight of each pair: the product of its answers' `exp(mean of ln π(y_t) − ln Σ π²)`, Zhou et al. 2024
/// (arXiv:2406.11827), Eq. 2.
fn weights(policy: &TokenLogprobs) -> Vec<f64> {
    let aligned = |index: usize| {
        let sum = policy.sum(index, |token| f64::from(token.logprob) - f64::from(token.log_sum_sq_probs));
        sum / policy.spans[index].len().max(1) as f64
    };
    (0..policy.spans.len() / 2).map(|pair| (aligned(2 * pair) + aligned(2 * pair + 1)).exp()).collect()
}
