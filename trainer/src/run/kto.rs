//! Kahneman–Tversky optimisation for the loop: the mismatched answers its KL estimate needs, and what the reference says
//! of them. Leaves its loss to `losses`.

use rectify_feedback::UnpairedLine;

use super::json;
use super::logprobs::{Asked, Role, TokenLogprobs};
use super::method::{Pass, Split, Stats};
use super::model::Model;
use super::offline::{self, Example, Objective, lengths};
use super::progress::{Control, Progress, TrainReport};
use super::reference::Reference;
use crate::config::KtoConfig;
use crate::data::{Answers, Fingerprint, Splits};
use crate::error::TrainError;
use crate::losses::{KtoBatch, KtoLoss, Reduction, TokenLoss};

/// Kahneman–Tversky optimisation on `prompt`/`completion`/`label` lines, or pairs taken apart.
///
/// # Errors
/// One sentence that names the setting, file or line; see [`TrainError`].
pub fn train_kto(config: &KtoConfig, control: &mut Control<'_>) -> Result<TrainReport, TrainError> {
    config.validate()?;
    let settings = (&config.train, json(config)?);
    offline::train(
        "kto",
        settings,
        config.disable_dropout,
        |examples, model, control| Kto::new(config, examples, model, control),
        control,
    )
}

/// The loss and what the reference says of each answer, and of the answer that its prompt is mismatched with.
pub(crate) struct Kto {
    loss: KtoLoss,
    reference: Reference<[f64; 2]>,
    /// Whose answer each example's prompt is mismatched with, by split.
    partners: [Vec<usize>; 2],
    max_length: usize,
}

/// What is known before the policy's pass.
#[derive(Default)]
pub(crate) struct Before {
    reference: Vec<[f64; 2]>,
    /// Of the policy, for mismatched answers; empty if there is no KL estimate.
    mismatched: Vec<f64>,
}

impl Kto {
    pub(crate) fn new(
        config: &KtoConfig,
        examples: &Splits<Example<Self>>,
        model: &Model,
        control: &mut Control<'_>,
    ) -> Result<Self, TrainError> {
        let loss = config.loss();
        let num_liked = examples.train.iter().filter(|example| example.label).count();
        let num_disliked = examples.train.len() - num_liked;
        if num_liked == 0 || num_disliked == 0 {
            let (all, none) = if num_liked == 0 { ("false", "true") } else { ("true", "false") };
            let sentence = format!(
                "every label of the training data is {all}: without any that is {none} the policy learns only to write \
                 such answers {} often",
                if num_liked == 0 { "less" } else { "more" }
            );
            (control.progress)(&Progress::Warning(sentence));
        } else if let Some(sentence) = imbalance(config, num_liked as f64, num_disliked as f64) {
            (control.progress)(&Progress::Warning(sentence));
        }
        if loss.needs_kl() && examples.train.len() == 1 {
            let reason = "kto needs at least two examples, for the answer of one is what another's prompt is mismatched \
                          with; give more data or set loss_type to apo_zero_unpaired";
            return Err(TrainError::config("data", reason));
        }
        let partners = [&examples.train, &examples.eval].map(|examples| partners(examples));
        Ok(Self {
            loss,
            reference: Reference::new(
                &config.train,
                config.precompute_ref_log_probs,
                lengths(examples),
                None,
            ),
            partners,
            max_length: model.max_length(&config.train),
        })
    }

    /// The prompts of examples with the answers of their partners.
    fn mismatched(&self, examples: &[Example<Self>], split: Split, indices: &[usize]) -> Vec<Asked> {
        let mismatch = |index: &usize| {
            let partner = &examples[self.partners[split as usize][*index]];
            let mut asked = Asked::completion(&examples[*index].prompt, &partner.answers[0]);
            asked.ids.truncate(self.max_length);
            asked
        };
        indices.iter().map(mismatch).collect()
    }

    fn ask(
        &self,
        examples: &[Example<Self>],
        model: &mut Model,
        (split, indices): (Split, &[usize]),
    ) -> Result<Vec<[f64; 2]>, TrainError> {
        let asked: Vec<Asked> = indices.iter().flat_map(|index| self.asked(&examples[*index])).collect();
        let matched = sums(&model.token_logprobs(&asked, Role::Reference)?);
        let mismatched = if self.loss.needs_kl() {
            let asked = self.mismatched(examples, split, indices);
            sums(&model.token_logprobs(&asked, Role::Reference)?)
        } else {
            vec![0.0; matched.len()]
        };
        Ok(matched.into_iter().zip(mismatched).map(<[f64; 2]>::from).collect())
    }
}

/// `ln π(y|x)` of each text.
fn sums(logprobs: &TokenLogprobs) -> Vec<f64> {
    let completions = logprobs.completions();
    (0..logprobs.spans.len()).map(|text| completions.reduce(text, Reduction::Sum)).collect()
}

/// The nearest example before each one, around the end, that has another prompt, as far as there is one: TRL's rotation
/// of answers by one, but never onto another answer to the same prompt.
fn partners<L>(examples: &[Answers<L>]) -> Vec<usize> {
    let count = examples.len();
    let before = |index: usize, steps: usize| (index + count - steps) % count;
    let partner = |index: usize| {
        let others = (1..count).map(|steps| before(index, steps));
        others
            .take(64)
            .find(|other| examples[*other].prompt != examples[index].prompt)
            .unwrap_or_else(|| before(index, 1))
    };
    (0..count).map(partner).collect()
}

/// Weights that the data ask for, if the configured ones are not such: Eq. 9 of the paper, as TRL warns.
fn imbalance(config: &KtoConfig, liked: f64, disliked: f64) -> Option<String> {
    let (low, high) = (disliked * config.undesirable_weight / liked, 1.33);
    let within = |weight: f64, low: f64, high: f64| (low - 0.005..=high + 0.005).contains(&weight);
    let other = liked * config.desirable_weight / disliked;
    let fits = within(config.desirable_weight, low, low * high)
        || within(config.undesirable_weight, other / high, other);
    (!fits).then(|| {
        format!(
            "{liked} answers are liked and {disliked} are not: set either desirable_weight between {low:.2} and {:.2}, or \
             undesirable_weight between {:.2} and {other:.2}",
            low * high,
            other / high
        )
    })
}

impl Objective for Kto {
    type Line = UnpairedLine;
    type Before = Before;

    fn hash_label(&self, liked: &bool, fingerprint: &mut Fingerprint) {
        fingerprint.flags(&[*liked]);
    }

    /// The estimate of the KL and the margins are the batch's.
    fn is_separable(&self) -> bool {
        false
    }

    fn start(
        &self,
        examples: &Splits<Example<Self>>,
        model: &mut Model,
        control: &mut Control<'_>,
    ) -> Result<(), TrainError> {
        self.reference.start(model, control, |model, split, indices| {
            self.ask(split.of(examples), model, (split, indices))
        })
    }

    fn before(
        &self,
        examples: &[Example<Self>],
        model: &mut Model,
        (split, batch): (Split, &[usize]),
    ) -> Result<Before, TrainError> {
        let reference = self
            .reference
            .get(model, split, batch, |model, unknown| self.ask(examples, model, (split, unknown)))?;
        let mismatched = if self.loss.needs_kl() {
            let asked = self.mismatched(examples, split, batch);
            sums(&model.token_logprobs(&asked, Role::Policy(None))?)
        } else {
            Vec::new()
        };
        Ok(Before { reference, mismatched })
    }

    fn evaluate(
        &self,
        batch: &[&Example<Self>],
        before: Before,
        policy: &TokenLogprobs,
        pass: Pass,
        stats: &mut Stats,
    ) -> TokenLoss {
        let differences: Vec<f64> = before
            .mismatched
            .iter()
            .zip(&before.reference)
            .map(|(policy, [_, reference])| policy - reference)
            .collect();
        let kl = KtoLoss::kl(&differences);
        let reference: Vec<f64> = before.reference.iter().map(|[matched, _]| *matched).collect();
        let labels: Vec<bool> = batch.iter().map(|example| example.label).collect();
        let examples = KtoBatch { policy: policy.completions(), reference: &reference, labels: &labels, kl };
        let out = self.loss.evaluate(&examples, pass.means());
        stats.add("kl", kl, 1.0);
        let mut means = [(0.0, 0.0); 2];
        for (index, liked) in labels.iter().enumerate() {
            let side = if *liked { "chosen" } else { "rejected" };
            let reward = self.loss.beta * out.log_ratios[index];
            stats.add(&format!("rewards/{side}"), reward, 1.0);
            stats.add(&format!("logps/{side}"), out.logprobs[index], 1.0);
            let mean = &mut means[usize::from(!liked)];
            *mean = (mean.0 + reward, mean.1 + 1.0);
            let count = policy.spans[index].len() as f64;
            stats.add(
                &format!("logits/{side}"),
                policy.sum(index, |token| f64::from(token.mean_logit)),
                count,
            );
            stats.add("entropy", policy.sum(index, |token| f64::from(token.entropy)), count);
        }
        let [(liked, num_liked), (disliked, num_disliked)] = means;
        if num_liked > 0.0 && num_disliked > 0.0 {
            stats.add("rewards/margins", liked / num_liked - disliked / num_disliked, 1.0);
        }
        out.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(prompts: &[u32]) -> Vec<Answers<()>> {
        let example = |prompt: &u32| Answers { prompt: vec![*prompt], answers: vec![vec![1]], label: () };
        prompts.iter().map(example).collect()
    }

    #[test]
    fn a_prompt_meets_the_answer_of_the_nearest_other_prompt_before_it() {
        assert_eq!(partners(&examples(&[1, 2, 3])), [2, 0, 1]);
        assert_eq!(partners(&examples(&[1, 1, 2, 2])), [3, 3, 1, 1]);
        assert_eq!(partners(&examples(&[5, 5])), [1, 0]);
        assert!(partners(&examples(&[])).is_empty());
    }

    #[test]
    fn weights_that_do_not_fit_the_data_are_said() {
        let config = KtoConfig::default();
        assert_eq!(imbalance(&config, 100.0, 100.0), None);
        let sentence = imbalance(&config, 100.0, 300.0).unwrap();
        assert!(sentence.contains("desirable_weight between 3.00 and 3.99"), "{sentence}");
        assert_eq!(imbalance(&KtoConfig { desirable_weight: 3.2, ..config }, 100.0, 300.0), None);
    }
}
