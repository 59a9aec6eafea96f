//! The files between the recipe's stages: JSON lines, and the shapes of `rectify generate`'s.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use anyhow::Context as _;
use rectify_lab::{Category, Item, Task};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Writes one line per item.
pub(crate) fn write_lines(
    path: &Path,
    lines: impl IntoIterator<Item = impl Serialize>,
) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut out = BufWriter::new(file);
    for line in lines {
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")?;
    }
    out.flush().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads one item per line.
pub(crate) fn read_lines<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let parse = |(number, line): (usize, std::io::Result<String>)| {
        serde_json::from_str(&line?).with_context(|| format!("{}:{}", path.display(), number + 1))
    };
    BufReader::new(file).lines().enumerate().map(parse).collect()
}

/// A line for `rectify generate`: the prompt as a conversation, and beside it what the oracle needs, which the command
/// carries over into its output.
pub(crate) fn prompt_line(item: &Item) -> Value {
    json!({"messages": [turn("user", &item.prompt)], "category": item.category, "task": item.task})
}

/// One turn of a conversation.
pub(crate) fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// A line of `rectify generate --keep all`.
#[derive(Deserialize)]
pub(crate) struct Generated {
    prompt: Vec<Turn>,
    category: Category,
    task: Task,
    /// In the order of sampling.
    pub(crate) candidates: Vec<Candidate>,
}

#[derive(Deserialize)]
struct Turn {
    content: String,
}

/// One candidate of a [`Generated`] line.
#[derive(Deserialize)]
pub(crate) struct Candidate {
    /// The answer.
    pub(crate) text: String,
    /// The reward model's score, if one was there.
    pub(crate) reward: Option<f64>,
    /// Its length in tokens.
    pub(crate) tokens: usize,
}

impl Generated {
    /// What was asked.
    pub(crate) fn item(&self) -> Item {
        let prompt = self.prompt.last().map(|turn| turn.content.clone()).unwrap_or_default();
        Item { category: self.category, prompt, task: self.task.clone() }
    }
}
