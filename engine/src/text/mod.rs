//! Text: tokenizers and chat templates of Hugging Face folders. Leaves incremental detokenisation and stop strings to
//! the engine.

pub mod chat_template;
mod python;
pub mod token_table;
pub mod tokenizer;

pub use chat_template::{ChatTemplate, TemplateInput};
pub use tokenizer::Tokenizer;
