//! Methods that make pairs of samples: online preference optimisation and self-play. Leaves the loss of a pair to `losses`.

use super::forward::{self, Grads};
use super::learner::Learner;
use super::plan::Shape;
use super::raft::best;
use super::{Online, Sample, check_divergence};
use crate::config::{OnlineDpoConfig, PairLossType, SpinConfig, TrainConfig};
use crate::error::TrainError;
use crate::run::logprobs::{Asked, Role};
use crate::run::method::{Pass, Stats};
use crate::run::model::Model;

/// Who is chosen, who is rejected, and who is the reference.
pub(crate) enum Pairing {
    /// The best and the worst completion by reward; the reference is the base.
    Judged(OnlineDpoConfig),
    /// A human's answer and the policy's own; the reference is the policy that sampled, the opponent of this round.
    SelfPlay(SpinConfig),
}

/// The methods.
pub(crate) struct Pairs {
    pairing: Pairing,
}

/// A pair, chosen first.
pub(crate) struct Unit {
    prompt: usize,
    answers: [Vec<u32>; 2],
    /// Of whole answers under the reference.
    ref_logprobs: [f64; 2],
    /// Not so if no judge can tell which answer is better.
    is_learnt: bool,
}

impl Pairs {
    pub(crate) fn new(pairing: Pairing) -> Self {
        Self { pairing }
    }

    fn train(&self) -> &TrainConfig {
        match &self.pairing {
            Pairing::Judged(config) => &config.train,
            Pairing::SelfPlay(config) => &config.train,
        }
    }

    /// Temperature of the policy that is trained.
    fn temperature(&self) -> f32 {
        match &self.pairing {
            Pairing::Judged(config) => config.rollout.temperature,
            Pairing::SelfPlay(config) => config.rollout.temperature,
        }
    }

    fn beta(&self) -> f64 {
        match &self.pairing {
            Pairing::Judged(config) => config.beta,
            Pairing::SelfPlay(config) => config.beta,
        }
    }

    /// Loss of a pair and its slope to `h`, the difference of both answers' log-ratios to the reference.
    fn loss(&self, h: f64) -> (f64, f64) {
        let beta = self.beta();
        match &self.pairing {
            Pairing::Judged(OnlineDpoConfig { loss_type: PairLossType::Ipo, .. }) => {
                let error = h - 0.5 / beta;
                (error * error, 2.0 * error)
            }
            // SPIN's is the same logistic loss (arXiv:2401.01335, Eq. 4.7).
            Pairing::Judged(_) | Pairing::SelfPlay(_) => {
                let loss = crate::losses::bradley_terry(beta * h, 0.0, 0.0, 0.0);
                (loss.loss, beta * loss.grad_chosen)
            }
        }
    }
}

fn texts<'a>(online: &Online, units: impl Iterator<Item = &'a Unit>) -> Vec<Asked> {
    units.flat_map(|unit| unit.answers.iter().map(|answer| online.text(unit.prompt, answer))).collect()
}

impl Learner for Pairs {
    type Unit = Unit;

    fn num_completions(&self) -> usize {
        match &self.pairing {
            Pairing::Judged(config) => config.num_generations,
            Pairing::SelfPlay(_) => 1,
        }
    }

    fn shape(&self, num_prompts: usize) -> Shape {
        let (batches_per_rollout, epochs_per_rollout) = match &self.pairing {
            Pairing::Judged(config) => (config.steps_per_generation, config.num_iterations),
            Pairing::SelfPlay(config) => {
                let round = Shape::round(&config.train, num_prompts, config.steps_per_generation);
                (round, config.num_iterations)
            }
        };
        Shape { units_per_prompt: 1, batches_per_rollout, epochs_per_rollout, reshuffles: true }
    }

    fn units(
        &mut self,
        online: &Online,
        model: &mut Model,
        mut samples: Vec<Sample>,
        stats: &mut Stats,
    ) -> Result<Vec<Unit>, TrainError> {
        let pair = |prompt, answers, is_learnt| Unit { prompt, answers, ref_logprobs: [0.0; 2], is_learnt };
        let mut units: Vec<Unit> = match &self.pairing {
            Pairing::SelfPlay(_) => {
                let own = samples.into_iter().map(|sample| {
                    let human = online.prompts.train[sample.prompt].answer.clone();
                    pair(sample.prompt, [human, sample.completion.tokens], true)
                });
                own.collect()
            }
            Pairing::Judged(config) => {
                let cut = samples.iter_mut().filter(|sample| !sample.completion.is_complete);
                cut.for_each(|sample| sample.reward -= config.missing_eos_penalty);
                if config.max_kl > 0.0 {
                    let texts = online.texts(&samples);
                    let batch_size = 2 * config.train.per_device_train_batch_size;
                    let reference =
                        forward::logprobs(model, &texts, Role::Reference, self.temperature(), batch_size)?;
                    let advice = "raise beta, or lower learning_rate or num_iterations";
                    check_divergence(&samples, &reference, config.max_kl, advice)?;
                }
                let judged = samples.chunks(config.num_generations).map(|samples| {
                    let (chosen, rejected) = (best(samples), worst(samples));
                    let margin = samples[chosen].reward - samples[rejected].reward;
                    if !margin.is_nan() {
                        stats.add("objective/scores_margin", margin, 1.0);
                    }
                    let tokens = |index: usize| samples[index].completion.tokens.clone();
                    pair(samples[chosen].prompt, [tokens(chosen), tokens(rejected)], !margin.is_nan())
                });
                judged.collect()
            }
        };
        let role = match self.pairing {
            Pairing::Judged(_) => Role::Reference,
            Pairing::SelfPlay(_) => Role::Policy(None),
        };
        let batch_size = 2 * self.train().per_device_train_batch_size;
        let asked = texts(online, units.iter());
        let reference = forward::logprobs(model, &asked, role, self.temperature(), batch_size)?;
        for (unit, logprobs) in units.iter_mut().zip(reference.chunks_exact(2)) {
            unit.ref_logprobs = [logprobs[0].iter().sum(), logprobs[1].iter().sum()];
        }
        Ok(units)
    }

    fn weight(&self, unit: &Unit) -> f64 {
        f64::from(u8::from(unit.is_learnt))
    }

    fn learn(
        &self,
        online: &Online,
        model: &mut Model,
        units: &[&Unit],
        pass: Pass,
    ) -> Result<Stats, TrainError> {
        let units: Vec<&Unit> = units.iter().copied().filter(|unit| unit.is_learnt).collect();
        if units.is_empty() {
            return Ok(Stats::default());
        }
        let texts = texts(online, units.iter().copied());
        let role = Role::Policy(pass.dropout_seed);
        let policy = model.token_logprobs_at(&texts, role, self.temperature())?;
        let mut stats = Stats { num_tokens: policy.num_tokens, ..Stats::default() };
        let mut grads = Grads::new(&policy);
        let beta = self.beta();
        for (index, unit) in units.iter().enumerate() {
            let logprobs: [f64; 2] = [0, 1].map(|side| policy.of(2 * index + side).iter().sum());
            let [chosen, rejected] = [0, 1].map(|side| logprobs[side] - unit.ref_logprobs[side]);
            let (loss, slope) = self.loss(chosen - rejected);
            stats.loss += loss / pass.normalizer;
            for (side, sign) in [(0, 1.0), (1, -1.0)] {
                let slopes = std::iter::repeat_n(sign * slope / pass.normalizer, unit.answers[side].len());
                grads.set(&policy, 2 * index + side, slopes, 0.0);
                let count = unit.answers[side].len() as f64;
                stats.add("entropy", policy.entropy(2 * index + side), count);
            }
            stats.add("objective/kl", chosen + rejected, 2.0);
            stats.add("rewards/chosen", beta * chosen, 1.0);
            stats.add("rewards/rejected", beta * rejected, 1.0);
            stats.add("rewards/margins", beta * (chosen - rejected), 1.0);
            stats.add("rewards/accuracies", f64::from(u8::from(chosen > rejected)), 1.0);
            stats.add("logps/chosen", logprobs[0], 1.0);
            stats.add("logps/rejected", logprobs[1], 1.0);
        }
        if pass.dropout_seed.is_some() {
            grads.backward(model, &policy, None);
        }
        Ok(stats)
    }
}

/// Index of the lowest reward, another than the best: the higher of equals, the last if none is known.
fn worst(samples: &[Sample]) -> usize {
    let best = best(samples);
    let known =
        samples.iter().enumerate().filter(|(index, sample)| *index != best && !sample.reward.is_nan());
    let worst = known.rev().min_by(|a, b| a.1.reward.total_cmp(&b.1.reward));
    worst.map_or(samples.len() - 1, |(index, _)| index)
}
