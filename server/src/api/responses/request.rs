//! The request of `/v1/responses`, read as a chat request. Leaves the response to the parent.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::alignment::AlignmentRequest;
use crate::api::chat::ChatRequest;
use crate::api::messages::{ChatMessage, Content, ContentPart};
use crate::api::structured::{JsonSchemaFormat, ResponseFormat};
use crate::api::tools::{
    FunctionCall, FunctionDefinition, FunctionName, NamedTool, Tool, ToolCall, ToolChoice,
};
use crate::error::ApiError;

/// A request for a response. Fields not listed here are ignored and named in the header `x-rectify-ignored`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub struct ResponsesRequest {
    /// The policy, an adapter, or either with a profile as suffix, as `policy:best-of-16`.
    #[serde(default)]
    pub model: Option<String>,
    /// A question, or the items of a conversation.
    pub input: ResponsesInput,
    /// Goes in front as a system turn.
    #[serde(default)]
    pub instructions: Option<String>,
    /// Best-of-N and the like.
    #[serde(default)]
    pub alignment: Option<AlignmentRequest>,
    /// Most tokens of the answer; by default what the context has room for.
    #[serde(default)]
    pub max_output_tokens: Option<usize>,
    /// 0 is greedy.
    #[serde(default)]
    pub temperature: Option<f32>,
    /// Nucleus sampling.
    #[serde(default)]
    pub top_p: Option<f32>,
    /// Same seed, same answer.
    #[serde(default)]
    pub seed: Option<i64>,
    /// The form of the text.
    #[serde(default)]
    pub text: Option<ResponsesText>,
    /// Functions that the model may call.
    #[serde(default)]
    pub tools: Option<Vec<ResponsesTool>>,
    /// `none`, `auto`, `required`, or `{"type": "function", "name": "…"}`.
    #[serde(default)]
    pub tool_choice: Option<Value>,
    /// Several calls in one answer are fine; true unless set.
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    /// Answer as server-sent events.
    #[serde(default)]
    pub stream: Option<bool>,
    /// Must be absent: responses are not kept, so the whole conversation goes into `input`.
    #[serde(default)]
    pub previous_response_id: Option<String>,
    /// Must be absent or false.
    #[serde(default)]
    pub background: Option<bool>,
    /// Accepted as it is; answers are kept by the feedback store's own settings.
    #[serde(default)]
    pub store: Option<bool>,
    /// Accepted as it is: there is one tier of service.
    #[serde(default)]
    pub service_tier: Option<String>,
    /// Accepted as it is: whether a model thinks is its chat template's matter.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub reasoning: Option<Value>,
    /// Who asks; accepted as it is.
    #[serde(default)]
    pub user: Option<String>,
    /// The client's own labels; accepted as they are.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Value>,
}

/// What is answered.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of items")]
pub enum ResponsesInput {
    /// A question.
    Text(String),
    /// Turns, calls and their results.
    Items(Vec<ResponsesItem>),
}

impl Default for ResponsesInput {
    fn default() -> Self {
        Self::Items(Vec::new())
    }
}

/// An item of the conversation: a `message` (the type may be left out), `function_call`, `function_call_output` or
/// `reasoning`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub struct ResponsesItem {
    /// What it is.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Of a message: `system`, `developer`, `user` or `assistant`.
    #[serde(default)]
    pub role: Option<String>,
    /// Of a message: a string, or parts of type `input_text` or `output_text`.
    #[serde(default)]
    pub content: Option<Content>,
    /// Of a call and its output: which call.
    #[serde(default)]
    pub call_id: Option<String>,
    /// Of a call: the function.
    #[serde(default)]
    pub name: Option<String>,
    /// Of a call: its JSON.
    #[serde(default)]
    pub arguments: Option<String>,
    /// Of a call's output: what the function said.
    #[serde(default)]
    pub output: Option<String>,
}

/// The form of the text.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ResponsesText {
    /// The form.
    #[serde(default)]
    pub format: Option<ResponsesFormat>,
}

/// `text`, `json_object` or `json_schema`, the latter with its schema.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ResponsesFormat {
    /// Which.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the client calls the schema; without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// Refuse schemas with keywords that cannot be enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// A function that the model may call.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ResponsesTool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Letters, digits, `_`, `-` and `.`; at most 64.
    #[serde(default)]
    pub name: String,
    /// What it does.
    #[serde(default)]
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Refuse schemas with keywords that cannot be enforced.
    #[serde(default)]
    pub strict: Option<bool>,
}

impl ResponsesRequest {
    /// The same as a chat request.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn into_chat(self) -> Result<ChatRequest, ApiError> {
        if self.previous_response_id.is_some() {
            let message = "responses are not kept, so previous_response_id leads nowhere; send the whole conversation in \
                           `input`";
            return Err(ApiError::invalid("previous_response_id", message));
        }
        if self.background.unwrap_or(false) {
            return Err(ApiError::invalid(
                "background",
                "this server answers at once; leave `background` out",
            ));
        }
        let text = |role: &str, text: String| ChatMessage {
            role: role.to_owned(),
            content: Some(Content::Text(text)),
            ..ChatMessage::default()
        };
        let mut messages: Vec<ChatMessage> =
            self.instructions.map(|instructions| text("system", instructions)).into_iter().collect();
        match self.input {
            ResponsesInput::Text(question) => messages.push(text("user", question)),
            ResponsesInput::Items(items) if items.is_empty() => {
                return Err(ApiError::invalid("input", "input is empty, but must hold a question"));
            }
            ResponsesInput::Items(items) => {
                for (index, item) in items.into_iter().enumerate() {
                    item.add_to(&mut messages, index)?;
                }
            }
        }
        let tools = self.tools.map(|tools| tools.into_iter().map(ResponsesTool::into_tool).collect());
        Ok(ChatRequest {
            model: self.model,
            messages,
            alignment: self.alignment,
            max_completion_tokens: self.max_output_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            seed: self.seed,
            stream: self.stream,
            response_format: self.text.and_then(|text| text.format).map(ResponsesFormat::into_chat),
            tools,
            tool_choice: self.tool_choice.filter(|choice| !choice.is_null()).map(tool_choice).transpose()?,
            parallel_tool_calls: self.parallel_tool_calls,
            user: self.user,
            metadata: self.metadata,
            ..ChatRequest::default()
        })
    }
}

impl ResponsesItem {
    fn add_to(self, messages: &mut Vec<ChatMessage>, index: usize) -> Result<(), ApiError> {
        let lacks = |field: &str| {
            let message = format!("input[{index}] has no {field}, but needs one");
            ApiError::invalid(format!("input[{index}].{field}"), message)
        };
        match self.kind.as_deref().unwrap_or("message") {
            "message" => {
                let content = match self.content.ok_or_else(|| lacks("content"))? {
                    Content::Parts(parts) => Content::Parts(parts.into_iter().map(as_text).collect()),
                    content => content,
                };
                let role = self.role.ok_or_else(|| lacks("role"))?;
                messages.push(ChatMessage { role, content: Some(content), ..ChatMessage::default() });
            }
            "function_call" => {
                let call = ToolCall {
                    id: self.call_id.ok_or_else(|| lacks("call_id"))?,
                    kind: "function".to_owned(),
                    function: FunctionCall {
                        name: self.name.ok_or_else(|| lacks("name"))?,
                        arguments: self.arguments.unwrap_or_default(),
                    },
                };
                // Calls of one turn are one message, with the text before them.
                match messages.last_mut() {
                    Some(last) if last.role == "assistant" => {
                        last.tool_calls.get_or_insert_default().push(call)
                    }
                    _ => messages.push(ChatMessage {
                        role: "assistant".to_owned(),
                        tool_calls: Some(vec![call]),
                        ..ChatMessage::default()
                    }),
                }
            }
            "function_call_output" => messages.push(ChatMessage {
                role: "tool".to_owned(),
                content: Some(Content::Text(self.output.ok_or_else(|| lacks("output"))?)),
                tool_call_id: Some(self.call_id.ok_or_else(|| lacks("call_id"))?),
                ..ChatMessage::default()
            }),
            // Thoughts of earlier turns are not shown again.
            "reasoning" => {}
            kind => {
                let message = format!(
                    "items of type `{kind}` are not read by this server; use message, function_call or \
                     function_call_output"
                );
                return Err(ApiError::invalid(format!("input[{index}].type"), message));
            }
        }
        Ok(())
    }
}

/// The parts of responses have other names for the same.
fn as_text(part: ContentPart) -> ContentPart {
    match part.kind.as_str() {
        "input_text" | "output_text" => ContentPart { kind: "text".to_owned(), ..part },
        _ => part,
    }
}

impl ResponsesFormat {
    fn into_chat(self) -> ResponseFormat {
        let Self { kind, name, schema, strict } = self;
        let json_schema =
            (kind == "json_schema").then_some(JsonSchemaFormat { name, description: None, schema, strict });
        ResponseFormat { kind, json_schema }
    }
}

impl ResponsesTool {
    fn into_tool(self) -> Tool {
        let Self { kind, name, description, parameters, strict } = self;
        Tool { kind, function: FunctionDefinition { name, description, parameters, strict } }
    }
}

fn tool_choice(choice: Value) -> Result<ToolChoice, ApiError> {
    match &choice {
        Value::String(mode) => Ok(ToolChoice::Mode(mode.clone())),
        Value::Object(fields) => {
            let text = |field: &str| fields.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            Ok(ToolChoice::Named(NamedTool {
                kind: text("type"),
                function: FunctionName { name: text("name") },
            }))
        }
        _ => Err(ApiError::invalid(
            "tool_choice",
            "tool_choice must be a word or an object with `type` and `name`",
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chat(request: Value) -> Result<ChatRequest, ApiError> {
        serde_json::from_value::<ResponsesRequest>(request).unwrap().into_chat()
    }

    #[test]
    fn a_conversation_of_items_is_a_chat() {
        let request = chat(json!({"instructions": "Be brief.", "max_output_tokens": 9, "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "sun"}],
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
            "tool_choice": {"type": "function", "name": "f"},
            "text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "null"}, "strict": true}}}));
        let request = request.unwrap();
        let roles: Vec<&str> = request.messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool"]);
        assert_eq!(request.messages[2].tool_calls.as_ref().unwrap()[0].id, "c1");
        assert_eq!(request.messages[3].tool_call_id.as_deref(), Some("c1"));
        assert_eq!(
            (request.max_completion_tokens, request.tools.unwrap()[0].function.name.as_str()),
            (Some(9), "f")
        );
        assert!(matches!(request.tool_choice, Some(ToolChoice::Named(_))));
        assert_eq!(request.response_format.unwrap().json_schema.unwrap().strict, Some(true));
        assert_eq!(chat(json!({"input": "Hi"})).unwrap().messages.len(), 1);
    }

    #[test]
    fn what_is_not_kept_or_known_is_refused_by_name() {
        for (request, param) in [
            (json!({"input": []}), "input"),
            (json!({"input": "a", "previous_response_id": "resp-1"}), "previous_response_id"),
            (json!({"input": "a", "background": true}), "background"),
            (json!({"input": [{"role": "user"}]}), "input[0].content"),
            (json!({"input": [{"type": "web_search_call"}]}), "input[0].type"),
            (json!({"input": [{"type": "function_call", "call_id": "c"}]}), "input[0].name"),
            (json!({"input": "a", "tool_choice": 7}), "tool_choice"),
        ] {
            let error = chat(request.clone()).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{request}");
        }
    }
}
