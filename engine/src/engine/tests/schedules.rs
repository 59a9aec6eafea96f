//! Random schedules: whatever arrives, leaves, forks, is preempted or swapped, blocks neither leak nor alias, and every
//! answer is what the request gets alone.

use proptest::prelude::*;

use super::*;
use crate::alignment::Method;
use crate::strategy::{AdaptiveSettings, Combine};

/// What a test does between steps.
#[derive(Clone, Debug)]
enum Operation {
    Generate(Plan),
    Score { own: bool, text: String, num_candidates: usize },
    Cancel(usize),
    Swap(u8),
    Steps(usize),
}

/// A request, by few numbers.
#[derive(Clone, Debug)]
struct Plan {
    prompt: Vec<u32>,
    n: usize,
    max_tokens: usize,
    reward: Option<&'static str>,
    method: Method,
    has_second_judge: bool,
    uses_adapter: bool,
    priority: i32,
    seed: u64,
    has_stop: bool,
    wants_prompt_logprobs: bool,
    temperature: f32,
}

impl Plan {
    fn request(&self) -> GenerateRequest {
        let mut request = match self.reward {
            Some(reward) => best_of(&self.prompt, self.n, self.max_tokens, reward),
            None => generate(&self.prompt, self.n, self.max_tokens),
        };
        if let Some(alignment) = &mut request.alignment {
            alignment.method = self.method;
            if self.has_second_judge {
                let models = vec!["adapter".to_owned(), "own".to_owned()];
                alignment.reward = RewardRule { models, combine: Combine::Min };
            }
        }
        request.sampling.seed = Some(self.seed);
        request.sampling.temperature = self.temperature;
        request.sampling.frequency_penalty = if self.has_stop { 0.5 } else { 0.0 };
        request.sampling.stop =
            if self.has_stop { vec!["ab".into(), "é".into(), "m".into()] } else { vec![] };
        request.sampling.prompt_logprobs = self.wants_prompt_logprobs.then_some(1);
        request.adapter = self.uses_adapter.then(|| "lora".into());
        request.priority = self.priority;
        request
    }
}

fn method() -> impl Strategy<Value = Method> {
    prop_oneof![
        2 => Just(Method::BestOfN),
        1 => (1usize..7).prop_map(|first_check| Method::SpeculativeRejection { alpha: 0.5, first_check, max_checks: 3 }),
        1 => (1usize..4).prop_map(|round| {
            Method::Adaptive(AdaptiveSettings { cost: 0.5, reward_std: 4.0, first: 2, round, ..AdaptiveSettings::default() })
        }),
        1 => (1usize..7).prop_map(|block_tokens| Method::Blockwise { block_tokens }),
    ]
}

fn prompt() -> impl Strategy<Value = Vec<u32>> {
    // Few stems, so that prefixes are shared.
    (0u32..3, 1usize..30, 0u32..3).prop_map(|(stem, len, last)| {
        let mut prompt: Vec<u32> = (0..len as u32).map(|i| 3 + (stem * 7 + i) % 60).collect();
        prompt[len - 1] += last;
        prompt
    })
}

prop_compose! {
    fn plan()(
        prompt in prompt(),
        n in prop_oneof![3 => 1usize..4, 1 => 4usize..9],
        max_tokens in 1usize..20,
        reward in prop_oneof![2 => Just(None), 2 => Just(Some("own")), 2 => Just(Some("adapter"))],
        method in method(),
        has_second_judge in prop::bool::weighted(0.2),
        uses_adapter in prop::bool::weighted(0.3),
        priority in -1i32..2,
        seed in 0u64..1000,
        has_stop in prop::bool::weighted(0.3),
        wants_prompt_logprobs in prop::bool::weighted(0.2),
        temperature in prop_oneof![Just(0.0f32), Just(1.0)],
    ) -> Plan {
        Plan { prompt, n, max_tokens, reward, method, has_second_judge, uses_adapter, priority, seed, has_stop, wants_prompt_logprobs, temperature }
    }
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => plan().prop_map(Operation::Generate),
        1 => (any::<bool>(), "[a-p]{1,30}", 1usize..5)
            .prop_map(|(own, text, num_candidates)| Operation::Score { own, text, num_candidates }),
        2 => (0usize..20).prop_map(Operation::Cancel),
        1 => (0u8..3).prop_map(Operation::Swap),
        5 => (1usize..8).prop_map(Operation::Steps),
    ]
}

prop_compose! {
    fn setup()(
        num_blocks in 17usize..48,
        max_num_seqs in 1usize..12,
        extra_tokens in 0usize..40,
        prefix_caching: bool,
        share in 0.05f32..1.0,
    ) -> Setup {
        let config = EngineConfig {
            max_num_seqs,
            max_num_batched_tokens: max_num_seqs + extra_tokens,
            max_waiting: 1000,
            score_token_share: share,
            step_target_ms: 0,
            prefix_caching,
        };
        Setup { config, num_blocks, block_size: 4 }
    }
}

fn score_input(text: &str, num_candidates: usize) -> ScoreInput {
    let candidates = (0..num_candidates).map(|index| text[..text.len() * index / num_candidates].to_owned());
    ScoreInput::Candidates { messages: conversation(text), candidates: candidates.collect() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn every_answer_is_the_one_the_request_gets_alone(
        setup in setup(),
        operations in prop::collection::vec(operation(), 1..25),
    ) {
        let mut harness = Harness::new(setup);
        let mut version = "v0".to_owned();
        let mut expected: Vec<Option<(Operation, String)>> = Vec::new();
        for operation in operations {
            match &operation {
                Operation::Generate(plan) => {
                    harness.send(plan.request());
                    expected.push(Some((operation, version.clone())));
                }
                Operation::Score { own, text, num_candidates } => {
                    harness.score(if *own { "own" } else { "adapter" }, score_input(text, *num_candidates));
                    expected.push(Some((operation, version.clone())));
                }
                Operation::Cancel(which) => {
                    if let Some(slot) = expected.get_mut(*which) {
                        harness.engine.handle(Command::Abort(RequestId(*which as u64)));
                        *slot = None;
                        harness.engine.scheduler.check_integrity().unwrap();
                    }
                }
                Operation::Swap(number) => {
                    version = format!("v{number}");
                    harness.swap(&version);
                }
                Operation::Steps(n) => (0..*n).for_each(|_| harness.step()),
            }
        }
        harness.finish();
        for (index, expected) in expected.into_iter().enumerate() {
            let Some((operation, version)) = expected else { continue };
            let mut alone = Harness::new(Setup::roomy());
            alone.swap(&version);
            let id = match &operation {
                Operation::Generate(plan) => alone.send(plan.request()),
                Operation::Score { own, text, num_candidates } =>
                    alone.score(if *own { "own" } else { "adapter" }, score_input(text, *num_candidates)),
                _ => continue,
            };
            alone.finish();
            let (answer, alone) = (harness.answer(RequestId(index as u64)), alone.answer(id));
            prop_assert!(alone.error.is_none());
            prop_assert_eq!(answer.essence(), alone.essence(), "request {}: {:?}", index, operation);
        }
    }

    #[test]
    fn an_abort_anywhere_leaks_nothing(
        setup in setup(),
        plans in prop::collection::vec(plan(), 1..4),
        num_steps in 0usize..40,
        which in 0usize..4,
    ) {
        let mut harness = Harness::new(setup);
        plans.iter().for_each(|plan| { harness.send(plan.request()); });
        (0..num_steps).for_each(|_| harness.step());
        harness.engine.handle(Command::Abort(RequestId((which % plans.len()) as u64)));
        harness.engine.scheduler.check_integrity().unwrap();
        harness.finish();
    }
}
