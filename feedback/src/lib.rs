//! Preference data: the feedback store ([`store`]), record formats and their files. Knows neither models nor HTTP.
//!
//! The formats are the ones people have, named as TRL names them: prompts, SFT data (`messages`,
//! `prompt`/`completion`, `text`), preferences (`prompt`/`chosen`/`rejected`), unpaired preferences
//! (`prompt`/`completion`/`label`) and ranked answers (`prompt`/`responses`/`scores`), each as plain text or as turns of a conversation. They are read from JSON lines, JSON
//! lists, Parquet and Argilla's exports alike, and written as JSON lines, JSON lists or Parquet. Which votes may be
//! trained on, [`quality`] says; what they become, [`snapshot`].

mod argilla;
pub mod error;
pub mod exchange;
mod fields;
pub mod jsonl;
mod parquet;
mod parquet_write;
pub mod preference;
pub mod prompt;
pub mod quality;
pub mod ranked;
pub mod records;
pub mod sft;
pub mod snapshot;
pub mod store;
pub mod text;
pub mod unpaired;

pub use error::{FeedbackError, RecordError};
pub use jsonl::{JsonlReader, JsonlWriter, Line, Record, Recovered, read_all};
pub use parquet_write::write_parquet;
pub use preference::PreferenceRecord;
pub use prompt::PromptRecord;
pub use ranked::RankedRecord;
pub use records::{Records, read_records};
pub use sft::{SftData, SftRecord};
pub use store::{Store, StoreError};
pub use text::{Message, Text};
pub use unpaired::{UnpairedLine, UnpairedRecord};
