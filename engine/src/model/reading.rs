//! What a reward model's folder does not say of how it is read: settings of whoever serves it. Leaves applying them to
//! `readout` and `encoder`.

use std::collections::BTreeMap;

/// How a reward model is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RewardReading {
    /// What each output is worth, by its label; the reward is the sum. Labels that are not named are worth nothing; without
    /// any the only output is the reward.
    pub labels: BTreeMap<String, f32>,
    /// Applied to the outputs first.
    pub activation: OutputActivation,
    /// What an encoder reads.
    pub input: EncoderInput,
    /// A conversation that is too long for an encoder loses its beginning instead of being refused.
    pub truncate: bool,
}

/// What is applied to a head's outputs before they are weighed. Float32's logistic function is exactly 1 from about 17 on,
/// so that good answers tie: never unless asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputActivation {
    /// Nothing: raw logits.
    #[default]
    None,
    /// The logistic function of each.
    Sigmoid,
    /// All together, to sum to one.
    Softmax,
}

/// What an encoder reads of a conversation and an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncoderInput {
    /// The turns before the answer, a line each, as the first text, and the answer as the second.
    #[default]
    Pair,
    /// The answer alone.
    Answer,
}
