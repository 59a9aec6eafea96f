//! Ranked answers: a prompt with several answers and a reward for each, as RRHF takes them.

use serde_json::{Map, Value, json};

use crate::fields::Fields;
use crate::{PreferenceRecord, Record, RecordError, Text};

/// Answers to one prompt with their rewards.
#[derive(Clone, Debug, PartialEq)]
pub struct RankedRecord {
    /// What all answer.
    pub prompt: Text,
    /// Answers, at least two, and the reward of each; rewards are finite.
    pub candidates: Vec<(Text, f64)>,
    /// Other columns, in their order.
    pub extra: Map<String, Value>,
}

impl Record for RankedRecord {
    /// Three shapes: `candidates` with `text` and `reward`, as `rectify generate --keep all` writes them (those without
    /// a reward are left out); `responses` beside `scores`; or `chosen` and `rejected`, with rewards 1 and 0.
    fn from_fields(fields: Map<String, Value>) -> Result<Self, RecordError> {
        let mut fields = Fields(fields);
        let candidates = if fields.has("candidates") {
            described(&fields.list("candidates")?)?
        } else if fields.has("responses") {
            let (responses, scores) = (fields.list("responses")?, fields.list("scores")?);
            if responses.len() != scores.len() {
                let message =
                    format!("`scores` has {} numbers for {} `responses`", scores.len(), responses.len());
                return Err(RecordError::new(message));
            }
            let both = responses.iter().zip(&scores).enumerate();
            both.map(|(index, (text, score))| candidate(index, text, score)).collect::<Result<_, _>>()?
        } else {
            let PreferenceRecord { prompt, chosen, rejected, extra, .. } =
                PreferenceRecord::from_fields(fields.0)?;
            return Ok(Self { prompt, candidates: vec![(chosen, 1.0), (rejected, 0.0)], extra });
        };
        if candidates.len() < 2 {
            let message = "fewer than two answers have a reward, but ranking needs two or more";
            return Err(RecordError::new(message));
        }
        let prompt = fields.text("prompt")?;
        let fit = |(answer, reward): (Text, f64)| match (&prompt, answer) {
            (Text::Chat(_), Text::Plain(text)) => {
                (Text::Chat(Text::Plain(text).to_messages("assistant")), reward)
            }
            (_, answer) => (answer, reward),
        };
        let candidates = candidates.into_iter().map(fit).collect();
        Ok(Self { prompt, candidates, extra: fields.0 })
    }

    fn to_fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("prompt".to_owned(), self.prompt.to_value());
        let texts: Vec<Value> = self.candidates.iter().map(|(text, _)| text.to_value()).collect();
        let scores: Vec<f64> = self.candidates.iter().map(|(_, score)| *score).collect();
        fields.insert("responses".to_owned(), Value::Array(texts));
        fields.insert("scores".to_owned(), json!(scores));
        fields.extend(self.extra.clone());
        fields
    }
}

fn described(candidates: &[Value]) -> Result<Vec<(Text, f64)>, RecordError> {
    let rewarded = |(_, candidate): &(usize, &Value)| !candidate["reward"].is_null();
    let read = |(index, fields): (usize, &Value)| candidate(index, &fields["text"], &fields["reward"]);
    candidates.iter().enumerate().filter(rewarded).map(read).collect()
}

fn candidate(index: usize, text: &Value, reward: &Value) -> Result<(Text, f64), RecordError> {
    let Some(reward) = reward.as_f64().filter(|reward| reward.is_finite()) else {
        return Err(RecordError::new(format!("the reward of answer {index} must be a finite number")));
    };
    let mut field = Fields(Map::from_iter([(format!("answer {index}"), text.clone())]));
    Ok((field.text(&format!("answer {index}"))?, reward))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonl::parse;

    #[test]
    fn the_three_shapes_say_the_same() {
        let want =
            parse::<RankedRecord>(r#"{"prompt":"a","responses":["b","c"],"scores":[1,0]}"#).expect("valid");
        for line in [
            r#"{"prompt":"a","candidates":[{"text":"b","reward":1.0},{"text":"x","reward":null},{"text":"c","reward":0}]}"#,
            r#"{"prompt":"a","chosen":"b","rejected":"c"}"#,
        ] {
            assert_eq!(parse::<RankedRecord>(line).expect(line), want);
        }
        assert_eq!(parse::<RankedRecord>(&Value::Object(want.to_fields()).to_string()).expect("again"), want);
    }

    #[test]
    fn answers_to_a_conversation_are_turns() {
        let line = r#"{"prompt":[{"role":"user","content":"Hi"}],"responses":["b","c"],"scores":[1,0]}"#;
        let record = parse::<RankedRecord>(line).expect("valid");
        assert!(record.candidates.iter().all(|(answer, _)| matches!(answer, Text::Chat(_))));
    }

    #[test]
    fn what_cannot_be_ranked_is_said() {
        for (line, part) in [
            (r#"{"prompt":"a","responses":["b"],"scores":[1,2]}"#, "2 numbers for 1"),
            (r#"{"prompt":"a","responses":["b"],"scores":[1]}"#, "two or more"),
            (r#"{"prompt":"a","responses":["b","c"],"scores":[1,"x"]}"#, "reward of answer 1"),
            (r#"{"prompt":"a","candidates":[{"text":3,"reward":1},{"text":"b","reward":2}]}"#, "answer 0"),
        ] {
            let error = parse::<RankedRecord>(line).expect_err(line);
            assert!(error.0.contains(part), "{error:?}");
        }
    }
}
