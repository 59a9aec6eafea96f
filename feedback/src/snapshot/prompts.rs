//! Votes gathered by prompt and answer: what most people say of each. Leaves pairs to `pairs`.

use std::collections::HashMap;

use serde_json::Map;

use super::{answer, origin};
use crate::quality::liked;
use crate::store::{FeedbackKind, Vote};
use crate::{Message, PromptRecord, Text, UnpairedRecord};

/// Prompts in the order of their first vote.
pub(super) struct Prompts {
    prompts: Vec<Prompt>,
}

/// A prompt and its judged answers, in the order of their first vote.
pub(super) struct Prompt {
    pub(super) messages: Vec<Message>,
    pub(super) answers: Vec<Judged>,
}

/// An answer and the thumbs and ratings it got.
pub(super) struct Judged {
    pub(super) text: String,
    pub(super) policy_version: String,
    /// Votes for it less votes against it.
    pub(super) balance: i64,
    pub(super) votes: Vec<String>,
}

impl Prompts {
    pub(super) fn of(votes: &[&Vote], bias: impl Fn(&Vote) -> f64) -> Self {
        let mut prompts: Vec<Prompt> = Vec::new();
        let mut indices: HashMap<&[Message], usize> = HashMap::new();
        for vote in votes {
            let messages = vote.completion.messages.as_slice();
            let index = *indices.entry(messages).or_insert_with(|| {
                prompts.push(Prompt { messages: messages.to_vec(), answers: Vec::new() });
                prompts.len() - 1
            });
            let says = match vote.feedback.kind {
                FeedbackKind::Thumb { up } => Some(up),
                FeedbackKind::Rating { stars } => liked(stars, bias(vote)),
                _ => None,
            };
            if let (Some(says), Some(candidate)) = (says, vote.answer()) {
                let judged = prompts[index].judged(&candidate.text, &vote.completion.policy_version);
                judged.balance += if says { 1 } else { -1 };
                judged.votes.push(vote.feedback.id.clone());
            }
        }
        Self { prompts }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Prompt> {
        self.prompts.iter()
    }

    /// Ids of the votes on answers that as many people like as dislike.
    pub(super) fn undecided(&self) -> impl Iterator<Item = &str> {
        let answers = self.prompts.iter().flat_map(|prompt| &prompt.answers);
        answers
            .filter(|judged| judged.balance == 0)
            .flat_map(|judged| judged.votes.iter().map(String::as_str))
    }

    /// One record for each decided answer.
    pub(super) fn thumbs(&self) -> Vec<UnpairedRecord> {
        let mut records = Vec::new();
        for prompt in &self.prompts {
            for judged in prompt.answers.iter().filter(|judged| judged.balance != 0) {
                records.push(UnpairedRecord {
                    prompt: Text::Chat(prompt.messages.clone()),
                    completion: answer(&judged.text),
                    label: judged.balance > 0,
                    extra: origin("thumbs", &judged.votes, &judged.policy_version),
                });
            }
        }
        records
    }

    pub(super) fn records(&self) -> Vec<PromptRecord> {
        let record =
            |prompt: &Prompt| PromptRecord { prompt: Text::Chat(prompt.messages.clone()), extra: Map::new() };
        self.prompts.iter().map(record).collect()
    }
}

impl Prompt {
    fn judged(&mut self, text: &str, policy_version: &str) -> &mut Judged {
        let index = self.answers.iter().position(|judged| judged.text == text).unwrap_or_else(|| {
            let (text, policy_version) = (text.to_owned(), policy_version.to_owned());
            self.answers.push(Judged { text, policy_version, balance: 0, votes: Vec::new() });
            self.answers.len() - 1
        });
        &mut self.answers[index]
    }
}
