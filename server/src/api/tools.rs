//! `tools` and `tool_choice` of a request, and calls in messages, answers and streams, in OpenAI's shapes. Leaves how
//! models write calls to the engine's `text::tools`.

use rectify_engine::text::tools::Function;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::error::ApiError;

/// Most functions of a request, as OpenAI's.
const MAX_TOOLS: usize = 128;
/// Longest name of a function, as OpenAI's.
const MAX_NAME: usize = 64;

/// A tool that the model may call.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct Tool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function.
    pub function: FunctionDefinition,
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct FunctionDefinition {
    /// Letters, digits, `_`, `-` and `.`; at most 64.
    pub name: String,
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON schema of its arguments; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// With a call that is required: refuse schemas with keywords that cannot be enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// Whether and what the model calls.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected none, auto, required, or {\"type\": \"function\", \"function\": {\"name\": \"...\"}}"
)]
pub enum ToolChoice {
    /// `none`, `auto` or `required`.
    Mode(String),
    /// One function.
    Named(NamedTool),
}

/// One function by name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct NamedTool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Which.
    pub function: FunctionName,
}

/// A function's name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct FunctionName {
    /// The name.
    pub name: String,
}

/// A call in a message.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ToolCall {
    /// What the result refers to.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}

/// A function and its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct FunctionCall {
    /// The function.
    pub name: String,
    /// JSON as the model wrote it: check it before use.
    #[serde(default)]
    pub arguments: String,
}

/// News of a call in a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ToolCallDelta {
    /// Which call of the message.
    pub index: usize,
    /// In the call's first news.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, in the call's first news.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What was added.
    pub function: FunctionCallDelta,
}

/// What was added to a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct FunctionCallDelta {
    /// The function, in the call's first news.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More of the arguments' JSON.
    #[serde(default)]
    pub arguments: String,
}

/// What the model does about tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Calls are text like any other.
    None,
    /// Calls are read where it makes them.
    Auto,
    /// It must call.
    Required,
    /// It must call the one that is left.
    Named,
}

/// The tools of a request, checked.
#[derive(Clone, Debug)]
pub struct ToolUse {
    /// As chat templates take them.
    pub definitions: Value,
    /// Those that may be called.
    pub functions: Vec<Function>,
    /// What the model does about them.
    pub choice: Choice,
    /// Several calls in one answer are fine.
    pub parallel: bool,
}

impl ToolUse {
    /// Reads the fields of a request; `None` without tools.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn read(
        tools: Option<Vec<Tool>>,
        choice: Option<ToolChoice>,
        parallel: Option<bool>,
    ) -> Result<Option<Self>, ApiError> {
        let tools = tools.unwrap_or_default();
        check_tools(&tools)?;
        let known = || crate::names(tools.iter().map(|tool| &tool.function.name));
        let function = |tool: &Tool| Function {
            name: tool.function.name.clone(),
            parameters: tool.function.parameters.clone(),
            strict: tool.function.strict.unwrap_or(false),
        };
        let mut functions: Vec<Function> = tools.iter().map(function).collect();
        let choice = match choice {
            None if tools.is_empty() => return Ok(None),
            None => Choice::Auto,
            Some(ToolChoice::Mode(mode)) => match mode.as_str() {
                "none" => Choice::None,
                "auto" => Choice::Auto,
                "required" => Choice::Required,
                _ => {
                    let message =
                        format!("tool_choice is `{mode}`, but must be none, auto, required or a function");
                    return Err(ApiError::invalid("tool_choice", message));
                }
            },
            Some(ToolChoice::Named(NamedTool { kind, function })) => {
                functions.retain(|known| known.name == function.name);
                if kind != "function" || functions.is_empty() {
                    let message = format!(
                        "tool_choice wants the {kind} `{}`, but must name a function of tools: {}",
                        function.name,
                        known()
                    );
                    return Err(ApiError::invalid("tool_choice", message));
                }
                Choice::Named
            }
        };
        if tools.is_empty() {
            if matches!(choice, Choice::None | Choice::Auto) {
                return Ok(None);
            }
            let message = "tool_choice wants a call, but the request has no tools; add `tools`";
            return Err(ApiError::invalid("tool_choice", message));
        }
        let definitions = serde_json::to_value(&tools)
            .map_err(|error| ApiError::invalid("tools", format!("tools are not JSON: {error}")))?;
        Ok(Some(Self { definitions, functions, choice, parallel: parallel.unwrap_or(true) }))
    }

    /// The model must call.
    pub fn is_forced(&self) -> bool {
        matches!(self.choice, Choice::Required | Choice::Named)
    }

    /// Names of the functions, for the reader of calls.
    pub fn names(&self) -> Vec<String> {
        self.functions.iter().map(|function| function.name.clone()).collect()
    }
}

fn check_tools(tools: &[Tool]) -> Result<(), ApiError> {
    if tools.len() > MAX_TOOLS {
        let message = format!("tools holds {}, but at most {MAX_TOOLS} fit in a request", tools.len());
        return Err(ApiError::invalid("tools", message));
    }
    for (index, tool) in tools.iter().enumerate() {
        if tool.kind != "function" {
            let message = format!("tools[{index}] is of type `{}`, but must be a function", tool.kind);
            return Err(ApiError::invalid(format!("tools[{index}].type"), message));
        }
        let name = &tool.function.name;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let at = || format!("tools[{index}].function.name");
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_plain) {
            let short: String = name.chars().take(MAX_NAME).collect();
            let message = format!(
                "`{short}` is no name of a function: use 1 to {MAX_NAME} letters, digits, `_`, `-` and `.`"
            );
            return Err(ApiError::invalid(at(), message));
        }
        if tools[..index].iter().any(|other| other.function.name == *name) {
            let message = format!("two tools are called `{name}`; give each its own name");
            return Err(ApiError::invalid(at(), message));
        }
    }
    Ok(())
}

impl ToolCall {
    /// As chat templates take it: the arguments as an object, if they are one.
    pub fn for_template(&self) -> Value {
        let text = &self.function.arguments;
        let arguments = serde_json::from_str::<Map<String, Value>>(text)
            .map_or_else(|_| text.clone().into(), Value::Object);
        json!({"id": self.id, "type": "function", "function": {"name": self.function.name, "arguments": arguments}})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: Value) -> Result<Option<ToolUse>, ApiError> {
        let mut fields = fields;
        let tools = serde_json::from_value(fields["tools"].take()).unwrap();
        let choice = serde_json::from_value(fields["tool_choice"].take()).unwrap();
        ToolUse::read(tools, choice, None)
    }

    fn tools(names: &[&str]) -> Value {
        names.iter().map(|name| json!({"type": "function", "function": {"name": name}})).collect()
    }

    #[test]
    fn choices_are_read() {
        let named = json!({"type": "function", "function": {"name": "b"}});
        for (choice, wanted, functions) in [
            (json!(null), Choice::Auto, vec!["a", "b"]),
            (json!("none"), Choice::None, vec!["a", "b"]),
            (json!("required"), Choice::Required, vec!["a", "b"]),
            (named, Choice::Named, vec!["b"]),
        ] {
            let found = read(json!({"tools": tools(&["a", "b"]), "tool_choice": choice})).unwrap().unwrap();
            assert_eq!(
                (found.choice, found.names()),
                (wanted, functions.into_iter().map(str::to_owned).collect())
            );
            assert_eq!(found.definitions.as_array().unwrap().len(), 2, "the template sees all of them");
        }
        assert!(read(json!({})).unwrap().is_none());
        assert!(read(json!({"tools": [], "tool_choice": "none"})).unwrap().is_none());
    }

    #[test]
    fn mistakes_are_named() {
        for (fields, param) in [
            (json!({"tools": [{"type": "web", "function": {"name": "a"}}]}), "tools[0].type"),
            (json!({"tools": tools(&["a", "b c"])}), "tools[1].function.name"),
            (json!({"tools": tools(&["a", "a"])}), "tools[1].function.name"),
            (json!({"tools": tools(&["a"; 129])}), "tools"),
            (json!({"tools": tools(&["a"]), "tool_choice": "maybe"}), "tool_choice"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (
                json!({"tools": tools(&["a"]), "tool_choice": {"type": "function", "function": {"name": "c"}}}),
                "tool_choice",
            ),
        ] {
            let error = read(fields.clone()).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{fields}");
        }
    }

    #[test]
    fn arguments_reach_templates_as_objects() {
        let call = |arguments: &str| ToolCall {
            id: "c".into(),
            kind: "function".into(),
            function: FunctionCall { name: "f".into(), arguments: arguments.into() },
        };
        assert_eq!(call(r#"{"a": 1}"#).for_template()["function"]["arguments"], json!({"a": 1}));
        assert_eq!(call("{").for_template()["function"]["arguments"], "{");
    }
}
