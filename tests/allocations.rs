//! A steady state allocates nothing: an executor's second decode of a batch is counted, and so is each further token of an
//! engine's request. A test program of its own, since it counts for the whole process; leaves how long things take to the benches.

use std::alloc::System;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rectify_engine::batch::Executor;
use rectify_engine::{EngineConfig, EngineHandle};
use rectify_kernels::{KvDtype, WeightDtype};
use rectify_tests::fixture::{Expectation, Fixture};
use rectify_tests::harness::Setup;
use rectify_tests::outcome::{generate, greedy_request};
use rectify_tests::sheet::{Row, Sheet};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test at a time: another's allocations would be counted.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Allocations, and growth of what there is, on all threads while `work` runs.
fn allocations(work: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    work();
    let change = region.change();
    change.allocations + change.reallocations
}

#[test]
fn a_decode_allocates_nothing() {
    let _alone = alone();
    let dtypes = [
        (WeightDtype::F32, KvDtype::F32),
        (WeightDtype::Bf16, KvDtype::Bf16),
        (WeightDtype::Int8, KvDtype::Bf16),
    ];
    // Full attention, a window, and both in turns.
    for name in ["llama", "qwen2-window", "gemma2"] {
        let expectation = Expectation::load(name);
        for (dtype, kv_dtype) in dtypes {
            let setup = Setup { dtype, kv_dtype, ..Setup::default() };
            let mut executor = setup.executor(expectation.path("policy"), setup.pool()).unwrap();
            let mut sheet = Sheet::new(&executor);
            let mut rows: Vec<Row> = (0..6)
                .map(|i| sheet.row(&(0..30 + 9 * i).map(|token| token % 50).collect::<Vec<u32>>(), None))
                .collect();
            let last: Vec<usize> = rows.iter().map(|row| row.ids.len() - 1).collect();
            executor.execute(&sheet.batch(&mut rows, &last, false)).unwrap();
            let batch = sheet.batch(&mut rows, &[1; 6], false);
            // Every thread has had its share of the work once.
            (0..20).for_each(|_| _ = executor.execute(&batch).unwrap());
            let count = allocations(|| (0..10).for_each(|_| _ = executor.execute(&batch).unwrap()));
            assert_eq!(count, 0, "{name} in {dtype:?}: allocations in ten decodes");
        }
    }
}

/// Runs `num_choices` candidates of `max_tokens` tokens to their end.
fn run(engine: &EngineHandle, runtime: &tokio::runtime::Runtime, num_choices: usize, max_tokens: usize) {
    let mut request = greedy_request(&(1..40).collect::<Vec<u32>>(), max_tokens);
    (request.num_choices, request.sampling.temperature, request.sampling.logprobs) = (num_choices, 1.0, None);
    let outcome = runtime.block_on(generate(engine, request)).unwrap();
    assert_eq!(outcome.usage.completion_tokens, num_choices * max_tokens);
}

#[test]
fn a_token_of_an_engine_allocates_its_text_and_a_step_a_few_lists() {
    let _alone = alone();
    let fixture = Fixture::load("llama");
    let setup = Setup { engine: EngineConfig::default(), ..Setup::default() };
    let engine = setup.start(&fixture);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (short, long) = (16, 144);
    let of_a_step = |num_choices| {
        (0..2).for_each(|_| run(&engine, &runtime, num_choices, long));
        let [short_run, long_run] =
            [short, long].map(|tokens| allocations(|| run(&engine, &runtime, num_choices, tokens)));
        (long_run - short_run) as f64 / (long - short) as f64
    };
    let (few, many) = (8, 40);
    let [of_few, of_many] = [few, many].map(of_a_step);
    let of_a_token = (of_many - of_few) / (many - few) as f64;
    let of_the_rest = of_few - few as f64 * of_a_token;
    println!("{of_a_token:.2} allocations for each token, {of_the_rest:.1} for each step");
    assert!(
        of_a_token < 1.5 && of_the_rest < 12.0,
        "{of_a_token:.2} for each token, {of_the_rest:.1} a step"
    );
}
