//! What the loop is told: which method on which data, from what it starts, and the settings of each method. Leaves the
//! configuration file to the server.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rectify_feedback::store::TrainingRun;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::arms::Limits;
use crate::config::{
    DpoConfig, GrpoConfig, HeldModel, KtoConfig, PpoConfig, ReferencePolicy, RewardConfig, SftConfig,
    TrainConfig,
};

/// The methods of the loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// What fits the votes: pairs, else thumbs, else edits.
    #[default]
    Auto,
    /// Pairs.
    Dpo,
    /// Thumbs.
    Kto,
    /// Edits.
    Sft,
    /// Prompts, judged by reward models.
    Ppo,
    /// Prompts, judged by reward models.
    Grpo,
    /// Pairs, for a reward model instead of a policy: a job of its own, by hand alone.
    #[serde(skip)]
    Reward,
}

/// Examples of one kind that are enough for `auto` to choose its method.
const ENOUGH: u64 = 64;
/// Edits that are enough: each is a whole answer.
const ENOUGH_EDITS: u64 = 16;

impl Algorithm {
    /// As `rectify train` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Dpo => "dpo",
            Self::Kto => "kto",
            Self::Sft => "sft",
            Self::Ppo => "ppo",
            Self::Grpo => "grpo",
            Self::Reward => "reward",
        }
    }

    /// The method of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Auto, Self::Dpo, Self::Kto, Self::Sft, Self::Ppo, Self::Grpo, Self::Reward]
            .into_iter()
            .find(|method| method.as_str() == name)
    }

    /// The part of a snapshot that it learns from.
    pub fn data(self) -> &'static str {
        match self {
            Self::Auto | Self::Dpo | Self::Reward => "pairs",
            Self::Kto => "thumbs",
            Self::Sft => "edits",
            Self::Ppo | Self::Grpo => "prompts",
        }
    }

    /// Whether it learns from answers that it samples itself.
    pub fn is_online(self) -> bool {
        matches!(self, Self::Ppo | Self::Grpo)
    }

    /// The method for data of which there are so many of each kind.
    ///
    /// # Errors
    /// One sentence if there is too little of what it needs.
    pub fn choose(self, counts: &BTreeMap<String, u64>) -> Result<Self, String> {
        let count = |what: &str| counts.get(what).copied().unwrap_or(0);
        let chosen = match self {
            Self::Auto if count("pairs") >= ENOUGH => Self::Dpo,
            Self::Auto if count("thumbs") >= ENOUGH => Self::Kto,
            Self::Auto if count("edits") >= ENOUGH_EDITS => Self::Sft,
            Self::Auto => {
                let [pairs, thumbs, edits] = ["pairs", "thumbs", "edits"].map(count);
                return Err(format!(
                    "the votes that may be trained on make {pairs} pairs, {thumbs} thumbs and {edits} edits, but no method \
                     works on fewer than {ENOUGH} pairs or thumbs or {ENOUGH_EDITS} edits"
                ));
            }
            chosen => chosen,
        };
        match count(chosen.data()) {
            0 => Err(format!("no {} are left to train {} on", chosen.data(), chosen.as_str())),
            _ => Ok(chosen),
        }
    }
}

/// Settings of each method; what the loop decides itself (model, data, output) is overwritten.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Methods {
    /// Of `dpo`.
    pub dpo: DpoConfig,
    /// Of `kto`.
    pub kto: KtoConfig,
    /// Of `sft`.
    pub sft: SftConfig,
    /// Of `ppo`.
    pub ppo: PpoConfig,
    /// Of `grpo`.
    pub grpo: GrpoConfig,
    /// Of `reward`.
    pub reward: RewardConfig,
}

impl Methods {
    /// The shared settings of a method.
    pub fn train(&mut self, algorithm: Algorithm) -> &mut TrainConfig {
        match algorithm {
            Algorithm::Auto | Algorithm::Dpo => &mut self.dpo.train,
            Algorithm::Kto => &mut self.kto.train,
            Algorithm::Sft => &mut self.sft.train,
            Algorithm::Ppo => &mut self.ppo.train,
            Algorithm::Grpo => &mut self.grpo.train,
            Algorithm::Reward => &mut self.reward.train,
        }
    }

    /// All settings of a method, for whoever asks later what a version was made with.
    pub fn to_json(&self, algorithm: Algorithm) -> Value {
        let json = match algorithm {
            Algorithm::Auto | Algorithm::Dpo => serde_json::to_value(&self.dpo),
            Algorithm::Kto => serde_json::to_value(&self.kto),
            Algorithm::Sft => serde_json::to_value(&self.sft),
            Algorithm::Ppo => serde_json::to_value(&self.ppo),
            Algorithm::Grpo => serde_json::to_value(&self.grpo),
            Algorithm::Reward => serde_json::to_value(&self.reward),
        };
        json.unwrap_or_default()
    }
}

/// What reward models of the policy `name` are called in the registry.
pub fn reward_name(name: &str) -> String {
    format!("{name}-reward")
}

/// Whether a run makes a reward model instead of a policy.
pub(super) fn is_reward(run: &TrainingRun) -> bool {
    run.algorithm == Algorithm::Reward.as_str()
}

/// What a run's versions are called in the registry.
pub fn registry_name(run: &TrainingRun) -> String {
    if is_reward(run) { reward_name(&run.adapter) } else { run.adapter.clone() }
}

/// What the loop is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The policy's name, and its adapters'.
    pub name: String,
    /// The base: its name, weights and hash.
    pub base: HeldModel,
    /// [`crate::registry::base_hash`] of it.
    pub base_hash: String,
    /// The method.
    pub algorithm: Algorithm,
    /// Settings of each method.
    pub methods: Methods,
    /// Start from the active version instead of a new adapter, on data of that version alone.
    pub from_last: bool,
    /// What methods with a reference compare with.
    pub reference: ReferencePolicy,
    /// Cores that training may take.
    pub threads: usize,
    /// Which votes may be trained on.
    pub quality: rectify_feedback::quality::QualityConfig,
    /// Share of held-out pairs that a reward model must be right on before it may judge.
    pub min_reward_accuracy: f64,
    /// By how much a candidate on probation may be worse.
    pub limits: Limits,
    /// Where the runs' files are on this machine.
    pub runs: PathBuf,
    /// Where adapters of the registry are kept on this machine.
    pub cache: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_method_fits_the_votes() {
        let counts = |pairs, thumbs, edits| {
            [("pairs", pairs), ("thumbs", thumbs), ("edits", edits), ("prompts", 9)]
                .map(|(what, count)| (what.to_owned(), count))
                .into()
        };
        for (method, counts, chosen) in [
            (Algorithm::Auto, counts(64, 900, 900), Ok(Algorithm::Dpo)),
            (Algorithm::Auto, counts(63, 64, 900), Ok(Algorithm::Kto)),
            (Algorithm::Auto, counts(3, 9, 16), Ok(Algorithm::Sft)),
            (Algorithm::Auto, counts(3, 9, 5), Err("3 pairs, 9 thumbs and 5 edits")),
            (Algorithm::Kto, counts(64, 1, 0), Ok(Algorithm::Kto)),
            (Algorithm::Kto, counts(64, 0, 0), Err("no thumbs are left")),
            (Algorithm::Grpo, counts(0, 0, 0), Ok(Algorithm::Grpo)),
        ] {
            match (method.choose(&counts), chosen) {
                (Ok(found), Ok(chosen)) => assert_eq!(found, chosen),
                (Err(sentence), Err(part)) => assert!(sentence.contains(part), "{sentence}"),
                (found, chosen) => panic!("{found:?} instead of {chosen:?}"),
            }
        }
    }
}
