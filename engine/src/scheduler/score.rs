//! Reward models' part of a step: prefill-only sequences, the conversation they share first. Leaves their share of the
//! step to `plan`.

use super::plan::{Place, Room, plan_tokens};
use super::step::Step;
use super::{Model, Scheduler};
use crate::group::{GroupKey, Part};
use crate::ids::ModelId;
use crate::sequence::SequenceState;

impl Scheduler {
    /// Up to `budget` tokens of reward-model work, oldest request first. Returns the oldest request that found no
    /// policy blocks for a text: nothing newer may start before it, or it could wait for ever.
    pub(super) fn score(&mut self, step: &mut Step, room: &mut Room, budget: usize) -> Option<GroupKey> {
        let mut budget = budget.min(room.prefill);
        let use_cache = self.config.prefix_caching;
        let mut blocked: Vec<Option<GroupKey>> = vec![None; self.models.len()];
        for (&key, &index) in &self.scoring {
            let Some(group) = &mut self.groups[index] else { continue };
            if group.state == SequenceState::Waiting {
                continue;
            }
            for number in 0..group.scores.len() {
                let score = &group.scores[number];
                let model = usize::from(score.model.0);
                let prompt = match score.part {
                    Part::Score { judge, .. } => Some(Part::ScorePrompt(judge)),
                    _ => None,
                };
                let waits =
                    prompt.is_some_and(|prompt| group.scores.iter().any(|other| other.part == prompt));
                let is_due = score.sequence.last_scheduled != self.step_number && !waits;
                if budget == 0 {
                    return blocked[usize::from(ModelId::POLICY.0)];
                }
                if !is_due || (blocked[model].is_some() && !score.sequence.is_running()) {
                    continue;
                }
                let Model { pool, spec } = &mut self.models[model];
                if !score.sequence.is_running() {
                    let is_policy = score.model == ModelId::POLICY;
                    let headroom = if is_policy { room.num_running } else { 0 };
                    let sequence = &mut group.scores[number].sequence;
                    let mut wanted = sequence.num_blocks_to_start(pool, spec.block_size, use_cache);
                    while is_policy
                        && wanted + headroom > pool.num_free()
                        && group.release_held(pool, spec.block_size)
                    {
                        let sequence = &mut group.scores[number].sequence;
                        wanted = sequence.num_blocks_to_start(pool, spec.block_size, use_cache);
                    }
                    let sequence = &mut group.scores[number].sequence;
                    if !room.calm || wanted + headroom > pool.num_free() {
                        blocked[model] = Some(key);
                        continue;
                    }
                    if use_cache {
                        self.prefix_hit_tokens += sequence.extend_from_cache(pool, spec.block_size) as u64;
                    }
                    if sequence.make_room(pool, spec.block_size).is_none() {
                        blocked[model] = Some(key);
                        continue;
                    }
                    sequence.state = SequenceState::Running;
                }
                let score = &group.scores[number];
                let num_tokens = score.sequence.num_remaining_tokens().min(budget);
                budget -= num_tokens;
                room.take_prefill(num_tokens);
                let part = score.part;
                plan_tokens(step, Place { index, part }, group, None, num_tokens, self.step_number);
            }
        }
        blocked[usize::from(ModelId::POLICY.0)]
    }
}
