//! What a request wants of the answer's form: OpenAI's `response_format` and vLLM's `structured_outputs` and `guided_*`,
//! read into one grammar. Leaves compiling and following it to the engine.

use rectify_engine::GrammarSpec;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::ApiError;

/// The form of the answer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: String,
    /// With `json_schema`: the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<JsonSchemaFormat>,
}

/// A JSON schema that the answer follows.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct JsonSchemaFormat {
    /// What the client calls it; without effect.
    #[serde(default)]
    pub name: Option<String>,
    /// What it is for; without effect.
    #[serde(default)]
    pub description: Option<String>,
    /// The schema; any JSON if absent.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// Refuse schemas with keywords that cannot be enforced; otherwise those keywords are left out.
    #[serde(default)]
    pub strict: Option<bool>,
}

/// vLLM's `structured_outputs`; exactly one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct StructuredOutputs {
    /// A JSON schema, as an object or as text.
    #[serde(default)]
    pub json: Option<Value>,
    /// A regular expression for the whole answer.
    #[serde(default)]
    pub regex: Option<String>,
    /// The answers that are allowed.
    #[serde(default)]
    pub choice: Option<Vec<String>>,
    /// A grammar in Lark's language.
    #[serde(default)]
    pub grammar: Option<String>,
    /// Any JSON object.
    #[serde(default)]
    pub json_object: Option<bool>,
}

/// The fields of a request that are about the answer's form.
#[derive(Clone, Debug, Default)]
pub struct FormFields {
    /// `response_format`.
    pub response_format: Option<ResponseFormat>,
    /// `structured_outputs`.
    pub structured_outputs: Option<StructuredOutputs>,
    /// `guided_json`.
    pub guided_json: Option<Value>,
    /// `guided_regex`.
    pub guided_regex: Option<String>,
    /// `guided_choice`.
    pub guided_choice: Option<Vec<String>>,
    /// `guided_grammar`.
    pub guided_grammar: Option<String>,
}

/// A grammar and the field that asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// The field, for refusals.
    pub param: &'static str,
    /// What it asks for.
    pub spec: GrammarSpec,
}

impl FormFields {
    /// The one form that is asked for; `None` is free text.
    ///
    /// # Errors
    /// 400 naming the field that is wrong, or one of two that contradict each other.
    pub fn read(self) -> Result<Option<Form>, ApiError> {
        let outputs = self.structured_outputs.unwrap_or_default();
        let json = |param, value: Option<Value>| value.map(|value| schema(param, value)).transpose();
        let found = [
            self.response_format.map(ResponseFormat::read).transpose()?.flatten(),
            json("guided_json", self.guided_json)?,
            json("structured_outputs.json", outputs.json)?,
            self.guided_regex.map(|pattern| regex("guided_regex", pattern)),
            outputs.regex.map(|pattern| regex("structured_outputs.regex", pattern)),
            self.guided_choice.map(|texts| choice("guided_choice", texts)).transpose()?,
            outputs.choice.map(|texts| choice("structured_outputs.choice", texts)).transpose()?,
            self.guided_grammar.map(|text| grammar("guided_grammar", text)).transpose()?,
            outputs.grammar.map(|text| grammar("structured_outputs.grammar", text)).transpose()?,
            outputs
                .json_object
                .filter(|&wanted| wanted)
                .map(|_| Form { param: "structured_outputs.json_object", spec: GrammarSpec::json_object() }),
        ];
        let mut forms = found.into_iter().flatten();
        let (first, second) = (forms.next(), forms.next());
        match (&first, second) {
            (Some(first), Some(second)) => {
                let message = format!(
                    "{} and {} contradict each other; leave one of them out",
                    first.param, second.param
                );
                Err(ApiError::invalid(second.param, message))
            }
            _ => Ok(first),
        }
    }
}

impl ResponseFormat {
    fn read(self) -> Result<Option<Form>, ApiError> {
        match (self.kind.as_str(), self.json_schema) {
            ("text", None) => Ok(None),
            ("json_object", None) => {
                Ok(Some(Form { param: "response_format", spec: GrammarSpec::json_object() }))
            }
            ("json_schema", Some(format)) => {
                let strict = format.strict.unwrap_or(false);
                let schema = format.schema.unwrap_or(Value::Bool(true));
                let spec = GrammarSpec::Json { schema, strict };
                Ok(Some(Form { param: "response_format.json_schema.schema", spec }))
            }
            ("json_schema", None) => Err(ApiError::invalid(
                "response_format.json_schema",
                "response_format of type `json_schema` must have a `json_schema` with a `schema`",
            )),
            ("text" | "json_object", Some(_)) => Err(ApiError::invalid(
                "response_format.json_schema",
                format!(
                    "response_format of type `{}` takes no `json_schema`; use type `json_schema`",
                    self.kind
                ),
            )),
            (kind, _) => Err(ApiError::invalid(
                "response_format.type",
                format!("response_format `{kind}` is unknown; use text, json_object or json_schema"),
            )),
        }
    }
}

/// A schema as an object, or as the text of one.
fn schema(param: &'static str, value: Value) -> Result<Form, ApiError> {
    let schema = match value {
        Value::String(text) => serde_json::from_str(&text).map_err(|error| {
            ApiError::invalid(param, format!("{param} is a text that is not JSON: {error}"))
        })?,
        value => value,
    };
    Ok(Form { param, spec: GrammarSpec::Json { schema, strict: true } })
}

fn regex(param: &'static str, pattern: String) -> Form {
    Form { param, spec: GrammarSpec::Regex(pattern) }
}

fn choice(param: &'static str, texts: Vec<String>) -> Result<Form, ApiError> {
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        let message = format!("{param} must hold at least one text, and each a character");
        return Err(ApiError::invalid(param, message));
    }
    Ok(Form { param, spec: GrammarSpec::Choice(texts) })
}

fn grammar(param: &'static str, text: String) -> Result<Form, ApiError> {
    if text.contains("::=") {
        let message = format!(
            "{param} looks like GBNF (`::=`), but must be a Lark grammar, as `start: \"yes\" | \"no\"`"
        );
        return Err(ApiError::invalid(param, message));
    }
    Ok(Form { param, spec: GrammarSpec::Lark(text) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(fields: Value) -> Result<Option<Form>, ApiError> {
        let mut fields = fields;
        let mut take = |name: &str| fields.get_mut(name).map(Value::take);
        FormFields {
            response_format: take("response_format").map(|value| serde_json::from_value(value).unwrap()),
            structured_outputs: take("structured_outputs")
                .map(|value| serde_json::from_value(value).unwrap()),
            guided_json: take("guided_json"),
            guided_regex: take("guided_regex").map(|value| serde_json::from_value(value).unwrap()),
            guided_choice: take("guided_choice").map(|value| serde_json::from_value(value).unwrap()),
            guided_grammar: take("guided_grammar").map(|value| serde_json::from_value(value).unwrap()),
        }
        .read()
    }

    #[test]
    fn every_way_to_ask_for_a_form_is_read() {
        let object = GrammarSpec::Json { schema: json!({"type": "object"}), strict: true };
        for (fields, spec) in [
            (json!({"response_format": {"type": "json_object"}}), object.clone()),
            (json!({"structured_outputs": {"json_object": true}}), object.clone()),
            (json!({"guided_json": {"type": "object"}}), object.clone()),
            (json!({"guided_json": "{\"type\": \"object\"}"}), object),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "null"}}}}),
                GrammarSpec::Json { schema: json!({"type": "null"}), strict: false },
            ),
            (json!({"guided_regex": "a+"}), GrammarSpec::Regex("a+".into())),
            (json!({"structured_outputs": {"regex": "a+"}}), GrammarSpec::Regex("a+".into())),
            (json!({"guided_choice": ["a", "b"]}), GrammarSpec::Choice(vec!["a".into(), "b".into()])),
            (json!({"guided_grammar": "start: \"a\""}), GrammarSpec::Lark("start: \"a\"".into())),
        ] {
            assert_eq!(read(fields.clone()).unwrap().map(|form| form.spec), Some(spec), "{fields}");
        }
        assert_eq!(read(json!({"response_format": {"type": "text"}})).unwrap(), None);
        assert_eq!(read(json!({"structured_outputs": {"json_object": false}})).unwrap(), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (fields, param) in [
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
            (json!({"response_format": {"type": "text", "json_schema": {}}}), "response_format.json_schema"),
            (json!({"guided_json": "{"}), "guided_json"),
            (json!({"guided_choice": []}), "guided_choice"),
            (json!({"structured_outputs": {"choice": ["a", ""]}}), "structured_outputs.choice"),
            (json!({"guided_grammar": "root ::= \"a\""}), "guided_grammar"),
            (json!({"guided_regex": "a", "response_format": {"type": "json_object"}}), "guided_regex"),
        ] {
            let error = read(fields.clone()).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{fields}");
        }
    }
}
