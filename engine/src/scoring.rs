//! Reward models by name: what each reads of a conversation, as work for the scheduler; and the state of requests that
//! only score. Leaves running them to the scheduler and deciding by rewards to `strategy`.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use crate::group::Part;
use crate::ids::ModelId;
use crate::model::adapter::Adapter;
use crate::request::{Event, Message, ScoreInput, ScoreRequest, Usage};
use crate::scheduler::ScoreWork;
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
    /// The reward model called `name`; without a name, the first.
    pub(crate) fn find<'a>(models: &'a [Self], name: Option<&str>) -> Result<&'a Self, EngineError> {
        let found = match name {
            Some(name) => models.iter().find(|model| *model.name == *name),
            None => models.first(),
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

    /// The conversation without an answer, for its blocks alone: as many whole blocks as it fills. `None` if it fills
    /// none, or if the template cannot do without an answer: candidates are then read from the start.
    pub(crate) fn prompt_work(&self, judge: usize, messages: &[Message]) -> Option<ScoreWork> {
        let mut tokens = self.spec.prompt_tokens(messages).ok()?;
        tokens.truncate(tokens.len() / self.block_size * self.block_size);
        (!tokens.is_empty()).then(|| self.work(Part::ScorePrompt(judge), tokens))
    }

    /// The conversation with an answer.
    pub(crate) fn candidate_work(
        &self,
        judge: usize,
        index: usize,
        messages: &[Message],
        answer: &str,
    ) -> Result<ScoreWork, EngineError> {
        Ok(self.work(Part::Score { judge, index }, self.spec.candidate_tokens(messages, answer)?))
    }

    fn text_work(&self, index: usize, text: &str) -> Result<ScoreWork, EngineError> {
        Ok(self.work(Part::Score { judge: 0, index }, self.spec.text_tokens(text)?))
    }

    fn work(&self, part: Part, tokens: Vec<u32>) -> ScoreWork {
        ScoreWork { model: self.model, adapter: self.adapter.clone(), part, tokens: tokens.into() }
    }
}

/// A request that only scores.
#[derive(Debug)]
pub(crate) struct Scoring {
    events: mpsc::Sender<Event>,
    num_open: usize,
    usage: Usage,
    pub(crate) arrived: Instant,
}

impl Scoring {
    /// The request's state and its work, the shared conversation first.
    pub(crate) fn new(
        request: &ScoreRequest,
        models: &[RewardModel],
        events: mpsc::Sender<Event>,
    ) -> Result<(Self, Vec<ScoreWork>), EngineError> {
        let model = RewardModel::find(models, request.reward.as_deref())?;
        let mut work = Vec::new();
        let num_open = match &request.input {
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
        Ok((Self { events, num_open, usage: Usage::default(), arrived: Instant::now() }, work))
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
        let _ = self.events.try_send(Event::Failed(error));
    }

    fn send(&self, event: Event) -> Result<(), EngineError> {
        self.events.try_send(event).map_err(|_| EngineError::Shutdown)
    }
}
