//! Settings of supervised fine-tuning.

use serde::{Deserialize, Serialize};

use super::{TrainConfig, TruncationMode};

/// Supervised fine-tuning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftConfig {
    /// What every method shares.
    pub train: TrainConfig,
    /// Loss on the completion only. `None`: yes for `prompt`/`completion` lines, no for others, as TRL.
    pub completion_only_loss: Option<bool>,
    /// Loss on assistant turns only (and the token that ends them), for conversations.
    pub assistant_only_loss: bool,
    /// Ghost Attention (arXiv:2307.09288 §3.3): the system prompt before every user turn, loss on the last answer only.
    pub ghost_attention: bool,
    /// Which end of a line longer than `max_length` stays.
    pub truncation_mode: TruncationMode,
    /// Several lines in one example of at most `max_length` tokens; they do not see each other.
    pub packing: bool,
    /// How `packing` treats what is longer.
    pub packing_strategy: PackingStrategy,
}

/// How lines are packed, as TRL's `packing_strategy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackingStrategy {
    /// Best fit decreasing; the end of a line longer than `max_length` is cut off.
    #[default]
    Bfd,
    /// Best fit decreasing; such a line is split.
    BfdSplit,
}
