//! Making room when blocks run out: whole groups go, newest first, and recompute later; the last group left suspends
//! its own candidates instead, so that the oldest always gets on. Leaves when to call this to `plan`.

use crate::group::SequenceGroup;
use crate::ids::ModelId;
use crate::sequence::SequenceState;

use super::{Model, Scheduler};

/// What was given up so that `index`, a group that needs a block, may have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    /// Another group, or a part of the group that does not stand in the way of the one that asks: try again.
    Other,
    /// The asking candidate itself.
    Candidate,
    /// The asking group, whole.
    Group,
    /// Nothing is left to give up.
    Nobody,
}

impl Scheduler {
    /// Frees blocks of its policy for candidate `asking` of group `index`.
    pub(super) fn preempt_for(&mut self, index: usize, asking: usize) -> Victim {
        let Some(model) = self.groups[index].as_ref().map(|group| group.model) else { return Victim::Nobody };
        let newest = self.newest_holder(model);
        if let Some(newest) = newest.filter(|&newest| newest != index) {
            let key_of = |index: usize| self.groups[index].as_ref().map(|group| group.key);
            if key_of(newest) > key_of(index) {
                self.preempt_group(newest, model);
                return Victim::Other;
            }
        }
        // This group is the newest: it gives up what it can do later, first candidates that are held, then texts, then its
        // last candidates.
        if self.release_held(index, model) || self.preempt_scores(index, model) {
            return Victim::Other;
        }
        let alone = self.is_only_holder(index, model);
        let block_size = self.models[model.index()].spec.block_size;
        let Some(group) = &mut self.groups[index] else { return Victim::Nobody };
        let last = group.candidates.iter().rposition(|candidate| candidate.is_running());
        match last {
            Some(last) if last > asking || (group.num_running() > 1 && last == asking) => {
                let pool = &mut self.models[model.index()].pool;
                group.candidates[last].release_tail(pool, block_size);
                self.models[model.index()].num_preemptions += 1;
                if last == asking { Victim::Candidate } else { Victim::Other }
            }
            _ if !alone => {
                self.preempt_group(index, model);
                Victim::Group
            }
            // Suspended candidates may still hold tails from before the fork of a resumed group: none do, because a
            // suspended candidate keeps shared prompt blocks only. Admission made sure that one candidate fits.
            _ => Victim::Nobody,
        }
    }

    /// Gives up the newest group that holds blocks, when nothing else can get on. The oldest of all keeps its own but for
    /// texts and the tails of candidates that do not run. Returns whether anything was given up.
    pub(super) fn preempt_newest(&mut self, model: ModelId) -> bool {
        let Some(newest) = self.newest_holder(model) else { return false };
        let key = self.groups[newest].as_ref().map(|group| group.key);
        let waiting = self.models.iter().map(|model| &model.waiting);
        let firsts = waiting.chain([&self.running, &self.scoring]).map(|set| set.keys().next().copied());
        let oldest = firsts.flatten().min();
        if oldest >= key {
            if self.release_held(newest, model) || self.preempt_scores(newest, model) {
                return true;
            }
            // Candidates that went on after a check keep their tails until it is their turn.
            let Model { pool, spec, .. } = &mut self.models[model.index()];
            let group = self.groups[newest].as_mut().filter(|group| group.model == model);
            if group.is_some_and(|group| group.release_waiting(pool, spec.block_size)) {
                return true;
            }
            // Its texts may need the very blocks of the prompt that its held candidates share.
            let waits_for_texts = |group: &SequenceGroup| {
                group.model == model && group.state == SequenceState::Running && group.is_held()
            };
            if !self.groups[newest].as_ref().is_some_and(waits_for_texts) {
                return false;
            }
        }
        self.preempt_group(newest, model);
        true
    }

    /// Everything of a group that holds blocks of `model` gives them back; generation returns to the queue.
    fn preempt_group(&mut self, index: usize, model: ModelId) {
        self.preempt_scores(index, model);
        let Some(group) = &mut self.groups[index] else { return };
        let generates = group.model == model && !group.candidates.is_empty();
        if group.state != SequenceState::Running || !generates {
            return;
        }
        let Model { pool, waiting, num_preemptions, .. } = &mut self.models[model.index()];
        let used_before = pool.num_used();
        if let Some(mut prompt) = group.prompt.take() {
            prompt.release(pool, SequenceState::Finished);
        }
        for candidate in group.candidates.iter_mut().filter(|candidate| candidate.is_alive()) {
            candidate.release(pool, SequenceState::Preempted);
        }
        group.blocks_when_preempted = used_before - pool.num_used();
        group.state = SequenceState::Preempted;
        self.running.remove(&group.key);
        waiting.insert(group.key, index);
        *num_preemptions += 1;
    }

    /// A held candidate of a group gives back what is its own. Returns whether there was one.
    fn release_held(&mut self, index: usize, model: ModelId) -> bool {
        let Model { pool, spec, .. } = &mut self.models[model.index()];
        let group = self.groups[index].as_mut().filter(|group| group.model == model);
        group.is_some_and(|group| group.release_held(pool, spec.block_size))
    }

    /// Texts of a group that hold blocks of `model` start over. Returns whether there were any.
    fn preempt_scores(&mut self, index: usize, model: ModelId) -> bool {
        let Some(group) = &mut self.groups[index] else { return false };
        let pool = &mut self.models[model.index()].pool;
        let mut any = false;
        for score in group.scores.iter_mut().filter(|score| score.model == model) {
            if !score.sequence.block_table.is_empty() {
                score.sequence.release(pool, SequenceState::Preempted);
                any = true;
            }
        }
        any
    }

    fn newest_holder(&self, model: ModelId) -> Option<usize> {
        let holds = |index: usize| self.holds_blocks(index, model);
        let newest = |set: &std::collections::BTreeMap<crate::group::GroupKey, usize>| {
            set.iter().rev().find(|(_, index)| holds(**index)).map(|(key, index)| (*key, *index))
        };
        newest(&self.running).max(newest(&self.scoring)).map(|(_, index)| index)
    }

    fn is_only_holder(&self, index: usize, model: ModelId) -> bool {
        let mut others = self.running.values().chain(self.scoring.values()).filter(|&&other| other != index);
        !others.any(|&other| self.holds_blocks(other, model))
    }

    fn holds_blocks(&self, index: usize, model: ModelId) -> bool {
        let holds = |group: &SequenceGroup| {
            group.sequences().any(|(of, sequence)| of == model && !sequence.block_table.is_empty())
        };
        self.groups[index].as_ref().is_some_and(holds)
    }
}
