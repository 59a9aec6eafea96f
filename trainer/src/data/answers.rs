//! Prompts with one or several answers in tokens, for the methods that learn from preferences. Leaves batches to
//! `order`, what is learnt from them to the methods.

use std::path::Path;

use rectify_feedback::{
    PreferenceRecord, RankedRecord, Record, Text, UnpairedLine, UnpairedRecord, read_records,
};
use serde_json::{Map, Value};

use super::splits::Fingerprint;
use super::text::TextEncoder;
use crate::error::TrainError;

/// A prompt, answers to it, and what is known of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers<L> {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// What may follow it; none is empty.
    pub answers: Vec<Vec<u32>>,
    /// What is known of the answers.
    pub label: L,
}

impl<L> Answers<L> {
    /// Tokens of all texts, the prompt with each answer.
    pub fn num_tokens(&self) -> usize {
        self.answers.iter().map(|answer| self.prompt.len() + answer.len()).sum()
    }

    /// Tokens of answer `index` that have something before them.
    pub fn num_learnt(&self, index: usize) -> usize {
        self.answers[index].len() - usize::from(self.prompt.is_empty())
    }

    /// Adds the tokens to a fingerprint.
    pub fn add_to(&self, fingerprint: &mut Fingerprint) {
        fingerprint.ids(&self.prompt);
        self.answers.iter().for_each(|answer| fingerprint.ids(answer));
    }
}

/// A prompt with answers in words.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswersText<L> {
    /// The prompt.
    pub prompt: Text,
    /// What may follow it.
    pub answers: Vec<Text>,
    /// What is known of the answers.
    pub label: L,
    /// The line's other columns, of which the template reads some.
    pub columns: Map<String, Value>,
}

/// A line of a file that gives prompts with answers.
pub trait AnswersLine: Record {
    /// What is known of the answers.
    type Label;

    /// What people call answer `index` of such a line.
    fn name(label: &Self::Label, index: usize) -> &'static str;

    /// What the line gives.
    fn into_texts(self) -> Vec<AnswersText<Self::Label>>;
}

impl AnswersLine for PreferenceRecord {
    /// The first answer is the chosen one.
    type Label = ();

    fn name((): &(), index: usize) -> &'static str {
        if index == 0 { "chosen" } else { "rejected" }
    }

    fn into_texts(self) -> Vec<AnswersText<()>> {
        let answers = vec![self.chosen, self.rejected];
        vec![AnswersText { prompt: self.prompt, answers, label: (), columns: self.extra }]
    }
}

impl AnswersLine for UnpairedLine {
    /// Liked.
    type Label = bool;

    fn name(label: &bool, _: usize) -> &'static str {
        if *label { "liked" } else { "disliked" }
    }

    fn into_texts(self) -> Vec<AnswersText<bool>> {
        let text = |UnpairedRecord { prompt, completion, label, extra }| AnswersText {
            prompt,
            answers: vec![completion],
            label,
            columns: extra,
        };
        self.into_records().into_iter().map(text).collect()
    }
}

impl AnswersLine for RankedRecord {
    /// Rewards.
    type Label = Vec<f64>;

    fn name(_: &Vec<f64>, _: usize) -> &'static str {
        "ranked"
    }

    fn into_texts(self) -> Vec<AnswersText<Vec<f64>>> {
        let (answers, label) = self.candidates.into_iter().unzip();
        vec![AnswersText { prompt: self.prompt, answers, label, columns: self.extra }]
    }
}

/// What was met while reading, for a warning each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswersNotes {
    /// Left out: an answer is empty.
    pub num_empty: usize,
    /// Left out: all answers are the same, though there are several.
    pub num_same: usize,
    /// Left out: the prompt alone fills `max_length`.
    pub num_filled: usize,
    /// An answer was cut to `max_length`.
    pub num_cut: usize,
    /// The prompt ends in other tokens once an answer follows.
    pub num_changed: usize,
}

impl AnswersNotes {
    /// A sentence for each kind that was met.
    pub fn sentences(&self) -> Vec<String> {
        let Self { num_empty, num_same, num_filled, num_cut, num_changed } = *self;
        [
            (num_empty, "lines have an empty answer and are left out"),
            (num_same, "lines have the same answer twice, from which nothing can be learnt, and are left out"),
            (num_filled, "lines have a prompt that alone fills max_length and are left out"),
            (num_cut, "lines are longer than max_length; the ends of their answers are cut off"),
            (
                num_changed,
                "prompts end in other tokens once their answer follows: end them on a token's border, or use a \
                 template that writes them alike in both cases",
            ),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, sentence)| format!("{count} {sentence}"))
        .collect()
    }
}

/// Prompts and answers of a file, in its order, each text of at most `max_length` tokens.
///
/// # Errors
/// The first line that is none, or what the template refuses, with its file and number.
pub fn read_answers<R: AnswersLine>(
    path: &Path,
    encoder: &TextEncoder,
    max_length: usize,
    notes: &mut AnswersNotes,
) -> Result<Vec<Answers<R::Label>>, TrainError> {
    let mut examples = Vec::new();
    for line in read_records::<R>(path)? {
        let line = line?;
        for text in line.record.into_texts() {
            let example = encode(encoder, text, max_length, notes);
            examples.extend(example.map_err(|reason| TrainError::data(path, line.number, reason))?);
        }
    }
    Ok(examples)
}

/// `None` if nothing can be learnt.
fn encode<L>(
    encoder: &TextEncoder,
    text: AnswersText<L>,
    max_length: usize,
    notes: &mut AnswersNotes,
) -> Result<Option<Answers<L>>, String> {
    if text.answers.iter().any(says_nothing) {
        notes.num_empty += 1;
        return Ok(None);
    }
    let answers: Vec<&Text> = text.answers.iter().collect();
    let prompted = encoder.encode_prompted(&text.prompt, &answers, &text.columns)?;
    let (prompt, mut answers) = (prompted.prompt, prompted.answers);
    if answers.len() > 1 && answers.windows(2).all(|pair| pair[0] == pair[1]) {
        notes.num_same += 1;
        return Ok(None);
    }
    if prompt.len() >= max_length {
        notes.num_filled += 1;
        return Ok(None);
    }
    let room = max_length - prompt.len();
    notes.num_cut += usize::from(answers.iter().any(|answer| answer.len() > room));
    notes.num_changed += usize::from(prompted.num_changed > 0);
    answers.iter_mut().for_each(|answer| answer.truncate(room));
    if answers.iter().any(|answer| prompt.len() + answer.len() < 2) {
        // One token, with nothing before it.
        notes.num_empty += 1;
        return Ok(None);
    }
    Ok(Some(Answers { prompt, answers, label: text.label }))
}

/// Without a word, whatever a template would write around it.
fn says_nothing(answer: &Text) -> bool {
    match answer {
        Text::Plain(text) => text.is_empty(),
        Text::Chat(turns) => turns.iter().all(|turn| turn.content.is_empty()),
    }
}
