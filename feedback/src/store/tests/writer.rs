//! The queue: order, bounds, what is lost when it is full, and what is never lost.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn a_vote_never_overtakes_its_completion() {
    on_each(async |store| {
        let writer = Writer::start(store.clone(), WriterConfig::default());
        let vote = |n: usize| {
            let writer = writer.clone();
            tokio::spawn(async move {
                let id = format!("c{n}");
                writer.completion(completion(&id));
                writer.feedback(thumb(&id, "u", true)).await
            })
        };
        let votes: Vec<_> = (0..200).map(vote).collect();
        for vote in votes {
            vote.await.expect("no panic").expect("stored");
        }
        assert_eq!(store.num_votes(&VoteFilter::default()).await, Ok(200), "acknowledged means committed");
    })
    .await;
}

#[tokio::test]
async fn closing_commits_what_waits_and_takes_no_more() {
    on_each(async |store| {
        let writer = Writer::start(store.clone(), WriterConfig::default());
        for n in 0..50 {
            writer.completion(completion(&format!("c{n}")));
        }
        writer.close().await;
        assert_eq!(store.completions(None, 100).await.map(|records| records.len()), Ok(50));
        assert_eq!(writer.feedback(thumb("c1", "u", true)).await, Err(VoteError::Closed));
        writer.completion(completion("late"));
        writer.flush().await;
        writer.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_drops_completions_and_refuses_votes_without_waiting() {
    on_each(async |store| {
        let config = WriterConfig { queue: 16, ..WriterConfig::default() };
        let writer = Writer::start(store.clone(), config);
        // The store is busy with something else.
        let busy = store.write().await.expect("a transaction");
        for n in 0..40 {
            writer.completion(completion(&format!("c{n}")));
            tokio::task::yield_now().await;
        }
        let waiting: Vec<_> = (0..16)
            .map(|n| {
                let writer = writer.clone();
                tokio::spawn(async move { writer.feedback(thumb("c0", &format!("u{n}"), true)).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(writer.feedback(thumb("c0", "late", true)).await, Err(VoteError::Busy));
        drop(busy);
        let mut stored = 0;
        for vote in waiting {
            stored += u64::from(vote.await.expect("no panic").is_ok());
        }
        assert!((4..16).contains(&stored), "the last quarter was theirs: {stored}");
        writer.flush().await;
        assert_eq!(store.num_votes(&VoteFilter::default()).await, Ok(stored));
        let records = store.completions(None, 100).await.expect("records").len();
        assert!((12..40).contains(&records), "{records}");
    })
    .await;
}

#[tokio::test]
async fn text_that_waits_is_bounded() {
    on_each(async |store| {
        let config = WriterConfig { bytes: 4096, ..WriterConfig::default() };
        let writer = Writer::start(store.clone(), config);
        let mut long = completion("long");
        long.candidates[0].text = "x".repeat(5000);
        writer.completion(long);
        writer.completion(completion("short"));
        writer.flush().await;
        assert_eq!(store.completion("long").await, Ok(None));
        assert!(store.completion("short").await.expect("read").is_some());
    })
    .await;
}

#[tokio::test]
async fn without_text_there_is_no_word_in_the_store() {
    on_each(async |store| {
        let config = WriterConfig { store_text: false, ..WriterConfig::default() };
        let writer = Writer::start(store.clone(), config);
        writer.completion(completion("a"));
        let vote = NewFeedback { comment: Some("words".into()), ..thumb("a", "u", true) };
        assert_eq!(writer.feedback(vote).await.expect("stored").feedback.comment, None);
        let edit = NewFeedback::new("a", FeedbackKind::Edit { text: "words".into() });
        assert!(matches!(writer.feedback(edit).await, Err(VoteError::NoText)));
        let record = store.completion("a").await.expect("read").expect("the record");
        assert!(record.messages.is_empty() && record.candidates.iter().all(|c| c.text.is_empty()));
        assert_eq!(record.candidates.len(), 4);
    })
    .await;
}

#[tokio::test]
async fn one_refused_entry_takes_no_other_with_it() {
    on_each(async |store| {
        let writer = Writer::start(store.clone(), WriterConfig::default());
        let busy = store.write().await.expect("a transaction");
        writer.completion(completion("before"));
        // PostgreSQL's text holds no NUL; SQLite's does.
        writer.completion(CompletionRecord { model: "\u{0}".into(), ..completion("odd") });
        writer.completion(completion("behind"));
        let vote = tokio::spawn({
            let writer = writer.clone();
            async move { writer.feedback(thumb("behind", "u", true)).await }
        });
        tokio::task::yield_now().await;
        drop(busy);
        vote.await.expect("no panic").expect("stored");
        for id in ["before", "behind"] {
            assert!(store.completion(id).await.expect("read").is_some(), "{id}");
        }
    })
    .await;
}
