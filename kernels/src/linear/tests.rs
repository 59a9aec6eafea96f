//! The product against a plain sum in f64, for every instruction set, and its independence from the batch.

use half::bf16;
use proptest::prelude::*;

use super::*;
use crate::isa::Isa;

/// Pseudo-random values in −1..1.
fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_supported())
}

#[derive(Debug, Clone)]
struct Case {
    m: usize,
    k: usize,
    n: usize,
    dtype: WeightDtype,
    bf16_parts: bool,
    bias: bool,
    scale: f32,
    accumulate: bool,
    threads: usize,
    padding: (usize, usize),
}

fn cases() -> impl Strategy<Value = Case> {
    let shape = (1..40usize, 1..300usize, 1..200usize);
    let dtypes = [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::Int8, WeightDtype::Nf4];
    let flags = (prop::sample::select(dtypes.to_vec()), any::<bool>(), any::<bool>(), any::<bool>());
    (shape, flags, prop_oneof![Just(1.0f32), -2.0..2.0f32], 1..4usize, (0..20usize, 0..20usize)).prop_map(
        |((m, k, n), (dtype, bf16_parts, bias, accumulate), scale, threads, padding)| Case {
            m,
            k,
            n,
            dtype,
            bf16_parts,
            bias,
            scale,
            accumulate,
            threads,
            padding,
        },
    )
}

/// Weights as two parts, packed, and as they are after rounding.
fn weights(pool: &Pool, case: &Case) -> (PackedLinear, Vec<f32>) {
    let w = values(2, case.n * case.k);
    let rounded: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
    let cut = case.n / 3 * case.k;
    let second = if case.bf16_parts { Values::Bf16(&rounded[cut..]) } else { Values::F32(&w[cut..]) };
    let parts = [Values::F32(&w[..cut]), second];
    let packed = PackedLinear::pack(pool, &parts, case.k, case.dtype).unwrap();
    let expected: Vec<f32> = (0..w.len())
        .map(|i| {
            let is_bf16 = case.dtype == WeightDtype::Bf16 || (case.bf16_parts && i >= cut);
            if is_bf16 { rounded[i].to_f32() } else { w[i] }
        })
        .collect();
    let step = match case.dtype {
        WeightDtype::F32 | WeightDtype::Bf16 => 0.0,
        WeightDtype::Int8 => 0.5 / 127.0,
        // Half the widest gap of the table.
        WeightDtype::Nf4 => 0.153,
    };
    let unpacked = packed.unpack();
    for (value, expected) in unpacked.iter().zip(&expected) {
        // No block has a larger scale than 1.
        assert!((value - expected).abs() <= step * 1.001, "{value} stands for {expected}");
    }
    let expected = unpacked;
    (packed, expected)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn equals_a_plain_sum(case in cases()) {
        let (x_stride, out_stride) = (case.k + case.padding.0, case.n + case.padding.1);
        let x = values(1, case.m * x_stride);
        let bias = values(3, case.n);
        let before = values(4, case.m * out_stride);
        for isa in isas() {
            let pool = Pool::with_isa(case.threads, isa).unwrap();
            let (w, plain) = weights(&pool, &case);
            prop_assert_eq!(&w.unpack(), &plain);
            let epilogue = Epilogue {
                bias: case.bias.then_some(&bias[..]),
                scale: case.scale,
                accumulate: case.accumulate,
            };
            let mut out = before.clone();
            let x_rows = Rows { data: &x, stride: x_stride, column: case.padding.0 };
            let out_rows = RowsMut { data: &mut out, stride: out_stride, column: case.padding.1 };
            linear(&pool, x_rows, case.m, &w, &epilogue, out_rows).unwrap();
            for i in 0..case.m {
                let x = x_rows.row(i, case.k);
                for j in 0..out_stride {
                    let (actual, old) = (out[i * out_stride + j], before[i * out_stride + j]);
                    if j < case.padding.1 {
                        prop_assert_eq!(actual, old, "wrote outside its columns");
                        continue;
                    }
                    let j = j - case.padding.1;
                    let round = |x: f32| if case.dtype == WeightDtype::Bf16 { bf16::from_f32(x).to_f32() } else { x };
                    let terms = || x.iter().zip(&plain[j * case.k..]).map(|(&x, &w)| f64::from(round(x)) * f64::from(w));
                    let mut expected = terms().sum::<f64>() * f64::from(case.scale);
                    if case.bias { expected += f64::from(bias[j]) }
                    if case.accumulate { expected += f64::from(old) }
                    let tolerance = 1e-6 * (1.0 + terms().map(f64::abs).sum::<f64>());
                    let error = (f64::from(actual) - expected).abs();
                    prop_assert!(error < tolerance, "{isa:?} row {i} output {j}: {actual} for {expected}");
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_in_any_batch_bit_for_bit() {
    let (k, n, most) = (531, 150, 70);
    let x = values(5, most * k);
    let w = values(6, n * k);
    for isa in isas() {
        for dtype in [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::Int8, WeightDtype::Nf4] {
            let pool = Pool::with_isa(1, isa).unwrap();
            let packed = PackedLinear::pack(&pool, &[Values::F32(&w)], k, dtype).unwrap();
            let run = |pool: &Pool, first: usize, m: usize| {
                let mut out = vec![0.0; m * n];
                let rows = Rows::new(&x[first * k..], k);
                linear(pool, rows, m, &packed, &Epilogue::default(), RowsMut::new(&mut out, n)).unwrap();
                out
            };
            let alone: Vec<f32> = (0..most).flat_map(|i| run(&pool, i, 1)).collect();
            for m in 1..=most {
                assert_eq!(run(&pool, 0, m), alone[..m * n], "{isa:?} {dtype:?} batch of {m}");
            }
            let threads = Pool::with_isa(3, isa).unwrap();
            assert_eq!(run(&threads, 0, most), alone, "{isa:?} {dtype:?} on three threads");
        }
    }
}

#[test]
fn large_batches_are_cut_into_blocks_of_the_same_rows() {
    let pool = Pool::new(2).unwrap();
    let (m, k, n) = (700, 600, 100);
    let (x, w) = (values(7, m * k), values(8, n * k));
    for dtype in [WeightDtype::F32, WeightDtype::Bf16] {
        let packed = PackedLinear::pack(&pool, &[Values::F32(&w)], k, dtype).unwrap();
        let (mut all, mut one) = (vec![0.0; m * n], vec![0.0; n]);
        linear(&pool, Rows::new(&x, k), m, &packed, &Epilogue::default(), RowsMut::new(&mut all, n)).unwrap();
        for i in [0, 1, 255, 256, 511, 699] {
            let row = Rows::new(&x[i * k..], k);
            linear(&pool, row, 1, &packed, &Epilogue::default(), RowsMut::new(&mut one, n)).unwrap();
            assert_eq!(one, all[i * n..(i + 1) * n], "row {i}");
        }
    }
}

#[test]
fn shapes_are_checked_in_sentences() {
    let pool = Pool::new(1).unwrap();
    let error = PackedLinear::pack(&pool, &[Values::F32(&[0.0; 7])], 3, WeightDtype::F32).unwrap_err();
    assert_eq!(error.to_string(), "part 0 holds 7 values, which are not whole rows of 3");
    let w = PackedLinear::pack(&pool, &[Values::F32(&[0.0; 6])], 3, WeightDtype::F32).unwrap();
    let (x, mut out) = ([0.0; 5], [0.0; 4]);
    let error =
        linear(&pool, Rows::new(&x, 3), 2, &w, &Epilogue::default(), RowsMut::new(&mut out, 2)).unwrap_err();
    assert_eq!(error.to_string(), "x holds 5 values but 2 rows of 3 at stride 3 need 6");
    let error = w.row(2, &mut [0.0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "row 2 of a matrix of 2 rows was asked for");
}
