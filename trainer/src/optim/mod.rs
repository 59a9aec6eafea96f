//! What moves the weights: AdamW, its schedule, clipping. Leaves when to step to `run`.

mod adamw;
mod schedule;

pub use adamw::{AdamW, Hyper};
pub use schedule::Schedule;
