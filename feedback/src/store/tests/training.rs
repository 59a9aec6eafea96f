//! Runs, the serving pointer, the audit log and leases: changed together or not at all, and never in two hands.

use std::time::Duration;

use serde_json::json;

use super::*;

fn run_of(id: &str) -> TrainingRun {
    TrainingRun {
        id: id.into(),
        state: "snapshot".into(),
        trigger: "records".into(),
        algorithm: "kto".into(),
        adapter: "demo".into(),
        base_version: "demo@base".into(),
        folder: format!("runs/{id}"),
        detail: json!({"seed": 7}),
        ..TrainingRun::default()
    }
}

#[tokio::test]
async fn a_transition_is_whole_or_nothing() {
    on_each(async |store| {
        let run = run_of("r1");
        let begin = Transition {
            run: Some(&run),
            events: &[NewEvent::new("run_started", "r1", json!({}))],
            ..Transition::default()
        };
        let run = store.commit(begin).await.expect("begun").expect("the run");
        assert_eq!(run.revision, 1);
        let published = TrainingRun { state: "published".into(), version: Some("3".into()), ..run.clone() };
        let pointer = ServingPointer {
            name: "demo".into(),
            version: Some("3".into()),
            share: 0.25,
            since: 7,
            ..ServingPointer::default()
        };
        let publish = Transition {
            run: Some(&published),
            serving: Some(&pointer),
            serving_was: Some(0),
            events: &[NewEvent::new("published", "demo@3", json!({"by": "gate"}))],
        };
        let published = store.commit(publish).await.expect("published").expect("the run");
        assert_eq!(store.run("r1").await, Ok(Some(published.clone())));
        assert_eq!(store.serving("demo").await, Ok(Some(pointer)));
        assert_eq!(store.serving("other").await, Ok(None));

        let late =
            ServingPointer { version: Some("4".into()), name: "demo".into(), ..ServingPointer::default() };
        let stale = Transition {
            run: Some(&run),
            serving: Some(&late),
            events: &[NewEvent::new("published", "demo@4", json!({}))],
            ..Transition::default()
        };
        assert_eq!(store.commit(stale).await, Err(StoreError::Stale { id: "r1".into(), revision: 1 }));
        for was in [0, 6] {
            let late = Transition { serving: Some(&late), serving_was: Some(was), ..Transition::default() };
            let refused = StoreError::Stale { id: "demo".into(), revision: was };
            assert_eq!(store.commit(late).await, Err(refused));
        }
        assert_eq!(store.serving("demo").await.expect("read").and_then(|p| p.version).as_deref(), Some("3"));
        assert_eq!(store.events(0, 10).await.map(|events| events.len()), Ok(2));
        assert!(
            store.commit(Transition { run: Some(&run_of("r1")), ..Transition::default() }).await.is_err()
        );

        let next = ServingPointer { since: 8, ..late };
        let follows = Transition { serving: Some(&next), serving_was: Some(7), ..Transition::default() };
        store.commit(follows).await.expect("follows");
        store.commit(Transition { run: Some(&run_of("r2")), ..Transition::default() }).await.expect("begun");
        let ids: Vec<String> = store.runs(10).await.expect("runs").into_iter().map(|run| run.id).collect();
        assert_eq!(ids.len(), 2);
        assert_eq!(store.runs(1).await.map(|runs| runs.len()), Ok(1));
    })
    .await;
}

#[tokio::test]
async fn the_audit_log_is_a_chain_that_shows_changes() {
    on_each(async |store| {
        let append = |n: i64| {
            let store = store.clone();
            async move { store.append_events(&[NewEvent::new("tick", "t", json!({ "n": n }))]).await }
        };
        let tasks: Vec<_> = (0..20).map(|n| tokio::spawn(append(n))).collect();
        for task in tasks {
            task.await.expect("no panic").expect("appended");
        }
        assert_eq!(store.verify_events().await, Ok(20));
        let events = store.events(5, 3).await.expect("events");
        assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [6, 7, 8]);
        assert_eq!(events[1].prev_hash, events[0].hash);
        for (harm, mend) in [
            (
                "UPDATE events SET subject = 'x' WHERE seq = 7",
                "UPDATE events SET subject = 't' WHERE seq = 7",
            ),
            ("UPDATE events SET seq = 21 WHERE seq = 20", "UPDATE events SET seq = 20 WHERE seq = 21"),
            ("UPDATE event_head SET seq = 21", "UPDATE event_head SET seq = 20"),
        ] {
            change(&store, harm).await;
            assert!(matches!(store.verify_events().await, Err(StoreError::Damaged(_))), "{harm}");
            change(&store, mend).await;
            assert_eq!(store.verify_events().await, Ok(20));
        }
    })
    .await;
}

async fn change(store: &Store, statement: &'static str) {
    let mut write = store.write().await.expect("a transaction");
    sqlx::query(statement).execute(write.connection()).await.expect(statement);
    write.commit().await.expect("commit");
}

#[tokio::test]
async fn a_lease_is_in_one_hand_until_it_runs_out() {
    on_each(async |store| {
        let (long, short) = (Duration::from_secs(60), Duration::from_millis(1));
        assert_eq!(store.lease("trainer", "a", long).await, Ok(true));
        assert_eq!(store.lease("trainer", "b", long).await, Ok(false));
        assert_eq!(store.lease("other", "b", long).await, Ok(true));
        assert_eq!(store.lease("trainer", "a", short).await, Ok(true), "its holder may renew it");
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(store.lease("trainer", "b", long).await, Ok(true), "it had run out");
        store.release("trainer", "a").await.expect("not its holder any more");
        assert_eq!(store.lease("trainer", "a", long).await, Ok(false));
        store.release("trainer", "b").await.expect("given back");
        assert_eq!(store.lease("trainer", "a", long).await, Ok(true));
    })
    .await;
}
