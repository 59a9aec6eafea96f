//! Completions: what is written is read back, text can be taken out, old ones go.

use super::*;

#[tokio::test]
async fn a_completion_reads_as_it_was_written() {
    on_each(async |store| {
        let plain = CompletionRecord { user: None, strategy: None, ..completion("plain") };
        let full = CompletionRecord {
            policy: Some("small".into()),
            arm: Some("canary".into()),
            reward_model: Some("helpful".into()),
            metadata: serde_json::Map::from_iter([("page".to_owned(), serde_json::json!("a"))]),
            gold: Some(FeedbackKind::Comparison { better: 2, worse: 0, margin: Margin::Slightly }),
            ..completion("full")
        };
        let records = [plain, full];
        assert_eq!(store.import(&records, &[]).await, Ok((2, 0)));
        for record in &records {
            assert_eq!(store.completion(&record.id).await.as_ref(), Ok(&Some(record.clone())));
        }
        assert_eq!(store.completion("other").await, Ok(None));
        assert_eq!(store.import(&records, &[]).await, Ok((0, 0)), "what is there stays as it is");
        let all = store.completions(None, 10).await.expect("all");
        assert_eq!(all.len(), 2);
        let rest = store.completions(Some((1_000, &all[0].id)), 10).await.expect("the rest");
        assert_eq!(rest, all[1..]);
    })
    .await;
}

#[tokio::test]
async fn deleting_a_person_takes_their_votes_and_words() {
    on_each(async |store| {
        with_completions(&store, &["theirs"]).await;
        let other = CompletionRecord { user: Some("other".into()), ..completion("other") };
        store.import(std::slice::from_ref(&other), &[]).await.expect("write");
        for (id, user) in [("theirs", "asker"), ("other", "asker"), ("theirs", "other")] {
            cast(&store, &thumb(id, user, true)).await.expect("a vote");
        }
        let deleted = store.delete_user("asker").await;
        assert_eq!(deleted, Ok(Deleted { votes: 2, completions: 1 }));
        let left = store.completion("theirs").await.expect("read").expect("the record stays");
        assert_eq!((left.user, left.messages.len()), (None, 0));
        assert!(left.candidates.iter().all(|candidate| candidate.text.is_empty()));
        assert_eq!(left.candidates[2].reward, Some(0.5), "numbers stay");
        assert_eq!(store.completion("other").await, Ok(Some(other)));
        let votes = store.feedback(&VoteFilter::default()).await.expect("votes");
        assert_eq!(votes.iter().map(|vote| vote.user.as_deref()).collect::<Vec<_>>(), [Some("other")]);
        let events = store.events(0, 10).await.expect("events");
        assert_eq!((events.len(), events[0].kind.as_str()), (1, "person_deleted"));
        assert!(!serde_json::to_string(&events).expect("JSON").contains("asker"));
        assert_eq!(store.delete_user("asker").await, Ok(Deleted::default()));
    })
    .await;
}

#[tokio::test]
async fn old_records_go_and_gold_questions_stay() {
    on_each(async |store| {
        // More than one transaction's worth.
        let mut records: Vec<CompletionRecord> =
            (0..600).map(|n| CompletionRecord { created_at: n, ..completion(&format!("c{n}")) }).collect();
        records[3].gold = Some(FeedbackKind::Thumb { up: true });
        store.import(&records, &[]).await.expect("write");
        for id in ["c0", "c3", "c599"] {
            let key = Some(format!("key of {id}"));
            let vote = NewFeedback { idempotency_key: key, ..thumb(id, "u", true) };
            cast(&store, &vote).await.expect("a vote");
        }
        assert_eq!(store.retain(599).await, Ok(Deleted { votes: 1, completions: 598 }));
        let left: Vec<String> =
            store.completions(None, 10).await.expect("read").into_iter().map(|record| record.id).collect();
        assert_eq!(left, ["c3", "c599"]);
        assert_eq!(store.num_votes(&VoteFilter::default()).await, Ok(2));
    })
    .await;
}
