//! What this machine can do at most: the limits that measured speeds are compared with. Leaves the models' own
//! arithmetic to `engine`.
#![expect(unsafe_code, reason = "products of tiles take addresses")]

use std::hint::black_box;
use std::time::Instant;

use crate::Pool;
use crate::buffer::Buffer;
use crate::rows::for_each_chunk;
use crate::simd::tile::Sums;
use crate::simd::tiles::{Ahead, Pairs, SQUARE, WORDS};
use crate::simd::{LANES, Op, Simd, dispatch};

/// Larger than the caches of the machines we know.
const READ_BYTES: usize = 512 << 20;
/// Bytes of a task: enough to stream, few enough to be spread well.
const TASK_BYTES: usize = 1 << 20;
/// Attempts, of which the best counts: the others were disturbed.
const ATTEMPTS: usize = 5;

/// Limits of all threads of a pool together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineLimits {
    /// Bytes read from memory per second.
    pub read_bytes_per_s: f64,
    /// Multiplications and additions per second with bf16 operands: of products of tiles where there are any, of bf16 dot
    /// products where they are faster than f32, else of f32.
    pub bf16_flops: f64,
    /// Multiplications and additions per second with operands in half precision: in it where the machine has such
    /// arithmetic, else in f32.
    pub f16_flops: f64,
    /// Multiplications and additions per second in f32.
    pub f32_flops: f64,
    /// Multiplications and additions per second of bytes: as many products of tiles as of bf16, of twice the numbers, or of dot
    /// products.
    pub int8_ops: f64,
}

/// Measures the limits in about 0.3 s.
pub fn measure(pool: &Pool) -> MachineLimits {
    let mut data = Buffer::<f32>::streamed(READ_BYTES / size_of::<f32>());
    // Written first: untouched pages are all one page of zeros.
    for_each_chunk(pool, true, &mut data, TASK_BYTES / size_of::<f32>(), |_, part| part.fill(1.0));
    let tasks = READ_BYTES / TASK_BYTES;
    let read = best(|| {
        pool.run(tasks, |i| {
            let part = data.len() / tasks;
            black_box(dispatch(pool.isa(), Read { data: &data[i * part..][..part] }));
        });
    });
    let chains = |kind| operations(pool, move |steps| Arithmetic { steps, kind });
    let f32_flops = chains(Kind::Single);
    let [has_dot, has_halves, has_tiles] = dispatch(pool.isa(), Has);
    let f16_flops = if has_halves { chains(Kind::Halves) } else { f32_flops };
    let (bf16_flops, int8_ops) = if has_tiles {
        let products = operations(pool, |steps| Squares { steps });
        (products, 2.0 * products)
    } else {
        let bf16_flops = if has_dot { chains(Kind::Pairs).max(f32_flops) } else { f32_flops };
        (bf16_flops, chains(Kind::Bytes))
    };
    MachineLimits { read_bytes_per_s: READ_BYTES as f64 / read, bf16_flops, f16_flops, f32_flops, int8_ops }
}

/// Seconds of the fastest attempt.
fn best(mut run: impl FnMut()) -> f64 {
    (0..ATTEMPTS).fold(f64::INFINITY, |best, _| {
        let start = Instant::now();
        run();
        best.min(start.elapsed().as_secs_f64())
    })
}

/// What is multiplied and added.
#[derive(Clone, Copy)]
enum Kind {
    Single,
    Pairs,
    Halves,
    Bytes,
}

/// Operations per second of all threads, where `arithmetic` is of so many steps.
fn operations<O: Op<Output = (f32, usize)>>(pool: &Pool, arithmetic: impl Fn(usize) -> O + Sync) -> f64 {
    let (tasks, steps) = (8 * pool.num_threads(), 1 << 17);
    let operations = dispatch(pool.isa(), arithmetic(0)).1;
    let seconds = best(|| {
        pool.run(tasks, |_| {
            black_box(dispatch(pool.isa(), arithmetic(black_box(steps))));
        });
    });
    (tasks * steps * operations) as f64 / seconds
}

/// Adds up memory.
struct Read<'a> {
    data: &'a [f32],
}

impl Op for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); 4];
        for wide in self.data.as_chunks::<{ 4 * LANES }>().0 {
            for (sum, lanes) in sums.iter_mut().zip(wide.as_chunks::<LANES>().0) {
                *sum = s.add(*sum, s.load(lanes));
            }
        }
        let [a, b, c, d] = sums;
        s.sum(s.add(s.add(a, b), s.add(c, d)))
    }
}

/// Whether the instruction set has bf16 dot products, arithmetic in half precision, and products of tiles.
struct Has;

impl Op for Has {
    type Output = [bool; 3];

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> [bool; 3] {
        [S::HAS_DOT, S::HAS_HALVES, S::HAS_TILES]
    }
}

/// Independent chains of multiply-adds in registers. Gives a number that depends on all, and the operations of a step.
struct Arithmetic {
    steps: usize,
    kind: Kind,
}

impl Op for Arithmetic {
    type Output = (f32, usize);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, usize) {
        match S::MAX_TILES >= 12 {
            true => chains::<S, 12>(s, self.steps, self.kind),
            false => chains::<S, 5>(s, self.steps, self.kind),
        }
    }
}

/// Words from a line of the cache on.
#[repr(align(64))]
struct Lines<const LEN: usize>([u32; LEN]);

/// Products of two tiles of rows and two of columns. Gives a sum, and the operations of a step.
struct Squares {
    steps: usize,
}

impl Op for Squares {
    type Output = (f32, usize);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, usize) {
        /// Steps of a product: its operands stay in the first-level cache.
        const DEPTH: usize = 8;
        let (rows, columns) = (Lines([0; DEPTH * SQUARE * WORDS]), Lines([0; DEPTH * WORDS]));
        let mut sums = [0.0; SQUARE * SQUARE * WORDS];
        let product = Pairs {
            rows: rows.0.as_ptr(),
            columns: [columns.0.as_ptr(); SQUARE],
            steps: DEPTH,
            ahead: Ahead::NOTHING,
            sums: Sums { start: sums.as_mut_ptr(), row_step: SQUARE * LANES, resume: false },
        };
        s.begin_tiles([LANES; 2]);
        for _ in 0..self.steps / DEPTH {
            // SAFETY: two tiles of rows, one of columns, and the sums of two times two.
            unsafe { s.multiply_tiles((SQUARE, SQUARE), &product) };
        }
        s.end_tiles();
        (black_box(&sums)[0], 4 * SQUARE * SQUARE * LANES * WORDS)
    }
}

#[inline(always)]
fn chains<S: Simd, const CHAINS: usize>(s: S, steps: usize, kind: Kind) -> (f32, usize) {
    let mut sums = [s.splat(1.0); CHAINS];
    let of_lane = match kind {
        Kind::Single => {
            let (x, y) = (s.splat(0.5), s.splat(1.0));
            for _ in 0..steps {
                for sum in &mut sums {
                    *sum = s.mul_add(*sum, x, y);
                }
            }
            2
        }
        Kind::Pairs => {
            let (x, y) = (s.splat_word(0x3f00_3f00), s.splat_word(0x3f80_3f80));
            for _ in 0..steps {
                for sum in &mut sums {
                    *sum = s.dot_bf16(*sum, x, y);
                }
            }
            4
        }
        Kind::Halves => {
            let (x, y) = (s.splat_word(0x3800_3800), s.splat_word(0x3c00_3c00));
            let mut halves = [y; CHAINS];
            for _ in 0..steps {
                for half in &mut halves {
                    *half = s.mul_add_halves(*half, x, y);
                }
            }
            for (sum, half) in sums.iter_mut().zip(halves) {
                *sum = s.add_halves(*sum, half);
            }
            4
        }
        Kind::Bytes => {
            // Operands that nobody knows and one of which changes, or products would be computed once: codes, unless taking
            // them apart would be measured with them.
            let codes = black_box([[0x0201_0101; LANES], [0x0101_0101; LANES]]);
            let activations = black_box([[[0x0100_ff00; 2]; CHAINS], [[0x0100_fe00; 2]; CHAINS]]);
            let mut dots = [s.splat_word(1); CHAINS];
            for step in 0..steps {
                let (changing, fixed) = (step % 2, 0);
                let (c, a) = if S::HAS_BYTES { (changing, fixed) } else { (fixed, changing) };
                let codes = s.load_words(&codes[c]);
                for (dot, [even, odd]) in dots.iter_mut().zip(&activations[a]) {
                    let even = s.splat_word(*even);
                    *dot = match S::HAS_BYTES {
                        true => s.dot_bytes(*dot, codes, even),
                        false => s.dot_pairs(*dot, codes, [even, s.splat_word(*odd)]),
                    };
                }
            }
            for (sum, dot) in sums.iter_mut().zip(dots) {
                *sum = s.to_f32(dot);
            }
            8
        }
    };
    let mut total = sums[0];
    for &sum in &sums[1..] {
        total = s.add(total, sum);
    }
    (s.sum(total), CHAINS * LANES * of_lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_a_computer() {
        let limits = measure(&Pool::new(2).unwrap());
        assert!((1e8..1e13).contains(&limits.read_bytes_per_s), "{limits:?}");
        assert!((1e8..1e15).contains(&limits.f32_flops), "{limits:?}");
        assert!(limits.bf16_flops >= limits.f32_flops, "{limits:?}");
        assert!((1e8..1e14).contains(&limits.int8_ops), "{limits:?}");
    }
}
