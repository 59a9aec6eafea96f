//! Reward models that compare answers, in the engine: groups, tournaments, and what they refuse.

use super::*;
use crate::RewardSpec;
use crate::alignment::Method;
use crate::request::Scoring as Scored;
use crate::strategy::{AdaptiveSettings, Combine, LengthPenalty};
use crate::testing::fake_score;

/// What the fake model prefers, by the definition.
fn preference(request: &GenerateRequest, first: &str, second: &str) -> f32 {
    let template = FakeTemplate::default();
    let read = |pair| fake_score(&template.pair_tokens(&request.messages, pair).unwrap(), 0);
    0.5 * (read([first, second]) - read([second, first]))
}

/// Mean preferences of each text over the others.
fn rewards(request: &GenerateRequest, texts: &[String]) -> Vec<f32> {
    let reward = |index: usize| {
        let others = (0..texts.len()).filter(|&other| other != index);
        let met: Vec<f64> = others
            .map(|other| {
                let [low, high] = [index.min(other), index.max(other)].map(|place| &texts[place]);
                let preference = f64::from(preference(request, low, high));
                if index < other { preference } else { -preference }
            })
            .collect();
        (met.iter().sum::<f64>() / met.len() as f64) as f32
    };
    (0..texts.len()).map(reward).collect()
}

fn request(method: Method, n: usize, reward: &str) -> GenerateRequest {
    let mut request = best_of(&[5, 6, 7, 8, 9], n, 12, reward);
    request.alignment.as_mut().unwrap().method = method;
    request
}

fn texts(selection: &Selection) -> Vec<String> {
    selection.candidates.iter().map(|candidate| candidate.text.clone()).collect()
}

#[test]
fn the_best_of_a_group_is_the_one_preferred_to_the_others_in_the_mean() {
    for n in [2, 5, 13] {
        let request = request(Method::BestOfN, n, "pairs");
        let answer = Harness::new(Setup::roomy()).run(request.clone());
        let selection = answer.selection.unwrap();
        let expected = rewards(&request, &texts(&selection));
        let found: Vec<f32> =
            selection.candidates.iter().map(|candidate| candidate.reward.unwrap()).collect();
        assert_eq!((&found, &selection.scoring), (&expected, &Scored::Ok));
        assert_eq!(answer.rewards, expected.iter().copied().map(Some).collect::<Vec<_>>(), "told as events");
        let best = (0..n).max_by(|&a, &b| expected[a].total_cmp(&expected[b]).then(b.cmp(&a))).unwrap();
        assert_eq!(selection.selected, [best]);
    }
}

#[test]
fn a_tournament_reads_n_less_one_pairs_in_both_orders() {
    for seed in 0..10 {
        let mut request = request(Method::Tournament, 7, "pairs");
        request.sampling.seed = Some(seed);
        let answer = Harness::new(Setup::roomy()).run(request.clone());
        let selection = answer.selection.unwrap();
        let texts = texts(&selection);
        // The blocks that the conversation fills are read ahead.
        let mut num_tokens = 4;
        let winner = (1..7).fold(0, |champion, next| {
            let template = FakeTemplate::default();
            let pair = [&*texts[champion], &*texts[next]];
            num_tokens += 2 * template.pair_tokens(&request.messages, pair).unwrap().len();
            if preference(&request, pair[0], pair[1]) < 0.0 { next } else { champion }
        });
        assert_eq!((selection.strategy, &selection.selected[..]), ("tournament", &[winner][..]));
        assert_eq!((answer.usage.unwrap().scored_tokens, selection.scoring), (num_tokens, Scored::Ok));
        assert!(selection.candidates.iter().all(|candidate| candidate.reward.is_some()));
        assert!(selection.candidates[winner].reward.unwrap() >= 0.0);
    }
}

#[test]
fn a_tournament_of_rewards_is_won_by_the_highest() {
    let alone = |method| {
        let answer = Harness::new(Setup::roomy()).run(request(method, 6, "own"));
        let selection = answer.selection.unwrap();
        (selection.selected, selection.candidates)
    };
    assert_eq!(alone(Method::Tournament), alone(Method::BestOfN));
}

#[test]
fn comparisons_take_part_in_combinations() {
    let mut request = request(Method::BestOfN, 5, "own");
    let models = vec!["own".to_owned(), "pairs".to_owned()];
    let combine = Combine::Weighted(vec![1.0, 2.0]);
    request.alignment.as_mut().unwrap().reward = RewardRule { models, combine: combine.clone() };
    let answer = Harness::new(Setup::roomy()).run(request.clone());
    let selection = answer.selection.unwrap();
    let relative = rewards(&request, &texts(&selection));
    for (candidate, relative) in selection.candidates.iter().zip(relative) {
        let tokens = FakeTemplate::default().candidate_tokens(&request.messages, &candidate.text).unwrap();
        let rewards = [fake_score(&tokens, 0), relative];
        assert_eq!(candidate.rewards, rewards.map(Some));
        assert_eq!(candidate.reward, Some(combine.apply(&rewards) as f32));
    }
}

#[test]
fn answers_that_cannot_be_compared_have_no_reward_and_do_not_win() {
    for method in [Method::BestOfN, Method::Tournament] {
        let mut request = request(method, 6, "choosy");
        // Some with a `q`, which the template refuses.
        request.sampling.max_tokens = 24;
        let selection = Harness::new(Setup::roomy()).run(request.clone()).selection.unwrap();
        let is_refused: Vec<bool> = texts(&selection).iter().map(|text| text.contains('q')).collect();
        let num_refused = is_refused.iter().filter(|&&refused| refused).count();
        assert!((1..5).contains(&num_refused), "the test has something to test: {is_refused:?}");
        assert_eq!(selection.scoring, Scored::Partial);
        assert!(!is_refused[selection.selected[0]]);
        if method == Method::BestOfN {
            let rewards: Vec<bool> =
                selection.candidates.iter().map(|candidate| candidate.reward.is_none()).collect();
            assert_eq!(rewards, is_refused);
        }
    }
}

#[test]
fn a_crowd_and_a_small_cache_change_nothing() {
    for method in [Method::BestOfN, Method::Tournament] {
        let request = request(method, 12, "pairs");
        let expected = Harness::new(Setup::roomy()).run(request.clone());
        let mut setup = Setup { num_blocks: 24, ..Setup::roomy() };
        setup.config.max_num_seqs = 5;
        setup.config.max_num_batched_tokens = 16;
        let mut harness = Harness::new(setup);
        let ids: Vec<_> = (0..3).map(|_| harness.send(request.clone())).collect();
        harness.finish();
        for id in ids {
            assert_eq!(harness.answer(id).essence(), expected.essence(), "{method:?}");
        }
    }
}

#[test]
fn an_abort_on_the_way_leaves_nothing_behind() {
    for method in [Method::BestOfN, Method::Tournament] {
        for num_steps in 0..40 {
            let mut harness = Harness::new(Setup::roomy());
            let id = harness.send(request(method, 9, "pairs"));
            (0..num_steps).for_each(|_| harness.step());
            harness.engine.handle(Command::Abort(id));
            harness.finish();
        }
    }
}

#[test]
fn candidates_of_a_conversation_are_scored_against_each_other() {
    let candidates: Vec<String> = ["one", "two", "three", "four"].map(str::to_owned).to_vec();
    let input = ScoreInput::Candidates { messages: conversation("hello"), candidates: candidates.clone() };
    let mut harness = Harness::new(Setup::roomy());
    let id = harness.score("pairs", input);
    harness.finish();
    let answer = harness.answer(id);
    let asked = GenerateRequest { messages: conversation("hello"), ..generate(&[1], 1, 1) };
    assert_eq!(answer.rewards, rewards(&asked, &candidates).into_iter().map(Some).collect::<Vec<_>>());
    assert_eq!(answer.order, "SSSSD");
    let mut refuse = |reward, input| {
        let id = harness.score(reward, input);
        harness.finish();
        harness.answer(id).error.unwrap()
    };
    let lone = ScoreInput::Candidates { messages: conversation("hello"), candidates: vec!["one".into()] };
    assert!(refuse("pairs", lone).contains("between 2 and 256, but there is 1"));
    let texts = ScoreInput::Texts(vec!["one".into(), "two".into()]);
    assert!(refuse("pairs", texts).contains("`pairs` compares answers, so a text alone has no reward"));
    let refused =
        ScoreInput::Candidates { messages: conversation("hello"), candidates: vec!["a".into(), "q".into()] };
    assert!(refuse("choosy", refused).contains("template refuses the answer"));
}

#[test]
fn strategies_that_need_a_reward_on_the_way_are_refused() {
    let refuse = |change: &dyn Fn(&mut Alignment)| {
        let mut request = request(Method::BestOfN, 4, "pairs");
        change(request.alignment.as_mut().unwrap());
        Harness::new(Setup::roomy()).run(request).error.unwrap()
    };
    let pruning = Method::SpeculativeRejection { alpha: 0.5, first_check: 3, max_checks: 9 };
    for method in
        [pruning, Method::Adaptive(AdaptiveSettings::default()), Method::Blockwise { block_tokens: 4 }]
    {
        let error = refuse(&|alignment| alignment.method = method);
        let wanted = "needs the reward of an answer alone, but the reward model `pairs` compares answers";
        assert!(error.contains(wanted), "{error}");
    }
    for method in [Method::BestOfN, Method::Tournament] {
        let error = refuse(&|alignment| (alignment.method, alignment.n) = (method, 1));
        assert!(error.contains("but there is 1"), "{error}");
    }
    assert!(refuse(&|alignment| alignment.n = 257).contains("but there are 257"));
    let both = |alignment: &mut Alignment| {
        alignment.method = Method::Tournament;
        alignment.reward.models = vec!["own".into(), "pairs".into()];
    };
    assert!(refuse(&both).contains("takes one reward model that compares"));
    let divided = |alignment: &mut Alignment| {
        (alignment.method, alignment.length_penalty) = (Method::Tournament, LengthPenalty::Divide);
    };
    assert!(refuse(&divided).contains("reward_per_token"));
}
