//! Samples of the policy under training, and rewards of reward models, from the serving engine in this process: continuous
//! batching, prompts computed once for all their completions, low priority. Leaves what is learnt from them to `run`.

mod engine;
mod publish;

pub use engine::{Completion, PromptSeed, RolloutEngine, RolloutModels};
pub(crate) use engine::{completions, rewards};
pub use publish::pack_adapter;
