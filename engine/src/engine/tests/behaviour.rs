//! One behaviour at a time.

use super::*;
use crate::request::{FinishReason, Scoring};
use crate::sampler::{Draw, SampleRow};
use crate::testing::{VOCAB, fake_logits, fake_score, version_hash};
use crate::{RewardSpec, TokenBytes};

/// Draws tokens one by one from the fake model's logits, without any engine.
fn by_hand(request: &GenerateRequest, candidate: usize, version: u64) -> Vec<u32> {
    let params = &request.sampling;
    let mut output = Vec::new();
    while output.len() < params.max_tokens && output.last() != Some(&EOS) {
        let logits = fake_logits(&[&request.prompt[..], &output].concat(), version);
        let row = SampleRow {
            logits: &logits,
            mask: None,
            params,
            draw: Draw { seed: params.seed.unwrap(), candidate, position: output.len() },
            prompt: &request.prompt,
            output: &output,
            end_tokens: &[EOS],
            wants_logprob: false,
        };
        let pool = Pool::new(1).unwrap();
        output.push(Sampler::default().sample(&pool, &[row]).remove(0).unwrap().token);
    }
    output
}

#[test]
fn every_candidate_is_what_drawing_by_hand_gives() {
    let request = generate(&[5, 6, 7, 8, 9], 6, 20);
    let answer = Harness::new(Setup::roomy()).run(request.clone());
    for (candidate, tokens) in answer.tokens.iter().enumerate() {
        assert_eq!(*tokens, by_hand(&request, candidate, 0));
    }
    assert_eq!(answer.policy_version, "fake@base");
    let usage = answer.usage.unwrap();
    assert_eq!(usage.completion_tokens, answer.tokens.iter().map(Vec::len).sum::<usize>());
    assert_eq!((usage.prompt_tokens, usage.rejected_tokens), (5, 0));
}

#[test]
fn text_is_the_tokens_text_and_ends_before_the_stop_string() {
    let mut harness = Harness::new(Setup::roomy());
    let plain = harness.run(generate(&[3, 4], 1, 40));
    let vocabulary = FakeVocabulary::new();
    let bytes: Vec<u8> =
        plain.tokens[0].iter().flat_map(|&token| vocabulary.token_bytes(token).to_vec()).collect();
    assert_eq!(plain.texts[0], String::from_utf8_lossy(&bytes));

    let text: Vec<char> = plain.texts[0].chars().collect();
    let stop: String = text[4..7].iter().collect();
    let mut request = generate(&[3, 4], 1, 40);
    request.sampling.stop = vec![stop.clone()];
    let stopped = harness.run(request.clone());
    assert_eq!(stopped.texts[0], plain.texts[0][..plain.texts[0].find(&stop).unwrap()]);
    assert_eq!(stopped.reasons, [Some("stop")]);
    request.sampling.include_stop = true;
    assert_eq!(harness.run(request).texts[0], stopped.texts[0].clone() + &stop);
}

#[test]
fn ends_are_told_apart() {
    let mut harness = Harness::new(Setup::roomy());
    let mut reasons = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let mut request = generate(&[3, 4], 1, 30);
        request.sampling.seed = Some(seed);
        let answer = harness.run(request);
        let ended_by_eos = answer.tokens[0].last() == Some(&EOS);
        assert_eq!(answer.reasons[0], Some(if ended_by_eos { "stop" } else { "length" }));
        reasons.insert(answer.reasons[0]);
    }
    assert_eq!(reasons.len(), 2);
    let mut request = generate(&[3, 4], 1, 30);
    request.sampling.min_tokens = 30;
    assert_eq!(harness.run(request).tokens[0].len(), 30);
}

#[test]
fn candidates_share_the_prompts_blocks() {
    let mut harness = Harness::new(Setup { block_size: 4, ..Setup::roomy() });
    // Ten full blocks and one token.
    let prompt: Vec<u32> = (0..41).map(|i| 3 + i % 60).collect();
    let mut request = generate(&prompt, 16, 3);
    request.sampling.ignore_eos = true;
    harness.send(request);
    let mut most = 0;
    while !harness.engine.requests.is_empty() {
        harness.step();
        most = most.max(harness.engine.stats(ModelId::POLICY).used_blocks);
    }
    assert_eq!(most, 10 + 16);
    assert_eq!(harness.policy.num_tokens.get(), 41 + 16 * 2, "the prompt is computed once");
}

#[test]
fn a_second_request_finds_the_first_ones_prompt() {
    let mut setup = Setup::roomy();
    setup.config.prefix_caching = true;
    let mut harness = Harness::new(setup);
    let prompt: Vec<u32> = (0..30).map(|i| 3 + i % 60).collect();
    let cold = harness.run(generate(&prompt, 2, 10));
    let warm = harness.run(generate(&prompt, 2, 10));
    assert_eq!((cold.cached_tokens, warm.cached_tokens), (0, 28));
    assert_eq!(warm.usage.unwrap().cached_tokens, 28);
    assert_eq!(cold.essence(), warm.essence());
    // Another adapter's blocks are not the base's.
    let other = harness.run(GenerateRequest { adapter: Some("lora".into()), ..generate(&prompt, 2, 10) });
    assert_eq!(other.cached_tokens, 0);
    assert_ne!(other.tokens, warm.tokens);
}

#[test]
fn an_adapter_swap_leaves_running_sequences_alone() {
    let mut harness = Harness::new(Setup::roomy());
    let request = GenerateRequest { adapter: Some("lora".into()), ..generate(&[9, 8, 7], 2, 30) };
    let before = harness.send(request.clone());
    (0..4).for_each(|_| harness.step());
    harness.swap("v1");
    let after = harness.send(request.clone());
    harness.finish();
    for (id, version) in [(before, "v0"), (after, "v1")] {
        let answer = harness.answer(id);
        assert_eq!(answer.policy_version, format!("lora@{version}"));
        for candidate in 0..2 {
            let hash = version_hash(&adapter("lora", version));
            assert_eq!(answer.tokens[candidate], by_hand(&request, candidate, hash));
        }
    }
}

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

#[test]
fn prompt_logprobs_are_those_of_each_prefix() {
    let mut setup = Setup::roomy();
    setup.config.prefix_caching = true;
    setup.config.max_num_seqs = 4;
    setup.config.max_num_batched_tokens = 7;
    let mut harness = Harness::new(setup);
    let prompt: Vec<u32> = (0..20).map(|i| 3 + i % 60).collect();
    // Warm: the rows are wanted all the same.
    harness.run(generate(&prompt, 1, 4));
    let mut request = generate(&prompt, 2, 0);
    request.sampling.prompt_logprobs = Some(3);
    let answer = harness.run(request);
    assert_eq!(answer.reasons, [Some("length"), Some("length")]);
    let logprobs = answer.prompt_logprobs.unwrap();
    assert_eq!((logprobs.len(), answer.cached_tokens), (19, 0));
    for (position, logprobs) in (1..).zip(&logprobs) {
        let logits = fake_logits(&prompt[..position], 0);
        let lse = logits.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
        let expected = f64::from(logits[prompt[position] as usize]) - lse;
        assert_eq!(logprobs.own.token, prompt[position]);
        assert!((f64::from(logprobs.own.logprob) - expected).abs() < 1e-5);
        assert_eq!(logprobs.top.len(), 3);
    }
}

#[test]
fn a_budget_for_all_candidates_is_split_evenly() {
    let mut request = best_of(&[5, 6, 7], 3, 100, "own");
    request.sampling.ignore_eos = true;
    request.alignment.as_mut().unwrap().max_total_tokens = Some(10);
    let answer = Harness::new(Setup::roomy()).run(request);
    assert_eq!(answer.tokens.iter().map(Vec::len).collect::<Vec<_>>(), [4, 3, 3]);
    assert_eq!(answer.reasons, [Some("length"); 3]);
}

#[test]
fn a_nan_fails_its_own_request_only() {
    let mut harness = Harness::new(Setup::roomy());
    harness.policy.nan_after.set(Some(33));
    let bad = harness.send(generate(&[5, 33], 2, 8));
    let good = harness.send(GenerateRequest {
        sampling: SamplingParams {
            logit_bias: vec![(33, -100.0)],
            max_tokens: 8,
            seed: Some(1),
            ..SamplingParams::default()
        },
        ..generate(&[5, 6], 2, 8)
    });
    harness.finish();
    assert!(harness.answer(bad).error.unwrap().contains("NaN"));
    let good = harness.answer(good);
    assert_eq!((good.error, good.reasons.len()), (None, 2));
}

#[test]
fn a_refused_batch_or_a_panic_fails_its_sequences_and_the_engine_goes_on() {
    for (is_panic, words) in [(false, "a fuse blew"), (true, "the fuse box blew")] {
        let mut harness = Harness::new(Setup::roomy());
        let running = harness.send(generate(&[5, 6], 2, 8));
        harness.step();
        if is_panic { &harness.policy.panic } else { &harness.policy.fail }.set(true);
        harness.step();
        let next = harness.send(generate(&[5, 6], 2, 8));
        harness.finish();
        assert!(harness.answer(running).error.unwrap().contains(words));
        assert!(harness.answer(next).usage.is_some());
    }
}

#[test]
fn a_client_that_left_is_forgotten_at_its_next_event() {
    let mut harness = Harness::new(Setup::roomy());
    let id = harness.send(generate(&[5, 6], 4, 100));
    (0..3).for_each(|_| harness.step());
    harness.streams[id.0 as usize].1.close();
    harness.step();
    assert!(harness.engine.requests.is_empty());
    harness.finish();
}

#[test]
fn what_is_aborted_between_steps_leaves_the_gauges_too() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let mut harness = Harness::new(Setup::roomy());
        let id = harness.send(generate(&[1, 2], 4, 100));
        harness.step();
        harness.step();
        assert!(metrics.render().contains("rectify_sequences_running{model=\"fake\"} 4\n"));
        harness.engine.handle(Command::Abort(id));
        harness.step();
        let text = metrics.render();
        for gauge in ["rectify_sequences_running", "rectify_kv_blocks_used"] {
            assert!(text.contains(&format!("{gauge}{{model=\"fake\"}} 0\n")), "{text}");
        }
    });
}

#[test]
fn refuses_what_could_never_be_served_with_a_sentence() {
    let mut setup = Setup { num_blocks: 16, ..Setup::roomy() };
    setup.config.max_waiting = 2;
    let mut harness = Harness::new(setup);
    let mut error = |request: GenerateRequest| harness.run(request).error.unwrap();
    let long: Vec<u32> = vec![3; 500];
    assert!(error(generate(&long, 1, 100)).contains("context is 512 tokens, but the prompt has 500"));
    assert!(error(generate(&long[..60], 1, 5)).contains("KV cache holds 64 tokens"));
    assert!(error(generate(&long[..59], 2, 5)).contains("KV cache holds 60 tokens"));
    assert!(error(generate(&[], 1, 5)).contains("prompt has no tokens"));
    assert!(error(generate(&[VOCAB as u32], 1, 5)).contains("holds token 64"));
    assert!(error(generate(&[1], 0, 5)).contains("n is 0"));
    assert!(error(generate(&[1], 1, 0)).contains("max_tokens is 0"));
    assert!(
        error(GenerateRequest { adapter: Some("x".into()), ..generate(&[1], 1, 5) }).contains("adapter `x`")
    );
    assert!(error(best_of(&[1], 2, 5, "nobody")).contains("reward model `nobody` does not exist"));
    let mut few = best_of(&[1], 2, 5, "own");
    few.num_choices = 3;
    assert!(error(few).contains("alignment.n is 2, but n asks for 3"));
    let mut poor = best_of(&[1], 2, 5, "own");
    poor.alignment.as_mut().unwrap().max_total_tokens = Some(1);
    assert!(error(poor).contains("max_total_tokens is 1"));

    let ids: Vec<RequestId> = (0..3).map(|_| harness.send(generate(&[1, 2], 1, 5))).collect();
    harness.finish();
    let errors: Vec<bool> = ids.into_iter().map(|id| harness.answer(id).error.is_some()).collect();
    assert_eq!(errors, [false, false, true]);
}

#[test]
fn candidates_that_do_not_fit_together_run_in_waves() {
    // Two blocks of prompt leave six for tails of four blocks: one candidate at a time, or two short ones.
    let setup = Setup { num_blocks: 8, ..Setup::roomy() };
    let mut request = generate(&[3, 4, 5, 6, 7, 8, 9], 6, 16);
    request.sampling.ignore_eos = true;
    let expected = Harness::new(Setup::roomy()).run(request.clone());
    let mut harness = Harness::new(setup);
    let answer = harness.run(request);
    assert_eq!(answer.essence(), expected.essence());
    assert!(harness.engine.stats(ModelId::POLICY).peak_used_blocks <= 8);
}

#[test]
fn the_newest_group_makes_room_for_the_oldest() {
    let mut setup = Setup { num_blocks: 10, ..Setup::roomy() };
    setup.config.prefix_caching = true;
    let mut harness = Harness::new(setup);
    let request = |first: u32| {
        let mut request = generate(&[first, 4, 5], 1, 24);
        request.sampling.ignore_eos = true;
        request
    };
    let ids = [harness.send(request(3)), harness.send(request(10))];
    let mut ends = Vec::new();
    while !harness.engine.requests.is_empty() {
        harness.step();
        for id in ids {
            if !harness.engine.requests.contains_key(&id) && !ends.contains(&id) {
                ends.push(id);
            }
        }
    }
    assert_eq!(ends, ids);
    assert!(harness.engine.stats(ModelId::POLICY).preemptions > 0);
    for (id, first) in ids.into_iter().zip([3, 10]) {
        assert_eq!(harness.answer(id).essence(), Harness::new(Setup::roomy()).run(request(first)).essence());
    }
}

#[test]
fn lower_priority_numbers_go_first() {
    let mut setup = Setup::roomy();
    setup.config.max_num_seqs = 1;
    setup.config.max_num_batched_tokens = 16;
    let mut harness = Harness::new(setup);
    let ids: Vec<RequestId> = [1, 0, -1, 0]
        .into_iter()
        .map(|priority| harness.send(GenerateRequest { priority, ..generate(&[3, 4], 1, 3) }))
        .collect();
    let mut order = Vec::new();
    while !harness.engine.requests.is_empty() {
        harness.step();
        order.extend(ids.iter().filter(|id| !harness.engine.requests.contains_key(id)).copied());
        order.dedup();
        let mut seen = std::collections::HashSet::new();
        order.retain(|id| seen.insert(*id));
    }
    assert_eq!(order, [ids[2], ids[1], ids[3], ids[0]]);
}

#[test]
fn long_prompts_and_texts_never_hold_up_decoding() {
    let mut setup = Setup::roomy();
    setup.config.max_num_seqs = 8;
    setup.config.max_num_batched_tokens = 16;
    let mut harness = Harness::new(setup);
    let mut decoding = generate(&[3, 4], 2, 60);
    decoding.sampling.ignore_eos = true;
    let decoding = harness.send(decoding);
    harness.step();
    harness.send(generate(&[7; 200], 1, 2));
    harness.score("adapter", ScoreInput::Texts(vec!["y".repeat(200)]));
    harness.score("own", ScoreInput::Texts(vec!["z".repeat(200)]));
    harness.answer(decoding);
    for _ in 0..59 {
        let before = harness.engine.generated_tokens;
        harness.step();
        assert!(harness.engine.generated_tokens >= before + 2, "both candidates decode in every step");
    }
    harness.finish();
    assert!(harness.policy.most_beside_decode.get() <= 16);
}

#[test]
fn scoring_takes_its_share_beside_a_prompt_and_all_there_is_without_one() {
    let mut setup = Setup::roomy();
    setup.config.max_num_seqs = 4;
    setup.config.max_num_batched_tokens = 40;
    let mut harness = Harness::new(setup);
    harness.score("own", ScoreInput::Texts(vec!["z".repeat(400)]));
    harness.step();
    assert_eq!(harness.reward.num_tokens.get(), 40);
    harness.send(generate(&[7; 200], 1, 2));
    harness.step();
    assert_eq!((harness.reward.num_tokens.get(), harness.policy.num_tokens.get()), (50, 30));
    harness.finish();
}

#[test]
fn draining_finishes_what_runs_and_refuses_what_comes() {
    let mut harness = Harness::new(Setup::roomy());
    let running = harness.send(generate(&[3, 4], 1, 5));
    let (reply, _drained) = oneshot::channel();
    harness.engine.handle(Command::Drain(reply));
    let late = harness.send(generate(&[3, 4], 1, 5));
    harness.finish();
    assert!(harness.answer(running).usage.is_some());
    assert!(harness.answer(late).error.unwrap().contains("shutting down"));
}

#[test]
fn logprobs_and_totals_agree() {
    let mut request = best_of(&[5, 6, 7], 2, 10, "own");
    request.sampling.logprobs = Some(2);
    request.sampling.temperature = 0.7;
    let mut harness = Harness::new(Setup::roomy());
    let id = harness.send(request);
    harness.finish();
    let events = &mut harness.streams[id.0 as usize].1;
    let (mut sums, mut selection) = ([0.0f64; 2], None);
    while let Some(event) = events.try_next() {
        match event {
            Event::Token { index, token, logprobs, .. } => {
                let logprobs = logprobs.unwrap();
                assert_eq!(logprobs.own.token, token);
                assert!(logprobs.top[0].logprob >= logprobs.top[1].logprob);
                sums[index] += f64::from(logprobs.own.logprob);
            }
            Event::Selected(made) => selection = Some(made),
            _ => {}
        }
    }
    for (candidate, sum) in selection.unwrap().candidates.iter().zip(sums) {
        assert!((candidate.logprob - sum).abs() < 1e-9);
        assert!(matches!(candidate.finish_reason, Some(FinishReason::Stop | FinishReason::Length)));
    }
}

#[test]
fn an_engine_on_its_thread_answers_and_ends_with_its_handle() {
    let build = || {
        Ok(EngineParts {
            policies: vec![policy_parts("fake", FakeModel::new(64, 4, false), vec![])],
            pool: Arc::new(Pool::new(1).map_err(|error| EngineError::Execution(error.to_string()))?),
            rewards: vec![],
        })
    };
    let handle = start(EngineConfig::default(), build).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut stream = handle.generate(generate(&[3, 4], 2, 5)).await.unwrap();
        let mut last = None;
        while let Some(event) = stream.next().await {
            last = Some(event);
        }
        assert!(matches!(last, Some(Event::Done(_))));
        let unscored = handle.generate(best_of(&[3], 2, 5, "own")).await.unwrap().next().await;
        assert!(matches!(unscored, Some(Event::Failed(EngineError::NotFound { .. }))));
        assert!(handle.load_adapter("a".into(), "x".into(), false).await.is_err());
        assert_eq!(handle.install_adapter(adapter("a", "1"), false).await.unwrap().rank, 1);
        assert_eq!(handle.adapters().await.unwrap().len(), 1);
        assert_eq!(handle.stats().await.unwrap().used_blocks, 0);
        handle.drain().await.unwrap();
    });
    let failed = start(EngineConfig::default(), || Err(EngineError::load("here", "is nothing")));
    assert_eq!(failed.unwrap_err().to_string(), "here: is nothing");
}
