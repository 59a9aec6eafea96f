//! Near-duplicate votes: clusters of votes whose texts nearly agree, of which a few are kept. Leaves finding clusters
//! fast to `minhash`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ballot::{Ballot, prompt_text, rewarded};
use super::config::{DedupRules, DedupText};
use super::{Reason, housekeeping, minhash, words};
use crate::store::Vote;

/// For each vote the first member of its cluster.
pub(crate) struct TextClusters(Vec<usize>);

impl TextClusters {
    /// Clusters the votes' texts: the prompt, and with [`DedupText::PromptAndAnswer`] the text the vote rewards or,
    /// failing that, is about.
    pub(crate) fn of(ballot: &Ballot<'_>, rules: &DedupRules, on: DedupText) -> Self {
        let sets: Vec<Vec<u64>> =
            ballot.votes.iter().map(|vote| words::shingles(&text(vote, on), rules.shingle)).collect();
        Self(minhash::clusters(&sets, rules.similarity))
    }

    /// The votes still in, oldest first, by cluster.
    pub(crate) fn members(&self, ballot: &Ballot<'_>) -> Vec<Vec<usize>> {
        let mut clusters: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        ballot.remaining().into_iter().for_each(|vote| clusters.entry(self.0[vote]).or_default().push(vote));
        clusters.into_values().collect()
    }
}

fn text(vote: &Vote, on: DedupText) -> String {
    let mut text = prompt_text(vote);
    if on == DedupText::PromptAndAnswer {
        let about = || vote.answer().map(|answer| answer.text.as_str());
        text.push_str(rewarded(vote).or_else(about).unwrap_or_default());
    }
    text
}

/// Leaves out the members of each cluster beyond the cap, the most talkative people's latest first to go. Returns how
/// many clusters had more.
pub(crate) fn thin_out(ballot: &mut Ballot<'_>, clusters: &TextClusters, keep: usize) -> usize {
    let mut num = 0;
    for cluster in clusters.members(ballot).into_iter().filter(|cluster| cluster.len() > keep) {
        num += 1;
        let beyond = ballot.in_turn(&cluster).split_off(keep);
        beyond.into_iter().for_each(|vote| ballot.exclude(vote, Reason::Duplicate));
    }
    num
}

/// Votes whose texts nearly agree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DuplicateCluster {
    /// The text of the first one.
    pub text: String,
    /// How many there are.
    pub votes: usize,
    /// Ids of those beyond the cap.
    pub beyond: Vec<String>,
}

/// Clusters of two or more usable votes, the largest first.
pub fn duplicates(votes: &[Vote], rules: &DedupRules) -> Vec<DuplicateCluster> {
    let mut ballot = Ballot::new(votes);
    housekeeping::unusable(&mut ballot);
    let clusters = TextClusters::of(&ballot, rules, rules.on).members(&ballot);
    let mut found: Vec<DuplicateCluster> = clusters
        .into_iter()
        .filter(|cluster| cluster.len() > 1)
        .map(|cluster| DuplicateCluster {
            text: text(&votes[cluster[0]], rules.on).trim_end().to_owned(),
            votes: cluster.len(),
            beyond: ballot
                .in_turn(&cluster)
                .iter()
                .skip(rules.keep)
                .map(|&vote| votes[vote].feedback.id.clone())
                .collect(),
        })
        .collect();
    found.sort_by_key(|cluster| std::cmp::Reverse(cluster.votes));
    found
}
