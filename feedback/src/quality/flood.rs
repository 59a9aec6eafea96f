//! Too much in too short a time: one person's floods, near-identical texts from whomever (what was done to Tay in 2016),
//! and the caps per hour and in all. Leaves what the votes say to the other rules.

use super::Reason;
use super::ballot::{Ballot, is_imported};
use super::config::{CapRules, FloodRules};
use super::dedup::TextClusters;
use super::report::{Anomaly, AnomalyKind};

const HOUR: i64 = 3_600_000;

/// Leaves out every vote of a person in a window with more than the allowed number.
pub(crate) fn people(ballot: &mut Ballot<'_>, rules: &FloodRules) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (annotator, votes) in ballot.by_annotator().into_iter().enumerate() {
        let votes: Vec<usize> = votes.into_iter().filter(|&vote| !is_imported(&ballot.votes[vote])).collect();
        let flood = crowded(ballot, &votes, i64::from(rules.seconds) * 1000, rules.votes);
        if flood.members.is_empty() {
            continue;
        }
        anomalies.push(Anomaly {
            kind: AnomalyKind::PersonFlood,
            who: vec![ballot.annotators[annotator].clone()],
            what: format!("votes within {} s", rules.seconds),
            measured: flood.most as f64,
            limit: rules.votes as f64,
            votes: flood.members.len(),
            since: flood.since,
        });
        flood.members.iter().for_each(|&vote| ballot.exclude(vote, Reason::Flood));
    }
    anomalies
}

/// Leaves out near-identical texts that come too thick, but for the first few, each person's first before anybody's
/// second.
pub(crate) fn texts(
    ballot: &mut Ballot<'_>,
    rules: &FloodRules,
    clusters: &TextClusters,
    keep: usize,
) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for cluster in clusters.members(ballot) {
        let served: Vec<usize> =
            cluster.into_iter().filter(|&vote| !is_imported(&ballot.votes[vote])).collect();
        let flood = crowded(ballot, &served, i64::from(rules.text_seconds) * 1000, rules.texts);
        if flood.members.is_empty() {
            continue;
        }
        let mut who: Vec<String> =
            flood.members.iter().map(|&vote| ballot.annotators[ballot.annotator[vote]].clone()).collect();
        who.sort();
        who.dedup();
        anomalies.push(Anomaly {
            kind: AnomalyKind::TextFlood,
            who,
            what: format!("near-identical texts within {} s", rules.text_seconds),
            measured: flood.most as f64,
            limit: rules.texts as f64,
            votes: flood.members.len(),
            since: flood.since,
        });
        let beyond = ballot.in_turn(&flood.members).split_off(keep.min(flood.members.len()));
        beyond.into_iter().for_each(|vote| ballot.exclude(vote, Reason::TextFlood));
    }
    anomalies
}

/// Leaves out what a person says beyond the caps, the latest first to go.
pub(crate) fn caps(ballot: &mut Ballot<'_>, rules: &CapRules) {
    for votes in ballot.by_annotator() {
        let mut kept: Vec<i64> = Vec::new();
        for vote in votes.into_iter().filter(|&vote| !is_imported(&ballot.votes[vote])) {
            let now = ballot.votes[vote].feedback.created_at;
            let in_hour = kept.len() - kept.partition_point(|&at| at <= now - HOUR);
            if in_hour >= rules.per_hour {
                ballot.exclude(vote, Reason::HourCap);
            } else if kept.len() >= rules.per_person {
                ballot.exclude(vote, Reason::PersonCap);
            } else {
                kept.push(now);
            }
        }
    }
}

/// Votes in windows with more than the allowed number.
#[derive(Default)]
struct Crowded {
    members: Vec<usize>,
    /// Votes of the fullest window.
    most: usize,
    /// Time of the first member.
    since: i64,
}

/// `votes` are in the order of their times.
fn crowded(ballot: &Ballot<'_>, votes: &[usize], window: i64, allowed: usize) -> Crowded {
    let at = |index: usize| ballot.votes[votes[index]].feedback.created_at;
    let (mut crowded, mut start, mut marked) = (Crowded::default(), 0, 0);
    for end in 0..votes.len() {
        while at(end) - at(start) >= window {
            start += 1;
        }
        let count = end + 1 - start;
        if count > allowed {
            crowded.most = crowded.most.max(count);
            if crowded.members.is_empty() {
                crowded.since = at(start);
            }
            crowded.members.extend_from_slice(&votes[start.max(marked)..=end]);
            marked = end + 1;
        }
    }
    crowded
}
