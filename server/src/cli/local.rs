//! The engine in this process, for commands that need no server. Leaves loading to the assembly shared with `serve`.

use std::sync::Arc;

use rectify_engine::request::{Alignment, GenerateRequest, Message, Select};
use rectify_engine::{EngineError, EngineHandle, SamplingParams};

use super::{CliError, ModelArgs, SamplingArgs};

/// What encodes conversations for the policy.
pub(crate) trait Encode {
    fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, EngineError>;
}

/// A running engine and what is known of its models.
pub(crate) struct Local {
    /// The engine.
    pub(crate) engine: EngineHandle,
    /// The policy's tokenizer and chat template.
    pub(crate) text: Arc<dyn Encode>,
    /// Names of the reward models; the first is the default.
    pub(crate) rewards: Vec<String>,
    /// Longest sequence of the policy, in tokens.
    pub(crate) max_model_len: usize,
    /// Sequences the engine runs at once.
    pub(crate) max_num_seqs: usize,
}

impl Local {
    /// Loads the models and starts the engine.
    ///
    /// # Errors
    /// [`CliError`] naming the file or option that does not fit.
    pub(crate) fn start(_args: &ModelArgs) -> Result<Self, CliError> {
        Err(CliError::Refused("the engine cannot be assembled yet".to_owned()))
    }

    /// Sampling of an answer: the options, then the model's own settings, then the defaults.
    ///
    /// # Errors
    /// [`CliError::Engine`] naming an option out of range.
    pub(crate) fn sampling(&self, args: &SamplingArgs) -> Result<SamplingParams, CliError> {
        let defaults = SamplingParams::default();
        let params = SamplingParams {
            max_tokens: args.max_tokens.unwrap_or(512),
            temperature: args.temperature.unwrap_or(defaults.temperature),
            top_p: args.top_p.unwrap_or(defaults.top_p),
            top_k: args.top_k.unwrap_or(defaults.top_k),
            min_p: args.min_p.unwrap_or(defaults.min_p),
            presence_penalty: args.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: args.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            repetition_penalty: args.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            stop: args.stop.clone(),
            seed: args.seed,
            ..defaults
        };
        params.validate()?;
        Ok(params)
    }

    /// A request for `n` answers to a conversation, scored if `reward` says so; `max_tokens` shrinks to what fits.
    ///
    /// # Errors
    /// [`EngineError::ContextLength`] if not even one token fits, or what the chat template refuses.
    pub(crate) fn request(
        &self,
        messages: Vec<Message>,
        n: usize,
        scored: bool,
        mut sampling: SamplingParams,
    ) -> Result<GenerateRequest, EngineError> {
        let prompt = self.text.encode_chat(&messages)?;
        let room = self.max_model_len.saturating_sub(prompt.len());
        if room == 0 {
            let (prompt_len, max_model_len) = (prompt.len(), self.max_model_len);
            return Err(EngineError::ContextLength { prompt_len, max_tokens: 1, max_model_len });
        }
        sampling.max_tokens = sampling.max_tokens.min(room);
        let alignment = scored.then_some(Alignment {
            n,
            reward: None,
            select: Select::Argmax,
            length_penalty: 0.0,
            max_total_tokens: None,
        });
        if alignment.is_none() {
            // Without a strategy nobody else sums the logprobs.
            sampling.logprobs = Some(0);
        }
        Ok(GenerateRequest {
            prompt,
            messages: messages.into(),
            sampling,
            num_choices: if scored { 1 } else { n },
            alignment,
            adapter: None,
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

/// Turns of a file or a terminal as the engine takes them.
pub(crate) fn engine_messages(turns: Vec<rectify_feedback::Message>) -> Vec<Message> {
    turns.into_iter().map(|turn| Message { role: turn.role, content: turn.content }).collect()
}
