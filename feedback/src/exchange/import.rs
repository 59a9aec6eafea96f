//! Rows of files as completions with votes. Leaves storing them to the store.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::keys;
use crate::quality::IMPORTED;
use crate::records::{Source, open};
use crate::store::{CandidateRecord, CompletionRecord, FeedbackKind, FeedbackRecord, Margin, Millis};
use crate::{
    FeedbackError, Line, Message, PreferenceRecord, Record, RecordError, SftData, SftRecord, Text,
    UnpairedRecord, argilla,
};

type Fields = Map<String, Value>;

/// Columns that name the person, most telling first.
const PEOPLE: [&str; 5] = ["user", "annotator", "annotator_id", "user_id", "labeler"];

/// How rows are read.
#[derive(Clone, Copy, Debug)]
pub struct ImportOptions {
    /// The rows are gold questions: what they say is the truth, to be compared with what people will say.
    pub gold: bool,
    /// The time of rows that name none (in a column `created_at`, in milliseconds).
    pub now: Millis,
}

/// A completion and what was said of it; a gold question has nobody's vote yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The answers.
    pub completion: CompletionRecord,
    /// The vote.
    pub feedback: Option<FeedbackRecord>,
}

/// Reads the votes of a file in any of the formats; which one a row is in, its columns say:
///
/// | columns | becomes |
/// |---|---|
/// | `chosen`, `rejected` | a comparison |
/// | `completion`, `label` | a thumb |
/// | `messages`, or `prompt` and `completion` | an edit |
/// | `fields`, `responses` (Argilla) | one vote for each person who answered |
/// | `completion` and `feedback` objects | itself: a stored record, exported as it was |
///
/// Ids are made of the rows, so that importing a file again adds nothing.
///
/// # Errors
/// [`FeedbackError::File`]; later [`FeedbackError::Line`] for a row that is none of these.
pub fn import(
    path: impl AsRef<Path>,
    options: ImportOptions,
) -> Result<impl Iterator<Item = Result<Entry, FeedbackError>>, FeedbackError> {
    let path = path.as_ref();
    Ok(Import {
        path: path.to_owned(),
        rows: open(path)?,
        options,
        seen: HashMap::new(),
        ready: Vec::new().into_iter(),
    })
}

struct Import {
    path: PathBuf,
    rows: Source,
    options: ImportOptions,
    /// How often each row came: equal rows are different votes.
    seen: HashMap<[u8; 32], u64>,
    ready: std::vec::IntoIter<Entry>,
}

impl Iterator for Import {
    type Item = Result<Entry, FeedbackError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.ready.next() {
                return Some(Ok(entry));
            }
            let Line { number, record } = match self.rows.next()? {
                Ok(line) => line,
                Err(error) => return Some(Err(error)),
            };
            match self.entries(record) {
                Ok(entries) => self.ready = entries.into_iter(),
                Err(RecordError(message)) => {
                    return Some(Err(FeedbackError::Line { path: self.path.clone(), line: number, message }));
                }
            }
        }
    }
}

impl Import {
    fn entries(&mut self, row: Fields) -> Result<Vec<Entry>, RecordError> {
        if argilla::is_record(&row) {
            let people = argilla::by_person(row)?;
            return people.into_iter().map(|(user, columns)| self.entry(columns, user)).collect();
        }
        if row.get("completion").is_some_and(Value::is_object) {
            return stored(row).map(|entry| vec![entry]);
        }
        let name = |column: &str| row.get(column).and_then(Value::as_str).map(str::to_owned);
        let user = PEOPLE.iter().find_map(|column| name(column));
        Ok(vec![self.entry(row, user)?])
    }

    fn entry(&mut self, row: Fields, user: Option<String>) -> Result<Entry, RecordError> {
        let id = self.id(&row, user.as_deref());
        let created_at = row.get("created_at").and_then(Value::as_i64).unwrap_or(self.options.now);
        let said = said(row)?;
        let mut metadata = said.metadata;
        if !said.columns.is_empty() {
            metadata.insert(keys::COLUMNS.to_owned(), Value::Object(said.columns));
        }
        let candidate = |(index, (text, reward)): (usize, (String, Option<f64>))| CandidateRecord {
            index: index as u32,
            choice: Some(index as u32),
            text,
            finish_reason: Some("stop".to_owned()),
            reward,
            ..CandidateRecord::default()
        };
        let completion = CompletionRecord {
            id: id.clone(),
            created_at,
            model: IMPORTED.to_owned(),
            policy_version: IMPORTED.to_owned(),
            messages: said.prompt,
            metadata,
            candidates: said.answers.into_iter().enumerate().map(candidate).collect(),
            gold: self.options.gold.then(|| said.kind.clone()),
            ..CompletionRecord::default()
        };
        let feedback = (!self.options.gold).then(|| FeedbackRecord {
            id: format!("{id}-vote"),
            created_at,
            completion_id: id,
            choice: 0,
            kind: said.kind,
            user,
            comment: None,
            tags: Map::new(),
            policy_version: IMPORTED.to_owned(),
            replaces: None,
            superseded: false,
            quarantined: None,
        });
        Ok(Entry { completion, feedback })
    }

    fn id(&mut self, row: &Fields, user: Option<&str>) -> String {
        let mut hash = Sha256::new();
        hash.update(json!([row, user, self.options.gold]).to_string());
        let digest: [u8; 32] = hash.finalize().into();
        let count = self.seen.entry(digest).or_default();
        *count += 1;
        let hex: String = digest[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        if *count == 1 { format!("import-{hex}") } else { format!("import-{hex}-{count}") }
    }
}

/// What a row says.
struct Said {
    prompt: Vec<Message>,
    /// Texts and rewards.
    answers: Vec<(String, Option<f64>)>,
    kind: FeedbackKind,
    metadata: Fields,
    columns: Fields,
}

fn said(row: Fields) -> Result<Said, RecordError> {
    if row.contains_key("chosen") && row.contains_key("rejected") {
        let record = PreferenceRecord::from_fields(row)?;
        let mut metadata = marks(&record.prompt);
        if let Some(margin) = record.margin {
            metadata.insert(keys::MARGIN.to_owned(), margin.into());
        }
        return Ok(Said {
            answers: vec![
                (only_turn("chosen", record.chosen)?, record.reward_chosen),
                (only_turn("rejected", record.rejected)?, record.reward_rejected),
            ],
            prompt: record.prompt.to_messages("user"),
            kind: FeedbackKind::Comparison { better: 0, worse: 1, margin: Margin::Better },
            metadata,
            columns: record.extra,
        });
    }
    if row.contains_key("label") {
        let record = UnpairedRecord::from_fields(row)?;
        return Ok(Said {
            metadata: marks(&record.prompt),
            answers: vec![(only_turn("completion", record.completion)?, None)],
            prompt: record.prompt.to_messages("user"),
            kind: FeedbackKind::Thumb { up: record.label },
            columns: record.extra,
        });
    }
    let mut record = SftRecord::from_fields(row)?;
    let (prompt, text, metadata) = match record.data {
        SftData::Messages(mut turns) => {
            let last = turns.pop().filter(|turn| turn.role == "assistant" && !turns.is_empty());
            let last = last.ok_or_else(|| {
                RecordError::new(
                    "`messages` must end with an answer of the assistant to what comes before it",
                )
            })?;
            (turns, last.content, Fields::new())
        }
        SftData::PromptCompletion { prompt, completion } => {
            let mut metadata = marks(&prompt);
            if !record.extra.contains_key(argilla::ORIGINAL) || !metadata.is_empty() {
                metadata.insert(keys::SPLIT.to_owned(), true.into());
            }
            (prompt.to_messages("user"), only_turn("completion", completion)?, metadata)
        }
        SftData::Text(_) => {
            let message = "`text` lines do not say which part is the prompt; give `messages`, or `prompt` and `completion`";
            return Err(RecordError::new(message));
        }
    };
    // What was edited, where the row knows it; else the edit stands for itself.
    let original = match record.extra.shift_remove(argilla::ORIGINAL) {
        Some(Value::String(original)) => original,
        _ => text.clone(),
    };
    Ok(Said {
        prompt,
        answers: vec![(original, None)],
        kind: FeedbackKind::Edit { text },
        metadata,
        columns: record.extra,
    })
}

fn marks(prompt: &Text) -> Fields {
    let plain = matches!(prompt, Text::Plain(_));
    plain.then(|| (keys::PLAIN.to_owned(), true.into())).into_iter().collect()
}

/// The text of an answer, which may be one turn of the assistant's.
fn only_turn(name: &str, answer: Text) -> Result<String, RecordError> {
    match answer {
        Text::Plain(text) => Ok(text),
        Text::Chat(turns) => match <[Message; 1]>::try_from(turns) {
            Ok([turn]) if turn.role == "assistant" => Ok(turn.content),
            _ => Err(RecordError::new(format!("`{name}` must be one turn of the assistant's"))),
        },
    }
}

/// A whole record, as [`super::Format::Records`] writes it.
fn stored(mut row: Fields) -> Result<Entry, RecordError> {
    let mut take = |name: &str| row.shift_remove(name).filter(|value| !value.is_null());
    let wrong = |name: &str, error: serde_json::Error| {
        RecordError::new(format!("`{name}` is no stored record: {error}"))
    };
    let completion = take("completion").unwrap_or_default();
    let feedback = take("feedback").map(serde_json::from_value);
    Ok(Entry {
        completion: serde_json::from_value(completion).map_err(|error| wrong("completion", error))?,
        feedback: feedback.transpose().map_err(|error| wrong("feedback", error))?,
    })
}
