//! Votes that cannot or need not count: without text, without an opinion, changed later, said twice, or about an answer
//! of a version long gone. Leaves suspicion to the other rules.

use std::collections::{BTreeMap, HashMap};

use super::Reason;
use super::ballot::Ballot;
use super::config::StalenessRules;
use super::words::{normalised, stable_hash};
use crate::store::{FeedbackKind, Margin, Vote};

/// Leaves out what says nothing.
pub(crate) fn unusable(ballot: &mut Ballot<'_>) {
    ballot.exclude_each(|vote| {
        let feedback = &vote.feedback;
        let has_opinion = match feedback.kind {
            FeedbackKind::Thumb { .. } | FeedbackKind::Edit { .. } => true,
            FeedbackKind::Rating { stars } => stars != 3,
            FeedbackKind::Comparison { margin, .. } => margin != Margin::Tie,
            FeedbackKind::Implicit(_) | FeedbackKind::Comment => false,
        };
        if feedback.superseded {
            Some(Reason::Superseded)
        } else if feedback.quarantined.is_some() {
            Some(Reason::Quarantined)
        } else if !has_opinion {
            Some(Reason::NoOpinion)
        } else if vote.completion.messages.iter().all(|turn| turn.content.is_empty()) {
            Some(Reason::NoText)
        } else {
            match answers(vote) {
                None => Some(Reason::NoAnswer),
                Some(texts) => texts.iter().any(|text| text.trim().is_empty()).then_some(Reason::NoText),
            }
        }
    });
}

/// Leaves out all but the latest of what one person said of the same answer to the same prompt: an answer that was
/// served twice is still one answer.
pub(crate) fn repeated(ballot: &mut Ballot<'_>) {
    let mut latest: HashMap<(usize, u64, u64, &'static str), usize> = HashMap::new();
    for vote in ballot.remaining() {
        let Some(texts) = answers(&ballot.votes[vote]) else { continue };
        let mut hashes: Vec<u64> =
            texts.iter().map(|text| stable_hash(normalised(text).as_bytes())).collect();
        hashes.sort_unstable();
        let texts = hashes.iter().fold(0, |all: u64, hash| stable_hash(&(all ^ hash).to_le_bytes()));
        let kind = ballot.votes[vote].feedback.kind.name();
        if let Some(earlier) = latest.insert((ballot.annotator[vote], ballot.prompt[vote], texts, kind), vote)
        {
            ballot.exclude(earlier, Reason::Repeated);
        }
    }
}

/// Leaves out votes on answers of versions outside the window; returns the version taken as the current one. The window
/// counts versions that have votes, so that rejected ones in between do not age the others. Imported records and versions
/// without a number, as those of plain adapters, have no age: only a window of 1 leaves them out.
pub(crate) fn stale(ballot: &mut Ballot<'_>, rules: &StalenessRules) -> Option<String> {
    let versions = ballot.votes.iter().map(|vote| vote.completion.policy_version.as_str());
    let numbered: BTreeMap<u64, &str> =
        versions.filter_map(|version| Some((number(version)?, version))).collect();
    let newest = || numbered.last_key_value().map(|(_, version)| (*version).to_owned());
    let current = rules.current.clone().or_else(newest)?;
    let oldest = number(&current).map(|number| {
        let earlier = numbered.range(..number).rev().map(|(earlier, _)| *earlier);
        earlier.take(rules.window as usize - 1).last().unwrap_or(number)
    });
    let is_stale = |version: &str| match (number(version), oldest) {
        _ if version == current => false,
        _ if rules.window == 1 => true,
        (Some(number), Some(oldest)) => number < oldest,
        _ => false,
    };
    ballot.exclude_each(|vote| is_stale(&vote.completion.policy_version).then_some(Reason::Stale));
    Some(current)
}

/// The number of a version: 3 of `demo@3`, 0 of `demo@base`.
fn number(version: &str) -> Option<u64> {
    match version.rsplit_once('@')?.1 {
        "base" => Some(0),
        number => number.parse().ok(),
    }
}

/// The texts a vote is about.
fn answers(vote: &Vote) -> Option<Vec<&str>> {
    match vote.feedback.kind {
        FeedbackKind::Comparison { .. } => vote.pair().map(|(a, b)| vec![a.text.as_str(), b.text.as_str()]),
        _ => vote.answer().map(|answer| vec![answer.text.as_str()]),
    }
}
