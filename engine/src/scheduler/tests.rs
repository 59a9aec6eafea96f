//! Plans, step by step, without any model: 2 tokens a block, so that everything happens early.

use super::*;
use crate::EngineError;
use crate::testing::adapter;

fn scheduler(num_blocks: usize, max_num_seqs: usize, max_num_batched_tokens: usize) -> Scheduler {
    let config = EngineConfig {
        max_num_seqs,
        max_num_batched_tokens,
        max_waiting: 8,
        step_target_ms: 0,
        ..EngineConfig::default()
    };
    let spec = ExecutorSpec {
        vocab_size: 100,
        max_model_len: 64,
        num_blocks,
        block_size: 2,
        has_score_head: false,
        reads_whole: false,
    };
    Scheduler::new(config, &[spec, spec])
}

fn generation(id: u64, prompt_len: u32, num_candidates: usize) -> Generation {
    Generation {
        id: RequestId(id),
        model: ModelId::POLICY,
        priority: 0,
        prompt: (0..prompt_len).map(|i| id as u32 * 10 + i).collect(),
        num_candidates,
        max_tokens: 8,
        adapter: None,
        prompt_logits: false,
    }
}

/// What a step holds: request, part and number of tokens, sorted by request.
type Plan = Vec<(u64, Part, usize)>;

/// Plans a step, and plays a model that answers token 99 to everything.
fn step(scheduler: &mut Scheduler) -> Plan {
    let mut step = Step::default();
    scheduler.schedule(&mut step);
    let mut plan = Plan::new();
    for work in &step.models {
        for item in &work.items {
            plan.push((item.request.0, item.part, item.num_scheduled_tokens));
            let is_complete = scheduler.advance(item);
            match item.part {
                Part::Prompt if is_complete => {
                    scheduler.fork(item.request);
                    let is_first = scheduler.group(item.request).unwrap().wants_first_tokens();
                    let n =
                        if is_first { scheduler.group(item.request).unwrap().candidates.len() } else { 0 };
                    (0..n).for_each(|candidate| scheduler.append(item.request, candidate, 99));
                }
                Part::Candidate(candidate) if !item.logits.is_empty() => {
                    scheduler.append(item.request, candidate, 99);
                }
                _ => {}
            }
        }
    }
    scheduler.check_integrity().unwrap();
    plan.sort_by_key(|(request, ..)| *request);
    plan
}

const DECODE: usize = 1;

#[test]
fn decodes_go_first_and_prompts_are_cut_to_what_is_left() {
    let mut scheduler = scheduler(64, 4, 6);
    scheduler.add_generation(generation(1, 4, 2)).unwrap();
    assert_eq!(step(&mut scheduler), [(1, Part::Prompt, 4)]);
    scheduler.add_generation(generation(2, 9, 1)).unwrap();
    let decodes = [(1, Part::Candidate(0), DECODE), (1, Part::Candidate(1), DECODE)];
    assert_eq!(step(&mut scheduler), [&decodes[..], &[(2, Part::Prompt, 4)]].concat());
    assert_eq!(step(&mut scheduler), [&decodes[..], &[(2, Part::Prompt, 4)]].concat());
    assert_eq!(step(&mut scheduler), [&decodes[..], &[(2, Part::Prompt, 1)]].concat());
}

#[test]
fn a_prompt_is_computed_once_and_only_its_last_row_has_logits() {
    let mut scheduler = scheduler(64, 16, 16);
    scheduler.add_generation(generation(1, 5, 3)).unwrap();
    let mut plan = Step::default();
    scheduler.schedule(&mut plan);
    let batch = &plan.models[0].batch;
    assert_eq!((batch.num_tokens(), batch.logit_rows.as_slice()), (5, &[4][..]));
    assert_eq!(batch.seq_lens, [5]);
    assert_eq!(batch.slot_mapping.len(), 5);
    scheduler.advance(&plan.models[0].items[0]);
    scheduler.fork(RequestId(1));
    assert_eq!(scheduler.pool(ModelId::POLICY).num_used(), 3, "all candidates share the prompt's blocks");
    (0..3).for_each(|candidate| scheduler.append(RequestId(1), candidate, 99));
    scheduler.schedule(&mut plan);
    let batch = &plan.models[0].batch;
    // Two copy the shared partial block, the last one has it for itself.
    assert_eq!((batch.num_seqs(), batch.block_copies.len()), (3, 2));
    assert_eq!(scheduler.pool(ModelId::POLICY).num_used(), 2 + 3);
    let sources: Vec<_> = batch.block_copies.iter().map(|(from, _)| *from).collect();
    assert_eq!(sources[0], sources[1]);
    scheduler.check_integrity().unwrap();
}

#[test]
fn preempts_newest_when_blocks_run_out() {
    let mut scheduler = scheduler(8, 8, 16);
    scheduler.add_generation(generation(1, 4, 1)).unwrap();
    scheduler.add_generation(generation(2, 4, 1)).unwrap();
    while scheduler.num_preemptions() == 0 {
        step(&mut scheduler);
    }
    assert_eq!(scheduler.group(RequestId(1)).unwrap().state, SequenceState::Running);
    let preempted = scheduler.group(RequestId(2)).unwrap();
    assert_eq!(preempted.state, SequenceState::Preempted);
    assert!(!preempted.candidates[0].output.is_empty(), "its tokens are kept");
    assert_eq!(preempted.num_blocks(ModelId::POLICY), 0);
    scheduler.remove(RequestId(1));
    // It returns: the prompt first, then the tail that it recomputes.
    let plan = [step(&mut scheduler), step(&mut scheduler)].concat();
    assert!(matches!(plan[..], [(2, Part::Prompt, _), (2, Part::Candidate(0), _)]), "{plan:?}");
}

#[test]
fn a_preempted_group_keeps_its_place_in_line() {
    let mut scheduler = scheduler(8, 8, 16);
    scheduler.add_generation(generation(1, 4, 1)).unwrap();
    scheduler.add_generation(generation(2, 4, 1)).unwrap();
    scheduler.add_generation(generation(3, 4, 1)).unwrap();
    while scheduler.num_preemptions() == 0 {
        step(&mut scheduler);
    }
    scheduler.remove(RequestId(1));
    assert_eq!(step(&mut scheduler)[0].0, 2);
}

#[test]
fn starts_only_as_many_candidates_as_fit() {
    // Two blocks of prompt, four left: a start takes one and leaves one to grow for each that runs.
    let mut scheduler = scheduler(6, 8, 16);
    scheduler.add_generation(generation(1, 4, 4)).unwrap();
    step(&mut scheduler);
    let candidates: Vec<Part> = step(&mut scheduler).iter().map(|(_, part, _)| *part).collect();
    assert_eq!(candidates, [Part::Candidate(0), Part::Candidate(1)]);
    let waiting = &scheduler.group(RequestId(1)).unwrap().candidates[2];
    assert_eq!((waiting.state, waiting.block_table.len()), (SequenceState::Waiting, 2));
    scheduler.finish(RequestId(1), 0);
    scheduler.finish(RequestId(1), 1);
    let candidates: Vec<Part> = step(&mut scheduler).iter().map(|(_, part, _)| *part).collect();
    assert_eq!(candidates, [Part::Candidate(2), Part::Candidate(3)]);
}

#[test]
fn sequences_under_one_adapter_stand_together() {
    let mut scheduler = scheduler(64, 8, 32);
    let adapters = [Some(adapter("a", "1")), None, Some(adapter("b", "2")), None];
    for (id, adapter) in (0..).zip(adapters.iter().cycle().take(8)) {
        scheduler.add_generation(Generation { adapter: adapter.clone(), ..generation(id, 2, 1) }).unwrap();
    }
    let mut plan = Step::default();
    scheduler.schedule(&mut plan);
    let runs = &plan.models[0].batch.adapter_runs;
    let versions: Vec<(&str, usize)> =
        runs.iter().map(|run| (&*run.adapter.info.version, run.tokens.len())).collect();
    assert_eq!(versions, [("1", 4), ("2", 4)]);
}

#[test]
fn texts_wait_for_the_conversation_they_share() {
    let mut scheduler = scheduler(64, 8, 4);
    scheduler.add_scoring(RequestId(1), ModelId(1), 0).unwrap();
    let mut add = |part, len: u32| {
        let work =
            ScoreWork { model: ModelId(1), adapter: None, part, tokens: (0..len).collect(), steps: None };
        scheduler.add_score(RequestId(1), work).unwrap();
    };
    add(Part::ScorePrompt(0), 6);
    add(Part::Score { judge: 0, index: 0, rival: None }, 8);
    add(Part::Score { judge: 0, index: 1, rival: None }, 9);
    assert_eq!(step(&mut scheduler), [(1, Part::ScorePrompt(0), 4)]);
    assert_eq!(step(&mut scheduler), [(1, Part::ScorePrompt(0), 2)]);
    // Six tokens of each are in the cache.
    assert_eq!(
        step(&mut scheduler),
        [
            (1, Part::Score { judge: 0, index: 0, rival: None }, 2),
            (1, Part::Score { judge: 0, index: 1, rival: None }, 2)
        ]
    );
    assert_eq!(step(&mut scheduler), [(1, Part::Score { judge: 0, index: 1, rival: None }, 1)]);
    assert!(scheduler.is_idle());
    assert_eq!(scheduler.prefix_hit_tokens(), 12);
}

#[test]
fn the_queue_is_bounded_and_removal_is_at_once() {
    let mut scheduler = scheduler(64, 1, 8);
    for id in 0..8 {
        scheduler.add_generation(generation(id, 4, 1)).unwrap();
    }
    let refused = scheduler.add_generation(generation(8, 4, 1));
    assert!(matches!(refused, Err(EngineError::Overloaded { waiting: 8 })));
    step(&mut scheduler);
    scheduler.remove(RequestId(0));
    assert_eq!(scheduler.pool(ModelId::POLICY).num_used(), 0);
    assert_eq!(step(&mut scheduler), [(1, Part::Prompt, 4)]);
}

#[test]
fn an_older_text_that_finds_no_blocks_goes_before_newer_requests() {
    let mut scheduler = scheduler(8, 8, 32);
    scheduler.add_generation(generation(1, 4, 1)).unwrap();
    step(&mut scheduler);
    scheduler.add_scoring(RequestId(2), ModelId::POLICY, 0).unwrap();
    let work = ScoreWork {
        model: ModelId::POLICY,
        adapter: Some(adapter("head", "1")),
        part: Part::Score { judge: 0, index: 0, rival: None },
        tokens: (0..14).collect(),
        steps: None,
    };
    scheduler.add_score(RequestId(2), work).unwrap();
    scheduler.add_generation(generation(3, 2, 1)).unwrap();
    // Request 3 would fit beside request 1; it waits for its turn.
    assert_eq!(step(&mut scheduler), [(1, Part::Candidate(0), DECODE)]);
    scheduler.remove(RequestId(1));
    // A quarter of the step, for a prompt waits.
    assert_eq!(step(&mut scheduler)[0], (2, Part::Score { judge: 0, index: 0, rival: None }, 8));
}
