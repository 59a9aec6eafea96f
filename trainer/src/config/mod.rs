//! The settings of a training run, under the names people know from Transformers, TRL and PEFT: what every method
//! shares in `train` and `lora`, one file per method beside them. Leaves flags and files to the command line.

mod cpo;
mod dpo;
mod grpo;
mod held;
mod kto;
mod lora;
mod online_dpo;
mod orpo;
mod ppo;
mod raft;
mod reward;
mod rloo;
mod rollout;
mod rrhf;
mod sft;
mod spin;
mod train;
mod truncation;

pub use cpo::{CpoConfig, CpoConfigLossType};
pub use dpo::{DpoConfig, FDivergenceType};
pub use grpo::GrpoConfig;
pub use held::HeldModel;
pub use kto::KtoConfig;
pub use lora::{BaseDtype, LoraConfig, MixedPrecision, ReferencePolicy};
pub use online_dpo::{OnlineDpoConfig, PairLossType};
pub use orpo::OrpoConfig;
pub use ppo::PpoConfig;
pub use raft::RaftConfig;
pub use reward::RewardConfig;
pub use rloo::RlooConfig;
pub use rollout::RolloutConfig;
pub use rrhf::RrhfConfig;
pub use sft::{PackingStrategy, SftConfig};
pub use spin::SpinConfig;
pub use train::{LrScheduler, ModelStart, ReportTo, SaveDtype, TrainConfig, Tuning};
pub use truncation::TruncationMode;

use crate::error::TrainError;

/// Refuses `field` for `reason` unless `ok`.
pub(crate) fn check(ok: bool, field: &'static str, reason: &str) -> Result<(), TrainError> {
    if ok { Ok(()) } else { Err(TrainError::config(field, reason)) }
}
