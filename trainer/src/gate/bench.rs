//! Where candidates are measured: both arms asked the same questions with the same seeds through a running engine, behind
//! everything that people wait for, a bounded number at once. Answers are kept, so that checks on the same prompts ask once.
//! Leaves what answers mean to the checks.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rectify_engine::handle::EventStream;
use rectify_engine::model::assemble::ServedModels;
use rectify_engine::request::ScoreInput;
use rectify_engine::{
    AdapterRef, EngineError, EngineHandle, Event, GenerateRequest, SamplingParams, ScoreRequest,
};
use sha2::{Digest, Sha256};

use super::prompts::Question;
use super::suite::{Sampling, Suite};
use super::{GateControl, GateError, GateProgress};
use crate::rollout::{self, Completion};

/// Behind everything that people wait for, and behind rollouts.
pub(crate) const PRIORITY: i32 = 2000;
/// How long to leave an engine alone whose queue is full.
const PATIENCE: Duration = Duration::from_millis(50);

/// A running engine to measure with.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The engine.
    pub engine: EngineHandle,
    /// The models behind it.
    pub models: ServedModels,
    /// The reward model that the candidate was trained on, if it was: another one judges where there is one.
    pub training_reward: Option<String>,
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What reports call it: `demo@3`, `demo@base`.
    pub label: String,
    /// The adapter; `None` is the bare policy.
    pub adapter: Option<AdapterRef>,
}

/// Which subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Arm {
    Candidate,
    Baseline,
    /// The policy with adapters off.
    Base,
}

/// One run: the suite, the engine, the arms, and what was already answered.
pub(super) struct Session<'a> {
    pub(super) suite: &'a Suite,
    pub(super) bench: &'a Bench,
    pub(super) candidate: Subject,
    pub(super) baseline: Subject,
    progress_to: &'a mut dyn FnMut(&GateProgress),
    stop: &'a AtomicBool,
    answers: HashMap<Asked, Vec<Completion>>,
    progress: GateProgress,
}

/// A question as it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asked {
    arm: Arm,
    set: String,
    index: usize,
    temperature: u32,
    max_tokens: usize,
    samples: usize,
}

/// A text and the part of it that is measured.
pub(super) struct Likelihood {
    /// All tokens.
    pub(super) tokens: Vec<u32>,
    /// Tokens before the measured part; at least 1.
    pub(super) num_given: usize,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        suite: &'a Suite,
        bench: &'a Bench,
        candidate: Subject,
        baseline: Subject,
        control: &'a mut GateControl<'_>,
    ) -> Self {
        let progress = GateProgress { total: suite.checks.len(), ..GateProgress::default() };
        let (progress_to, stop) = (&mut *control.progress, control.stop);
        Self { suite, bench, candidate, baseline, progress_to, stop, answers: HashMap::new(), progress }
    }

    /// Says which check is on; refuses to go on if the caller asked to stop.
    pub(super) fn begin(&mut self, index: usize, name: &str, num_prompts: usize) -> Result<(), GateError> {
        self.progress = GateProgress {
            check: name.to_owned(),
            done: index,
            total: self.suite.checks.len(),
            prompts_done: 0,
            num_prompts,
        };
        self.report(0)
    }

    /// Says how many prompts of the check are measured.
    pub(super) fn report(&mut self, prompts_done: usize) -> Result<(), GateError> {
        self.progress.prompts_done = prompts_done;
        (self.progress_to)(&self.progress);
        self.check_stop()
    }

    fn check_stop(&self) -> Result<(), GateError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(GateError::Stopped { done: self.progress.done, total: self.progress.total });
        }
        Ok(())
    }

    fn adapter(&self, arm: Arm) -> Option<AdapterRef> {
        match arm {
            Arm::Candidate => self.candidate.adapter.clone(),
            Arm::Baseline => self.baseline.adapter.clone(),
            Arm::Base => None,
        }
    }

    /// Answers of `arm` to the questions `range` of a set, in their order.
    pub(super) fn answers(
        &mut self,
        arm: Arm,
        set: &str,
        range: std::ops::Range<usize>,
        sampling: Sampling,
    ) -> Result<Vec<Vec<Completion>>, GateError> {
        let asked = |index| Asked {
            arm,
            set: set.to_owned(),
            index,
            temperature: sampling.temperature.to_bits(),
            max_tokens: sampling.max_tokens,
            samples: sampling.samples,
        };
        let missing: Vec<usize> = range.clone().filter(|i| !self.answers.contains_key(&asked(*i))).collect();
        let mut requests = Vec::with_capacity(missing.len());
        for &index in &missing {
            let question = &self.suite.prompts[set].questions[index];
            let prompt = self.prompt(question)?;
            let room = self.bench.models.max_model_len.saturating_sub(prompt.len()).max(1);
            let sampling_params = SamplingParams {
                temperature: sampling.temperature,
                max_tokens: sampling.max_tokens.min(room),
                // A function of the suite, the set and the question: the same in every arm.
                seed: Some(seed(self.suite.seed, set, index)),
                logprobs: Some(0),
                ..SamplingParams::default()
            };
            requests.push(GenerateRequest {
                prompt,
                messages: Arc::clone(&question.messages),
                sampling: sampling_params,
                num_choices: sampling.samples,
                alignment: None,
                adapter: self.adapter(arm),
                priority: PRIORITY,
            });
        }
        let engine = &self.bench.engine;
        let done = self.in_flight(
            requests,
            |request| engine.generate_blocking(request.clone()),
            |request, stream| rollout::completions(stream, request.num_choices),
        )?;
        self.answers.extend(missing.into_iter().map(asked).zip(done));
        Ok(range.map(|index| self.answers.get(&asked(index)).cloned().unwrap_or_default()).collect())
    }

    /// The tokens of a question: the conversation with the opening of the answer, or the bare text.
    pub(super) fn prompt(&self, question: &Question) -> Result<Vec<u32>, GateError> {
        Ok(match &question.text {
            Some(text) => self.bench.models.tokenizer.encode_whole(text)?,
            None => self.bench.models.encode_chat(&question.messages)?,
        })
    }

    /// `answer` as the continuation of a question, ended as the policy ends its answers.
    pub(super) fn continuation(&self, question: &Question, answer: &str) -> Result<Likelihood, GateError> {
        let mut tokens = self.prompt(question)?;
        let num_given = tokens.len();
        tokens.extend(self.bench.models.tokenizer.encode(answer, false)?);
        tokens.extend(self.bench.models.generation.eos_token_ids.first());
        Ok(Likelihood { tokens, num_given })
    }

    /// Log-probabilities of the measured tokens of each text under `arm`, in nats. Texts that the context has no room for
    /// are cut.
    pub(super) fn logprobs(&self, arm: Arm, texts: &[Likelihood]) -> Result<Vec<Vec<f64>>, GateError> {
        let longest = self.bench.models.max_model_len;
        let request = |text: &Likelihood| GenerateRequest {
            prompt: text.tokens[..text.tokens.len().min(longest)].to_vec(),
            messages: Arc::new([]),
            sampling: SamplingParams { max_tokens: 0, prompt_logprobs: Some(0), ..SamplingParams::default() },
            num_choices: 1,
            alignment: None,
            adapter: self.adapter(arm),
            priority: PRIORITY,
        };
        let engine = &self.bench.engine;
        let requests: Vec<GenerateRequest> = texts.iter().map(request).collect();
        let all = self.in_flight(
            requests,
            |request| engine.generate_blocking(request.clone()),
            |_, stream| prompt_logprobs(stream),
        )?;
        // The first token of a prompt has no log-probability.
        let measured = |(logprobs, text): (Vec<f64>, &Likelihood)| {
            logprobs.get(text.num_given.saturating_sub(1)..).unwrap_or_default().to_vec()
        };
        Ok(all.into_iter().zip(texts).map(measured).collect())
    }

    /// Rewards of the answers to each question by the reward model `judge`; NaN for one that it has no room for.
    pub(super) fn rewards(
        &self,
        judge: &str,
        answers: Vec<(Arc<[rectify_engine::request::Message]>, Vec<String>)>,
    ) -> Result<Vec<Vec<f32>>, GateError> {
        let request = |(messages, candidates)| ScoreRequest {
            reward: Some(judge.to_owned()),
            input: ScoreInput::Candidates { messages, candidates },
            priority: PRIORITY,
        };
        let engine = &self.bench.engine;
        self.in_flight(
            answers.into_iter().map(request).collect(),
            |request| engine.score_blocking(request.clone()),
            |request, stream| rollout::rewards(engine, request, stream),
        )
    }

    /// Sends requests, a bounded number at once, and collects what they give, in their order. An engine that has no room
    /// for more is left alone for a while and asked again.
    fn in_flight<R, T>(
        &self,
        requests: Vec<R>,
        start: impl Fn(&R) -> Result<EventStream, EngineError>,
        end: impl Fn(&R, EventStream) -> Result<T, EngineError>,
    ) -> Result<Vec<T>, GateError> {
        let mut running: VecDeque<(&R, EventStream)> = VecDeque::new();
        let mut done = Vec::with_capacity(requests.len());
        let collect = |(request, stream): (&R, EventStream)| -> Result<T, GateError> {
            let mut outcome = end(request, stream);
            while matches!(outcome, Err(EngineError::Overloaded { .. })) {
                self.check_stop()?;
                std::thread::sleep(PATIENCE);
                outcome = end(request, start(request)?);
            }
            Ok(outcome?)
        };
        for request in &requests {
            self.check_stop()?;
            if running.len() == self.suite.in_flight
                && let Some(oldest) = running.pop_front()
            {
                done.push(collect(oldest)?);
            }
            running.push_back((request, start(request)?));
        }
        for oldest in running {
            self.check_stop()?;
            done.push(collect(oldest)?);
        }
        Ok(done)
    }
}

fn prompt_logprobs(mut events: EventStream) -> Result<Vec<f64>, EngineError> {
    let mut found = Vec::new();
    while let Some(event) = events.next_blocking() {
        match event {
            Event::Prefilled { prompt_logprobs, .. } => {
                let all = prompt_logprobs.unwrap_or_default();
                found = all.iter().map(|logprobs| f64::from(logprobs.own.logprob)).collect();
            }
            Event::Failed(error) => return Err(error),
            Event::Done(_) => return Ok(found),
            _ => {}
        }
    }
    Err(EngineError::Shutdown)
}

/// The seed of a question.
fn seed(suite: u64, set: &str, index: usize) -> u64 {
    let mut hash = Sha256::new();
    hash.update(suite.to_le_bytes());
    hash.update(set.as_bytes());
    hash.update((index as u64).to_le_bytes());
    hash.finalize().iter().take(8).fold(0, |seed, byte| (seed << 8) | u64::from(*byte))
}
