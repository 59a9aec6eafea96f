//! From an answer's text to a chat message: thoughts, text and calls of tools, told apart while they come. Leaves the
//! marks to the engine's `text` and the JSON to the routes.

use rectify_engine::text::reasoning::{ReasoningDelta, ReasoningParser};
use rectify_engine::text::tools::{ToolDelta, ToolFormat, ToolParser};

use crate::api::chat::{AssistantMessage, Delta};
use crate::api::tools::{Choice, FunctionCall, FunctionCallDelta, ToolCall, ToolCallDelta, ToolUse};

/// What is looked for in the answers to a request.
#[derive(Clone, Debug, Default)]
pub struct ReplyFormat {
    /// The template marks thoughts; whether the prompt has opened them.
    pub reasoning: Option<bool>,
    /// How calls are written, if any are looked for.
    pub tools: Option<Calls>,
}

/// How calls are written.
#[derive(Clone, Debug)]
pub struct Calls {
    format: ToolFormat,
    names: Vec<String>,
    choice: Choice,
}

impl Calls {
    /// `None` if calls are text like any other.
    pub fn of(tools: &ToolUse, format: ToolFormat) -> Option<Self> {
        let choice = tools.choice;
        (choice != Choice::None).then(|| Self { format, names: tools.names(), choice })
    }
}

/// One choice's message so far.
#[derive(Clone, Debug)]
pub struct Reply {
    reasoning: Option<ReasoningParser>,
    tools: Option<ToolParser>,
    /// Mistral's templates take ids of nine letters and digits only.
    has_short_ids: bool,
    is_named: bool,
}

impl Reply {
    /// Nothing said yet.
    pub fn new(format: &ReplyFormat) -> Self {
        let calls = format.tools.as_ref();
        Self {
            reasoning: format.reasoning.map(ReasoningParser::new),
            tools: calls.map(|calls| ToolParser::new(calls.format, calls.names.clone())),
            has_short_ids: calls.is_some_and(|calls| matches!(calls.format, ToolFormat::Mistral { .. })),
            is_named: calls.is_some_and(|calls| calls.choice == Choice::Named),
        }
    }

    /// What the next piece of text adds.
    pub fn push(&mut self, text: String) -> Delta {
        let mut delta = Delta::default();
        let Some(reasoning) = &mut self.reasoning else {
            self.content(text, &mut delta);
            return delta;
        };
        let parts = reasoning.push(&text);
        self.parts(parts, &mut delta);
        delta
    }

    /// What was held back, at the end.
    pub fn finish(&mut self) -> Delta {
        let mut delta = Delta::default();
        let parts = self.reasoning.as_mut().map(ReasoningParser::finish).unwrap_or_default();
        self.parts(parts, &mut delta);
        let calls = self.tools.as_mut().map(ToolParser::finish).unwrap_or_default();
        self.calls(calls, &mut delta);
        delta
    }

    /// OpenAI's word for why it ended: one that chose to call ended with `tool_calls`.
    pub fn finish_reason(&self, reason: &'static str) -> &'static str {
        let has_calls = self.tools.as_ref().is_some_and(|tools| tools.num_calls() > 0);
        if has_calls && reason == "stop" && !self.is_named { "tool_calls" } else { reason }
    }

    fn parts(&mut self, parts: Vec<ReasoningDelta>, delta: &mut Delta) {
        for part in parts {
            match part {
                ReasoningDelta::Reasoning(text) => add(&mut delta.reasoning_content, text),
                ReasoningDelta::Content(text) => self.content(text, delta),
            }
        }
    }

    fn content(&mut self, text: String, delta: &mut Delta) {
        match &mut self.tools {
            None => add(&mut delta.content, text),
            Some(tools) => {
                let calls = tools.push(&text);
                self.calls(calls, delta);
            }
        }
    }

    fn calls(&self, calls: Vec<ToolDelta>, delta: &mut Delta) {
        for call in calls {
            match call {
                ToolDelta::Content(text) => add(&mut delta.content, text),
                ToolDelta::Call { index, name } => {
                    delta.tool_calls.get_or_insert_default().push(ToolCallDelta {
                        index,
                        id: Some(self.new_id()),
                        kind: Some("function".to_owned()),
                        function: FunctionCallDelta { name: Some(name), arguments: String::new() },
                    })
                }
                ToolDelta::Arguments { index, text } => {
                    let calls = delta.tool_calls.get_or_insert_default();
                    match calls.last_mut().filter(|call| call.index == index) {
                        Some(call) => call.function.arguments.push_str(&text),
                        None => {
                            let function = FunctionCallDelta { name: None, arguments: text };
                            calls.push(ToolCallDelta { index, function, ..ToolCallDelta::default() });
                        }
                    }
                }
            }
        }
    }

    fn new_id(&self) -> String {
        let random = uuid::Uuid::new_v4().simple().to_string();
        if self.has_short_ids { random[..9].to_owned() } else { format!("call_{}", &random[..24]) }
    }
}

fn add(slot: &mut Option<String>, text: String) {
    if !text.is_empty() {
        slot.get_or_insert_default().push_str(&text);
    }
}

impl Delta {
    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl AssistantMessage {
    /// Adds what came.
    pub fn add(&mut self, delta: Delta) {
        if let Some(text) = delta.content {
            add(&mut self.content, text);
        }
        if let Some(text) = delta.reasoning_content {
            add(&mut self.reasoning_content, text);
        }
        for news in delta.tool_calls.unwrap_or_default() {
            let calls = self.tool_calls.get_or_insert_default();
            if let Some(call) = calls.get_mut(news.index) {
                call.function.arguments.push_str(&news.function.arguments);
            } else {
                let name = news.function.name.unwrap_or_default();
                let function = FunctionCall { name, arguments: news.function.arguments };
                let kind = "function".to_owned();
                calls.push(ToolCall { id: news.id.unwrap_or_default(), kind, function });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn format(choice: Choice) -> ReplyFormat {
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let tools = ToolUse::read(serde_json::from_value(tools).unwrap(), None, None).unwrap().unwrap();
        let tools = ToolUse { choice, ..tools };
        ReplyFormat { reasoning: Some(false), tools: Calls::of(&tools, ToolFormat::Hermes) }
    }

    fn message(format: &ReplyFormat, pieces: &[&str]) -> (AssistantMessage, &'static str) {
        let (mut reply, mut message) = (Reply::new(format), AssistantMessage::default());
        pieces.iter().for_each(|piece| message.add(reply.push((*piece).to_owned())));
        message.add(reply.finish());
        (message, reply.finish_reason("stop"))
    }

    #[test]
    fn thoughts_text_and_calls_go_to_their_fields() {
        let text = "<think>Hm.</think>\nI call.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>";
        let (message, reason) = message(&format(Choice::Auto), &[&text[..30], &text[30..60], &text[60..]]);
        assert_eq!(message.reasoning_content.as_deref(), Some("Hm."));
        assert_eq!(message.content.as_deref(), Some("I call."));
        let calls = message.tool_calls.unwrap();
        assert_eq!((calls.len(), calls[0].function.name.as_str()), (1, "f"));
        assert_eq!(calls[0].function.arguments, "{\"a\": 1}");
        assert!(calls[0].id.starts_with("call_") && reason == "tool_calls");
    }

    #[test]
    fn a_named_call_stops_and_no_choice_leaves_text_alone() {
        let text = "<tool_call>{\"name\": \"f\"}</tool_call>";
        assert_eq!(message(&format(Choice::Named), &[text]).1, "stop");
        let (message, reason) = message(&format(Choice::None), &[text]);
        assert_eq!((message.content.as_deref(), message.tool_calls, reason), (Some(text), None, "stop"));
    }
}
