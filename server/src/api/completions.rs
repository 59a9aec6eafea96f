//! `/v1/completions`: request, response and stream chunk (one shape for both), and the request's way into the
//! engine's terms. Leaves sampling fields to `sampling` and the answer's progress to `generation`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::alignment::{AlignmentReport, AlignmentRequest};
use super::logprobs::{CompletionLogprobs, PromptLogprobs};
use super::sampling::{SamplingFields, check_logprobs, check_prompt_logprobs};
use super::structured::{Form, FormFields, ResponseFormat, StructuredOutputs};
use super::{OneOrMany, StreamOptions, Usage};
use crate::error::ApiError;

/// Most prompts in one request.
pub const MAX_PROMPTS: usize = 1024;
/// Tokens of a completion when the request does not say, as OpenAI's.
pub const DEFAULT_MAX_TOKENS: usize = 16;

/// A completion request. Fields not listed here are ignored and named in the header `x-rectify-ignored`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct CompletionRequest {
    /// The policy, an adapter, or either with a profile as suffix, as `policy:best-of-16`.
    #[serde(default)]
    pub model: Option<String>,
    /// A text, several texts, token ids, or several lists of token ids.
    pub prompt: Prompt,
    /// Best-of-N and the like; for one prompt.
    #[serde(default)]
    pub alignment: Option<AlignmentRequest>,
    /// Choices for each prompt.
    #[serde(default)]
    pub n: Option<usize>,
    /// Sample this many and return the `n` with the highest logprob per token; at least `n`, not streamed.
    #[serde(default)]
    pub best_of: Option<usize>,
    /// Put the prompt in front of each choice.
    #[serde(default)]
    pub echo: Option<bool>,
    /// Must be absent or empty.
    #[serde(default)]
    pub suffix: Option<String>,
    /// Most tokens of each candidate; 16 by default.
    #[serde(default)]
    pub max_tokens: Option<usize>,
    /// Tokens before which nothing ends the answer.
    #[serde(default)]
    pub min_tokens: Option<usize>,
    /// 0 is greedy.
    #[serde(default)]
    pub temperature: Option<f32>,
    /// Nucleus sampling.
    #[serde(default)]
    pub top_p: Option<f32>,
    /// Keep this many most likely tokens; 0 and -1 keep all.
    #[serde(default)]
    pub top_k: Option<i64>,
    /// Drop tokens less likely than this share of the most likely.
    #[serde(default)]
    pub min_p: Option<f32>,
    /// -2 to 2.
    #[serde(default)]
    pub presence_penalty: Option<f32>,
    /// -2 to 2.
    #[serde(default)]
    pub frequency_penalty: Option<f32>,
    /// 1 is off.
    #[serde(default)]
    pub repetition_penalty: Option<f32>,
    /// Token ids (as strings) to what is added to their logits, -100 to 100.
    #[serde(default)]
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Same seed, same answer.
    #[serde(default)]
    pub seed: Option<i64>,
    /// Strings that end the answer.
    #[serde(default)]
    pub stop: Option<OneOrMany>,
    /// Tokens that end the answer.
    #[serde(default)]
    pub stop_token_ids: Option<Vec<u32>>,
    /// Keep the stop string in the answer.
    #[serde(default)]
    pub include_stop_str_in_output: Option<bool>,
    /// Leave special tokens out of the text; true unless set.
    #[serde(default)]
    pub skip_special_tokens: Option<bool>,
    /// Go on past end-of-text tokens.
    #[serde(default)]
    pub ignore_eos: Option<bool>,
    /// Report each token's logprob and this many alternatives, at most 20.
    #[serde(default)]
    pub logprobs: Option<usize>,
    /// Report the logprobs of the prompt's tokens, and of this many alternatives at each, at most 20; not of streams.
    #[serde(default)]
    pub prompt_logprobs: Option<usize>,
    /// Answer as server-sent events.
    #[serde(default)]
    pub stream: Option<bool>,
    /// What the stream carries besides.
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    /// Lower runs first; 0 is ordinary.
    #[serde(default)]
    pub priority: Option<i32>,
    /// The answer's form: `text`, `json_object` or `json_schema`.
    #[serde(default)]
    pub response_format: Option<ResponseFormat>,
    /// The same as vLLM has it: one of `json`, `regex`, `choice`, `grammar`, `json_object`.
    #[serde(default)]
    pub structured_outputs: Option<StructuredOutputs>,
    /// A JSON schema that the answer follows, as an object or as text.
    #[serde(default)]
    pub guided_json: Option<Value>,
    /// A regular expression that matches the whole answer.
    #[serde(default)]
    pub guided_regex: Option<String>,
    /// The answers that are allowed.
    #[serde(default)]
    pub guided_choice: Option<Vec<String>>,
    /// A grammar in Lark's language that the answer follows.
    #[serde(default)]
    pub guided_grammar: Option<String>,
    /// Who asks; accepted as it is.
    #[serde(default)]
    pub user: Option<String>,
    /// Accepted as it is: there is one tier of service.
    #[serde(default)]
    pub service_tier: Option<String>,
    /// The client's own labels; accepted as they are.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Value>,
}

/// One or more prompts, as text or token ids.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a string, a list of strings, a list of token ids, or a list of lists of token ids"
)]
pub enum Prompt {
    /// One text.
    Text(String),
    /// One prompt as token ids.
    Tokens(Vec<u32>),
    /// Several texts.
    Texts(Vec<String>),
    /// Several prompts as token ids.
    TokenLists(Vec<Vec<u32>>),
}

/// One prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnePrompt {
    /// As text.
    Text(String),
    /// As token ids.
    Tokens(Vec<u32>),
}

impl Prompt {
    /// The prompts, one by one.
    ///
    /// # Errors
    /// 400 if there are none or too many, or one is empty.
    pub fn split(self) -> Result<Vec<OnePrompt>, ApiError> {
        let prompts: Vec<OnePrompt> = match self {
            Self::Text(text) => vec![OnePrompt::Text(text)],
            // `[]` reads as a list of tokens; either way nothing is asked.
            Self::Tokens(tokens) => vec![OnePrompt::Tokens(tokens)],
            Self::Texts(texts) => texts.into_iter().map(OnePrompt::Text).collect(),
            Self::TokenLists(lists) => lists.into_iter().map(OnePrompt::Tokens).collect(),
        };
        let is_empty = |prompt: &OnePrompt| match prompt {
            OnePrompt::Text(text) => text.is_empty(),
            OnePrompt::Tokens(tokens) => tokens.is_empty(),
        };
        if prompts.is_empty() || prompts.iter().any(is_empty) {
            return Err(ApiError::invalid("prompt", "prompt is empty, but must hold at least one token"));
        }
        if prompts.len() > MAX_PROMPTS {
            let message = format!(
                "prompt holds {} prompts, but at most {MAX_PROMPTS} go in one request",
                prompts.len()
            );
            return Err(ApiError::invalid("prompt", message));
        }
        Ok(prompts)
    }
}

impl CompletionRequest {
    /// Refuses what this server does not do, instead of answering something else.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn check_features(&self) -> Result<(), ApiError> {
        if self.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::invalid(
                "suffix",
                "this server does not fill in the middle; leave `suffix` out",
            ));
        }
        let Some(best_of) = self.best_of else { return Ok(()) };
        let refuse = |message: String| Err(ApiError::invalid("best_of", message));
        let n = self.n.unwrap_or(1);
        if best_of < n {
            return refuse(format!("best_of is {best_of}, but must be at least n, which is {n}"));
        }
        if best_of > n && self.stream.unwrap_or(false) {
            return refuse(
                "best_of is decided when all is said, so it cannot be streamed; leave one out".to_owned(),
            );
        }
        Ok(())
    }

    /// The form that is wanted of the answer.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn form(&mut self) -> Result<Option<Form>, ApiError> {
        let fields = FormFields {
            response_format: self.response_format.take(),
            structured_outputs: self.structured_outputs.take(),
            guided_json: self.guided_json.take(),
            guided_regex: self.guided_regex.take(),
            guided_choice: self.guided_choice.take(),
            guided_grammar: self.guided_grammar.take(),
        };
        fields.read()
    }

    /// The sampling fields.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn sampling(&self) -> Result<SamplingFields, ApiError> {
        let logprobs = self.logprobs.map(|count| check_logprobs("logprobs", count)).transpose()?;
        let echo = self.echo.unwrap_or(false);
        let prompt_logprobs = check_prompt_logprobs(self.prompt_logprobs, self.stream)?;
        let max_tokens = self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
        // Reading the prompt alone is allowed with `echo`; the engine wants a reason to run it.
        let only_prompt = echo && max_tokens == 0;
        Ok(SamplingFields {
            max_tokens,
            min_tokens: self.min_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repetition_penalty,
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
            stop: self.stop.clone(),
            stop_token_ids: self.stop_token_ids.clone(),
            include_stop: self.include_stop_str_in_output,
            skip_special_tokens: self.skip_special_tokens,
            ignore_eos: self.ignore_eos,
            logprobs,
            prompt_logprobs: if echo {
                prompt_logprobs.max(logprobs.or(only_prompt.then_some(0)))
            } else {
                prompt_logprobs
            },
        })
    }
}

/// The answer to a completion request, or a piece of it when streamed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionResponse {
    /// `cmpl-…`.
    pub id: String,
    /// `text_completion`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model as the request named it.
    pub model: String,
    /// The policy version that answered, as `name@version`.
    pub system_fingerprint: Option<String>,
    /// The choices, `n` for each prompt in the order of the prompts; with `alignment`, best first.
    pub choices: Vec<CompletionChoice>,
    /// Tokens spent. In a stream, with `stream_options.include_usage`: null, and in the last chunk the tokens spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
    /// What the alignment strategy did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<AlignmentReport>,
}

/// One choice, or its news.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionChoice {
    /// Its place.
    pub index: usize,
    /// The text, with the prompt in front if `echo` is set.
    pub text: String,
    /// Logprobs, if asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// Logprobs of the prompt's tokens, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// `stop` or `length`.
    pub finish_reason: Option<String>,
    /// Its raw reward, with `alignment`; null if scoring failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f32>)]
    pub reward: Option<Option<f32>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(json: &str) -> Result<Vec<OnePrompt>, ApiError> {
        serde_json::from_str::<Prompt>(json).unwrap().split()
    }

    #[test]
    fn every_shape_of_prompt_is_read() {
        let text = |text: &str| OnePrompt::Text(text.into());
        let tokens = |tokens: &[u32]| OnePrompt::Tokens(tokens.into());
        assert_eq!(prompt(r#""ab""#).unwrap(), [text("ab")]);
        assert_eq!(prompt(r#"["a", "b"]"#).unwrap(), [text("a"), text("b")]);
        assert_eq!(prompt("[1, 2]").unwrap(), [tokens(&[1, 2])]);
        assert_eq!(prompt("[[1], [2, 3]]").unwrap(), [tokens(&[1]), tokens(&[2, 3])]);
    }

    #[test]
    fn empty_prompts_are_refused_and_odd_ones_explained() {
        for json in [r#""""#, "[]", r#"["a", ""]"#, "[[1], []]"] {
            assert_eq!(prompt(json).unwrap_err().param.as_deref(), Some("prompt"), "{json}");
        }
        let many = serde_json::to_string(&vec!["a"; MAX_PROMPTS + 1]).unwrap();
        assert!(prompt(&many).is_err());
        let error = serde_json::from_str::<Prompt>("[-1]").unwrap_err();
        assert!(error.to_string().contains("a list of token ids"), "{error}");
    }
}
