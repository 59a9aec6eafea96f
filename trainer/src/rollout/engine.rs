//! The engine as the trainer uses it: blocking calls that sample many prompts or score many answers at once. Leaves the
//! adapter they run under to `publish`.

use std::path::PathBuf;
use std::sync::Arc;

use rectify_engine::handle::EventStream;
use rectify_engine::model::adapter::Adapter;
use rectify_engine::model::assemble::{self, Dtype, ModelsConfig, PolicyConfig};
use rectify_engine::model::config::ModelConfig;
use rectify_engine::model::source::ModelSource;
use rectify_engine::request::{FinishReason, ScoreInput};
use rectify_engine::{
    AdapterRef, EngineConfig, EngineError, EngineHandle, Event, GenerateRequest, SamplingParams, ScoreRequest,
};

use crate::autograd::FrozenBase;

/// Behind everything that people wait for.
const PRIORITY: i32 = 1000;

/// What is loaded for sampling and scoring.
#[derive(Clone, Debug)]
pub struct RolloutModels {
    /// The base of the policy under training.
    pub policy: ModelSource,
    /// Reward models by name: folders of their own weights, or adapters with a score head for the policy's base.
    pub rewards: Vec<(String, PathBuf)>,
    /// Its frozen weights, which the trainer's tape and the engine hold together.
    pub base: FrozenBase,
    /// Bytes for keys and values.
    pub kv_memory: usize,
    /// Threads; `None` is one per core.
    pub threads: Option<usize>,
}

/// A prompt to sample for.
#[derive(Clone, Copy, Debug)]
pub struct PromptSeed<'a> {
    /// Its tokens.
    pub ids: &'a [u32],
    /// Decides its completions.
    pub seed: u64,
}

/// A sampled completion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// Its tokens, the one that ended it included.
    pub tokens: Vec<u32>,
    /// Their log-probabilities at the sampling temperature, in nats, as the engine had them.
    pub logprobs: Vec<f32>,
    /// Its text, without what ended it.
    pub text: String,
    /// It ended by itself; otherwise it was cut.
    pub is_complete: bool,
}

/// An engine for the trainer alone. Its thread ends when this is dropped.
#[derive(Debug)]
pub struct RolloutEngine {
    handle: EngineHandle,
    base: ModelConfig,
    max_model_len: usize,
    comparing: Vec<Arc<str>>,
}

impl RolloutEngine {
    /// Loads the models and starts the engine.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the file that is wrong.
    pub fn start(models: &RolloutModels) -> Result<Self, EngineError> {
        let source = |path: &PathBuf| ModelSource::Folder(path.clone());
        let config = ModelsConfig {
            rewards: models.rewards.iter().map(|(name, path)| (name.clone(), source(path))).collect(),
            // Rounded keys and values would make the sampler another policy than the trainer's.
            kv_dtype: Some(Dtype::Float32),
            kv_memory: models.kv_memory,
            threads: models.threads,
            ..ModelsConfig::of(PolicyConfig {
                weights: models.base.store.clone(),
                weight_dtype: models.base.dtype,
                ..PolicyConfig::new(models.policy.clone())
            })
        };
        let limits = EngineConfig {
            // Everything of a rollout is there from the start, and nobody waits for single tokens.
            max_waiting: usize::MAX,
            score_token_share: 1.0,
            step_target_ms: 0,
            ..EngineConfig::default()
        };
        let (handle, served) = assemble::start(limits, config)?;
        let (max_model_len, comparing) = (served.max_model_len, served.comparing);
        Ok(Self { handle, base: served.config, max_model_len, comparing })
    }

    /// Whether the reward model `reward` compares answers instead of scoring one.
    pub fn compares(&self, reward: &str) -> bool {
        self.comparing.iter().any(|name| **name == *reward)
    }

    /// The policy's shape, for [`super::pack_adapter`].
    pub fn base(&self) -> &ModelConfig {
        &self.base
    }

    /// Longest prompt and completion together.
    pub fn max_model_len(&self) -> usize {
        self.max_model_len
    }

    /// Samples `num_completions` for each prompt under `adapter`, all at once. `sampling`'s own seed is not read, and its
    /// `max_tokens` shrinks to what fits behind a prompt.
    ///
    /// # Errors
    /// What the engine refuses, of the first prompt that fails.
    pub fn sample(
        &self,
        adapter: Option<&Arc<Adapter>>,
        prompts: &[PromptSeed<'_>],
        sampling: &SamplingParams,
        num_completions: usize,
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        let start = |prompt: &PromptSeed<'_>| {
            let room = self.max_model_len.saturating_sub(prompt.ids.len()).max(1);
            let sampling = SamplingParams {
                seed: Some(prompt.seed),
                max_tokens: sampling.max_tokens.min(room),
                logprobs: Some(0),
                logprobs_at_temperature: true,
                ..sampling.clone()
            };
            self.handle.generate_blocking(GenerateRequest {
                prompt: prompt.ids.to_vec(),
                messages: Arc::new([]),
                sampling,
                num_choices: num_completions,
                alignment: None,
                adapter: adapter.map(|adapter| AdapterRef::Private(Arc::clone(adapter))),
                priority: PRIORITY,
            })
        };
        let streams: Vec<EventStream> = prompts.iter().map(start).collect::<Result<_, _>>()?;
        streams.into_iter().map(|stream| completions(stream, num_completions)).collect()
    }

    /// Rewards of texts by the reward model `reward`, those of each input in its order. An input that the model refuses,
    /// because a text is too long, is refused text by text; those that do not fit get NaN.
    ///
    /// # Errors
    /// If there is no such reward model, or the engine fails.
    pub fn score(&self, reward: &str, inputs: Vec<ScoreInput>) -> Result<Vec<Vec<f32>>, EngineError> {
        let request = |input| ScoreRequest { reward: Some(reward.to_owned()), input, priority: PRIORITY };
        let requests: Vec<ScoreRequest> = inputs.into_iter().map(request).collect();
        let start = |request: &ScoreRequest| self.handle.score_blocking(request.clone());
        let streams: Vec<EventStream> = requests.iter().map(start).collect::<Result<_, _>>()?;
        requests.iter().zip(streams).map(|(request, stream)| rewards(&self.handle, request, stream)).collect()
    }
}

/// What a request for `count` candidates gave.
pub(crate) fn completions(mut events: EventStream, count: usize) -> Result<Vec<Completion>, EngineError> {
    let mut completions = vec![Completion::default(); count];
    while let Some(event) = events.next_blocking() {
        match event {
            Event::Token { index, token, text, logprobs } => {
                let completion = &mut completions[index];
                completion.tokens.push(token);
                completion.logprobs.push(logprobs.map_or(f32::NAN, |logprobs| logprobs.own.logprob));
                completion.text.push_str(&text);
            }
            Event::Finished { index, reason, text } => {
                completions[index].text.push_str(&text);
                completions[index].is_complete = reason == FinishReason::Stop;
            }
            Event::Failed(error) => return Err(error),
            Event::Done(_) => return Ok(completions),
            Event::Prefilled { .. }
            | Event::Scored { .. }
            | Event::Dropped { .. }
            | Event::Block { .. }
            | Event::Selected(_) => {}
        }
    }
    Err(EngineError::Shutdown)
}

/// The rewards of a request that was sent. One that the model refuses, because a text is too long, is sent again text by
/// text; those that do not fit get NaN.
pub(crate) fn rewards(
    handle: &EngineHandle,
    request: &ScoreRequest,
    stream: EventStream,
) -> Result<Vec<f32>, EngineError> {
    let count = num_texts(&request.input);
    match scored(stream, count) {
        Err(EngineError::InvalidRequest { .. }) if count > 1 => {
            let alone = |input| {
                let request = ScoreRequest { input, ..request.clone() };
                let stream = handle.score_blocking(request.clone())?;
                Ok(rewards(handle, &request, stream)?[0])
            };
            singles(&request.input).into_iter().map(alone).collect()
        }
        Err(EngineError::InvalidRequest { message, .. }) => {
            tracing::warn!(reward = request.reward, message, "an answer has no reward");
            Ok(vec![f32::NAN; count])
        }
        other => other,
    }
}

fn scored(mut events: EventStream, count: usize) -> Result<Vec<f32>, EngineError> {
    let mut rewards = vec![f32::NAN; count];
    while let Some(event) = events.next_blocking() {
        match event {
            Event::Scored { index, reward } => rewards[index] = reward,
            Event::Failed(error) => return Err(error),
            Event::Done(_) => return Ok(rewards),
            _ => {}
        }
    }
    Err(EngineError::Shutdown)
}

fn num_texts(input: &ScoreInput) -> usize {
    match input {
        ScoreInput::Candidates { candidates, .. } => candidates.len(),
        ScoreInput::Texts(texts) => texts.len(),
    }
}

/// One input for each text.
fn singles(input: &ScoreInput) -> Vec<ScoreInput> {
    match input {
        ScoreInput::Candidates { messages, candidates } => {
            let single = |text: &String| ScoreInput::Candidates {
                messages: Arc::clone(messages),
                candidates: vec![text.clone()],
            };
            candidates.iter().map(single).collect()
        }
        ScoreInput::Texts(texts) => texts.iter().map(|text| ScoreInput::Texts(vec![text.clone()])).collect(),
    }
}
