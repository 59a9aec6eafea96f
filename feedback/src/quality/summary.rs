//! How many votes there are, of which kind, from whom and about which version. Judges nothing.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ANONYMOUS;
use super::stats::{Interval, proportion};
use crate::store::{FeedbackKind, Millis, Vote};

/// Counts of votes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// All votes.
    pub votes: usize,
    /// Those that a later vote replaced.
    pub superseded: usize,
    /// Those in quarantine.
    pub quarantined: usize,
    /// By kind, of those in force.
    pub kinds: BTreeMap<String, usize>,
    /// Share of thumbs that point up.
    pub up: Option<Interval>,
    /// People, by number of votes.
    pub people: BTreeMap<String, usize>,
    /// Versions, by number of votes.
    pub versions: BTreeMap<String, usize>,
    /// Answers that are gold questions.
    pub gold: usize,
    /// Time of the first vote.
    pub first: Option<Millis>,
    /// Time of the last vote.
    pub last: Option<Millis>,
}

impl Summary {
    /// Counts votes.
    pub fn of(votes: &[Vote]) -> Self {
        let mut summary = Self { votes: votes.len(), ..Self::default() };
        let (mut up, mut thumbs) = (0, 0);
        for vote in votes {
            let feedback = &vote.feedback;
            summary.first = Some(summary.first.map_or(feedback.created_at, |at| at.min(feedback.created_at)));
            summary.last = Some(summary.last.map_or(feedback.created_at, |at| at.max(feedback.created_at)));
            summary.quarantined += usize::from(feedback.quarantined.is_some());
            if feedback.superseded {
                summary.superseded += 1;
                continue;
            }
            summary.gold += usize::from(vote.completion.gold.is_some());
            *summary.kinds.entry(feedback.kind.name().to_owned()).or_default() += 1;
            let person = feedback.user.as_deref().unwrap_or(ANONYMOUS);
            *summary.people.entry(person.to_owned()).or_default() += 1;
            *summary.versions.entry(feedback.policy_version.clone()).or_default() += 1;
            if let FeedbackKind::Thumb { up: liked } = feedback.kind {
                thumbs += 1;
                up += usize::from(liked);
            }
        }
        summary.up = proportion(up, thumbs);
        summary
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 10;
        let Self { votes, superseded, quarantined, .. } = self;
        writeln!(f, "{votes} votes, {superseded} of them changed later, {quarantined} in quarantine")?;
        for (kind, count) in &self.kinds {
            writeln!(f, "  {kind:<12} {count:>7}")?;
        }
        if let Some(up) = self.up {
            writeln!(f, "thumbs up {up}")?;
        }
        if self.gold > 0 {
            writeln!(f, "{} votes on gold questions", self.gold)?;
        }
        for (what, counts) in [("people", &self.people), ("versions", &self.versions)] {
            writeln!(f, "{} {what}", counts.len())?;
            let mut most: Vec<_> = counts.iter().collect();
            most.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
            for (name, count) in most.iter().take(MOST) {
                writeln!(f, "  {name:<24} {count:>7}")?;
            }
            if most.len() > MOST {
                writeln!(f, "  … and {} more", most.len() - MOST)?;
            }
        }
        Ok(())
    }
}
