//! Votes that reward a text for its own sake: texts that repeat themselves, and one text rewarded whatever was asked
//! ("Excellent!" as the answer to everything). Leaves whether an answer is good to the reward model and the people.

use std::collections::{BTreeMap, HashSet};

use super::Reason;
use super::ballot::{Ballot, rewarded};
use super::config::CampaignRules;
use super::report::{Anomaly, AnomalyKind};
use super::words::{distinct, normalised, words};

/// A word more often than this in a row is no language; a text of three words may not be one word.
const MAX_RUN: usize = 3;

/// How a text repeats itself more than language does: what was measured, how much it is and the limit.
pub fn repetition(text: &str, min_distinct: f64) -> Option<(&'static str, f64, f64)> {
    let words: Vec<String> = words(text).collect();
    let runs = words.chunk_by(|a, b| a == b).map(<[String]>::len);
    let longest = runs.max().unwrap_or(0);
    if longest > MAX_RUN || longest == MAX_RUN && words.len() == MAX_RUN {
        return Some(("times one word follows itself", longest as f64, MAX_RUN as f64));
    }
    let share = distinct(text, 2);
    let degenerate = words.len() > MAX_RUN + 1 && share < min_distinct;
    degenerate.then_some(("share of distinct word pairs", share, min_distinct))
}

/// Leaves out votes that reward degenerate texts, and all rewards of one text that somebody gives, or that all together
/// give, whatever the prompt.
pub(crate) fn find(ballot: &mut Ballot<'_>, rules: &CampaignRules) -> Vec<Anomaly> {
    let mut anomalies = degenerate(ballot, rules);
    anomalies.extend(by_person(ballot, rules));
    anomalies.extend(by_text(ballot, rules));
    anomalies
}

fn degenerate(ballot: &mut Ballot<'_>, rules: &CampaignRules) -> Vec<Anomaly> {
    let mut anomalies: BTreeMap<usize, Anomaly> = BTreeMap::new();
    for vote in ballot.remaining() {
        let text = rewarded(&ballot.votes[vote]);
        let Some((what, measured, limit)) = text.and_then(|text| repetition(text, rules.min_distinct)) else {
            continue;
        };
        ballot.exclude(vote, Reason::Degenerate);
        let annotator = ballot.annotator[vote];
        let anomaly = anomalies.entry(annotator).or_insert_with(|| Anomaly {
            kind: AnomalyKind::RewardsRepetition,
            who: vec![ballot.annotators[annotator].clone()],
            what: format!("{what} in a rewarded text"),
            measured,
            limit,
            since: ballot.votes[vote].feedback.created_at,
            votes: 0,
        });
        anomaly.votes += 1;
    }
    anomalies.into_values().collect()
}

/// The rewards of each text, as (votes, different prompts).
fn by_rewarded(ballot: &Ballot<'_>, votes: &[usize]) -> BTreeMap<String, (Vec<usize>, HashSet<u64>)> {
    let mut texts: BTreeMap<String, (Vec<usize>, HashSet<u64>)> = BTreeMap::new();
    for &vote in votes {
        if let Some(text) = rewarded(&ballot.votes[vote]) {
            let (of, prompts) = texts.entry(normalised(text)).or_default();
            of.push(vote);
            prompts.insert(ballot.prompt[vote]);
        }
    }
    texts
}

fn by_person(ballot: &mut Ballot<'_>, rules: &CampaignRules) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (annotator, votes) in ballot.by_annotator().into_iter().enumerate() {
        for (text, (caught, prompts)) in by_rewarded(ballot, &votes) {
            if prompts.len() <= rules.max_prompts_per_person || 2 * caught.len() <= votes.len() {
                continue;
            }
            anomalies.push(Anomaly {
                kind: AnomalyKind::Campaign,
                who: vec![ballot.annotators[annotator].clone()],
                what: format!("prompts for which `{}` is rewarded", shown(&text)),
                measured: prompts.len() as f64,
                limit: rules.max_prompts_per_person as f64,
                since: ballot.votes[caught[0]].feedback.created_at,
                votes: caught.len(),
            });
            caught.into_iter().for_each(|vote| ballot.exclude(vote, Reason::Campaign));
        }
    }
    anomalies
}

fn by_text(ballot: &mut Ballot<'_>, rules: &CampaignRules) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let rewards = by_rewarded(ballot, &ballot.remaining());
    let all: HashSet<u64> = rewards.values().flat_map(|(_, prompts)| prompts).copied().collect();
    let allowed = rules.max_prompts.max((rules.max_share * all.len() as f64) as usize);
    for (text, (votes, prompts)) in rewards {
        if prompts.len() <= allowed {
            continue;
        }
        // A polite refusal may be the right answer to many prompts: as many stay as may be.
        let mut kept: HashSet<u64> = HashSet::new();
        let mut beyond = Vec::new();
        for vote in ballot.in_turn(&votes) {
            if kept.len() < allowed || kept.contains(&ballot.prompt[vote]) {
                kept.insert(ballot.prompt[vote]);
            } else {
                beyond.push(vote);
            }
        }
        let mut who: Vec<String> =
            beyond.iter().map(|&vote| ballot.annotators[ballot.annotator[vote]].clone()).collect();
        who.sort();
        who.dedup();
        anomalies.push(Anomaly {
            kind: AnomalyKind::SameAnswer,
            who,
            what: format!("prompts for which `{}` is rewarded", shown(&text)),
            measured: prompts.len() as f64,
            limit: allowed as f64,
            since: ballot.votes[votes[0]].feedback.created_at,
            votes: beyond.len(),
        });
        beyond.into_iter().for_each(|vote| ballot.exclude(vote, Reason::SameAnswer));
    }
    anomalies
}

/// The beginning of a text, for a report.
fn shown(text: &str) -> String {
    const MOST: usize = 40;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_is_degenerate_and_language_is_not() {
        for text in [
            "Excellent! Excellent! Excellent!",
            "Sure. Excellent excellent excellent excellent, and goodbye for now my friend.",
            "very good very good very good very good",
        ] {
            assert!(repetition(text, 0.5).is_some(), "{text}");
        }
        for text in [
            "Excellent",
            "No, no!",
            "Bye bye.",
            "The parcel with the lamp is in the van, and the parcel with the map is here.",
        ] {
            assert_eq!(repetition(text, 0.5), None, "{text}");
        }
    }
}
