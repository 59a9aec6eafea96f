//! Training: losses, optimisers and loops over the engine's decoder. Knows nothing of HTTP.
//!
//! A run is `data` (records rendered, masked and packed into flat batches) → `autograd` (the engine's decoder on a
//! tape) → `losses` → `optim`, driven by `run`, which also writes the log, checkpoints and the output.

pub mod autograd;
pub mod card;
pub mod config;
pub mod data;
pub mod error;
pub mod gate;
pub mod losses;
pub mod optim;
pub mod registry;
pub mod rewards;
pub mod rollout;
pub mod run;
pub mod shadow;
pub mod unknown;

pub use config::{
    BaseDtype, CpoConfig, CpoConfigLossType, DpoConfig, FDivergenceType, GrpoConfig, HeldModel, KtoConfig,
    LoraConfig, LrScheduler, MixedPrecision, ModelStart, OnlineDpoConfig, OrpoConfig, PackingStrategy,
    PairLossType, PpoConfig, RaftConfig, ReferencePolicy, ReportTo, RewardConfig, RlooConfig, RolloutConfig,
    RrhfConfig, SaveDtype, SftConfig, SpinConfig, TrainConfig, TruncationMode, Tuning,
};
pub use error::TrainError;
pub use rewards::RewardSpec;
pub use run::progress::{Control, Example, ExampleText, Progress, RunInfo, StepInfo, TrainReport};
pub use run::{
    train_cpo, train_dpo, train_grpo, train_kto, train_online_dpo, train_orpo, train_ppo, train_raft,
    train_reward, train_rloo, train_rrhf, train_sft, train_spin,
};
