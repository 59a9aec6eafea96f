//! How models write calls of tools. This file owns the formats, one for each family of chat templates; `parser` reads
//! calls out of a text as it comes, `grammar` makes a model write them. Leaves the wire format to `server`.

mod call;
pub mod grammar;
pub mod parser;
pub mod plain;
#[cfg(test)]
mod tests;
mod value;

pub use grammar::Function;
pub use parser::{ToolDelta, ToolParser};

/// A way to write calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// Hermes and Qwen: `<tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>`, one block for each call.
    Hermes,
    /// Llama 3: the whole answer is `{"name": …, "parameters": {…}}`, several with `; ` between them, sometimes behind
    /// `<|python_tag|>`.
    Llama3,
    /// Mistral: `[TOOL_CALLS]` and a list of objects; later templates write `[TOOL_CALLS]name[ARGS]{…}` for each call.
    Mistral {
        /// The later form.
        by_name: bool,
    },
}

impl ToolFormat {
    /// The format that a chat template tells its model to write; `None` if it knows no tools, or none of these formats.
    pub fn of_template(template: &str) -> Option<Self> {
        let has = |text: &str| template.contains(text);
        if !has("tools") {
            return None;
        }
        if has("[TOOL_CALLS]") {
            return Some(Self::Mistral { by_name: has("[ARGS]") });
        }
        if has("<tool_call>") {
            return Some(Self::Hermes);
        }
        (has("<|python_tag|>") || has("\"parameters\"")).then_some(Self::Llama3)
    }

    /// What a call begins with, where a text may come before it.
    fn opening(self) -> &'static str {
        match self {
            Self::Hermes => "<tool_call>",
            Self::Llama3 => "<|python_tag|>",
            Self::Mistral { .. } => "[TOOL_CALLS]",
        }
    }

    /// Markers that may be special tokens of the vocabulary, which are not shown otherwise.
    pub fn has_special_tokens(self) -> bool {
        self != Self::Hermes
    }
}
