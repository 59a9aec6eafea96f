//! Preferences: both answers as a reward model reads them. Leaves packing to `order`.

use std::path::Path;

use rectify_feedback::{PreferenceRecord, Text, read_records};
use serde_json::{Map, Value};

use super::text::TextEncoder;
use crate::error::TrainError;

/// One preference.
#[derive(Clone, Debug, PartialEq)]
pub struct PairExample {
    /// Prompt and chosen answer.
    pub chosen: Vec<u32>,
    /// Prompt and rejected answer.
    pub rejected: Vec<u32>,
    /// How much better the chosen answer should score.
    pub margin: f64,
}

/// Preferences of a file, in its order; and how many were left out because an answer is longer than `max_length`
/// tokens or both are the same.
///
/// # Errors
/// The first line that is no preference, or what the template refuses, with its file and number.
pub fn read_pairs(
    path: &Path,
    encoder: &TextEncoder,
    max_length: usize,
) -> Result<(Vec<PairExample>, usize), TrainError> {
    let (mut examples, mut left_out) = (Vec::new(), 0);
    for line in read_records::<PreferenceRecord>(path)? {
        let line = line?;
        let record = &line.record;
        let fail = |reason| TrainError::data(path, line.number, reason);
        let margin = record.margin.unwrap_or(0.0);
        if !margin.is_finite() {
            return Err(fail("`margin` must be a finite number".to_owned()));
        }
        let chosen = encode(encoder, &record.prompt, &record.chosen, &record.extra).map_err(fail)?;
        let rejected = encode(encoder, &record.prompt, &record.rejected, &record.extra).map_err(fail)?;
        // A cut answer has no end to be scored at.
        if chosen.len().max(rejected.len()) > max_length || chosen == rejected {
            left_out += 1;
        } else {
            examples.push(PairExample { chosen, rejected, margin });
        }
    }
    Ok((examples, left_out))
}

fn encode(
    encoder: &TextEncoder,
    prompt: &Text,
    answer: &Text,
    columns: &Map<String, Value>,
) -> Result<Vec<u32>, String> {
    let ids = match (prompt, answer) {
        (Text::Chat(prompt), Text::Chat(answer)) => {
            encoder.encode(&encoder.render(&[prompt.as_slice(), answer].concat(), false, columns)?)?
        }
        (Text::Plain(prompt), Text::Plain(answer)) => encoder.encode_ended(&format!("{prompt}{answer}"))?,
        _ => return Err("`prompt` and the answers must all be texts or all be messages".to_owned()),
    };
    if ids.is_empty() { Err("the text is empty".to_owned()) } else { Ok(ids) }
}
