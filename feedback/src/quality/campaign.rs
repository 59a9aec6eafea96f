//! Votes that reward a text for its own sake: texts that repeat themselves, and one text rewarded whatever was asked
//! ("Excellent!" as the answer to everything). Leaves whether an answer is good to the reward model and the people.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Reason;
use super::ballot::{Ballot, rewarded};
use super::config::CampaignRules;
use super::report::{Anomaly, AnomalyKind};
use super::words::{distinct, normalised, words};

/// A word so many times in a row is no language.
const RUN: usize = 4;

/// Whether a text of three words or more mostly repeats itself.
pub fn is_degenerate(text: &str, min_distinct: f64) -> bool {
    let words: Vec<String> = words(text).collect();
    let same = |run: &[String]| run.iter().all(|word| *word == run[0]);
    let is_run = words.len() >= 3 && same(&words) || words.windows(RUN).any(same);
    is_run || words.len() > RUN && distinct(text, 2) < min_distinct
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
    let caught: Vec<usize> = ballot
        .remaining()
        .into_iter()
        .filter(|&vote| {
            rewarded(&ballot.votes[vote]).is_some_and(|text| is_degenerate(text, rules.min_distinct))
        })
        .collect();
    let mut who: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for vote in caught {
        ballot.exclude(vote, Reason::Degenerate);
        who.entry(ballot.annotator[vote]).or_default().push(vote);
    }
    let least = |votes: &[usize]| {
        let text = |&vote: &usize| rewarded(&ballot.votes[vote]).map(|text| distinct(text, 2));
        votes.iter().filter_map(text).fold(1.0, f64::min)
    };
    who.into_iter()
        .map(|(annotator, votes)| Anomaly {
            kind: AnomalyKind::RewardsRepetition,
            who: vec![ballot.annotators[annotator].clone()],
            what: "share of distinct word pairs in a rewarded text".to_owned(),
            measured: least(&votes),
            limit: rules.min_distinct,
            since: ballot.votes[votes[0]].feedback.created_at,
            votes: votes.len(),
        })
        .collect()
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
    for (text, (votes, prompts)) in by_rewarded(ballot, &ballot.remaining()) {
        if prompts.len() <= rules.max_prompts {
            continue;
        }
        // A polite refusal may be the right answer to many prompts: as many stay as may be.
        let mut kept: HashMap<u64, usize> = HashMap::new();
        let mut beyond = Vec::new();
        for vote in ballot.in_turn(&votes) {
            if kept.len() < rules.max_prompts || kept.contains_key(&ballot.prompt[vote]) {
                *kept.entry(ballot.prompt[vote]).or_default() += 1;
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
            limit: rules.max_prompts as f64,
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
            assert!(is_degenerate(text, 0.5), "{text}");
        }
        for text in [
            "Excellent",
            "No, no!",
            "Bye bye.",
            "The parcel with the lamp is in the van, and the parcel with the map is here.",
        ] {
            assert!(!is_degenerate(text, 0.5), "{text}");
        }
    }
}
