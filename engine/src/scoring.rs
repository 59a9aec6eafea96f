//! Reward models by name: what each reads of a conversation, as work for the scheduler; what several say of a candidate;
//! and the state of requests that only score. Leaves running them to the scheduler and deciding by rewards to `strategy`.

use std::sync::Arc;
use std::time::Instant;

use crate::alignment::MAX_COMPARED;
use crate::comparisons::Comparisons;
use crate::events::EventSender;
use crate::group::Part;
use crate::ids::ModelId;
use crate::model::adapter::Adapter;
use crate::model::reading::Steps;
use crate::request::{Event, Message, ScoreInput, ScoreRequest, Usage};
use crate::scheduler::ScoreWork;
use crate::strategy::Combine;
use crate::{EngineError, RewardSpec};

/// A reward model.
pub(crate) struct RewardModel {
    pub(crate) name: Arc<str>,
    pub(crate) spec: Arc<dyn RewardSpec>,
    /// Whose blocks it uses.
    pub(crate) model: ModelId,
    /// The adapter with the score head, unless the model has its own.
    pub(crate) adapter: Option<Arc<Adapter>>,
    /// Tokens per block of `model`.
    pub(crate) block_size: usize,
}

impl std::fmt::Debug for RewardModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RewardModel")
            .field("name", &self.name)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl RewardModel {
    /// The place of the reward model called `name`; without a name, of the first.
    pub(crate) fn find(models: &[Self], name: Option<&str>) -> Result<usize, EngineError> {
        let found = match name {
            Some(name) => models.iter().position(|model| *model.name == *name),
            None => (!models.is_empty()).then_some(0),
        };
        found.ok_or_else(|| {
            let names: Vec<&str> = models.iter().map(|model| &*model.name).collect();
            let known = if names.is_empty() {
                "none is loaded".into()
            } else {
                format!("available: {}", names.join(", "))
            };
            EngineError::NotFound {
                kind: "reward model",
                name: name.unwrap_or("(default)").to_owned(),
                known,
            }
        })
    }

    /// The state of a request that it judges, from its place among the engine's.
    pub(crate) fn judge(&self, model: usize) -> Judge {
        Judge {
            model,
            name: Arc::clone(&self.name),
            comparisons: self.spec.compares().then(Comparisons::default),
        }
    }

    /// The conversation without an answer, for its blocks alone: as many whole blocks as it fills. `None` if it fills
    /// none, or if the template cannot do without an answer: candidates are then read from the start.
    pub(crate) fn prompt_work(&self, judge: usize, messages: &[Message]) -> Option<ScoreWork> {
        let mut tokens = self.spec.prompt_tokens(messages).ok()?;
        tokens.truncate(tokens.len() / self.block_size * self.block_size);
        (!tokens.is_empty()).then(|| self.work(Part::ScorePrompt(judge), tokens, None))
    }

    /// The conversation with an answer.
    pub(crate) fn candidate_work(
        &self,
        judge: usize,
        index: usize,
        messages: &[Message],
        answer: &str,
    ) -> Result<ScoreWork, EngineError> {
        let tokens = self.spec.candidate_tokens(messages, answer)?;
        let steps = self.spec.steps(&tokens)?;
        Ok(self.work(Part::Score { judge, index, rival: None }, tokens, steps))
    }

    /// The conversation with two answers, of a reward model that compares.
    pub(crate) fn pair_work(
        &self,
        judge: usize,
        [index, rival]: [usize; 2],
        messages: &[Message],
        answers: [&str; 2],
    ) -> Result<ScoreWork, EngineError> {
        let tokens = self.spec.pair_tokens(messages, answers)?;
        Ok(self.work(Part::Score { judge, index, rival: Some(rival) }, tokens, None))
    }

    fn text_work(&self, index: usize, text: &str) -> Result<ScoreWork, EngineError> {
        let tokens = self.spec.text_tokens(text)?;
        let steps = self.spec.steps(&tokens)?;
        Ok(self.work(Part::Score { judge: 0, index, rival: None }, tokens, steps))
    }

    fn work(&self, part: Part, tokens: Vec<u32>, steps: Option<Steps>) -> ScoreWork {
        ScoreWork { model: self.model, adapter: self.adapter.clone(), part, tokens: tokens.into(), steps }
    }
}

/// A reward model of a request.
#[derive(Clone, Debug)]
pub(crate) struct Judge {
    /// Its place among the engine's.
    pub(crate) model: usize,
    pub(crate) name: Arc<str>,
    /// What it compares, if it does not score candidates one by one.
    pub(crate) comparisons: Option<Comparisons>,
}

/// Who judges the candidates of a request.
#[derive(Clone, Debug)]
pub(crate) struct Judging {
    pub(crate) judges: Vec<Judge>,
    pub(crate) combine: Combine,
}

impl Judging {
    /// One of them compares answers.
    pub(crate) fn compares(&self) -> bool {
        self.judges.iter().any(|judge| judge.comparisons.is_some())
    }

    /// How reports call it.
    pub(crate) fn name(&self) -> Arc<str> {
        match &self.judges[..] {
            [only] => Arc::clone(&only.name),
            several => {
                let names: Vec<&str> = several.iter().map(|judge| &*judge.name).collect();
                format!("{}({})", self.combine.name(), names.join(", ")).into()
            }
        }
    }
}

/// What the reward models of a request said of a candidate's latest text, as far as they have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdicts(Vec<Option<Result<f32, String>>>);

impl Verdicts {
    /// None of `num_judges` has spoken.
    pub(crate) fn new(num_judges: usize) -> Self {
        Self(vec![None; num_judges])
    }

    /// Raw rewards; none where a reward model failed.
    pub(crate) fn rewards(&self) -> Vec<Option<f32>> {
        self.0.iter().map(|verdict| verdict.as_ref()?.as_ref().ok().copied()).collect()
    }

    /// Takes a reward model's word. Once all have spoken: the combined reward, or why there is none.
    pub(crate) fn take(
        &mut self,
        judge: usize,
        verdict: Result<f32, String>,
        combine: &Combine,
    ) -> Option<Result<f32, String>> {
        *self.0.get_mut(judge)? = Some(verdict);
        let verdicts: Option<Vec<_>> = self.0.iter().cloned().collect();
        let rewards: Result<Vec<f32>, String> = verdicts?.into_iter().collect();
        Some(rewards.map(|rewards| combine.apply(&rewards) as f32))
    }
}

/// A request that only scores.
#[derive(Debug)]
pub(crate) struct Scoring {
    /// The reward model, by its place.
    pub(crate) reward: usize,
    events: EventSender,
    num_open: usize,
    usage: Usage,
    pub(crate) arrived: Instant,
    /// With a reward model that compares.
    pub(crate) group: Option<Box<ComparedGroup>>,
}

/// Answers that are scored by comparing them.
#[derive(Debug)]
pub(crate) struct ComparedGroup {
    pub(crate) comparisons: Comparisons,
    pub(crate) messages: Arc<[Message]>,
    pub(crate) candidates: Vec<String>,
}

impl ComparedGroup {
    fn new(name: &str, input: &ScoreInput) -> Result<Self, EngineError> {
        match input {
            ScoreInput::Texts(_) => {
                let message =
                    format!("the reward model `{name}` compares answers, so a text alone has no reward");
                Err(EngineError::invalid("model", message))
            }
            ScoreInput::Candidates { messages, candidates } => {
                check_group("candidates", candidates.len(), name)?;
                let (messages, candidates) = (Arc::clone(messages), candidates.clone());
                Ok(Self { messages, candidates, comparisons: Comparisons::default() })
            }
        }
    }
}

/// Checks that `n` answers can be compared, each with all others, by the reward model `name`; `param` says how many they are.
pub(crate) fn check_group(param: &'static str, n: usize, name: &str) -> Result<(), EngineError> {
    if (2..=MAX_COMPARED).contains(&n) {
        return Ok(());
    }
    let message = format!(
        "the reward model `{name}` compares every two answers, so it takes between 2 and {MAX_COMPARED}, but there {}",
        if n == 1 { "is 1".to_owned() } else { format!("are {n}") }
    );
    Err(EngineError::invalid(param, message))
}

impl Scoring {
    /// The request's state and its work, the shared conversation first; comparisons follow when it is under way.
    pub(crate) fn new(
        request: &ScoreRequest,
        models: &[RewardModel],
        events: EventSender,
    ) -> Result<(Self, Vec<ScoreWork>), EngineError> {
        let reward = RewardModel::find(models, request.reward.as_deref())?;
        let model = &models[reward];
        let group = match model.spec.compares() {
            true => Some(Box::new(ComparedGroup::new(&model.name, &request.input)?)),
            false => None,
        };
        let mut work = Vec::new();
        let num_open = match &request.input {
            ScoreInput::Candidates { candidates, .. } if group.is_some() => candidates.len(),
            ScoreInput::Candidates { messages, candidates } => {
                if candidates.len() > 1 {
                    work.extend(model.prompt_work(0, messages));
                }
                for (index, answer) in candidates.iter().enumerate() {
                    work.push(model.candidate_work(0, index, messages, answer)?);
                }
                candidates.len()
            }
            ScoreInput::Texts(texts) => {
                for (index, text) in texts.iter().enumerate() {
                    work.push(model.text_work(index, text)?);
                }
                texts.len()
            }
        };
        if num_open == 0 {
            return Err(EngineError::invalid(
                "candidates",
                "there is nothing to score; give at least one text",
            ));
        }
        let (usage, arrived) = (Usage::default(), Instant::now());
        Ok((Self { reward, events, num_open, usage, arrived, group }, work))
    }

    /// A text has its reward. Returns whether that was the last one; the request has then ended.
    ///
    /// # Errors
    /// [`EngineError::Shutdown`] if nobody listens.
    pub(crate) fn scored(&mut self, index: usize, reward: f32) -> Result<bool, EngineError> {
        self.num_open -= 1;
        self.send(Event::Scored { index, reward })?;
        if self.num_open == 0 {
            self.send(Event::Done(self.usage))?;
        }
        Ok(self.num_open == 0)
    }

    /// Tokens were read.
    pub(crate) fn count(&mut self, num_tokens: usize) {
        self.usage.scored_tokens += num_tokens;
    }

    /// Ends the request.
    pub(crate) fn fail(&self, error: EngineError) {
        let _ = self.events.send(Event::Failed(error));
    }

    fn send(&self, event: Event) -> Result<(), EngineError> {
        self.events.send(event).map_err(|_| EngineError::Shutdown)
    }
}
