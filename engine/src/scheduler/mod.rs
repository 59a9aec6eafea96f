//! Who runs in the next step, and in which blocks: continuous batching over several models. This file owns the queue
//! and the life of groups; `plan` fills a step, `preempt` makes room, `step` lays out batches. Leaves text, sampling and
//! rewards to the engine.

mod pacing;
mod plan;
mod preempt;
mod step;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use step::{Item, ModelStep, Step};

use crate::batch::ExecutorSpec;
use crate::block_pool::BlockPool;
use crate::group::{GroupKey, Part, ScoreSequence, SequenceGroup};
use crate::ids::{ModelId, RequestId, SeqId};
use crate::model::adapter::Adapter;
use crate::sequence::{Sequence, SequenceState};
use crate::{EngineConfig, EngineError};
use pacing::Pacer;

/// A model as the scheduler sees it.
#[derive(Debug)]
struct Model {
    pool: BlockPool,
    spec: ExecutorSpec,
}

/// What to generate.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The request.
    pub id: RequestId,
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
}

/// The scheduler. Steps run as `schedule → execute → advance, fork, append, finish`.
#[derive(Debug)]
pub struct Scheduler {
    config: EngineConfig,
    models: Vec<Model>,
    groups: Vec<Option<SequenceGroup>>,
    free_groups: Vec<usize>,
    requests: HashMap<RequestId, usize>,
    /// Generation not admitted, or preempted.
    waiting: BTreeMap<GroupKey, usize>,
    /// Generation admitted.
    running: BTreeMap<GroupKey, usize>,
    /// Unfinished reward-model work.
    scoring: BTreeMap<GroupKey, usize>,
    next_arrival: u64,
    next_seq_id: u64,
    step_number: u64,
    pacer: Pacer,
    num_preemptions: u64,
    prefix_hit_tokens: u64,
    /// Groups of the pass in progress; kept for its memory.
    pass: Vec<usize>,
}

impl Scheduler {
    /// A scheduler over models `specs`; the first is the policy.
    pub fn new(config: EngineConfig, specs: &[ExecutorSpec]) -> Self {
        let model = |spec: &ExecutorSpec| Model { pool: BlockPool::new(spec.num_blocks), spec: *spec };
        Self {
            config,
            models: specs.iter().map(model).collect(),
            groups: Vec::new(),
            free_groups: Vec::new(),
            requests: HashMap::new(),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            scoring: BTreeMap::new(),
            next_arrival: 0,
            next_seq_id: 0,
            step_number: 0,
            pacer: Pacer::new(Duration::from_millis(config.step_target_ms)),
            num_preemptions: 0,
            prefix_hit_tokens: 0,
            pass: Vec::new(),
        }
    }

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
        self.waiting.insert(key, index);
        Ok(())
    }

    /// Opens a request that only scores; its texts follow through [`Scheduler::add_score`].
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] if the queue is full.
    pub fn add_scoring(&mut self, id: RequestId, priority: i32) -> Result<(), EngineError> {
        self.check_queue()?;
        let group = SequenceGroup {
            id,
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
        let Model { pool, spec } = &self.models[usize::from(work.model.0)];
        let num_tokens = work.tokens.len();
        let limit = spec.max_model_len.min(pool.num_blocks() * spec.block_size);
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
        let sequence = Sequence::new(SeqId(self.next_seq_id), work.tokens, work.adapter);
        if let Some(group) = &mut self.groups[index] {
            group.scores.push_back(ScoreSequence { part: work.part, model: work.model, sequence });
            self.scoring.insert(group.key, index);
        }
        Ok(())
    }

    /// Forgets a request; its blocks are free at once. Unknown requests are ignored.
    pub fn remove(&mut self, request: RequestId) {
        let Some(index) = self.requests.remove(&request) else { return };
        let Some(mut group) = self.groups[index].take() else { return };
        let policy = &mut self.models[usize::from(ModelId::POLICY.0)].pool;
        for sequence in group.prompt.iter_mut().chain(&mut group.candidates) {
            sequence.release(policy, SequenceState::Finished);
        }
        for score in &mut group.scores {
            score
                .sequence
                .release(&mut self.models[usize::from(score.model.0)].pool, SequenceState::Finished);
        }
        for set in [&mut self.waiting, &mut self.running, &mut self.scoring] {
            set.remove(&group.key);
        }
        self.free_groups.push(index);
    }

    /// Counts an executed item's tokens as computed. Returns whether its sequence is computed to its end; a text is
    /// then scored and gone, a prompt waits for [`Scheduler::fork`].
    pub fn advance(&mut self, item: &Item) -> bool {
        let use_cache = self.config.prefix_caching;
        let Some(Some(group)) = self.groups.get_mut(item.group) else { return false };
        if group.id != item.request {
            return false;
        }
        let (sequence, model) = match item.part {
            Part::Prompt => (group.prompt.as_mut(), ModelId::POLICY),
            Part::Candidate(index) => (group.candidates.get_mut(index), ModelId::POLICY),
            part => match group.scores.iter_mut().find(|score| score.part == part) {
                Some(score) => (Some(&mut score.sequence), score.model),
                None => (None, ModelId::POLICY),
            },
        };
        let Model { pool, spec } = &mut self.models[usize::from(model.0)];
        let Some(sequence) = sequence.filter(|sequence| sequence.is_running()) else { return false };
        sequence.advance(item.num_scheduled_tokens, pool, spec.block_size, use_cache);
        let is_complete = sequence.num_remaining_tokens() == 0;
        if is_complete && matches!(item.part, Part::ScorePrompt | Part::Score(_)) {
            sequence.release(pool, SequenceState::Finished);
            group.scores.retain(|score| score.part != item.part);
            if group.scores.is_empty() {
                self.scoring.remove(&group.key);
            }
        }
        is_complete
    }

    /// Shares the computed prompt's blocks among the live candidates.
    pub fn fork(&mut self, request: RequestId) {
        let Some(group) = group_mut(&self.requests, &mut self.groups, request) else { return };
        let Some(mut prompt) = group.prompt.take() else { return };
        let pool = &mut self.models[usize::from(ModelId::POLICY.0)].pool;
        for candidate in group.candidates.iter_mut().filter(|candidate| candidate.is_alive()) {
            candidate.fork_from(&prompt, pool);
        }
        prompt.release(pool, SequenceState::Finished);
    }

    /// Adds a generated token to a candidate.
    pub fn append(&mut self, request: RequestId, candidate: usize, token: u32) {
        let group = group_mut(&self.requests, &mut self.groups, request);
        if let Some(sequence) = group.and_then(|group| group.candidates.get_mut(candidate)) {
            sequence.output.push(token);
        }
    }

    /// Ends a candidate; its blocks are free at once.
    pub fn finish(&mut self, request: RequestId, candidate: usize) {
        let Some(group) = group_mut(&self.requests, &mut self.groups, request) else { return };
        let pool = &mut self.models[usize::from(ModelId::POLICY.0)].pool;
        if let Some(sequence) = group.candidates.get_mut(candidate) {
            sequence.release(pool, SequenceState::Finished);
        }
        if group.alive().next().is_none() {
            if let Some(prompt) = &mut group.prompt {
                prompt.release(pool, SequenceState::Finished);
            }
            group.prompt = None;
            group.state = SequenceState::Finished;
            self.running.remove(&group.key);
            self.waiting.remove(&group.key);
        }
    }

    /// Drops a text that a reward model was to read.
    pub fn remove_score(&mut self, request: RequestId, part: Part) {
        let Some(group) = group_mut(&self.requests, &mut self.groups, request) else { return };
        for score in group.scores.iter_mut().filter(|score| score.part == part) {
            score
                .sequence
                .release(&mut self.models[usize::from(score.model.0)].pool, SequenceState::Finished);
        }
        group.scores.retain(|score| score.part != part);
        if group.scores.is_empty() {
            self.scoring.remove(&group.key);
        }
    }

    /// The group of a request.
    pub fn group(&self, request: RequestId) -> Option<&SequenceGroup> {
        self.groups[*self.requests.get(&request)?].as_ref()
    }

    /// Tells how long a step took, so that the next mixed one can be cut to measure.
    pub fn observe(&mut self, step: &Step, time: Duration) {
        self.pacer.observe(step.num_tokens(), step.num_prefill_tokens(), time);
    }

    /// Requests not yet admitted or preempted, and requests that only score.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len() + self.scoring.values().filter(|&&index| self.only_scores(index)).count()
    }

    /// Sequences that take part in steps.
    pub fn num_running(&self) -> usize {
        let generating = self.running.values().filter_map(|&index| self.groups[index].as_ref());
        let scoring = self.scoring.values().filter_map(|&index| self.groups[index].as_ref());
        generating.map(SequenceGroup::num_running).sum::<usize>()
            + scoring
                .map(|group| group.scores.iter().filter(|s| s.sequence.is_running()).count())
                .sum::<usize>()
    }

    /// Nothing waits, runs or is scored.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && self.scoring.is_empty()
    }

    /// The blocks of `model`.
    pub fn pool(&self, model: ModelId) -> &BlockPool {
        &self.models[usize::from(model.0)].pool
    }

    /// Groups preempted and candidates suspended so far.
    pub fn num_preemptions(&self) -> u64 {
        self.num_preemptions
    }

    /// Tokens taken from the prefix cache so far, of prompts and of texts to score.
    pub fn prefix_hit_tokens(&self) -> u64 {
        self.prefix_hit_tokens
    }

    /// Checks that every pool's blocks are exactly those of the block tables, and that the queues hold what they
    /// should. For tests: walks everything.
    ///
    /// # Errors
    /// A sentence about the first violation.
    pub fn check_integrity(&self) -> Result<(), String> {
        for (index, model) in self.models.iter().enumerate() {
            let of_model = |of: ModelId| usize::from(of.0) == index;
            let sequences = self
                .groups
                .iter()
                .flatten()
                .flat_map(SequenceGroup::sequences)
                .filter(|(of, _)| of_model(*of));
            model
                .pool
                .check_integrity(sequences.flat_map(|(_, sequence)| sequence.block_table.iter().copied()))?;
        }
        for (index, group) in self.groups.iter().enumerate() {
            let Some(group) = group else { continue };
            if self.requests.get(&group.id) != Some(&index) {
                return Err(format!("request {} does not lead to its group", group.id.0));
            }
            let queues = usize::from(self.waiting.contains_key(&group.key))
                + usize::from(self.running.contains_key(&group.key));
            if queues != usize::from(group.alive().next().is_some()) {
                return Err(format!("request {} stands in {queues} queues", group.id.0));
            }
            if self.scoring.contains_key(&group.key) == group.scores.is_empty() {
                return Err(format!("request {} is wrongly queued for scoring", group.id.0));
            }
        }
        Ok(())
    }

    fn only_scores(&self, index: usize) -> bool {
        self.groups[index].as_ref().is_some_and(|group| group.candidates.is_empty())
    }

    fn check_queue(&self) -> Result<(), EngineError> {
        let waiting = self.num_waiting();
        if waiting < self.config.max_waiting { Ok(()) } else { Err(EngineError::Overloaded { waiting }) }
    }

    /// A lone candidate must fit beside the partial prompt block that the others share.
    fn check_fits(&self, generation: &Generation) -> Result<(), EngineError> {
        let Model { pool, spec } = &self.models[usize::from(ModelId::POLICY.0)];
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

/// Borrows the table alone, so that pools stay free to change.
fn group_mut<'a>(
    requests: &HashMap<RequestId, usize>,
    groups: &'a mut [Option<SequenceGroup>],
    request: RequestId,
) -> Option<&'a mut SequenceGroup> {
    groups[*requests.get(&request)?].as_mut()
}
