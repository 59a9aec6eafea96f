//! The executor alone against PyTorch: every position of every prompt, adapters and heads; and against itself: chunks,
//! company and threads change no bit.

use std::sync::Arc;

use rectify_engine::batch::Executor;
use rectify_engine::model::adapter::Adapter;
use rectify_engine::model::cpu_executor::CpuExecutor;
use rectify_engine::model::source::ModelSource;
use rectify_kernels::{KvDtype, WeightDtype};
use rectify_tests::fixture::{FAMILIES, Fixture, REWARD_FAMILIES};
use rectify_tests::harness::Setup;
use rectify_tests::sheet::{Row, Sheet, log_softmax};

const TOLERANCE: f64 = 1e-4;

fn policy(setup: &Setup, fixture: &Fixture) -> CpuExecutor {
    setup.executor(fixture.path("policy"), setup.pool()).unwrap()
}

fn adapter(setup: &Setup, fixture: &Fixture, executor: &CpuExecutor, label: &str) -> Option<Arc<Adapter>> {
    (label != "policy").then(|| {
        let source = ModelSource::Folder(fixture.path(label));
        Arc::new(Adapter::load(label, &source, executor.config(), &setup.pool()).unwrap())
    })
}

/// Logits of all tokens of all rows, in chunks of `chunk` tokens per row and step: by row, `[length, vocab_size]`.
fn logits(executor: &mut CpuExecutor, sheet: &Sheet, rows: &mut [Row], chunk: usize) -> Vec<Vec<f32>> {
    let vocab_size = executor.spec().vocab_size;
    let mut all = vec![Vec::new(); rows.len()];
    while rows.iter().any(|row| row.num_computed < row.ids.len()) {
        let before: Vec<usize> = rows.iter().map(|row| row.num_computed).collect();
        let batch = sheet.batch(rows, &vec![chunk; rows.len()], false);
        let mut rest = executor.execute(&batch).unwrap().logits;
        for (index, row) in rows.iter().enumerate() {
            let (mine, others) = rest.split_at((row.num_computed - before[index]) * vocab_size);
            all[index].extend_from_slice(mine);
            rest = others;
        }
        assert!(rest.is_empty());
    }
    all
}

/// The prompts of a fixture as rows, each alone.
fn alone(executor: &mut CpuExecutor, prompts: &[Vec<u32>], adapter: Option<&Arc<Adapter>>) -> Vec<Vec<f32>> {
    let mut sheet = Sheet::new(executor);
    let one = |ids: &Vec<u32>| {
        let mut rows = [sheet.row(ids, adapter)];
        logits(executor, &sheet, &mut rows, usize::MAX / 2).remove(0)
    };
    prompts.iter().map(one).collect()
}

fn prompts(fixture: &Fixture) -> Vec<Vec<u32>> {
    fixture.language("policy").prompts.iter().map(|prompt| prompt.ids.clone()).collect()
}

#[test]
fn every_position_has_pytorchs_log_probabilities() {
    let setup = Setup::default();
    for family in FAMILIES {
        let fixture = Fixture::load(family);
        let mut executor = policy(&setup, &fixture);
        let vocab_size = executor.spec().vocab_size;
        for label in ["policy", "lora", "lora-ranks"] {
            let adapter = adapter(&setup, &fixture, &executor, label);
            let (expected, whole) = (fixture.language(label), fixture.rows(label));
            let found = alone(&mut executor, &prompts(&fixture), adapter.as_ref());
            for (index, (prompt, found)) in expected.prompts.iter().zip(found).enumerate() {
                let table = log_softmax(&found, vocab_size);
                for (position, wanted) in prompt.logprobs.iter().enumerate() {
                    let found = table[position][prompt.ids[position + 1] as usize];
                    let difference = (found - wanted).abs();
                    assert!(
                        difference <= TOLERANCE,
                        "{family} {label}, prompt {index} at {position}: {found} instead of {wanted}"
                    );
                }
                for (row, &position) in prompt.rows.iter().enumerate() {
                    for (token, &wanted) in whole[&index][row].iter().enumerate() {
                        let found = table[position][token];
                        assert!(
                            (found - f64::from(wanted)).abs() <= TOLERANCE,
                            "{family} {label}, prompt {index}, row {position}, token {token}: {found} instead of {wanted}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn scores_are_pytorchs() {
    let setup = Setup::default();
    let check =
        |executor: &mut CpuExecutor, adapter: Option<&Arc<Adapter>>, fixture: &Fixture, label: &str| {
            let reward = fixture.reward(label);
            let conversations = reward.conversations.iter().map(|case| (&case.ids, case.score));
            let random = reward.random.iter().map(|case| (&case.ids, case.score));
            let cases: Vec<(&Vec<u32>, f64)> = conversations.chain(random).collect();
            let mut sheet = Sheet::new(executor);
            let mut rows: Vec<Row> = cases.iter().map(|(ids, _)| sheet.row(ids, adapter)).collect();
            let lens: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
            let batch = sheet.batch(&mut rows, &lens, true);
            let scores = executor.execute(&batch).unwrap().scores;
            assert_eq!(scores.len(), cases.len());
            for (index, (&found, (_, wanted))) in scores.iter().zip(&cases).enumerate() {
                assert!(
                    (f64::from(found) - wanted).abs() <= TOLERANCE,
                    "{label} {index}: {found} instead of {wanted}"
                );
            }
        };
    for family in FAMILIES {
        let fixture = Fixture::load(family);
        let mut executor = policy(&setup, &fixture);
        let adapter = adapter(&setup, &fixture, &executor, "reward-adapter");
        check(&mut executor, adapter.as_ref(), &fixture, "reward-adapter");
    }
    for family in REWARD_FAMILIES {
        let fixture = Fixture::load(family);
        let mut executor = setup.executor(fixture.path("reward"), setup.pool()).unwrap();
        assert!(executor.spec().has_score_head);
        check(&mut executor, None, &fixture, "reward");
    }
}

/// A ragged batch of 32: every prompt bare and under each adapter, some twice.
fn crowd(setup: &Setup, fixture: &Fixture, executor: &CpuExecutor) -> Vec<(Vec<u32>, Option<Arc<Adapter>>)> {
    let labels = ["policy", "lora", "lora-ranks", "policy"];
    let adapters = labels.map(|label| adapter(setup, fixture, executor, label));
    let prompts = prompts(fixture);
    (0..32).map(|i| (prompts[(i * 5) % 8].clone(), adapters[i % 4].clone())).collect()
}

#[test]
fn company_chunks_and_threads_change_no_bit() {
    let variants = [
        ("f32", WeightDtype::F32, KvDtype::F32),
        ("bf16", WeightDtype::Bf16, KvDtype::Bf16),
        ("bf16 weights, f32 cache", WeightDtype::Bf16, KvDtype::F32),
    ];
    for family in FAMILIES {
        let fixture = Fixture::load(family);
        for (name, dtype, kv_dtype) in variants {
            let setup = Setup { dtype, kv_dtype, ..Setup::default() };
            let mut executor = policy(&setup, &fixture);
            let crowd = crowd(&setup, &fixture, &executor);
            let mut sheet = Sheet::new(&executor);
            let rows: Vec<Row> =
                crowd.iter().map(|(ids, adapter)| sheet.row(ids, adapter.as_ref())).collect();
            let wanted: Vec<Vec<f32>> = rows
                .iter()
                .map(|row| logits(&mut executor, &sheet, &mut [row.clone()], usize::MAX / 2).remove(0))
                .collect();
            for chunk in [1, 7, 16, 64, 1000] {
                let found = logits(&mut executor, &sheet, &mut rows.clone(), chunk);
                for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                    assert!(found == wanted, "{family} {name}: row {index} in chunks of {chunk} differs");
                }
            }
            let single = Setup { threads: 1, ..setup };
            let mut executor = policy(&single, &fixture);
            let found = logits(&mut executor, &sheet, &mut rows.clone(), 1000);
            assert!(found == wanted, "{family} {name}: one thread gives other bits than two");
        }
    }
}

#[test]
fn blocks_of_another_size_give_the_same_numbers() {
    let fixture = Fixture::load("qwen3");
    let tables = [16, 32, 64].map(|block_size| {
        let setup = Setup { block_size, num_blocks: 256, ..Setup::default() };
        alone(&mut policy(&setup, &fixture), &prompts(&fixture), None)
    });
    for other in &tables[1..] {
        for (a, b) in tables[0].iter().flatten().zip(other.iter().flatten()) {
            assert!((a - b).abs() < 1e-4, "{a} and {b}");
        }
    }
}

#[test]
fn bfloat16_stays_close() {
    for family in FAMILIES {
        let fixture = Fixture::load(family);
        let setup = Setup { dtype: WeightDtype::Bf16, kv_dtype: KvDtype::Bf16, ..Setup::default() };
        let mut executor = policy(&setup, &fixture);
        let vocab_size = executor.spec().vocab_size;
        let found = alone(&mut executor, &prompts(&fixture), None);
        let (mut sum, mut count) = (0.0, 0);
        for (prompt, found) in fixture.language("policy").prompts.iter().zip(&found) {
            let table = log_softmax(found, vocab_size);
            for (position, wanted) in prompt.logprobs.iter().enumerate() {
                sum += (table[position][prompt.ids[position + 1] as usize] - wanted).abs();
                count += 1;
            }
        }
        let mean = sum / f64::from(count);
        // Eight bits of mantissa over a few layers: visible, and small beside log-probabilities of 2 to 10.
        assert!((1e-4..0.1).contains(&mean), "{family}: the mean difference is {mean}");
    }
}
