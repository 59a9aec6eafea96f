//! What drawing tokens costs: 64 rows of a 151,936-token vocabulary (Qwen2.5's). Run with `cargo bench --bench sampler`.

use criterion::{Criterion, Throughput};
use rectify_engine::SamplingParams;
use rectify_engine::grammar::Mask;
use rectify_engine::sampler::{Draw, SampleRow, Sampler};
use rectify_kernels::Pool;

const VOCAB: usize = 151_936;
const ROWS: usize = 64;

fn sample(criterion: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let Ok(pool) = Pool::new(threads) else { return };
    // A smooth pseudo-random row with a few clear favourites, as a model makes them.
    let noise = |i: usize| ((i as f32 * 12.9898).sin() * 43_758.547).fract() * 4.0;
    let logits: Vec<f32> =
        (0..ROWS * VOCAB).map(|i| noise(i) + if i % 997 == 0 { 6.0 } else { 0.0 }).collect();
    let base = SamplingParams::default();
    // Inside a string of JSON nearly all tokens may follow, between two fields few.
    let most = Mask::new(VOCAB, (0..VOCAB as u32).filter(|token| token % 100 != 0));
    let few = Mask::new(VOCAB, (0..VOCAB as u32).filter(|token| token % 997 == 0));
    let cases = [
        ("greedy", SamplingParams { temperature: 0.0, ..base.clone() }),
        ("temperature", SamplingParams { temperature: 0.8, ..base.clone() }),
        ("top_k", SamplingParams { top_k: 50, ..base.clone() }),
        ("top_p", SamplingParams { top_p: 0.9, ..base.clone() }),
        ("min_p", SamplingParams { min_p: 0.05, ..base.clone() }),
        ("penalties", SamplingParams { frequency_penalty: 0.5, ..base.clone() }),
        ("penalties_spread", SamplingParams { frequency_penalty: 0.5, ..base.clone() }),
        ("top_logprobs", SamplingParams { logprobs: Some(20), ..base.clone() }),
    ];
    // As in text, whose frequent tokens have low numbers; and as it would be worst, all over the vocabulary.
    let text: Vec<u32> = (0..200).map(|i| (VOCAB as f64).powf(f64::from(i) / 200.0) as u32).collect();
    let spread: Vec<u32> = (0..200).map(|i| i * 757).collect();
    let sampler = Sampler::default();
    let mut group = criterion.benchmark_group("sampler_64_rows");
    group.throughput(Throughput::Elements(ROWS as u64)).sample_size(20);
    let masked = [("mask_most", &most), ("mask_few", &few)].map(|(name, mask)| (name, &base, Some(Ok(mask))));
    for (name, params, mask) in cases.iter().map(|(name, params)| (*name, params, None)).chain(masked) {
        let rows: Vec<SampleRow<'_>> = (0..ROWS)
            .map(|row| SampleRow {
                logits: &logits[row * VOCAB..][..VOCAB],
                mask,
                params,
                draw: Draw { seed: 1, candidate: row, position: 7 },
                prompt: &[],
                output: if name == "penalties_spread" { &spread } else { &text },
                end_tokens: &[],
                wants_logprob: true,
            })
            .collect();
        group.bench_function(name, |bencher| bencher.iter(|| sampler.sample(&pool, &rows)));
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    sample(&mut criterion);
    criterion.final_summary();
}
