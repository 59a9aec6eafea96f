//! What a reward model's folder does not say of how it is read: settings of whoever serves it. Leaves applying them to
//! `readout` and `encoder`.

use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// The token behind each step of an answer, at which a process reward model is read; `None` is what its `config.json`
    /// says.
    pub step_tag_id: Option<u32>,
    /// What stands between the steps of the policy's answers; the step token takes its place, and ends the last step. `None`
    /// leaves answers as they are.
    pub step_separator: Option<String>,
    /// What the rewards of steps come to.
    pub aggregate: Aggregate,
    /// Tokens of the conversation that a model that compares reads, with its markers; `None` is 1224.
    pub source_max_length: Option<usize>,
    /// The same of each answer, beside what the conversation leaves; `None` is 412.
    pub candidate_max_length: Option<usize>,
}

/// What the rewards of steps come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aggregate {
    /// The worst step: Wang et al. 2023 (arXiv:2312.08935).
    #[default]
    Min,
    /// All steps alike.
    Mean,
    /// That all are right, of probabilities: Lightman et al. 2023 (arXiv:2305.20050).
    Prod,
    /// The last step.
    Last,
}

impl Aggregate {
    /// The reward of a text, of those of its steps; NaN without any, or if one is.
    pub fn of(self, steps: &[f32]) -> f32 {
        let Some(last) = steps.last().filter(|_| !steps.iter().any(|step| step.is_nan())) else {
            return f32::NAN;
        };
        match self {
            Self::Min => steps.iter().copied().fold(f32::INFINITY, f32::min),
            Self::Mean => steps.iter().sum::<f32>() / steps.len() as f32,
            Self::Prod => steps.iter().product(),
            Self::Last => *last,
        }
    }
}

/// Where a text's reward is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    /// Positions of the step tokens, ascending, at least one.
    pub positions: Arc<[u32]>,
    /// What they come to.
    pub aggregate: Aggregate,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_to_one_reward_and_nothing_hides_a_nan() {
        let steps = [0.5, 0.25, 0.75];
        let all = [Aggregate::Min, Aggregate::Mean, Aggregate::Prod, Aggregate::Last];
        assert_eq!(all.map(|aggregate| aggregate.of(&steps)), [0.25, 0.5, 0.09375, 0.75]);
        for aggregate in all {
            assert!(aggregate.of(&[]).is_nan() && aggregate.of(&[0.5, f32::NAN, 0.1]).is_nan());
        }
    }
}
