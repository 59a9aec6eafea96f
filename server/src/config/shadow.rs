//! The `shadow` section: when the loop trains, on what and how, and the methods' own sections beside it. Leaves what
//! becomes of a candidate to `gate` and `probation`.

use std::time::Duration;

use rectify_trainer::ReferencePolicy;
use rectify_trainer::shadow::{Algorithm, Priority};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Period;

/// When the loop trains, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ShadowSection {
    /// Train in the shadow of this server, on cores that would be idle.
    pub enabled: bool,
    /// The policy that learns, by name; the default one if unset.
    pub policy: Option<String>,
    /// Start runs by themselves. Without it a run starts by hand alone.
    pub automatic: bool,
    /// The method; `auto` takes what fits the votes: `dpo` for pairs, `kto` for bare thumbs, `sft` for edits.
    pub algorithm: Algorithm,
    /// Least time between the starts of two runs.
    pub every: Period,
    /// New votes that make a run worth while.
    pub min_records: u64,
    /// New votes after which a reward model is trained, too, as a run of its own; by hand alone if unset.
    pub reward_min_records: Option<u64>,
    /// Who decides after the gate.
    pub approval: Approval,
    /// Share of held-out pairs that a reward model must be right on before the loop may learn from it.
    pub min_reward_accuracy: f64,
    /// Cores that training may take; one less than there are if unset.
    pub threads: Option<usize>,
    /// What training takes from others on the same cores: nothing, or a fair share.
    pub priority: Priority,
    /// What a run begins with.
    pub start: Start,
    /// What a policy under training is compared with.
    pub reference: Reference,
}

impl Default for ShadowSection {
    fn default() -> Self {
        Self {
            enabled: false,
            policy: None,
            automatic: true,
            algorithm: Algorithm::Auto,
            every: Period(Duration::from_secs(3600)),
            min_records: 256,
            reward_min_records: None,
            approval: Approval::Automatic,
            min_reward_accuracy: 0.65,
            threads: None,
            priority: Priority::Idle,
            start: Start::Base,
            reference: Reference::Base,
        }
    }
}

/// Who decides after the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Approval {
    /// What the gate passes is published.
    #[default]
    Automatic,
    /// A person approves what the gate has passed.
    Manual,
}

/// What a run begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// A new adapter, on all data that still count.
    #[default]
    Base,
    /// The active version, on data of that version alone.
    Last,
}

/// What a policy under training is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reference {
    /// The base, adapters off.
    #[default]
    Base,
    /// The version that the run begins with.
    Last,
}

impl From<Reference> for ReferencePolicy {
    fn from(reference: Reference) -> Self {
        match reference {
            Reference::Base => Self::Base,
            Reference::Last => Self::Start,
        }
    }
}

/// Keys of a method, as `rectify train` names them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct MethodSection(pub Map<String, Value>);
