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

#[cfg(test)]
mod tests {
    use super::*;
    use rectify_engine::model::config::ModelConfig;
    use rectify_engine::model::source::ModelSource;
    use rectify_engine::text::Tokenizer;

    /// The whole text of a line, and the parts of it that are learnt, joined by `|`.
    fn learnt(line: &str, options: SftText) -> Result<(String, String), TrainError> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/qwen3/policy");
        let source = ModelSource::from(folder.as_path());
        let encoder = TextEncoder::load(&source, &ModelConfig::load(&source)?)?;
        let tokenizer = Tokenizer::load(&source)?;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), line).unwrap();
        let options = SftText { max_length: options.max_length.max(1), ..options };
        let (examples, _) = read_sft(file.path(), &encoder, options)?;
        let Some(example) = examples.first() else { return Ok(Default::default()) };
        assert_eq!(example.ids.len(), example.loss.len());
        let runs = example.loss.chunk_by(|a, b| a == b);
        let mut parts = Vec::new();
        let mut from = 0;
        for run in runs {
            let ids = &example.ids[from..from + run.len()];
            from += run.len();
            if run[0] {
                parts.push(tokenizer.decode(ids, false)?);
            }
        }
        Ok((tokenizer.decode(&example.ids, false)?, parts.join("|")))
    }

    const LONG: SftText = SftText { completion_only: None, assistant_only: false, max_length: 100 };
    const CHAT: &str = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "So long."}]}"#;

    fn chat() -> String {
        CHAT.replace('\n', "")
    }

    #[test]
    fn assistant_turns_are_learnt_with_the_token_that_ends_them() {
        let (text, parts) = learnt(&chat(), SftText { assistant_only: true, ..LONG }).unwrap();
        assert!(
            text.starts_with("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"),
            "{text}"
        );
        assert_eq!(parts, "Yes.<|im_end|>\n|So long.<|im_end|>\n");
    }

    #[test]
    fn all_of_a_conversation_but_its_first_token_is_learnt_by_default() {
        let (text, parts) = learnt(&chat(), LONG).unwrap();
        assert_eq!(text, format!("<|im_start|>{parts}"));
    }

    #[test]
    fn a_completion_is_learnt_with_its_end_and_the_prompt_only_if_asked() {
        let line = r#"{"prompt": "One two", "completion": " three"}"#;
        assert_eq!(learnt(line, LONG).unwrap().1, " three<|im_end|>");
        let whole = SftText { completion_only: Some(false), ..LONG };
        assert!(learnt(line, whole).unwrap().1.ends_with(" two three<|im_end|>"));
        let turns = r#"{"prompt": [{"role": "user", "content": "Hi"}],
            "completion": [{"role": "assistant", "content": "Yes."}]}"#;
        assert_eq!(learnt(&turns.replace('\n', ""), LONG).unwrap().1, "Yes.<|im_end|>\n");
    }

    #[test]
    fn a_text_is_learnt_with_its_end_and_cut_at_the_longest_length() {
        let (text, parts) = learnt(r#"{"text": "Once upon a time"}"#, LONG).unwrap();
        assert!(text.ends_with("<|im_end|>") && text.ends_with(&parts));
        let (text, _) = learnt(r#"{"text": "Once upon a time"}"#, SftText { max_length: 3, ..LONG }).unwrap();
        assert!(!text.contains("time"), "{text}");
    }

    #[test]
    fn a_prompt_that_fills_the_length_leaves_nothing_to_learn() {
        let line = r#"{"prompt": "One two three four five six", "completion": " seven"}"#;
        assert_eq!(learnt(line, SftText { max_length: 3, ..LONG }).unwrap().1, "");
    }

    #[test]
    fn completion_only_loss_is_refused_for_messages() {
        let error = learnt(&chat(), SftText { completion_only: Some(true), ..LONG }).unwrap_err().to_string();
        assert!(error.contains(":1: ") && error.contains("assistant_only_loss"), "{error}");
    }
}
