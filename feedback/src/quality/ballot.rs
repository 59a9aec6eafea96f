//! The votes as the rules work on them: whose each is, of what, what it says and which text it rewards, and which are
//! still in. Leaves every decision to the rules.

use std::collections::HashMap;

use super::Reason;
use super::words::{normalised, stable_hash};
use crate::store::{FeedbackKind, Margin, Vote};

/// The person all votes without a person are counted under.
pub const ANONYMOUS: &str = "(anonymous)";

/// The person all imported records that name none are counted under.
pub const IMPORTER: &str = "(imported)";

/// The version of records that were imported, not served: their times say nothing of how fast somebody voted.
pub const IMPORTED: &str = "imported";

/// The votes of one assessment.
pub(crate) struct Ballot<'a> {
    pub(crate) votes: &'a [Vote],
    /// Of each vote: index into `annotators`.
    pub(crate) annotator: Vec<usize>,
    /// Who voted, in the order of their first vote.
    pub(crate) annotators: Vec<String>,
    /// Of each vote: hash of the prompt's words.
    pub(crate) prompt: Vec<u64>,
    /// Of each vote: why it is out.
    pub(crate) out: Vec<Option<Reason>>,
}

impl<'a> Ballot<'a> {
    pub(crate) fn new(votes: &'a [Vote]) -> Self {
        let (mut annotators, mut indices) = (Vec::new(), HashMap::new());
        let mut index = |name: &str| {
            *indices.entry(name.to_owned()).or_insert_with(|| {
                annotators.push(name.to_owned());
                annotators.len() - 1
            })
        };
        let nobody = |vote: &Vote| if is_imported(vote) { IMPORTER } else { ANONYMOUS };
        let name = |vote: &'a Vote| vote.feedback.user.as_deref().unwrap_or_else(|| nobody(vote));
        let annotator = votes.iter().map(|vote| index(name(vote))).collect();
        let prompt =
            votes.iter().map(|vote| stable_hash(normalised(&prompt_text(vote)).as_bytes())).collect();
        Self { votes, annotator, annotators, prompt, out: vec![None; votes.len()] }
    }

    /// Leaves a vote out, unless it is out already.
    pub(crate) fn exclude(&mut self, vote: usize, reason: Reason) {
        self.out[vote].get_or_insert(reason);
    }

    /// Leaves out every vote still in for which `reason` gives one.
    pub(crate) fn exclude_each(&mut self, reason: impl Fn(&Vote) -> Option<Reason>) {
        for (out, vote) in self.out.iter_mut().zip(self.votes).filter(|(out, _)| out.is_none()) {
            *out = reason(vote);
        }
    }

    /// Indices of the votes still in, oldest first.
    pub(crate) fn remaining(&self) -> Vec<usize> {
        let mut votes: Vec<usize> = (0..self.votes.len()).filter(|&vote| self.out[vote].is_none()).collect();
        votes.sort_by_key(|&vote| {
            let feedback = &self.votes[vote].feedback;
            (feedback.created_at, &feedback.id)
        });
        votes
    }

    /// The votes still in, by annotator, oldest first.
    pub(crate) fn by_annotator(&self) -> Vec<Vec<usize>> {
        let mut of = vec![Vec::new(); self.annotators.len()];
        self.remaining().into_iter().for_each(|vote| of[self.annotator[vote]].push(vote));
        of
    }

    /// Orders votes so that every person's first comes before anybody's second: what a cap then cuts off is what the
    /// most talkative said.
    pub(crate) fn in_turn(&self, votes: &[usize]) -> Vec<usize> {
        let mut turns: HashMap<usize, usize> = HashMap::new();
        let mut ordered: Vec<(usize, usize)> = votes
            .iter()
            .map(|&vote| {
                let turn = turns.entry(self.annotator[vote]).or_default();
                *turn += 1;
                (*turn, vote)
            })
            .collect();
        ordered.sort_by_key(|(turn, _)| *turn);
        ordered.into_iter().map(|(_, vote)| vote).collect()
    }
}

/// Whether a record was imported.
pub(crate) fn is_imported(vote: &Vote) -> bool {
    vote.completion.policy_version == IMPORTED
}

/// The conversation that was answered.
pub(crate) fn prompt_text(vote: &Vote) -> String {
    vote.completion.messages.iter().map(|turn| format!("{}: {}\n", turn.role, turn.content)).collect()
}

/// The text that a vote rewards, if it rewards one.
pub(crate) fn rewarded(vote: &Vote) -> Option<&str> {
    match &vote.feedback.kind {
        FeedbackKind::Thumb { up: true } => Some(&vote.answer()?.text),
        FeedbackKind::Rating { stars: 4.. } => Some(&vote.answer()?.text),
        FeedbackKind::Comparison { margin: Margin::Tie, .. } => None,
        FeedbackKind::Comparison { .. } => Some(&vote.pair()?.0.text),
        FeedbackKind::Edit { text } => Some(text),
        _ => None,
    }
}
