//! Taking typed fields out of a JSON object, with errors that name the field. Leaves what a record needs to the
//! record.

use serde_json::{Map, Value};

use crate::{Message, RecordError, Text};

/// The fields of one line; each `take` removes one, and what is left are columns of the user's own.
pub(crate) struct Fields(pub(crate) Map<String, Value>);

impl Fields {
    pub(crate) fn has(&self, name: &str) -> bool {
        // Columns that some rows lack come as nulls from dataframes.
        self.0.get(name).is_some_and(|value| !value.is_null())
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        // `shift_remove` keeps the order of the other columns.
        self.0.shift_remove(name).filter(|value| !value.is_null())
    }

    fn required(&mut self, name: &str) -> Result<Value, RecordError> {
        self.take(name).ok_or_else(|| RecordError::new(format!("`{name}` is missing")))
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<String, RecordError> {
        match self.required(name)? {
            Value::String(text) => Ok(text),
            other => Err(wrong_type(name, "a string", &other)),
        }
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Text, RecordError> {
        match self.required(name)? {
            Value::String(text) => Ok(Text::Plain(text)),
            Value::Array(turns) => Ok(Text::Chat(messages(name, turns)?)),
            other => Err(wrong_type(name, "a string or a list of messages", &other)),
        }
    }

    pub(crate) fn messages(&mut self, name: &str) -> Result<Vec<Message>, RecordError> {
        match self.required(name)? {
            Value::Array(turns) => messages(name, turns),
            other => Err(wrong_type(name, "a list of messages", &other)),
        }
    }

    pub(crate) fn list(&mut self, name: &str) -> Result<Vec<Value>, RecordError> {
        match self.required(name)? {
            Value::Array(values) => Ok(values),
            other => Err(wrong_type(name, "a list", &other)),
        }
    }

    pub(crate) fn number(&mut self, name: &str) -> Result<Option<f64>, RecordError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| wrong_type(name, "a number", &value)),
        }
    }

    pub(crate) fn label(&mut self, name: &str) -> Result<bool, RecordError> {
        let value = self.required(name)?;
        match (&value, value.as_f64()) {
            (Value::Bool(label), _) => Ok(*label),
            (_, Some(1.0)) => Ok(true),
            (_, Some(0.0)) => Ok(false),
            _ => Err(wrong_type(name, "true or false", &value)),
        }
    }
}

fn messages(name: &str, turns: Vec<Value>) -> Result<Vec<Message>, RecordError> {
    if turns.is_empty() {
        return Err(RecordError::new(format!(
            "`{name}` is an empty list, but must have at least one message"
        )));
    }
    turns.into_iter().enumerate().map(|(index, turn)| message(&format!("{name}[{index}]"), turn)).collect()
}

fn message(name: &str, turn: Value) -> Result<Message, RecordError> {
    let Value::Object(turn) = turn else {
        return Err(wrong_type(name, "an object with `role` and `content`", &turn));
    };
    // ShareGPT's names come second.
    let part = |key: &str, other: &str| {
        let value = turn.get(key).or_else(|| turn.get(other));
        value.ok_or_else(|| RecordError::new(format!("`{name}.{key}` is missing")))
    };
    let role = match part("role", "from")? {
        Value::String(role) if role == "human" => "user".to_owned(),
        Value::String(role) if role == "gpt" => "assistant".to_owned(),
        Value::String(role) if !role.is_empty() => role.clone(),
        other => {
            return Err(wrong_type(
                &format!("{name}.role"),
                "`system`, `user`, `assistant` or `tool`",
                other,
            ));
        }
    };
    let content = match part("content", "value")? {
        Value::String(content) => content.clone(),
        Value::Array(parts) => text_parts(&format!("{name}.content"), parts)?,
        other => return Err(wrong_type(&format!("{name}.content"), "a string", other)),
    };
    Ok(Message { role, content })
}

/// OpenAI's `[{"type": "text", "text": "…"}]`; other kinds of parts have no text to train on.
fn text_parts(name: &str, parts: &[Value]) -> Result<String, RecordError> {
    let text = |part: &Value| match (part.get("type").and_then(Value::as_str), part.get("text")) {
        (Some("text"), Some(Value::String(text))) => Some(text.clone()),
        _ => None,
    };
    parts
        .iter()
        .map(|part| text(part).ok_or_else(|| wrong_type(name, "a string or a list of text parts", part)))
        .collect()
}

fn wrong_type(name: &str, wanted: &str, found: &Value) -> RecordError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    RecordError::new(format!("`{name}` must be {wanted}, but is {found}"))
}
