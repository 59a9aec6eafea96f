//! Text: tokenizers and chat templates of Hugging Face folders, and the parts of an answer. Leaves incremental detokenisation and stop strings to
//! the engine.

pub mod chat_template;
mod pair;
mod python;
pub mod reasoning;
pub mod token_table;
pub mod tokenizer;
pub mod tools;

pub use chat_template::{ChatTemplate, TemplateInput};
pub use pair::PairTokenizer;
pub use tokenizer::Tokenizer;
