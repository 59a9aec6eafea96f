//! Preferences: `prompt`, `chosen`, `rejected`, plain or conversational, with optional rewards and margin.

use serde_json::{Map, Value};

use crate::fields::Fields;
use crate::sft::alike;
use crate::{Message, Record, RecordError, Text};

/// Two answers to one prompt, of which one is better.
#[derive(Clone, Debug, PartialEq)]
pub struct PreferenceRecord {
    /// What both answer.
    pub prompt: Text,
    /// The better answer, without the prompt.
    pub chosen: Text,
    /// The worse answer, without the prompt.
    pub rejected: Text,
    /// How much better, in units of reward (`m` of Llama 2's loss); `None` is 0.
    pub margin: Option<f64>,
    /// A reward model's raw score of `chosen`.
    pub reward_chosen: Option<f64>,
    /// A reward model's raw score of `rejected`.
    pub reward_rejected: Option<f64>,
    /// Other columns, in their order.
    pub extra: Map<String, Value>,
}

impl PreferenceRecord {
    /// A preference without margin, rewards or other columns.
    pub fn new(prompt: Text, chosen: Text, rejected: Text) -> Self {
        Self {
            prompt,
            chosen,
            rejected,
            margin: None,
            reward_chosen: None,
            reward_rejected: None,
            extra: Map::new(),
        }
    }
}

impl Record for PreferenceRecord {
    /// A line without `prompt`, whose answers hold it, is split at their longest common beginning, as TRL does; so is
    /// one whose `prompt` is plain and repeated as the first turns of both answers (UltraFeedback).
    fn from_fields(fields: Map<String, Value>) -> Result<Self, RecordError> {
        let mut fields = Fields(fields);
        let (chosen, rejected) = (fields.text("chosen")?, fields.text("rejected")?);
        let given = if fields.has("prompt") { Some(fields.text("prompt")?) } else { None };
        let (prompt, chosen, rejected) = match (given, chosen, rejected) {
            (None | Some(Text::Plain(_)), Text::Chat(chosen), Text::Chat(rejected))
                if common_turns(&chosen, &rejected) > 0 =>
            {
                let (prompt, chosen, rejected) = split_turns(chosen, rejected);
                (Text::Chat(prompt), Text::Chat(chosen), Text::Chat(rejected))
            }
            (None, Text::Plain(chosen), Text::Plain(rejected)) => split_text(&chosen, &rejected),
            (None, _, _) => {
                return Err(RecordError::new(
                    "`prompt` is missing, and `chosen` and `rejected` share no beginning",
                ));
            }
            (Some(prompt), chosen, rejected) => {
                let (prompt, chosen) = alike("chosen", prompt, chosen)?;
                let (prompt, rejected) = alike("rejected", prompt, rejected)?;
                // Turns in `rejected` alone may have made the prompt a conversation; then `chosen` must be one too.
                alike("chosen", prompt, chosen).map(|(prompt, chosen)| (prompt, chosen, rejected))?
            }
        };
        for (name, answer) in [("chosen", &chosen), ("rejected", &rejected)] {
            if answer.is_empty() {
                let message = format!("`{name}` has nothing after the prompt, but must hold an answer");
                return Err(RecordError::new(message));
            }
        }
        Ok(Self {
            margin: fields.number("margin")?,
            reward_chosen: fields.number("reward_chosen")?,
            reward_rejected: fields.number("reward_rejected")?,
            prompt,
            chosen,
            rejected,
            extra: fields.0,
        })
    }

    fn to_fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        for (name, text) in [("prompt", &self.prompt), ("chosen", &self.chosen), ("rejected", &self.rejected)]
        {
            fields.insert(name.to_owned(), text.to_value());
        }
        for (name, number) in [
            ("margin", self.margin),
            ("reward_chosen", self.reward_chosen),
            ("reward_rejected", self.reward_rejected),
        ] {
            if let Some(number) = number {
                fields.insert(name.to_owned(), number.into());
            }
        }
        fields.extend(self.extra.clone());
        fields
    }
}

fn common_turns(a: &[Message], b: &[Message]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

type SplitTurns = (Vec<Message>, Vec<Message>, Vec<Message>);

fn split_turns(mut chosen: Vec<Message>, mut rejected: Vec<Message>) -> SplitTurns {
    let common = common_turns(&chosen, &rejected);
    rejected.drain(..common);
    let answer = chosen.split_off(common);
    (chosen, answer, rejected)
}

/// Splits before the first difference; a space there goes to the answers, as TRL's `extract_prompt` has it.
fn split_text(chosen: &str, rejected: &str) -> (Text, Text, Text) {
    let mut end = chosen
        .char_indices()
        .zip(rejected.chars())
        .find_map(|((index, a), b)| (a != b).then_some(index))
        .unwrap_or(chosen.len().min(rejected.len()));
    if chosen[..end].ends_with(' ') {
        end -= 1;
    }
    let plain = |text: &str| Text::Plain(text.to_owned());
    (plain(&chosen[..end]), plain(&chosen[end..]), plain(&rejected[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonl::parse;

    #[test]
    fn both_forms_survive_a_round_trip() {
        for line in [
            r#"{"prompt":"The sky is","chosen":" blue.","rejected":" green."}"#,
            r#"{"prompt":"a","chosen":"b","rejected":"c","margin":0.5,"reward_chosen":1.5,"reward_rejected":-2.0,"id":1}"#,
            r#"{"prompt":[{"role":"user","content":"Hi"}],"chosen":[{"role":"assistant","content":"Hello."}],"rejected":[{"role":"assistant","content":"Go away."}],"annotator":"x"}"#,
        ] {
            let record: PreferenceRecord = parse(line).expect(line);
            assert_eq!(Value::Object(record.to_fields()).to_string(), line);
        }
    }

    #[test]
    fn an_implicit_prompt_is_the_common_beginning() {
        let turn = Message::new;
        let (hi, kind, rude) = (turn("user", "Hi"), turn("assistant", "Hello."), turn("assistant", "Go."));
        let chosen = serde_json::json!([hi, kind]);
        let rejected = serde_json::json!([hi, rude]);
        for line in [
            serde_json::json!({"chosen": chosen, "rejected": rejected}),
            serde_json::json!({"prompt": "Hi", "chosen": chosen, "rejected": rejected}),
        ] {
            let record: PreferenceRecord = parse(&line.to_string()).expect("valid");
            assert_eq!(record.prompt, Text::Chat(vec![hi.clone()]));
            assert_eq!(record.chosen, Text::Chat(vec![kind.clone()]));
            assert_eq!(record.rejected, Text::Chat(vec![rude.clone()]));
        }
        let record: PreferenceRecord =
            parse(r#"{"chosen":"Q: é? A: yes","rejected":"Q: é? A: no"}"#).expect("valid");
        assert_eq!(record.prompt, Text::Plain("Q: é? A:".into()));
        assert_eq!(record.rejected, Text::Plain(" no".into()));
    }

    #[test]
    fn a_plain_prompt_before_turns_is_the_users() {
        let line = r#"{"prompt":"Hi","chosen":[{"role":"assistant","content":"a"}],"rejected":[{"role":"assistant","content":"b"}]}"#;
        let record: PreferenceRecord = parse(line).expect("valid");
        assert_eq!(record.prompt, Text::Chat(vec![Message::new("user", "Hi")]));
    }

    #[test]
    fn what_is_no_preference_is_refused_by_name() {
        for (line, part) in [
            (r#"{"prompt":"a","chosen":"b"}"#, "`rejected` is missing"),
            (r#"{"prompt":"a","chosen":"b","rejected":null}"#, "`rejected` is missing"),
            (r#"{"prompt":"a","chosen":"b","rejected":""}"#, "`rejected` has nothing"),
            (r#"{"prompt":"a","chosen":"b","rejected":"c","margin":"x"}"#, "`margin` must be a number"),
            (r#"{"prompt":"a","chosen":"b","rejected":[{"role":"assistant","content":"c"}]}"#, "`chosen`"),
        ] {
            let error = parse::<PreferenceRecord>(line).expect_err(line);
            assert!(error.0.contains(part), "{line}: {error}");
        }
    }
}
