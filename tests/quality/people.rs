//! Simulated people: they get answers of known quality to the lab's prompts and vote on them. Leaves what becomes of the
//! votes to the tests.

use std::collections::HashMap;
use std::sync::Arc;

use rectify_feedback::store::{CandidateRecord, CompletionRecord, FeedbackKind, FeedbackRecord, Vote};
use rectify_feedback::{Message, Text};
use rectify_lab::rng::{LabRng, chance, index, rng_for};
use rectify_lab::{Split, World, judge};

/// How often an honest person errs.
const NOISE: f64 = 0.1;

/// What is known besides one person's vote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    /// People vote on the same answers, as greedy decoding gives the same answer to the same question.
    shared: bool,
    /// A reward model has scored the answers: right about four times out of five.
    scored: bool,
}

impl Crowd {
    pub(crate) const SHARED: Self = Self { shared: true, scored: false };
    pub(crate) const SCORED: Self = Self { shared: false, scored: true };
    pub(crate) const BOTH: Self = Self { shared: true, scored: true };
    pub(crate) const NEITHER: Self = Self { shared: false, scored: false };
}

/// A prompt with an answer.
#[derive(Clone)]
struct Served {
    prompt: String,
    answer: String,
    good: bool,
    reward: Option<f64>,
    gold: bool,
}

/// Where votes come from.
pub(crate) struct People {
    crowd: Crowd,
    rng: LabRng,
    /// Answers that several people get.
    pool: Vec<Served>,
    verdicts: HashMap<(String, String), bool>,
    pub(crate) gold_share: f64,
    /// Votes are on so many of the pool's answers.
    pub(crate) targets: usize,
}

/// Answers in the pool.
pub(crate) const POOL: usize = 200;

impl People {
    pub(crate) fn new(crowd: Crowd, seed: u64) -> Self {
        let (rng, pool, verdicts) = (rng_for(seed, "people"), Vec::new(), HashMap::new());
        let mut people = Self { crowd, rng, pool, verdicts, gold_share: 0.0, targets: POOL };
        people.pool = (0..POOL).map(|_| people.serve()).collect();
        people
    }

    fn serve(&mut self) -> Served {
        let rng = &mut self.rng;
        let category = World::Demo.draw(rng);
        let item = category.sample(Split::Train, rng);
        let good = chance(rng, 0.5);
        let answer = if good { item.task.good(rng) } else { item.task.flawed(category.draw_flaw(rng), rng) };
        let good = judge(&item.task, &item.prompt, &answer).good;
        let noise: f64 = (0..12).map(|_| f64::from(index(rng, 1000) as u32) / 1000.0).sum::<f64>() - 6.0;
        let reward = self.crowd.scored.then(|| if good { 1.2 } else { -1.2 } + 1.4 * noise);
        self.verdicts.insert((item.prompt.clone(), answer.clone()), good);
        Served { prompt: item.prompt, answer, good, reward, gold: false }
    }

    /// `each` thumbs of every one of `num` people, an hour apart. `says` is what somebody thinks of a good or a bad
    /// answer, but for noise.
    pub(crate) fn vote(
        &mut self,
        name: &str,
        num: usize,
        each: usize,
        says: impl Fn(bool) -> bool,
    ) -> Vec<Vote> {
        let mut votes = Vec::new();
        for person in 0..num {
            for turn in 0..each {
                let served = if self.crowd.shared {
                    let place = index(&mut self.rng, self.targets);
                    let gold = (place as f64) < self.gold_share * POOL as f64;
                    Served { gold, ..self.pool[place].clone() }
                } else {
                    self.serve()
                };
                let up = says(served.good) != chance(&mut self.rng, NOISE);
                votes.push(thumb(&format!("{name}-{person}"), turn, &served, up));
            }
        }
        votes
    }

    /// What the oracle says of an answer that somebody got.
    pub(crate) fn is_good(&self, prompt: &Text, answer: &Text) -> bool {
        let text = |text: &Text| text.to_messages("user")[0].content.clone();
        self.verdicts[&(text(prompt), text(answer))]
    }
}

fn thumb(user: &str, turn: usize, served: &Served, up: bool) -> Vote {
    let id = format!("{user}-{turn}");
    let completion = CompletionRecord {
        id: format!("c-{id}"),
        model: "demo".into(),
        policy_version: "demo@base".into(),
        messages: vec![Message::new("user", served.prompt.as_str())],
        reward_model: served.reward.map(|_| "demo-reward".into()),
        candidates: vec![CandidateRecord {
            choice: Some(0),
            text: served.answer.clone(),
            finish_reason: Some("stop".into()),
            reward: served.reward,
            ..CandidateRecord::default()
        }],
        gold: served.gold.then_some(FeedbackKind::Thumb { up: served.good }),
        ..CompletionRecord::default()
    };
    let feedback = FeedbackRecord {
        created_at: 3_600_000 * turn as i64,
        completion_id: completion.id.clone(),
        choice: 0,
        kind: FeedbackKind::Thumb { up },
        user: Some(user.into()),
        comment: None,
        tags: serde_json::Map::new(),
        policy_version: "demo@base".into(),
        replaces: None,
        superseded: false,
        quarantined: None,
        id,
    };
    Vote { feedback, completion: Arc::new(completion) }
}

/// The same votes spread over time, so that only what they say is odd.
pub(crate) fn clocked(mut votes: Vec<Vote>) -> Vec<Vote> {
    for (place, vote) in votes.iter_mut().enumerate() {
        vote.feedback.created_at = 60_000 * place as i64;
    }
    votes
}
