//! Rewards: when candidates are scored, and what becomes of a scorer that fails.

use super::*;
use crate::RewardSpec;
use crate::request::Scoring;
use crate::testing::{fake_score, version_hash};

#[test]
fn best_of_n_returns_the_candidate_with_the_highest_reward() {
    for (reward, version) in
        [("own", 0), ("adapter", version_hash(&adapter_with_head("adapter", "rm", true)))]
    {
        let mut request = best_of(&[5, 6, 7, 8, 9], 8, 12, reward);
        // No `q`, which the second template refuses.
        request.sampling.logit_bias = vec![(16, -100.0), (42, -100.0)];
        let answer = Harness::new(Setup::roomy()).run(request.clone());
        let selection = answer.selection.as_ref().unwrap();
        assert_eq!(selection.scoring, Scoring::Ok);
        assert_eq!(&*selection.reward_model, reward);
        let rewards: Vec<f32> =
            selection.candidates.iter().map(|candidate| candidate.reward.unwrap()).collect();
        for candidate in &selection.candidates {
            let tokens =
                FakeTemplate::default().candidate_tokens(&request.messages, &candidate.text).unwrap();
            assert_eq!(candidate.reward, Some(fake_score(&tokens, version)));
        }
        let best = (0..8).max_by(|&a, &b| rewards[a].total_cmp(&rewards[b]).then(b.cmp(&a))).unwrap();
        assert_eq!(selection.selected, [best]);
        let usage = answer.usage.unwrap();
        assert_eq!(usage.rejected_tokens, usage.completion_tokens - selection.candidates[best].tokens.len());
        assert!(answer.order.ends_with("ED"));
    }
}

#[test]
fn candidates_are_scored_while_others_still_decode() {
    let mut request = best_of(&[5, 6, 7, 8, 9], 8, 40, "own");
    request.sampling.seed = Some(2);
    let answer = Harness::new(Setup::roomy()).run(request);
    let first_score = answer.order.find('S').unwrap();
    assert!(answer.order[first_score..].contains('T'), "{}", answer.order);
}

#[test]
fn the_reward_models_prompt_is_read_once() {
    let mut setup = Setup::roomy();
    setup.config.prefix_caching = true;
    let mut harness = Harness::new(setup);
    let prompt: Vec<u32> = (0..60).map(|i| 3 + i % 60).collect();
    let answer = harness.run(best_of(&prompt, 8, 6, "own"));
    // 61 tokens of conversation: 15 whole blocks once, then a token of it and the answer for each candidate.
    let answers: usize = answer.texts.iter().map(|text| 1 + text.len() + 1).sum();
    let recomputed: usize = 8 * 4;
    let scored = answer.usage.unwrap().scored_tokens;
    assert!(scored >= 60 + 8 && scored <= 60 + answers + recomputed, "{scored}");
    assert_eq!(harness.reward.num_tokens.get(), scored);
}

#[test]
fn a_scorer_that_fails_degrades_and_says_why() {
    // Its template refuses answers with a `q`.
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..30 {
        let mut request = best_of(&[5, 6, 7], 3, 25, "adapter");
        request.sampling.seed = Some(seed);
        let answer = Harness::new(Setup::roomy()).run(request);
        let selection = answer.selection.unwrap();
        let refused = selection.candidates.iter().filter(|candidate| candidate.text.contains('q')).count();
        let unscored = selection.candidates.iter().filter(|candidate| candidate.reward.is_none()).count();
        assert_eq!(refused, unscored);
        match (&selection.scoring, refused) {
            (Scoring::Ok, 0) => {}
            (Scoring::Partial, 1 | 2) => {
                assert!(selection.candidates[selection.selected[0]].reward.is_some());
            }
            (Scoring::Failed(reason), 3) => {
                assert!(reason.contains("template refuses"));
                let lengths = selection.candidates.iter().map(|candidate| candidate.tokens.len());
                let first = lengths.enumerate().min_by_key(|(index, length)| (*length, *index)).unwrap().0;
                assert_eq!(selection.selected, [first]);
            }
            other => panic!("{other:?}"),
        }
        seen.insert(refused.min(1));
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn a_reward_models_crash_is_the_scorers_failure_alone() {
    let mut harness = Harness::new(Setup::roomy());
    let mut request = best_of(&[5, 6, 7], 1, 4, "own");
    request.sampling.ignore_eos = true;
    let id = harness.send(request);
    (0..4).for_each(|_| harness.step());
    harness.reward.fail.set(true);
    harness.finish();
    let selection = harness.answer(id).selection.unwrap();
    assert!(matches!(selection.scoring, Scoring::Failed(reason) if reason.contains("a fuse blew")));
    assert_eq!((selection.selected, selection.candidates[0].reward), (vec![0], None));
}

#[test]
fn an_answer_longer_than_the_reward_models_context_is_a_scorer_failure() {
    let mut harness = Harness::new(Setup::roomy());
    let mut request = best_of(&[5, 6, 7], 2, 4, "own");
    request.messages = conversation(&"x".repeat(600));
    let selection = harness.run(request).selection.unwrap();
    assert!(matches!(selection.scoring, Scoring::Failed(reason) if reason.contains("512")));
}

#[test]
fn candidates_end_where_their_reward_model_could_no_longer_read_them() {
    let mut harness = Harness::new(Setup::roomy());
    let mut request = best_of(&[5, 6, 7], 2, 40, "own");
    request.sampling.ignore_eos = true;
    let room = 7;
    // The template ends each turn with a token of its own.
    request.messages = conversation(&"x".repeat(512 - room - 2));
    let answer = harness.run(request);
    let selection = answer.selection.unwrap();
    assert_eq!(selection.scoring, Scoring::Ok);
    for candidate in &selection.candidates {
        assert_eq!(candidate.tokens.len(), room);
    }
}

#[test]
fn texts_and_candidates_are_scored_on_request() {
    let mut harness = Harness::new(Setup::roomy());
    let texts = ScoreInput::Texts(vec!["one".into(), "two".into()]);
    let candidates = ScoreInput::Candidates {
        messages: conversation("hello"),
        candidates: vec!["yes".into(), "no".into(), String::new()],
    };
    let (a, b) = (harness.score("own", texts), harness.score("adapter", candidates));
    let unknown = harness.score("nobody", ScoreInput::Texts(vec!["x".into()]));
    let long = harness.score("own", ScoreInput::Texts(vec!["x".repeat(600)]));
    let empty = harness.score("own", ScoreInput::Texts(vec![]));
    harness.finish();
    let template = FakeTemplate::default();
    let expected = ["one", "two"].map(|text| Some(fake_score(&template.text_tokens(text).unwrap(), 0)));
    assert_eq!(harness.answer(a).rewards, expected);
    let version = version_hash(&adapter_with_head("adapter", "rm", true));
    let expected = ["yes", "no", ""].map(|answer| {
        let tokens = template.candidate_tokens(&conversation("hello"), answer).unwrap();
        Some(fake_score(&tokens, version))
    });
    let answer = harness.answer(b);
    assert_eq!(answer.rewards, expected);
    assert_eq!(answer.order, "SSSD");
    assert!(
        harness.answer(unknown).error.unwrap().contains("`nobody` does not exist; available: own, adapter")
    );
    assert!(harness.answer(long).error.unwrap().contains("512"));
    assert!(harness.answer(empty).error.unwrap().contains("nothing to score"));
}
