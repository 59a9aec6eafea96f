//! The grammar of an answer that must call tools. Leaves compiling it to `grammar` of the engine.

use std::fmt::Write;

use serde_json::{Value, json};

use super::ToolFormat;
use crate::GrammarSpec;
use crate::grammar::{lark_json, lark_literal};

/// Most calls in one answer: a model that does not know when to stop would otherwise go on to the end of its context.
const MAX_CALLS: usize = 16;

/// A function that may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// What calls name it.
    pub name: String,
    /// The JSON schema of its arguments; without one it takes none.
    pub parameters: Option<Value>,
    /// Refuse schemas that cannot be enforced.
    pub strict: bool,
}

impl ToolFormat {
    /// One call of one of `functions`, or several if they may be `parallel`, and nothing else. `special` finds markers
    /// that are special tokens of the vocabulary.
    ///
    /// # Errors
    /// The index of the function whose parameters are no schema, and a clause.
    pub fn grammar(
        self,
        functions: &[Function],
        parallel: bool,
        special: impl Fn(&str) -> Option<u32>,
    ) -> Result<GrammarSpec, (usize, String)> {
        let marker = |text: &str| match special(text) {
            Some(token) => format!("<[{token}]>"),
            None => lark_literal(text),
        };
        let (key, opening) = (if self == Self::Llama3 { "parameters" } else { "arguments" }, self.opening());
        let (open, args) = (marker(opening), marker("[ARGS]"));
        let (call, between, before, after) = match self {
            Self::Hermes => {
                (format!("{open} \"\\n\" body \"\\n\" {}", marker("</tool_call>")), "\"\\n\"", "", "")
            }
            Self::Llama3 => ("body".to_owned(), "\"; \"", "", ""),
            Self::Mistral { by_name: false } => ("body".to_owned(), "\", \"", "\"[\"", "\"]\""),
            Self::Mistral { by_name: true } => (format!("{open} body"), "", "", ""),
        };
        let before = if self == (Self::Mistral { by_name: false }) {
            format!("{open} {before}")
        } else {
            before.to_owned()
        };
        let more = if parallel { format!("({between} call){{0,{}}}", MAX_CALLS - 1) } else { String::new() };
        let bodies: Vec<String> = (0..functions.len()).map(|index| format!("f{index}")).collect();
        let mut lark =
            format!("start: {before} call {more} {after}\ncall: {call}\nbody: {}\n", bodies.join(" | "));
        for (index, function) in functions.iter().enumerate() {
            let none = json!({"type": "object", "properties": {}, "additionalProperties": false});
            let schema = function.parameters.as_ref().unwrap_or(&none);
            let arguments = lark_json(schema, function.strict).map_err(|cause| (index, cause))?;
            let name = Value::from(function.name.as_str());
            let body = if self == (Self::Mistral { by_name: true }) {
                format!("{} {args} a{index}", lark_literal(&function.name))
            } else {
                let head = lark_literal(&format!("{{\"name\": {name}, \"{key}\": "));
                format!("{head} a{index} \"}}\"")
            };
            let _ = write!(lark, "f{index}: {body}\na{index}: {arguments}\n");
        }
        Ok(GrammarSpec::Lark(lark))
    }
}
