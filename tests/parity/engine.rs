//! The whole engine against PyTorch and against itself: the same tokens and the same bits alone, in a crowd, through
//! preemption and from a warm prefix cache.

use std::sync::Arc;

use rectify_engine::alignment::{Alignment, RewardRule};
use rectify_engine::request::{Message, ScoreInput};
use rectify_engine::{EngineConfig, EngineHandle, GenerateRequest, SamplingParams, ScoreRequest};
use rectify_tests::fixture::{FAMILIES, Fixture, Greedy};
use rectify_tests::harness::Setup;
use rectify_tests::outcome::{Outcome, generate, greedy_request, score};

const LABELS: [&str; 3] = ["policy", "lora", "lora-ranks"];
const TOLERANCE: f64 = 1e-4;

fn request(label: &str, prompt: &[u32], max_tokens: usize) -> GenerateRequest {
    let adapter = (label != "policy").then(|| label.to_owned());
    GenerateRequest { adapter: adapter.map(Into::into), ..greedy_request(prompt, max_tokens) }
}

/// Every greedy case of a fixture: its label, and what PyTorch continues with.
fn cases(fixture: &Fixture) -> Vec<(&'static str, &Greedy)> {
    LABELS
        .iter()
        .flat_map(|&label| fixture.language(label).greedy.iter().map(move |case| (label, case)))
        .collect()
}

/// Runs requests at once.
async fn together(engine: &EngineHandle, requests: Vec<GenerateRequest>) -> Vec<Outcome> {
    let tasks: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let engine = engine.clone();
            tokio::spawn(async move { generate(&engine, request).await.unwrap() })
        })
        .collect();
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    outcomes
}

/// What the cases give one after the other, compared with PyTorch.
async fn alone(fixture: &Fixture, engine: &EngineHandle) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for (label, case) in cases(fixture) {
        let outcome = generate(engine, request(label, &case.ids, case.tokens.len())).await.unwrap();
        assert_eq!(outcome.candidates[0].tokens, case.tokens, "{} {label}", fixture.folder.display());
        assert_eq!(outcome.candidates[0].text, case.text);
        outcomes.push(outcome);
    }
    outcomes
}

/// The generated tokens and the bits of their logprobs.
fn trace(outcome: &Outcome) -> (Vec<u32>, Vec<u32>) {
    let bits = outcome.own_logprobs().iter().map(|logprob| logprob.to_bits()).collect();
    (outcome.candidates[0].tokens.clone(), bits)
}

async fn assert_idle(engine: &EngineHandle) {
    let stats = engine.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.running, stats.used_blocks), (0, 0, 0), "{stats:?}");
}

#[tokio::test]
async fn greedy_text_is_pytorchs_for_64_tokens_alone_and_in_a_ragged_batch_of_32() {
    for family in FAMILIES {
        let fixture = Fixture::load(family);
        let engine = Setup::default().start(&fixture);
        let wanted: Vec<_> = alone(&fixture, &engine).await.iter().map(trace).collect();
        let cases = cases(&fixture);
        let pick = |i: usize| i * 7 % cases.len();
        let crowd = (0..32).map(|i| {
            let (label, case) = cases[pick(i)];
            request(label, &case.ids, case.tokens.len())
        });
        let found = together(&engine, crowd.collect()).await;
        for (i, outcome) in found.iter().enumerate() {
            assert_eq!(trace(outcome), wanted[pick(i)], "{family}, request {i} of the crowd");
        }
        assert_idle(&engine).await;
    }
}

#[tokio::test]
async fn preemption_changes_no_bit() {
    for family in FAMILIES {
        let fixture = Fixture::load(family);
        let wanted: Vec<_> =
            alone(&fixture, &Setup::default().start(&fixture)).await.iter().map(trace).collect();
        // Nine requests of 5 to 9 blocks each, and room for about three of them.
        let tiny = Setup { num_blocks: 24, ..Setup::default() };
        let engine = tiny.start(&fixture);
        let crowd =
            cases(&fixture).into_iter().map(|(label, case)| request(label, &case.ids, case.tokens.len()));
        let found = together(&engine, crowd.collect()).await;
        for (i, outcome) in found.iter().enumerate() {
            assert_eq!(trace(outcome), wanted[i], "{family}, request {i}");
        }
        let stats = engine.stats().await.unwrap();
        assert!(stats.preemptions > 0, "{family}: nothing was preempted, so nothing was shown: {stats:?}");
        assert_idle(&engine).await;
    }
}

#[tokio::test]
async fn a_warm_prefix_cache_changes_no_bit() {
    for family in FAMILIES {
        let fixture = Fixture::load(family);
        let cold: Vec<_> =
            alone(&fixture, &Setup::default().start(&fixture)).await.iter().map(trace).collect();
        let cached = EngineConfig { prefix_caching: true, ..EngineConfig::default() };
        let engine = Setup { engine: cached, ..Setup::default() }.start(&fixture);
        for round in 0..2 {
            let outcomes = alone(&fixture, &engine).await;
            let hits: usize = outcomes.iter().map(|outcome| outcome.cached_tokens).sum();
            assert_eq!(hits > 0, round == 1, "{family}, round {round}: {hits} cached tokens");
            assert_eq!(outcomes.iter().map(trace).collect::<Vec<_>>(), cold, "{family}, round {round}");
        }
        // The whole continuation is cached now, too: a longer prompt starts from it.
        let (label, case) = cases(&fixture)[2];
        let whole: Vec<u32> = case.ids.iter().chain(&case.tokens[..40]).copied().collect();
        let outcome = generate(&engine, request(label, &whole, 24)).await.unwrap();
        assert_eq!(outcome.candidates[0].tokens, case.tokens[40..], "{family}");
        assert!(outcome.cached_tokens >= 48, "{family}: {} cached tokens", outcome.cached_tokens);
    }
}

#[tokio::test]
async fn one_prompt_under_several_adapters_never_shares_a_block() {
    let fixture = Fixture::load("llama");
    let cached = EngineConfig { prefix_caching: true, ..EngineConfig::default() };
    let engine = Setup { engine: cached, ..Setup::default() }.start(&fixture);
    let case = &fixture.language("policy").greedy[2];
    let base = generate(&engine, request("policy", &case.ids, 8)).await.unwrap();
    for label in &LABELS[1..] {
        let adapted = generate(&engine, request(label, &case.ids, 8)).await.unwrap();
        assert_eq!(adapted.cached_tokens, 0, "{label} took blocks of the base");
        assert_ne!(trace(&adapted), trace(&base));
    }
}

#[tokio::test]
async fn prompt_logprobs_are_pytorchs_also_through_preemption_and_a_warm_cache() {
    let fixture = Fixture::load("qwen2");
    let cached =
        EngineConfig { prefix_caching: true, max_num_batched_tokens: 256, ..EngineConfig::default() };
    let engine = Setup { engine: cached, num_blocks: 40, ..Setup::default() }.start(&fixture);
    let mut first: Vec<Vec<u32>> = Vec::new();
    for round in 0..2 {
        let requests = fixture.language("policy").prompts.iter().map(|prompt| {
            let mut request = request("policy", &prompt.ids, 1);
            request.sampling.prompt_logprobs = Some(2);
            request
        });
        let outcomes = together(&engine, requests.collect()).await;
        for (index, (outcome, prompt)) in outcomes.iter().zip(&fixture.language("policy").prompts).enumerate()
        {
            let found: Vec<f32> =
                outcome.prompt_logprobs.iter().map(|logprobs| logprobs.own.logprob).collect();
            assert_eq!(found.len(), prompt.logprobs.len());
            for (&found, wanted) in found.iter().zip(&prompt.logprobs) {
                assert!((f64::from(found) - wanted).abs() <= TOLERANCE, "{found} instead of {wanted}");
            }
            let bits: Vec<u32> = found.iter().map(|logprob| logprob.to_bits()).collect();
            if round == 0 {
                first.push(bits);
            } else {
                assert_eq!(bits, first[index], "prompt {index} in round {round}");
            }
        }
    }
}

fn sampled(prompt: &[u32], n: usize, seed: u64, max_tokens: usize) -> GenerateRequest {
    let sampling =
        SamplingParams { max_tokens, seed: Some(seed), ignore_eos: true, ..SamplingParams::default() };
    GenerateRequest { sampling, num_choices: n, ..greedy_request(prompt, max_tokens) }
}

#[tokio::test]
async fn a_seed_gives_the_same_candidates_in_a_crowd_and_through_preemption() {
    let fixture = Fixture::load("qwen3");
    let prompt = &fixture.language("policy").prompts[5].ids;
    let tokens = |outcome: &Outcome| -> Vec<Vec<u32>> {
        outcome.candidates.iter().map(|c| c.tokens.clone()).collect()
    };
    let engine = Setup::default().start(&fixture);
    let wanted = tokens(&generate(&engine, sampled(prompt, 4, 7, 48)).await.unwrap());
    assert_eq!(wanted.len(), 4);
    assert!((1..4).all(|i| wanted[i] != wanted[0]), "candidates are drawn independently");
    // A prefix of the candidates is the same whatever n is.
    assert_eq!(tokens(&generate(&engine, sampled(prompt, 2, 7, 48)).await.unwrap()), wanted[..2]);
    let tiny = Setup { num_blocks: 36, ..Setup::default() }.start(&fixture);
    for engine in [&engine, &tiny] {
        let crowd = (0..8).map(|i| sampled(prompt, 4, if i % 2 == 0 { 7 } else { 100 + i }, 48));
        let outcomes = together(engine, crowd.collect()).await;
        for outcome in outcomes.iter().step_by(2) {
            assert_eq!(tokens(outcome), wanted);
        }
        assert_idle(engine).await;
    }
    assert!(tiny.stats().await.unwrap().preemptions > 0);
}

#[tokio::test]
async fn scores_are_pytorchs_alone_and_while_others_decode() {
    for family in FAMILIES {
        let fixture = Fixture::load(family);
        let cached = EngineConfig { prefix_caching: true, ..EngineConfig::default() };
        let engine = Setup { engine: cached, ..Setup::default() }.start(&fixture);
        let labels = ["reward-adapter", "reward"];
        let labels = &labels[..1 + usize::from(fixture.expected.reward.is_some())];
        let mut quiet: Vec<Vec<u32>> = Vec::new();
        for busy in [false, true] {
            let company = busy.then(|| {
                let engine = engine.clone();
                let prompt = fixture.language("policy").prompts[6].ids.clone();
                tokio::spawn(async move { generate(&engine, sampled(&prompt, 8, 3, 200)).await.unwrap() })
            });
            let mut all = Vec::new();
            for &label in labels {
                for case in &fixture.reward(label).conversations {
                    let input = ScoreInput::Candidates {
                        messages: Arc::from(case.messages.clone()),
                        candidates: vec![case.answer.clone()],
                    };
                    let text = ScoreInput::Texts(vec![case.text.clone(), case.text.clone()]);
                    for (input, wanted) in [(input, case.score), (text, case.score_of_text)] {
                        let request = ScoreRequest { reward: Some(label.to_owned()), input, priority: 0 };
                        let scores = score(&engine, request).await.unwrap();
                        for &found in &scores {
                            let difference = (f64::from(found) - wanted).abs();
                            assert!(difference <= TOLERANCE, "{family} {label}: {found} instead of {wanted}");
                        }
                        all.push(scores.iter().map(|score| score.to_bits()).collect());
                    }
                }
            }
            if busy {
                assert_eq!(all, quiet, "{family}: company changed a score");
            } else {
                quiet = all;
            }
            if let Some(company) = company {
                company.await.unwrap();
            }
        }
        assert_idle(&engine).await;
    }
}

fn best_of(fixture: &Fixture, prompt: &[u32], n: usize, reward: &str, max_tokens: usize) -> GenerateRequest {
    let messages = fixture.reward("reward").conversations[4].messages.clone();
    let alignment = Alignment { reward: RewardRule::one(Some(reward)), ..Alignment::best_of(n) };
    GenerateRequest {
        messages: Arc::from(messages),
        alignment: Some(alignment),
        num_choices: 1,
        ..sampled(prompt, n, 5, max_tokens)
    }
}

#[tokio::test]
async fn sixty_four_candidates_hold_the_prompts_blocks_once() {
    let fixture = Fixture::load("llama");
    let (n, block, max_tokens) = (64, 16, 40);
    for prompt_len in [144, 150] {
        let engine = Setup::default().start(&fixture);
        let prompt = &fixture.language("policy").prompts[7].ids[..prompt_len];
        let outcome = generate(&engine, sampled(prompt, n, 5, max_tokens)).await.unwrap();
        assert_eq!(outcome.candidates.len(), n);
        let stats = engine.stats().await.unwrap();
        let (shared, tail) = (prompt_len / block, (prompt_len % block + max_tokens).div_ceil(block));
        let most = shared + n * tail;
        assert!(
            (shared + n * (tail - 1)..=most).contains(&stats.peak_used_blocks),
            "prompt of {prompt_len}: {} blocks at the peak, but the prompt's {shared} and {n} tails of {tail} are {most}",
            stats.peak_used_blocks
        );
        assert_idle(&engine).await;
    }
}

#[tokio::test]
async fn best_of_n_picks_the_highest_reward_and_preemption_does_not_change_it() {
    let fixture = Fixture::load("qwen2");
    let prompt = fixture.language("policy").prompts[4].ids.clone();
    for reward in ["reward-adapter", "reward"] {
        let cached = EngineConfig { prefix_caching: true, ..EngineConfig::default() };
        let roomy = Setup { engine: cached, ..Setup::default() }.start(&fixture);
        let request = || best_of(&fixture, &prompt, 16, reward, 32);
        let wanted = generate(&roomy, request()).await.unwrap().selection.unwrap();
        let rewards: Vec<f32> = wanted.candidates.iter().map(|c| c.reward.unwrap()).collect();
        let best = (0..16).rev().max_by(|&a, &b| rewards[a].total_cmp(&rewards[b])).unwrap();
        assert_eq!(wanted.selected, [best]);
        // Room for two groups at most; five want in.
        let tiny = Setup { engine: cached, num_blocks: 72, ..Setup::default() }.start(&fixture);
        for outcome in together(&tiny, (0..5).map(|_| request()).collect()).await {
            assert_eq!(outcome.selection.as_ref(), Some(&wanted), "{reward}");
        }
        assert_idle(&tiny).await;
    }
}

#[tokio::test]
async fn rewards_of_candidates_are_the_scores_of_their_texts() {
    let fixture = Fixture::load("qwen3");
    let cached = EngineConfig { prefix_caching: true, ..EngineConfig::default() };
    let engine = Setup { engine: cached, ..Setup::default() }.start(&fixture);
    for reward in ["reward-adapter", "reward"] {
        let request = best_of(&fixture, &fixture.language("policy").prompts[3].ids, 8, reward, 20);
        let messages: Arc<[Message]> = Arc::clone(&request.messages);
        let selection = generate(&engine, request).await.unwrap().selection.unwrap();
        let candidates: Vec<String> = selection.candidates.iter().map(|c| c.text.clone()).collect();
        let input = ScoreInput::Candidates { messages, candidates };
        let scores = score(&engine, ScoreRequest { reward: Some(reward.to_owned()), input, priority: 0 })
            .await
            .unwrap();
        let rewards: Vec<f32> = selection.candidates.iter().map(|c| c.reward.unwrap()).collect();
        assert_eq!(scores, rewards, "{reward}");
    }
}
