//! REINFORCE with a leave-one-out baseline on sampled completions. Leaves its loss to `losses`.

use super::forward::{self, Grads};
use super::learner::Learner;
use super::plan::Shape;
use super::{Online, Sample, check_divergence};
use crate::config::RlooConfig;
use crate::error::TrainError;
use crate::losses::{Clipped, leave_one_out, rloo};
use crate::run::logprobs::Role;
use crate::run::method::{Pass, Stats};
use crate::run::model::Model;

/// The method.
pub(crate) struct Rloo {
    config: RlooConfig,
}

/// A sample and what its loss needs.
pub(crate) struct Unit {
    sample: Sample,
    advantage: f64,
    /// Of the policy that sampled, by the trainer.
    old_logprobs: Vec<f64>,
}

impl Rloo {
    pub(crate) fn new(config: &RlooConfig) -> Self {
        Self { config: config.clone() }
    }
}

impl Learner for Rloo {
    type Unit = Unit;

    fn num_completions(&self) -> usize {
        self.config.num_generations
    }

    fn shape(&self, _: usize) -> Shape {
        Shape {
            units_per_prompt: self.config.num_generations,
            batches_per_rollout: self.config.steps_per_generation,
            epochs_per_rollout: self.config.num_iterations,
            reshuffles: false,
        }
    }

    fn units(
        &mut self,
        online: &Online,
        model: &mut Model,
        samples: Vec<Sample>,
        stats: &mut Stats,
    ) -> Result<Vec<Unit>, TrainError> {
        let config = &self.config;
        let texts = online.texts(&samples);
        let (temperature, batch_size) =
            (config.rollout.temperature, config.train.per_device_train_batch_size);
        let old = forward::logprobs(model, &texts, Role::Policy(None), temperature, batch_size)?;
        let mut rewards: Vec<f64> = samples.iter().map(|sample| sample.reward).collect();
        if let Some([low, high]) = config.reward_clip_range {
            let known = rewards.iter_mut().filter(|reward| !reward.is_nan());
            known.for_each(|reward| *reward = reward.clamp(low, high));
        }
        if config.beta != 0.0 {
            let reference = forward::logprobs(model, &texts, Role::Reference, temperature, batch_size)?;
            let advice = "raise beta, or lower learning_rate or num_iterations";
            check_divergence(&samples, &reference, config.max_kl, advice)?;
            for ((reward, old), reference) in rewards.iter_mut().zip(&old).zip(&reference) {
                let kl: f64 = old.iter().zip(reference).map(|(old, reference)| old - reference).sum();
                stats.add("kl", kl, old.len() as f64);
                *reward -= config.beta * kl;
            }
        }
        let advantages = leave_one_out(&rewards, config.num_generations, config.normalize_advantages);
        let units = samples.into_iter().zip(advantages).zip(old);
        Ok(units
            .map(|((sample, advantage), old_logprobs)| Unit { sample, advantage, old_logprobs })
            .collect())
    }

    fn num_tokens(&self, online: &Online, unit: &Unit) -> Option<usize> {
        Some(online.num_tokens(&unit.sample))
    }

    fn learn(
        &self,
        online: &Online,
        model: &mut Model,
        units: &[&Unit],
        pass: Pass,
    ) -> Result<Stats, TrainError> {
        let texts = online.texts(units.iter().map(|unit| &unit.sample));
        let role = Role::Policy(pass.dropout_seed);
        let policy = model.token_logprobs_at(&texts, role, self.config.rollout.temperature)?;
        let mut stats = Stats { num_tokens: policy.num_tokens, ..Stats::default() };
        let mut grads = Grads::new(&policy);
        for (index, unit) in units.iter().enumerate() {
            let logprobs = policy.of(index);
            let count = logprobs.len();
            let is_masked = self.config.mask_truncated_completions && !unit.sample.completion.is_complete;
            let out = match is_masked {
                // Its ratio is 1 whatever the policy, so that it moves nothing.
                true => rloo(&[], &[], unit.advantage, self.config.clip()),
                false => rloo(logprobs, &unit.old_logprobs, unit.advantage, self.config.clip()),
            };
            stats.loss += out.loss / pass.normalizer;
            let slope = if is_masked { 0.0 } else { out.slope / pass.normalizer };
            grads.set(&policy, index, std::iter::repeat_n(slope, count), 0.0);
            stats.add("entropy", policy.entropy(index), count as f64);
            let is = |clipped: bool| f64::from(u8::from(clipped));
            stats.add("clip_ratio/low_mean", is(out.clipped == Clipped::Low), 1.0);
            stats.add("clip_ratio/high_mean", is(out.clipped == Clipped::High), 1.0);
            stats.add("clip_ratio/region_mean", is(out.clipped != Clipped::No), 1.0);
        }
        if pass.dropout_seed.is_some() {
            grads.backward(model, &policy, None);
        }
        Ok(stats)
    }
}
