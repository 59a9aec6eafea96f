//! Models: configuration, weights, the one decoder and what runs it. Leaves batching to the scheduler.

pub mod adapter;
pub mod backend;
pub mod config;
pub mod decoder;
