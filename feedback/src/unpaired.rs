//! Unpaired preferences: `prompt`, `completion`, `label` (thumbs, as KTO takes them).

use serde_json::{Map, Value};

use crate::fields::Fields;
use crate::sft::alike;
use crate::{PreferenceRecord, Record, RecordError, Text};

/// One answer and whether it was liked.
#[derive(Clone, Debug, PartialEq)]
pub struct UnpairedRecord {
    /// What was asked.
    pub prompt: Text,
    /// The answer.
    pub completion: Text,
    /// Liked.
    pub label: bool,
    /// Other columns, in their order.
    pub extra: Map<String, Value>,
}

impl Record for UnpairedRecord {
    fn from_fields(fields: Map<String, Value>) -> Result<Self, RecordError> {
        let mut fields = Fields(fields);
        let (prompt, completion) = alike("completion", fields.text("prompt")?, fields.text("completion")?)?;
        let label = fields.label("label")?;
        Ok(Self { prompt, completion, label, extra: fields.0 })
    }

    fn to_fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("prompt".to_owned(), self.prompt.to_value());
        fields.insert("completion".to_owned(), self.completion.to_value());
        fields.insert("label".to_owned(), Value::Bool(self.label));
        fields.extend(self.extra.clone());
        fields
    }
}

/// A line of a file for methods that take unpaired preferences: one, or a pair to be taken apart, as TRL does.
#[derive(Clone, Debug, PartialEq)]
pub enum UnpairedLine {
    /// `prompt`, `completion`, `label`.
    One(UnpairedRecord),
    /// `prompt`, `chosen`, `rejected`.
    Pair(PreferenceRecord),
}

impl UnpairedLine {
    /// The answers of the line: one, or the liked one before the other.
    pub fn into_records(self) -> Vec<UnpairedRecord> {
        match self {
            Self::One(record) => vec![record],
            Self::Pair(PreferenceRecord { prompt, chosen, rejected, extra, .. }) => {
                let record = |completion, label| {
                    let (prompt, extra) = (prompt.clone(), extra.clone());
                    UnpairedRecord { prompt, completion, label, extra }
                };
                vec![record(chosen, true), record(rejected, false)]
            }
        }
    }
}

impl Record for UnpairedLine {
    fn from_fields(fields: Map<String, Value>) -> Result<Self, RecordError> {
        if fields.contains_key("chosen") && fields.contains_key("rejected") {
            PreferenceRecord::from_fields(fields).map(Self::Pair)
        } else {
            UnpairedRecord::from_fields(fields).map(Self::One)
        }
    }

    fn to_fields(&self) -> Map<String, Value> {
        match self {
            Self::One(record) => record.to_fields(),
            Self::Pair(record) => record.to_fields(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonl::parse;

    #[test]
    fn thumbs_survive_a_round_trip() {
        for line in [
            r#"{"prompt":"a","completion":"b","label":true}"#,
            r#"{"prompt":[{"role":"user","content":"Hi"}],"completion":[{"role":"assistant","content":"Yo"}],"label":false,"user":"u-17"}"#,
        ] {
            let record: UnpairedRecord = parse(line).expect(line);
            assert_eq!(Value::Object(record.to_fields()).to_string(), line);
        }
    }

    #[test]
    fn a_pair_is_one_liked_answer_and_one_that_is_not() {
        let line: UnpairedLine =
            parse(r#"{"prompt":"a","chosen":"b","rejected":"c","id":7}"#).expect("valid");
        let lines: Vec<String> =
            line.into_records().iter().map(|record| Value::Object(record.to_fields()).to_string()).collect();
        assert_eq!(
            lines,
            [
                r#"{"prompt":"a","completion":"b","label":true,"id":7}"#,
                r#"{"prompt":"a","completion":"c","label":false,"id":7}"#
            ]
        );
    }

    #[test]
    fn a_label_is_a_boolean_or_its_number() {
        let label = |label: &str| {
            parse::<UnpairedRecord>(&format!(r#"{{"prompt":"a","completion":"b","label":{label}}}"#))
                .map(|r| r.label)
        };
        assert_eq!(label("1"), Ok(true));
        assert_eq!(label("0.0"), Ok(false));
        let error = label("\"good\"").expect_err("a string is no label");
        assert_eq!(error.0, "`label` must be true or false, but is a string");
    }
}
