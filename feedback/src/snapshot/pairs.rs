//! Pairs of a better and a worse answer: compared by people, edited by them, or made of what is known of each answer.
//! Leaves thumbs and prompts to `prompts`.

use std::collections::{BTreeMap, HashMap};

use super::prompts::{Judged, Prompt, Prompts};
use super::{answer, origin};
use crate::quality::PairRules;
use crate::store::{CandidateRecord, FeedbackKind, Margin, Vote};
use crate::{Message, PreferenceRecord, Text};

/// All pairs, in the order of their first mention.
#[derive(Default)]
pub(super) struct Pairs {
    pairs: Vec<Pair>,
    indices: HashMap<(Vec<Message>, String, String), usize>,
}

struct Pair {
    prompt: Vec<Message>,
    /// Two texts in their order as text.
    texts: [String; 2],
    rewards: [Option<f64>; 2],
    /// People who prefer the first less people who prefer the second.
    balance: i64,
    /// Margins of those who prefer the first, and the second.
    margins: [Vec<f64>; 2],
    source: &'static str,
    votes: Vec<String>,
    policy_version: String,
}

/// One side of a pair.
struct Side<'a> {
    text: &'a str,
    reward: Option<f64>,
}

impl<'a> From<&'a CandidateRecord> for Side<'a> {
    fn from(candidate: &'a CandidateRecord) -> Self {
        Self { text: &candidate.text, reward: candidate.reward }
    }
}

impl<'a> From<&'a str> for Side<'a> {
    fn from(text: &'a str) -> Self {
        Self { text, reward: None }
    }
}

/// The margin of a graded preference, as Llama 2 (arXiv:2307.09288, table 27, "margin small") takes it.
pub(crate) fn margin(margin: Margin) -> f64 {
    match margin {
        Margin::Significantly => 1.0,
        Margin::Better => 2.0 / 3.0,
        Margin::Slightly => 1.0 / 3.0,
        Margin::Negligibly | Margin::Tie => 0.0,
    }
}

impl Pairs {
    /// Counts a comparison or an edit.
    pub(super) fn vote(&mut self, vote: &Vote) {
        let id = Some(&vote.feedback.id);
        match &vote.feedback.kind {
            FeedbackKind::Comparison { margin: graded, .. } if *graded != Margin::Tie => {
                if let Some((better, worse)) = vote.pair() {
                    self.prefer(vote, "comparison", better.into(), worse.into(), Some(margin(*graded)), id);
                }
            }
            FeedbackKind::Edit { text } => {
                if let Some(original) = vote.answer() {
                    self.prefer(vote, "edit", text.as_str().into(), original.into(), None, id);
                }
            }
            _ => {}
        }
    }

    fn prefer(
        &mut self,
        vote: &Vote,
        source: &'static str,
        better: Side<'_>,
        worse: Side<'_>,
        margin: Option<f64>,
        id: Option<&String>,
    ) {
        if better.text == worse.text {
            return;
        }
        let pair =
            self.pair(&vote.completion.messages, &vote.completion.policy_version, source, &better, &worse);
        let side = usize::from(better.text > worse.text);
        pair.balance += if side == 0 { 1 } else { -1 };
        pair.margins[side].extend(margin);
        pair.votes.extend(id.cloned());
    }

    fn pair(
        &mut self,
        prompt: &[Message],
        policy_version: &str,
        source: &'static str,
        a: &Side<'_>,
        b: &Side<'_>,
    ) -> &mut Pair {
        let (a, b) = if a.text < b.text { (a, b) } else { (b, a) };
        let key = (prompt.to_vec(), a.text.to_owned(), b.text.to_owned());
        let index = *self.indices.entry(key).or_insert_with(|| {
            self.pairs.push(Pair {
                prompt: prompt.to_vec(),
                texts: [a.text.to_owned(), b.text.to_owned()],
                rewards: [a.reward, b.reward],
                balance: 0,
                margins: [Vec::new(), Vec::new()],
                source,
                votes: Vec::new(),
                policy_version: policy_version.to_owned(),
            });
            self.pairs.len() - 1
        });
        &mut self.pairs[index]
    }

    fn holds(&self, prompt: &[Message], a: &str, b: &str) -> bool {
        let key = (prompt.to_vec(), a.min(b).to_owned(), a.max(b).to_owned());
        self.indices.contains_key(&key)
    }

    /// Adds pairs that nobody compared, where the rules allow them: what people said of a pair themselves is never
    /// outvoted.
    pub(super) fn complete(&mut self, prompts: &Prompts, votes: &[&Vote], rules: &PairRules) {
        if rules.from_thumbs {
            prompts.iter().for_each(|prompt| self.of_thumbs(prompt, rules.max_per_prompt));
        }
        if rules.from_candidates {
            votes.iter().for_each(|vote| self.of_candidates(vote, rules.min_reward_gap));
        }
    }

    fn of_thumbs(&mut self, prompt: &Prompt, most: usize) {
        let of = |sign: i64| prompt.answers.iter().filter(move |judged| judged.balance.signum() == sign);
        let all = of(1).flat_map(|liked: &Judged| of(-1).map(move |disliked| (liked, disliked)));
        for (liked, disliked) in all.take(most) {
            if self.holds(&prompt.messages, &liked.text, &disliked.text) {
                continue;
            }
            let (better, worse) = (Side::from(liked.text.as_str()), Side::from(disliked.text.as_str()));
            let pair = self.pair(&prompt.messages, &liked.policy_version, "thumbs", &better, &worse);
            pair.balance = if liked.text < disliked.text { 1 } else { -1 };
            pair.votes = [liked.votes.as_slice(), &disliked.votes].concat();
        }
    }

    /// The answer that was returned and liked, and the worst candidate it won against.
    fn of_candidates(&mut self, vote: &Vote, min_gap: f64) {
        let (FeedbackKind::Thumb { up: true }, Some(returned)) = (&vote.feedback.kind, vote.answer()) else {
            return;
        };
        let finished = |loser: &&CandidateRecord| {
            loser.choice.is_none() && loser.finish_reason.is_some() && !loser.text.trim().is_empty()
        };
        let losers = vote.completion.candidates.iter().filter(finished);
        let worst = losers
            .filter_map(|loser| Some((loser.reward.filter(|reward| reward.is_finite())?, loser)))
            .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.index.cmp(&b.1.index)));
        let (Some((worst, loser)), Some(best)) = (worst, returned.reward) else { return };
        if best - worst >= min_gap && !self.holds(&vote.completion.messages, &returned.text, &loser.text) {
            self.prefer(vote, "best_of_n", returned.into(), loser.into(), None, Some(&vote.feedback.id));
        }
    }

    /// Ids of the votes on pairs of which as many people prefer one answer as the other.
    pub(super) fn undecided(&self) -> impl Iterator<Item = &str> {
        let undecided = self.pairs.iter().filter(|pair| pair.balance == 0);
        undecided.flat_map(|pair| pair.votes.iter().map(String::as_str))
    }

    /// The decided pairs, and how many come from where.
    pub(super) fn into_records(self) -> (Vec<PreferenceRecord>, BTreeMap<String, usize>) {
        let mut sources: BTreeMap<String, usize> = BTreeMap::new();
        let decided = self.pairs.into_iter().filter(|pair| pair.balance != 0);
        let records = decided
            .map(|pair| {
                *sources.entry(pair.source.to_owned()).or_default() += 1;
                pair.into_record()
            })
            .collect();
        (records, sources)
    }
}

impl Pair {
    fn into_record(self) -> PreferenceRecord {
        let better = usize::from(self.balance < 0);
        let worse = 1 - better;
        let margins = &self.margins[better];
        let margin = (!margins.is_empty()).then(|| margins.iter().sum::<f64>() / margins.len() as f64);
        PreferenceRecord {
            prompt: Text::Chat(self.prompt),
            chosen: answer(&self.texts[better]),
            rejected: answer(&self.texts[worse]),
            margin,
            reward_chosen: self.rewards[better],
            reward_rejected: self.rewards[worse],
            extra: origin(self.source, &self.votes, &self.policy_version),
        }
    }
}
