//! Votes for tests.

use std::sync::Arc;

use crate::Message;
use crate::store::{CandidateRecord, CompletionRecord, FeedbackKind, FeedbackRecord, Vote};

/// A vote of `user` at second `at`, of the first answer, `answers[0]`; the others are candidates that lost. Rewards fall
/// from 1 by 1 with the index.
pub(crate) fn vote(user: &str, at: i64, prompt: &str, answers: &[&str], kind: FeedbackKind) -> Vote {
    let candidate = |(index, text): (usize, &&str)| CandidateRecord {
        index: index as u32,
        choice: (index == 0).then_some(0),
        text: (*text).to_owned(),
        tokens: 1,
        finish_reason: Some("stop".into()),
        reward: Some(1.0 - index as f64),
        logprob: None,
    };
    let completion = CompletionRecord {
        id: format!("c-{user}-{at}-{prompt}"),
        created_at: at * 1000,
        model: "demo".into(),
        policy_version: "demo@base".into(),
        messages: vec![Message::new("user", prompt)],
        candidates: answers.iter().enumerate().map(candidate).collect(),
        ..CompletionRecord::default()
    };
    let feedback = FeedbackRecord {
        id: format!("v-{user}-{at}-{prompt}"),
        created_at: at * 1000,
        completion_id: completion.id.clone(),
        choice: 0,
        kind,
        user: Some(user.to_owned()),
        comment: None,
        tags: serde_json::Map::new(),
        policy_version: completion.policy_version.clone(),
        replaces: None,
        superseded: false,
        quarantined: None,
    };
    Vote { feedback, completion: Arc::new(completion) }
}

/// A thumb of `user` at second `at`.
pub(crate) fn thumb(user: &str, at: i64, prompt: &str, answer: &str, up: bool) -> Vote {
    vote(user, at, prompt, &[answer], FeedbackKind::Thumb { up })
}

/// The same vote on an answer of another version.
pub(crate) fn of_version(mut vote: Vote, version: &str) -> Vote {
    Arc::make_mut(&mut vote.completion).policy_version = version.to_owned();
    version.clone_into(&mut vote.feedback.policy_version);
    vote
}
