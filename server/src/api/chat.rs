//! `/v1/chat/completions`: request, response and stream chunk, and the request's way into the engine's terms. Leaves
//! sampling fields to `sampling` and the answer's progress to `generation`.

use std::collections::BTreeMap;
use std::sync::Arc;

use rectify_engine::request::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::alignment::{AlignmentReport, AlignmentRequest};
use super::logprobs::{ChatLogprobs, PromptLogprobs};
use super::messages::ChatMessage;
use super::sampling::{SamplingFields, check_logprobs, check_prompt_logprobs};
use super::structured::{Form, FormFields, ResponseFormat, StructuredOutputs};
use super::tools::{Tool, ToolCall, ToolCallDelta, ToolChoice, ToolUse};
use super::{OneOrMany, StreamOptions, Usage};
use crate::error::ApiError;

/// A chat request. Fields not listed here are ignored and named in the header `x-rectify-ignored`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub struct ChatRequest {
    /// The policy, an adapter, or either with a profile as suffix, as `policy:best-of-16`.
    #[serde(default)]
    pub model: Option<String>,
    /// The conversation; at least one message.
    pub messages: Vec<ChatMessage>,
    /// Best-of-N and the like.
    #[serde(default)]
    pub alignment: Option<AlignmentRequest>,
    /// Choices to return.
    #[serde(default)]
    pub n: Option<usize>,
    /// Most tokens of each candidate; by default what the context has room for.
    #[serde(default)]
    pub max_completion_tokens: Option<usize>,
    /// The older name of `max_completion_tokens`.
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
    /// Report each token's logprob.
    #[serde(default)]
    pub logprobs: Option<bool>,
    /// And this many alternatives, at most 20.
    #[serde(default)]
    pub top_logprobs: Option<usize>,
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
    /// Functions that the model may call; at most 128.
    #[serde(default)]
    pub tools: Option<Vec<Tool>>,
    /// `none`, `auto` (with tools the default), `required`, or one function by name.
    #[serde(default)]
    pub tool_choice: Option<ToolChoice>,
    /// Several calls in one answer are fine; true unless set.
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    /// Variables of the chat template, as `{"enable_thinking": false}`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
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

impl ChatRequest {
    /// The conversation as chat templates see it.
    ///
    /// # Errors
    /// 400 naming the message.
    pub fn conversation(&self) -> Result<Arc<[Message]>, ApiError> {
        if self.messages.is_empty() {
            return Err(ApiError::invalid(
                "messages",
                "messages is empty, but must hold at least one message",
            ));
        }
        self.messages.iter().enumerate().map(|(index, message)| message.read(index)).collect()
    }

    /// The conversation as chat templates see it; `turns` are its texts.
    pub fn for_template(&self, turns: &[Message]) -> Vec<Value> {
        self.messages.iter().zip(turns).map(|(message, turn)| message.for_template(turn)).collect()
    }

    /// The tools, checked; `None` without any.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn tool_use(&mut self) -> Result<Option<ToolUse>, ApiError> {
        ToolUse::read(self.tools.take(), self.tool_choice.take(), self.parallel_tool_calls)
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

    /// The sampling fields; `room` is what the context leaves for an answer.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn sampling(&mut self, default_max_tokens: usize) -> Result<SamplingFields, ApiError> {
        let logprobs = match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (true, top) => Some(check_logprobs("top_logprobs", top.unwrap_or(0))?),
            (false, None | Some(0)) => None,
            (false, Some(_)) => {
                let message = "top_logprobs needs `logprobs: true` beside it";
                return Err(ApiError::invalid("top_logprobs", message));
            }
        };
        Ok(SamplingFields {
            max_tokens: self.max_completion_tokens.or(self.max_tokens).unwrap_or(default_max_tokens),
            min_tokens: self.min_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repetition_penalty,
            logit_bias: self.logit_bias.take(),
            seed: self.seed,
            stop: self.stop.take(),
            stop_token_ids: self.stop_token_ids.take(),
            include_stop: self.include_stop_str_in_output,
            skip_special_tokens: self.skip_special_tokens,
            ignore_eos: self.ignore_eos,
            logprobs,
            prompt_logprobs: check_prompt_logprobs(self.prompt_logprobs, self.stream)?,
        })
    }
}

/// The answer to a chat request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatResponse {
    /// `chatcmpl-…`.
    pub id: String,
    /// `chat.completion`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model as the request named it.
    pub model: String,
    /// The policy version that answered, as `name@version`.
    pub system_fingerprint: Option<String>,
    /// The choices; with `alignment`, best first.
    pub choices: Vec<ChatChoice>,
    /// Tokens spent.
    pub usage: Usage,
    /// Logprobs of the prompt's tokens, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// What the alignment strategy did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<AlignmentReport>,
}

/// One choice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatChoice {
    /// Its place.
    pub index: usize,
    /// The assistant's message.
    pub message: AssistantMessage,
    /// Logprobs, if asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`.
    pub finish_reason: Option<String>,
    /// Its raw reward, with `alignment`; null if scoring failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f32>)]
    pub reward: Option<Option<f32>>,
}

/// The assistant's message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssistantMessage {
    /// `assistant`.
    pub role: String,
    /// The text; null where there are only calls.
    pub content: Option<String>,
    /// What the model thought, where its chat template marks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls of tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Always null: this server has no separate refusals.
    pub refusal: Option<String>,
}

/// A piece of a streamed chat answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatChunk {
    /// `chatcmpl-…`, the same in all chunks.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model as the request named it.
    pub model: String,
    /// The policy version that answers.
    pub system_fingerprint: Option<String>,
    /// One choice's news; empty in the chunk with the usage.
    pub choices: Vec<ChatChunkChoice>,
    /// With `stream_options.include_usage`: null, and in the last chunk the tokens spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
    /// What the alignment strategy did, in the chunk that ends the last choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<AlignmentReport>,
}

/// One choice's news.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatChunkChoice {
    /// Its place.
    pub index: usize,
    /// What was added.
    pub delta: Delta,
    /// Logprobs of the added tokens, if asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// In the choice's last chunk: `stop`, `length` or `tool_calls`.
    pub finish_reason: Option<String>,
    /// In the choice's last chunk, with `alignment`: its raw reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f32>)]
    pub reward: Option<Option<f32>>,
}

/// What was added to a choice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delta {
    /// `assistant`, in the choice's first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Thoughts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls of tools, or more of their arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCallDelta>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Arc<[Message]>, ApiError> {
        let request: ChatRequest = serde_json::from_str(json).unwrap();
        request.conversation()
    }

    #[test]
    fn parts_are_joined_and_developer_is_system() {
        let messages = read(
            r#"{"messages": [{"role": "developer", "content": "Be kind."},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": null}]}"#,
        )
        .unwrap();
        let turns: Vec<_> = messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        assert_eq!(turns, [("system", "Be kind."), ("user", "ab"), ("assistant", "")]);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        for (json, param) in [
            (r#"{"messages": []}"#, "messages"),
            (r#"{"messages": [{"role": "robot", "content": "a"}]}"#, "messages[0].role"),
            (r#"{"messages": [{"role": "user"}]}"#, "messages[0].content"),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}"#,
                "messages[0].content[0]",
            ),
        ] {
            let error = read(json).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{json}");
            assert_eq!(error.status.as_u16(), 400, "{json}");
        }
        read(r#"{"messages": [{"role": "user", "content": "a"}], "tools": []}"#).unwrap();
    }

    #[test]
    fn a_null_reward_is_written_and_an_absent_one_is_not() {
        let choice = |reward| serde_json::to_value(ChatChoice { reward, ..ChatChoice::default() }).unwrap();
        assert!(choice(None).get("reward").is_none());
        assert!(choice(Some(None)).get("reward").unwrap().is_null());
        assert_eq!(choice(Some(Some(0.5))).get("reward").unwrap(), 0.5);
    }
}
