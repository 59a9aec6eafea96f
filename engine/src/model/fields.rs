//! Typed reading of JSON objects, with errors that name the file and the field. Leaves what the fields mean to the
//! readers.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::backend::Result;
use crate::EngineError;

/// Sizes above this are mistakes, and would overflow products of them.
const MAX_SIZE: u64 = 1 << 24;

/// A JSON object and where it was read.
#[derive(Clone, Debug)]
pub struct Fields {
    path: PathBuf,
    prefix: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Parses a file's bytes.
    ///
    /// # Errors
    /// [`EngineError::Load`] if they are not a JSON object.
    pub fn parse(path: PathBuf, bytes: &[u8]) -> Result<Self> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Self { path, prefix: String::new(), map }),
            Ok(other) => {
                Err(EngineError::load(path, format!("holds {}, but must hold a JSON object", kind(&other))))
            }
            Err(error) => Err(EngineError::load(path, format!("is not valid JSON: {error}"))),
        }
    }

    /// Where it was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of `field`; `null` counts as absent, as in Python's configuration classes.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// An error about `field`, followed by the clause `message`.
    pub fn error(&self, field: &str, message: impl std::fmt::Display) -> EngineError {
        EngineError::load(&self.path, format!("`{}{field}` {message}", self.prefix))
    }

    fn wrong(&self, field: &str, value: &Value, wanted: &str) -> EngineError {
        let mut text = value.to_string();
        if text.chars().count() > 60 {
            text = format!("{}…", text.chars().take(60).collect::<String>());
        }
        self.error(field, format!("is {text}, but must be {wanted}"))
    }

    /// The object in `field`.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is something else.
    pub fn object(&self, field: &str) -> Result<Option<Self>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self {
                path: self.path.clone(),
                prefix: format!("{}{field}.", self.prefix),
                map: map.clone(),
            })),
            Some(other) => Err(self.wrong(field, other, "an object")),
        }
    }

    /// A positive whole number of ordinary size.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is something else.
    pub fn size(&self, field: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64() {
            Some(size @ 1..=MAX_SIZE) => Ok(Some(size as usize)),
            _ => Err(self.wrong(field, value, &format!("a whole number from 1 to {MAX_SIZE}"))),
        }
    }

    /// A positive whole number that must be there.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is missing or something else.
    pub fn require_size(&self, field: &str) -> Result<usize> {
        self.size(field)?.ok_or_else(|| self.error(field, "is missing"))
    }

    /// A finite number.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is something else.
    pub fn number(&self, field: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_f64().filter(|x| x.is_finite()).map(Some).ok_or_else(|| self.wrong(field, value, "a number"))
    }

    /// A positive number.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is something else.
    pub fn positive(&self, field: &str) -> Result<Option<f64>> {
        match self.number(field)? {
            Some(x) if x <= 0.0 => Err(self.error(field, format!("is {x}, but must be above 0"))),
            other => Ok(other),
        }
    }

    /// A truth value.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is something else.
    pub fn flag(&self, field: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(field, value, "true or false"))
    }

    /// A string.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is something else.
    pub fn string(&self, field: &str) -> Result<Option<&str>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(field, value, "a string"))
    }

    /// A list of strings.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is something else.
    pub fn strings(&self, field: &str) -> Result<Option<Vec<&str>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<_>>());
        list.map(Some).ok_or_else(|| self.wrong(field, value, "a list of strings"))
    }

    /// A list of numbers.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is something else.
    pub fn numbers(&self, field: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect::<Option<_>>());
        list.map(Some).ok_or_else(|| self.wrong(field, value, "a list of numbers"))
    }

    /// A token id, or a list of them.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is something else.
    pub fn tokens(&self, field: &str) -> Result<Option<Vec<u32>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match value {
            Value::Array(list) => list.iter().map(one).collect(),
            other => one(other).map(|id| vec![id]),
        };
        ids.map(Some).ok_or_else(|| self.wrong(field, value, "a token id or a list of token ids"))
    }

    /// Everything that is there.
    pub fn all(&self) -> &Map<String, Value> {
        &self.map
    }

    /// Names of the fields that are there.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.map.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str())
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
