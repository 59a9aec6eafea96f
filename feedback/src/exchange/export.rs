//! Votes as rows of a format, and rows as files. Leaves which votes are wanted to the caller.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::keys;
use crate::argilla::ORIGINAL;
use crate::store::{CompletionRecord, FeedbackKind, Margin, Vote};
use crate::{
    FeedbackError, JsonlWriter, Message, PreferenceRecord, Record, SftData, SftRecord, Text, UnpairedRecord,
    write_parquet,
};

type Fields = Map<String, Value>;

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `prompt`, `chosen`, `rejected`: comparisons, and edits beside what was edited.
    Preference,
    /// `prompt`, `completion`, `label`: thumbs, and ratings other than 3.
    Unpaired,
    /// `messages`: edits.
    Messages,
    /// Argilla's records: everything that has an opinion.
    Argilla,
    /// Completion and vote as they are stored: everything.
    Records,
}

/// Rows of a format.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// In the order of the votes.
    pub rows: Vec<Fields>,
    /// Votes that the format has no row for.
    pub skipped: usize,
}

/// Makes rows of votes.
pub fn export(votes: &[Vote], format: Format) -> Exported {
    let row = |vote: &Vote| match format {
        Format::Preference => preference(vote).map(|record| record.to_fields()),
        Format::Unpaired => unpaired(vote).map(|record| record.to_fields()),
        Format::Messages => demonstration(vote).map(|record| record.to_fields()),
        Format::Argilla => argilla(vote),
        Format::Records => Some(fields(json!({"completion": *vote.completion, "feedback": vote.feedback}))),
    };
    let rows: Vec<Fields> = votes.iter().filter_map(row).collect();
    Exported { skipped: votes.len() - rows.len(), rows }
}

/// Writes rows to a new file; its ending says how: `.parquet`, `.json` (a list), anything else JSON lines.
///
/// # Errors
/// [`FeedbackError`].
pub fn write_rows(path: impl AsRef<Path>, rows: &[Fields]) -> Result<(), FeedbackError> {
    let path = path.as_ref();
    match path.extension().and_then(OsStr::to_str) {
        Some("parquet") => write_parquet(path, rows),
        Some("json") => {
            let fail =
                |error: std::io::Error| FeedbackError::file(path, format!("cannot write the file: {error}"));
            let text = serde_json::to_vec_pretty(rows).map_err(|error| fail(error.into()))?;
            std::fs::write(path, text).map_err(fail)
        }
        _ => {
            let mut writer = JsonlWriter::create(path)?;
            rows.iter().try_for_each(|row| writer.write(row))?;
            writer.sync()
        }
    }
}

/// How an imported row spelled its texts, and its other columns; what a served completion adds instead.
struct Spelling<'a> {
    metadata: &'a Fields,
    columns: Fields,
}

impl<'a> Spelling<'a> {
    fn of(completion: &'a CompletionRecord) -> Self {
        let metadata = &completion.metadata;
        let columns = match metadata.get(keys::COLUMNS) {
            Some(Value::Object(columns)) => columns.clone(),
            _ if completion.policy_version == crate::quality::IMPORTED => Fields::new(),
            _ => fields(json!({"completion_id": completion.id, "policy_version": completion.policy_version})),
        };
        Self { metadata, columns }
    }

    fn is(&self, key: &str) -> bool {
        self.metadata.get(key) == Some(&Value::Bool(true))
    }

    fn prompt(&self, messages: &[Message]) -> Text {
        match messages {
            [turn] if self.is(keys::PLAIN) => Text::Plain(turn.content.clone()),
            _ => Text::Chat(messages.to_vec()),
        }
    }

    fn answer(&self, text: &str) -> Text {
        if self.is(keys::PLAIN) {
            Text::Plain(text.to_owned())
        } else {
            Text::Chat(vec![Message::new("assistant", text)])
        }
    }
}

fn preference(vote: &Vote) -> Option<PreferenceRecord> {
    let completion = &vote.completion;
    let spelling = Spelling::of(completion);
    let (better, worse, graded) = match &vote.feedback.kind {
        FeedbackKind::Comparison { margin: Margin::Tie, .. } => return None,
        FeedbackKind::Comparison { margin, .. } => {
            let (better, worse) = vote.pair()?;
            let imported = completion.policy_version == crate::quality::IMPORTED;
            (
                (better.text.as_str(), better.reward),
                worse,
                (!imported).then(|| crate::snapshot::margin(*margin)),
            )
        }
        FeedbackKind::Edit { text } => ((text.as_str(), None), vote.answer()?, None),
        _ => return None,
    };
    (better.0 != worse.text).then(|| PreferenceRecord {
        prompt: spelling.prompt(&completion.messages),
        chosen: spelling.answer(better.0),
        rejected: spelling.answer(&worse.text),
        margin: graded.or_else(|| completion.metadata.get(keys::MARGIN)?.as_f64()),
        reward_chosen: better.1,
        reward_rejected: worse.reward,
        extra: spelling.columns,
    })
}

fn unpaired(vote: &Vote) -> Option<UnpairedRecord> {
    let label = match vote.feedback.kind {
        FeedbackKind::Thumb { up } => up,
        FeedbackKind::Rating { stars } if stars != 3 => stars > 3,
        _ => return None,
    };
    let spelling = Spelling::of(&vote.completion);
    Some(UnpairedRecord {
        prompt: spelling.prompt(&vote.completion.messages),
        completion: spelling.answer(&vote.answer()?.text),
        label,
        extra: spelling.columns,
    })
}

fn demonstration(vote: &Vote) -> Option<SftRecord> {
    let FeedbackKind::Edit { text } = &vote.feedback.kind else { return None };
    let messages = &vote.completion.messages;
    let spelling = Spelling::of(&vote.completion);
    let data = if spelling.is(keys::SPLIT) {
        SftData::PromptCompletion { prompt: spelling.prompt(messages), completion: spelling.answer(text) }
    } else {
        let answer = Message::new("assistant", text.as_str());
        SftData::Messages(messages.iter().cloned().chain([answer]).collect())
    };
    Some(SftRecord { data, extra: spelling.columns })
}

/// A record with one question and one person's answer to it.
fn argilla(vote: &Vote) -> Option<Fields> {
    let spelling = Spelling::of(&vote.completion);
    let mut shown = fields(json!({"prompt": spelling.prompt(&vote.completion.messages).to_value()}));
    let mut show = |name: &str, text: &str| shown.insert(name.to_owned(), spelling.answer(text).to_value());
    let (question, value) = match &vote.feedback.kind {
        FeedbackKind::Comparison { margin, .. } => {
            let (better, worse) = vote.pair()?;
            let first = better.index < worse.index;
            let (a, b) = if first { (better, worse) } else { (worse, better) };
            show("response_a", &a.text);
            show("response_b", &b.text);
            let better = if first { "response_a" } else { "response_b" };
            ("better", json!(if *margin == Margin::Tie { "tie" } else { better }))
        }
        FeedbackKind::Thumb { up } => {
            show("response", &vote.answer()?.text);
            ("good", json!(if *up { "yes" } else { "no" }))
        }
        FeedbackKind::Rating { stars } => {
            show("response", &vote.answer()?.text);
            ("rating", json!(stars))
        }
        FeedbackKind::Edit { text } => {
            show(ORIGINAL, &vote.answer()?.text);
            (crate::argilla::EDIT, json!(text))
        }
        FeedbackKind::Implicit(_) | FeedbackKind::Comment => return None,
    };
    let response = match &vote.feedback.user {
        Some(user) => json!({"value": value, "user_id": user}),
        None => json!({"value": value}),
    };
    let Spelling { columns, .. } = spelling;
    Some(fields(json!({
        "id": vote.feedback.id,
        "fields": shown,
        "metadata": columns,
        "suggestions": {},
        "responses": {question: [response]},
    })))
}

fn fields(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        _ => Fields::new(),
    }
}
