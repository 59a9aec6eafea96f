//! What one line asks to be scored and how its rewards are added to it. Leaves scoring to its caller.

use rectify_feedback::{
    Message, PreferenceRecord, PromptRecord, Record, RecordError, SftData, SftRecord, Text,
};
use serde_json::{Map, Value, json};

/// A conversation and the answer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scorable {
    /// The conversation before the answer.
    pub(super) messages: Vec<Message>,
    /// The assistant's last turn.
    pub(super) answer: String,
}

/// A line of the input: as it is, and what to score.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ScoreLine {
    fields: Map<String, Value>,
    /// One answer, `chosen` and `rejected`, or `candidates`.
    pub(super) answers: Answers,
}

/// What a line holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answers {
    One(Scorable),
    Pair { chosen: Scorable, rejected: Scorable },
    Many(Vec<Scorable>),
}

impl Answers {
    /// All of them, `chosen` first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Scorable> {
        let (first, second, many) = match self {
            Self::One(one) => (Some(one), None, &[][..]),
            Self::Pair { chosen, rejected } => (Some(chosen), Some(rejected), &[][..]),
            Self::Many(many) => (None, None, many.as_slice()),
        };
        first.into_iter().chain(second).chain(many)
    }
}

impl Record for ScoreLine {
    fn from_fields(fields: Map<String, Value>) -> Result<Self, RecordError> {
        let is_pair = fields.contains_key("chosen") || fields.contains_key("rejected");
        let has_answer = is_pair || fields.contains_key("completion") || ends_with_answer(&fields);
        let answers = if let Some(candidates) = fields.get("candidates").filter(|_| !has_answer) {
            Answers::Many(many(&fields, candidates)?)
        } else if is_pair {
            let record = PreferenceRecord::from_fields(fields.clone())?;
            Answers::Pair {
                chosen: scorable("chosen", &record.prompt, &record.chosen)?,
                rejected: scorable("rejected", &record.prompt, &record.rejected)?,
            }
        } else {
            match SftRecord::from_fields(fields.clone()).map(|record| record.data) {
                Ok(SftData::Messages(turns)) => Answers::One(last_turn("messages", turns)?),
                Ok(SftData::PromptCompletion { prompt, completion }) => {
                    Answers::One(scorable("completion", &prompt, &completion)?)
                }
                Ok(SftData::Text(_)) => return Err(nothing_to_score()),
                // The other formats' sentence would name `text`, which cannot be scored.
                Err(_) if !fields.contains_key("messages") && !fields.contains_key("completion") => {
                    return Err(nothing_to_score());
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Self { fields, answers })
    }

    fn to_fields(&self) -> Map<String, Value> {
        self.fields.clone()
    }
}

/// `messages` ends with the assistant's turn.
fn ends_with_answer(fields: &Map<String, Value>) -> bool {
    let last = fields.get("messages").and_then(Value::as_array).and_then(|turns| turns.last());
    last.is_some_and(|turn| turn["role"] == "assistant")
}

fn nothing_to_score() -> RecordError {
    RecordError(
        "the line has none of `messages`, `prompt` with `completion`, `prompt` with `candidates`, and `chosen` with `rejected`"
            .to_owned(),
    )
}

/// `candidates`, texts or objects with a `text` as `rectify generate --keep all` writes them, to `prompt` or `messages`.
fn many(fields: &Map<String, Value>, candidates: &Value) -> Result<Vec<Scorable>, RecordError> {
    let wrong = || RecordError("`candidates` must be a list of texts, at least one".to_owned());
    let text = |candidate: &Value| {
        let text = candidate.as_str().or_else(|| candidate.get("text")?.as_str());
        text.map(str::to_owned).ok_or_else(wrong)
    };
    let texts = candidates.as_array().ok_or_else(wrong)?.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let prompt = PromptRecord::from_fields(fields.clone())?.prompt;
    let messages = prompt.to_messages("user");
    if messages.is_empty() || texts.is_empty() {
        return Err(wrong());
    }
    Ok(texts.into_iter().map(|answer| Scorable { messages: messages.clone(), answer }).collect())
}

fn scorable(name: &str, prompt: &Text, answer: &Text) -> Result<Scorable, RecordError> {
    let mut turns = prompt.to_messages("user");
    turns.extend(answer.to_messages("assistant"));
    last_turn(name, turns)
}

fn last_turn(name: &str, mut turns: Vec<Message>) -> Result<Scorable, RecordError> {
    match turns.pop() {
        Some(last) if last.role == "assistant" && !turns.is_empty() => {
            Ok(Scorable { messages: turns, answer: last.content })
        }
        Some(last) if last.role == "assistant" => {
            Err(RecordError(format!("`{name}` has an answer but no message before it")))
        }
        _ => Err(RecordError(format!(
            "`{name}` must end with an assistant's message, which is what is scored"
        ))),
    }
}

fn value(reward: &Option<f32>) -> Value {
    reward.map_or(Value::Null, |reward| json!(crate::cli::widen(reward)))
}

/// The rewards of one answer by the reward models in their order; `None` if it could not be scored.
pub(super) type Rewards = Vec<Option<f32>>;

impl ScoreLine {
    /// The line with its rewards: `reward`, or `reward_chosen` and `reward_rejected`, by the first reward model; with
    /// several models also `rewards` and so on, by name. Those of `candidates` are lists.
    pub(super) fn with_rewards(&self, names: &[String], rewards: &[Rewards]) -> Map<String, Value> {
        let mut fields = self.fields.clone();
        if let Answers::Many(_) = self.answers {
            let of_model = |model: usize| -> Value {
                rewards.iter().map(|rewards| value(rewards.get(model).unwrap_or(&None))).collect()
            };
            fields.insert("reward".to_owned(), of_model(0));
            if names.len() > 1 {
                let by_name = names.iter().enumerate().map(|(model, name)| (name.clone(), of_model(model)));
                fields.insert("rewards".to_owned(), Value::Object(by_name.collect()));
            }
            return fields;
        }
        let suffixes: &[&str] =
            if matches!(self.answers, Answers::One(_)) { &[""] } else { &["_chosen", "_rejected"] };
        for (suffix, rewards) in suffixes.iter().zip(rewards) {
            fields.insert(format!("reward{suffix}"), rewards.first().map_or(Value::Null, value));
            if names.len() > 1 {
                let by_name: Map<String, Value> =
                    names.iter().cloned().zip(rewards.iter().map(value)).collect();
                fields.insert(format!("rewards{suffix}"), Value::Object(by_name));
            }
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rectify_feedback::jsonl::parse;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_form_is_a_conversation_and_its_answer() {
        let user = |text: &str| vec![Message::new("user", text)];
        for line in [
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"id":1}"#,
            r#"{"prompt":"q","completion":"a","label":true}"#,
            r#"{"prompt":[{"role":"user","content":"q"}],"completion":[{"role":"assistant","content":"a"}]}"#,
        ] {
            let line: ScoreLine = parse(line).expect(line);
            assert_eq!(line.answers, Answers::One(Scorable { messages: user("q"), answer: "a".into() }));
        }
        let line: ScoreLine = parse(r#"{"prompt":"q","chosen":"a","rejected":"b"}"#).expect("a pair");
        let answers: Vec<&str> = line.answers.iter().map(|scorable| scorable.answer.as_str()).collect();
        assert_eq!(answers, ["a", "b"]);
    }

    #[test]
    fn rewards_are_added_and_the_rest_stays() {
        let line: ScoreLine = parse(r#"{"prompt":"q","completion":"a","reward":9,"id":1}"#).expect("valid");
        let fields = line.with_rewards(&names(&["helpful"]), &[vec![Some(0.1)]]);
        assert_eq!(
            Value::Object(fields).to_string(),
            r#"{"prompt":"q","completion":"a","reward":0.1,"id":1}"#
        );
        let line: ScoreLine = parse(r#"{"prompt":"q","chosen":"a","rejected":"b"}"#).expect("valid");
        let fields =
            line.with_rewards(&names(&["h", "s"]), &[vec![Some(1.5), None], vec![Some(-1.0), Some(2.0)]]);
        assert_eq!(
            Value::Object(fields).to_string(),
            r#"{"prompt":"q","chosen":"a","rejected":"b","reward_chosen":1.5,"rewards_chosen":{"h":1.5,"s":null},"reward_rejected":-1.0,"rewards_rejected":{"h":-1.0,"s":2.0}}"#
        );
    }

    #[test]
    fn candidates_are_texts_or_what_generate_writes() {
        for line in [
            r#"{"prompt":"q","candidates":["a","b"]}"#,
            r#"{"messages":[{"role":"user","content":"q"}],"candidates":[{"text":"a","reward":1},{"text":"b"}]}"#,
        ] {
            let line: ScoreLine = parse(line).expect(line);
            let answers: Vec<&str> = line.answers.iter().map(|scorable| scorable.answer.as_str()).collect();
            assert_eq!(answers, ["a", "b"]);
            let fields =
                line.with_rewards(&names(&["h", "s"]), &[vec![Some(1.5), None], vec![None, Some(2.0)]]);
            assert_eq!(fields["reward"], json!([1.5, null]));
            assert_eq!(fields["rewards"], json!({"h": [1.5, null], "s": [null, 2.0]}));
        }
        let answered = r#"{"prompt":"q","completion":"a","candidates":[]}"#;
        assert!(matches!(parse::<ScoreLine>(answered).expect("one").answers, Answers::One(_)));
    }

    #[test]
    fn what_cannot_be_scored_is_refused_by_name() {
        for (line, part) in [
            (r#"{"text":"a"}"#, "none of `messages`"),
            (r#"{"prompt":"a"}"#, "none of `messages`"),
            (r#"{"messages":[{"role":"user","content":"q"}]}"#, "must end with an assistant's message"),
            (r#"{"messages":[{"role":"assistant","content":"a"}]}"#, "no message before it"),
            (r#"{"prompt":"a","chosen":"b"}"#, "`rejected` is missing"),
            (r#"{"messages":3}"#, "`messages` must be a list"),
            (r#"{"prompt":"q","candidates":[]}"#, "`candidates` must be a list of texts"),
            (r#"{"candidates":["a"]}"#, "neither `prompt` nor `messages`"),
        ] {
            let error = parse::<ScoreLine>(line).expect_err(line);
            assert!(error.0.contains(part), "{line}: {error}");
        }
    }
}
