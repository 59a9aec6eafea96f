//! The whole engine on fake models, step by step.

mod comparisons;
mod failures;
mod generation;
mod grammar;
mod rewards;
mod schedules;
mod several;
mod strategies;
mod turns;

use std::path::Path;
use std::rc::Rc;

use super::*;
use crate::alignment::{Alignment, RewardRule};
use crate::events::{EventReceiver, EventSender, channel};
use crate::group::SequenceGroup;
use crate::model::adapter::Adapter;
use crate::request::{Event, GenerateRequest, Message, ScoreInput, ScoreRequest, Selection, Usage};
use crate::sampler::{Draw, SampleRow};
use crate::testing::{
    EOS, FakeModel, FakeTemplate, FakeVocabulary, Switches, adapter, adapter_with_head, fake_logits,
};
use crate::{RewardParts, SamplingParams};

/// Sizes of a test's engine.
#[derive(Clone, Copy, Debug)]
struct Setup {
    config: EngineConfig,
    num_blocks: usize,
    block_size: usize,
}

impl Setup {
    /// Room for everything, and nothing shared through the cache.
    fn roomy() -> Self {
        let config = EngineConfig { prefix_caching: false, step_target_ms: 0, ..EngineConfig::default() };
        Self { config, num_blocks: 4096, block_size: 4 }
    }
}

/// An engine and the streams of its requests.
struct Harness {
    engine: Engine,
    policy: Rc<Switches>,
    reward: Rc<Switches>,
    /// The policy that requests go to.
    asked: ModelId,
    streams: Vec<(RequestId, EventReceiver)>,
    config: EngineConfig,
}

/// What a request led to.
#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    texts: Vec<String>,
    tokens: Vec<Vec<u32>>,
    reasons: Vec<Option<&'static str>>,
    rewards: Vec<Option<f32>>,
    selection: Option<Selection>,
    policy_version: String,
    usage: Option<Usage>,
    cached_tokens: usize,
    error: Option<String>,
    prompt_logprobs: Option<Vec<crate::request::Logprobs>>,
    /// The text of the blocks.
    blocks: String,
    /// Events in order, by a letter: Prefilled, Token, Finished, Scored, dropped (X), Block, sElected, Done, eRror.
    order: String,
}

impl Answer {
    /// Without what may depend on company: what the cache gave and in which order things happened.
    fn essence(&self) -> Self {
        let usage = self.usage.map(|usage| Usage { cached_tokens: 0, scored_tokens: 0, ..usage });
        Self { usage, cached_tokens: 0, order: String::new(), ..self.clone() }
    }
}

impl Harness {
    fn new(setup: Setup) -> Self {
        Self::with(setup, Vec::new())
    }

    /// With further policies behind the first.
    fn with(setup: Setup, others: Vec<PolicyParts>) -> Self {
        let policy = FakeModel::new(setup.num_blocks, setup.block_size, false);
        let reward = FakeModel::new(setup.num_blocks, setup.block_size, true);
        let (policy_switches, reward_switches) = (policy.switches(), reward.switches());
        let parts = EngineParts {
            policies: [vec![policy_parts("fake", policy, vec![adapter("lora", "v0")])], others]
                .into_iter()
                .flatten()
                .collect(),
            pool: Arc::new(Pool::new(1).unwrap()),
            rewards: vec![
                RewardParts {
                    name: "own".into(),
                    spec: Arc::new(FakeTemplate::default()),
                    weights: RewardWeights::Own(Box::new(reward)),
                },
                RewardParts {
                    name: "adapter".into(),
                    spec: Arc::new(FakeTemplate { refuse: Some("q"), compares: false }),
                    weights: RewardWeights::Adapter {
                        policy: 0,
                        adapter: adapter_with_head("adapter", "rm", true),
                    },
                },
                RewardParts {
                    name: "pairs".into(),
                    spec: Arc::new(FakeTemplate { refuse: None, compares: true }),
                    weights: RewardWeights::Own(Box::new(FakeModel::new(
                        setup.num_blocks.max(64),
                        setup.block_size,
                        true,
                    ))),
                },
                RewardParts {
                    name: "choosy".into(),
                    spec: Arc::new(FakeTemplate { refuse: Some("q"), compares: true }),
                    weights: RewardWeights::Own(Box::new(FakeModel::new(
                        setup.num_blocks.max(64),
                        setup.block_size,
                        true,
                    ))),
                },
            ],
        };
        let engine = Engine::new(setup.config, parts).unwrap();
        Self {
            engine,
            policy: policy_switches,
            reward: reward_switches,
            asked: ModelId::POLICY,
            streams: Vec::new(),
            config: setup.config,
        }
    }

    /// Moves the name `lora` to a version.
    fn swap(&mut self, version: &str) {
        let (reply, _answer) = oneshot::channel();
        let adapter = adapter("lora", version);
        self.engine.handle(Command::InstallAdapter {
            policy: ModelId::POLICY,
            adapter,
            replace: true,
            reply,
        });
    }

    fn send(&mut self, request: GenerateRequest) -> RequestId {
        let (id, events) = self.open();
        self.engine.handle(Command::Generate(id, self.asked, Box::new(request), events));
        id
    }

    fn score(&mut self, reward: &str, input: ScoreInput) -> RequestId {
        let (id, events) = self.open();
        let request = ScoreRequest { reward: Some(reward.into()), input, priority: 0 };
        self.engine.handle(Command::Score(id, Box::new(request), events));
        id
    }

    fn open(&mut self) -> (RequestId, EventSender) {
        let id = RequestId(self.streams.len() as u64);
        let (sender, receiver) = channel(100_000, Arc::default());
        self.streams.push((id, receiver));
        (id, sender)
    }

    fn step(&mut self) {
        self.engine.step();
        self.engine.scheduler.check_integrity().unwrap();
        assert!(self.engine.step.num_tokens() <= self.config.max_num_batched_tokens);
        let groups = self.streams.iter().filter_map(|(id, _)| self.engine.scheduler.group(*id));
        let num_running: usize = groups.map(SequenceGroup::num_running).sum();
        assert!(num_running <= self.config.max_num_seqs);
    }

    /// Steps until nothing is left; then no block may be.
    fn finish(&mut self) {
        for _ in 0..100_000 {
            if self.engine.requests.is_empty() {
                assert!(self.engine.scheduler.is_idle());
                for model in 0..self.engine.executors.len() {
                    assert_eq!(self.engine.scheduler.pool(ModelId(model as u16)).num_used(), 0);
                }
                return;
            }
            self.step();
        }
        panic!("the engine does not come to an end: {:?}", self.engine.stats(ModelId::POLICY));
    }

    fn answer(&mut self, id: RequestId) -> Answer {
        let events = &mut self.streams[id.0 as usize].1;
        let mut answer = Answer::default();
        let grow = |answer: &mut Answer, index: usize| {
            while answer.texts.len() <= index {
                answer.texts.push(String::new());
                answer.tokens.push(Vec::new());
                answer.reasons.push(None);
                answer.rewards.push(None);
            }
        };
        while let Some(event) = events.try_next() {
            answer.order.push(match event {
                Event::Prefilled { .. } => 'P',
                Event::Token { .. } => 'T',
                Event::Finished { .. } => 'F',
                Event::Scored { .. } => 'S',
                Event::Dropped { .. } => 'X',
                Event::Block { .. } => 'B',
                Event::Selected(_) => 'E',
                Event::Done(_) => 'D',
                Event::Failed(_) => 'R',
            });
            match event {
                Event::Prefilled { cached_tokens, prompt_logprobs, policy_version } => {
                    answer.cached_tokens = cached_tokens;
                    answer.prompt_logprobs = prompt_logprobs;
                    answer.policy_version = policy_version.to_string();
                }
                Event::Token { index, token, text, .. } => {
                    grow(&mut answer, index);
                    answer.tokens[index].push(token);
                    answer.texts[index].push_str(&text);
                }
                Event::Finished { index, reason, text } => {
                    grow(&mut answer, index);
                    answer.texts[index].push_str(&text);
                    answer.reasons[index] = Some(reason.as_str());
                }
                Event::Scored { index, reward } => {
                    grow(&mut answer, index);
                    answer.rewards[index] = Some(reward);
                }
                Event::Dropped { .. } => {}
                Event::Block { text, .. } => answer.blocks.push_str(&text),
                Event::Selected(selection) => answer.selection = Some(selection),
                Event::Done(usage) => answer.usage = Some(usage),
                Event::Failed(error) => answer.error = Some(error.to_string()),
            }
        }
        answer
    }

    /// The answer to one request, run to its end.
    fn run(&mut self, request: GenerateRequest) -> Answer {
        let id = self.send(request);
        self.finish();
        self.answer(id)
    }
}

/// A policy whose adapters cannot be read from anywhere.
fn policy_parts(name: &str, executor: FakeModel, adapters: Vec<Arc<Adapter>>) -> PolicyParts {
    PolicyParts {
        name: name.into(),
        executor: Box::new(executor),
        token_bytes: Arc::new(FakeVocabulary::new()),
        eos_token_ids: vec![EOS],
        adapters,
        adapter_loader: Arc::new(|_: &str, path: &Path| Err(EngineError::load(path, "cannot be read"))),
    }
}

fn generate(prompt: &[u32], num_choices: usize, max_tokens: usize) -> GenerateRequest {
    let content: String = prompt.iter().map(|token| (b'a' + (token % 26) as u8) as char).collect();
    GenerateRequest {
        prompt: prompt.to_vec(),
        messages: [Message { role: "user".into(), content }].into(),
        sampling: SamplingParams { max_tokens, seed: Some(5), ..SamplingParams::default() },
        num_choices,
        alignment: None,
        adapter: None,
        priority: 0,
    }
}

fn best_of(prompt: &[u32], n: usize, max_tokens: usize, reward: &str) -> GenerateRequest {
    let alignment = Alignment { reward: RewardRule::one(Some(reward)), ..Alignment::best_of(n) };
    GenerateRequest { alignment: Some(alignment), ..generate(prompt, 1, max_tokens) }
}

fn conversation(text: &str) -> Arc<[Message]> {
    [Message { role: "user".into(), content: text.into() }].into()
}

/// The token of a candidate after `output`, drawn from the fake model's logits without any engine.
fn draw_next(request: &GenerateRequest, candidate: usize, output: &[u32], version: u64) -> u32 {
    let params = &request.sampling;
    let logits = fake_logits(&[&request.prompt[..], output].concat(), version);
    let row = SampleRow {
        logits: &logits,
        mask: None,
        params,
        draw: Draw { seed: params.seed.unwrap(), candidate, position: output.len() },
        prompt: &request.prompt,
        output,
        end_tokens: &[EOS],
        wants_logprob: false,
    };
    let pool = Pool::new(1).unwrap();
    Sampler::default().sample(&pool, &[row]).remove(0).unwrap().token
}
