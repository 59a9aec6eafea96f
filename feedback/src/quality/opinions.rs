//! What votes say about the same things: an item is one answer to one prompt, or two answers to choose from, whoever got
//! them and however often; an opinion is a yes or a no about it. Leaves whom to believe to `accuracy`.

use std::collections::{BTreeMap, HashMap};

use super::accuracy::{Answer, Item};
use super::ballot::Ballot;
use super::words::{normalised, stable_hash};
use crate::store::{FeedbackKind, Margin, Vote};

/// Stars, after the annotator's bias is removed, from which a rating is a yes; below 6 minus this, a no.
const LIKED: f64 = 3.5;

/// Everybody's opinions.
pub(crate) struct Opinions {
    pub(crate) items: Vec<Item>,
    pub(crate) answers: Vec<Answer>,
    /// Of each answer: the vote.
    pub(crate) votes: Vec<usize>,
}

/// What one vote says of which item.
struct Opinion {
    item: u64,
    says: bool,
    score: Option<f64>,
    pair: bool,
}

impl Opinions {
    /// Opinions of these votes; those without one are left out.
    pub(crate) fn of(ballot: &Ballot<'_>, votes: &[usize], biases: &[f64]) -> Self {
        let mut opinions = Self { items: Vec::new(), answers: Vec::new(), votes: Vec::new() };
        let mut items: HashMap<u64, usize> = HashMap::new();
        let mut kinds: BTreeMap<(Option<&str>, bool), usize> = BTreeMap::new();
        for &index in votes {
            let vote = &ballot.votes[index];
            let annotator = ballot.annotator[index];
            let Some(opinion) = opinion(vote, &vote.feedback.kind, ballot.prompt[index], biases[annotator])
            else {
                continue;
            };
            let num_kinds = kinds.len();
            let kind =
                *kinds.entry((vote.completion.reward_model.as_deref(), opinion.pair)).or_insert(num_kinds);
            let item = *items.entry(opinion.item).or_insert_with(|| {
                opinions.items.push(Item { known: None, score: None, kind });
                opinions.items.len() - 1
            });
            let known = &mut opinions.items[item];
            known.score = known.score.or(opinion.score);
            if let Some(gold) = &vote.completion.gold
                && let Some(gold) = self::opinion(vote, gold, ballot.prompt[index], 0.0)
                && gold.item == opinion.item
            {
                known.known = Some(gold.says);
            }
            opinions.answers.push(Answer { item, annotator, says: opinion.says });
            opinions.votes.push(index);
        }
        opinions
    }

    /// Pairs of (this annotator's answer, the truth) over the items whose truth is known, by annotator.
    pub(crate) fn against_gold(&self, num_annotators: usize) -> Vec<Vec<(bool, bool)>> {
        let mut pairs = vec![Vec::new(); num_annotators];
        for answer in &self.answers {
            if let Some(known) = self.items[answer.item].known {
                pairs[answer.annotator].push((answer.says, known));
            }
        }
        pairs
    }

    /// Pairs of (this annotator's answer, what most others say) over the items that others have answered without a tie,
    /// by annotator.
    pub(crate) fn against_peers(&self, num_annotators: usize) -> Vec<Vec<(bool, bool)>> {
        let sign = |says: bool| if says { 1i64 } else { -1 };
        let mut sums = vec![0i64; self.items.len()];
        for answer in &self.answers {
            sums[answer.item] += sign(answer.says);
        }
        let mut pairs = vec![Vec::new(); num_annotators];
        for answer in &self.answers {
            let others = sums[answer.item] - sign(answer.says);
            if others != 0 {
                pairs[answer.annotator].push((answer.says, others > 0));
            }
        }
        pairs
    }
}

/// Yes or no to a rating; `None` in the middle.
pub(crate) fn liked(stars: u8, bias: f64) -> Option<bool> {
    let stars = f64::from(stars) - bias;
    if stars >= LIKED { Some(true) } else { (stars <= 6.0 - LIKED).then_some(false) }
}

fn opinion(vote: &Vote, kind: &FeedbackKind, prompt: u64, bias: f64) -> Option<Opinion> {
    let text = |text: &str| stable_hash(normalised(text).as_bytes());
    let key =
        |a: u64, b: u64| stable_hash(&[prompt.to_le_bytes(), a.to_le_bytes(), b.to_le_bytes()].concat());
    match *kind {
        FeedbackKind::Thumb { up } => {
            single(vote).map(|(answer, score)| (key(text(answer), 0), up, score, false))
        }
        FeedbackKind::Rating { stars } => {
            let says = liked(stars, bias)?;
            single(vote).map(|(answer, score)| (key(text(answer), 0), says, score, false))
        }
        FeedbackKind::Comparison { better, worse, margin } if margin != Margin::Tie => {
            let (better, worse) = (vote.completion.candidate(better)?, vote.completion.candidate(worse)?);
            let (b, w) = (text(&better.text), text(&worse.text));
            // Either order of the two is the same item: the question is whether the lesser hash is the better answer.
            let says = b < w;
            let gap = better.reward.zip(worse.reward).map(|(b, w)| if says { b - w } else { w - b });
            (b != w).then(|| (key(b.min(w), b.max(w)), says, gap, true))
        }
        _ => None,
    }
    .map(|(item, says, score, pair)| Opinion { item, says, score, pair })
}

fn single(vote: &Vote) -> Option<(&str, Option<f64>)> {
    let answer = vote.answer()?;
    Some((&answer.text, answer.reward))
}
