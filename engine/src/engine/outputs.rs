//! What a step made, row by row, turned into tokens, events and the next work. A row that fails takes its own request
//! with it and nothing else. Leaves running the step to `engine` and what reward models say to `judging`.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::{Engine, Request};
use crate::EngineError;
use crate::batch::StepOutput;
use crate::events::Closed;
use crate::generation::Generating;
use crate::group::Part;
use crate::ids::RequestId;
use crate::metrics::Outcome;
use crate::request::{FinishReason, Logprobs};
use crate::sampler::{SampleRow, Sampled};
use crate::scheduler::{Item, ModelStep};
use crate::strategy::{Action, StrategyEvent};

/// Everything taken from an executor's buffers.
#[derive(Default)]
struct Outputs {
    /// Request, candidate, token.
    samples: Vec<(RequestId, usize, Result<Sampled, EngineError>)>,
    /// Request, position, logprobs of the prompt's token there.
    prompt_logprobs: Vec<(RequestId, usize, Result<Logprobs, EngineError>)>,
    /// By [`Item::scores`].
    scores: Vec<f32>,
}

impl Engine {
    /// Runs one model's share of a step and acts on what it made.
    pub(super) fn run_model(&mut self, work: &ModelStep) {
        let executor = &mut self.executors[work.model.index()];
        let context = Sampling { requests: &self.requests, sampler: &self.sampler, pool: &self.pool };
        let started = Instant::now();
        let made = caught(|| {
            let vocab_size = executor.spec().vocab_size;
            let output = executor.execute(&work.batch)?;
            let computed = Instant::now();
            let num_logits = work.batch.logit_rows.len() * vocab_size;
            if output.logits.len() != num_logits || output.scores.len() != work.batch.score_rows.len() {
                let message = "the model answered with too few or too many rows";
                return Err(EngineError::Execution(message.to_owned()));
            }
            Ok((sample(context, work, output, vocab_size), computed))
        });
        match made {
            Ok((outputs, computed)) => {
                self.forward_time += computed - started;
                self.sampling_time += computed.elapsed();
                self.apply(work, outputs);
            }
            Err(error) => self.fail_batch(work, &error),
        }
    }

    fn apply(&mut self, work: &ModelStep, outputs: Outputs) {
        for (id, position, logprobs) in outputs.prompt_logprobs {
            match (self.requests.get_mut(&id), logprobs) {
                (Some(Request::Generating(generating)), Ok(logprobs)) => {
                    generating.set_prompt_logprobs(position, logprobs);
                }
                (_, Ok(_)) => {}
                (_, Err(error)) => self.fail(id, error),
            }
        }
        let mut rewards = Vec::new();
        for item in &work.items {
            if let Part::Score { .. } = item.part {
                let reward = self.scheduler.take_scores(item, &outputs.scores[item.scores.clone()]);
                rewards.extend(reward.map(|reward| (item.request, item.part, reward)));
            }
            self.advance(item);
        }
        let now = Instant::now();
        for (id, candidate, sampled) in outputs.samples {
            match sampled {
                Ok(sampled) => self.accept(id, candidate, sampled, now),
                Err(error) => self.fail(id, error),
            }
        }
        for (id, part, reward) in rewards {
            self.read(id, part, reward);
        }
    }

    fn advance(&mut self, item: &Item) {
        let is_complete = self.scheduler.advance(item);
        match (self.requests.get_mut(&item.request), item.part) {
            (Some(Request::Generating(generating)), Part::Prompt) if is_complete => {
                self.scheduler.fork(item.request);
                let cached_tokens = self.scheduler.group(item.request).map_or(0, |group| group.cached_tokens);
                let mut result = generating.prefilled(cached_tokens);
                if generating.max_tokens() == 0 {
                    let open: Vec<usize> = generating.open_candidates().collect();
                    for index in open {
                        result = result.and_then(|()| generating.finish(index, FinishReason::Length, false));
                    }
                    result = result.and_then(|()| generating.done());
                    self.end(item.request, if result.is_ok() { Outcome::Ok } else { Outcome::Aborted });
                } else if result == Err(Closed) {
                    self.end(item.request, Outcome::Aborted);
                }
            }
            (Some(request), Part::ScorePrompt(judge) | Part::Score { judge, .. }) => {
                let num_tokens = item.num_scheduled_tokens;
                if let Some(reward) = request.judge(judge) {
                    self.metrics.reward(reward).scored_tokens.increment(num_tokens as u64);
                }
                match request {
                    Request::Generating(generating) => generating.usage.scored_tokens += num_tokens,
                    Request::Scoring(scoring) => scoring.count(num_tokens),
                }
            }
            _ => {}
        }
    }

    fn accept(&mut self, id: RequestId, candidate: usize, sampled: Sampled, now: Instant) {
        let Some(Request::Generating(generating)) = self.requests.get_mut(&id) else { return };
        let token = sampled.token;
        let vocabulary = &self.policies[generating.policy.index()].token_bytes;
        let Ok(accepted) = generating.accept(candidate, sampled, &**vocabulary, now) else {
            return self.end(id, Outcome::Aborted);
        };
        self.generated_tokens += 1;
        let metrics = self.metrics.policy(generating.policy);
        metrics.generated_tokens.increment(1);
        if !accepted.is_first {
            metrics.inter_token_latency.record(accepted.since_last);
        } else if generating.usage.completion_tokens == 1 {
            metrics.time_to_first_token.record(accepted.since_last);
        }
        let (index, num_tokens) = (candidate, generating.candidates[candidate].tokens.len());
        let text = match accepted.has_ended && generating.aligned.is_some() {
            true => generating.candidates[candidate].text.clone(),
            false => String::new(),
        };
        self.scheduler.append(id, candidate, token);
        if accepted.has_ended {
            self.scheduler.finish(id, candidate);
            self.tell(id, StrategyEvent::Finished { index, num_tokens, text });
        } else if accepted.is_held {
            self.scheduler.hold(id, candidate);
            self.tell(id, StrategyEvent::Held { index, num_tokens });
        }
    }

    /// Tells a request's strategy what happened and does what it answers; a request without one may be done.
    pub(super) fn tell(&mut self, id: RequestId, event: StrategyEvent) {
        let mut events = VecDeque::from([event]);
        let mut actions = Vec::new();
        while let Some(event) = events.pop_front() {
            let Some(Request::Generating(generating)) = self.requests.get_mut(&id) else { return };
            let Some(aligned) = &mut generating.aligned else {
                if generating.is_complete() {
                    let outcome = if generating.done().is_ok() { Outcome::Ok } else { Outcome::Aborted };
                    self.end(id, outcome);
                }
                return;
            };
            aligned.strategy.on_event(event, &mut actions);
            for action in actions.drain(..) {
                self.act(id, action, &mut events);
            }
        }
    }

    /// Does what a strategy wants to begin with.
    pub(super) fn begin(&mut self, id: RequestId) {
        let Some(Request::Generating(generating)) = self.requests.get_mut(&id) else { return };
        let actions = generating.start();
        if generating.aligned.is_some() {
            (0..generating.candidates.len()).for_each(|index| self.scheduler.hold(id, index));
        }
        for action in actions {
            // Nothing is scored yet, so nothing follows at once.
            self.act(id, action, &mut VecDeque::new());
        }
    }

    /// Does what a strategy wants; adds what that led to at once to `events`.
    fn act(&mut self, id: RequestId, action: Action, events: &mut VecDeque<StrategyEvent>) {
        let Some(Request::Generating(generating)) = self.requests.get_mut(&id) else { return };
        let result = match action {
            Action::Run { index, until } => {
                generating.candidates[index].until = until;
                self.scheduler.go_on(id, index);
                Ok(())
            }
            Action::Score(index) => {
                self.score(id, index, events);
                Ok(())
            }
            Action::Compare(pair) => {
                self.compare(id, pair, events);
                Ok(())
            }
            Action::Drop(index) => {
                let metrics = self.metrics.policy(generating.policy);
                metrics.pruned_tokens.increment(generating.candidates[index].tokens.len() as u64);
                self.scheduler.finish(id, index);
                for judge in 0..generating.aligned.as_ref().map_or(0, |aligned| aligned.judging.judges.len())
                {
                    self.scheduler.remove_score(id, Part::Score { judge, index, rival: None });
                }
                generating.drop_candidate(index)
            }
            Action::Fork { from, index } => {
                generating.copy(from, index);
                self.scheduler.copy(id, from, index);
                Ok(())
            }
            Action::Commit(index) => generating.commit(index),
            Action::Select(outcome) => {
                let outcome = if generating.select(outcome).is_ok() { Outcome::Ok } else { Outcome::Aborted };
                return self.end(id, outcome);
            }
        };
        if result == Err(Closed) {
            self.end(id, Outcome::Aborted);
        }
    }
}

/// Runs what may panic. A panic is an error like any other: it takes its batch with it and not the engine, whose own state it
/// cannot have touched.
fn caught<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word");
        tracing::error!(text, "a panic while a batch was computed: this is a bug");
        Err(EngineError::Execution(format!("a bug, not the request: {text}")))
    })
}

/// What sampling reads, apart from the executor whose buffers it samples.
#[derive(Clone, Copy)]
struct Sampling<'a> {
    requests: &'a std::collections::HashMap<RequestId, Request>,
    sampler: &'a crate::sampler::Sampler,
    pool: &'a rectify_kernels::Pool,
}

/// Draws every token that the step's logits allow. The first tokens of all candidates come from the one row of the
/// prompt's last token, each by its own draw.
fn sample(context: Sampling<'_>, work: &ModelStep, output: StepOutput<'_>, vocab_size: usize) -> Outputs {
    let row = |index: usize| &output.logits[index * vocab_size..][..vocab_size];
    let mut rows: Vec<SampleRow<'_>> = Vec::new();
    let mut owners = Vec::new();
    let mut targets = Vec::new();
    let mut target_owners = Vec::new();
    let mut num_top = Vec::new();
    for item in work.items.iter().filter(|item| !item.logits.is_empty()) {
        let Some(Request::Generating(generating)) = context.requests.get(&item.request) else { continue };
        let generating: &Generating = generating;
        if let Part::Candidate(candidate) = item.part {
            rows.push(generating.sample_row(candidate, row(item.logits.start)));
            owners.push((item.request, candidate));
            continue;
        }
        // A row tells of the token after it.
        for (index, position) in item.logits.clone().zip(item.first_position + 1..) {
            if let Some(target) = generating.prompt_target(position) {
                targets.push((row(index), target));
                target_owners.push((item.request, position));
                num_top.push(generating.params.prompt_logprobs.unwrap_or(0));
            }
        }
        let is_last = item.first_position + item.num_scheduled_tokens == generating.prompt.len();
        if is_last && generating.max_tokens() > 0 {
            for candidate in generating.wants_first_token() {
                rows.push(generating.sample_row(candidate, row(item.logits.end - 1)));
                owners.push((item.request, candidate));
            }
        }
    }
    let samples = context.sampler.sample(context.pool, &rows).into_iter();
    let most = num_top.iter().copied().max().unwrap_or(0);
    let logprobs = context.sampler.logprobs(context.pool, &targets, most).into_iter();
    let cut = |(logprobs, num_top): (Result<Logprobs, EngineError>, usize)| {
        logprobs.map(|mut logprobs| {
            logprobs.top.truncate(num_top);
            logprobs
        })
    };
    Outputs {
        samples: owners
            .into_iter()
            .zip(samples)
            .map(|((id, candidate), sampled)| (id, candidate, sampled))
            .collect(),
        prompt_logprobs: target_owners
            .into_iter()
            .zip(logprobs.zip(num_top).map(cut))
            .map(|((id, position), logprobs)| (id, position, logprobs))
            .collect(),
        scores: output.scores.to_vec(),
    }
}
