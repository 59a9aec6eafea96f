//! Low-rank adapters and the frozen base under them.

use std::path::PathBuf;

use rectify_kernels::WeightDtype;
use rectify_kernels::train::Precision;
use serde::{Deserialize, Serialize};

use super::check;
use crate::error::TrainError;

/// How the base under adapters is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaseDtype {
    /// As stored: bfloat16 weights stay so, which loses nothing, and all others are float32.
    #[default]
    Auto,
    /// Four bytes a weight.
    Float32,
    /// Two bytes a weight.
    Bfloat16,
    /// One byte a weight of the layers and a scale for each 64; the embedding and head are bfloat16.
    Int8,
    /// Half a byte a weight of the layers: QLoRA's 4-bit NormalFloat (Dettmers et al. 2023, arXiv:2305.14314), blocks
    /// of 64, one f32 scale each; the embedding and head are bfloat16.
    Nf4,
}

impl BaseDtype {
    /// As the kernels call it; `None` is as stored.
    pub(crate) fn weights(self) -> Option<WeightDtype> {
        match self {
            Self::Auto => None,
            Self::Float32 => Some(WeightDtype::F32),
            Self::Bfloat16 => Some(WeightDtype::Bf16),
            Self::Int8 => Some(WeightDtype::Int8),
            Self::Nf4 => Some(WeightDtype::Nf4),
        }
    }
}

/// How products with the frozen base are computed, as Accelerate's `mixed_precision`. Everything else is in f32: adapters,
/// attention, norms, losses, and sums of products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixedPrecision {
    /// `fp16` for weights that are held in fewer than 32 bits, `no` for others.
    #[default]
    Auto,
    /// In f32.
    No,
    /// Factors rounded to fp16 under exact powers of two, and sums of 64 products in fp16, where the processor has
    /// fp16 arithmetic; in f32 where it has not.
    Fp16,
}

impl MixedPrecision {
    /// What it means for weights that are held so.
    pub(crate) fn of(self, dtype: WeightDtype) -> Precision {
        match self {
            Self::Auto if dtype != WeightDtype::F32 => Precision::Half,
            Self::Auto | Self::No => Precision::Single,
            Self::Fp16 => Precision::Half,
        }
    }
}

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
    /// How the base is held, once, frozen.
    pub base_dtype: BaseDtype,
    /// How products with the base are computed.
    pub mixed_precision: MixedPrecision,
    /// A PEFT folder that the adapter starts from, of the same rank, strength and modules; `None` changes nothing at first.
    pub init_adapter: Option<PathBuf>,
    /// What methods with a reference compare with.
    pub reference: ReferencePolicy,
}

/// What an adapter under training is compared with, where a method has a reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReferencePolicy {
    /// The base: adapters off.
    #[default]
    Base,
    /// What the run started from, `init_adapter` included; asked before the first step.
    Start,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let all = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        Self {
            lora_r: 16,
            lora_alpha: 16.0,
            lora_dropout: 0.05,
            target_modules: all.map(str::to_owned).to_vec(),
            base_dtype: BaseDtype::Auto,
            mixed_precision: MixedPrecision::Auto,
            init_adapter: None,
            reference: ReferencePolicy::Base,
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
