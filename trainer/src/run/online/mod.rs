//! Methods that learn from their own samples: rollout → score → epochs of batches → the next rollout with the weights as
//! they are then. This file owns what they share: prompts, the engine, the judges, and the metrics of a rollout. Leaves
//! what is learnt to a file per method, and the loop to `trainer`.

mod forward;
mod grpo;
mod learner;
mod pairs;
mod plan;
mod ppo;
mod raft;
mod rloo;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trajectory;

use std::path::Path;
use std::sync::Arc;

use rectify_engine::SamplingParams;
use rectify_engine::model::config::ModelConfig;
use rectify_engine::model::source::ModelSource;

pub(crate) use grpo::Grpo;
pub(crate) use learner::{Learner, OnlineMethod, completions_at_once};
pub(crate) use pairs::{Pairing, Pairs};
pub(crate) use ppo::Ppo;
pub(crate) use raft::Raft;
pub(crate) use rloo::Rloo;

use super::logprobs::Asked;
use super::method::{Split, Stats};
use super::model::Model;
use super::trainer::seed_of;
use crate::config::{LoraConfig, ModelStart, RolloutConfig, TrainConfig, Tuning};
use crate::data::{Fingerprint, PromptExample, Splits, TextEncoder};
use crate::error::TrainError;
use crate::losses::mean_std;
use crate::rewards::{self, Judged, Judges, RewardSpec};
use crate::rollout::{Completion, PromptSeed, RolloutEngine, pack_adapter};

/// Bytes for keys and values that are always given, and that are not exceeded unless they are asked for.
const LEAST_KV_MEMORY: usize = 64 << 20;
const MOST_KV_MEMORY: usize = 1 << 30;
/// Tokens a sequence may take beyond its own, to the end of its last block.
const BLOCK_TOKENS: usize = 32;

/// What online methods share.
pub(crate) struct Online {
    pub(crate) prompts: Splits<PromptExample>,
    /// Prompts too long.
    pub(crate) num_left_out: usize,
    sampler: Box<dyn Sampler>,
    judges: Judges,
    sampling: SamplingParams,
    seed: u64,
}

/// Where completions come from.
pub(crate) trait Sampler {
    /// `num_completions` for each prompt under the policy as it is.
    ///
    /// # Errors
    /// If the weights cannot be published, or the engine fails.
    fn sample(
        &self,
        model: &Model,
        prompts: &[PromptSeed<'_>],
        sampling: &SamplingParams,
        num_completions: usize,
    ) -> Result<Vec<Vec<Completion>>, TrainError>;
}

/// The serving engine, under the adapter that is trained.
struct Published {
    engine: Arc<RolloutEngine>,
    lora: LoraConfig,
}

impl Sampler for Published {
    fn sample(
        &self,
        model: &Model,
        prompts: &[PromptSeed<'_>],
        sampling: &SamplingParams,
        num_completions: usize,
    ) -> Result<Vec<Vec<Completion>>, TrainError> {
        let adapter = pack_adapter(&model.tape.params, &self.lora, self.engine.base(), model.tape.pool())?;
        Ok(self.engine.sample(Some(&adapter), prompts, sampling, num_completions)?)
    }
}

/// Reads prompts of at most so many tokens from a file, and counts those that are longer.
pub(crate) type ReadPrompts =
    fn(&Path, &TextEncoder, usize) -> Result<(Vec<PromptExample>, usize), TrainError>;

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

impl Sample {
    /// Log-probabilities of its tokens as the engine had them.
    fn logprobs(&self) -> Vec<f64> {
        self.completion.logprobs.iter().map(|logprob| f64::from(*logprob)).collect()
    }
}

/// Ends a run whose samples have left the reference behind: by more than `max_kl` nats in the mean, unless it is 0.
fn check_divergence(
    samples: &[Sample],
    ref_logprobs: &[Vec<f64>],
    max_kl: f64,
    advice: &str,
) -> Result<(), TrainError> {
    let of_sample = |(sample, reference): (&Sample, &Vec<f64>)| {
        sample.logprobs().iter().zip(reference).map(|(logprob, reference)| logprob - reference).sum::<f64>()
    };
    let kl = samples.iter().zip(ref_logprobs).map(of_sample).sum::<f64>() / samples.len() as f64;
    if max_kl == 0.0 || kl <= max_kl {
        return Ok(());
    }
    let reason = format!(
        "completions diverge from the reference by {kl:.2} nats in the mean, above max_kl {max_kl}: {advice}"
    );
    Err(TrainError::Diverged { step: 0, reason })
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
    /// Reads the prompts by `read` and starts the engine; `at_once` says how many completions are sampled at once, with so
    /// many prompts.
    pub(crate) fn load(
        train: &TrainConfig,
        rollout: &RolloutConfig,
        model: &Model,
        read: ReadPrompts,
        at_once: impl FnOnce(usize) -> usize,
    ) -> Result<Self, TrainError> {
        let policy = match &train.model {
            ModelStart::Folder(folder) => ModelSource::from(folder.as_path()),
            ModelStart::Held(held) => held.source.clone(),
            ModelStart::Init(_) => {
                let reason = "random weights cannot be sampled from usefully: name a model's folder";
                return Err(TrainError::config("model_name_or_path", reason));
            }
        };
        let Tuning::Lora(lora) = &train.tuning else {
            return Err(TrainError::config("use_peft", "online methods train an adapter: set it to true"));
        };
        let longest = model.max_length(train).saturating_sub(1);
        let mut num_left_out = 0;
        let mut prompts = Splits::load(train, |file| {
            let (prompts, left_out) = read(file, &model.encoder, longest)?;
            num_left_out += left_out;
            Ok(prompts)
        })?;
        let threads = (train.num_threads > 0).then_some(train.num_threads);
        let memory = kv_memory(rollout, &model.config, &prompts, at_once(prompts.train.len()));
        let (engine, judges) = rewards::open(rollout, policy, model.tape.base().clone(), (memory, threads))?;
        for prompts in [&mut prompts.train, &mut prompts.eval] {
            let count = prompts.len();
            prompts.retain(|prompt| prompt.ids.len() < engine.max_model_len());
            num_left_out += count - prompts.len();
        }
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
        let sampler = Box::new(Published { engine, lora: lora.clone() });
        Ok(Self { prompts, num_left_out, sampler, judges, sampling, seed: train.seed })
    }

    /// Tokens of each prompt.
    pub(crate) fn lengths(&self, split: Split) -> Vec<usize> {
        split.of(&self.prompts).iter().map(|prompt| prompt.ids.len()).collect()
    }

    /// Samples of training prompts, in tokens.
    fn texts<'a>(&self, samples: impl IntoIterator<Item = &'a Sample>) -> Vec<Asked> {
        let text = |sample: &Sample| self.text(sample.prompt, &sample.completion.tokens);
        samples.into_iter().map(text).collect()
    }

    /// Tokens of a sample of a training prompt, with the prompt.
    fn num_tokens(&self, sample: &Sample) -> usize {
        self.prompts.train[sample.prompt].ids.len() + sample.completion.tokens.len()
    }

    /// An answer to a training prompt, in tokens.
    fn text(&self, prompt: usize, answer: &[u32]) -> Asked {
        Asked::completion(&self.prompts.train[prompt].ids, answer)
    }

    /// Changes when the prompts do.
    pub(crate) fn fingerprint(&self) -> String {
        let mut fingerprint = Fingerprint::default();
        for prompt in self.prompts.train.iter().chain(&self.prompts.eval) {
            fingerprint.ids(&prompt.ids);
            fingerprint.ids(&prompt.answer);
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
        let of_split = split.of(&self.prompts);
        let seed = |(index, prompt): (usize, &usize)| PromptSeed {
            ids: &of_split[*prompt].ids,
            seed: seed_of(self.seed ^ split as u64, round, index),
        };
        let seeds: Vec<PromptSeed<'_>> = prompts.iter().enumerate().map(seed).collect();
        let completions = self.sampler.sample(model, &seeds, &self.sampling, num_completions)?;
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

/// Bytes for keys and values, unless they are given: of the longest prompt and completion, for each of `at_once` completions
/// and again under each reward model, which reads them too.
fn kv_memory(
    rollout: &RolloutConfig,
    config: &ModelConfig,
    prompts: &Splits<PromptExample>,
    at_once: usize,
) -> usize {
    if rollout.kv_cache_mib > 0 {
        return rollout.kv_cache_mib << 20;
    }
    let longest = prompts.train.iter().chain(&prompts.eval).map(|prompt| prompt.ids.len()).max();
    let text = longest.unwrap_or(0) + rollout.max_completion_length + BLOCK_TOKENS;
    let readers =
        1 + rollout.reward.iter().filter(|reward| matches!(reward, RewardSpec::Model { .. })).count();
    // Keys and values in f32.
    let token = 8 * config.num_layers * config.num_kv_heads * config.head_dim;
    let all = at_once.saturating_mul(readers).saturating_mul(text).saturating_mul(token);
    all.clamp(LEAST_KV_MEMORY, MOST_KV_MEMORY)
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
