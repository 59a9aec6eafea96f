//! Products against their definition.

use super::super::tests_support::numbers;
use super::*;
use crate::{PackedLinear, Values, WeightDtype};

fn oracle(p: &Product<'_>, c: &mut [f32], stride: usize) {
    for i in 0..p.m {
        for j in 0..p.n {
            let term = |k: usize| {
                let Factor::Dense(b) = p.b else { return 0.0 };
                f64::from(p.a.data[i * p.a.row_stride + k * p.a.column_stride])
                    * f64::from(b.data[k * b.row_stride + j * b.column_stride])
            };
            let sum = f64::from(p.alpha) * (0..p.k).map(term).sum::<f64>();
            let old = if p.accumulate { f64::from(c[i * stride + j]) } else { 0.0 };
            c[i * stride + j] = (old + sum) as f32;
        }
    }
}

#[test]
fn every_micro_kernel_agrees_with_the_sum_for_any_strides() {
    let pool = Pool::new(2).unwrap();
    for (m, n, k) in
        [(1, 1, 1), (5, 7, 3), (12, 32, 16), (13, 33, 300), (40, 70, 257), (200, 530, 31), (3, 4, 0)]
    {
        for (transpose_a, transpose_b, accumulate) in
            [(false, false, false), (true, false, true), (false, true, false), (true, true, true)]
        {
            let (a, b) = (numbers(1, m * k), numbers(2, k * n));
            let a = if transpose_a { View::rows(&a, m).t() } else { View::rows(&a, k) };
            let b = if transpose_b { View::rows(&b, k).t() } else { View::rows(&b, n) };
            let product = Product { m, n, k, a, b: b.into(), alpha: 0.5, accumulate };
            let stride = n + 3;
            let start = numbers(3, m * stride);
            let mut want = start.clone();
            oracle(&product, &mut want, stride);
            let check = |name: &str, got: &[f32]| {
                for (got, want) in got.iter().zip(&want) {
                    assert!(
                        (got - want).abs() < 1e-4 * want.abs().max(1.0),
                        "{name} {m}×{n}×{k}: {got} {want}"
                    );
                }
            };
            let mut c = start.clone();
            gemm(&pool, &product, &mut c, stride);
            check("best", &c);
            let terms = [Term { columns: 0..n, k, a, b: b.into(), alpha: 0.5 }];
            let sum = Sum { shape: (m, n), terms: &terms, accumulate, stride };
            let mut c = start.clone();
            sum.run::<Portable>(&pool, &mut c);
            if k > 0 {
                check("portable", &c);
            }
            #[cfg(target_arch = "x86_64")]
            if k > 0 && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                let mut c = start.clone();
                sum.run::<x86::Avx2>(&pool, &mut c);
                check("avx2", &c);
            }
            if k > 0 {
                let mut packed = PackedRight::default();
                packed.pack(b, k, n);
                let mut c = start.clone();
                let serial = SerialProduct { m, n, k, a, b: &packed, alpha: 0.5, accumulate };
                gemm_serial(&serial, &mut c, stride);
                check("serial", &c);
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (a, b) = (numbers(1, 300 * 500), numbers(2, 500 * 100));
    let (a, b) = (View::rows(&a, 500), View::rows(&b, 100));
    let product = Product { m: 300, n: 100, k: 500, a, b: b.into(), alpha: 1.0, accumulate: false };
    let run = |threads: usize| {
        let mut c = vec![0.0; 300 * 100];
        gemm(&Pool::new(threads).unwrap(), &product, &mut c, 100);
        c
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn packed_weights_are_the_matrix_they_stand_for() {
    let pool = Pool::new(2).unwrap();
    let dtypes = [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::Int8, WeightDtype::Nf4];
    for (outputs, inputs, first) in [(40, 70, 0), (70, 33, 16), (2100, 40, 48), (48, 2100, 0)] {
        let values = numbers(4, outputs * inputs);
        for dtype in dtypes {
            let weights = PackedLinear::pack(&pool, &[Values::F32(&values)], inputs, dtype).unwrap();
            let dense = weights.unpack();
            let (outputs, m) = (outputs - first, 29);
            for transposed in [false, true] {
                let (n, k) = if transposed { (outputs, inputs) } else { (inputs, outputs) };
                let packed = Factor::packed(&weights, first, Precision::Single);
                let same = Factor::from(View::rows(&dense[first * inputs..], inputs));
                let (packed, same) = if transposed { (packed.t(), same.t()) } else { (packed, same) };
                let a = numbers(5, m * k);
                let run = |b: Factor<'_>| {
                    let a = View::rows(&a, k);
                    let mut c = vec![f32::NAN; m * n];
                    gemm(&pool, &Product { m, n, k, a, b, alpha: 1.5, accumulate: false }, &mut c, n);
                    c
                };
                assert_eq!(run(packed), run(same), "{dtype:?}, transposed: {transposed}");
            }
        }
    }
}

#[test]
fn terms_add_to_their_columns_alone() {
    let pool = Pool::new(2).unwrap();
    let (m, n, k, rank) = (50, 90, 300, 5);
    let (a, b) = (numbers(1, m * k), numbers(2, k * n));
    let (low, high) = (numbers(3, m * rank), numbers(4, rank * n));
    let base = Term { columns: 0..n, k, a: View::rows(&a, k), b: View::rows(&b, n).into(), alpha: 1.0 };
    let part = |columns: Range<usize>| Term {
        b: View::rows(&high[columns.start..], n).into(),
        columns,
        k: rank,
        a: View::rows(&low, rank),
        alpha: 2.0,
    };
    let mut c = vec![f32::NAN; m * n];
    gemm_sum(&pool, (m, n), &[base.clone(), part(0..33), part(40..90)], false, (&mut c, n));
    let (mut want, mut added) = (vec![0.0; m * n], vec![0.0; m * n]);
    gemm_sum(&pool, (m, n), &[base], false, (&mut want, n));
    gemm_sum(&pool, (m, n), &[part(0..n)], false, (&mut added, n));
    for (index, (got, want)) in c.iter().zip(&want).enumerate() {
        let adapted = !(33..40).contains(&(index % n));
        let want = want + if adapted { added[index] } else { 0.0 };
        assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "{index}: {got} {want}");
    }
}
