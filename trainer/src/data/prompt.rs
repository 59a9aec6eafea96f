//! Prompts to sample completions for: tokens for the policy, words and columns for the rewards. Leaves sampling to
//! `rollout`.

use std::path::Path;
use std::sync::Arc;

use rectify_engine::request::Message;
use rectify_feedback::{PromptRecord, SftData, SftRecord, Text, read_records};
use serde_json::{Map, Value};

use super::text::TextEncoder;
use crate::error::TrainError;

/// One prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptExample {
    /// Tokens, with the opening of the answer.
    pub ids: Vec<u32>,
    /// As it was written.
    pub text: Text,
    /// As a conversation; a plain prompt is the user's turn.
    pub messages: Arc<[Message]>,
    /// The line's other columns.
    pub columns: Map<String, Value>,
    /// Tokens of somebody's answer, if one was read with it.
    pub answer: Vec<u32>,
}

impl PromptExample {
    /// Renders a prompt.
    ///
    /// # Errors
    /// What the template or the tokenizer says.
    pub fn new(encoder: &TextEncoder, text: Text, columns: Map<String, Value>) -> Result<Self, String> {
        let ids = encoder.encode_prompt(&text, &columns)?;
        if ids.is_empty() {
            return Err("the prompt is empty".to_owned());
        }
        let messages = text.to_messages("user").into_iter();
        let messages = messages.map(|turn| Message { role: turn.role, content: turn.content }).collect();
        Ok(Self { ids, text, messages, columns, answer: Vec::new() })
    }
}

/// Prompts of a file, in its order; and how many were left out because they have more than `max_length` tokens.
///
/// # Errors
/// The first line that is no prompt, or what the template refuses, with its file and number.
pub fn read_prompts(
    path: &Path,
    encoder: &TextEncoder,
    max_length: usize,
) -> Result<(Vec<PromptExample>, usize), TrainError> {
    let (mut prompts, mut left_out) = (Vec::new(), 0);
    for line in read_records::<PromptRecord>(path)? {
        let line = line?;
        let prompt = PromptExample::new(encoder, line.record.prompt, line.record.extra)
            .map_err(|reason| TrainError::data(path, line.number, reason))?;
        if prompt.ids.len() > max_length {
            left_out += 1;
        } else {
            prompts.push(prompt);
        }
    }
    Ok((prompts, left_out))
}

/// Prompts of a file with the answers that demonstrations give them, in its order; and how many were left out because
/// both together have more than `max_length` tokens, or the answer none.
///
/// # Errors
/// The first line that is no demonstration with a prompt, or what the template refuses, with its file and number.
pub fn read_answered(
    path: &Path,
    encoder: &TextEncoder,
    max_length: usize,
) -> Result<(Vec<PromptExample>, usize), TrainError> {
    let (mut prompts, mut left_out) = (Vec::new(), 0);
    for line in read_records::<SftRecord>(path)? {
        let line = line?;
        let prompt =
            answered(encoder, line.record).map_err(|reason| TrainError::data(path, line.number, reason))?;
        if prompt.answer.is_empty() || prompt.ids.len() + prompt.answer.len() > max_length {
            left_out += 1;
        } else {
            prompts.push(prompt);
        }
    }
    Ok((prompts, left_out))
}

fn answered(encoder: &TextEncoder, record: SftRecord) -> Result<PromptExample, String> {
    let (prompt, answer) = match record.data {
        SftData::PromptCompletion { prompt, completion } => (prompt, completion),
        SftData::Messages(mut turns) => match turns.pop() {
            Some(last) if last.role == "assistant" && !turns.is_empty() => {
                (Text::Chat(turns), Text::Chat(vec![last]))
            }
            _ => return Err("the last message must be the assistant's answer to those before".to_owned()),
        },
        SftData::Text(_) => {
            return Err(
                "a plain `text` has no prompt; give `prompt` and `completion`, or `messages`".to_owned()
            );
        }
    };
    let parts = encoder.encode_prompted(&prompt, &[&answer], &record.extra)?;
    let answer = parts.answers.into_iter().next().unwrap_or_default();
    Ok(PromptExample { ids: parts.prompt, answer, ..PromptExample::new(encoder, prompt, record.extra)? })
}
