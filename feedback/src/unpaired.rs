//! Unpaired preferences: `prompt`, `completion`, `label` (thumbs, as KTO takes them).

use serde_json::{Map, Value};

use crate::fields::Fields;
use crate::sft::alike;
use crate::{Record, RecordError, Text};

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
