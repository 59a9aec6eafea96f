//! Methods that learn from their own samples: rollout → score → epochs of batches → the next rollout with the weights as
//! they are then. This file owns what they share: prompts, the engine, the judges, and the metrics of a rollout. Leaves
//! what is learnt to a file per method, and the loop to `trainer`.

mod forward;
mod grpo;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rectify_engine::SamplingParams;

pub(crate) use grpo::Grpo;

use super::method::{Split, Stats};
use super::model::Model;
use super::trainer::seed_of;
use crate::config::{LoraConfig, ModelStart, RolloutConfig, TrainConfig, Tuning};
use crate::data::{Fingerprint, PromptExample, Splits, read_prompts};
use crate::error::TrainError;
use crate::losses::mean_std;
use crate::rewards::{self, Judged, Judges};
use crate::rollout::{Completion, PromptSeed, RolloutEngine, pack_adapter};

/// What online methods share.
pub(crate) struct Online {
    pub(crate) prompts: Splits<PromptExample>,
    /// Prompts too long.
    pub(crate) num_left_out: usize,
    engine: Arc<RolloutEngine>,
    judges: Judges,
    sampling: SamplingParams,
    lora: LoraConfig,
    seed: u64,
}

/// A sampled completion with its reward.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Index of its prompt.
    pub(crate) prompt: usize,
    /// What was sampled.
    pub(crate) completion: Completion,
    /// NaN if no judge had anything to say.
    pub(crate) reward: f64,
}

/// A model for an online method: with adapters, and dropout only if it is asked for.
pub(crate) fn load_model(train: &TrainConfig, rollout: &RolloutConfig) -> Result<Model, TrainError> {
    let mut model = Model::load(train, false)?;
    if rollout.disable_dropout {
        model.tape.disable_dropout();
    }
    Ok(model)
}

impl Online {
    /// Reads the prompts and starts the engine.
    pub(crate) fn load(
        train: &TrainConfig,
        rollout: &RolloutConfig,
        model: &Model,
    ) -> Result<Self, TrainError> {
        let ModelStart::Folder(policy) = &train.model else {
            let reason = "random weights cannot be sampled from usefully: name a model's folder";
            return Err(TrainError::config("model_name_or_path", reason));
        };
        let Tuning::Lora(lora) = &train.tuning else {
            return Err(TrainError::config("use_peft", "online methods train an adapter: set it to true"));
        };
        let threads = (train.num_threads > 0).then_some(train.num_threads);
        let (engine, judges) = rewards::open(rollout, policy.clone(), model.tape.base().clone(), threads)?;
        let longest = model.max_length(train).min(engine.max_model_len()).saturating_sub(1);
        let mut num_left_out = 0;
        let prompts = Splits::load(train, |file| {
            let (prompts, left_out) = read_prompts(file, &model.encoder, longest)?;
            num_left_out += left_out;
            Ok(prompts)
        })?;
        let sampling = SamplingParams {
            max_tokens: rollout.max_completion_length,
            temperature: rollout.temperature,
            top_p: rollout.top_p,
            top_k: rollout.top_k,
            min_p: rollout.min_p,
            repetition_penalty: rollout.repetition_penalty,
            ..SamplingParams::default()
        };
        sampling.validate()?;
        Ok(Self { prompts, num_left_out, engine, judges, sampling, lora: lora.clone(), seed: train.seed })
    }

    /// Tokens of each prompt.
    pub(crate) fn lengths(&self, split: Split) -> Vec<usize> {
        self.of(split).iter().map(|prompt| prompt.ids.len()).collect()
    }

    /// The prompts of a split.
    pub(crate) fn of(&self, split: Split) -> &[PromptExample] {
        match split {
            Split::Train => &self.prompts.train,
            Split::Eval => &self.prompts.eval,
        }
    }

    /// Changes when the prompts do.
    pub(crate) fn fingerprint(&self) -> String {
        let mut fingerprint = Fingerprint::default();
        for prompt in self.prompts.train.iter().chain(&self.prompts.eval) {
            fingerprint.ids(&prompt.ids);
        }
        fingerprint.finish()
    }

    /// Samples `num_completions` for each of `prompts` under the policy as it is, and scores them; those of a prompt
    /// stand together. `round` decides the seeds.
    pub(crate) fn rollout(
        &self,
        model: &Model,
        split: Split,
        prompts: &[usize],
        num_completions: usize,
        round: usize,
    ) -> Result<(Vec<Sample>, Stats), TrainError> {
        let of_split = self.of(split);
        let adapter = pack_adapter(&model.tape.params, &self.lora, self.engine.base(), model.tape.pool())?;
        let seed = |(index, prompt): (usize, &usize)| PromptSeed {
            ids: &of_split[*prompt].ids,
            seed: seed_of(self.seed ^ split as u64, round, index),
        };
        let seeds: Vec<PromptSeed<'_>> = prompts.iter().enumerate().map(seed).collect();
        let completions = self.engine.sample(Some(&adapter), &seeds, &self.sampling, num_completions)?;
        let samples = prompts.iter().zip(completions).flat_map(|(prompt, completions)| {
            completions.into_iter().map(|completion| Sample { prompt: *prompt, completion, reward: f64::NAN })
        });
        let mut samples: Vec<Sample> = samples.collect();
        let judged: Vec<Judged<'_>> = samples
            .iter()
            .map(|sample| Judged {
                prompt: &of_split[sample.prompt],
                completion: &sample.completion.text,
                num_tokens: sample.completion.tokens.len(),
            })
            .collect();
        let verdicts = self.judges.judge(&judged)?;
        let mut stats = Stats::default();
        for (name, rewards) in &verdicts.each {
            let (mean, std) = mean_std(rewards);
            add_known(&mut stats, &format!("rewards/{name}/mean"), mean);
            add_known(&mut stats, &format!("rewards/{name}/std"), std);
        }
        for (sample, reward) in samples.iter_mut().zip(verdicts.rewards) {
            sample.reward = reward;
        }
        describe(&mut stats, &samples, num_completions);
        Ok((samples, stats))
    }
}

fn add_known(stats: &mut Stats, name: &str, value: f64) {
    if value.is_finite() {
        stats.add(name, value, 1.0);
    }
}

/// TRL's metrics of rewards and lengths.
fn describe(stats: &mut Stats, samples: &[Sample], num_completions: usize) {
    let rewards: Vec<f64> = samples.iter().map(|sample| sample.reward).collect();
    let (mean, std) = mean_std(&rewards);
    add_known(stats, "reward", mean);
    add_known(stats, "reward_std", std);
    for group in rewards.chunks(num_completions.max(1)).filter(|group| group.len() > 1) {
        let is_zero = mean_std(group).1.abs() <= 1e-8;
        stats.add("frac_reward_zero_std", f64::from(u8::from(is_zero)), 1.0);
    }
    let lengths = |kept: fn(&Completion) -> bool| {
        let kept = samples.iter().filter(move |sample| kept(&sample.completion));
        kept.map(|sample| sample.completion.tokens.len() as f64).collect::<Vec<f64>>()
    };
    for (names, lengths) in [
        (["mean_length", "min_length", "max_length"], lengths(|_| true)),
        (
            ["mean_terminated_length", "min_terminated_length", "max_terminated_length"],
            lengths(|completion| completion.is_complete),
        ),
    ] {
        let [mean, least, most] = names.map(|name| format!("completions/{name}"));
        let of = |fold: fn(f64, f64) -> f64| lengths.iter().copied().reduce(fold).unwrap_or(0.0);
        stats.add(&mean, lengths.iter().sum::<f64>() / lengths.len().max(1) as f64, 1.0);
        stats.add(&least, of(f64::min), 1.0);
        stats.add(&most, of(f64::max), 1.0);
    }
    let cut = samples.iter().filter(|sample| !sample.completion.is_complete).count();
    stats.add("completions/clipped_ratio", cut as f64, samples.len() as f64);
}
