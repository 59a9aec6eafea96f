//! Training data: JSONL lines rendered to tokens with their loss masks, split, ordered and packed. Leaves the shapes of
//! lines to `rectify_feedback`, losses to `losses`.

mod order;
mod preference;
mod sft;
mod text;

pub use order::{Batches, split};
pub use preference::{PairExample, read_pairs};
pub use sft::{SftExample, SftText, read_sft};
pub use text::TextEncoder;
