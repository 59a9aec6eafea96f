//! Checks requests against the models that would serve them and queues them. Leaves the order of work to the scheduler.

use std::sync::Arc;

use super::{Engine, Request};
use crate::EngineError;
use crate::alignment::{Alignment, Method, RewardRule};
use crate::events::EventSender;
use crate::generation::{Admission, Generating};
use crate::ids::{ModelId, RequestId};
use crate::metrics::Outcome;
use crate::request::{Event, GenerateRequest, MAX_CANDIDATES, ScoreRequest};
use crate::scheduler::Generation;
use crate::scoring::{Judging, RewardModel, Scoring, check_group};
use crate::strategy::LengthPenalty;

impl Engine {
    pub(super) fn admit_generation(
        &mut self,
        id: RequestId,
        policy: ModelId,
        request: GenerateRequest,
        events: EventSender,
    ) {
        if let Err(error) = self.queue_generation(id, policy, request, events.clone()) {
            self.refuse(error, self.policies[policy.index()].adapters.policy_name(), &events);
        }
    }

    pub(super) fn admit_scoring(&mut self, id: RequestId, request: &ScoreRequest, events: EventSender) {
        if let Err(error) = self.queue_scoring(id, request, events.clone()) {
            self.scheduler.remove(id);
            let reward = RewardModel::find(&self.rewards, request.reward.as_deref()).ok();
            let name = reward.map_or_else(|| "".into(), |reward| Arc::clone(&self.rewards[reward].name));
            self.refuse(error, &name, &events);
        }
    }

    fn refuse(&self, error: EngineError, model: &Arc<str>, events: &EventSender) {
        let _ = events.send(Event::Failed(error));
        self.metrics.request(Outcome::Refused, model);
    }

    fn queue_generation(
        &mut self,
        id: RequestId,
        policy: ModelId,
        mut request: GenerateRequest,
        events: EventSender,
    ) -> Result<(), EngineError> {
        if self.is_draining {
            return Err(EngineError::Shutdown);
        }
        self.check_tokens(policy, &request)?;
        let num_candidates = check_candidates(&request)?;
        let adapters = &self.policies[policy.index()].adapters;
        let adapter = adapters.resolve(request.adapter.as_ref())?;
        let policy_version = adapters.policy_version(adapter.as_deref());
        let judging = match &request.alignment {
            Some(alignment) => Some(self.find_judges(alignment)?),
            None => None,
        };
        if let (Some(alignment), Some(judging)) = (&request.alignment, &judging) {
            check_comparing(alignment, judging)?;
        }
        for judge in judging.iter().flat_map(|judging| &judging.judges) {
            self.leave_room_to_score(judge.model, &mut request);
        }
        let admission = Admission {
            policy,
            seed: request.sampling.seed.unwrap_or_else(|| self.next_seed()),
            eos_token_ids: self.policies[policy.index()].eos_token_ids.clone(),
            policy_version,
            judging,
            events,
        };
        let priority = request.priority;
        let prompt_logits = request.sampling.prompt_logprobs.is_some();
        let generating = Generating::new(request, admission);
        self.scheduler.add_generation(Generation {
            id,
            model: policy,
            priority,
            prompt: Arc::clone(&generating.prompt),
            num_candidates,
            max_tokens: generating.max_tokens(),
            adapter,
            prompt_logits,
        })?;
        let judges = generating.aligned.iter().flat_map(|aligned| &aligned.judging.judges).enumerate();
        for (index, judge) in judges.filter(|_| num_candidates > 1) {
            if let Some(work) = self.rewards[judge.model].prompt_work(index, &generating.messages) {
                // A conversation that does not fit even without an answer fails with the first candidate's sentence.
                let _ = self.scheduler.add_score(id, work);
            }
        }
        let metrics = self.metrics.policy(policy);
        metrics.prompt_tokens.increment(generating.prompt.len() as u64);
        if generating.aligned.is_some() {
            metrics.candidates.increment(num_candidates as u64);
        }
        self.requests.insert(id, Request::Generating(Box::new(generating)));
        self.begin(id);
        Ok(())
    }

    fn queue_scoring(
        &mut self,
        id: RequestId,
        request: &ScoreRequest,
        events: EventSender,
    ) -> Result<(), EngineError> {
        if self.is_draining {
            return Err(EngineError::Shutdown);
        }
        let (scoring, work) = Scoring::new(request, &self.rewards, events)?;
        self.scheduler.add_scoring(id, self.rewards[scoring.reward].model, request.priority)?;
        for work in work {
            self.scheduler.add_score(id, work)?;
        }
        self.requests.insert(id, Request::Scoring(scoring));
        self.begin_comparing(id);
        Ok(())
    }

    fn find_judges(&self, alignment: &Alignment) -> Result<Judging, EngineError> {
        let find = |name: Option<&str>| {
            let model = RewardModel::find(&self.rewards, name)?;
            Ok(self.rewards[model].judge(model))
        };
        let RewardRule { models, combine } = &alignment.reward;
        let judges = match &models[..] {
            [] => vec![find(None)?],
            models => models.iter().map(|name| find(Some(name))).collect::<Result<_, EngineError>>()?,
        };
        Ok(Judging { judges, combine: combine.clone() })
    }

    /// An answer that its reward model cannot read to the end is of no use to the selection: candidates end, with
    /// `length`, where the reward model's template around them would no longer fit.
    fn leave_room_to_score(&self, reward: usize, request: &mut GenerateRequest) {
        let model = &self.rewards[reward];
        // A template that refuses an empty answer says nothing of others.
        let Ok(around) = model.spec.candidate_tokens(&request.messages, "") else { return };
        let room = self.scheduler.score_limit(model.model).saturating_sub(around.len());
        if room > 0 {
            request.sampling.max_tokens = request.sampling.max_tokens.min(room);
        }
    }

    /// Token ids must lie in the vocabulary: an executor may trust them.
    fn check_tokens(&self, policy: ModelId, request: &GenerateRequest) -> Result<(), EngineError> {
        request.sampling.validate()?;
        let vocab_size = self.executors[policy.index()].spec().vocab_size;
        let outside = |token: &&u32| **token as usize >= vocab_size;
        if let Some(token) = request.prompt.iter().find(outside) {
            let message = format!("the prompt holds token {token}, but the model has {vocab_size} tokens");
            return Err(EngineError::invalid("prompt", message));
        }
        if let Some(token) = request.sampling.logit_bias.iter().map(|(token, _)| token).find(outside) {
            let message = format!("logit_bias names token {token}, but the model has {vocab_size} tokens");
            return Err(EngineError::invalid("logit_bias", message));
        }
        Ok(())
    }
}

/// Checks that a reward model that compares answers is asked for groups of whole ones alone.
fn check_comparing(alignment: &Alignment, judging: &Judging) -> Result<(), EngineError> {
    let refuse = |param, message: String| Err(EngineError::invalid(param, message));
    let compares = judging.judges.iter().find(|judge| judge.comparisons.is_some());
    let Some(name) = compares.map(|judge| &judge.name) else { return Ok(()) };
    match alignment.method {
        Method::BestOfN => check_group("alignment.n", alignment.n, name),
        Method::Tournament if alignment.n < 2 => check_group("alignment.n", alignment.n, name),
        Method::Tournament if judging.judges.len() > 1 => {
            let message = format!(
                "a tournament takes one reward model that compares answers, but `{name}` is not alone; name it alone, or use \
                 best_of_n"
            );
            refuse("alignment.reward", message)
        }
        Method::Tournament if alignment.length_penalty == LengthPenalty::Divide => {
            let message =
                "alignment.reward_per_token divides rewards, but a tournament has comparisons; leave it out";
            refuse("alignment.reward_per_token", message.to_owned())
        }
        Method::Tournament => Ok(()),
        _ => {
            let message = format!(
                "{} needs the reward of an answer alone, but the reward model `{name}` compares answers; use best_of_n or \
                 tournament",
                alignment.name()
            );
            refuse("alignment.strategy", message)
        }
    }
}

/// How many candidates a request is for, checked.
fn check_candidates(request: &GenerateRequest) -> Result<usize, EngineError> {
    let num_choices = request.num_choices;
    if !(1..=MAX_CANDIDATES).contains(&num_choices) {
        let message = format!("n is {num_choices}, but must lie between 1 and {MAX_CANDIDATES}");
        return Err(EngineError::invalid("n", message));
    }
    let Some(alignment) = &request.alignment else { return Ok(num_choices) };
    alignment.validate(num_choices)?;
    if request.sampling.max_tokens == 0 {
        return Err(EngineError::invalid(
            "max_tokens",
            "max_tokens is 0, but candidates need at least 1 token",
        ));
    }
    Ok(alignment.n)
}
