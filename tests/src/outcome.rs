//! One request run to its end: its events gathered into plain values. Leaves judging them to the tests.

use rectify_engine::handle::EventStream;
use rectify_engine::request::{FinishReason, Logprobs, Selection, Usage};
use rectify_engine::{EngineError, EngineHandle, Event, GenerateRequest, SamplingParams, ScoreRequest};

/// One candidate as its events told it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Its text.
    pub text: String,
    /// One per token, if asked for.
    pub logprobs: Vec<Logprobs>,
    /// Why it ended.
    pub finish_reason: Option<FinishReason>,
    /// Its reward, if it was scored.
    pub reward: Option<f32>,
}

/// Everything a request said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: usize,
    /// The prompt's logprobs, from the second token on, if asked for.
    pub prompt_logprobs: Vec<Logprobs>,
    /// Candidates (or scored texts) by index.
    pub candidates: Vec<Generated>,
    /// What best-of-N decided.
    pub selection: Option<Selection>,
    /// The closing account.
    pub usage: Usage,
}

impl Outcome {
    /// `ln p` of each generated token of candidate 0.
    pub fn own_logprobs(&self) -> Vec<f32> {
        self.candidates[0].logprobs.iter().map(|logprobs| logprobs.own.logprob).collect()
    }

    fn candidate(&mut self, index: usize) -> &mut Generated {
        if self.candidates.len() <= index {
            self.candidates.resize_with(index + 1, Generated::default);
        }
        &mut self.candidates[index]
    }
}

/// Gathers events to the end; a failure of the request is the error.
pub async fn gather(mut events: EventStream) -> Result<Outcome, EngineError> {
    let mut outcome = Outcome::default();
    while let Some(event) = events.next().await {
        match event {
            Event::Prefilled { cached_tokens, prompt_logprobs, .. } => {
                outcome.cached_tokens = cached_tokens;
                outcome.prompt_logprobs = prompt_logprobs.unwrap_or_default();
            }
            Event::Token { index, token, text, logprobs } => {
                let candidate = outcome.candidate(index);
                candidate.tokens.push(token);
                candidate.text.push_str(&text);
                candidate.logprobs.extend(logprobs);
            }
            Event::Finished { index, reason, text } => {
                let candidate = outcome.candidate(index);
                candidate.text.push_str(&text);
                assert_eq!(candidate.finish_reason.replace(reason), None, "candidate {index} finished twice");
            }
            Event::Scored { index, reward } => outcome.candidate(index).reward = Some(reward),
            Event::Dropped { .. } | Event::Block { .. } => {}
            Event::Selected(selection) => outcome.selection = Some(selection),
            Event::Done(usage) => {
                outcome.usage = usage;
                return Ok(outcome);
            }
            Event::Failed(error) => return Err(error),
        }
    }
    panic!("the engine's thread ended in the middle of a request: {outcome:?}");
}

/// Runs a generation to its end.
pub async fn generate(engine: &EngineHandle, request: GenerateRequest) -> Result<Outcome, EngineError> {
    gather(engine.generate(request).await?).await
}

/// Runs a scoring to its end.
pub async fn score(engine: &EngineHandle, request: ScoreRequest) -> Result<Vec<f32>, EngineError> {
    let outcome = gather(engine.score(request).await?).await?;
    Ok(outcome.candidates.iter().map(|c| c.reward.expect("every text is scored")).collect())
}

/// A greedy request of `max_tokens` tokens past any end of text, with logprobs.
pub fn greedy_request(prompt: &[u32], max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        prompt: prompt.to_vec(),
        messages: Vec::new().into(),
        sampling: SamplingParams {
            max_tokens,
            temperature: 0.0,
            ignore_eos: true,
            logprobs: Some(0),
            ..SamplingParams::default()
        },
        num_choices: 1,
        alignment: None,
        adapter: None,
        priority: 0,
    }
}
