//! Tensor operations: one safe function per op. Leaves models and scheduling to `engine`.
//!
//! A row's result depends on that row alone, bit for bit: never on how many rows or threads share the call.

mod activation;
mod attention;
mod buffer;
mod elementwise;
mod embed;
mod error;
mod ggml;
mod isa;
mod linear;
mod mass;
mod norm;
pub mod peak;
mod pool;
mod reduce;
mod rope;
mod rows;
mod select;
mod simd;
pub mod train;
mod transpose;

pub use activation::{Activation, activate, gated};
pub use attention::{
    AttentionParams, AttentionPlan, KvCache, KvDtype, PagedBatch, paged_attention, reshape_and_cache,
};
pub use elementwise::{add, scale, soft_cap};
pub use embed::embed;
pub use error::KernelError;
pub use ggml::BlockKind;
pub use isa::Isa;
pub use linear::{
    Epilogue, GatedMlp, PackedLinear, Scratch, Source, Values, WeightDtype, gated_linear, gated_mlp, linear,
};
pub use mass::{MASS_CHUNK, MAXIMA_BLOCK, masses, settle};
pub use norm::{add_rms_norm, head_rms_norm, layer_norm, rms_norm};
pub use pool::Pool;
pub use reduce::{exp_below, log_sum_exp, logprob_gather, max, sum};
pub use rope::{RopeTable, rope};
pub use rows::{Rows, RowsMut};
pub use select::{exp_sum_above, for_each_above};
