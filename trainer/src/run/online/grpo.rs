//! Group-relative policy optimisation for the loop. Leaves its loss to `losses`, sampling to [`Online`].

use super::forward::{self, Text};
use super::plan::{Plan, Shape};
use super::{Online, Sample};
use crate::config::GrpoConfig;
use crate::error::TrainError;
use crate::losses::{GrpoCompletion, group_advantages, grpo, importance_ratios, token_weights};
use crate::run::method::{Method, Pass, Split, Stats};
use crate::run::model::Model;
use crate::run::progress::Control;
use crate::run::steps::Steps;

/// The method and the samples it learns from at the moment.
pub(crate) struct Grpo {
    online: Online,
    config: GrpoConfig,
    plan: Plan,
    samples: Vec<Learnt>,
    /// Tokens of a batch that bear loss, in the mean over the rollout.
    mean_tokens: f64,
}

/// A sample and what its loss needs.
struct Learnt {
    sample: Sample,
    advantage: f64,
    /// Of the policy that sampled, by the trainer; empty if the rollout is used once.
    old_logprobs: Vec<f64>,
    /// Empty without `beta`.
    ref_logprobs: Vec<f64>,
}

impl Grpo {
    pub(crate) fn load(config: &GrpoConfig, model: &Model) -> Result<Self, TrainError> {
        let online = Online::load(&config.train, &config.rollout, model)?;
        let shape = Shape {
            samples_per_prompt: config.num_generations,
            batches_per_rollout: config.steps_per_generation,
            epochs_per_rollout: config.num_iterations,
            reshuffles: false,
        };
        let plan = Plan::new(&config.train, online.prompts.train.len(), shape)
            .map_err(|reason| TrainError::config("per_device_train_batch_size", reason))?;
        Ok(Self { online, config: config.clone(), plan, samples: Vec::new(), mean_tokens: 1.0 })
    }

    /// Prompts that were left out because they are too long.
    pub(crate) fn num_left_out(&self) -> usize {
        self.online.num_left_out
    }

    /// Tokens of a completion that bear loss.
    fn num_tokens(&self, sample: &Sample) -> usize {
        let is_masked = self.config.mask_truncated_completions && !sample.completion.is_complete;
        if is_masked { 0 } else { sample.completion.tokens.len() }
    }

    fn texts<'a>(&'a self, samples: impl Iterator<Item = &'a Sample>) -> Vec<Text<'a>> {
        let prompts = self.online.of(Split::Train);
        let text =
            |sample: &'a Sample| (prompts[sample.prompt].ids.as_slice(), sample.completion.tokens.as_slice());
        samples.map(text).collect()
    }

    /// Weights for the difference between the sampler and the trainer.
    fn ratios(&self, old_logprobs: &[f64], sample: &Sample, stats: &mut Stats) -> Vec<f64> {
        let config = &self.config;
        if !config.vllm_importance_sampling_correction {
            return Vec::new();
        }
        let sampled: Vec<f64> =
            sample.completion.logprobs.iter().map(|logprob| f64::from(*logprob)).collect();
        let (min, max) = (config.vllm_importance_sampling_clip_min, config.vllm_importance_sampling_clip_max);
        let ratios =
            importance_ratios(old_logprobs, &sampled, config.vllm_importance_sampling_mode, min, max);
        let count = ratios.len() as f64;
        let difference: f64 = old_logprobs.iter().zip(&sampled).map(|(old, new)| (old - new).abs()).sum();
        stats.add("sampling/sampling_logp_difference/mean", difference, count);
        stats.add("sampling/importance_sampling_ratio/mean", ratios.iter().sum(), count);
        ratios
    }

    fn evaluate(&self, model: &mut Model, prompts: &[usize]) -> Result<Stats, TrainError> {
        // The same seeds at every evaluation, for a fair comparison.
        let round = prompts.first().copied().unwrap_or(0);
        let (samples, mut stats) = self.online.rollout(model, Split::Eval, prompts, 1, round)?;
        stats.num_tokens = samples.iter().map(|sample| sample.completion.tokens.len()).sum();
        Ok(stats)
    }
}

impl Method for Grpo {
    fn lengths(&self, split: Split) -> Vec<usize> {
        self.online.lengths(split)
    }

    fn weight(&self, _: Split, _: usize) -> f64 {
        1.0
    }

    fn steps(&self, _: &crate::config::TrainConfig) -> Box<dyn Steps> {
        Box::new(self.plan.clone())
    }

    fn is_border(&self, step: usize) -> bool {
        self.plan.starts_rollout(step)
    }

    fn restores(&self) -> bool {
        true
    }

    fn prepare(&mut self, model: &mut Model, step: usize, _: &mut Control<'_>) -> Result<Stats, TrainError> {
        if !self.plan.starts_rollout(step) {
            return Ok(Stats::default());
        }
        let config = &self.config;
        let round = self.plan.rollout(step);
        let prompts = self.plan.prompts(round);
        let (samples, stats) =
            self.online.rollout(model, Split::Train, &prompts, config.num_generations, round)?;
        let rewards: Vec<f64> = samples.iter().map(|sample| sample.reward).collect();
        let advantages = group_advantages(&rewards, config.num_generations, config.scale_rewards);
        let (temperature, batch_size) =
            (config.rollout.temperature, config.train.per_device_train_batch_size);
        let texts = self.texts(samples.iter());
        let mut ask = |wanted: bool, reference: bool| match wanted {
            true => forward::logprobs(model, &texts, temperature, batch_size, reference),
            false => Ok(vec![Vec::new(); texts.len()]),
        };
        let old = ask(self.plan.steps_per_rollout() > 1, false)?;
        let reference = ask(config.beta != 0.0, true)?;
        let tokens: usize = samples.iter().map(|sample| self.num_tokens(sample)).sum();
        self.mean_tokens = tokens as f64 / self.plan.batches_per_rollout as f64;
        let learnt = samples.into_iter().zip(advantages).zip(old.into_iter().zip(reference));
        self.samples = learnt
            .map(|((sample, advantage), (old_logprobs, ref_logprobs))| Learnt {
                sample,
                advantage,
                old_logprobs,
                ref_logprobs,
            })
            .collect();
        self.check_divergence(step)?;
        Ok(stats)
    }

    fn batch(&self, model: &mut Model, examples: &[usize], pass: Pass) -> Result<Stats, TrainError> {
        if pass.split == Split::Eval {
            return self.evaluate(model, examples);
        }
        let config = &self.config;
        let learnt: Vec<&Learnt> = examples.iter().map(|index| &self.samples[*index]).collect();
        let texts = self.texts(learnt.iter().map(|learnt| &learnt.sample));
        let forward = forward::policy(model, &texts, config.rollout.temperature, pass.dropout_seed)?;
        let lengths: Vec<usize> = learnt.iter().map(|learnt| self.num_tokens(&learnt.sample)).collect();
        let total = lengths.iter().sum::<usize>().max(1) as f64;
        let weights =
            token_weights(config.loss_type, &lengths, config.rollout.max_completion_length, self.mean_tokens);
        // Every batch is its share of the step.
        let share = examples.len() as f64 / pass.normalizer;
        let settings = config.loss();
        let mut stats = Stats::default();
        let mut grad = Vec::with_capacity(forward.out.stats.len());
        let mut grad_entropy = Vec::new();
        for (index, learnt) in learnt.iter().enumerate() {
            stats.num_tokens += texts[index].0.len() + texts[index].1.len();
            let length = lengths[index];
            let entropy_weight = if length > 0 { share * config.entropy_coef / total } else { 0.0 };
            grad_entropy.extend(std::iter::repeat_n(-entropy_weight as f32, texts[index].1.len()));
            if length == 0 {
                grad.extend(std::iter::repeat_n(0.0, texts[index].1.len()));
                continue;
            }
            let logprobs = forward.logprobs(index);
            let old = if learnt.old_logprobs.is_empty() { &logprobs } else { &learnt.old_logprobs };
            let out = grpo(
                &settings,
                &GrpoCompletion {
                    logprobs: &logprobs,
                    old_logprobs: &learnt.old_logprobs,
                    ref_logprobs: &learnt.ref_logprobs,
                    importance_ratios: &self.ratios(old, &learnt.sample, &mut stats),
                    advantage: learnt.advantage,
                },
            );
            let weight = share * weights[index];
            let entropy = forward.entropy(index);
            stats.loss += weight * out.loss - entropy_weight * entropy;
            grad.extend(out.grad.iter().map(|grad| (weight * grad) as f32));
            let count = length as f64;
            if config.beta != 0.0 {
                stats.add("kl", out.kl, count);
            }
            stats.add("entropy", entropy, count);
            stats.add("clip_ratio/low_mean", count * out.clipped_low, count);
            stats.add("clip_ratio/high_mean", count * out.clipped_high, count);
            stats.add("clip_ratio/region_mean", count * (out.clipped_low + out.clipped_high), count);
        }
        if pass.dropout_seed.is_some() {
            let mut seeds = vec![(forward.out.logprobs, grad.as_slice())];
            if config.entropy_coef != 0.0 {
                seeds.push((forward.out.entropies, grad_entropy.as_slice()));
            }
            model.tape.backward(&seeds);
        }
        Ok(stats)
    }

    fn fingerprint(&self) -> String {
        self.online.fingerprint()
    }
}

impl Grpo {
    /// Ends the run if the samples have left the reference behind.
    fn check_divergence(&self, step: usize) -> Result<(), TrainError> {
        if self.config.max_kl == 0.0 || self.config.beta == 0.0 {
            return Ok(());
        }
        let of_sample = |learnt: &Learnt| {
            let pairs = learnt.sample.completion.logprobs.iter().zip(&learnt.ref_logprobs);
            pairs.map(|(logprob, reference)| f64::from(*logprob) - reference).sum::<f64>()
        };
        let kl = self.samples.iter().map(of_sample).sum::<f64>() / self.samples.len() as f64;
        if kl <= self.config.max_kl {
            return Ok(());
        }
        let reason = format!(
            "completions diverge from the reference by {kl:.2} nats in the mean, above max_kl {}: raise beta, or lower \
             learning_rate or num_iterations",
            self.config.max_kl
        );
        Err(TrainError::Diverged { step: step + 1, reason })
    }
}
