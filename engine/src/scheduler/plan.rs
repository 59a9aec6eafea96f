//! Fills a step: decodes first, then reward models' share (`score`), candidates that start, prompts, and new requests.
//! Leaves what to give up when blocks run out to `preempt`.

use std::sync::Arc;

use super::pacing::Work;
use super::preempt::Victim;
use super::step::{Item, LogitRows, Step};
use super::{Model, Plan, Scheduler};
use crate::group::{Part, SequenceGroup};
use crate::ids::{BlockId, ModelId, SeqId};
use crate::sequence::{Sequence, SequenceState};

/// Most logits of prompt rows in a step, in values: 64 MiB.
const MAX_PROMPT_LOGITS: usize = 16 << 20;

/// What is left of a step.
#[derive(Debug)]
pub(super) struct Room {
    /// Tokens.
    pub(super) tokens: usize,
    /// Of those, tokens of prompts and texts.
    pub(super) prefill: usize,
    /// Values of prompt logits.
    pub(super) logits: usize,
    /// Generating sequences that may still start.
    pub(super) num_seqs: usize,
    /// Nothing was preempted, so there are blocks for more work.
    pub(super) calm: bool,
}

impl Room {
    fn take(&mut self, num_tokens: usize) {
        self.tokens -= num_tokens;
        self.prefill = self.prefill.min(self.tokens);
    }

    pub(super) fn take_prefill(&mut self, num_tokens: usize) {
        self.tokens -= num_tokens;
        self.prefill -= num_tokens;
    }
}

impl Scheduler {
    /// Plans the next step into `step`. Every model's batch can be executed as it is; an empty step means that there is
    /// nothing to do.
    pub fn schedule(&mut self, step: &mut Step) {
        loop {
            self.step_number += 1;
            step.clear(self.models.len());
            let preemptions = self.num_preemptions();
            self.plan(step);
            if !step.is_empty() || self.is_idle() {
                break;
            }
            // All that could run stepped back, and nothing starts in a plan that preempts: there is room now.
            if self.num_preemptions() > preemptions {
                continue;
            }
            // Groups that all wait for blocks of each other: the newest steps back. At most one round for each group.
            let mut models = 0..self.models.len() as u16;
            if !models.any(|model| self.preempt_newest(ModelId(model))) {
                break;
            }
        }
        for (model, work) in self.models.iter().zip(&mut step.models) {
            work.build(&model.spec, |item| find(self.groups[item.group].as_ref()?, item.part));
        }
    }

    fn plan(&mut self, step: &mut Step) {
        let preemptions = self.num_preemptions();
        let mut pass = std::mem::take(&mut self.pass);
        pass.clear();
        pass.extend(self.running.values());

        let num_decodes = self.decode(&pass, step);
        let tokens = self.config.max_num_batched_tokens.saturating_sub(num_decodes);
        for model in &mut self.models {
            model.plan = Plan::default();
        }
        for group in self.running.values().filter_map(|&index| self.groups[index].as_ref()) {
            let plan = &mut self.models[group.model.index()].plan;
            plan.is_busy = true;
            plan.num_running += group.num_running();
            plan.num_prefills += usize::from(group.wants_prefill());
        }
        for group in self.scoring.values().filter_map(|&index| self.groups[index].as_ref()) {
            group.scores.iter().for_each(|score| self.models[score.model.index()].plan.num_prefills += 1);
        }
        let num_running: usize = self.models.iter().map(|model| model.plan.num_running).sum();
        let work = self.models.iter().zip(&step.models).map(|(model, step)| Work {
            num_decodes: step.items.len(),
            num_prefills: model.plan.num_prefills + model.waiting.len(),
        });
        let mut room = Room {
            tokens,
            prefill: tokens.min(self.pacer.prefill_limit(work)),
            logits: MAX_PROMPT_LOGITS,
            num_seqs: self.config.max_num_seqs.saturating_sub(num_running),
            calm: self.num_preemptions() == preemptions,
        };
        let waits = self.models.iter().any(|model| !model.waiting.is_empty());
        let has_prompts = waits || pass.iter().any(|&index| self.has_prefill(index));
        let share = match has_prompts {
            true => (room.prefill as f32 * self.config.score_token_share).ceil() as usize,
            false => room.prefill,
        };
        self.score(step, &mut room, share);
        if room.calm {
            self.start_candidates(&pass, step, &mut room);
        }
        self.continue_prefill(&pass, step, &mut room);
        if room.calm {
            self.admit(step, &mut room);
        }
        let rest = room.prefill;
        self.score(step, &mut room, rest);
        self.pass = pass;
    }

    /// A prompt or a candidate's recomputed tail is under way.
    fn has_prefill(&self, index: usize) -> bool {
        let is_tail = |candidate: &Sequence| candidate.is_running() && !candidate.is_decoding();
        self.groups[index]
            .as_ref()
            .is_some_and(|group| group.prompt.is_some() || group.candidates.iter().any(is_tail))
    }

    /// One token for every decoding candidate, oldest group first. Returns how many.
    fn decode(&mut self, pass: &[usize], step: &mut Step) -> usize {
        for &index in pass {
            let Some(group) = &self.groups[index] else { continue };
            let (model, num_candidates) = (group.model.index(), group.candidates.len());
            let work = &step.models[model];
            let (num_items, num_copies) = (work.items.len(), work.copies.len());
            for candidate in 0..num_candidates {
                if self.decode_one(index, candidate, step) == Victim::Group {
                    // It was preempted whole: what was planned for its first candidates is void.
                    let work = &mut step.models[model];
                    work.items.truncate(num_items);
                    work.copies.truncate(num_copies);
                    break;
                }
            }
        }
        step.models.iter().map(|work| work.items.len()).sum()
    }

    /// Plans one candidate's decode, making room if need be.
    fn decode_one(&mut self, index: usize, candidate: usize, step: &mut Step) -> Victim {
        let mut victim = Victim::Other;
        while victim == Victim::Other {
            let step_number = self.step_number;
            let Some(group) = &mut self.groups[index] else { break };
            let Model { pool, spec, .. } = &mut self.models[group.model.index()];
            let sequence = &mut group.candidates[candidate];
            if !sequence.is_running() || !sequence.is_decoding() {
                break;
            }
            if let Some(copy) = sequence.make_room(pool, spec.block_size) {
                plan_tokens(
                    step,
                    Place { index, part: Part::Candidate(candidate) },
                    group,
                    copy,
                    1,
                    step_number,
                );
                break;
            }
            victim = self.preempt_for(index, candidate);
        }
        victim
    }

    /// Lets forked and suspended candidates begin, as many as fit: the rest follow in later waves.
    fn start_candidates(&mut self, pass: &[usize], step: &mut Step, room: &mut Room) {
        let use_cache = self.config.prefix_caching;
        for &index in pass {
            let Some(group) = &mut self.groups[index] else { continue };
            let Model { pool, spec, plan, prefix_hit_tokens, .. } = &mut self.models[group.model.index()];
            plan.is_full |= plan.blocked.is_some_and(|blocked| group.key > blocked);
            if plan.is_full || group.prompt.is_some() || group.state != SequenceState::Running {
                continue;
            }
            for candidate in 0..group.candidates.len() {
                let sequence = &mut group.candidates[candidate];
                if sequence.is_held
                    || !matches!(sequence.state, SequenceState::Waiting | SequenceState::Preempted)
                {
                    continue;
                }
                let mut wanted = sequence.num_blocks_to_start(pool, spec.block_size, use_cache);
                // Every running sequence keeps one block to grow into, so that a start does not force a preemption.
                while wanted + plan.num_running > pool.num_free() && group.release_held(pool, spec.block_size)
                {
                    let sequence = &mut group.candidates[candidate];
                    wanted = sequence.num_blocks_to_start(pool, spec.block_size, use_cache);
                }
                let sequence = &mut group.candidates[candidate];
                if wanted + plan.num_running > pool.num_free() {
                    // Nor may anything newer be admitted: it would be the next to step back, and come again for ever.
                    plan.is_full = true;
                    plan.blocked = Some(group.key);
                    break;
                }
                if room.num_seqs == 0 || room.tokens == 0 {
                    return;
                }
                let is_decode = sequence.is_decoding();
                if !is_decode && room.prefill == 0 {
                    return;
                }
                if use_cache {
                    *prefix_hit_tokens += sequence.extend_from_cache(pool, spec.block_size) as u64;
                }
                let Some(copy) = sequence.make_room(pool, spec.block_size) else { return };
                sequence.state = SequenceState::Running;
                plan.num_running += 1;
                room.num_seqs -= 1;
                let num_tokens =
                    sequence.num_remaining_tokens().min(if is_decode { 1 } else { room.prefill });
                if is_decode {
                    room.take(num_tokens)
                } else {
                    room.take_prefill(num_tokens)
                }
                let place = Place { index, part: Part::Candidate(candidate) };
                plan_tokens(step, place, group, copy, num_tokens, self.step_number);
            }
        }
    }

    /// The next chunk of prompts, and of candidates that recompute what they had.
    fn continue_prefill(&mut self, pass: &[usize], step: &mut Step, room: &mut Room) {
        for &index in pass {
            let Some(group) = &mut self.groups[index] else { continue };
            let num_candidates = group.candidates.len();
            let parts = std::iter::once(Part::Prompt).chain((0..num_candidates).map(Part::Candidate));
            for part in parts {
                let Some(sequence) = find(group, part) else { continue };
                let is_due = sequence.is_running()
                    && !sequence.is_decoding()
                    && sequence.last_scheduled != self.step_number;
                if is_due {
                    let vocab_size = self.models[group.model.index()].spec.vocab_size;
                    let num_tokens = chunk(group, part, sequence, vocab_size, room);
                    if num_tokens > 0 {
                        room.take_prefill(num_tokens);
                        plan_tokens(step, Place { index, part }, group, None, num_tokens, self.step_number);
                    }
                }
            }
        }
    }

    /// New and preempted requests, first come first served within a priority class; one that finds no blocks lets those of
    /// other policies pass.
    fn admit(&mut self, step: &mut Step, room: &mut Room) {
        self.models.iter_mut().for_each(|model| model.plan.is_full = false);
        while room.prefill > 0 && room.num_seqs > 0 {
            let open = self.models.iter_mut().filter(|model| !model.plan.is_full);
            let first = open.filter_map(|model| {
                let (&key, &index) = model.waiting.first_key_value()?;
                Some((key, index, model))
            });
            let Some((key, index, model)) = first.min_by_key(|(key, ..)| *key) else { break };
            let Model { pool, spec, waiting, plan, prefix_hit_tokens, .. } = model;
            // Until it is seen to fit.
            plan.is_full = true;
            if plan.blocked.is_some_and(|blocked| key > blocked) {
                continue;
            }
            let Some(group) = &mut self.groups[index] else { break };
            let wants_logits = group.prompt_logits && group.wants_first_tokens();
            let use_cache = self.config.prefix_caching && !wants_logits;
            let adapter = group.candidates.first().and_then(|candidate| candidate.adapter.clone());
            self.next_seq_id += 1;
            let mut prompt =
                Sequence::new(SeqId(self.next_seq_id), Arc::clone(&group.prompt_tokens), adapter);

            let mut wanted = prompt.num_blocks_to_start(pool, spec.block_size, use_cache);
            if plan.is_busy {
                wanted = (wanted + plan.num_running + 1).max(group.blocks_when_preempted);
            }
            if wanted > pool.num_free() {
                continue;
            }
            let hits = if use_cache { prompt.extend_from_cache(pool, spec.block_size) } else { 0 };
            if prompt.make_room(pool, spec.block_size).is_none() {
                prompt.release(pool, SequenceState::Finished);
                continue;
            }
            prompt.state = SequenceState::Running;
            let num_tokens = chunk(group, Part::Prompt, &prompt, spec.vocab_size, room);
            if num_tokens == 0 {
                prompt.release(pool, SequenceState::Finished);
                break;
            }
            *prefix_hit_tokens += hits as u64;
            if group.state == SequenceState::Waiting {
                group.cached_tokens = hits;
            }
            group.state = SequenceState::Running;
            group.prompt = Some(prompt);
            waiting.remove(&key);
            self.running.insert(key, index);
            plan.is_full = false;
            plan.is_busy = true;
            plan.num_running += 1;
            room.num_seqs -= 1;
            room.take_prefill(num_tokens);
            plan_tokens(step, Place { index, part: Part::Prompt }, group, None, num_tokens, self.step_number);
        }
    }
}

/// A sequence by its group's index and its part in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) index: usize,
    pub(super) part: Part,
}

/// Adds the next `num_tokens` of a sequence to the step.
pub(super) fn plan_tokens(
    step: &mut Step,
    place: Place,
    group: &mut SequenceGroup,
    copy: Option<(BlockId, BlockId)>,
    num_tokens: usize,
    step_number: u64,
) {
    let wants_first_tokens = place.part == Part::Prompt && group.wants_first_tokens();
    let wants_all = group.prompt_logits && wants_first_tokens;
    let request = group.id;
    let model = match place.part {
        Part::Prompt | Part::Candidate(_) => group.model,
        part => group.scores.iter().find(|score| score.part == part).map_or(group.model, |score| score.model),
    };
    let Some(sequence) = find_mut(group, place.part) else { return };
    sequence.last_scheduled = step_number;
    let is_last = num_tokens == sequence.num_remaining_tokens();
    let logit_rows = match place.part {
        Part::Prompt if wants_all => LogitRows::All,
        Part::Prompt if is_last && wants_first_tokens => LogitRows::Last,
        Part::Candidate(_) if is_last => LogitRows::Last,
        _ => LogitRows::None,
    };
    let item = Item {
        request,
        part: place.part,
        num_scheduled_tokens: num_tokens,
        first_position: sequence.num_computed_tokens,
        logits: 0..0,
        scores: 0..0,
        group: place.index,
        logit_rows,
    };
    let work = &mut step.models[model.index()];
    work.items.push(item);
    work.copies.extend(copy);
}

/// Tokens of a prefill that still fit.
fn chunk(
    group: &SequenceGroup,
    part: Part,
    sequence: &Sequence,
    vocab_size: usize,
    room: &mut Room,
) -> usize {
    let mut num_tokens = sequence.num_remaining_tokens().min(room.prefill);
    if part == Part::Prompt && group.prompt_logits && group.wants_first_tokens() {
        // A row that is wider than all of the room goes alone.
        let rows = (room.logits / vocab_size.max(1)).max(usize::from(room.logits == MAX_PROMPT_LOGITS));
        num_tokens = num_tokens.min(rows);
        room.logits = room.logits.saturating_sub(num_tokens * vocab_size);
    }
    num_tokens
}

fn find(group: &SequenceGroup, part: Part) -> Option<&Sequence> {
    match part {
        Part::Prompt => group.prompt.as_ref(),
        Part::Candidate(index) => group.candidates.get(index),
        _ => group.scores.iter().find(|score| score.part == part).map(|score| &score.sequence),
    }
}

fn find_mut(group: &mut SequenceGroup, part: Part) -> Option<&mut Sequence> {
    match part {
        Part::Prompt => group.prompt.as_mut(),
        Part::Candidate(index) => group.candidates.get_mut(index),
        _ => group.scores.iter_mut().find(|score| score.part == part).map(|score| &mut score.sequence),
    }
}
