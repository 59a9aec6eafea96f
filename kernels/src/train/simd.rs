//! Loops compiled for the best instructions of the machine: one body, inlined into functions with wider and wider
//! target features, chosen at run time. Leaves explicit intrinsics to `gemm`.

use crate::Isa;

/// The functions compiled for which instructions to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What the compiler may assume of any machine of this kind.
    Baseline,
}

/// The best for this machine.
#[inline]
pub(super) fn level() -> Level {
    match Isa::detect() {
        #[cfg(target_arch = "x86_64")]
        isa if isa >= Isa::Avx512 => Level::Avx512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Level::Avx2,
        _ => Level::Baseline,
    }
}

/// Whether every machine of this kind has a fused multiply-add.
pub(super) const BASELINE_FMA: bool = cfg!(target_arch = "aarch64");

/// Defines `fn $name(args)` that runs `$body::<FMA>(args)` compiled for the machine.
macro_rules! multiversion {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$meta])*
        pub(super) fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { $body::<true>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { $body::<true>($($arg),*) }
                match $crate::train::simd::level() {
                    // SAFETY: `level` found these features.
                    $crate::train::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: `level` found these features.
                    $crate::train::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::train::simd::Level::Baseline => {}
                }
            }
            $body::<{ $crate::train::simd::BASELINE_FMA }>($($arg),*)
        }
    };
}
pub(super) use multiversion;

/// `a · b + c`, fused where the instructions are.
#[inline(always)]
pub(super) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Independent partial sums, so that a sum vectorises in one fixed order.
const LANES: usize = 32;

/// `Σ term(inputs at i)` over all `i`.
#[inline(always)]
pub(super) fn sum_of<const M: usize>(inputs: [&[f32]; M], term: impl Fn([f32; M]) -> f32) -> f32 {
    sums_of(inputs, |values| [term(values)])[0]
}

/// Several sums in one pass, each as [`sum_of`] would take it. Whole chunks, so that no index needs a check.
#[inline(always)]
pub(super) fn sums_of<const M: usize, const N: usize>(
    inputs: [&[f32]; M],
    terms: impl Fn([f32; M]) -> [f32; N],
) -> [f32; N] {
    let len = inputs.iter().map(|input| input.len()).min().unwrap_or(0);
    let chunks = inputs.map(|input| input[..len].as_chunks::<LANES>());
    let mut lanes = [[0.0f32; LANES]; N];
    for index in 0..len / LANES {
        let chunk = chunks.map(|(whole, _)| &whole[index]);
        for lane in 0..LANES {
            let terms = terms(chunk.map(|values| values[lane]));
            for sum in 0..N {
                lanes[sum][lane] += terms[sum];
            }
        }
    }
    for lane in 0..len % LANES {
        let terms = terms(chunks.map(|(_, rest)| rest[lane]));
        for sum in 0..N {
            lanes[sum][lane] += terms[sum];
        }
    }
    lanes.map(fold)
}

/// The sum of all lanes, by halves.
#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `Σ a b`.
#[inline(always)]
pub(super) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    let mut lanes = [0.0f32; LANES];
    let (mut chunks_a, mut chunks_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (x, y) in chunks_a.by_ref().zip(chunks_b.by_ref()) {
        for lane in 0..LANES {
            lanes[lane] = fma::<FMA>(x[lane], y[lane], lanes[lane]);
        }
    }
    for (lane, (x, y)) in chunks_a.remainder().iter().zip(chunks_b.remainder()).enumerate() {
        lanes[lane] = fma::<FMA>(*x, *y, lanes[lane]);
    }
    fold(lanes)
}

/// Largest element; negative infinity if there is none.
#[inline(always)]
pub(super) fn max_of(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in chunks.by_ref() {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    for (lane, value) in chunks.remainder().iter().enumerate() {
        lanes[lane] = if *value > lanes[lane] { *value } else { lanes[lane] };
    }
    lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// `e^x` to about 2 units in the last place, without branches so that it vectorises; 0 below −87.3, and the largest
/// finite power above 88. Cephes' split of the argument and polynomial (Moshier 1989).
#[inline(always)]
pub(super) fn exp<const FMA: bool>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to an integer kept in the low bits.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < 88.0 { x } else { 88.0 };
    let clamped = if clamped > -87.3 { clamped } else { -87.3 };
    let shifted = fma::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<FMA>(-n, LN2_LOW, fma::<FMA>(-n, LN2_HIGH, clamped));
    let mut p = 1.987_569_1e-4;
    p = fma::<FMA>(p, r, 1.398_199_9e-3);
    p = fma::<FMA>(p, r, 8.333_452e-3);
    p = fma::<FMA>(p, r, 4.166_579_6e-2);
    p = fma::<FMA>(p, r, 1.666_666_5e-1);
    p = fma::<FMA>(p, r, 0.5);
    let y = fma::<FMA>(p * r, r, r) + 1.0;
    let power = f32::from_bits(
        ((shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32).wrapping_add(127) << 23) as u32,
    );
    let result = y * power;
    if x < -87.3 { 0.0 } else { result }
}

/// `1 / (1 + e^−x)`.
#[inline(always)]
pub(super) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_right_to_a_few_units_in_the_last_place() {
        for step in -8700..8800 {
            let x = step as f32 * 0.01;
            let want = f64::from(x).exp();
            for got in [exp::<true>(x), exp::<false>(x)] {
                assert!(((f64::from(got) - want) / want).abs() < 4e-7, "exp({x}) = {got}, want {want}");
            }
        }
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<false>(-200.0), 0.0);
    }

    #[test]
    fn sums_take_every_element_once() {
        for len in [0, 1, 15, 32, 33, 100] {
            let x: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let want: f32 = x.iter().sum();
            assert_eq!(sum_of([&x], |[x]| x), want);
            assert_eq!(dot::<true>(&x, &vec![1.0; len]), want);
            assert_eq!(max_of(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
