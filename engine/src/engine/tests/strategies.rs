//! Strategies in the engine: what they hold, drop, copy and begin late is what drawing by hand gives.

use super::*;
use crate::RewardSpec;
use crate::alignment::Method;
use crate::request::Scoring;
use crate::strategy::{AdaptiveSettings, Combine};
use crate::testing::{fake_score, version_hash};

const PRUNING: Method = Method::SpeculativeRejection { alpha: 0.5, first_check: 3, max_checks: 9 };
const ADAPTIVE: Method = Method::Adaptive(adaptive(0.5));
const BLOCKWISE: Method = Method::Blockwise { block_tokens: 4 };

/// The fake model's rewards lie in [-8, 8).
const fn adaptive(cost: f32) -> AdaptiveSettings {
    AdaptiveSettings { cost, first: 2, round: 2, reward_mean: 0.0, reward_std: 4.0, prior_weight: 4.0 }
}

fn by_method(method: Method, n: usize, max_tokens: usize) -> GenerateRequest {
    let mut request = best_of(&[5, 6, 7, 8, 9], n, max_tokens, "own");
    request.alignment.as_mut().unwrap().method = method;
    request
}

/// Candidate `candidate` of `request` from `output` on, until it has `until` tokens or ends; and whether it ended.
fn draw(request: &GenerateRequest, candidate: usize, output: &[u32], until: usize) -> (Vec<u32>, bool) {
    let params = &request.sampling;
    let mut output = output.to_vec();
    let has_ended = |output: &[u32]| output.len() == params.max_tokens || output.last() == Some(&EOS);
    while output.len() < until && !has_ended(&output) {
        output.push(draw_next(request, candidate, &output, 0));
    }
    let ended = has_ended(&output);
    (output, ended)
}

/// The reward of what `tokens` say.
fn reward(request: &GenerateRequest, tokens: &[u32]) -> f32 {
    let vocabulary = FakeVocabulary::new();
    let bytes: Vec<u8> = tokens.iter().flat_map(|&token| vocabulary.token_bytes(token).to_vec()).collect();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let tokens = FakeTemplate::default().candidate_tokens(&request.messages, &text).unwrap();
    fake_score(&tokens, 0)
}

/// No halves of characters, whose text is not certain before the other half.
fn plain(mut request: GenerateRequest, seed: u64) -> GenerateRequest {
    request.sampling.logit_bias = crate::testing::HALVES.map(|token| (token, -100.0)).to_vec();
    request.sampling.seed = Some(seed);
    request
}

#[test]
fn what_a_check_drops_is_not_drawn_any_further() {
    let mut most_pruned = 0;
    for seed in 0..20 {
        let request = plain(by_method(PRUNING, 8, 20), seed);
        let answer = Harness::new(Setup::roomy()).run(request.clone());
        let selection = answer.selection.unwrap();
        for (index, candidate) in selection.candidates.iter().enumerate() {
            let (whole, _) = draw(&request, index, &[], usize::MAX);
            assert_eq!(candidate.tokens, whole[..candidate.tokens.len()]);
            assert_eq!(candidate.finish_reason.is_some(), candidate.tokens.len() == whole.len());
            assert_eq!(candidate.reward, Some(reward(&request, &candidate.tokens)), "of what it had");
        }
        let dropped = selection.candidates.iter().filter(|candidate| candidate.finish_reason.is_none());
        let num_pruned: usize = dropped.map(|candidate| candidate.tokens.len()).sum();
        assert_eq!((selection.num_pruned_tokens, selection.scoring), (num_pruned, Scoring::Ok));
        assert_eq!(selection.num_tokens, answer.usage.unwrap().completion_tokens);
        most_pruned = most_pruned.max(num_pruned);
    }
    assert!(most_pruned > 0);
}

#[test]
fn survivors_of_the_first_check_are_the_better_half() {
    let mut request = plain(by_method(PRUNING, 8, 20), 3);
    // Nobody ends before the check.
    request.sampling.min_tokens = 4;
    let answer = Harness::new(Setup::roomy()).run(request.clone());
    let mut rewards: Vec<(usize, f32)> =
        (0..8).map(|index| (index, reward(&request, &answer.tokens[index][..3]))).collect();
    rewards.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (rank, (index, _)) in rewards.into_iter().enumerate() {
        assert_eq!(answer.tokens[index].len() > 3, rank < 4, "{index}");
    }
}

#[test]
fn candidates_that_begin_late_say_what_they_would_have_said_at_once() {
    let mut counts = std::collections::BTreeSet::new();
    for seed in 0..30 {
        let request = plain(by_method(ADAPTIVE, 9, 12), seed);
        for prefix_caching in [false, true] {
            let mut setup = Setup::roomy();
            setup.config.prefix_caching = prefix_caching;
            let answer = Harness::new(setup).run(request.clone());
            let selection = answer.selection.unwrap();
            for (index, candidate) in selection.candidates.iter().enumerate() {
                assert_eq!(candidate.tokens, draw(&request, index, &[], usize::MAX).0);
            }
            counts.insert(selection.candidates.len());
        }
    }
    assert!(counts.len() > 1, "it always drew {counts:?}");
}

#[test]
fn blocks_are_the_best_of_each_and_stream_as_they_are_chosen() {
    for seed in 0..20 {
        let request = plain(by_method(BLOCKWISE, 3, 17), seed);
        let answer = Harness::new(Setup::roomy()).run(request.clone());
        let (mut text, mut num_tokens) = (Vec::new(), 0);
        let winner = loop {
            let end = text.len() + 4;
            let blocks: Vec<_> = (0..3).map(|candidate| draw(&request, candidate, &text, end)).collect();
            num_tokens += blocks.iter().map(|(block, _)| block.len() - text.len()).sum::<usize>();
            let rewards: Vec<f32> = blocks.iter().map(|(block, _)| reward(&request, block)).collect();
            let best = (0..3).max_by(|&a, &b| rewards[a].total_cmp(&rewards[b]).then(b.cmp(&a))).unwrap();
            text.clone_from(&blocks[best].0);
            if blocks[best].1 {
                break best;
            }
        };
        let selection = answer.selection.unwrap();
        assert_eq!(selection.selected, [winner]);
        assert_eq!(selection.candidates[winner].tokens, text);
        assert_eq!(answer.blocks, selection.candidates[winner].text);
        assert_eq!(selection.num_blocks, text.len().div_ceil(4));
        assert_eq!((selection.num_tokens, answer.usage.unwrap().completion_tokens), (num_tokens, num_tokens));
        let usage = answer.usage.unwrap();
        assert_eq!(usage.rejected_tokens, num_tokens - text.len());
    }
}

#[test]
fn several_reward_models_judge_together() {
    let version = version_hash(&adapter_with_head("adapter", "rm", true));
    for combine in [Combine::Min, Combine::MeanMinusStd(1.0), Combine::SafetyGated(0.0)] {
        let mut request = best_of(&[5, 6, 7, 8, 9], 6, 12, "own");
        // No `q`, which the second template refuses.
        request.sampling.logit_bias = vec![(16, -100.0), (42, -100.0)];
        let models = vec!["own".to_owned(), "adapter".to_owned()];
        request.alignment.as_mut().unwrap().reward = RewardRule { models, combine: combine.clone() };
        let answer = Harness::new(Setup::roomy()).run(request.clone());
        let selection = answer.selection.unwrap();
        assert_eq!(*selection.reward_model, format!("{}(own, adapter)", combine.name()));
        assert_eq!(selection.scoring, Scoring::Ok);
        for candidate in &selection.candidates {
            let tokens =
                FakeTemplate::default().candidate_tokens(&request.messages, &candidate.text).unwrap();
            let rewards = [fake_score(&tokens, 0), fake_score(&tokens, version)];
            assert_eq!(candidate.rewards, rewards.map(Some));
            assert_eq!(candidate.reward, Some(combine.apply(&rewards) as f32));
        }
    }
}

#[test]
fn one_reward_model_that_fails_fails_the_candidate() {
    let mut request = best_of(&[5, 6, 7], 6, 25, "own");
    let models = vec!["own".to_owned(), "adapter".to_owned()];
    request.alignment.as_mut().unwrap().reward = RewardRule { models, combine: Combine::Mean };
    let answer = Harness::new(Setup::roomy()).run(request);
    let selection = answer.selection.unwrap();
    for candidate in &selection.candidates {
        // Its template refuses answers with a `q`.
        let is_refused = candidate.text.contains('q');
        assert_eq!((candidate.reward.is_none(), candidate.rewards[1].is_none()), (is_refused, is_refused));
        assert!(candidate.rewards[0].is_some());
    }
}

#[test]
fn a_pool_larger_than_memory_is_checked_in_waves() {
    for method in [PRUNING, ADAPTIVE, BLOCKWISE] {
        let mut request = plain(by_method(method, 8, 16), 7);
        request.sampling.ignore_eos = true;
        let expected = Harness::new(Setup::roomy()).run(request.clone());
        for prefix_caching in [false, true] {
            // Two blocks of prompt leave six for tails of four blocks.
            let mut setup = Setup { num_blocks: 8, ..Setup::roomy() };
            setup.config.prefix_caching = prefix_caching;
            let answer = Harness::new(setup).run(request.clone());
            assert_eq!(answer.essence(), expected.essence(), "{method:?}");
            let mut setup = Setup::roomy();
            setup.config.max_num_seqs = 3;
            assert_eq!(Harness::new(setup).run(request.clone()).essence(), expected.essence(), "{method:?}");
        }
    }
}

#[test]
fn settings_that_cannot_be_are_refused_with_a_sentence() {
    let mut harness = Harness::new(Setup::roomy());
    for (method, field) in [
        (Method::SpeculativeRejection { alpha: 1.0, first_check: 3, max_checks: 9 }, "early_stop.alpha"),
        (
            Method::SpeculativeRejection { alpha: 0.5, first_check: 0, max_checks: 9 },
            "early_stop.first_check",
        ),
        (Method::Adaptive(adaptive(f32::NAN)), "early_stop.cost"),
        (Method::Adaptive(AdaptiveSettings { first: 0, ..adaptive(1.0) }), "early_stop.first"),
        (Method::Blockwise { block_tokens: 0 }, "block_tokens"),
    ] {
        let error = harness.run(by_method(method, 4, 8)).error.unwrap();
        assert!(error.contains(field), "{error}");
    }
}
