//! The store's own tests: one suite, run on SQLite and, where `RECTIFY_TEST_POSTGRES` names a server, on PostgreSQL.

mod labeling;
mod postgres;
mod records;
mod sqlite;
mod training;
mod voting;
mod writer;

use postgres::Database;

use super::*;
use crate::Message;

/// Runs a test on a new store of each kind, and checks afterwards that the store is sound.
async fn on_each(test: impl AsyncFn(Store)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("sqlite://{}", folder.path().join("feedback.db").display());
    run(&url, &test).await;
    if let Some(database) = Database::create().await {
        run(&database.url, &test).await;
        database.remove().await;
    }
}

async fn run(url: &str, test: &impl AsyncFn(Store)) {
    let store = Store::open(url).await.expect("a store");
    test(store.clone()).await;
    store.check().await.expect("a sound store");
    store.close().await;
}

/// An answer with two choices out of four candidates: the third and the first.
fn completion(id: &str) -> CompletionRecord {
    let candidate = |index: u32| CandidateRecord {
        index,
        choice: [Some(1), None, Some(0), None][index as usize],
        text: format!("answer {index} of {id}"),
        tokens: 3,
        finish_reason: Some("stop".into()),
        reward: Some(f64::from(index) - 1.5),
        logprob: (index == 2).then_some(-0.1),
    };
    CompletionRecord {
        id: id.into(),
        created_at: 1_000,
        model: "demo:best-of-4".into(),
        policy_version: "demo@3".into(),
        user: Some("asker".into()),
        messages: vec![Message::new("user", format!("question \u{0} of {id}"))],
        sampling: serde_json::json!({"temperature": 1.0}),
        strategy: Some("best_of_n".into()),
        candidates: (0..4).map(candidate).collect(),
        ..CompletionRecord::default()
    }
}

async fn with_completions(store: &Store, ids: &[&str]) {
    let records: Vec<CompletionRecord> = ids.iter().map(|id| completion(id)).collect();
    assert_eq!(store.import(&records, &[]).await, Ok((records.len() as u64, 0)));
}

fn thumb(completion_id: &str, user: &str, up: bool) -> NewFeedback {
    NewFeedback { user: Some(user.into()), ..NewFeedback::new(completion_id, FeedbackKind::Thumb { up }) }
}

/// One vote in a transaction of its own.
async fn cast(store: &Store, new: &NewFeedback) -> Result<Stored, VoteError> {
    let mut write = store.write().await?;
    let outcome = super::intake::cast(write.connection(), new).await?;
    write.commit().await?;
    outcome
}
