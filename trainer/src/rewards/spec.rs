//! How a reward is named on the command line and in a configuration: `kind:argument`, or an object with `kind`. Leaves
//! judging to the judges.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::command::Limits;

/// A reward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields, remote = "Self")]
pub enum RewardSpec {
    /// A reward model: a folder with weights of its own, or a PEFT folder with a score head for the policy's base.
    Model {
        /// The folder.
        path: PathBuf,
    },
    /// 1 if the completion matches, else 0.
    Regex {
        /// A regular expression, found anywhere.
        pattern: String,
    },
    /// 1 if the completion, without white space around it, is what a column of the prompt's line says, else 0.
    ExactMatch {
        /// The column.
        column: String,
    },
    /// 1 if the completion is JSON, else 0.
    Json {},
    /// 1 for a completion of `target` tokens, down to 0 at none and at twice as many.
    Length {
        /// Tokens.
        target: usize,
    },
    /// What an HTTP endpoint answers: `{"completions": […], "prompts": […], "columns": […]}` is posted, `{"rewards": […]}`
    /// comes back, `null` for none.
    Http {
        /// `http://…`
        url: String,
        /// Longest wait for an answer.
        #[serde(default = "default_timeout")]
        timeout_seconds: f64,
    },
    /// The number a program prints: it reads `{"completion": …, "prompt": …, "columns": …}` from its standard input.
    Command {
        /// The program and its arguments.
        command: Vec<String>,
        /// What it may use.
        #[serde(default)]
        limits: Limits,
    },
}

fn default_timeout() -> f64 {
    60.0
}

/// What there is, for errors.
const KINDS: &str = "model:PATH, regex:PATTERN, exact_match:COLUMN, json, length:TOKENS, http://…, or command:PROGRAM ARGUMENTS";

impl RewardSpec {
    /// What its metrics are called.
    pub fn name(&self) -> String {
        match self {
            Self::Model { path } => path
                .file_name()
                .map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned()),
            Self::Regex { .. } => "regex".to_owned(),
            Self::ExactMatch { .. } => "exact_match".to_owned(),
            Self::Json {} => "json".to_owned(),
            Self::Length { .. } => "length".to_owned(),
            Self::Http { .. } => "http".to_owned(),
            Self::Command { .. } => "command".to_owned(),
        }
    }
}

impl FromStr for RewardSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |reason: &str| Err(format!("the reward `{text}` {reason}"));
        if text.starts_with("http://") {
            return Ok(Self::Http { url: text.to_owned(), timeout_seconds: default_timeout() });
        }
        let (kind, argument) = text.split_once(':').unwrap_or((text, ""));
        let needs = |what: &str| refuse(&format!("lacks {what} after `{kind}:`"));
        match (kind, argument) {
            ("json", "") => Ok(Self::Json {}),
            ("model", "") => needs("a folder"),
            ("model", path) => Ok(Self::Model { path: path.into() }),
            ("regex", "") => needs("a regular expression"),
            ("regex", pattern) => Ok(Self::Regex { pattern: pattern.to_owned() }),
            ("exact_match", "") => needs("a column of the data"),
            ("exact_match", column) => Ok(Self::ExactMatch { column: column.to_owned() }),
            ("length", target) => match target.parse() {
                Ok(target) if target > 0 => Ok(Self::Length { target }),
                _ => needs("a number of tokens, from 1,"),
            },
            ("command", words) => match words.split_whitespace().map(str::to_owned).collect::<Vec<_>>() {
                command if command.is_empty() => needs("a program"),
                command => Ok(Self::Command { command, limits: Limits::default() }),
            },
            ("https", _) => refuse("is HTTPS, but only http:// is spoken: put a proxy between"),
            _ => refuse(&format!("is of no known kind; write {KINDS}")),
        }
    }
}

impl<'de> Deserialize<'de> for RewardSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        match Value::deserialize(deserializer)? {
            Value::String(text) => text.parse().map_err(D::Error::custom),
            object => Self::deserialize(object).map_err(D::Error::custom),
        }
    }
}

impl Serialize for RewardSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_and_an_object_mean_the_same() {
        for (text, object) in [
            ("model:rm/helpful", r#"{"kind": "model", "path": "rm/helpful"}"#),
            ("regex:^a:b$", r#"{"kind": "regex", "pattern": "^a:b$"}"#),
            ("exact_match:answer", r#"{"kind": "exact_match", "column": "answer"}"#),
            ("json", r#"{"kind": "json"}"#),
            ("length:20", r#"{"kind": "length", "target": 20}"#),
            ("http://h:1/x", r#"{"kind": "http", "url": "http://h:1/x"}"#),
            ("command:python judge.py", r#"{"kind": "command", "command": ["python", "judge.py"]}"#),
        ] {
            let spec: RewardSpec = text.parse().unwrap();
            assert_eq!(serde_json::from_str::<RewardSpec>(object).unwrap(), spec, "{text}");
            assert_eq!(serde_json::from_value::<RewardSpec>(Value::String(text.to_owned())).unwrap(), spec);
            assert_eq!(
                serde_json::from_value::<RewardSpec>(serde_json::to_value(&spec).unwrap()).unwrap(),
                spec
            );
        }
    }

    #[test]
    fn what_is_no_reward_is_refused_with_what_would_be() {
        for (text, words) in [
            ("rgx:a", "the reward `rgx:a` is of no known kind; write model:PATH"),
            ("regex:", "lacks a regular expression after `regex:`"),
            ("length:many", "lacks a number of tokens"),
            ("https://x", "only http:// is spoken"),
            ("command: ", "lacks a program"),
        ] {
            let error = text.parse::<RewardSpec>().unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let error = serde_json::from_str::<RewardSpec>(r#"{"kind": "regex", "patern": "a"}"#).unwrap_err();
        assert!(error.to_string().contains("patern"), "{error}");
    }
}
