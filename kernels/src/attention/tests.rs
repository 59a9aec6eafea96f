//! Attention against a plain softmax in f64, for every instruction set, and its independence from the batch.

use half::bf16;
use proptest::prelude::*;

use super::walk::BLOCKS_READ;
use super::*;
use crate::isa::Isa;

/// Pseudo-random values in −1..1, a function of their place alone.
fn value(seed: u64, at: u64) -> f32 {
    let mut x = (seed << 40 ^ at).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x >> 40) as f32 / (1 << 23) as f32 - 1.0
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    block_size: usize,
    num_kv_heads: usize,
    group: usize,
    head_dim: usize,
    dtype: KvDtype,
    params: AttentionParams,
}

impl Shape {
    fn new(block_size: usize, num_kv_heads: usize, group: usize, head_dim: usize, dtype: KvDtype) -> Self {
        let params = AttentionParams {
            num_heads: num_kv_heads * group,
            scale: 3.0 / (head_dim as f32).sqrt(),
            sliding_window: None,
            soft_cap: None,
        };
        Self { block_size, num_kv_heads, group, head_dim, dtype, params }
    }
}

/// A sequence: the block table, its length and its last tokens that ask.
#[derive(Debug, Clone)]
struct Seq {
    table: Vec<u32>,
    len: usize,
    queries: usize,
}

/// What a slot holds depends on its number alone, so that sequences that share blocks share their contents.
fn cache(pool: &Pool, shape: &Shape, seqs: &[Seq]) -> KvCache {
    let num_blocks = seqs.iter().flat_map(|seq| &seq.table).max().unwrap() + 1;
    let mut cache =
        KvCache::new(num_blocks as usize, shape.block_size, shape.num_kv_heads, shape.head_dim, shape.dtype)
            .unwrap();
    // Whatever was there before must not matter.
    let width = shape.num_kv_heads * shape.head_dim;
    let everything: Vec<u32> = (0..num_blocks * shape.block_size as u32).collect();
    let garbage = vec![f32::NAN; everything.len() * width];
    reshape_and_cache(pool, Rows::new(&garbage, width), Rows::new(&garbage, width), &everything, &mut cache)
        .unwrap();
    let mut slots: Vec<u32> = seqs.iter().flat_map(|seq| (0..seq.len).map(|t| slot(shape, seq, t))).collect();
    slots.sort_unstable();
    slots.dedup();
    let fill = |seed| -> Vec<f32> {
        slots
            .iter()
            .flat_map(|&slot| (0..width).map(move |i| value(seed, (slot as usize * width + i) as u64)))
            .collect()
    };
    let (k, v) = (fill(1), fill(2));
    reshape_and_cache(pool, Rows::new(&k, width), Rows::new(&v, width), &slots, &mut cache).unwrap();
    cache
}

fn slot(shape: &Shape, seq: &Seq, t: usize) -> u32 {
    seq.table[t / shape.block_size] * shape.block_size as u32 + (t % shape.block_size) as u32
}

/// Queries of sequence `id`, a function of the position.
fn queries(shape: &Shape, seq: &Seq, id: usize) -> Vec<f32> {
    let width = shape.params.num_heads * shape.head_dim;
    (seq.len - seq.queries..seq.len)
        .flat_map(|t| (0..width).map(move |i| value(3 + id as u64, (t * width + i) as u64)))
        .collect()
}

fn run(pool: &Pool, shape: &Shape, cache: &KvCache, seqs: &[(usize, Seq)]) -> Vec<f32> {
    run_with(&mut AttentionPlan::default(), pool, shape, cache, seqs)
}

fn run_with(
    plan: &mut AttentionPlan,
    pool: &Pool,
    shape: &Shape,
    cache: &KvCache,
    seqs: &[(usize, Seq)],
) -> Vec<f32> {
    let width = shape.params.num_heads * shape.head_dim;
    let (mut cu_seqlens_q, mut cu_blocks, mut block_tables, mut q) = (vec![0], vec![0], vec![], vec![]);
    for (id, seq) in seqs {
        q.extend(queries(shape, seq, *id));
        block_tables.extend_from_slice(&seq.table);
        cu_seqlens_q.push((q.len() / width) as u32);
        cu_blocks.push(block_tables.len() as u32);
    }
    let seq_lens: Vec<u32> = seqs.iter().map(|(_, seq)| seq.len as u32).collect();
    let batch = PagedBatch {
        cu_seqlens_q: &cu_seqlens_q,
        seq_lens: &seq_lens,
        block_tables: &block_tables,
        cu_blocks: &cu_blocks,
    };
    let mut out = vec![f32::NAN; q.len()];
    // Queries stand among other columns, as in fused rows.
    let fused: Vec<f32> =
        q.chunks(width).flat_map(|q| [&[f32::NAN; 3], q, &[f32::NAN; 8]].concat()).collect();
    let rows = Rows { data: &fused, stride: width + 11, column: 3 };
    plan.fill(pool, &batch, cache, &shape.params).unwrap();
    paged_attention(pool, rows, cache, plan, &mut out).unwrap();
    out
}

/// Plain softmax attention in f64.
fn plain(shape: &Shape, seq: &Seq, id: usize) -> Vec<f64> {
    let Shape { group, head_dim, num_kv_heads, params, .. } = *shape;
    let kv_width = num_kv_heads * head_dim;
    let round = |x: f32| f64::from(if shape.dtype == KvDtype::Bf16 { bf16::from_f32(x).to_f32() } else { x });
    let q = queries(shape, seq, id);
    let mut out = Vec::new();
    for (i, token) in q.chunks(params.num_heads * head_dim).enumerate() {
        let end = seq.len - seq.queries + i + 1;
        let start = params.sliding_window.map_or(0, |window| end.saturating_sub(window));
        for (head, q) in token.chunks(head_dim).enumerate() {
            let at = |t: usize, d: usize| {
                (slot(shape, seq, t) as usize * kv_width + head / group * head_dim + d) as u64
            };
            let scores: Vec<f64> = (start..end)
                .map(|t| {
                    let dot: f64 = (0..head_dim).map(|d| f64::from(q[d]) * round(value(1, at(t, d)))).sum();
                    let score = dot * f64::from(params.scale);
                    params.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                })
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            out.extend((0..head_dim).map(|d| {
                let weighted = |(t, s): (usize, &f64)| (s - max).exp() / total * round(value(2, at(t, d)));
                (start..end).zip(&scores).map(weighted).sum::<f64>()
            }));
        }
    }
    out
}

/// bf16 dot products round queries and weights too; everything else is f32.
fn tolerance(shape: &Shape, isa: Isa) -> f64 {
    if shape.dtype == KvDtype::Bf16 && matches!(isa, Isa::Avx512Bf16 | Isa::Amx) { 2e-2 } else { 1e-5 }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let sizes = (
        prop_oneof![Just(16usize), Just(32), Just(48)],
        1..4usize,
        prop_oneof![Just(1usize), Just(2), Just(3), Just(7), Just(9)],
        prop_oneof![Just(8usize), Just(16), Just(24), Just(64), Just(80)],
        any::<bool>(),
    );
    let masks = (proptest::option::of(1..90usize), proptest::option::of(0.5..20.0f32));
    (sizes, masks).prop_map(|((block_size, num_kv_heads, group, head_dim, f32_cache), (window, cap))| {
        let dtype = if f32_cache { KvDtype::F32 } else { KvDtype::Bf16 };
        let mut shape = Shape::new(block_size, num_kv_heads, group, head_dim, dtype);
        (shape.params.sliding_window, shape.params.soft_cap) = (window, cap);
        shape
    })
}

/// Groups of sequences that share some first blocks; in each, lengths and numbers of queries.
fn batches() -> impl Strategy<Value = Vec<(usize, Vec<(usize, usize)>)>> {
    let member = (1..120usize, prop_oneof![3 => Just(1usize), 1 => 2..130usize]);
    proptest::collection::vec((0..10usize, proptest::collection::vec(member, 1..5)), 1..4)
}

fn sequences(shape: &Shape, groups: &[(usize, Vec<(usize, usize)>)]) -> Vec<Seq> {
    let mut next = 0;
    let mut seqs = Vec::new();
    for (shared_blocks, members) in groups {
        let shared: Vec<u32> = (next..).take(*shared_blocks).collect();
        next += *shared_blocks as u32;
        for &(tail, queries) in members {
            let len = shared.len() * shape.block_size + tail;
            let own = tail.div_ceil(shape.block_size) as u32;
            let table = shared.iter().copied().chain(next..next + own).collect();
            next += own;
            seqs.push(Seq { table, len, queries: queries.min(tail) });
        }
    }
    seqs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn equals_plain_softmax(shape in shapes(), groups in batches(), threads in 1..4usize) {
        let seqs = sequences(&shape, &groups);
        let expected: Vec<f64> = seqs.iter().enumerate().flat_map(|(id, seq)| plain(&shape, seq, id)).collect();
        for isa in Isa::supported() {
            let pool = Pool::with_isa(threads, isa).unwrap();
            let cache = cache(&pool, &shape, &seqs);
            let seqs: Vec<_> = seqs.iter().cloned().enumerate().collect();
            let out = run(&pool, &shape, &cache, &seqs);
            for (i, (&out, &expected)) in out.iter().zip(&expected).enumerate() {
                let error = (f64::from(out) - expected).abs();
                prop_assert!(error < tolerance(&shape, isa), "{isa:?} value {i}: {out} for {expected}");
            }
        }
    }
}

#[test]
fn a_query_gets_the_same_alone_in_a_batch_and_in_chunks_bit_for_bit() {
    for isa in Isa::supported() {
        for dtype in [KvDtype::F32, KvDtype::Bf16] {
            for window in [None, Some(300)] {
                let mut shape = Shape::new(16, 2, 7, 64, dtype);
                shape.params.sliding_window = window;
                // Nine candidates of a prompt of 21 blocks; so many that share nothing that tasks take all heads of one; then a
                // long one, which is cut into partitions.
                let mut groups = vec![(21, (1..10).map(|i| (7 * i, 1)).collect::<Vec<_>>())];
                groups.extend((1..26).map(|i| (0, vec![(11 * i, 1)])));
                groups.push((0, vec![(1300, 200)]));
                let seqs: Vec<(usize, Seq)> = sequences(&shape, &groups).into_iter().enumerate().collect();
                let all: Vec<Seq> = seqs.iter().map(|(_, seq)| seq.clone()).collect();
                let one = Pool::with_isa(1, isa).unwrap();
                let cache = cache(&one, &shape, &all);
                let alone: Vec<f32> = seqs
                    .iter()
                    .flat_map(|seq| run(&one, &shape, &cache, std::slice::from_ref(seq)))
                    .collect();
                for threads in [1, 3, 8] {
                    let pool = Pool::with_isa(threads, isa).unwrap();
                    assert_eq!(
                        run(&pool, &shape, &cache, &seqs),
                        alone,
                        "{isa:?} {dtype:?} {threads} threads"
                    );
                }
                // The last sequence again, one query at a time and in uneven chunks.
                let width = shape.params.num_heads * shape.head_dim;
                let (id, long) = seqs.last().unwrap().clone();
                let whole = &alone[alone.len() - long.queries * width..];
                let mut done = 0;
                for queries in [1, 1, 37, 160, 1] {
                    done += queries;
                    let len = long.len - long.queries + done;
                    let part = vec![(id, Seq { len, queries, ..long.clone() })];
                    let pool = Pool::with_isa(5, isa).unwrap();
                    let expected = &whole[(done - queries) * width..done * width];
                    assert_eq!(
                        run(&pool, &shape, &cache, &part),
                        expected,
                        "{isa:?} {dtype:?} chunk of {queries}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_plan_is_filled_again_and_refuses_other_caches() {
    let shape = Shape::new(16, 2, 2, 16, KvDtype::Bf16);
    let pool = Pool::new(2).unwrap();
    let mut plan = AttentionPlan::default();
    // Shared and alone, a long one that is cut into partitions, and short ones again.
    for groups in [
        vec![(3, vec![(9, 1); 5])],
        vec![(0, vec![(1500, 1)])],
        vec![(0, vec![(20, 7)]), (1, vec![(3, 2); 2])],
    ] {
        let seqs = sequences(&shape, &groups);
        let cache = cache(&pool, &shape, &seqs);
        let seqs: Vec<_> = seqs.into_iter().enumerate().collect();
        assert_eq!(run_with(&mut plan, &pool, &shape, &cache, &seqs), run(&pool, &shape, &cache, &seqs));
    }
    let width = shape.params.num_heads * 16;
    let (q, mut out) = (vec![0.0; plan.num_tokens * width], vec![0.0; plan.num_tokens * width]);
    let mut attend = |blocks, head_dim| {
        let cache = KvCache::new(blocks, 16, 2, head_dim, KvDtype::Bf16).unwrap();
        paged_attention(&pool, Rows::new(&q, width), &cache, &plan, &mut out)
            .map_err(|error| error.to_string())
    };
    assert_eq!(attend(7, 16), Ok(()));
    let refusal = Err("the plan was not made for such a cache".to_owned());
    assert_eq!(attend(3, 16), refusal);
    assert_eq!(attend(7, 24), refusal);
}

#[test]
fn shared_blocks_are_read_once_per_head() {
    let shape = Shape::new(16, 2, 7, 64, KvDtype::Bf16);
    let pool = Pool::new(1).unwrap();
    // 64 candidates of a prompt of 16 blocks, each with a tail of two blocks.
    let seqs = sequences(&shape, &[(16, vec![(20, 1); 64])]);
    let cache = cache(&pool, &shape, &seqs);
    let seqs: Vec<_> = seqs.into_iter().enumerate().collect();
    BLOCKS_READ.set(0);
    run(&pool, &shape, &cache, &seqs);
    assert_eq!(BLOCKS_READ.get(), 2 * (16 + 64 * 2));
}

#[test]
fn copied_blocks_hold_the_same() {
    for dtype in [KvDtype::F32, KvDtype::Bf16] {
        let shape = Shape::new(32, 2, 2, 24, dtype);
        let pool = Pool::new(1).unwrap();
        let original = Seq { table: vec![0, 2], len: 50, queries: 3 };
        let mut cache = cache(
            &pool,
            &shape,
            &[original.clone(), Seq { table: vec![3], ..original.clone() }]
                .map(|seq| Seq { len: seq.len.min(seq.table.len() * 32), ..seq }),
        );
        cache.copy_block(2, 1).unwrap();
        let copy = Seq { table: vec![0, 1], ..original.clone() };
        let expected = run(&pool, &shape, &cache, &[(0, original)]);
        assert_eq!(run(&pool, &shape, &cache, &[(0, copy)]), expected);
        assert!(cache.copy_block(4, 0).is_err());
    }
}

#[test]
fn batches_are_checked_in_sentences() {
    let shape = Shape::new(16, 1, 1, 8, KvDtype::F32);
    let pool = Pool::new(1).unwrap();
    let cache = KvCache::new(2, 16, 1, 8, KvDtype::F32).unwrap();
    let attend = |cu_seqlens_q: &[u32], seq_lens: &[u32], block_tables: &[u32], cu_blocks: &[u32]| {
        let batch = PagedBatch { cu_seqlens_q, seq_lens, block_tables, cu_blocks };
        let error = AttentionPlan::default().fill(&pool, &batch, &cache, &shape.params);
        error.unwrap_err().to_string()
    };
    assert_eq!(
        attend(&[0, 1], &[17], &[0], &[0, 1]),
        "the block table of sequence 0 is too short for its 17 tokens"
    );
    assert_eq!(attend(&[0, 1], &[1], &[2], &[0, 1]), "block 2 lies outside a cache of 2 blocks");
    assert_eq!(
        attend(&[0, 2], &[1], &[0], &[0, 1]),
        "sequence 0 has more queries than its 1 tokens, or fewer than none"
    );
    assert_eq!(
        KvCache::new(1, 8, 1, 8, KvDtype::F32).unwrap_err().to_string(),
        "block_size must be a multiple of 16, not 8"
    );
}
