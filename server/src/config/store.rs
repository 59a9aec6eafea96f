//! `store:` and `feedback:`: where answers and votes are kept, and what of them. Leaves keeping them to the `feedback`
//! crate.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Period;

/// The value of `store.url` that keeps nothing.
const NONE: &str = "none";

/// Where answers and votes are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// `sqlite://PATH`, `postgres://USER:PASSWORD@HOST/DATABASE`, or `none`; `feedback.db` in the data folder if unset.
    pub url: Option<String>,
    /// Most answers and votes that wait to be written. Beyond it, answers are not recorded and votes get a 503.
    pub queue: usize,
}

impl Default for StoreSection {
    fn default() -> Self {
        Self { url: None, queue: 4096 }
    }
}

impl StoreSection {
    /// The URL to open; none if nothing is to be kept.
    pub fn url(&self, data_dir: &Path) -> Option<String> {
        match self.url.as_deref() {
            Some(NONE) => None,
            Some(url) => Some(url.to_owned()),
            None => Some(format!("sqlite://{}", data_dir.join("feedback.db").display())),
        }
    }
}

/// What is kept of answers and votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FeedbackSection {
    /// Keep the words of prompts, answers and comments; without them, only numbers and votes.
    pub store_text: bool,
    /// How long answers and votes are kept, as `90d`; for ever if unset.
    pub retention: Option<Period>,
    /// Shuffles the sides of the questions for people who label.
    pub labeling_seed: u64,
}

impl Default for FeedbackSection {
    fn default() -> Self {
        Self { store_text: true, retention: None, labeling_seed: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn the_store_is_a_file_in_the_data_folder_unless_it_is_said_otherwise() {
        let url = |yaml: &str| Config::from_yaml(yaml).unwrap().store.url(Path::new("data"));
        assert_eq!(url("{}").as_deref(), Some("sqlite://data/feedback.db"));
        assert_eq!(url("store: {url: none}"), None);
        assert_eq!(url("store: {url: 'postgres://h/d'}").as_deref(), Some("postgres://h/d"));
        let config = Config::from_yaml("feedback: {store_text: false, retention: 90d}").unwrap();
        assert_eq!(config.feedback.retention.map(|period| period.0.as_secs()), Some(90 * 86_400));
        assert!(Config::from_yaml("store: {queue: 0}").is_err());
    }
}
