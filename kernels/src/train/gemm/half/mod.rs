//! Products with packed weights in half precision: both factors are rounded to fp16, [`BLOCK`] products at a time are
//! summed in fp16, and these sums in f32. Twice as many multiplications an instruction as in f32, where the processor
//! has them, for an error below that of rounding the left factor to bfloat16. Leaves f32 to `micro`.
//!
//! Range is no concern: each row of a block of the left factor, and all of the right one, are multiplied by powers of
//! two that bring their largest element near 16, which is exact, and is undone in f32. Elements down to 2⁻¹⁷ of the
//! largest keep all eleven digits, and no sum can overflow.

use std::cell::RefCell;
use std::ops::Range;

mod bf16;
#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(not(target_arch = "x86_64"))]
use portable as kernel;
#[cfg(target_arch = "x86_64")]
use x86 as kernel;

use super::factor::{Factor, View};
use super::micro::TileShape;
use super::pack;
use crate::simd::halves::power_of_two;

/// Products summed in fp16: twice as few cost a tenth of the speed and take a third off the error.
const BLOCK: usize = 64;
/// Columns of the left factor taken together.
pub(super) const KC: usize = 512;
/// Binary exponents of the largest element of a row of the left factor, and of the right factor. A block's sum is at most
/// 2^(4 + 5) · 64 = 2¹⁵.
const LARGEST: (i32, i32) = (3, 4);
/// Rows of the right factor that are narrowed at a time.
const NARROWED: usize = 32;

/// The half-precision micro-kernel.
pub(super) struct Half;

impl TileShape for Half {
    const MR: usize = 12;
    const NR: usize = 64;
}

/// Numbers of a tile.
#[cfg(any(test, target_arch = "x86_64"))]
const TILE: usize = Half::MR * Half::NR;

/// Whether this machine has fp16 arithmetic as fast as it should be.
#[inline]
pub(in crate::train) fn is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        crate::train::simd::level() == crate::train::simd::Level::Avx512
            && is_x86_feature_detected!("avx512fp16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// [`power_of_two`]; what is not finite stays so.
fn scale_to(largest: u32, exponent: i32) -> (f32, f32) {
    power_of_two(largest, exponent).unwrap_or((1.0, 1.0))
}

/// What the right factor, whose largest magnitude has these bits, is multiplied by.
pub(super) fn right_scale(largest: u32) -> f32 {
    scale_to(largest, LARGEST.1).0
}

/// fp16 numbers in memory of f32 ones.
pub(super) fn as_words(data: &[f32]) -> &[u16] {
    // SAFETY: any bits are a `u16`, of which two fit an f32.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), 2 * data.len()) }
}

/// fp16 numbers in memory of f32 ones.
pub(super) fn as_words_mut(data: &mut [f32]) -> &mut [u16] {
    // SAFETY: as of `as_words`; whatever is written is some f32.
    unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast(), 2 * data.len()) }
}

/// Writes `scale` times rows `rows` of the columns `columns.0..columns.0 + columns.1` of `b` as a panel `[rows][NR]`.
pub(super) fn pack_b(
    b: Factor<'_>,
    scale: f32,
    rows: Range<usize>,
    columns: (usize, usize),
    out: &mut [u16],
) {
    if let Factor::Packed(b) = b
        && columns.1 == Half::NR
        && bf16::pack(b, scale, &rows, columns.0, out)
    {
        return;
    }
    let mut wide = [0.0f32; NARROWED * Half::NR];
    for (from, out) in rows.clone().step_by(NARROWED).zip(out.chunks_mut(NARROWED * Half::NR)) {
        let to = rows.end.min(from + NARROWED);
        let wide = &mut wide[..(to - from) * Half::NR];
        pack::pack_b::<Half>(b, from..to, columns, 0, wide);
        // SAFETY: half precision is asked for only where `is_supported`.
        unsafe { kernel::narrow(wide, scale, out) };
    }
}

/// Rows of the left factor: of each, fp16 numbers twice in a word so that a broadcast needs no shuffle, `[KC]`.
#[derive(Default)]
pub(super) struct PackedRows {
    words: Vec<u32>,
    /// What a row's sums are multiplied by.
    factors: Vec<f32>,
}

/// As many packed rows as a tile has.
#[derive(Clone, Copy)]
pub(super) struct RowPanel<'a> {
    words: &'a [u32],
    factors: &'a [f32],
}

thread_local! {
    static ROWS: RefCell<PackedRows> = RefCell::default();
}

/// Packs columns `columns` of rows `rows` of `a`, at most [`KC`], for `run`; `factor` is of all sums.
pub(super) fn with_rows(
    a: View<'_>,
    rows: Range<usize>,
    columns: Range<usize>,
    factor: f32,
    run: impl FnOnce(&PackedRows),
) {
    let mut packed = ROWS.take();
    let padded = rows.len().next_multiple_of(Half::MR);
    packed.words.resize(padded * KC, 0);
    packed.factors.resize(padded, 0.0);
    let out = packed.words.chunks_exact_mut(KC).zip(&mut packed.factors);
    for (row, (words, row_factor)) in rows.zip(out) {
        let values = &a.data[row * a.row_stride..][columns.clone()];
        // SAFETY: half precision is asked for only where `is_supported`.
        unsafe {
            let (scale, inverse) = scale_to(kernel::largest(values), LARGEST.0);
            kernel::double(values, scale, &mut words[..values.len()]);
            *row_factor = factor * inverse;
        }
    }
    run(&packed);
    ROWS.set(packed);
}

impl PackedRows {
    /// Rows past the last are of any value.
    pub(super) fn panels(&self) -> impl Iterator<Item = RowPanel<'_>> {
        let words = self.words.chunks_exact(Half::MR * KC);
        words.zip(self.factors.chunks_exact(Half::MR)).map(|(words, factors)| RowPanel { words, factors })
    }
}

impl RowPanel<'_> {
    /// Writes the product with `b`, `[depth][NR]`, as rows `stride` apart, or adds it to what is there.
    ///
    /// # Safety
    /// `c` holds the tile, which nobody else uses; [`is_supported`].
    pub(super) unsafe fn tile(self, depth: usize, b: &[u16], c: *mut f32, stride: usize, accumulate: bool) {
        assert!(depth <= KC && self.words.len() >= Half::MR * KC && self.factors.len() >= Half::MR);
        assert!(b.len() >= depth * Half::NR, "the panel is too short");
        // SAFETY: the lengths by the assertions, the rest by the caller's promise.
        unsafe { kernel::tile(depth, self, b, (c, stride), accumulate) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Product, Term, gemm, gemm_sum};
    use super::*;
    use crate::simd::LANES;
    use crate::train::Precision;
    use crate::train::tests_support::numbers;
    use crate::{PackedLinear, Pool, Values, WeightDtype};

    /// A product with packed weights, and the same in f64.
    fn products(
        (m, n, k): (usize, usize, usize),
        a: &[f32],
        weights: &PackedLinear,
        precision: Precision,
    ) -> (Vec<f32>, Vec<f64>) {
        let pool = Pool::new(2).unwrap();
        let dense = weights.unpack();
        let mut c = vec![f32::NAN; m * n];
        let b = Factor::packed(weights, 0, precision).t();
        let product = Product { m, n, k, a: View::rows(a, k), b, alpha: 0.75, accumulate: false };
        gemm(&pool, &product, &mut c, n);
        let exact = |i: usize| {
            let (row, column) = (&a[i / n * k..][..k], &dense[i % n * k..][..k]);
            let terms = row.iter().zip(column).map(|(a, b)| f64::from(*a) * f64::from(*b));
            0.75 * terms.sum::<f64>()
        };
        (c, (0..m * n).map(exact).collect())
    }

    /// Root of the mean square of the difference, relative to that of what is wanted.
    fn error(got: &[f32], want: &[f64]) -> f64 {
        let (mut off, mut size) = (0.0, 0.0);
        for (got, want) in got.iter().zip(want) {
            off += (f64::from(*got) - want).powi(2);
            size += want.powi(2);
        }
        (off / size).sqrt()
    }

    fn weights(n: usize, k: usize, dtype: WeightDtype) -> PackedLinear {
        let values: Vec<f32> = numbers(7, n * k).iter().map(|value| value * 0.02).collect();
        PackedLinear::pack(&Pool::new(1).unwrap(), &[Values::F32(&values)], k, dtype).unwrap()
    }

    #[test]
    fn the_error_is_below_that_of_rounding_activations_to_bfloat16() {
        let shape @ (m, n, k) = (30, 130, 1100);
        let a: Vec<f32> = numbers(3, m * k).iter().enumerate().map(|(i, x)| x + (i % 7) as f32).collect();
        for dtype in [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::Int8, WeightDtype::Nf4] {
            let weights = weights(n, k, dtype);
            let (got, want) = products(shape, &a, &weights, Precision::Half);
            let rounded: Vec<f32> = a.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
            let (bf16, _) = products(shape, &rounded, &weights, Precision::Single);
            let (error, of_bf16) = (error(&got, &want), error(&bf16, &want));
            assert!(error < 0.9 * of_bf16, "{dtype:?}: {error:e}, rounded to bf16 {of_bf16:e}");
            assert!(!is_supported() || error > 1e-6, "{dtype:?} was computed in f32");
        }
    }

    #[test]
    fn bf16_weights_are_packed_as_the_same_numbers_in_f32_are() {
        let pool = Pool::new(1).unwrap();
        for (m, n, k) in [(5, 64, 64), (13, 200, 131), (12, 131, 200), (3, 2 * Half::NR, 2500)] {
            let narrow = weights(n, k, WeightDtype::Bf16);
            let wide =
                PackedLinear::pack(&pool, &[Values::F32(&narrow.unpack())], k, WeightDtype::F32).unwrap();
            let a = numbers(3, m * n.max(k));
            let run = |weights: &PackedLinear, first: usize, is_transposed: bool| {
                let b = Factor::packed(weights, first, Precision::Half);
                let (b, n, k) = if is_transposed { (b.t(), n - first, k) } else { (b, k, n - first) };
                let mut c = vec![f32::NAN; m * n];
                let product = Product { m, n, k, a: View::rows(&a, k), b, alpha: 1.0, accumulate: false };
                gemm(&pool, &product, &mut c, n);
                c
            };
            for (first, is_transposed) in [(0, true), (0, false), (16, true), (48, false)] {
                assert_eq!(run(&narrow, first, is_transposed), run(&wide, first, is_transposed));
            }
        }
    }

    #[test]
    fn any_range_keeps_its_digits_and_a_row_depends_on_itself_alone() {
        let shape @ (m, n, k) = (14, 70, 300);
        let weights = weights(n, k, WeightDtype::Bf16);
        let mut a = numbers(5, m * k);
        let (plain, _) = products(shape, &a, &weights, Precision::Half);
        for (row, scale) in [(0, 1e-30f32), (1, 1e30), (2, 0.0), (3, 1e-42), (4, f32::NAN)] {
            a[row * k..(row + 1) * k].iter_mut().for_each(|value| *value *= scale);
        }
        // One that is much larger than the others of its row.
        a[5 * k + 17] = 3e4;
        let (got, want) = products(shape, &a, &weights, Precision::Half);
        for row in [0, 1, 5] {
            let row = row * n..(row + 1) * n;
            assert!(error(&got[row.clone()], &want[row]) < 3e-3);
        }
        assert!(got[2 * n..3 * n].iter().all(|value| *value == 0.0));
        assert!(got[3 * n..4 * n].iter().all(|value| value.abs() < 1e-38));
        assert!(got[4 * n..5 * n].iter().all(|value| value.is_nan()));
        assert_eq!(got[6 * n..], plain[6 * n..]);
    }

    #[test]
    fn the_instructions_do_what_the_oracle_does() {
        if !is_supported() {
            return;
        }
        for depth in [1, 63, 64, 65, 200, KC] {
            let (rows, b) = (numbers(1, Half::MR * KC), numbers(2, depth * Half::NR));
            let (mut narrow, mut expected) = (vec![0; b.len()], vec![0; b.len()]);
            // SAFETY: `is_supported`.
            unsafe {
                kernel::narrow(&b, 8.0, &mut narrow);
                portable::narrow(&b, 8.0, &mut expected);
            }
            assert_eq!(narrow, expected);
            let words: Vec<[u32; LANES]> =
                b.as_chunks::<LANES>().0.iter().map(|values| values.map(f32::to_bits)).collect();
            let height = depth.min(1 + depth % LANES);
            let (mut got, mut want) = (vec![7; b.len()], vec![7; b.len()]);
            // SAFETY: `is_supported`.
            unsafe {
                kernel::narrow_pairs(&words, 8.0, depth, &mut got);
                portable::narrow_pairs(&words, 8.0, depth, &mut want);
                assert_eq!(got, want);
                if words.len() >= LANES {
                    kernel::turn_pairs(&words, 8.0, height, &mut got);
                    portable::turn_pairs(&words, 8.0, height, &mut want);
                }
            }
            assert_eq!(got, want);
            with_rows(View::rows(&rows, KC), 0..Half::MR, 0..depth, 0.5, |packed| {
                for (row, words) in packed.words.chunks(KC).enumerate() {
                    let values = &rows[row * KC..][..depth];
                    let mut expected = vec![0; depth];
                    // SAFETY: the oracle needs no instructions.
                    unsafe {
                        let scale = scale_to(portable::largest(values), LARGEST.0).0;
                        portable::double(values, scale, &mut expected);
                    }
                    assert_eq!(words[..depth], expected);
                }
                let panel = packed.panels().next().unwrap();
                let (mut got, mut want) = (numbers(3, TILE), numbers(3, TILE));
                // SAFETY: both have room for a tile, and `is_supported`.
                unsafe {
                    panel.tile(depth, &narrow, got.as_mut_ptr(), Half::NR, true);
                    portable::tile(depth, panel, &narrow, (want.as_mut_ptr(), Half::NR), true);
                }
                for (got, want) in got.iter().zip(&want) {
                    assert!((got - want).abs() < 1e-5 * want.abs().max(1.0), "{depth}: {got} {want}");
                }
            });
        }
    }

    #[test]
    fn single_and_half_precision_meet_in_one_sum() {
        let pool = Pool::new(2).unwrap();
        let (m, n, k, rank) = (50, 200, 300, 5);
        let weights = weights(n, k, WeightDtype::Bf16);
        let (a, low, high) = (numbers(1, m * k), numbers(3, m * rank), numbers(4, rank * n));
        let run = |precision: Precision| {
            let b = Factor::packed(&weights, 0, precision).t();
            let base = Term { columns: 0..n, k, a: View::rows(&a, k), b, alpha: 1.0 };
            let adapter = Term {
                columns: 33..n,
                k: rank,
                a: View::rows(&low, rank),
                b: View::rows(&high[33..], n).into(),
                alpha: 2.0,
            };
            let mut c = numbers(9, m * n);
            gemm_sum(&pool, (m, n), &[base, adapter], true, (&mut c, n));
            c
        };
        let want: Vec<f64> = run(Precision::Single).into_iter().map(f64::from).collect();
        assert!(error(&run(Precision::Half), &want) < 1e-3);
    }
}
