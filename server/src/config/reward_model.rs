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
    /// Folder or id on the hub: a sequence-classification model (a decoder or an encoder), an encoder that compares answers,
    /// or a PEFT adapter with a score head on a policy's base.
    pub path: PathBuf,
    /// The policy on whose base an adapter is, by name; the default one if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
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
    /// The token behind each step, at which a process reward model is read; what its `config.json` says if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_tag_id: Option<u32>,
    /// What stands between the steps of answers, such as a blank line; the step token takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_separator: Option<String>,
    /// What the rewards of steps come to: `min` (by default), `mean`, `prod` or `last`.
    #[serde(default, skip_serializing_if = "Aggregate::is_min")]
    pub aggregate: Aggregate,
    /// Tokens of the conversation that a model that compares answers (PairRM) reads; 1224 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_max_length: Option<usize>,
    /// The same of each answer, beside half of what the conversation leaves; 412 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate_max_length: Option<usize>,
}

/// What the rewards of steps come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Aggregate {
    /// The worst step.
    #[default]
    Min,
    /// All steps alike.
    Mean,
    /// The product, of probabilities.
    Prod,
    /// The last step.
    Last,
}

impl Aggregate {
    fn is_min(&self) -> bool {
        *self == Self::Min
    }
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
            step_tag_id: self.step_tag_id,
            step_separator: self.step_separator.clone(),
            aggregate: match self.aggregate {
                Aggregate::Min => reading::Aggregate::Min,
                Aggregate::Mean => reading::Aggregate::Mean,
                Aggregate::Prod => reading::Aggregate::Prod,
                Aggregate::Last => reading::Aggregate::Last,
            },
            source_max_length: self.source_max_length,
            candidate_max_length: self.candidate_max_length,
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
            ..RewardReading::default()
        };
        assert_eq!(section.reading(), wanted);
        let text = "path: ./prm\nstep_tag_id: 7\nstep_separator: \"\\n\\n\"\naggregate: prod\n";
        let section: RewardModelSection = serde_yaml_ng::from_str(text).expect("a section");
        let reading = section.reading();
        assert_eq!((reading.step_tag_id, reading.step_separator.as_deref()), (Some(7), Some("\n\n")));
        assert_eq!(reading.aggregate, reading::Aggregate::Prod);
        let plain: RewardModelSection = serde_yaml_ng::from_str("path: ./rm\n").expect("a section");
        assert_eq!(plain.reading(), RewardReading::default());
        assert_eq!(serde_yaml_ng::to_string(&plain).expect("text"), "path: ./rm\n");
    }
}
