//! What the candidates of one request are: tokens, text, logprobs, and what they share.

use super::*;
use crate::TokenBytes;
use crate::request::FinishReason;
use crate::testing::version_hash;

/// All tokens of a candidate, drawn without any engine.
fn by_hand(request: &GenerateRequest, candidate: usize, version: u64) -> Vec<u32> {
    let mut output = Vec::new();
    while output.len() < request.sampling.max_tokens && output.last() != Some(&EOS) {
        output.push(draw_next(request, candidate, &output, version));
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
