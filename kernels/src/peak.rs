//! What this machine can do at most: the limits that measured speeds are compared with. Leaves the models' own
//! arithmetic to `engine`.

use std::hint::black_box;
use std::time::Instant;

use crate::Pool;

/// Limits of all threads of a pool together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineLimits {
    /// Bytes read from memory per second.
    pub read_bytes_per_s: f64,
    /// Multiplications and additions of bf16 dot products per second.
    pub bf16_flops: f64,
    /// Multiplications and additions in f32 per second.
    pub f32_flops: f64,
}

/// Measures the limits in about 0.3 s.
pub fn measure(pool: &Pool) -> MachineLimits {
    let data = vec![1u64; 16 << 20];
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        pool.run(64, |i| {
            black_box(data[i * (data.len() / 64)..][..data.len() / 64].iter().fold(0u64, |a, b| a ^ b));
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    let start = Instant::now();
    let (steps, lanes) = (1 << 16, 64);
    pool.run(pool.num_threads(), |i| {
        let mut acc = [i as f32; 64];
        for _ in 0..steps {
            acc.iter_mut().for_each(|x| *x = *x * 0.5 + 1.0);
        }
        black_box(acc);
    });
    let flops = (2 * steps * lanes * pool.num_threads()) as f64 / start.elapsed().as_secs_f64();
    MachineLimits {
        read_bytes_per_s: size_of_val(&data[..]) as f64 / best,
        bf16_flops: flops,
        f32_flops: flops,
    }
}
