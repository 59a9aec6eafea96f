//! Demonstrations: tokens and which of them are learnt. Leaves packing to `order`.

use std::path::{Path, PathBuf};

use rectify_feedback::{JsonlReader, Message, SftData, SftRecord, Text};

use super::text::TextEncoder;
use crate::error::TrainError;

/// One demonstration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SftExample {
    /// Tokens.
    pub ids: Vec<u32>,
    /// Which tokens are learnt, given those before them. The first never is.
    pub loss: Vec<bool>,
}

impl SftExample {
    /// Tokens that are learnt.
    pub fn num_loss_tokens(&self) -> usize {
        self.loss.iter().filter(|loss| **loss).count()
    }
}

/// Which tokens are learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SftText {
    /// The completion of `prompt`/`completion` lines only; `None` means yes.
    pub completion_only: Option<bool>,
    /// Assistant turns of `messages` lines only.
    pub assistant_only: bool,
    /// Longest example; the end is cut off.
    pub max_length: usize,
}

/// Demonstrations of a file, in its order; and how many had nothing to learn within `max_length`.
///
/// # Errors
/// The first line that is no demonstration, or what the template refuses, with its file and number.
pub fn read_sft(
    path: &Path,
    encoder: &TextEncoder,
    options: SftText,
) -> Result<(Vec<SftExample>, usize), TrainError> {
    let (mut examples, mut empty) = (Vec::new(), 0);
    for line in JsonlReader::<SftRecord>::open(path)? {
        let line = line?;
        let fail =
            |reason| TrainError::Data { file: PathBuf::from(path), line: line.number as usize, reason };
        let mut example = encode(encoder, &line.record.data, options).map_err(fail)?;
        example.ids.truncate(options.max_length);
        example.loss.truncate(options.max_length);
        if let Some(first) = example.loss.first_mut() {
            *first = false; // Nothing comes before it.
        }
        if example.num_loss_tokens() == 0 {
            empty += 1;
        } else {
            examples.push(example);
        }
    }
    Ok((examples, empty))
}

fn encode(encoder: &TextEncoder, data: &SftData, options: SftText) -> Result<SftExample, String> {
    let mut example = SftExample { ids: Vec::new(), loss: Vec::new() };
    let mut add = |ids: Vec<u32>, loss: bool| {
        example.loss.resize(example.loss.len() + ids.len(), loss);
        example.ids.extend(ids);
    };
    let prompt_bears_loss = options.completion_only == Some(false);
    match data {
        SftData::Messages(messages) if options.assistant_only => {
            for (text, loss) in assistant_spans(encoder, messages)? {
                add(encoder.encode(&text)?, loss);
            }
        }
        SftData::Messages(messages) => {
            if options.completion_only == Some(true) {
                return Err(
                    "completion_only_loss needs `prompt` and `completion`; for `messages` lines use \
                            assistant_only_loss"
                        .to_owned(),
                );
            }
            add(encoder.encode(&encoder.render(messages, false)?)?, true);
        }
        SftData::PromptCompletion { prompt: Text::Chat(prompt), completion: Text::Chat(completion) } => {
            let start = encoder.render(prompt, true)?;
            let whole = encoder.render(&[prompt.as_slice(), completion].concat(), false)?;
            let Some(rest) = whole.strip_prefix(&start) else {
                return Err(
                    "the chat template writes the prompt differently once the completion follows, so the \
                            completion's tokens cannot be told apart"
                        .to_owned(),
                );
            };
            add(encoder.encode(&start)?, prompt_bears_loss);
            add(encoder.encode(rest)?, true);
        }
        SftData::PromptCompletion { prompt, completion } => {
            let plain = |text: &Text| match text {
                Text::Plain(text) => Ok(text.clone()),
                Text::Chat(_) => {
                    Err("`prompt` and `completion` must both be texts or both be messages".to_owned())
                }
            };
            add(encoder.encode_start(&plain(prompt)?)?, prompt_bears_loss);
            add(encoder.encode(&plain(completion)?)?, true);
            add(encoder.eos().into_iter().collect(), true);
        }
        SftData::Text(text) => {
            add(encoder.encode_start(text)?, true);
            add(encoder.eos().into_iter().collect(), true);
        }
    }
    Ok(example)
}

/// A conversation as pieces of text, those of the assistant marked: what follows the generation prompt of each of its
/// turns, the token that ends the turn included.
fn assistant_spans(encoder: &TextEncoder, messages: &[Message]) -> Result<Vec<(String, bool)>, String> {
    let whole = encoder.render(messages, false)?;
    let mut spans = Vec::new();
    let mut done = 0;
    for (index, message) in messages.iter().enumerate() {
        if message.role != "assistant" {
            continue;
        }
        let start = encoder.render(&messages[..index], true)?;
        let end = encoder.render(&messages[..=index], false)?;
        if !whole.starts_with(&end) || !end.starts_with(&start) || start.len() < done {
            return Err(
                "the chat template writes earlier turns differently once others follow, so the assistant's \
                        tokens cannot be told apart"
                    .to_owned(),
            );
        }
        spans.push((whole[done..start.len()].to_owned(), false));
        spans.push((whole[start.len()..end.len()].to_owned(), true));
        done = end.len();
    }
    spans.push((whole[done..].to_owned(), false));
    spans.retain(|(text, _)| !text.is_empty());
    Ok(spans)
}
