//! Tests of the executor: a row depends on its own sequence alone, bit for bit, and adapters and heads do what they
//! say. Equality with PyTorch is tested in `tests`.

use std::collections::BTreeMap;

use rectify_kernels::{KvDtype, Pool, WeightDtype};

use super::*;
use crate::batch::AdapterRun;
use crate::ids::{BlockId, SlotId};
use crate::model::adapter::Adapter;
use crate::model::backend::Values;
use crate::model::layout::{self, Projection};
use crate::model::peft::{LoraPair, PeftAdapter, PeftConfig};

const BLOCK: usize = 16;

fn config(extra: &str) -> ModelConfig {
    let text = format!(
        r#"{{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": 96, "hidden_size": 48,
        "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "tie_word_embeddings": true{extra}}}"#
    );
    ModelConfig::from_json("config.json", &text).unwrap()
}

/// Random weights large enough that every part of the model shows in the logits.
fn checkpoint(config: &ModelConfig) -> Checkpoint {
    let mut checkpoint = Checkpoint::random(config, 3);
    for spec in layout::tensors(config) {
        let values = checkpoint.f32_values(&spec.name, &spec.shape).unwrap();
        let scaled: Vec<f32> =
            values.iter().enumerate().map(|(i, x)| x * 8.0 + (i % 3) as f32 * 0.01).collect();
        checkpoint.insert(spec.name, spec.shape, Values::F32(scaled.into())).unwrap();
    }
    checkpoint
}

fn options(num_threads: usize, dtype: WeightDtype) -> CpuOptions {
    let kv_dtype = if dtype == WeightDtype::F32 { KvDtype::F32 } else { KvDtype::Bf16 };
    let pool = Arc::new(Pool::new(num_threads).unwrap());
    let weights = WeightStore::default();
    CpuOptions { pool, dtype, weights, kv_dtype, kv_memory: 4 << 20, block_size: BLOCK, max_model_len: None }
}

fn executor(config: &ModelConfig, num_threads: usize, dtype: WeightDtype) -> CpuExecutor {
    CpuExecutor::new(config, &checkpoint(config), &options(num_threads, dtype)).unwrap()
}

/// A sequence as the scheduler would keep it.
#[derive(Clone)]
struct Seq {
    tokens: Vec<u32>,
    num_computed: usize,
    blocks: Vec<u32>,
    adapter: Option<Arc<Adapter>>,
}

impl Seq {
    /// `len` tokens in blocks from `first_block` on, not back to back.
    fn new(len: usize, salt: u32, first_block: u32) -> Self {
        let tokens = (0..len as u32).map(|i| (i * 7 + salt * 13 + i * i) % 96).collect();
        let blocks = (0..len.div_ceil(BLOCK) as u32).rev().map(|i| first_block + 2 * i).collect();
        Self { tokens, num_computed: 0, blocks, adapter: None }
    }
}

/// Runs the next `n` tokens of each sequence in one step; the logits of each sequence's every row.
fn step(executor: &mut CpuExecutor, work: &mut [(&mut Seq, usize)]) -> Vec<Vec<Vec<f32>>> {
    let batch = batch(work);
    let vocab = executor.spec().vocab_size;
    let output = executor.execute(&batch).unwrap();
    let mut rows = output.logits.chunks(vocab).map(<[f32]>::to_vec);
    work.iter_mut()
        .map(|(seq, n)| {
            seq.num_computed += *n;
            rows.by_ref().take(*n).collect()
        })
        .collect()
}

fn batch(work: &[(&mut Seq, usize)]) -> Batch {
    let mut batch = Batch { cu_seqlens_q: vec![0], cu_blocks: vec![0], ..Batch::default() };
    for (seq, n) in work {
        let start = batch.num_tokens();
        for position in seq.num_computed..seq.num_computed + n {
            batch.token_ids.push(seq.tokens[position]);
            batch.positions.push(position as u32);
            let slot = seq.blocks[position / BLOCK] * BLOCK as u32 + (position % BLOCK) as u32;
            batch.slot_mapping.push(SlotId(slot));
        }
        batch.cu_seqlens_q.push(batch.num_tokens() as u32);
        batch.seq_lens.push((seq.num_computed + n) as u32);
        batch.block_tables.extend(seq.blocks.iter().map(|&block| BlockId(block)));
        batch.cu_blocks.push(batch.block_tables.len() as u32);
        if let Some(adapter) = &seq.adapter {
            batch
                .adapter_runs
                .push(AdapterRun { tokens: start..batch.num_tokens(), adapter: Arc::clone(adapter) });
        }
    }
    batch.logit_rows = (0..batch.num_tokens() as u32).collect();
    batch
}

/// All rows of a sequence, in chunks of `chunk` tokens.
fn run(executor: &mut CpuExecutor, mut seq: Seq, chunk: usize) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    while seq.num_computed < seq.tokens.len() {
        let n = chunk.min(seq.tokens.len() - seq.num_computed);
        rows.extend(step(executor, &mut [(&mut seq, n)]).remove(0));
    }
    rows
}

fn adapter(config: &ModelConfig, salt: u32, modules: &[Projection], score: bool) -> Arc<Adapter> {
    let mut pairs = BTreeMap::new();
    let values = |n: usize, shift: usize| -> Vec<f32> {
        (0..n).map(|i| (((i + shift) * 31 + salt as usize) % 17) as f32 / 40.0 - 0.2).collect()
    };
    for layer in 0..config.num_layers {
        for (i, part) in modules.iter().flat_map(|&p| layout::parts(config, layer, p)).enumerate() {
            let rank = 2 + i % 3;
            let (a, b) = (values(rank * part.in_features, layer), values(part.out_features * rank, i));
            pairs.insert(part.module(layer), LoraPair { rank, a, b, scale: 0.7 });
        }
    }
    let adapter = PeftAdapter {
        config: PeftConfig::new(4, 4.0, vec![]),
        modules: pairs,
        score_head: score.then(|| values(config.hidden_size, 5)),
        content_hash: format!("{salt:064x}"),
    };
    Arc::new(Adapter::pack("test", &adapter, config, &Pool::new(1).unwrap()).unwrap())
}

#[test]
fn a_row_depends_on_its_sequence_alone() {
    for (dtype, extra) in [
        (WeightDtype::F32, ""),
        (WeightDtype::Bf16, ""),
        (WeightDtype::F32, r#", "use_sliding_window": true, "sliding_window": 20, "max_window_layers": 1"#),
    ] {
        let config = config(extra);
        let lens = [37, 1, 16, 60, 5, 33];
        let mut alone = executor(&config, 1, dtype);
        let expected: Vec<_> =
            (0..6).map(|i| run(&mut alone, Seq::new(lens[i], i as u32, 0), usize::MAX)).collect();

        let mut other = executor(&config, 2, dtype);
        let mut seqs: Vec<Seq> = (0..6).map(|i| Seq::new(lens[i], i as u32, 16 * i as u32)).collect();
        let mut work: Vec<_> = seqs.iter_mut().zip(lens).collect();
        assert_eq!(step(&mut other, &mut work), expected, "in a ragged batch of {dtype:?}");
        for chunk in [1, 7, 16, 23] {
            for i in [0, 3] {
                let rows = run(&mut other, Seq::new(lens[i], i as u32, 3), chunk);
                assert_eq!(rows, expected[i], "in chunks of {chunk}, {dtype:?}");
            }
        }
    }
}

#[test]
fn a_warm_prefix_and_shared_blocks_change_nothing() {
    let config = config("");
    let mut executor = executor(&config, 2, WeightDtype::Bf16);
    let mut first = Seq::new(40, 1, 0);
    first.blocks = vec![5, 1, 9];
    let expected = run(&mut executor, first.clone(), usize::MAX);

    // Two full blocks are shared; the rest of each fork is its own.
    let mut forks: Vec<Seq> =
        [20, 30].map(|block| Seq { num_computed: 32, blocks: vec![5, 1, block], ..first.clone() }).into();
    forks[1].tokens[35] = 77;
    let (a, b) = forks.split_at_mut(1);
    let rows = step(&mut executor, &mut [(&mut a[0], 8), (&mut b[0], 8)]);
    assert_eq!(rows[0], expected[32..]);
    assert_eq!(rows[1][..3], expected[32..35]);
    assert_ne!(rows[1][3..], expected[35..]);
}

#[test]
fn a_copied_block_continues_as_the_original() {
    let config = config("");
    let mut executor = executor(&config, 1, WeightDtype::F32);
    let mut seq = Seq::new(30, 2, 0);
    let expected = run(&mut executor, seq.clone(), usize::MAX);
    seq.num_computed = 20;
    let last = seq.blocks[1];
    seq.blocks[1] = 50;
    let work = [(&mut seq, 10)];
    let mut batch = batch(&work);
    batch.block_copies = vec![(BlockId(last), BlockId(50))];

    let rows = executor.execute(&batch).unwrap().logits.to_vec();
    assert_eq!(rows, expected[20..].concat());
}

#[test]
fn adapters_apply_to_their_own_rows() {
    let config = config("");
    let mut executor = executor(&config, 2, WeightDtype::F32);
    let all = adapter(&config, 1, &Projection::ALL, false);
    let few = adapter(&config, 2, &[Projection::Down], false);
    let with =
        |adapter: &Option<Arc<Adapter>>, i: u32| Seq { adapter: adapter.clone(), ..Seq::new(21, 4, 8 * i) };
    let cases = [None, Some(Arc::clone(&all)), Some(few), None, Some(all)];
    let alone: Vec<_> = cases.iter().map(|case| run(&mut executor, with(case, 0), 100)).collect();
    assert_eq!(alone[0], alone[3]);
    assert_eq!(alone[1], alone[4]);
    assert!(alone[0] != alone[1] && alone[1] != alone[2] && alone[0] != alone[2]);
    let mut seqs: Vec<Seq> = cases.iter().zip(0..).map(|(case, i)| with(case, i)).collect();
    let mut work: Vec<_> = seqs.iter_mut().map(|seq| (seq, 21)).collect();
    assert_eq!(step(&mut executor, &mut work), alone);
}

#[test]
fn an_adapter_is_its_merged_weights() {
    let config = config("");
    let lora = adapter(&config, 1, &[Projection::Qkv, Projection::Down], false);
    let mut base = executor(&config, 1, WeightDtype::F32);
    let rows = run(&mut base, Seq { adapter: Some(lora), ..Seq::new(21, 4, 0) }, 100);

    let mut merged = checkpoint(&config);
    let salt = 1usize;
    let values = |n: usize, shift: usize| -> Vec<f32> {
        (0..n).map(|i| (((i + shift) * 31 + salt) % 17) as f32 / 40.0 - 0.2).collect()
    };
    for layer in 0..config.num_layers {
        let parts =
            [Projection::Qkv, Projection::Down].into_iter().flat_map(|p| layout::parts(&config, layer, p));
        for (i, part) in parts.enumerate() {
            let rank = 2 + i % 3;
            let (a, b) = (values(rank * part.in_features, layer), values(part.out_features * rank, i));
            let name = format!("{}.weight", part.module(layer));
            let shape = vec![part.out_features, part.in_features];
            let mut weight = merged.f32_values(&name, &shape).unwrap();
            for (at, w) in weight.iter_mut().enumerate() {
                let (row, column) = (at / part.in_features, at % part.in_features);
                *w += 0.7
                    * (0..rank).map(|r| b[row * rank + r] * a[r * part.in_features + column]).sum::<f32>();
            }
            merged.insert(name, shape, Values::F32(weight.into())).unwrap();
        }
    }
    let mut merged = CpuExecutor::new(&config, &merged, &options(1, WeightDtype::F32)).unwrap();
    let expected = run(&mut merged, Seq::new(21, 4, 0), 100);
    for (x, y) in rows.concat().iter().zip(expected.concat()) {
        assert!((x - y).abs() < 2e-3 * (1.0 + y.abs()), "{x} {y}");
    }
}

#[test]
fn scores_come_from_the_rows_adapter_or_the_models_own_head() {
    let causal = config("");
    let mut policy = executor(&causal, 1, WeightDtype::F32);
    let reward = adapter(&causal, 3, &[Projection::O], true);
    let mut scored = Seq { adapter: Some(reward), ..Seq::new(9, 1, 0) };
    let mut plain = Seq::new(9, 1, 8);
    let work = [(&mut plain, 9), (&mut scored, 9)];
    let mut together = batch(&work);
    together.logit_rows = vec![8];
    together.score_rows = vec![17];
    let output = policy.execute(&together).unwrap();
    let (logits, score) = (output.logits.to_vec(), output.scores.to_vec());
    assert_eq!((logits.len(), score.len()), (96, 1));
    let mut alone = batch(&work[1..]);
    alone.logit_rows.clear();
    alone.score_rows = vec![8];
    let output = policy.execute(&alone).unwrap();
    assert_eq!((output.logits.len(), output.scores), (0, &score[..]));
    together.score_rows = vec![8];
    let error = policy.execute(&together).unwrap_err().to_string();
    assert!(error.contains("no score head"), "{error}");

    let config = ModelConfig { num_labels: Some(1), ..causal };
    let mut own = executor(&config, 1, WeightDtype::F32);
    assert!(own.spec().has_score_head);
    assert_eq!(own.execute(&alone).unwrap().scores.len(), 1);
}

#[test]
fn limits_follow_memory_and_refuse_what_does_not_fit() {
    let config = config("");
    let checkpoint = checkpoint(&config);
    let make = |kv_memory, max_model_len| {
        let options = CpuOptions { kv_memory, max_model_len, ..options(1, WeightDtype::F32) };
        CpuExecutor::new(&config, &checkpoint, &options).map(|executor| executor.spec())
    };
    let block = 3 * 2 * 2 * 16 * 16 * 4; // layers × (k, v) × heads × head_dim × tokens × bytes
    assert_eq!(make(5 * block + 1, None).unwrap().num_blocks, 5);
    assert_eq!(make(5 * block, None).unwrap().max_model_len, 80);
    assert_eq!(make(100 * block, None).unwrap().max_model_len, 256);
    assert_eq!(make(100 * block, Some(99)).unwrap().max_model_len, 99);
    for (memory, len, word) in [
        (block - 1, None, "KV memory"),
        (5 * block, Some(81), "holds 80"),
        (100 * block, Some(257), "takes 256"),
    ] {
        let error = make(memory, len).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn rows_that_are_not_wanted_change_nothing() {
    let config = config("");
    let mut executor = executor(&config, 2, WeightDtype::F32);
    let reward = adapter(&config, 3, &Projection::ALL, true);
    let mut seqs: Vec<Seq> = (0..4).map(|i| Seq::new(20 + i, i as u32, 8 * i as u32)).collect();
    seqs[1].adapter = Some(Arc::clone(&reward));
    seqs[3].adapter = Some(reward);
    let work: Vec<_> = seqs.iter_mut().map(|seq| (seq, 20)).collect();
    let mut batch = batch(&work);
    let vocab = config.vocab_size;
    batch.score_rows = vec![39, 79];
    let output = executor.execute(&batch).unwrap();
    let (all, scores) = (output.logits.to_vec(), output.scores.to_vec());
    for rows in [vec![19, 39], vec![5, 20, 39, 60], vec![59], vec![]] {
        batch.logit_rows = rows;
        let output = executor.execute(&batch).unwrap();
        let expected: Vec<&[f32]> =
            batch.logit_rows.iter().map(|&row| &all[row as usize * vocab..][..vocab]).collect();
        assert_eq!((output.logits, output.scores), (&expected.concat()[..], &scores[..]));
    }
    batch.score_rows.clear();
    let output = executor.execute(&batch).unwrap();
    assert!(output.logits.is_empty() && output.scores.is_empty(), "a chunk of a prompt wants nothing");
    batch.logit_rows = vec![79];
    assert_eq!(executor.execute(&batch).unwrap().logits, &all[79 * vocab..]);
}

#[test]
fn a_value_head_scores_as_a_score_head_does_and_adds_its_bias() {
    let causal = config("");
    let classifier = ModelConfig { num_labels: Some(1), ..causal.clone() };
    let critic = causal.with_value_head();
    let (mut scored, mut valued) = (checkpoint(&classifier), checkpoint(&critic));
    for spec in layout::tensors(&classifier) {
        let values = valued.f32_values(&spec.name, &spec.shape).unwrap_or_else(|_| vec![0.25; 48]);
        scored.insert(spec.name, spec.shape, Values::F32(values.into())).unwrap();
    }
    valued.insert("v_head.summary.weight", vec![1, 48], Values::F32(vec![0.25; 48].into())).unwrap();
    valued.insert("v_head.summary.bias", vec![1], Values::F32(vec![1.5].into())).unwrap();
    let score = |config: &ModelConfig, checkpoint: &Checkpoint| {
        let mut executor = CpuExecutor::new(config, checkpoint, &options(1, WeightDtype::F32)).unwrap();
        let mut seq = Seq::new(9, 1, 0);
        let mut batch = batch(&[(&mut seq, 9)]);
        batch.logit_rows.clear();
        batch.score_rows = vec![8];
        executor.execute(&batch).unwrap().scores[0]
    };
    let (plain, with_bias) = (score(&classifier, &scored), score(&critic, &valued));
    assert!(plain != 0.0 && (plain + 1.5 - with_bias).abs() < 1e-5, "{plain} {with_bias}");
}
