//! Reward models' part of a step: prefill-only sequences, the conversation they share first. Leaves their share of the
//! step to `plan`.

use super::plan::{Place, Room, plan_tokens};
use super::step::Step;
use super::{Model, Scheduler};
use crate::group::Part;
use crate::sequence::SequenceState;

impl Scheduler {
    /// Up to `budget` tokens of reward-model work, oldest request first. One that finds no blocks for a text blocks its
    /// model.
    pub(super) fn score(&mut self, step: &mut Step, room: &mut Room, budget: usize) {
        let mut budget = budget.min(room.prefill);
        let use_cache = self.config.prefix_caching;
        self.models.iter_mut().for_each(|model| model.plan.blocked = None);
        for (&key, &index) in &self.scoring {
            let Some(group) = &mut self.groups[index] else { continue };
            if group.state == SequenceState::Waiting {
                continue;
            }
            for number in 0..group.scores.len() {
                let score = &group.scores[number];
                let model = score.model;
                let prompt = match score.part {
                    Part::Score { judge, .. } => Some(Part::ScorePrompt(judge)),
                    _ => None,
                };
                let waits =
                    prompt.is_some_and(|prompt| group.scores.iter().any(|other| other.part == prompt));
                let is_due = score.sequence.last_scheduled != self.step_number && !waits;
                if budget == 0 {
                    return;
                }
                let Model { pool, spec, plan, prefix_hit_tokens, .. } = &mut self.models[model.index()];
                if !is_due || (plan.blocked.is_some() && !score.sequence.is_running()) {
                    continue;
                }
                if !score.sequence.is_running() {
                    let sequence = &mut group.scores[number].sequence;
                    let mut wanted = sequence.num_blocks_to_start(pool, spec.block_size, use_cache);
                    // Held candidates have blocks of the policy alone.
                    while model == group.model
                        && wanted + plan.num_running > pool.num_free()
                        && group.release_held(pool, spec.block_size)
                    {
                        let sequence = &mut group.scores[number].sequence;
                        wanted = sequence.num_blocks_to_start(pool, spec.block_size, use_cache);
                    }
                    let sequence = &mut group.scores[number].sequence;
                    if !room.calm || wanted + plan.num_running > pool.num_free() {
                        plan.blocked = Some(key);
                        continue;
                    }
                    if use_cache {
                        *prefix_hit_tokens += sequence.extend_from_cache(pool, spec.block_size) as u64;
                    }
                    if sequence.make_room(pool, spec.block_size).is_none() {
                        plan.blocked = Some(key);
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
    }
}
