//! Who runs in the next step, and in which blocks: continuous batching over several models. This file owns the life
//! of groups; `intake` queues them, `plan` fills a step, `preempt` makes room, `step` lays out batches. Leaves text, sampling and
//! rewards to the engine.

mod intake;
mod pacing;
mod plan;
mod preempt;
mod score;
mod step;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

pub use intake::{Generation, ScoreWork};
pub use step::{Item, ModelStep, Step};

use crate::EngineConfig;
use crate::batch::ExecutorSpec;
use crate::block_pool::BlockPool;
use crate::group::{GroupKey, Part, SequenceGroup};
use crate::ids::{ModelId, RequestId};
use crate::sequence::SequenceState;
use pacing::Pacer;

/// A model as the scheduler sees it.
#[derive(Debug)]
struct Model {
    pool: BlockPool,
    spec: ExecutorSpec,
    /// Generation by this policy that is not admitted, or preempted.
    waiting: BTreeMap<GroupKey, usize>,
    /// Groups preempted and candidates suspended so far.
    num_preemptions: u64,
    /// Tokens taken from the prefix cache so far, of prompts and of texts to score.
    prefix_hit_tokens: u64,
    plan: Plan,
}

/// How much a model has to do, and what it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests not yet admitted or preempted, and requests that only score.
    pub waiting: usize,
    /// Sequences that take part in steps.
    pub running: usize,
    /// Groups preempted and candidates suspended so far.
    pub preemptions: u64,
    /// Tokens taken from the prefix cache so far, of prompts and of texts to score.
    pub prefix_hit_tokens: u64,
}

/// What the plan in progress has found out about a model.
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    /// Requests of this policy are admitted.
    is_busy: bool,
    /// Their sequences that run, each of which may soon want a block.
    num_running: usize,
    /// The oldest request that found no blocks, for a text or a candidate: nothing newer may start before it, or it could wait
    /// for ever.
    blocked: Option<GroupKey>,
    /// Whoever was next to start found no blocks.
    is_full: bool,
    /// Prompts, texts, and groups with something to compute again that wait for it.
    num_prefills: usize,
}

/// The scheduler. Steps run as `schedule → execute → advance, fork, append, finish`.
#[derive(Debug)]
pub struct Scheduler {
    config: EngineConfig,
    models: Vec<Model>,
    groups: Vec<Option<SequenceGroup>>,
    free_groups: Vec<usize>,
    requests: HashMap<RequestId, usize>,
    /// Generation admitted.
    running: BTreeMap<GroupKey, usize>,
    /// Unfinished reward-model work.
    scoring: BTreeMap<GroupKey, usize>,
    next_arrival: u64,
    next_seq_id: u64,
    step_number: u64,
    pacer: Pacer,
    /// Groups of the pass in progress; kept for its memory.
    pass: Vec<usize>,
}

impl Scheduler {
    /// A scheduler over models `specs`.
    pub fn new(config: EngineConfig, specs: &[ExecutorSpec]) -> Self {
        let model = |spec: &ExecutorSpec| Model {
            pool: BlockPool::new(spec.num_blocks),
            spec: *spec,
            waiting: BTreeMap::new(),
            num_preemptions: 0,
            prefix_hit_tokens: 0,
            plan: Plan::default(),
        };
        Self {
            config,
            models: specs.iter().map(model).collect(),
            groups: Vec::new(),
            free_groups: Vec::new(),
            requests: HashMap::new(),
            running: BTreeMap::new(),
            scoring: BTreeMap::new(),
            next_arrival: 0,
            next_seq_id: 0,
            step_number: 0,
            pacer: Pacer::new(Duration::from_millis(config.step_target_ms), specs.len()),
            pass: Vec::new(),
        }
    }

    /// Forgets a request; its blocks are free at once. Unknown requests are ignored.
    pub fn remove(&mut self, request: RequestId) {
        let Some(index) = self.requests.remove(&request) else { return };
        let Some(mut group) = self.groups[index].take() else { return };
        let policy = &mut self.models[group.model.index()];
        policy.waiting.remove(&group.key);
        let policy = &mut policy.pool;
        for sequence in group.prompt.iter_mut().chain(&mut group.candidates) {
            sequence.release(policy, SequenceState::Finished);
        }
        for score in &mut group.scores {
            score.sequence.release(&mut self.models[score.model.index()].pool, SequenceState::Finished);
        }
        for set in [&mut self.running, &mut self.scoring] {
            set.remove(&group.key);
        }
        self.free_groups.push(index);
    }

    /// Keeps what an executed item's text was read at, before [`Scheduler::advance`]. The text's reward, if the item ends it.
    pub fn take_scores(&mut self, item: &Item, values: &[f32]) -> Option<f32> {
        let group = self.groups.get_mut(item.group)?.as_mut().filter(|group| group.id == item.request)?;
        let score = group.scores.iter_mut().find(|score| score.part == item.part)?;
        score.sequence.values.extend_from_slice(values);
        let is_last = item.first_position + item.num_scheduled_tokens == score.sequence.len();
        (is_last && matches!(item.part, Part::Score { .. }))
            .then(|| score.aggregate.of(&score.sequence.values))
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
            Part::Prompt => (group.prompt.as_mut(), group.model),
            Part::Candidate(index) => (group.candidates.get_mut(index), group.model),
            part => match group.scores.iter_mut().find(|score| score.part == part) {
                Some(score) => (Some(&mut score.sequence), score.model),
                None => (None, group.model),
            },
        };
        let Model { pool, spec, .. } = &mut self.models[model.index()];
        let Some(sequence) = sequence.filter(|sequence| sequence.is_running()) else { return false };
        sequence.advance(item.num_scheduled_tokens, pool, spec.block_size, use_cache);
        let is_complete = sequence.num_remaining_tokens() == 0;
        if is_complete && matches!(item.part, Part::ScorePrompt(_) | Part::Score { .. }) {
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
        let Model { pool, spec, .. } = &mut self.models[group.model.index()];
        for candidate in group.candidates.iter_mut().filter(|candidate| candidate.is_alive()) {
            candidate.fork_from(&prompt, pool);
            if candidate.is_held {
                candidate.hold(pool, spec.block_size);
            }
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

    /// Keeps a candidate from running; its blocks stay, until somebody else needs them.
    pub fn hold(&mut self, request: RequestId, candidate: usize) {
        let Some(group) = group_mut(&self.requests, &mut self.groups, request) else { return };
        let Model { pool, spec, .. } = &mut self.models[group.model.index()];
        if let Some(sequence) = group.candidates.get_mut(candidate) {
            sequence.hold(pool, spec.block_size);
        }
    }

    /// Lets a held candidate run as soon as there is room.
    pub fn go_on(&mut self, request: RequestId, candidate: usize) {
        let group = group_mut(&self.requests, &mut self.groups, request);
        if let Some(sequence) = group.and_then(|group| group.candidates.get_mut(candidate)) {
            sequence.is_held = false;
        }
    }

    /// Makes a candidate that is held or has ended a copy of another, which is held.
    pub fn copy(&mut self, request: RequestId, from: usize, candidate: usize) {
        let Some(group) = group_mut(&self.requests, &mut self.groups, request) else { return };
        let pool = &mut self.models[group.model.index()].pool;
        if let Ok([from, to]) = group.candidates.get_disjoint_mut([from, candidate]) {
            to.copy_from(from, pool);
        }
    }

    /// Ends a candidate; its blocks are free at once.
    pub fn finish(&mut self, request: RequestId, candidate: usize) {
        let Some(group) = group_mut(&self.requests, &mut self.groups, request) else { return };
        let Model { pool, waiting, .. } = &mut self.models[group.model.index()];
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
            waiting.remove(&group.key);
        }
    }

    /// Drops a text that a reward model was to read.
    pub fn remove_score(&mut self, request: RequestId, part: Part) {
        let Some(group) = group_mut(&self.requests, &mut self.groups, request) else { return };
        for score in group.scores.iter_mut().filter(|score| score.part == part) {
            score.sequence.release(&mut self.models[score.model.index()].pool, SequenceState::Finished);
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

    /// Learns from how long each model took, so that the next mixed step can be cut to measure.
    pub fn observe(&mut self, step: &Step) {
        for work in step.models.iter().filter(|work| !work.items.is_empty()) {
            let num_prefill = work.num_prefill_tokens();
            self.pacer.observe(work.model, work.num_tokens() - num_prefill, num_prefill, work.time);
        }
    }

    /// Requests not yet admitted or preempted, and requests that only score.
    pub fn num_waiting(&self) -> usize {
        let waiting: usize = self.models.iter().map(|model| model.waiting.len()).sum();
        waiting + self.scoring.values().filter(|&&index| self.only_scores(index)).count()
    }

    /// Sequences that take part in steps.
    pub fn num_running(&self) -> usize {
        let mut loads = Vec::new();
        self.loads(&mut loads);
        loads.iter().map(|load| load.running).sum()
    }

    /// The load of every model, into `loads`.
    pub fn loads(&self, loads: &mut Vec<Load>) {
        loads.clear();
        loads.extend(self.models.iter().map(|model| Load {
            waiting: model.waiting.len(),
            running: 0,
            preemptions: model.num_preemptions,
            prefix_hit_tokens: model.prefix_hit_tokens,
        }));
        for group in self.running.values().filter_map(|&index| self.groups[index].as_ref()) {
            loads[group.model.index()].running += group.num_running();
        }
        for group in self.scoring.values().filter_map(|&index| self.groups[index].as_ref()) {
            loads[group.model.index()].waiting += usize::from(group.candidates.is_empty());
            for score in group.scores.iter().filter(|score| score.sequence.is_running()) {
                loads[score.model.index()].running += 1;
            }
        }
    }

    /// Nothing waits, runs or is scored.
    pub fn is_idle(&self) -> bool {
        let waits = self.models.iter().any(|model| !model.waiting.is_empty());
        !waits && self.running.is_empty() && self.scoring.is_empty()
    }

    /// The blocks of `model`.
    pub fn pool(&self, model: ModelId) -> &BlockPool {
        &self.models[model.index()].pool
    }

    /// Groups preempted and candidates suspended so far.
    pub fn num_preemptions(&self) -> u64 {
        self.models.iter().map(|model| model.num_preemptions).sum()
    }

    /// Tokens taken from the prefix cache so far, of prompts and of texts to score.
    pub fn prefix_hit_tokens(&self) -> u64 {
        self.models.iter().map(|model| model.prefix_hit_tokens).sum()
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
            let queues = usize::from(self.models[group.model.index()].waiting.contains_key(&group.key))
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
}

/// Borrows the table alone, so that pools stay free to change.
fn group_mut<'a>(
    requests: &HashMap<RequestId, usize>,
    groups: &'a mut [Option<SequenceGroup>],
    request: RequestId,
) -> Option<&'a mut SequenceGroup> {
    groups[*requests.get(&request)?].as_mut()
}
