//! What a step costs besides the model: planning, laying out the batch and taking the tokens in, at 1,024 sequences.
//! Run with `cargo bench --bench scheduler`. Leaves the sampler to `sampler` and the model to `kernels`.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use rectify_engine::EngineConfig;
use rectify_engine::batch::ExecutorSpec;
use rectify_engine::group::Part;
use rectify_engine::ids::{ModelId, RequestId};
use rectify_engine::scheduler::{Generation, Scheduler, Step};

const NUM_SEQS: usize = 1024;
const PROMPT_LEN: usize = 256;
/// Steps before everything starts over: sequences must not outgrow their blocks.
const STEPS: usize = 512;

/// A scheduler whose sequences all decode, spread over requests of `num_candidates`.
fn decoding(num_candidates: usize) -> (Scheduler, Step) {
    let config = EngineConfig {
        max_num_seqs: NUM_SEQS,
        max_num_batched_tokens: 8192,
        step_target_ms: 0,
        ..EngineConfig::default()
    };
    let spec = ExecutorSpec {
        vocab_size: 1000,
        max_model_len: 4096,
        num_blocks: NUM_SEQS * 64,
        block_size: 16,
        has_score_head: false,
        reads_whole: false,
    };
    let mut scheduler = Scheduler::new(config, &[spec]);
    for request in 0..NUM_SEQS / num_candidates {
        let generation = Generation {
            id: RequestId(request as u64),
            model: ModelId::POLICY,
            priority: 0,
            prompt: (0..PROMPT_LEN).map(|i| ((request * 31 + i * 7) % 1000) as u32).collect(),
            num_candidates,
            max_tokens: 2 * STEPS,
            adapter: None,
            prompt_logits: false,
        };
        // The queue is long enough for all of them.
        let _ = scheduler.add_generation(generation);
    }
    let mut step = Step::default();
    while scheduler.num_running() < NUM_SEQS || step.num_tokens() != NUM_SEQS {
        advance(&mut scheduler, &mut step, num_candidates);
    }
    (scheduler, step)
}

/// One step with a model that answers at once.
fn advance(scheduler: &mut Scheduler, step: &mut Step, num_candidates: usize) {
    scheduler.schedule(step);
    for work in &step.models {
        for item in &work.items {
            let is_complete = scheduler.advance(item);
            match item.part {
                Part::Candidate(candidate) => scheduler.append(item.request, candidate, 5),
                Part::Prompt if is_complete => {
                    scheduler.fork(item.request);
                    (0..num_candidates).for_each(|candidate| scheduler.append(item.request, candidate, 5));
                }
                _ => {}
            }
        }
    }
}

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler_step");
    group.throughput(Throughput::Elements(NUM_SEQS as u64)).sample_size(20);
    for num_candidates in [1, 64] {
        let id = BenchmarkId::new("decode_1024_sequences_by", num_candidates);
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut time = Duration::ZERO;
                let mut left = iterations;
                while left > 0 {
                    let (mut scheduler, mut step) = decoding(num_candidates);
                    let now = left.min(STEPS as u64);
                    let started = Instant::now();
                    (0..now).for_each(|_| advance(&mut scheduler, &mut step, num_candidates));
                    time += started.elapsed();
                    left -= now;
                }
                time
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    steps(&mut criterion);
    criterion.final_summary();
}
