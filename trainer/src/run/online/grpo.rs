//! Group-relative policy optimisation of sampled completions. Leaves its loss to `losses`.

use super::forward::{self, Grads};
use super::learner::Learner;
use super::plan::Shape;
use super::{Online, Sample, check_divergence};
use crate::config::GrpoConfig;
use crate::error::TrainError;
use crate::losses::{GrpoCompletion, group_advantages, grpo, importance_ratios, token_weights};
use crate::run::logprobs::Role;
use crate::run::method::{Pass, Stats};
use crate::run::model::Model;

/// The method.
pub(crate) struct Grpo {
    config: GrpoConfig,
    /// Tokens of a batch that bear loss, in the mean over the rollout.
    mean_tokens: f64,
}

/// A sample and what its loss needs.
pub(crate) struct Unit {
    sample: Sample,
    advantage: f64,
    /// Of the policy that sampled, by the trainer; empty if the rollout is used once.
    old_logprobs: Vec<f64>,
    /// Empty without `beta`.
    ref_logprobs: Vec<f64>,
}

impl Grpo {
    pub(crate) fn new(config: &GrpoConfig) -> Self {
        Self { config: config.clone(), mean_tokens: 1.0 }
    }

    /// Tokens of a completion that bear loss.
    fn num_tokens(&self, sample: &Sample) -> usize {
        let is_masked = self.config.mask_truncated_completions && !sample.completion.is_complete;
        if is_masked { 0 } else { sample.completion.tokens.len() }
    }

    /// Batches that are sampled for at once.
    fn batches_per_rollout(&self) -> usize {
        match self.config.steps_per_generation {
            0 => self.config.train.gradient_accumulation_steps,
            batches => batches,
        }
    }

    /// Weights for the difference between the sampler and the trainer.
    fn ratios(&self, old_logprobs: &[f64], sample: &Sample, stats: &mut Stats) -> Vec<f64> {
        let config = &self.config;
        if !config.vllm_importance_sampling_correction {
            return Vec::new();
        }
        let sampled = sample.logprobs();
        let (min, max) = (config.vllm_importance_sampling_clip_min, config.vllm_importance_sampling_clip_max);
        let ratios =
            importance_ratios(old_logprobs, &sampled, config.vllm_importance_sampling_mode, min, max);
        let count = ratios.len() as f64;
        let difference: f64 = old_logprobs.iter().zip(&sampled).map(|(old, new)| (old - new).abs()).sum();
        stats.add("sampling/sampling_logp_difference/mean", difference, count);
        stats.add("sampling/importance_sampling_ratio/mean", ratios.iter().sum(), count);
        ratios
    }
}

impl Learner for Grpo {
    type Unit = Unit;

    fn num_completions(&self) -> usize {
        self.config.num_generations
    }

    fn shape(&self, _: usize) -> Shape {
        Shape {
            units_per_prompt: self.config.num_generations,
            batches_per_rollout: self.batches_per_rollout(),
            epochs_per_rollout: self.config.num_iterations,
            reshuffles: false,
        }
    }

    fn units(
        &mut self,
        online: &Online,
        model: &mut Model,
        samples: Vec<Sample>,
        _: &mut Stats,
    ) -> Result<Vec<Unit>, TrainError> {
        let config = &self.config;
        let rewards: Vec<f64> = samples.iter().map(|sample| sample.reward).collect();
        let advantages = group_advantages(&rewards, config.num_generations, config.scale_rewards);
        let texts = online.texts(&samples);
        let mut ask = |wanted: bool, role: Role| match wanted {
            true => {
                let batch_size = config.train.per_device_train_batch_size;
                forward::logprobs(model, &texts, role, config.rollout.temperature, batch_size)
            }
            false => Ok(vec![Vec::new(); texts.len()]),
        };
        let is_used_once = self.batches_per_rollout() == config.train.gradient_accumulation_steps
            && config.num_iterations == 1;
        let old = ask(!is_used_once, Role::Policy(None))?;
        let reference = ask(config.beta != 0.0, Role::Reference)?;
        if config.beta != 0.0 {
            let advice = "raise beta, or lower learning_rate or num_iterations";
            check_divergence(&samples, &reference, config.max_kl, advice)?;
        }
        let tokens: usize = samples.iter().map(|sample| self.num_tokens(sample)).sum();
        self.mean_tokens = tokens as f64 / self.batches_per_rollout() as f64;
        let units = samples.into_iter().zip(advantages).zip(old.into_iter().zip(reference));
        let unit = |((sample, advantage), (old_logprobs, ref_logprobs))| Unit {
            sample,
            advantage,
            old_logprobs,
            ref_logprobs,
        };
        Ok(units.map(unit).collect())
    }

    fn learn(
        &self,
        online: &Online,
        model: &mut Model,
        units: &[&Unit],
        pass: Pass,
    ) -> Result<Stats, TrainError> {
        let config = &self.config;
        let texts = online.texts(units.iter().map(|unit| &unit.sample));
        let role = Role::Policy(pass.dropout_seed);
        let policy = model.token_logprobs_at(&texts, role, config.rollout.temperature)?;
        let lengths: Vec<usize> = units.iter().map(|unit| self.num_tokens(&unit.sample)).collect();
        let total = lengths.iter().sum::<usize>().max(1) as f64;
        let max_length = config.rollout.max_completion_length;
        let weights = token_weights(config.loss_type, &lengths, max_length, self.mean_tokens);
        // Every batch is its share of the step.
        let share = units.len() as f64 / pass.normalizer;
        let settings = config.loss();
        let mut stats = Stats { num_tokens: policy.num_tokens, ..Stats::default() };
        let mut grads = Grads::new(&policy);
        for (index, unit) in units.iter().enumerate().filter(|(index, _)| lengths[*index] > 0) {
            let logprobs = policy.of(index);
            let old = if unit.old_logprobs.is_empty() { logprobs } else { &unit.old_logprobs };
            let ratios = self.ratios(old, &unit.sample, &mut stats);
            let completion = GrpoCompletion {
                logprobs,
                old_logprobs: &unit.old_logprobs,
                ref_logprobs: &unit.ref_logprobs,
                importance_ratios: &ratios,
                advantage: unit.advantage,
            };
            let out = grpo(&settings, &completion);
            let (weight, entropy) = (share * weights[index], policy.entropy(index));
            let entropy_weight = share * config.entropy_coef / total;
            stats.loss += weight * out.loss - entropy_weight * entropy;
            grads.set(&policy, index, out.grad.iter().map(|grad| weight * grad), -entropy_weight);
            let count = lengths[index] as f64;
            if config.beta != 0.0 {
                stats.add("kl", out.kl, count);
            }
            stats.add("entropy", entropy, count);
            stats.add("clip_ratio/low_mean", count * out.clipped_low, count);
            stats.add("clip_ratio/high_mean", count * out.clipped_high, count);
            stats.add("clip_ratio/region_mean", count * (out.clipped_low + out.clipped_high), count);
        }
        if pass.dropout_seed.is_some() {
            grads.backward(model, &policy, None);
        }
        Ok(stats)
    }
}
