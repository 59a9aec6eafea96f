//! Models: configuration, weights, the one decoder and what runs it. Leaves batching to the scheduler.

mod activation;
pub mod adapter;
pub mod assemble;
pub mod backend;
pub mod checkpoint;
pub mod config;
pub mod cpu;
pub mod cpu_executor;
pub mod cpu_linear;
pub mod cpu_tensor;
pub mod decoder;
pub mod encoder;
pub mod family;
pub mod fields;
pub mod generation_config;
mod gguf;
mod kv_budget;
pub mod layer_config;
pub mod layout;
pub mod load;
mod load_policy;
mod load_reward;
pub mod mmap;
pub mod names;
pub mod peft;
pub mod reading;
pub mod readout;
pub mod reward;
pub mod rope;
mod routing;
pub mod save;
pub mod source;
mod stored_values;
mod terms;
#[cfg(test)]
pub(crate) mod testing;
pub mod weights;
