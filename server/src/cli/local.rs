//! The engine in this process, for commands that need no server. Leaves loading to the assembly shared with `serve`.

use rectify_engine::alignment::Alignment;
use rectify_engine::model::assemble::ServedModels;
use rectify_engine::request::{GenerateRequest, MAX_CANDIDATES, Message};
use rectify_engine::{EngineError, EngineHandle, SamplingParams};

use super::chat::LocalStore;
use super::{CliError, ModelArgs, ProgressMode, SamplingArgs};
use crate::api::alignment::{AlignmentLimits, AlignmentRequest, CombinedReward};
use crate::boot::{self, Booted};
use crate::config::{Config, Generation};

/// Tokens of an answer when neither an option nor the model says: enough for an answer, not for a runaway.
const MAX_TOKENS: usize = 512;

/// A running engine and what is known of its models.
#[derive(Debug)]
pub(crate) struct Local {
    /// The engine.
    pub(crate) engine: EngineHandle,
    /// The models behind it.
    pub(crate) models: ServedModels,
    /// Names of the reward models; the first is the default.
    pub(crate) rewards: Vec<String>,
    /// Sequences the engine runs at once.
    pub(crate) max_num_seqs: usize,
    /// Requests the engine lets wait.
    pub(crate) max_waiting: usize,
    /// Where votes are kept; opened for a vote only.
    pub(crate) store: LocalStore,
    generation: Generation,
    /// Several reward models that decide together, if configured.
    combined_reward: Option<CombinedReward>,
    /// The adapter that answers, unless the policy itself does.
    adapter: Option<String>,
}

impl Local {
    /// Loads the models of the options and starts the engine.
    ///
    /// # Errors
    /// [`CliError`] naming the file or option that does not fit.
    pub(crate) fn start(args: &ModelArgs, progress: ProgressMode) -> Result<Self, CliError> {
        let adapter = args.adapters.first().map(|adapter| adapter.name.clone());
        Ok(Self { adapter, ..Self::boot(&boot::configure(args)?, progress)? })
    }

    /// Loads the models of a configuration and starts the engine.
    ///
    /// # Errors
    /// As [`Local::start`].
    pub(crate) fn boot(config: &Config, progress: ProgressMode) -> Result<Self, CliError> {
        let Booted { engine, models, generation, .. } = boot::start_one(config, None, progress)?;
        let rewards = models.rewards.iter().map(ToString::to_string).collect();
        let (max_num_seqs, max_waiting) = (config.scheduler.max_num_seqs, config.scheduler.max_waiting);
        let store = LocalStore { url: config.store_url(), store_text: config.feedback.store_text };
        let combined_reward = config.reward.combined();
        Ok(Self {
            engine,
            models,
            rewards,
            max_num_seqs,
            max_waiting,
            store,
            generation,
            combined_reward,
            adapter: None,
        })
    }

    /// Sampling of `n` answers: the options, then the configuration's and the model's own settings, then the defaults.
    ///
    /// # Errors
    /// [`CliError::Engine`] naming an option out of range.
    pub(crate) fn sampling(&self, args: &SamplingArgs, n: usize) -> Result<SamplingParams, CliError> {
        sampling(args, &self.generation, n)
    }

    /// What the fields of `alignment` ask for, with this process's reward models.
    ///
    /// # Errors
    /// [`CliError::Usage`] naming the field and what would be right.
    pub(crate) fn alignment(&self, request: &AlignmentRequest) -> Result<Alignment, CliError> {
        let limits = AlignmentLimits {
            max_candidates: MAX_CANDIDATES,
            kv_tokens: usize::MAX,
            rewards: &self.rewards,
            default_reward: self.rewards.first().map(String::as_str),
            combined_reward: self.combined_reward.as_ref(),
        };
        request.validate(1, &limits).map_err(|error| CliError::Usage(error.message))
    }

    /// A request for answers to a conversation: one by `alignment`, or `n` as they are; `max_tokens` shrinks to what fits.
    ///
    /// # Errors
    /// [`EngineError::ContextLength`] if not even one token fits, or what the chat template refuses.
    pub(crate) fn request(
        &self,
        messages: Vec<Message>,
        n: usize,
        alignment: Option<Alignment>,
        mut sampling: SamplingParams,
    ) -> Result<GenerateRequest, EngineError> {
        let prompt = self.models.encode_chat(&messages)?;
        let max_model_len = self.models.max_model_len;
        let room = max_model_len.saturating_sub(prompt.len());
        if room == 0 {
            return Err(EngineError::ContextLength {
                prompt_len: prompt.len(),
                max_tokens: 1,
                max_model_len,
            });
        }
        sampling.max_tokens = sampling.max_tokens.min(room);
        if alignment.is_none() {
            // Without a strategy nobody else sums the logprobs.
            sampling.logprobs = Some(0);
        }
        Ok(GenerateRequest {
            prompt,
            messages: messages.into(),
            sampling,
            num_choices: if alignment.is_some() { 1 } else { n },
            alignment,
            adapter: self.adapter.clone().map(Into::into),
            priority: 0,
        })
    }

    /// Refuses to choose among several answers without a reward model.
    ///
    /// # Errors
    /// [`CliError::Usage`] naming `--reward`.
    pub(crate) fn require_reward(&self, why: &str) -> Result<(), CliError> {
        if self.rewards.is_empty() {
            return Err(CliError::Usage(format!(
                "--reward is missing: {why} needs a reward model, as NAME=DIR"
            )));
        }
        Ok(())
    }
}

fn sampling(args: &SamplingArgs, own: &Generation, n: usize) -> Result<SamplingParams, CliError> {
    let defaults = SamplingParams::default();
    let own_temperature = if own.do_sample == Some(false) { Some(0.0) } else { own.temperature };
    // Several greedy answers are one answer: a model that is greedy by itself samples when there is a choice to make.
    let own_temperature = own_temperature.filter(|&temperature| n == 1 || temperature > 0.0);
    let params = SamplingParams {
        max_tokens: args.max_tokens.or(own.max_tokens).unwrap_or(MAX_TOKENS),
        temperature: args.temperature.or(own_temperature).unwrap_or(defaults.temperature),
        top_p: args.top_p.or(own.top_p).unwrap_or(defaults.top_p),
        top_k: args.top_k.or(own.top_k).unwrap_or(defaults.top_k),
        min_p: args.min_p.or(own.min_p).unwrap_or(defaults.min_p),
        presence_penalty: args.presence_penalty.unwrap_or(defaults.presence_penalty),
        frequency_penalty: args.frequency_penalty.unwrap_or(defaults.frequency_penalty),
        repetition_penalty: args
            .repetition_penalty
            .or(own.repetition_penalty)
            .unwrap_or(defaults.repetition_penalty),
        stop: args.stop.clone(),
        seed: args.seed,
        ..defaults
    };
    params.validate()?;
    Ok(params)
}

/// Turns of a file or a terminal as the engine takes them.
pub(crate) fn engine_messages(turns: Vec<rectify_feedback::Message>) -> Vec<Message> {
    turns.into_iter().map(|turn| Message { role: turn.role, content: turn.content }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_before_the_models_own_settings() {
        let own = Generation { temperature: Some(0.7), top_k: Some(20), ..Generation::default() };
        let args = SamplingArgs { temperature: Some(0.2), ..SamplingArgs::default() };
        let params = sampling(&args, &own, 1).expect("valid");
        assert_eq!((params.temperature, params.top_k, params.top_p), (0.2, 20, 1.0));
        let bad = SamplingArgs { top_p: Some(2.0), ..SamplingArgs::default() };
        let error = sampling(&bad, &own, 1).expect_err("out of range");
        assert!(error.to_string().contains("top_p") && error.exit_code() == 2, "{error}");
    }

    #[test]
    fn a_greedy_model_samples_when_candidates_must_differ() {
        let own = Generation { do_sample: Some(false), temperature: Some(0.7), ..Generation::default() };
        let temperature = |args: &SamplingArgs, n| sampling(args, &own, n).expect("valid").temperature;
        assert_eq!(temperature(&SamplingArgs::default(), 1), 0.0);
        assert_eq!(temperature(&SamplingArgs::default(), 4), 1.0);
        let greedy = SamplingArgs { temperature: Some(0.0), ..SamplingArgs::default() };
        assert_eq!(temperature(&greedy, 4), 0.0);
    }
}
