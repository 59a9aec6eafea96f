//! Training data made from trusted votes: pairs, thumbs, edits and prompts under one hash, with a list of what was left
//! out and why. Owns what becomes of a vote; leaves trust to `quality` and the folder to `folder`.

mod folder;
mod pairs;
mod prompts;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use folder::FILES;

use crate::quality::{Finding, QualityConfig, QualityReport};
use crate::store::{FeedbackKind, Vote};
use crate::{Message, PreferenceRecord, PromptRecord, SftData, SftRecord, Text, UnpairedRecord};
use pairs::Pairs;
pub(crate) use pairs::margin;
use prompts::Prompts;

/// Training data and where they come from. The same votes, report and settings give the same bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// SHA-256 of the content, in hexadecimal.
    pub hash: String,
    /// Better and worse answers, for DPO and reward models.
    pub pairs: Vec<PreferenceRecord>,
    /// Liked and disliked answers, for KTO.
    pub thumbs: Vec<UnpairedRecord>,
    /// Answers as people want them, for SFT.
    pub edits: Vec<SftRecord>,
    /// Every prompt once, for methods that sample.
    pub prompts: Vec<PromptRecord>,
    /// What else is known.
    pub about: About,
}

/// What a snapshot says of itself beside its records (`snapshot.json`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// SHA-256 of the content, in hexadecimal.
    pub hash: String,
    /// Pairs.
    pub pairs: usize,
    /// Thumbs.
    pub thumbs: usize,
    /// Edits.
    pub edits: usize,
    /// Prompts.
    pub prompts: usize,
    /// Votes that went in.
    pub votes: usize,
    /// Of which version's answers, and how many votes each.
    pub policy_versions: BTreeMap<String, usize>,
    /// Where pairs come from, and how many.
    pub pair_sources: BTreeMap<String, usize>,
    /// How many votes were left out, by reason.
    pub reasons: BTreeMap<String, usize>,
    /// Every vote that was left out.
    pub left_out: Vec<LeftOut>,
    /// What the checks of the data as a whole said.
    pub findings: Vec<Finding>,
}

/// A vote that did not go in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Id of the vote.
    pub id: String,
    /// Code of the reason: one of the quality rules', or `disagreement` where as many people said the opposite.
    pub reason: String,
}

impl Snapshot {
    /// Makes training data of the votes that the report includes.
    pub fn build(votes: &[Vote], report: &QualityReport, config: &QualityConfig) -> Self {
        let by_id: HashMap<&str, &Vote> =
            votes.iter().map(|vote| (vote.feedback.id.as_str(), vote)).collect();
        let included: Vec<&Vote> =
            report.included.iter().filter_map(|id| by_id.get(id.as_str()).copied()).collect();
        let biases: HashMap<&str, f64> =
            report.annotators.iter().map(|annotator| (annotator.name.as_str(), annotator.bias)).collect();
        let bias = |vote: &Vote| {
            vote.feedback.user.as_deref().and_then(|user| biases.get(user)).copied().unwrap_or_default()
        };
        let prompts = Prompts::of(&included, bias);
        let mut pairs = Pairs::default();
        included.iter().for_each(|vote| pairs.vote(vote));
        pairs.complete(&prompts, &included, &config.pairs);

        let mut left_out: Vec<LeftOut> = report
            .excluded
            .iter()
            .map(|out| LeftOut { id: out.id.clone(), reason: out.reason.code().to_owned() })
            .collect();
        let undecided = prompts.undecided().chain(pairs.undecided()).map(str::to_owned);
        left_out.extend(undecided.map(|id| LeftOut { id, reason: "disagreement".to_owned() }));
        let mut about =
            About { votes: included.len(), findings: report.findings.clone(), ..About::default() };
        for vote in &included {
            *about.policy_versions.entry(vote.completion.policy_version.clone()).or_default() += 1;
        }
        for out in &left_out {
            *about.reasons.entry(out.reason.clone()).or_default() += 1;
        }
        about.left_out = left_out;
        let (pairs, sources) = pairs.into_records();
        about.pair_sources = sources;
        let edits = included.iter().filter_map(|vote| edit(vote)).collect();
        let mut snapshot = Self {
            hash: String::new(),
            pairs,
            thumbs: prompts.thumbs(),
            edits,
            prompts: prompts.records(),
            about,
        };
        snapshot.seal();
        snapshot
    }

    fn seal(&mut self) {
        self.hash = self.content_hash();
        let (pairs, thumbs, edits, prompts) =
            (self.pairs.len(), self.thumbs.len(), self.edits.len(), self.prompts.len());
        self.about = About { hash: self.hash.clone(), pairs, thumbs, edits, prompts, ..self.about.clone() };
    }
}

/// A demonstration: the conversation, ended as the person wants it.
fn edit(vote: &Vote) -> Option<SftRecord> {
    let FeedbackKind::Edit { text } = &vote.feedback.kind else { return None };
    let mut turns = vote.completion.messages.clone();
    turns.push(Message::new("assistant", text.as_str()));
    let extra = origin("edit", std::slice::from_ref(&vote.feedback.id), &vote.completion.policy_version);
    Some(SftRecord { data: SftData::Messages(turns), extra })
}

/// Columns that say where a record comes from.
fn origin(source: &str, votes: &[String], policy_version: &str) -> Map<String, Value> {
    Map::from_iter([
        ("source".to_owned(), source.into()),
        ("votes".to_owned(), votes.to_vec().into()),
        ("policy_version".to_owned(), policy_version.into()),
    ])
}

/// An answer as the record formats hold it.
fn answer(text: &str) -> Text {
    Text::Chat(vec![Message::new("assistant", text)])
}

#[cfg(test)]
mod tests;
