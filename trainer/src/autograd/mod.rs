//! The engine's decoder on a tape: forward passes that remember, and their gradients. Leaves losses to `losses` and
//! weights' movement to `optim`.
//!
//! The tape is closed: a dozen operations, each with a kernel forward and backward. A general autograd, candle's among
//! them, makes a fresh zeroed tensor for every gradient and adds to it on one thread: at a width of a few hundred that
//! traffic is no longer small beside the products. Here gradients go into recycled buffers, weight gradients straight
//! into the accumulators that outlive the step, and the residual stream's gradient is one buffer from top to bottom.

/// Module of a critic's head, as TRL names it.
pub const VALUE_HEAD: &str = "v_head.summary";

mod adapters;
mod backward;
mod batch;
mod buffers;
mod forward;
mod logprobs;
mod ops;
mod params;
mod segments;
mod tape;

pub use adapters::LoraSettings;
pub use batch::{PackedBatch, Placed};
pub use logprobs::Logprobs;
pub use params::{Param, ParamId, Params, Part};
pub use tape::{FrozenBase, Tape, Tensor};

#[cfg(test)]
mod tests;
