//! Low-rank adapters.

use serde::{Deserialize, Serialize};

use super::check;
use crate::error::TrainError;

/// Low-rank adapters, as PEFT's `LoraConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank.
    pub lora_r: usize,
    /// The update is scaled by `lora_alpha / lora_r`.
    pub lora_alpha: f32,
    /// Share of an adapter's inputs dropped in training.
    pub lora_dropout: f32,
    /// Projections that get an adapter, by the last part of their name.
    pub target_modules: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let all = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        Self {
            lora_r: 16,
            lora_alpha: 16.0,
            lora_dropout: 0.05,
            target_modules: all.map(str::to_owned).to_vec(),
        }
    }
}

impl LoraConfig {
    /// Checks each number's range.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the first field that cannot work.
    pub fn validate(&self) -> Result<(), TrainError> {
        check(self.lora_r > 0, "lora_r", "give 1 or more")?;
        check(self.lora_alpha > 0.0, "lora_alpha", "give a number above 0")?;
        check((0.0..1.0).contains(&self.lora_dropout), "lora_dropout", "give a share from 0 to below 1")?;
        check(!self.target_modules.is_empty(), "target_modules", "name at least one, such as q_proj")
    }
}
