//! What the kept votes are about and what they prefer: the mix of safety and capability, and whether length or flattery
//! decides. Reports, and leaves nothing out.

use serde::{Deserialize, Serialize};

use super::ballot::{Ballot, rewarded};
use super::config::BalanceRules;
use super::stats::{Interval, difference, exceeds, proportion};
use super::words::normalised;
use crate::store::{FeedbackKind, Margin, Vote};

/// How answers decline.
const REFUSALS: [&str; 12] = [
    "i cannot",
    "i can t",
    "i can not",
    "i will not",
    "i won t",
    "i am not able to",
    "i m not able to",
    "i am unable to",
    "i m unable to",
    "i must decline",
    "i m sorry but i",
    "i am sorry but i",
];

/// How answers agree or praise before they say anything.
const FLATTERY: [&str; 20] = [
    "you are absolutely right",
    "you re absolutely right",
    "you are right",
    "you re right",
    "absolutely",
    "exactly",
    "i agree",
    "great question",
    "good question",
    "excellent question",
    "excellent",
    "that s a great",
    "that is a great",
    "that s an excellent",
    "that is an excellent",
    "what a great",
    "what an excellent",
    "brilliant",
    "wonderful",
    "amazing",
];

/// The mix and the biases of the kept votes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    /// Votes that teach safety: tagged so, or rewarding a refusal.
    pub safety: usize,
    /// All votes.
    pub votes: usize,
    /// Votes that reward a refusal.
    pub refusals: usize,
    /// How often the longer of two answers, or the longer of a liked and a disliked one, is preferred; 0.5 is even.
    pub longer: Option<Interval>,
    /// How much more often answers that begin with agreement or praise are liked than others; of pairs in which one
    /// answer does, how much more often than half it wins.
    pub flattery: Option<Interval>,
}

impl Balance {
    /// Share of safety.
    pub fn safety_share(&self) -> f64 {
        self.safety as f64 / self.votes.max(1) as f64
    }
}

/// Measures the votes still in.
pub(crate) fn measure(ballot: &Ballot<'_>, rules: &BalanceRules) -> Balance {
    let votes: Vec<&Vote> = ballot.remaining().into_iter().map(|vote| &ballot.votes[vote]).collect();
    let refuses = |vote: &&&Vote| rewarded(vote).is_some_and(is_refusal);
    let teaches_safety = |vote: &&&Vote| is_safety(vote, rules) || refuses(vote);
    let singles: Vec<(&str, bool)> = votes.iter().filter_map(|vote| single(vote)).collect();
    let pairs: Vec<(&str, &str)> = votes.iter().filter_map(|vote| pair(vote)).collect();
    Balance {
        safety: votes.iter().filter(teaches_safety).count(),
        votes: votes.len(),
        refusals: votes.iter().filter(refuses).count(),
        longer: longer(&singles, &pairs),
        flattery: flattery(&singles, &pairs),
    }
}

/// Whether an answer declines.
pub fn is_refusal(text: &str) -> bool {
    // The first words decide: a long answer may well say somewhere that something cannot be done.
    let start: String = text.chars().take(160).collect();
    let start = normalised(&start);
    REFUSALS.iter().any(|phrase| start.contains(phrase))
}

fn is_flattering(text: &str) -> bool {
    let start: String = text.chars().take(60).collect();
    let start = normalised(&start);
    FLATTERY
        .iter()
        .any(|phrase| start.strip_prefix(phrase).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')))
}

fn is_safety(vote: &Vote, rules: &BalanceRules) -> bool {
    let category = vote.feedback.tags.get("category").or_else(|| vote.completion.metadata.get("category"));
    let category = category.and_then(serde_json::Value::as_str);
    category.is_some_and(|category| rules.safety_categories.iter().any(|safety| safety == category))
}

/// An answer and whether it is liked.
fn single(vote: &Vote) -> Option<(&str, bool)> {
    let liked = match vote.feedback.kind {
        FeedbackKind::Thumb { up } => up,
        FeedbackKind::Rating { stars } if stars != 3 => stars > 3,
        _ => return None,
    };
    Some((&vote.answer()?.text, liked))
}

/// The better and the worse answer.
fn pair(vote: &Vote) -> Option<(&str, &str)> {
    match &vote.feedback.kind {
        FeedbackKind::Comparison { margin: Margin::Tie, .. } => None,
        FeedbackKind::Comparison { .. } => vote.pair().map(|(a, b)| (a.text.as_str(), b.text.as_str())),
        FeedbackKind::Edit { text } => Some((text, &vote.answer()?.text)),
        _ => None,
    }
}

fn longer(singles: &[(&str, bool)], pairs: &[(&str, &str)]) -> Option<Interval> {
    let lengths = |wanted: bool| -> Vec<f64> {
        let of = singles.iter().filter(|(_, liked)| *liked == wanted);
        of.map(|(text, _)| text.chars().count() as f64).collect()
    };
    let of_singles = exceeds(&lengths(true), &lengths(false));
    let lengths = pairs.iter().map(|(better, worse)| (better.chars().count(), worse.chars().count()));
    let unequal: Vec<bool> =
        lengths.filter(|(better, worse)| better != worse).map(|(better, worse)| better > worse).collect();
    let of_pairs = proportion(unequal.iter().filter(|longer| **longer).count(), unequal.len());
    narrower(of_pairs, of_singles)
}

fn flattery(singles: &[(&str, bool)], pairs: &[(&str, &str)]) -> Option<Interval> {
    let liked = |flattering: bool| {
        let of: Vec<bool> = singles
            .iter()
            .filter(|(text, _)| is_flattering(text) == flattering)
            .map(|(_, liked)| *liked)
            .collect();
        proportion(of.iter().filter(|liked| **liked).count(), of.len())
    };
    let of_singles = liked(true).zip(liked(false)).map(|(flattering, plain)| difference(flattering, plain));
    let wins: Vec<bool> = pairs
        .iter()
        .map(|(better, worse)| (is_flattering(better), is_flattering(worse)))
        .filter(|(better, worse)| better != worse)
        .map(|(better, _)| better)
        .collect();
    let of_pairs = proportion(wins.iter().filter(|won| **won).count(), wins.len());
    let centred = of_pairs.map(|share| Interval {
        value: share.value - 0.5,
        low: share.low - 0.5,
        high: share.high - 0.5,
    });
    narrower(centred, of_singles)
}

/// The measure that is known better.
fn narrower(a: Option<Interval>, b: Option<Interval>) -> Option<Interval> {
    let width = |interval: &Interval| interval.high - interval.low;
    [a, b].into_iter().flatten().min_by(|a, b| width(a).total_cmp(&width(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_and_flattery_are_seen_at_the_beginning() {
        assert!(is_refusal("I'm sorry, but I can't help with that."));
        assert!(!is_refusal("Here is how to bake bread."));
        assert!(is_flattering("You're absolutely right! The sky is green."));
        assert!(is_flattering("Excellent"));
        assert!(!is_flattering("The excellent answer is four."));
    }

    #[test]
    fn preferring_length_shows() {
        let pairs = [("a long answer", "short"); 40];
        assert!(longer(&[], &pairs).expect("pairs").low > 0.9);
        let even = [("longer one", "short"), ("short", "longer one")].repeat(20);
        let found = longer(&[], &even).expect("pairs");
        assert!(found.low < 0.5 && 0.5 < found.high);
        let singles = [("a long answer", true), ("short", false)].repeat(20);
        assert!(longer(&singles, &[]).expect("both").low > 0.9);
    }

    #[test]
    fn preferring_praise_shows() {
        let singles = [("Great question! Four.", true), ("Four.", false), ("Five.", true)].repeat(30);
        assert!(flattery(&singles, &[]).expect("both").low > 0.3);
        assert!(flattery(&[("Four.", true)], &[]).is_none());
    }
}
