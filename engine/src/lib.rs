//! The inference engine: models, paged KV cache, scheduler, sampler, adapters, reward models and
//! best-of-N. Knows neither HTTP nor training.
//!
//! One OS thread owns all state; everyone else holds an [`EngineHandle`]. A step is
//! `schedule → execute → update`. See `ARCHITECTURE.md` for the data flow and the invariants.

pub mod adapters;
pub mod alignment;
pub mod batch;
pub mod block_pool;
mod comparisons;
pub mod config;
pub mod detokenizer;
pub mod engine;
pub mod error;
pub mod events;
mod generation;
pub mod grammar;
pub mod group;
pub mod handle;
pub mod ids;
mod metrics;
pub mod model;
pub mod parts;
pub mod prefix_cache;
pub mod request;
pub mod sampler;
pub mod sampling_params;
pub mod scheduler;
mod scoring;
pub mod sequence;
pub mod stop;
pub mod strategy;
#[cfg(test)]
mod testing;
pub mod text;

pub use config::EngineConfig;
pub use engine::{Engine, start};
pub use error::EngineError;
pub use grammar::{Grammar, GrammarSpec, Grammars};
pub use handle::EngineHandle;
pub use parts::{
    AdapterLoader, EngineParts, PolicyParts, RewardParts, RewardSpec, RewardWeights, TokenBytes,
};
pub use request::{AdapterRef, Event, GenerateRequest, ScoreRequest};
pub use sampling_params::SamplingParams;
