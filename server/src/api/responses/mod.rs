//! `/v1/responses` for text: the response object and its items. Leaves the request to `request` and events to
//! `routes::responses`.

mod event;
pub mod request;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::alignment::AlignmentReport;
use super::chat::AssistantMessage;
use super::tools::{FunctionCall, ToolCall};
use super::{Usage, new_id};
pub use event::ResponseEvent;
pub use request::ResponsesRequest;
use request::{ResponsesFormat, ResponsesText, ResponsesTool};

/// A response.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ResponseObject {
    /// `resp-…`.
    pub id: String,
    /// `response`.
    pub object: String,
    /// Seconds since 1970.
    pub created_at: u64,
    /// `in_progress`, `completed`, `incomplete` or `failed`.
    pub status: String,
    /// What went wrong, if it did.
    #[schema(value_type = Option<Object>)]
    pub error: Option<Value>,
    /// Why it is not complete: `max_output_tokens`.
    pub incomplete_details: Option<IncompleteDetails>,
    /// The request's.
    pub instructions: Option<String>,
    /// The request's.
    pub max_output_tokens: Option<usize>,
    /// The model as the request named it.
    pub model: String,
    /// Thoughts, the message and calls, in this order.
    pub output: Vec<OutputItem>,
    /// The request's.
    pub parallel_tool_calls: bool,
    /// Always null: responses are not kept.
    pub previous_response_id: Option<String>,
    /// The request's; null where the model's own setting counts.
    pub temperature: Option<f32>,
    /// The request's.
    pub top_p: Option<f32>,
    /// The form of the text.
    pub text: ResponsesText,
    /// The request's.
    pub tool_choice: Value,
    /// The request's.
    pub tools: Vec<ResponsesTool>,
    /// `disabled`: a conversation that is too long is refused.
    pub truncation: String,
    /// Tokens spent; null until it has ended.
    pub usage: Option<ResponsesUsage>,
    /// The request's.
    pub user: Option<String>,
    /// The request's labels.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// What the alignment strategy did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<AlignmentReport>,
}

/// Why a response is not complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncompleteDetails {
    /// `max_output_tokens`.
    pub reason: String,
}

/// Tokens spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResponsesUsage {
    /// Of the input.
    pub input_tokens: usize,
    /// Of those.
    pub input_tokens_details: InputTokensDetails,
    /// Of all candidates, returned or not.
    pub output_tokens: usize,
    /// Of those.
    pub output_tokens_details: OutputTokensDetails,
    /// Their sum.
    pub total_tokens: usize,
}

/// Of the input's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InputTokensDetails {
    /// Found in the prefix cache.
    pub cached_tokens: usize,
}

/// Of the output's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputTokensDetails {
    /// Always 0: thoughts are not counted apart.
    pub reasoning_tokens: usize,
}

impl From<Usage> for ResponsesUsage {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: usage.prompt_tokens_details.cached_tokens,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails::default(),
            total_tokens: usage.total_tokens,
        }
    }
}

/// A part of the output: `reasoning`, `message` or `function_call`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OutputItem {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its own id.
    pub id: String,
    /// `in_progress`, `completed` or `incomplete`.
    pub status: String,
    /// Of a message: `assistant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Of a message and of thoughts: the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Vec<OutputPart>>,
    /// Of thoughts: always empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub summary: Option<Vec<Value>>,
    /// Of a call: what its output refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// Of a call: the function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of a call: JSON as the model wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}

/// A text: `output_text` or `reasoning_text`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OutputPart {
    /// Which.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: String,
    /// Of `output_text`: always empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub annotations: Option<Vec<Value>>,
    /// Of `output_text`: always empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub logprobs: Option<Vec<Value>>,
}

impl OutputPart {
    /// A part of a message, or of thoughts.
    pub fn new(is_reasoning: bool, text: String) -> Self {
        if is_reasoning {
            return Self { kind: "reasoning_text".to_owned(), text, ..Self::default() };
        }
        Self {
            kind: "output_text".to_owned(),
            text,
            annotations: Some(Vec::new()),
            logprobs: Some(Vec::new()),
        }
    }
}

impl OutputItem {
    /// Thoughts, with or without their text.
    pub fn reasoning(text: Option<String>) -> Self {
        let content = text.into_iter().map(|text| OutputPart::new(true, text)).collect();
        Self { summary: Some(Vec::new()), content: Some(content), ..Self::new("reasoning", "rs") }
    }

    /// A message, with or without its text.
    pub fn message(text: Option<String>) -> Self {
        let content = text.into_iter().map(|text| OutputPart::new(false, text)).collect();
        Self { role: Some("assistant".to_owned()), content: Some(content), ..Self::new("message", "msg") }
    }

    /// A call.
    pub fn call(call_id: String, function: FunctionCall) -> Self {
        let FunctionCall { name, arguments } = function;
        let item = Self::new("function_call", "fc");
        Self { call_id: Some(call_id), name: Some(name), arguments: Some(arguments), ..item }
    }

    fn new(kind: &str, prefix: &str) -> Self {
        Self { kind: kind.to_owned(), id: new_id(prefix), status: "completed".to_owned(), ..Self::default() }
    }

    /// The parts of a whole message.
    pub fn all(message: AssistantMessage) -> Vec<Self> {
        let content = message.content.filter(|text| !text.is_empty() || message.tool_calls.is_none());
        let calls = message.tool_calls.into_iter().flatten();
        let calls = calls.map(|ToolCall { id, function, .. }| Self::call(id, function));
        let reasoning = message.reasoning_content.map(|text| Self::reasoning(Some(text)));
        let content = content.map(|text| Self::message(Some(text)));
        reasoning.into_iter().chain(content).chain(calls).collect()
    }
}

impl ResponseObject {
    /// The response to a request, before anything is said.
    pub fn new(id: String, created_at: u64, model: String, request: &ResponsesRequest) -> Self {
        let format = request.text.as_ref().and_then(|text| text.format.clone());
        let format =
            format.unwrap_or(ResponsesFormat { kind: "text".to_owned(), ..ResponsesFormat::default() });
        Self {
            id,
            object: "response".to_owned(),
            created_at,
            status: "in_progress".to_owned(),
            instructions: request.instructions.clone(),
            max_output_tokens: request.max_output_tokens,
            model,
            parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
            temperature: request.temperature,
            top_p: request.top_p,
            text: ResponsesText { format: Some(format) },
            tool_choice: request.tool_choice.clone().unwrap_or_else(|| json!("auto")),
            tools: request.tools.clone().unwrap_or_default(),
            truncation: "disabled".to_owned(),
            user: request.user.clone(),
            metadata: crate::recorder::labels(request.metadata.clone()),
            ..Self::default()
        }
    }

    /// How it ended; `reason` is that of a chat answer.
    pub fn end(&mut self, reason: &str) {
        let is_cut = reason == "length";
        self.status = if is_cut { "incomplete" } else { "completed" }.to_owned();
        self.incomplete_details =
            is_cut.then(|| IncompleteDetails { reason: "max_output_tokens".to_owned() });
    }
}
