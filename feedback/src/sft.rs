//! Demonstrations for supervised fine-tuning: `messages`, `prompt`/`completion` or `text` lines.

use serde_json::{Map, Value};

use crate::fields::Fields;
use crate::{Message, Record, RecordError, Text};

/// One demonstration and whatever else its line says.
#[derive(Clone, Debug, PartialEq)]
pub struct SftRecord {
    /// What to learn.
    pub data: SftData,
    /// Other columns, in their order.
    pub extra: Map<String, Value>,
}

/// The three forms of a demonstration.
#[derive(Clone, Debug, PartialEq)]
pub enum SftData {
    /// A conversation; which turns bear loss is the trainer's choice.
    Messages(Vec<Message>),
    /// A prompt, which bears no loss, and its completion. Both are plain or both are turns.
    PromptCompletion {
        /// What comes first.
        prompt: Text,
        /// What to answer.
        completion: Text,
    },
    /// A plain text, all of it learnt.
    Text(String),
}

impl From<SftData> for SftRecord {
    fn from(data: SftData) -> Self {
        Self { data, extra: Map::new() }
    }
}

impl Record for SftRecord {
    fn from_fields(fields: Map<String, Value>) -> Result<Self, RecordError> {
        let mut fields = Fields(fields);
        let chat = ["messages", "conversations"].into_iter().find(|name| fields.has(name));
        let data = if let Some(chat) = chat {
            SftData::Messages(fields.messages(chat)?)
        } else if fields.has("completion") {
            let (prompt, completion) = (fields.text("prompt")?, fields.text("completion")?);
            let (prompt, completion) = alike("completion", prompt, completion)?;
            SftData::PromptCompletion { prompt, completion }
        } else if fields.has("text") {
            SftData::Text(fields.string("text")?)
        } else {
            return Err(RecordError::new(
                "the line has none of `messages`, `prompt` with `completion`, and `text`",
            ));
        };
        Ok(Self { data, extra: fields.0 })
    }

    fn to_fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut insert = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        match &self.data {
            SftData::Messages(turns) => {
                insert("messages", Text::Chat(turns.clone()).to_value());
            }
            SftData::PromptCompletion { prompt, completion } => {
                insert("prompt", prompt.to_value());
                insert("completion", completion.to_value());
            }
            SftData::Text(text) => {
                insert("text", Value::String(text.clone()));
            }
        }
        fields.extend(self.extra.clone());
        fields
    }
}

/// Brings a prompt and what follows it to one shape: a plain prompt before turns is the user's turn.
pub(crate) fn alike(name: &str, prompt: Text, answer: Text) -> Result<(Text, Text), RecordError> {
    match (&prompt, &answer) {
        (Text::Chat(_), Text::Plain(_)) => Err(RecordError::new(format!(
            "`prompt` is a list of messages, but `{name}` is a string; make `{name}` a list of messages too"
        ))),
        (Text::Plain(_), Text::Chat(_)) => Ok((Text::Chat(prompt.to_messages("user")), answer)),
        _ => Ok((prompt, answer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonl::parse;

    #[test]
    fn the_three_forms_survive_a_round_trip_with_their_other_columns() {
        for line in [
            r#"{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello."}],"id":"a"}"#,
            r#"{"prompt":"2+2=","completion":"4","weight":0.5}"#,
            r#"{"prompt":[{"role":"user","content":"Hi"}],"completion":[{"role":"assistant","content":"Yo"}]}"#,
            r#"{"text":"Once upon a time\n"}"#,
        ] {
            let record: SftRecord = parse(line).expect(line);
            assert_eq!(Value::Object(record.to_fields()).to_string(), line);
        }
    }

    #[test]
    fn conversations_of_sharegpt_are_messages() {
        let line = r#"{"conversations":[{"from":"human","value":"Hi"},{"from":"gpt","value":"Hello."}]}"#;
        let record: SftRecord = parse(line).expect("valid");
        let turns = vec![Message::new("user", "Hi"), Message::new("assistant", "Hello.")];
        assert_eq!(record.data, SftData::Messages(turns));
    }

    #[test]
    fn a_plain_prompt_before_turns_is_the_users() {
        let record: SftRecord =
            parse(r#"{"prompt":"Hi","completion":[{"role":"assistant","content":"Yo"}]}"#).expect("valid");
        let SftData::PromptCompletion { prompt, .. } = record.data else { panic!("{record:?}") };
        assert_eq!(prompt, Text::Chat(vec![Message::new("user", "Hi")]));
    }

    #[test]
    fn mixed_and_missing_fields_are_refused_by_name() {
        for (line, part) in [
            (r#"{"prompt":"a"}"#, "none of `messages`"),
            (r#"{"completion":"a"}"#, "`prompt` is missing"),
            (r#"{"prompt":[{"role":"user","content":"Hi"}],"completion":"a"}"#, "make `completion` a list"),
            (r#"{"text":["a"]}"#, "`text` must be a string, but is a list"),
        ] {
            let error = parse::<SftRecord>(line).expect_err(line);
            assert!(error.0.contains(part), "{line}: {error}");
        }
    }
}
