//! What people got from each arm of a probation, from the store's records as they come in; the reward of answers that were
//! not rewarded when they were given, from the served reward model. Leaves the comparison to `arms`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rectify_engine::ScoreRequest;
use rectify_engine::request::{Message, ScoreInput};
use rectify_feedback::store::{CompletionRecord, FeedbackKind, Millis, Store, Vote, VoteFilter, now};
use regex::RegexSet;

use super::ShadowError;
use super::arms::ArmStats;
use crate::gate::{self, Bench};
use crate::rollout;

/// Records of one page.
const PAGE: u32 = 500;
/// Records are committed in groups, so the newest may still be on their way.
const SETTLED: Millis = 2000;
/// Votes of one person that count: nobody decides alone.
const MAX_PER_PERSON: u32 = 10;
/// Answers of each arm that are rewarded in one look; of more the first are as good as any.
const MAX_SCORED: usize = 32;
/// How long one look may reward answers: the lease must be renewed.
const SCORING: Duration = Duration::from_secs(5);

/// The arms of one probation, as far as they have been read.
#[derive(Debug, Default)]
pub(super) struct Observed {
    run: String,
    policy: String,
    active: ArmStats,
    canary: ArmStats,
    completions: (Millis, String),
    votes: (Millis, String),
    per_person: HashMap<String, u32>,
    /// Answers of the active version and of the candidate that have no reward yet.
    unscored: [Vec<Unscored>; 2],
}

/// An answer that nobody rewarded.
#[derive(Debug)]
struct Unscored {
    messages: Arc<[Message]>,
    answer: String,
}

impl Observed {
    /// An observation of `run`, a run of `policy` whose probation began at `since`.
    pub(super) fn new(run: &str, policy: &str, since: Millis) -> Self {
        let from = (since, String::new());
        Self {
            run: run.to_owned(),
            policy: policy.to_owned(),
            completions: from.clone(),
            votes: from,
            ..Self::default()
        }
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
                if record.is_of(&self.policy) {
                    self.completion(record, refusals);
                }
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
                policy: Some(self.policy.clone()),
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

    /// Has the default reward model of the bench reward what was read without a reward, as far as one look goes. One that
    /// fails or has no room leaves the rest without, and one that compares answers all of it.
    pub(super) fn score(&mut self, bench: &Bench) {
        let deadline = Instant::now() + SCORING;
        let [active, canary] = std::mem::take(&mut self.unscored);
        match bench.models.rewards.first() {
            Some(default) if !bench.models.comparing.contains(default) => {}
            _ => return,
        }
        // In turns, so that what time is left out of is left out of both.
        let (mut active, mut canary) = (active.into_iter(), canary.into_iter());
        loop {
            let next = [("active", active.next()), ("canary", canary.next())];
            if next.iter().all(|(_, unscored)| unscored.is_none()) || Instant::now() > deadline {
                return;
            }
            for (arm, unscored) in next {
                let Some(Unscored { messages, answer }) = unscored else { continue };
                let input = ScoreInput::Candidates { messages, candidates: vec![answer] };
                let request = ScoreRequest { reward: None, input, priority: gate::PRIORITY };
                let stream = bench.engine.score_blocking(request.clone());
                let rewards = stream.and_then(|stream| rollout::rewards(&bench.engine, &request, stream));
                match (rewards, self.arm(Some(arm))) {
                    (Ok(rewards), Some(arm)) => {
                        rewards.into_iter().for_each(|reward| arm.reward.add(f64::from(reward)));
                    }
                    (Err(error), _) => {
                        tracing::debug!(%error, "answers on probation stay without a reward");
                        return;
                    }
                    _ => {}
                }
            }
        }
    }

    fn completion(&mut self, record: &CompletionRecord, refusals: &RegexSet) {
        let side = usize::from(record.arm.as_deref() == Some("canary"));
        let Some(arm) = self.arm(record.arm.as_deref()) else { return };
        let mut bare = Vec::new();
        for candidate in record.candidates.iter().filter(|candidate| candidate.choice.is_some()) {
            arm.length.add(f64::from(candidate.tokens));
            match candidate.reward {
                Some(reward) => arm.reward.add(reward),
                None => bare.push(&candidate.text),
            }
            if !candidate.text.is_empty() {
                arm.refusal.add(f64::from(u8::from(refusals.is_match(&candidate.text))));
            }
        }
        let room = MAX_SCORED - self.unscored[side].len();
        if bare.is_empty() || room == 0 || record.messages.is_empty() {
            return;
        }
        let message = |turn: &rectify_feedback::Message| Message {
            role: turn.role.clone(),
            content: turn.content.clone(),
        };
        let messages: Arc<[Message]> = record.messages.iter().map(message).collect();
        let unscored = |text: &String| Unscored { messages: Arc::clone(&messages), answer: text.clone() };
        self.unscored[side].extend(bare.into_iter().filter(|text| !text.is_empty()).take(room).map(unscored));
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
