//! `cache:` and `scheduler:`: how much the engine holds and does at once. Leaves what it does with it to the engine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ByteSize, Precision};

/// The KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheSection {
    /// Memory for the policies' KV blocks together, as `4GiB`; 1GiB if unset. Policies without a `kv_memory` of their own share
    /// it so that all hold equally many tokens.
    pub memory: Option<ByteSize>,
    /// Memory for the KV blocks of each reward model with weights of its own; 512MiB if unset.
    pub reward_memory: Option<ByteSize>,
    /// Tokens of a block; a multiple of 16.
    pub block_size: usize,
    /// Precision of keys and values; that of the weights if unset.
    pub dtype: Option<Precision>,
    /// Reuse the blocks of equal prefixes.
    pub prefix_caching: bool,
}

impl Default for CacheSection {
    fn default() -> Self {
        Self { memory: None, reward_memory: None, block_size: 16, dtype: None, prefix_caching: true }
    }
}

/// Batching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerSection {
    /// Most sequences in a step.
    pub max_num_seqs: usize,
    /// Most tokens in a step.
    pub max_num_batched_tokens: usize,
    /// Most requests that wait; more are answered with 429.
    pub max_waiting: usize,
    /// Most candidates of one prompt.
    pub max_candidates: usize,
    /// Prompts and texts to score are cut so that one does not double the time between tokens of answers that stream; the more
    /// of them wait, the longer steps take, up to this many milliseconds. 0 does not cut them.
    pub step_target_ms: u64,
    /// Threads that compute; one per core if unset.
    pub threads: Option<usize>,
}

impl Default for SchedulerSection {
    fn default() -> Self {
        Self {
            max_num_seqs: 256,
            max_num_batched_tokens: 2048,
            max_waiting: 1024,
            max_candidates: 256,
            step_target_ms: 25,
            threads: None,
        }
    }
}
