//! Norms of rows: root-mean-square (Zhang and Sennrich 2019, arXiv:1910.07467, Eq. 4) and layer norm (Ba et al. 2016,
//! arXiv:1607.06450, Eq. 3). Leaves linear layers to `linear`.

use crate::error::{check_len, ensure};
use crate::rows::{for_each_row_run, for_each_strided_row};
use crate::simd::{LANES, Op, Simd, dispatch, padded};
use crate::{KernelError, Pool, RowsMut};

/// Values below which a second thread costs more than it brings.
const PARALLEL_VALUES: usize = 1 << 16;

/// `out = x / √(mean(x²) + eps) · weight` for each row: `x` and `out` are `[rows, width]`, `weight` `[width]`.
///
/// # Errors
/// [`KernelError`] if lengths disagree.
pub fn rms_norm(
    pool: &Pool,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let width = check_shape(x.len(), weight.len())?;
    check_len("out", out.len(), x.len())?;
    let (parallel, shape) = (x.len() > PARALLEL_VALUES, (x.len() / width, width));
    for_each_strided_row(pool, parallel, RowsMut::new(out, width), shape, |i, out| {
        dispatch(pool.isa(), Norm { x: &x[i * width..][..width], weight, eps, out });
    });
    Ok(())
}

/// `out = (x − mean(x)) / √(var(x) + eps) · weight + bias` for each row: `x` and `out` are `[rows, width]`, `weight` and
/// `bias` `[width]`.
///
/// # Errors
/// [`KernelError`] if lengths disagree.
pub fn layer_norm(
    pool: &Pool,
    x: &[f32],
    (weight, bias): (&[f32], &[f32]),
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let width = check_shape(x.len(), weight.len())?;
    check_len("bias", bias.len(), width)?;
    check_len("out", out.len(), x.len())?;
    let (parallel, shape) = (x.len() > PARALLEL_VALUES, (x.len() / width, width));
    for_each_strided_row(pool, parallel, RowsMut::new(out, width), shape, |i, out| {
        dispatch(pool.isa(), LayerNorm { x: &x[i * width..][..width], weight, bias, eps, out });
    });
    Ok(())
}

/// `residual += x`, then `out = norm(residual)`: all are `[rows, width]`.
///
/// # Errors
/// [`KernelError`] if lengths disagree.
pub fn add_rms_norm(
    pool: &Pool,
    residual: &mut [f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let width = check_shape(x.len(), weight.len())?;
    check_len("residual", residual.len(), x.len())?;
    check_len("out", out.len(), x.len())?;
    let parallel = x.len() > PARALLEL_VALUES;
    for_each_row_run(pool, parallel, (residual, width), (out, width), |first, residual, out| {
        let x = &x[first * width..][..out.len()];
        residual.iter_mut().zip(x).for_each(|(residual, x)| *residual += x);
        dispatch(pool.isa(), Norm { x: residual, weight, eps, out });
    });
    Ok(())
}

/// Norms each of the first `num_heads` heads of each row in place; a head is `weight.len()` wide.
///
/// # Errors
/// [`KernelError`] if `x` is too short.
pub fn head_rms_norm(
    pool: &Pool,
    x: RowsMut<'_>,
    num_rows: usize,
    num_heads: usize,
    weight: &[f32],
    eps: f32,
) -> Result<(), KernelError> {
    let width = num_heads * check_shape(0, weight.len())?;
    x.check("x", num_rows, width)?;
    let parallel = num_rows * width > PARALLEL_VALUES;
    for_each_strided_row(pool, parallel, x, (num_rows, width), |_, row| {
        dispatch(pool.isa(), HeadNorm { row, weight, eps });
    });
    Ok(())
}

/// Whole rows; gives their width.
fn check_shape(len: usize, width: usize) -> Result<usize, KernelError> {
    ensure(width > 0, || "the weight of a norm is empty".to_owned())?;
    ensure(len.is_multiple_of(width), || {
        format!("x holds {len} values, which are not whole rows of {width}")
    })?;
    Ok(width)
}

/// Norms rows.
struct Norm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Op for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.weight.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let scale = inverse_rms(s, x, self.eps);
            out.iter_mut().zip(x).zip(self.weight).for_each(|((out, x), w)| *out = x * scale * w);
        }
    }
}

/// Centres, scales and shifts a row.
struct LayerNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Op for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (chunks, tail) = self.x.as_chunks::<LANES>();
        let mut sum = s.load(&padded(tail, 0.0));
        for lanes in chunks {
            sum = s.add(sum, s.load(lanes));
        }
        let mean = s.sum(sum) / self.x.len() as f32;
        // Centred first: the mean of squares less the square of the mean would cancel.
        self.out.iter_mut().zip(self.x).for_each(|(out, x)| *out = x - mean);
        let scale = inverse_rms(s, self.out, self.eps);
        for ((out, weight), bias) in self.out.iter_mut().zip(self.weight).zip(self.bias) {
            *out = *out * scale * weight + bias;
        }
    }
}

/// Norms the heads of a row in place.
struct HeadNorm<'a> {
    row: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Op for HeadNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for head in self.row.chunks_exact_mut(self.weight.len()) {
            let scale = inverse_rms(s, head, self.eps);
            head.iter_mut().zip(self.weight).for_each(|(x, w)| *x = *x * scale * w);
        }
    }
}

#[inline(always)]
fn inverse_rms<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut sums = [s.splat(0.0); 2];
    for (i, lanes) in chunks.iter().enumerate() {
        let lanes = s.load(lanes);
        sums[i % 2] = s.mul_add(lanes, lanes, sums[i % 2]);
    }
    let tail = s.load(&padded(tail, 0.0));
    let total = s.sum(s.mul_add(tail, tail, s.add(sums[0], sums[1])));
    1.0 / (total / x.len() as f32 + eps).sqrt()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::isa::Isa;

    #[test]
    fn layer_norm_equals_the_formula_in_f64() {
        for isa in Isa::supported() {
            let pool = Pool::with_isa(2, isa).unwrap();
            for (rows, width) in [(1, 1), (3, 17), (40, 64), (500, 300)] {
                let value = |i: usize, f: f32| (i as f32 * f).sin();
                let x: Vec<f32> = (0..rows * width).map(|i| 5.0 + value(i, 0.37)).collect();
                let weight: Vec<f32> = (0..width).map(|i| 1.0 + value(i, 0.11)).collect();
                let bias: Vec<f32> = (0..width).map(|i| value(i, 0.23)).collect();
                let mut out = vec![f32::NAN; x.len()];
                layer_norm(&pool, &x, (&weight, &bias), 1e-5, &mut out).unwrap();
                for (row, out) in x.chunks(width).zip(out.chunks(width)) {
                    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64;
                    let squares: f64 = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
                    let scale = 1.0 / (squares / width as f64 + 1e-5).sqrt();
                    for (((x, out), w), b) in row.iter().zip(out).zip(&weight).zip(&bias) {
                        let wanted = (f64::from(*x) - mean) * scale * f64::from(*w) + f64::from(*b);
                        assert!((f64::from(*out) - wanted).abs() < 1e-4, "{isa:?} {out} {wanted}");
                    }
                }
            }
        }
        let pool = Pool::new(1).unwrap();
        let error = layer_norm(&pool, &[0.0; 4], (&[1.0; 4], &[0.0; 3]), 1e-5, &mut [0.0; 4]).unwrap_err();
        assert!(error.to_string().contains("bias"), "{error}");
    }

    /// The norm of a row in f64.
    fn plain(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
        let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        x.iter().zip(weight).map(|(&x, &w)| (f64::from(x) * scale * f64::from(w)) as f32).collect()
    }

    fn close(actual: &[f32], expected: &[f32]) -> bool {
        actual.len() == expected.len()
            && actual.iter().zip(expected).all(|(a, e)| (a - e).abs() <= 1e-5 * (1.0 + e.abs()))
    }

    fn row(width: usize) -> impl Strategy<Value = Vec<f32>> {
        proptest::collection::vec(-10.0..10.0f32, width)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]

        #[test]
        fn every_norm_equals_the_plain_one(
            (weight, x, y) in (1..150usize, 1..6usize).prop_flat_map(|(width, rows)| {
                (row(width), row(width * rows), row(width * rows))
            }),
            threads in 1..3usize,
        ) {
            let (width, eps) = (weight.len(), 1e-5);
            let added: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
            let expected = |x: &[f32]| -> Vec<f32> { x.chunks(width).flat_map(|x| plain(x, &weight, eps)).collect() };
            for isa in Isa::supported() {
                let pool = Pool::with_isa(threads, isa).unwrap();
                let mut out = vec![0.0; x.len()];
                rms_norm(&pool, &x, &weight, eps, &mut out).unwrap();
                prop_assert!(close(&out, &expected(&x)), "{isa:?}");
                let mut residual = x.clone();
                add_rms_norm(&pool, &mut residual, &y, &weight, eps, &mut out).unwrap();
                prop_assert_eq!(&residual, &added);
                prop_assert!(close(&out, &expected(&added)), "{isa:?}");
                // All rows as the heads of one row, after a column that must stay.
                let mut heads = [&[7.0], &x[..]].concat();
                let rows = RowsMut { data: &mut heads, stride: x.len() + 1, column: 1 };
                head_rms_norm(&pool, rows, 1, x.len() / width, &weight, eps).unwrap();
                prop_assert!(close(&heads[1..], &expected(&x)) && heads[0] == 7.0, "{isa:?}");
            }
        }
    }

    #[test]
    fn many_rows_on_threads_are_the_same_bit_for_bit() {
        let (width, rows) = (96, 2000);
        let x: Vec<f32> = (0..width * rows).map(|i| ((i * 37) % 1001) as f32 - 500.0).collect();
        let weight: Vec<f32> = (0..width).map(|i| i as f32 / 50.0).collect();
        let run = |threads: usize, x: &[f32]| {
            let (pool, mut out) = (Pool::new(threads).unwrap(), vec![0.0; x.len()]);
            rms_norm(&pool, x, &weight, 1e-6, &mut out).unwrap();
            out
        };
        let alone: Vec<f32> = x.chunks(width).flat_map(|x| run(1, x)).collect();
        assert_eq!(run(3, &x), alone);
    }

    #[test]
    fn shapes_are_checked_in_sentences() {
        let pool = Pool::new(1).unwrap();
        let error = rms_norm(&pool, &[0.0; 5], &[1.0; 2], 0.0, &mut [0.0; 5]).unwrap_err();
        assert_eq!(error.to_string(), "x holds 5 values, which are not whole rows of 2");
        let error = rms_norm(&pool, &[0.0; 4], &[1.0; 2], 0.0, &mut [0.0; 5]).unwrap_err();
        assert_eq!(error.to_string(), "out holds 5 values but 4 are needed");
    }
}
