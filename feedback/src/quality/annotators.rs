//! Whose votes are trusted: each annotator beside the gold answers, beside peers and beside everything known, and what
//! is too little. Leaves groups of annotators to `groups`.

use serde::{Deserialize, Serialize};

use super::Reason;
use super::accuracy::{Accuracies, estimate};
use super::ballot::Ballot;
use super::config::AnnotatorRules;
use super::opinions::Opinions;
use super::stats::{Agreement, Interval, agreement};
use crate::store::{FeedbackKind, Vote};

/// Ratings that stand for what is not known of an annotator: with few of their own, the bias is drawn to 0.
const SHRINK: f64 = 4.0;

/// One annotator, measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Annotator {
    /// Who.
    pub name: String,
    /// Votes with an opinion.
    pub votes: usize,
    /// Votes that were changed later.
    pub changed: usize,
    /// Stars given above what others give the same answers; taken off each rating.
    pub bias: f64,
    /// Agreement with gold answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gold: Option<Agreement>,
    /// Agreement with what most others say of the same answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<Agreement>,
    /// How often they are right, by gold answers, everybody else and the reward model together.
    pub accuracy: Interval,
    /// How many sure answers that is known from.
    pub evidence: f64,
    /// Not trusted, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
}

/// Why an annotator is not trusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The rule.
    pub reason: Reason,
    /// What the rule looks at: the upper end of an interval.
    pub measured: f64,
    /// Below this, the annotator is not trusted.
    pub limit: f64,
    /// In words: which measure it is.
    pub what: String,
}

/// What calibration found.
pub(crate) struct Calibration {
    pub(crate) annotators: Vec<Annotator>,
    pub(crate) opinions: Opinions,
    pub(crate) model: Accuracies,
}

/// Measures everybody who still has a vote in.
pub(crate) fn calibrate(ballot: &Ballot<'_>, rules: &AnnotatorRules) -> Calibration {
    let num = ballot.annotators.len();
    let remaining = ballot.remaining();
    let biases = biases(ballot, &remaining);
    let opinions = Opinions::of(ballot, &remaining, &biases);
    let model = estimate(&opinions.items, &opinions.answers, num);
    let (mut votes, mut changed) = (vec![0; num], vec![0; num]);
    opinions.answers.iter().for_each(|answer| votes[answer.annotator] += 1);
    for (vote, &annotator) in ballot.votes.iter().zip(&ballot.annotator) {
        changed[annotator] += usize::from(vote.feedback.superseded);
    }
    let both = opinions.against_gold(num).into_iter().zip(opinions.against_peers(num));
    let annotators = both.enumerate().map(|(index, (gold, peers))| {
        let measured = &model.annotators[index];
        let (gold, peers) = (agreement(gold), agreement(peers));
        Annotator {
            name: ballot.annotators[index].clone(),
            votes: votes[index],
            changed: changed[index],
            bias: biases[index],
            quarantine: judge(gold.as_ref(), measured.interval, rules),
            gold,
            peers,
            accuracy: measured.interval,
            evidence: measured.evidence,
        }
    });
    Calibration { annotators: annotators.collect(), opinions, model }
}

fn judge(gold: Option<&Agreement>, accuracy: Interval, rules: &AnnotatorRules) -> Option<Quarantine> {
    let below = |reason: Reason, measured: f64, limit: f64, what: &str| {
        (measured < limit).then(|| Quarantine { reason, measured, limit, what: what.to_owned() })
    };
    let gold = gold.filter(|gold| gold.num >= rules.min_gold);
    let share = gold.and_then(|gold| {
        below(Reason::FailedGold, gold.observed.high, rules.min_gold_accuracy, "gold answers given right")
    });
    let kappa = || {
        let kappa = gold?.kappa?;
        below(Reason::FailedGold, kappa.high, rules.min_kappa, "Cohen's κ with the gold answers")
    };
    let against = || {
        let what = "votes that are right by everybody else and the reward";
        below(Reason::Unreliable, accuracy.high, rules.min_accuracy, what)
    };
    share.or_else(kappa).or_else(against)
}

/// Stars each annotator gives above what others give the same answer, or, where nobody else rated it, above the mean of
/// all: `bias = Σ (rating − expected) / (n + k)`.
fn biases(ballot: &Ballot<'_>, votes: &[usize]) -> Vec<f64> {
    let stars = |vote: &Vote| match vote.feedback.kind {
        FeedbackKind::Rating { stars } => Some(f64::from(stars)),
        _ => None,
    };
    let key = |vote: usize| {
        let answer = ballot.votes[vote].answer().map(|answer| super::words::normalised(&answer.text));
        (ballot.prompt[vote], answer.unwrap_or_default())
    };
    let ratings: Vec<(usize, f64)> =
        votes.iter().filter_map(|&vote| Some((vote, stars(&ballot.votes[vote])?))).collect();
    let mean = ratings.iter().map(|(_, stars)| stars).sum::<f64>() / ratings.len().max(1) as f64;
    let mut of_answer = std::collections::HashMap::new();
    for &(vote, stars) in &ratings {
        let (sum, count) = of_answer.entry(key(vote)).or_insert((0.0, 0.0));
        *sum += stars;
        *count += 1.0;
    }
    let (mut above, mut count) = (vec![0.0; ballot.annotators.len()], vec![SHRINK; ballot.annotators.len()]);
    for &(vote, stars) in &ratings {
        let (sum, raters) = of_answer[&key(vote)];
        let expected = if raters > 1.0 { (sum - stars) / (raters - 1.0) } else { mean };
        above[ballot.annotator[vote]] += stars - expected;
        count[ballot.annotator[vote]] += 1.0;
    }
    above.iter().zip(count).map(|(above, count)| above / count).collect()
}
