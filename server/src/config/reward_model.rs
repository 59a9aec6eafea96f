//! The section `rewards`: where a reward model is and how it is read. Leaves which one decides to `reward`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rectify_engine::model::reading::{self, RewardReading};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A reward model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewardModelSection {
    /// Folder or id on the hub: a sequence-classification model (a decoder or an encoder), or a PEFT adapter with a score head on the
    /// policy's base.
    pub path: PathBuf,
    /// What each label of a classifier is worth, as `{POSITIVE: 1, NEGATIVE: -1}`; the reward is the sum over its outputs.
    /// Needed where there are several; labels that are not named are worth nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, f32>,
    /// Applied to the outputs before they are weighed; nothing by default.
    #[serde(default, skip_serializing_if = "Activation::is_none")]
    pub activation: Activation,
    /// What an encoder reads: `pair` (the prompt and the answer, by default) or `answer`.
    #[serde(default, skip_serializing_if = "Input::is_pair")]
    pub input: Input,
    /// Where prompt and answer are too long for an encoder, cut the beginning of the prompt instead of refusing them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncate: bool,
}

/// What is applied to the outputs of a reward model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Nothing: raw logits.
    #[default]
    None,
    /// The logistic function of each output.
    Sigmoid,
    /// All outputs together, to sum to one.
    Softmax,
}

impl Activation {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// What an encoder reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// The conversation, a line for each turn, as the first text, and the answer as the second.
    #[default]
    Pair,
    /// The answer alone.
    Answer,
}

impl Input {
    fn is_pair(&self) -> bool {
        *self == Self::Pair
    }
}

impl RewardModelSection {
    /// How the engine is to read it.
    pub fn reading(&self) -> RewardReading {
        RewardReading {
            labels: self.labels.clone(),
            activation: match self.activation {
                Activation::None => reading::OutputActivation::None,
                Activation::Sigmoid => reading::OutputActivation::Sigmoid,
                Activation::Softmax => reading::OutputActivation::Softmax,
            },
            input: match self.input {
                Input::Pair => reading::EncoderInput::Pair,
                Input::Answer => reading::EncoderInput::Answer,
            },
            truncate: self.truncate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_classifier_says_what_its_labels_are_worth() {
        let text = "path: ./sst2\nlabels: {POSITIVE: 1, NEGATIVE: -1}\nactivation: softmax\ninput: answer\ntruncate: true\n";
        let section: RewardModelSection = serde_yaml_ng::from_str(text).expect("a section");
        let wanted = RewardReading {
            labels: [("POSITIVE".to_owned(), 1.0), ("NEGATIVE".to_owned(), -1.0)].into(),
            activation: reading::OutputActivation::Softmax,
            input: reading::EncoderInput::Answer,
            truncate: true,
        };
        assert_eq!(section.reading(), wanted);
        let plain: RewardModelSection = serde_yaml_ng::from_str("path: ./rm\n").expect("a section");
        assert_eq!(plain.reading(), RewardReading::default());
        assert_eq!(serde_yaml_ng::to_string(&plain).expect("text"), "path: ./rm\n");
    }
}
