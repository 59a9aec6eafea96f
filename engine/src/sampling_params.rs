//! How tokens are drawn: the fields of an OpenAI request that reach the sampler, validated. Leaves drawing to
//! `sampler`.

use std::sync::Arc;

use crate::{EngineError, Grammar};

/// Sampling settings of one request; the defaults are OpenAI's and vLLM's.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Most tokens to generate per candidate.
    pub max_tokens: usize,
    /// Stop tokens and strings are ignored until this many tokens are generated.
    pub min_tokens: usize,
    /// 0 is greedy; otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep this many most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Drop tokens less likely than this share of the most likely; 0 keeps all.
    pub min_p: f32,
    /// Subtracted from the logit of each token that was generated at least once.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a token, times how often it was generated.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same text, whatever else is in the batch. `None` draws one at admission.
    pub seed: Option<u64>,
    /// Strings that end generation; not part of the text unless `include_stop`.
    pub stop: Vec<String>,
    /// Tokens that end generation besides the model's own end-of-text tokens.
    pub stop_token_ids: Vec<u32>,
    /// Keep the stop string in the text.
    pub include_stop: bool,
    /// Leave special tokens out of the text.
    pub skip_special_tokens: bool,
    /// Go on past end-of-text tokens.
    pub ignore_eos: bool,
    /// What the text must follow: tokens that it does not allow are never drawn. Logprobs are then those of the tokens it
    /// allows. `min_tokens` does not hold back the end of a text that is complete.
    pub grammar: Option<Arc<Grammar>>,
    /// Report the logprob of each generated token and of this many most likely ones (0 = the token's only).
    pub logprobs: Option<usize>,
    /// Logprobs of the generated tokens are those of the distribution at `temperature` instead of the raw one: what a
    /// trainer must know of its own samples. Penalties and filters are left out either way; without effect when greedy.
    pub logprobs_at_temperature: bool,
    /// The same for the prompt's tokens (`echo` with `logprobs`, `prompt_logprobs`).
    pub prompt_logprobs: Option<usize>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            max_tokens: 16,
            min_tokens: 0,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: None,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            include_stop: false,
            skip_special_tokens: true,
            ignore_eos: false,
            grammar: None,
            logprobs: None,
            logprobs_at_temperature: false,
            prompt_logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Checks every range.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] naming the first field out of range.
    pub fn validate(&self) -> Result<(), EngineError> {
        let range = |param: &'static str, value: f32, low: f32, high: f32| {
            let inside = value.is_finite() && (low..=high).contains(&value);
            let message = || format!("{param} is {value}, but must lie between {low} and {high}");
            if inside { Ok(()) } else { Err(EngineError::invalid(param, message())) }
        };
        range("temperature", self.temperature, 0.0, 100.0)?;
        range("top_p", self.top_p, 0.0, 1.0)?;
        range("min_p", self.min_p, 0.0, 1.0)?;
        range("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        range("repetition_penalty", self.repetition_penalty, 1e-3, 100.0)?;
        for &(_, bias) in &self.logit_bias {
            range("logit_bias", bias, -100.0, 100.0)?;
        }
        if self.top_p == 0.0 {
            return Err(EngineError::invalid("top_p", "top_p is 0, but must be above 0 and at most 1"));
        }
        if self.max_tokens == 0 && self.prompt_logprobs.is_none() {
            return Err(EngineError::invalid("max_tokens", "max_tokens is 0, but must be at least 1"));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(EngineError::invalid(
                "stop",
                "stop holds an empty string, but each must have a character",
            ));
        }
        Ok(())
    }
}
