//! Prompts to generate for: `{"prompt": …}` or `{"messages": […]}`.

use serde_json::{Map, Value};

use crate::fields::Fields;
use crate::{Record, RecordError, Text};

/// One prompt and whatever else its line says.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptRecord {
    /// The prompt. `prompt` lines may hold a string or turns, `messages` lines hold turns.
    pub prompt: Text,
    /// Other columns, in their order.
    pub extra: Map<String, Value>,
}

impl Record for PromptRecord {
    fn from_fields(fields: Map<String, Value>) -> Result<Self, RecordError> {
        let mut fields = Fields(fields);
        let prompt = match (fields.has("prompt"), fields.has("messages")) {
            (true, false) => fields.text("prompt")?,
            (false, true) => Text::Chat(fields.messages("messages")?),
            (true, true) => {
                return Err(RecordError::new("the line has both `prompt` and `messages`; keep one of them"));
            }
            (false, false) => return Err(RecordError::new("the line has neither `prompt` nor `messages`")),
        };
        if prompt.is_empty() {
            return Err(RecordError::new("`prompt` is empty, but must have at least one character"));
        }
        if let Text::Chat(turns) = &prompt
            && turns.last().is_some_and(|turn| turn.role == "assistant")
        {
            return Err(RecordError::new(
                "the last message is the assistant's, but a prompt ends before the answer; remove that message",
            ));
        }
        Ok(Self { prompt, extra: fields.0 })
    }

    fn to_fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let name = if matches!(self.prompt, Text::Plain(_)) { "prompt" } else { "messages" };
        fields.insert(name.to_owned(), self.prompt.to_value());
        fields.extend(self.extra.clone());
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonl::parse;

    #[test]
    fn a_prompt_is_text_or_turns_and_keeps_its_other_columns() {
        for line in [
            r#"{"prompt":"2+2?","id":7}"#,
            r#"{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"2+2?"}],"tag":["x"]}"#,
        ] {
            let record: PromptRecord = parse(line).expect(line);
            assert_eq!(Value::Object(record.to_fields()).to_string(), line);
        }
    }

    #[test]
    fn what_is_no_prompt_is_refused_by_name() {
        for (line, sentence) in [
            (r#"{}"#, "the line has neither `prompt` nor `messages`"),
            (r#"{"prompt":""}"#, "`prompt` is empty, but must have at least one character"),
            (r#"{"prompt":3}"#, "`prompt` must be a string or a list of messages, but is a number"),
            (r#"{"messages":[]}"#, "`messages` is an empty list, but must have at least one message"),
            (r#"{"messages":[{"role":"user"}]}"#, "`messages[0].content` is missing"),
            (
                r#"{"prompt":"a","messages":[]}"#,
                "the line has both `prompt` and `messages`; keep one of them",
            ),
        ] {
            assert_eq!(parse::<PromptRecord>(line).expect_err(line).0, sentence);
        }
        let answered = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;
        assert!(parse::<PromptRecord>(answered).is_err());
    }
}
