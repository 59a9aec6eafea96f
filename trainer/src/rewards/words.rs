//! Judges that only look at the words: a pattern, an expected answer, JSON, a length. Leaves models and programs to their
//! files.

use regex::Regex;
use serde_json::Value;

use super::{Judge, Judged};
use crate::error::TrainError;

fn each(completions: &[Judged<'_>], judge: impl Fn(&Judged<'_>) -> f64) -> Vec<f64> {
    completions.iter().map(judge).collect()
}

/// 1 for a match.
pub(super) struct Matches(Regex);

impl Matches {
    pub(super) fn new(pattern: &str) -> Result<Self, TrainError> {
        let regex = Regex::new(pattern).map_err(|error| {
            // The library draws an arrow below the pattern; one line will do.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            TrainError::config("reward", format!("`{pattern}` is no regular expression: {last}"))
        })?;
        Ok(Self(regex))
    }
}

impl Judge for Matches {
    fn rewards(&self, completions: &[Judged<'_>]) -> Result<Vec<f64>, TrainError> {
        Ok(each(completions, |judged| f64::from(u8::from(self.0.is_match(judged.completion)))))
    }
}

/// 1 for the expected answer.
pub(super) struct Equals {
    column: String,
}

impl Equals {
    pub(super) fn new(column: &str) -> Self {
        Self { column: column.to_owned() }
    }
}

impl Judge for Equals {
    fn rewards(&self, completions: &[Judged<'_>]) -> Result<Vec<f64>, TrainError> {
        let reward = |judged: &Judged<'_>| {
            let expected = match judged.prompt.columns.get(&self.column) {
                Some(Value::String(text)) => text.trim().to_owned(),
                Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
                _ => {
                    let message = format!(
                        "exact_match looks for the column `{}`, but a prompt's line has no text or number there",
                        self.column
                    );
                    return Err(TrainError::config("reward", message));
                }
            };
            Ok(f64::from(u8::from(judged.completion.trim() == expected)))
        };
        completions.iter().map(reward).collect()
    }
}

/// 1 for JSON.
pub(super) struct IsJson;

impl Judge for IsJson {
    fn rewards(&self, completions: &[Judged<'_>]) -> Result<Vec<f64>, TrainError> {
        let is_json = |text: &str| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        Ok(each(completions, |judged| f64::from(u8::from(is_json(judged.completion)))))
    }
}

/// The nearer to a length, the better.
pub(super) struct HasLength(f64);

impl HasLength {
    pub(super) fn new(target: usize) -> Self {
        Self(target as f64)
    }
}

impl Judge for HasLength {
    fn rewards(&self, completions: &[Judged<'_>]) -> Result<Vec<f64>, TrainError> {
        Ok(each(completions, |judged| (1.0 - (judged.num_tokens as f64 - self.0).abs() / self.0).max(0.0)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::data::PromptExample;
    use rectify_feedback::Text;

    /// A prompt whose line has these columns.
    pub(in crate::rewards) fn prompt(columns: &str) -> PromptExample {
        PromptExample {
            ids: vec![1],
            text: Text::Plain("2+2?".to_owned()),
            messages: std::sync::Arc::new([]),
            columns: serde_json::from_str(columns).unwrap(),
            answer: Vec::new(),
        }
    }

    fn reward(judge: &dyn Judge, completion: &str, num_tokens: usize) -> f64 {
        let prompt = prompt(r#"{"answer": 4, "name": " four "}"#);
        judge.rewards(&[Judged { prompt: &prompt, completion, num_tokens }]).unwrap()[0]
    }

    #[test]
    fn words_are_judged_as_the_spec_says() {
        let matches = Matches::new(r"\bfour\b").unwrap();
        assert_eq!([reward(&matches, "it is four.", 1), reward(&matches, "fourteen", 1)], [1.0, 0.0]);
        assert_eq!(reward(&Equals::new("answer"), " 4\n", 1), 1.0);
        assert_eq!(reward(&Equals::new("name"), "four", 1), 1.0);
        assert_eq!(reward(&Equals::new("name"), "five", 1), 0.0);
        assert_eq!([reward(&IsJson, "{\"a\": [1]}", 1), reward(&IsJson, "{a}", 1)], [1.0, 0.0]);
        let length = HasLength::new(10);
        assert_eq!([5, 10, 15, 30].map(|tokens| reward(&length, "", tokens)), [0.5, 1.0, 0.5, 0.0]);
    }

    #[test]
    fn what_cannot_be_judged_is_one_sentence() {
        let error = Matches::new("(").err().unwrap().to_string();
        assert!(error.contains("`(` is no regular expression: unclosed group"), "{error}");
        assert_eq!(error.lines().count(), 1);
        let prompt = prompt("{}");
        let judged = [Judged { prompt: &prompt, completion: "4", num_tokens: 1 }];
        let error = Equals::new("answer").rewards(&judged).unwrap_err().to_string();
        assert!(error.contains("looks for the column `answer`"), "{error}");
    }
}
