//! What people got from each arm of a probation, from the store's records as they come in. Leaves the comparison to `arms`.

use std::collections::HashMap;

use rectify_feedback::store::{CompletionRecord, FeedbackKind, Millis, Store, Vote, VoteFilter, now};
use regex::RegexSet;

use super::ShadowError;
use super::arms::ArmStats;

/// Records of one page.
const PAGE: u32 = 500;
/// Records are committed in groups, so the newest may still be on their way.
const SETTLED: Millis = 2000;
/// Votes of one person that count: nobody decides alone.
const MAX_PER_PERSON: u32 = 10;

/// The arms of one probation, as far as they have been read.
#[derive(Debug, Default)]
pub(super) struct Observed {
    run: String,
    active: ArmStats,
    canary: ArmStats,
    completions: (Millis, String),
    votes: (Millis, String),
    per_person: HashMap<String, u32>,
}

impl Observed {
    /// An observation of `run`, whose probation began at `since`.
    pub(super) fn new(run: &str, since: Millis) -> Self {
        let from = (since, String::new());
        Self { run: run.to_owned(), completions: from.clone(), votes: from, ..Self::default() }
    }

    pub(super) fn is_of(&self, run: &str) -> bool {
        self.run == run
    }

    pub(super) fn arms(&self) -> (ArmStats, ArmStats) {
        (self.active, self.canary)
    }

    fn arm(&mut self, arm: Option<&str>) -> Option<&mut ArmStats> {
        match arm? {
            "active" => Some(&mut self.active),
            "canary" => Some(&mut self.canary),
            _ => None,
        }
    }

    /// Reads what has come in since the last time.
    pub(super) async fn read(&mut self, store: &Store, refusals: &RegexSet) -> Result<(), ShadowError> {
        let until = now() - SETTLED;
        loop {
            let (time, id) = self.completions.clone();
            let page = store.completions(Some((time, &id)), PAGE).await?;
            let settled: Vec<CompletionRecord> =
                page.into_iter().take_while(|record| record.created_at < until).collect();
            for record in &settled {
                self.completion(record, refusals);
                self.completions = (record.created_at, record.id.clone());
            }
            if settled.len() < PAGE as usize {
                break;
            }
        }
        loop {
            let after = Some(self.votes.clone());
            let filter = VoteFilter {
                after,
                until: Some(until),
                trusted: true,
                limit: Some(PAGE),
                ..VoteFilter::default()
            };
            let page = store.votes(&filter).await?;
            for vote in &page {
                self.vote(vote);
                self.votes = (vote.feedback.created_at, vote.feedback.id.clone());
            }
            if page.len() < PAGE as usize {
                return Ok(());
            }
        }
    }

    fn completion(&mut self, record: &CompletionRecord, refusals: &RegexSet) {
        let Some(arm) = self.arm(record.arm.as_deref()) else { return };
        for candidate in record.candidates.iter().filter(|candidate| candidate.choice.is_some()) {
            arm.length.add(f64::from(candidate.tokens));
            if let Some(reward) = candidate.reward {
                arm.reward.add(reward);
            }
            if !candidate.text.is_empty() {
                arm.refusal.add(f64::from(u8::from(refusals.is_match(&candidate.text))));
            }
        }
    }

    fn vote(&mut self, vote: &Vote) {
        let is_bad = match vote.feedback.kind {
            FeedbackKind::Thumb { up } => !up,
            FeedbackKind::Rating { stars: 3 } => return,
            FeedbackKind::Rating { stars } => stars < 3,
            _ => return,
        };
        if let Some(person) = &vote.feedback.user {
            let count = self.per_person.entry(person.clone()).or_default();
            *count += 1;
            if *count > MAX_PER_PERSON {
                return;
            }
        }
        if let Some(arm) = self.arm(vote.completion.arm.as_deref()) {
            arm.thumbs_down.add(f64::from(u8::from(is_bad)));
        }
    }
}
