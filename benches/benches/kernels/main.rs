//! Speed of the kernels at the shapes of the workloads W1 (Qwen2.5-0.5B) and W2 (a 30M Llama), beside what the machine
//! can do at most, measured in the same run. Leaves whole models to `rectify bench`.
//!
//! `cargo bench -p rectify-benches --bench kernels [-- FILTER]`; a filter that begins with `linear/` or `mlp/` spares packing the
//! rest.

mod train;

use std::cell::Cell;
use std::error::Error;
use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use rectify_kernels::peak::{MachineLimits, measure};
use rectify_kernels::{
    Activation, AttentionParams, AttentionPlan, BlockKind, Epilogue, GatedMlp, KvCache, KvDtype,
    PackedLinear, PagedBatch, Pool, Rows, RowsMut, Values, WeightDtype, exp_below, gated, gated_mlp, linear,
    masses, max, paged_attention, reshape_and_cache, rms_norm,
};

/// A model's linear layers: shapes `(inputs, outputs)` of one layer, how many layers, and the shape of the head.
struct Stack {
    name: &'static str,
    layer: [(usize, usize); 4],
    num_layers: usize,
    head: (usize, usize),
}

const STACKS: [Stack; 2] = [
    Stack {
        name: "W1",
        layer: [(896, 1152), (896, 896), (896, 9728), (4864, 896)],
        num_layers: 24,
        head: (896, 151_936),
    },
    Stack {
        name: "W2",
        layer: [(512, 1024), (512, 512), (512, 3072), (1536, 512)],
        num_layers: 8,
        head: (512, 8192),
    },
];

/// Beyond every cache whatever the weights are held as: 200 M of them.
const LARGE: Stack = Stack { name: "large", layer: [(1024, 4864); 4], num_layers: 10, head: (1024, 8192) };

/// What a call costs at least.
#[derive(Clone, Copy)]
struct Cost {
    bytes: f64,
    flops: f64,
}

/// Which arithmetic a cost is of.
#[derive(Clone, Copy, PartialEq)]
enum Peak {
    F32,
    Bf16,
    F16,
    Int8,
}

/// How weights are held.
#[derive(Clone, Copy)]
enum Held {
    As(WeightDtype),
    Blocks(BlockKind),
}

/// Benches one after the other, each with a line of its share of the limits.
struct Bench {
    criterion: Criterion,
    limits: MachineLimits,
}

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let pool = Pool::new(std::thread::available_parallelism()?.get())?;
    let limits = measure(&pool);
    writeln!(
        std::io::stdout(),
        "{} threads, {:?}: read {:.1} GB/s, bf16 {:.0} GFLOP/s, f16 {:.0} GFLOP/s, f32 {:.0} GFLOP/s, int8 {:.0} Gop/s",
        pool.num_threads(),
        pool.isa(),
        limits.read_bytes_per_s / 1e9,
        limits.bf16_flops / 1e9,
        limits.f16_flops / 1e9,
        limits.f32_flops / 1e9,
        limits.int8_ops / 1e9
    )?;
    let criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .without_plots()
        .configure_from_args();
    let mut bench = Bench { criterion, limits };
    for stack in &STACKS {
        bench_linear(&mut bench, &pool, stack, Held::As(WeightDtype::Bf16))?;
        bench_linear(&mut bench, &pool, stack, Held::As(WeightDtype::F16))?;
    }
    bench_linear(&mut bench, &pool, &STACKS[1], Held::As(WeightDtype::F32))?;
    bench_linear(&mut bench, &pool, &LARGE, Held::As(WeightDtype::Bf16))?;
    for stack in [&STACKS[0], &LARGE] {
        bench_linear(&mut bench, &pool, stack, Held::As(WeightDtype::Int8))?;
        for kind in BlockKind::ALL {
            bench_linear(&mut bench, &pool, stack, Held::Blocks(kind))?;
        }
    }
    bench_mlp(&mut bench, &pool, &STACKS[0])?;
    bench_attention(&mut bench, &pool)?;
    bench_rows(&mut bench, &pool)?;
    train::bench_products(&mut bench, &pool)?;
    train::bench_attention(&mut bench, &pool)?;
    bench.criterion.final_summary();
    Ok(())
}

impl Bench {
    /// Runs `call` under criterion; prints the fastest call against the limits.
    fn run(&mut self, name: &str, cost: Cost, peak: Peak, mut call: impl FnMut() -> Outcome) -> Outcome {
        call()?;
        let fastest = Cell::new(f64::INFINITY);
        let failure = Cell::new(None);
        let mut group = self.criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(cost.bytes as u64));
        group.bench_function("call", |bencher| {
            bencher.iter_custom(|iterations| {
                let mut total = Duration::ZERO;
                for _ in 0..iterations {
                    let start = Instant::now();
                    if let Err(error) = call() {
                        failure.set(Some(error));
                    }
                    let elapsed = start.elapsed();
                    fastest.set(fastest.get().min(elapsed.as_secs_f64()));
                    total += elapsed;
                }
                total
            });
        });
        group.finish();
        failure.take().map_or(Ok(()), Err)?;
        let seconds = fastest.get();
        if seconds.is_finite() {
            let (bandwidth, speed) = (cost.bytes / seconds, cost.flops / seconds);
            let peak = match peak {
                Peak::F32 => self.limits.f32_flops,
                Peak::Bf16 => self.limits.bf16_flops,
                Peak::F16 => self.limits.f16_flops,
                Peak::Int8 => self.limits.int8_ops,
            };
            let (reading, computing) = (bandwidth / self.limits.read_bytes_per_s, speed / peak);
            writeln!(
                std::io::stdout(),
                "    {name}: {:.3} ms, {:.1} GB/s ({:.0} % of reading), {:.0} GFLOP/s ({:.0} % of arithmetic)\n",
                seconds * 1e3,
                bandwidth / 1e9,
                100.0 * reading,
                speed / 1e9,
                100.0 * computing
            )?;
        }
        Ok(())
    }
}

/// Whether no filter for products leaves this out.
fn is_wanted(name: &str) -> bool {
    let mut args = std::env::args();
    let filter = args.find(|arg| arg.starts_with("linear/") || arg.starts_with("mlp/"));
    filter.is_none_or(|filter| name.starts_with(&filter))
}

/// Values in −0.05..0.05.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1009) as f32 / 10_090.0 - 0.05).collect()
}

/// All linear layers of a model, one after the other, as in a step of `m` rows.
fn bench_linear(bench: &mut Bench, pool: &Pool, stack: &Stack, held: Held) -> Outcome {
    let (kind, peak) = match held {
        Held::As(WeightDtype::F32) => ("f32".to_owned(), Peak::F32),
        Held::As(WeightDtype::F16) => ("f16".to_owned(), Peak::F16),
        Held::As(WeightDtype::Int8) => ("int8".to_owned(), Peak::Int8),
        Held::As(_) => ("bf16".to_owned(), Peak::Bf16),
        Held::Blocks(kind) => (format!("{kind:?}"), Peak::Int8),
    };
    let name = |m| format!("linear/{}/{kind}/m={m}", stack.name);
    let mut rows_of_calls = vec![1, 2, 4, 6, 8, 16, 32, 64, 256];
    rows_of_calls.retain(|&m| is_wanted(&name(m)));
    if rows_of_calls.is_empty() {
        return Ok(());
    }
    let numbers = values(stack.head.0 * stack.head.1);
    // Whole blocks of the largest kind.
    let whole = |k: usize| k.next_multiple_of(256);
    // Any codes; factors near one.
    let blocks: Vec<u8> =
        (0..whole(stack.head.0) * stack.head.1 * 34 / 32).map(|i| (i * 7919 % 60) as u8).collect();
    let shapes = (0..stack.num_layers).flat_map(|_| stack.layer).chain([stack.head]);
    let weights: Vec<PackedLinear> = shapes
        .map(|(k, n)| match held {
            Held::As(dtype) => PackedLinear::pack(pool, &[Values::F32(&numbers[..k * n])], k, dtype),
            Held::Blocks(kind) => {
                let k = whole(k);
                let bytes = &blocks[..k / kind.num_values() * n * kind.num_bytes()];
                PackedLinear::pack(pool, &[Values::Blocks(kind, bytes)], k, WeightDtype::Blocks)
            }
        })
        .collect::<Result<_, _>>()?;
    let widest = weights.iter().map(PackedLinear::out_features).max().unwrap_or(0);
    let deepest = weights.iter().map(PackedLinear::in_features).max().unwrap_or(0);
    for m in rows_of_calls {
        // Prefill takes logits of the last row alone.
        let rows = |w: &PackedLinear| if m > 64 && w.out_features() == stack.head.1 { 1 } else { m };
        let x = values(m * deepest);
        let mut out = vec![0.0; m.min(64) * widest + m * 16384];
        let cost = Cost {
            bytes: weights.iter().map(|w| w.num_bytes() as f64).sum(),
            flops: weights.iter().map(|w| (2 * rows(w) * w.in_features() * w.out_features()) as f64).sum(),
        };
        bench.run(&name(m), cost, peak, || {
            for w in &weights {
                let out = RowsMut::new(&mut out, w.out_features());
                linear(pool, Rows::new(&x, w.in_features()), rows(w), w, &Epilogue::default(), out)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// All MLPs of a model, one after the other: a product, a gate and a product.
fn bench_mlp(bench: &mut Bench, pool: &Pool, stack: &Stack) -> Outcome {
    let [.., (inputs, both), (width, outputs)] = stack.layer;
    let name = |m| format!("mlp/{}/bf16/m={m}", stack.name);
    let mut rows_of_calls = vec![1, 16, 64, 128, 256, 512];
    rows_of_calls.retain(|&m| is_wanted(&name(m)));
    if rows_of_calls.is_empty() {
        return Ok(());
    }
    let numbers = values(inputs * both);
    let pack = |k: usize, n: usize| {
        PackedLinear::pack(pool, &[Values::F32(&numbers[..k * n])], k, WeightDtype::Bf16)
    };
    let layers = (0..stack.num_layers).map(|_| Ok((pack(inputs, both)?, pack(width, outputs)?)));
    let layers = layers.collect::<Outcome<Vec<_>>>()?;
    let bytes: usize = layers.iter().map(|(gate_up, down)| gate_up.num_bytes() + down.num_bytes()).sum();
    for m in rows_of_calls {
        let (x, mut out) = (values(m * inputs), vec![0.0; m * outputs]);
        let flops = 2 * m * (inputs * both + width * outputs) * stack.num_layers;
        let cost = Cost { bytes: bytes as f64, flops: flops as f64 };
        bench.run(&name(m), cost, Peak::Bf16, || {
            for (gate_up, down) in &layers {
                let mlp =
                    GatedMlp { gate_up: (gate_up, None), activation: Activation::Silu, down: (down, None) };
                gated_mlp(pool, Rows::new(&x, inputs), m, &mlp, RowsMut::new(&mut out, outputs))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// One layer's attention of W1: candidates that share a prompt of 256 tokens and have 64 of their own, and prefill.
fn bench_attention(bench: &mut Bench, pool: &Pool) -> Outcome {
    const BLOCK: usize = 16;
    let (num_heads, num_kv_heads, head_dim) = (14, 2, 64);
    for dtype in [KvDtype::Bf16, KvDtype::F32] {
        for (name, shared, own, queries, n) in [
            ("decode/n=1", 256, 64, 1, 1),
            ("decode/n=16", 256, 64, 1, 16),
            ("decode/n=64", 256, 64, 1, 64),
            ("decode/long", 0, 8192, 1, 1),
            ("prefill/256", 0, 256, 256, 1),
            ("prefill/2048", 0, 2048, 2048, 1),
        ] {
            let blocks = shared / BLOCK + n * own / BLOCK;
            let mut cache = KvCache::new(blocks, BLOCK, num_kv_heads, head_dim, dtype)?;
            let slots: Vec<u32> = (0..(blocks * BLOCK) as u32).collect();
            let kv = values(slots.len() * num_kv_heads * head_dim);
            let kv = Rows::new(&kv, num_kv_heads * head_dim);
            reshape_and_cache(pool, kv, kv, &slots, &mut cache)?;
            let tables: Vec<u32> = (0..n)
                .flat_map(|i| {
                    let first = (shared + i * own) / BLOCK;
                    (0..shared / BLOCK).chain(first..first + own / BLOCK)
                })
                .map(|block| block as u32)
                .collect();
            let cumulative = |step: usize| -> Vec<u32> { (0..=n).map(|i| (i * step) as u32).collect() };
            let (cu_seqlens_q, cu_blocks) = (cumulative(queries), cumulative((shared + own) / BLOCK));
            let seq_lens = vec![(shared + own) as u32; n];
            let batch = PagedBatch {
                cu_seqlens_q: &cu_seqlens_q,
                seq_lens: &seq_lens,
                block_tables: &tables,
                cu_blocks: &cu_blocks,
            };
            let params = AttentionParams { num_heads, scale: 0.125, sliding_window: None, soft_cap: None };
            let q = values(n * queries * num_heads * head_dim);
            let (mut out, mut plan) = (vec![0.0; q.len()], AttentionPlan::default());
            let seen = if queries == 1 { shared + own } else { own.div_ceil(2) };
            let cost = Cost {
                bytes: cache.num_bytes() as f64,
                flops: (n * queries * num_heads * seen * head_dim * 4) as f64,
            };
            let kind = if dtype == KvDtype::F32 { "f32" } else { "bf16" };
            let peak = if dtype == KvDtype::F32 { Peak::F32 } else { Peak::Bf16 };
            bench.run(&format!("attention/{kind}/{name}"), cost, peak, || {
                let q = Rows::new(&q, num_heads * head_dim);
                plan.fill(pool, &batch, &cache, &params)?;
                Ok(paged_attention(pool, q, &cache, &plan, &mut out)?)
            })?;
        }
    }
    Ok(())
}

/// What is done to rows between products.
fn bench_rows(bench: &mut Bench, pool: &Pool) -> Outcome {
    let (width, hidden, vocab) = (896, 4864, 151_936);
    let weight = values(width);
    for m in [1, 16, 256] {
        let (x, gate_up) = (values(m * width), values(2 * m * hidden));
        let mut out = vec![0.0; m * hidden];
        let cost = |values: usize, flops: usize| Cost { bytes: 4.0 * values as f64, flops: flops as f64 };
        bench.run(&format!("rms_norm/m={m}"), cost(2 * m * width, 4 * m * width), Peak::F32, || {
            Ok(rms_norm(pool, &x, &weight, 1e-6, &mut out[..m * width])?)
        })?;
        bench.run(&format!("swiglu/m={m}"), cost(3 * m * hidden, 4 * m * hidden), Peak::F32, || {
            Ok(gated(pool, Activation::Silu, &gate_up, m, &mut out)?)
        })?;
    }
    let row = values(vocab);
    let mut out = vec![0.0; vocab];
    let (mut maxima, mut sums) = (Vec::new(), Vec::new());
    bench.run("masses/152k", Cost { bytes: 4.0 * vocab as f64, flops: vocab as f64 }, Peak::F32, || {
        masses(&row, &[1.0], &mut maxima, &mut sums);
        black_box(&sums);
        Ok(())
    })?;
    let largest = max(&row);
    bench.run("exp_below/152k", Cost { bytes: 8.0 * vocab as f64, flops: vocab as f64 }, Peak::F32, || {
        Ok(exp_below(&row, largest, 1.0, &mut out)?)
    })
}
