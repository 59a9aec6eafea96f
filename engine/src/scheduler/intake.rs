//! What comes into the scheduler: requests and texts, refused if the queue is full or if they could never fit. Leaves
//! everything after that to `plan`.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Model, Scheduler};
use crate::EngineError;
use crate::group::{GroupKey, Part, ScoreSequence, SequenceGroup};
use crate::ids::{ModelId, RequestId, SeqId};
use crate::model::adapter::Adapter;
use crate::model::reading::{Aggregate, Steps};
use crate::sequence::{Sequence, SequenceState};

/// What to generate.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The request.
    pub id: RequestId,
    /// The policy.
    pub model: ModelId,
    /// Lower runs first.
    pub priority: i32,
    /// At least one token.
    pub prompt: Arc<[u32]>,
    /// Candidates.
    pub num_candidates: usize,
    /// Most tokens of each.
    pub max_tokens: usize,
    /// Kept to the end.
    pub adapter: Option<Arc<Adapter>>,
    /// Logits of every prompt row are wanted.
    pub prompt_logits: bool,
}

/// A text for a reward model.
#[derive(Clone, Debug)]
pub struct ScoreWork {
    /// Whose blocks it uses.
    pub model: ModelId,
    /// The adapter with the score head, unless the model has its own.
    pub adapter: Option<Arc<Adapter>>,
    /// [`Part::ScorePrompt`] or [`Part::Score`].
    pub part: Part,
    /// Its tokens.
    pub tokens: Arc<[u32]>,
    /// Where its reward is read; `None` is at the last token.
    pub steps: Option<Steps>,
}

impl Scheduler {
    /// Queues a generation.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] if the queue is full; [`EngineError::ContextLength`] or
    /// [`EngineError::InvalidRequest`] if the request could never fit.
    pub fn add_generation(&mut self, generation: Generation) -> Result<(), EngineError> {
        self.check_queue()?;
        self.check_fits(&generation)?;
        let key = self.next_key(generation.priority);
        let candidate = |_| {
            self.next_seq_id += 1;
            Sequence::new(SeqId(self.next_seq_id), Arc::clone(&generation.prompt), generation.adapter.clone())
        };
        let group = SequenceGroup {
            id: generation.id,
            model: generation.model,
            key,
            state: SequenceState::Waiting,
            candidates: (0..generation.num_candidates).map(candidate).collect(),
            prompt_tokens: generation.prompt,
            prompt: None,
            scores: VecDeque::new(),
            prompt_logits: generation.prompt_logits,
            cached_tokens: 0,
            blocks_when_preempted: 0,
        };
        let index = self.insert(group);
        self.models[generation.model.index()].waiting.insert(key, index);
        Ok(())
    }

    /// Opens a request that only scores, on `model`; its texts follow through [`Scheduler::add_score`].
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] if the queue is full.
    pub fn add_scoring(&mut self, id: RequestId, model: ModelId, priority: i32) -> Result<(), EngineError> {
        self.check_queue()?;
        let group = SequenceGroup {
            id,
            model,
            key: self.next_key(priority),
            state: SequenceState::Running,
            prompt_tokens: Arc::new([]),
            prompt: None,
            candidates: Vec::new(),
            scores: VecDeque::new(),
            prompt_logits: false,
            cached_tokens: 0,
            blocks_when_preempted: 0,
        };
        self.insert(group);
        Ok(())
    }

    /// Queues a text for a reward model under an open request; an unknown request is ignored.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if the text is empty or could never fit.
    pub fn add_score(&mut self, request: RequestId, work: ScoreWork) -> Result<(), EngineError> {
        let num_tokens = work.tokens.len();
        let limit = self.score_limit(work.model);
        if num_tokens == 0 || num_tokens > limit {
            let message = if num_tokens == 0 {
                "the text to score has no tokens, but the reward model needs at least one".to_owned()
            } else {
                format!(
                    "the text to score has {num_tokens} tokens, but the reward model takes {limit} at most"
                )
            };
            return Err(EngineError::invalid("messages", message));
        }
        let Some(&index) = self.requests.get(&request) else { return Ok(()) };
        self.next_seq_id += 1;
        let mut sequence = Sequence::new(SeqId(self.next_seq_id), work.tokens, work.adapter);
        let aggregate = work.steps.as_ref().map_or(Aggregate::Last, |steps| steps.aggregate);
        sequence.wanted = work.steps.map(|steps| steps.positions);
        if let Some(group) = &mut self.groups[index] {
            let ScoreWork { part, model, .. } = work;
            group.scores.push_back(ScoreSequence { part, model, sequence, aggregate });
            self.scoring.insert(group.key, index);
        }
        Ok(())
    }

    /// Longest text that `model` can score, in tokens.
    pub fn score_limit(&self, model: ModelId) -> usize {
        let Model { pool, spec, .. } = &self.models[model.index()];
        spec.max_model_len.min(pool.num_blocks() * spec.block_size)
    }

    /// A request of texts alone.
    pub(super) fn only_scores(&self, index: usize) -> bool {
        self.groups[index].as_ref().is_some_and(|group| group.candidates.is_empty())
    }

    fn check_queue(&self) -> Result<(), EngineError> {
        let waiting = self.num_waiting();
        if waiting < self.config.max_waiting { Ok(()) } else { Err(EngineError::Overloaded { waiting }) }
    }

    /// A lone candidate must fit beside the partial prompt block that the others share.
    fn check_fits(&self, generation: &Generation) -> Result<(), EngineError> {
        let Model { pool, spec, .. } = &self.models[generation.model.index()];
        let (prompt_len, max_tokens) = (generation.prompt.len(), generation.max_tokens);
        if prompt_len == 0 {
            return Err(EngineError::invalid(
                "prompt",
                "the prompt has no tokens, but must have at least one",
            ));
        }
        if generation.num_candidates == 0 {
            return Err(EngineError::invalid("n", "n is 0, but must be at least 1"));
        }
        let num_tokens = prompt_len.saturating_add(max_tokens);
        if num_tokens > spec.max_model_len {
            return Err(EngineError::ContextLength {
                prompt_len,
                max_tokens,
                max_model_len: spec.max_model_len,
            });
        }
        let shared = generation.num_candidates > 1 && !prompt_len.is_multiple_of(spec.block_size);
        if num_tokens.div_ceil(spec.block_size) + usize::from(shared) > pool.num_blocks() {
            let capacity = (pool.num_blocks() - usize::from(shared)) * spec.block_size;
            let message = format!(
                "the KV cache holds {capacity} tokens of one sequence, but the prompt has {prompt_len} and max_tokens asks \
                 for {max_tokens} more"
            );
            return Err(EngineError::invalid("max_tokens", message));
        }
        Ok(())
    }

    fn next_key(&mut self, priority: i32) -> GroupKey {
        self.next_arrival += 1;
        GroupKey { priority, arrival: self.next_arrival }
    }

    fn insert(&mut self, group: SequenceGroup) -> usize {
        let id = group.id;
        let index = self.free_groups.pop().unwrap_or(self.groups.len());
        if index == self.groups.len() {
            self.groups.push(Some(group));
        } else {
            self.groups[index] = Some(group);
        }
        self.requests.insert(id, index);
        index
    }
}
