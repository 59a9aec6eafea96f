//! Demonstrations: tokens and which of them are learnt. Leaves bins to `pack` and batches to `order`.

use std::path::Path;

use rectify_feedback::{Message, SftData, SftRecord, Text, read_records};
use serde_json::{Map, Value};

use super::ghost::ghost_attention;
use super::text::TextEncoder;
use crate::config::TruncationMode;
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
    /// An example whose first token is not learnt, since nothing comes before it.
    pub(super) fn new(ids: Vec<u32>, mut loss: Vec<bool>) -> Self {
        if let Some(first) = loss.first_mut() {
            *first = false;
        }
        Self { ids, loss }
    }

    /// Tokens that are learnt.
    pub fn num_loss_tokens(&self) -> usize {
        self.loss.iter().filter(|loss| **loss).count()
    }
}

/// Which tokens are learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SftText {
    /// The completion of `prompt`/`completion` lines only; `None` means yes.
    pub completion_only: Option<bool>,
    /// The assistant's turns only.
    pub assistant_only: bool,
    /// The system prompt before every user turn, loss on the last answer only.
    pub ghost_attention: bool,
    /// Longest example; the rest is cut off.
    pub max_length: usize,
    /// Which end of a long example stays.
    pub truncation_mode: TruncationMode,
}

/// What was met while reading, for a warning each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SftNotes {
    /// Lines with nothing to learn within `max_length`, left out.
    pub num_empty: usize,
    /// Lines whose prompt ends in other tokens once the completion follows.
    pub num_changed: usize,
}

/// Demonstrations of a file, in its order.
///
/// # Errors
/// The first line that is no demonstration, or what the template refuses, with its file and number.
pub fn read_sft(
    path: &Path,
    encoder: &TextEncoder,
    options: SftText,
    notes: &mut SftNotes,
) -> Result<Vec<SftExample>, TrainError> {
    let mut examples = Vec::new();
    for line in read_records::<SftRecord>(path)? {
        let line = line?;
        let fail = |reason| TrainError::data(path, line.number, reason);
        let mut example = encode(encoder, &line.record, options, notes).map_err(fail)?;
        options.truncation_mode.truncate(&mut example.ids, options.max_length);
        options.truncation_mode.truncate(&mut example.loss, options.max_length);
        let example = SftExample::new(example.ids, example.loss);
        if example.num_loss_tokens() == 0 {
            notes.num_empty += 1;
        } else {
            examples.push(example);
        }
    }
    Ok(examples)
}

fn encode(
    encoder: &TextEncoder,
    record: &SftRecord,
    options: SftText,
    notes: &mut SftNotes,
) -> Result<SftExample, String> {
    let columns = &record.extra;
    match &record.data {
        SftData::Messages(_) if options.completion_only == Some(true) => Err(
            "completion_only_loss needs `prompt` and `completion`; for `messages` lines use assistant_only_loss"
                .to_owned(),
        ),
        SftData::Messages(messages) if options.ghost_attention => encode_last(encoder, messages, columns),
        SftData::Messages(messages) if options.assistant_only => {
            let marked = encoder.encode_marked(messages, columns)?;
            Ok(SftExample { ids: marked.ids, loss: marked.is_assistant })
        }
        SftData::Messages(messages) => {
            let ids = encoder.encode(&encoder.render(messages, false, columns)?)?;
            Ok(SftExample { loss: vec![true; ids.len()], ids })
        }
        SftData::PromptCompletion { prompt: Text::Chat(prompt), completion: Text::Chat(completion) }
            if options.ghost_attention =>
        {
            encode_last(encoder, &[prompt.as_slice(), completion].concat(), columns)
        }
        SftData::PromptCompletion { prompt, completion } => {
            let prompted = encoder.encode_prompted(prompt, &[completion], columns)?;
            notes.num_changed += usize::from(prompted.num_changed > 0);
            let mut loss = vec![options.completion_only == Some(false); prompted.prompt.len()];
            let mut ids = prompted.prompt;
            ids.extend(prompted.answers.into_iter().flatten());
            loss.resize(ids.len(), true);
            if let (true, Text::Chat(prompt), Text::Chat(completion)) =
                (options.assistant_only, prompt, completion)
            {
                let marked = encoder.encode_marked(&[prompt.as_slice(), completion].concat(), columns)?;
                loss.iter_mut().zip(marked.is_assistant).for_each(|(loss, is_assistant)| *loss &= is_assistant);
            }
            Ok(SftExample { ids, loss })
        }
        SftData::Text(text) => {
            let ids = encoder.encode_ended(text)?;
            Ok(SftExample { loss: vec![true; ids.len()], ids })
        }
    }
}

/// Ghost Attention: only the assistant's last turn is learnt.
fn encode_last(
    encoder: &TextEncoder,
    messages: &[Message],
    columns: &Map<String, Value>,
) -> Result<SftExample, String> {
    let messages = ghost_attention(messages);
    let Some((last, before)) = messages.split_last().filter(|(last, _)| last.role == "assistant") else {
        return Err("ghost_attention needs conversations that end with the assistant's message".to_owned());
    };
    let (prompt, answer) = (Text::Chat(before.to_vec()), Text::Chat(vec![last.clone()]));
    let prompted = encoder.encode_prompted(&prompt, &[&answer], columns)?;
    let mut loss = vec![false; prompted.prompt.len()];
    let mut ids = prompted.prompt;
    ids.extend(prompted.answers.into_iter().flatten());
    loss.resize(ids.len(), true);
    Ok(SftExample { ids, loss })
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
        let examples = read_sft(file.path(), &encoder, options, &mut SftNotes::default())?;
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

    const LONG: SftText = SftText {
        completion_only: None,
        assistant_only: false,
        ghost_attention: false,
        max_length: 100,
        truncation_mode: TruncationMode::KeepStart,
    };
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

    #[test]
    fn the_end_stays_if_asked() {
        let options = SftText { max_length: 3, truncation_mode: TruncationMode::KeepEnd, ..LONG };
        let (text, parts) =
            learnt(r#"{"prompt": "One two three four five six", "completion": " seven"}"#, options).unwrap();
        assert!(text.ends_with("<|im_end|>") && text.ends_with(&parts) && !parts.is_empty(), "{text}");
    }

    #[test]
    fn of_a_prompt_with_earlier_answers_the_completion_alone_is_learnt() {
        let line = r#"{"prompt": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "Bye"}], "completion": [{"role": "assistant", "content": "So long."}]}"#;
        let line = line.replace('\n', "");
        for options in [LONG, SftText { assistant_only: true, ..LONG }] {
            assert_eq!(learnt(&line, options).unwrap().1, "So long.<|im_end|>\n");
        }
        let both = SftText { assistant_only: true, completion_only: Some(false), ..LONG };
        assert_eq!(learnt(&line, both).unwrap().1, "Yes.<|im_end|>\n|So long.<|im_end|>\n");
    }

    #[test]
    fn ghost_attention_repeats_the_system_prompt_and_learns_the_last_answer() {
        let line = chat().replacen('[', r#"[{"role": "system", "content": "Rhyme."}, "#, 1);
        let (text, parts) = learnt(&line, SftText { ghost_attention: true, ..LONG }).unwrap();
        assert_eq!(parts, "So long.<|im_end|>\n");
        assert!(
            text.contains("system\nRhyme.<")
                && text.contains("Rhyme.\n\nHi<")
                && text.contains("Rhyme.\n\nBye<"),
            "{text}"
        );
    }
}
