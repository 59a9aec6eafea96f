//! Training data: records rendered to tokens with their loss masks, split, ordered and packed. Leaves the shapes of
//! records and their files to `rectify_feedback`, losses to `losses`.

mod answers;
mod ghost;
mod order;
mod pack;
mod preference;
mod prompt;
mod sft;
mod splits;
#[cfg(test)]
mod tests;
mod text;

pub use answers::{Answers, AnswersLine, AnswersNotes, AnswersText, read_answers};
pub use ghost::ghost_attention;
pub(crate) use order::shuffled;
pub use order::{Batches, split};
pub use pack::pack;
pub use preference::{PairExample, read_pairs};
pub use prompt::{PromptExample, read_answered, read_prompts};
pub use sft::{SftExample, SftNotes, SftText, read_sft};
pub(crate) use splits::hex;
pub use splits::{Fingerprint, Splits};
pub use text::{Prompted, TextEncoder};
