//! Votes: one for each person and answer, changes tracked, repeats answered alike, and read back by filter and page.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[tokio::test]
async fn a_vote_is_tied_to_the_answer_and_its_version() {
    on_each(async |store| {
        with_completions(&store, &["a"]).await;
        let vote = NewFeedback {
            choice: 1,
            comment: Some("too \u{0} long".into()),
            tags: serde_json::Map::from_iter([("page".to_owned(), json!({"of": 3}))]),
            ..thumb("a", "u", false)
        };
        let stored = cast(&store, &vote).await.expect("stored").feedback;
        assert_eq!(stored.policy_version, "demo@3");
        assert_eq!(store.feedback(&VoteFilter::default()).await, Ok(vec![stored.clone()]));
        let votes = store.votes(&VoteFilter::default()).await.expect("votes");
        assert_eq!(votes[0].answer().map(|answer| answer.index), Some(0), "choice 1 was the first candidate");
        let anonymous = NewFeedback { user: None, ..vote };
        assert_eq!(cast(&store, &anonymous).await.expect("stored").feedback.user.as_deref(), Some("asker"));
    })
    .await;
}

#[tokio::test]
async fn comparisons_name_candidates_in_the_store() {
    on_each(async |store| {
        with_completions(&store, &["a"]).await;
        let compare = |better, worse, of_candidates| NewFeedback {
            of_candidates,
            ..NewFeedback::new("a", FeedbackKind::Comparison { better, worse, margin: Margin::Better })
        };
        let stored = cast(&store, &compare(0, 1, false)).await.expect("choices").feedback;
        assert_eq!(stored.kind, FeedbackKind::Comparison { better: 2, worse: 0, margin: Margin::Better });
        let same = cast(&store, &compare(0, 2, true)).await;
        assert!(matches!(same, Err(VoteError::AlreadyVoted { .. })), "the same two, the other way: {same:?}");
        cast(&store, &compare(3, 1, true)).await.expect("candidates that were not returned");
        for wrong in [compare(0, 2, false), compare(0, 4, true)] {
            assert!(matches!(cast(&store, &wrong).await, Err(VoteError::NoChoice(_))), "{wrong:?}");
        }
        let votes = store.votes(&VoteFilter::default()).await.expect("votes");
        let pairs: Vec<_> = votes.iter().filter_map(Vote::pair).map(|(a, b)| (a.index, b.index)).collect();
        assert_eq!(pairs.len(), 2);
        assert!(pairs.contains(&(2, 0)) && pairs.contains(&(3, 1)), "{pairs:?}");
    })
    .await;
}

#[tokio::test]
async fn a_person_votes_once_and_a_change_is_tracked() {
    on_each(async |store| {
        with_completions(&store, &["a"]).await;
        let first = cast(&store, &thumb("a", "u", true)).await.expect("stored").feedback;
        let again = cast(&store, &thumb("a", "u", false)).await;
        let refused = VoteError::AlreadyVoted { kind: "thumb", previous: first.id.clone() };
        assert_eq!(again, Err(refused));
        cast(&store, &thumb("a", "v", false)).await.expect("another person");
        cast(&store, &NewFeedback { choice: 1, ..thumb("a", "u", false) }).await.expect("another choice");
        let change = NewFeedback { replace: true, ..thumb("a", "u", false) };
        let second = cast(&store, &change).await.expect("changed").feedback;
        assert_eq!(second.replaces.as_deref(), Some(first.id.as_str()));
        let of = |superseded| VoteFilter { user: Some("u".into()), superseded, ..VoteFilter::default() };
        assert_eq!(store.num_votes(&of(false)).await, Ok(2));
        let all = store.feedback(&of(true)).await.expect("votes");
        assert_eq!(
            all.iter().filter(|vote| vote.superseded).map(|vote| &vote.id).collect::<Vec<_>>(),
            [&first.id]
        );
        for _ in 0..2 {
            cast(&store, &NewFeedback::new("a", FeedbackKind::Comment)).await.expect("comments are no votes");
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_not_served_has_no_votes() {
    on_each(async |store| {
        with_completions(&store, &["a", "a#1"]).await;
        assert_eq!(cast(&store, &thumb("b", "u", true)).await, Err(VoteError::NoCompletion("b".into())));
        let beyond = NewFeedback { choice: 7, ..thumb("a", "u", true) };
        let message = "the completion has no choice 7; it has 2 choices";
        assert_eq!(cast(&store, &beyond).await, Err(VoteError::NoChoice(message.into())));
        assert_eq!(store.num_votes(&VoteFilter::default()).await, Ok(0));
    })
    .await;
}

#[tokio::test]
async fn choices_count_on_through_the_prompts_of_a_request() {
    on_each(async |store| {
        let mut second = completion("a#1");
        for candidate in &mut second.candidates {
            candidate.choice = candidate.choice.map(|choice| choice + 2);
        }
        store.import(&[completion("a"), second], &[]).await.expect("write");
        let vote = NewFeedback { choice: 3, ..thumb("a", "u", true) };
        let stored = cast(&store, &vote).await.expect("stored").feedback;
        assert_eq!((stored.completion_id.as_str(), stored.choice), ("a#1", 3));
        let votes = store.votes(&VoteFilter::default()).await.expect("votes");
        assert_eq!(votes[0].answer().map(|answer| answer.text.as_str()), Some("answer 0 of a#1"));
    })
    .await;
}

#[tokio::test]
async fn a_repeat_is_answered_as_the_first_request_was() {
    on_each(async |store| {
        with_completions(&store, &["a"]).await;
        let keyed = |key: &str, vote: NewFeedback| NewFeedback { idempotency_key: Some(key.into()), ..vote };
        let vote = keyed("k1", thumb("a", "u", true));
        let first = cast(&store, &vote).await.expect("stored");
        let repeat = cast(&store, &vote).await.expect("the same answer");
        assert_eq!((repeat.feedback, repeat.repeated), (first.feedback, true));
        assert_eq!(cast(&store, &keyed("k1", thumb("a", "v", true))).await, Err(VoteError::KeyReused));
        let refused = keyed("k2", thumb("a", "u", false));
        let conflict = cast(&store, &refused).await;
        assert!(matches!(conflict, Err(VoteError::AlreadyVoted { .. })));
        store.delete_user("u").await.expect("deleted");
        assert_eq!(cast(&store, &refused).await, conflict, "the answer stays though its reason is gone");
        assert_eq!(store.num_votes(&VoteFilter::default()).await, Ok(0));
    })
    .await;
}

#[tokio::test]
async fn votes_are_found_by_filter_and_page() {
    on_each(async |store| {
        let ids: Vec<String> = (0..5).map(|n| format!("c{n}")).collect();
        with_completions(&store, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
        for (n, id) in ids.iter().enumerate() {
            cast(&store, &thumb(id, if n % 2 == 0 { "even" } else { "odd" }, true)).await.expect("a vote");
        }
        let all = store.feedback(&VoteFilter::default()).await.expect("votes");
        assert!(all.is_sorted_by_key(|vote| (vote.created_at, vote.id.clone())));
        for newest_first in [false, true] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let filter = VoteFilter { newest_first, after, limit: Some(2), ..VoteFilter::default() };
                let page = store.feedback(&filter).await.expect("a page");
                let Some(last) = page.last() else { break };
                after = Some((last.created_at, last.id.clone()));
                found.extend(page);
            }
            if newest_first {
                found.reverse();
            }
            assert_eq!(found, all);
        }
        let count = async |filter| store.num_votes(&filter).await.expect("a number");
        assert_eq!(count(VoteFilter { user: Some("odd".into()), ..VoteFilter::default() }).await, 2);
        assert_eq!(count(VoteFilter { kind: Some("rating".into()), ..VoteFilter::default() }).await, 0);
        assert_eq!(count(VoteFilter { completion_id: Some("c0".into()), ..VoteFilter::default() }).await, 1);
        assert_eq!(
            count(VoteFilter { policy_version: Some("demo@2".into()), ..VoteFilter::default() }).await,
            0
        );
        assert_eq!(count(VoteFilter { until: Some(all[0].created_at), ..VoteFilter::default() }).await, 0);
        store.quarantine(&[(&all[0].id, Some("burst"))]).await.expect("quarantine");
        assert_eq!(count(VoteFilter { trusted: true, ..VoteFilter::default() }).await, 4);
        let first =
            store.feedback(&VoteFilter { limit: Some(1), ..VoteFilter::default() }).await.expect("one");
        assert_eq!(first[0].quarantined.as_deref(), Some("burst"));
    })
    .await;
}

#[derive(Clone, Debug)]
struct Step {
    user: usize,
    answer: usize,
    up: bool,
    replace: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..3_usize, 0..2_usize, any::<bool>(), any::<bool>())
        .prop_map(|(user, answer, up, replace)| Step { user, answer, up, replace });
    proptest::collection::vec(step, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// Whatever people do, each has at most one thumb in force on each answer, and it is the last one that was taken.
    #[test]
    fn one_vote_in_force_for_each_person_and_answer(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(on_each(async |store| {
            with_completions(&store, &["a0", "a1"]).await;
            let (mut expected, mut taken) = (std::collections::BTreeMap::new(), 0);
            for Step { user, answer, up, replace } in &steps {
                let vote = NewFeedback { replace: *replace, ..thumb(&format!("a{answer}"), &format!("u{user}"), *up) };
                let is_free = !expected.contains_key(&(*user, *answer));
                let outcome = cast(&store, &vote).await;
                assert_eq!(outcome.is_ok(), is_free || *replace);
                if outcome.is_ok() {
                    expected.insert((*user, *answer), *up);
                    taken += 1;
                }
            }
            let in_force = store.feedback(&VoteFilter::default()).await.expect("votes");
            assert_eq!(in_force.len(), expected.len());
            for ((user, answer), up) in expected {
                let filter = VoteFilter { user: Some(format!("u{user}")), completion_id: Some(format!("a{answer}")), ..VoteFilter::default() };
                let found = store.feedback(&filter).await.expect("votes");
                assert_eq!(found.iter().map(|vote| &vote.kind).collect::<Vec<_>>(), [&FeedbackKind::Thumb { up }]);
            }
            let all = VoteFilter { superseded: true, ..VoteFilter::default() };
            assert_eq!(store.num_votes(&all).await, Ok(taken), "nothing taken is ever lost");
        }));
    }
}

#[tokio::test]
async fn a_policy_has_the_votes_on_its_own_answers_and_on_those_of_nobody_else() {
    on_each(async |store| {
        let of = |id: &str, policy: Option<&str>| CompletionRecord {
            policy: policy.map(str::to_owned),
            ..completion(id)
        };
        let records = [of("a", Some("large")), of("b", Some("small")), of("c", None)];
        store.import(&records, &[]).await.expect("write");
        for id in ["a", "b", "c"] {
            cast(&store, &thumb(id, "u", true)).await.expect("a vote");
        }
        for (policy, wanted) in [("large", ["a", "c"]), ("small", ["b", "c"])] {
            let filter = VoteFilter { policy: Some(policy.into()), ..VoteFilter::default() };
            let votes = store.votes(&filter).await.expect("votes");
            let ids: Vec<&str> = votes.iter().map(|vote| vote.completion.id.as_str()).collect();
            assert_eq!(ids, wanted);
            assert_eq!(store.num_votes(&filter).await, Ok(2));
        }
    })
    .await;
}
