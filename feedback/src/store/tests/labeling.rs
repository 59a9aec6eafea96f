//! The labelling queue: nobody is asked twice, sides are shuffled, gold and disputed answers have their turn.

use super::*;

async fn answer(store: &Store, task: &Task, user: &str, better: u32) -> Result<Stored, VoteError> {
    let worse = if better == task.a { task.b } else { task.a };
    let kind = FeedbackKind::Comparison { better, worse, margin: Margin::Better };
    let new = NewFeedback {
        user: Some(user.into()),
        of_candidates: true,
        ..NewFeedback::new(&task.completion.id, kind)
    };
    cast(store, &new).await
}

#[tokio::test]
async fn a_person_gets_each_question_once() {
    on_each(async |store| {
        let ids: Vec<String> = (0..40).map(|n| format!("c{n}")).collect();
        with_completions(&store, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let mut same = completion("same");
        same.candidates.iter_mut().for_each(|candidate| candidate.text = "the same".into());
        let single =
            CompletionRecord { candidates: completion("x").candidates[..1].to_vec(), ..completion("single") };
        store.import(&[same, single], &[]).await.expect("write");
        let (mut asked, mut first_sides) = (std::collections::BTreeSet::new(), 0);
        while let Some(task) = store.next_task("u", 7).await.expect("a question") {
            assert_eq!(
                store.next_task("u", 7).await,
                Ok(Some(task.clone())),
                "the same until it is answered"
            );
            first_sides += usize::from(task.a < task.b);
            assert!(asked.insert(task.completion.id.clone()), "asked twice: {}", task.completion.id);
            answer(&store, &task, "u", task.a).await.expect("an answer");
        }
        assert_eq!(asked.len(), 40, "answers that do not differ make no question");
        assert!((5..35).contains(&first_sides), "sides are shuffled: {first_sides}");
        let other = store.next_task("v", 7).await.expect("a question").expect("another person is asked");
        let votes = VoteFilter { completion_id: Some(other.completion.id.clone()), ..VoteFilter::default() };
        let votes = store.votes(&votes).await.expect("votes");
        let (a, b) = votes[0].pair().expect("a comparison");
        assert_eq!(
            [a.index, b.index].map(|i| i == other.a || i == other.b),
            [true, true],
            "about the same two"
        );
    })
    .await;
}

#[tokio::test]
async fn gold_and_disputed_answers_have_their_turn() {
    on_each(async |store| {
        let ids: Vec<String> = (0..16).map(|n| format!("c{n}")).collect();
        with_completions(&store, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let expected = FeedbackKind::Comparison { better: 1, worse: 3, margin: Margin::Better };
        let gold: Vec<CompletionRecord> = (0..2)
            .map(|n| CompletionRecord { gold: Some(expected.clone()), ..completion(&format!("gold{n}")) })
            .collect();
        store.import(&gold, &[]).await.expect("write");
        cast(&store, &thumb("c9", "x", true)).await.expect("a vote");
        cast(&store, &thumb("c9", "y", false)).await.expect("a vote");
        let mut order = Vec::new();
        for _ in 0..17 {
            let task = store.next_task("u", 1).await.expect("a question").expect("there are more");
            if task.completion.gold.is_some() {
                assert_eq!((task.a.min(task.b), task.a.max(task.b)), (1, 3));
            }
            order.push(task.completion.id.clone());
            answer(&store, &task, "u", task.b).await.expect("an answer");
        }
        assert_eq!(order.iter().filter(|id| id.starts_with("gold")).count(), 2, "{order:?}");
        let ordinary: Vec<&String> = order.iter().filter(|id| !id.starts_with("gold")).collect();
        assert_eq!(ordinary[0], "c9", "people disagree on it");
    })
    .await;
}
