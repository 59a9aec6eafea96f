//! Encoders as reward models: bidirectional transformers with a classification head. A family is a row of data in
//! `family`; `forward` is the only encoder. Leaves what outputs are worth to `readout`, and when to run to the scheduler.

mod config;
mod disentangled;
mod executor;
mod family;
mod forward;
mod load;
mod pair_text;
mod text;

pub use config::{EncoderConfig, Markers};
pub use executor::{EncoderExecutor, EncoderOptions};
pub use family::EncoderFamily;
pub use pair_text::EncoderPairText;
pub use text::EncoderText;
