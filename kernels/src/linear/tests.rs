//! The product against a plain sum in f64, for every instruction set, and its independence from the batch.

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::BlockKind;
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

/// Of numbers.
const DTYPES: [WeightDtype; 5] =
    [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::F16, WeightDtype::Int8, WeightDtype::Nf4];

/// Whether products in half precision are summed in it.
fn has_halves(isa: Isa) -> bool {
    matches!(isa, Isa::Avx512Fp16 | Isa::Amx)
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
    let flags = (prop::sample::select(DTYPES.to_vec()), any::<bool>(), any::<bool>(), any::<bool>());
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

/// A row as products with such weights see it.
fn as_multiplied(row: &[f32], dtype: WeightDtype) -> Vec<f32> {
    match dtype {
        // Half precision is rounded to where the machine has it.
        WeightDtype::F32 | WeightDtype::F16 | WeightDtype::Nf4 => row.to_vec(),
        WeightDtype::Bf16 => row.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
        WeightDtype::Int8 => rounded(row, Form::int8(row.len()).block),
        WeightDtype::Blocks => rounded(row, 32),
    }
}

/// A row in eight bits: the largest magnitude of a block is 127, and the scale in half precision.
fn rounded(row: &[f32], block: usize) -> Vec<f32> {
    let round = |values: &[f32]| {
        let scale = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs())) / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let half = f16::from_f32(scale).to_f32();
        values.iter().map(|x| (x * inverse).round_ties_even() * half).collect::<Vec<_>>()
    };
    row.chunks(block).flat_map(round).collect()
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
        WeightDtype::F16 => 1.0 / 4096.0,
        // Half a step, and the scale's rounding.
        WeightDtype::Int8 => 0.5 / 127.0 + 1.0 / 2048.0,
        // Half the widest gap of the table.
        WeightDtype::Nf4 => 0.153,
        WeightDtype::Blocks => unreachable!("these weights are numbers"),
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
        for isa in Isa::supported() {
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
                let x = as_multiplied(x_rows.row(i, case.k), case.dtype);
                for j in 0..out_stride {
                    let (actual, old) = (out[i * out_stride + j], before[i * out_stride + j]);
                    if j < case.padding.1 {
                        prop_assert_eq!(actual, old, "wrote outside its columns");
                        continue;
                    }
                    let j = j - case.padding.1;
                    let terms = || x.iter().zip(&plain[j * case.k..]).map(|(&x, &w)| f64::from(x) * f64::from(w));
                    let mut expected = terms().sum::<f64>() * f64::from(case.scale);
                    if case.bias { expected += f64::from(bias[j]) }
                    if case.accumulate { expected += f64::from(old) }
                    // Sums of 64 products in half precision, where there is such arithmetic: below the error of rounding
                    // `x` to bfloat16.
                    let rough = case.dtype == WeightDtype::F16 && has_halves(isa);
                    let size = terms().map(f64::abs).sum::<f64>() * f64::from(case.scale.abs().max(1.0));
                    let tolerance = if rough { 2e-3 * (size + 1e-2) } else { 1e-6 * (1.0 + size) };
                    let error = (f64::from(actual) - expected).abs();
                    prop_assert!(error < tolerance, "{isa:?} row {i} output {j}: {actual} for {expected}");
                }
            }
        }
    }
}

#[test]
fn half_precision_is_summed_in_blocks_of_64_and_these_in_f32() {
    let (k, n, m) = (300, 33, 5);
    let (mut x, w) = (values(21, m * k), values(22, n * k));
    x[..k].iter_mut().for_each(|x| *x *= 1e-9);
    x[k] = 3e9;
    x[2 * k] = f32::NAN;
    x[3 * k..4 * k].fill(0.0);
    let half = |x: f32| f16::from_f32(x).to_f64();
    for isa in Isa::supported().filter(|isa| has_halves(*isa)) {
        let pool = Pool::with_isa(2, isa).unwrap();
        let packed = PackedLinear::pack(&pool, &[Values::F32(&w)], k, WeightDtype::F16).unwrap();
        let largest = packed.unpack().iter().fold(0.0f32, |largest, w| largest.max(w.abs()));
        assert_eq!(packed.magnitude(&pool), largest.to_bits());
        let mut out = vec![0.0; m * n];
        linear(&pool, Rows::new(&x, k), m, &packed, &Epilogue::default(), RowsMut::new(&mut out, n)).unwrap();
        for (i, row) in x.chunks(k).enumerate() {
            // Weights are below one: rows are brought to 2⁸ and more.
            let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            let scale = if largest > 0.0 { 2f32.powi(8 - largest.log2().floor() as i32) } else { 1.0 };
            for j in 0..n {
                let actual = out[i * n + j];
                if i == 2 {
                    assert!(actual.is_nan());
                    continue;
                }
                let mut sum = 0.0f32;
                for first in (0..k).step_by(128) {
                    for parity in 0..2 {
                        let inputs = (first + parity..k.min(first + 128)).step_by(2);
                        sum += inputs.fold(0.0, |sum, input| {
                            half_of(half(row[input] * scale) * half(w[j * k + input]) + sum)
                        }) as f32;
                    }
                }
                assert_eq!(actual, sum / scale, "row {i} output {j}");
            }
        }
    }
}

#[test]
fn weights_beyond_half_precision_do_not_end_in_numbers() {
    let (k, n) = (200, 20);
    let (x, mut w) = (values(23, k), values(24, n * k));
    w[3 * k + 7] = 1e6;
    for isa in Isa::supported() {
        let pool = Pool::with_isa(1, isa).unwrap();
        let packed = PackedLinear::pack(&pool, &[Values::F32(&w)], k, WeightDtype::F16).unwrap();
        let mut out = vec![0.0; n];
        linear(&pool, Rows::new(&x, k), 1, &packed, &Epilogue::default(), RowsMut::new(&mut out, n)).unwrap();
        assert!(out.iter().enumerate().all(|(j, sum)| sum.is_finite() == (j != 3)), "{isa:?}: {out:?}");
    }
}

/// Rounded to half precision.
fn half_of(x: f64) -> f64 {
    crate::simd::halves::rounded(x).to_f64()
}

/// Blocks of a kind with any codes, and factors of about a hundredth.
fn blocks(kind: BlockKind, seed: u64, count: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        values(seed, count * kind.num_bytes()).iter().map(|x| (x * 128.0 + 128.0) as u8).collect();
    let halves: &[usize] = match kind {
        BlockKind::Q8_0 | BlockKind::Q4_0 => &[0],
        BlockKind::Q4K | BlockKind::Q5K => &[0, 2],
        BlockKind::Q6K => &[208],
    };
    for (i, block) in bytes.chunks_exact_mut(kind.num_bytes()).enumerate() {
        for &at in halves {
            let factor = f16::from_f32(0.01 + (i % 7) as f32 * 0.001);
            block[at..at + 2].copy_from_slice(&factor.to_le_bytes());
        }
    }
    bytes
}

#[test]
fn blocks_stand_for_their_numbers_and_are_multiplied_as_bytes() {
    let (k, n, m) = (512, 70, 19);
    let x = values(9, m * k);
    for kind in BlockKind::ALL {
        let form = kind.form();
        let bytes = blocks(kind, 10, n * k / kind.num_values());
        let numbers = kind.numbers(&bytes);
        let rounded: Vec<f32> = x.chunks(k).flat_map(|row| rounded(row, form.block)).collect();
        for isa in Isa::supported() {
            let pool = Pool::with_isa(2, isa).unwrap();
            let cut = bytes.len() / n * 32;
            let parts = [Values::Blocks(kind, &bytes[..cut]), Values::Blocks(kind, &bytes[cut..])];
            let packed = PackedLinear::pack(&pool, &parts, k, WeightDtype::Blocks).unwrap();
            assert_eq!(packed.unpack(), numbers, "{kind:?}");
            // As many bytes as the file has, but that scales of six bits take eight.
            assert!(packed.num_bytes() * n / 80 < bytes.len() * 104 / 100, "{kind:?}");
            let mut out = vec![0.0; m * n];
            let rows = Rows::new(&x, k);
            linear(&pool, rows, m, &packed, &Epilogue::default(), RowsMut::new(&mut out, n)).unwrap();
            for (i, out) in out.chunks(n).enumerate() {
                for (j, &actual) in out.iter().enumerate() {
                    let terms = || {
                        let pairs = rounded[i * k..][..k].iter().zip(&numbers[j * k..]);
                        pairs.map(|(&x, &w)| f64::from(x) * f64::from(w))
                    };
                    let tolerance = 1e-6 * (1.0 + terms().map(f64::abs).sum::<f64>());
                    let error = (f64::from(actual) - terms().sum::<f64>()).abs();
                    assert!(error < tolerance, "{isa:?} {kind:?} row {i} output {j}: {actual}");
                }
            }
        }
    }
}

#[test]
fn parts_in_blocks_of_several_kinds_are_one_matrix() {
    let (k, m) = (256, 9);
    let x = values(11, m * k);
    let (q, v) = (blocks(BlockKind::Q4K, 12, 48), blocks(BlockKind::Q6K, 13, 16));
    let last = values(14, 5 * k);
    let parts = [
        Values::Blocks(BlockKind::Q4K, &q[..16 * 144]),
        Values::Blocks(BlockKind::Q4K, &q[16 * 144..]),
        Values::Blocks(BlockKind::Q6K, &v),
        Values::F32(&last),
    ];
    let bias = values(15, 69);
    let epilogue = Epilogue { bias: Some(&bias), scale: 0.5, accumulate: true };
    for isa in Isa::supported() {
        let pool = Pool::with_isa(2, isa).unwrap();
        let all = PackedLinear::pack(&pool, &parts, k, WeightDtype::Blocks).unwrap();
        assert_eq!((all.out_features(), all.dtype()), (69, WeightDtype::Blocks));
        let mut out = vec![1.0; m * 69];
        linear(&pool, Rows::new(&x, k), m, &all, &epilogue, RowsMut::new(&mut out, 69)).unwrap();
        let mut first = 0;
        for part in [&parts[..2], &parts[2..3], &parts[3..]] {
            let one = PackedLinear::pack(&pool, part, k, WeightDtype::Blocks).unwrap();
            let n = one.out_features();
            let epilogue = Epilogue { bias: Some(&bias[first..first + n]), ..epilogue };
            let mut alone = vec![1.0; m * n];
            linear(&pool, Rows::new(&x, k), m, &one, &epilogue, RowsMut::new(&mut alone, n)).unwrap();
            let rows = out.chunks(69).flat_map(|row| row[first..first + n].iter().copied());
            assert!(rows.eq(alone), "{isa:?}");
            assert_eq!(one.unpack(), all.unpack()[first * k..(first + n) * k]);
            let tile = first / LANES;
            let (mut wide, mut same) = (vec![0.0; k * LANES], vec![0.0; k * LANES]);
            dispatch(isa, Widen { w: &all, tile, inputs: 0..k, out: &mut wide });
            dispatch(isa, Widen { w: &one, tile: 0, inputs: 0..k, out: &mut same });
            assert_eq!(wide, same, "{isa:?}");
            first += n;
        }
    }
}

#[test]
fn blocks_that_cannot_be_kept_are_refused() {
    let pool = Pool::new(1).unwrap();
    let bytes = blocks(BlockKind::Q6K, 16, 30);
    let pack =
        |parts: &[Values<'_>], k, dtype| PackedLinear::pack(&pool, parts, k, dtype).unwrap_err().to_string();
    let six = Values::Blocks(BlockKind::Q6K, &bytes);
    assert!(pack(&[six], 128, WeightDtype::Blocks).contains("rows of 128 are not whole blocks of 256"));
    assert!(pack(&[six], 256, WeightDtype::Bf16).contains("read as numbers first"));
    let numbers = values(17, 256);
    let error = pack(&[six, Values::F32(&numbers)], 256, WeightDtype::Blocks);
    assert_eq!(error, "30 rows in blocks of their own kind are no multiple of 16");
}

#[test]
fn a_row_is_the_same_in_any_batch_bit_for_bit() {
    let (n, most, widest) = (150, 70, 600);
    let x = values(5, most * widest);
    let w = values(6, n * widest);
    for isa in Isa::supported() {
        let pool = Pool::with_isa(1, isa).unwrap();
        // Eight bits in blocks of either size, and those of files.
        let numbers = DTYPES.map(|dtype| (531, dtype)).into_iter().chain([(widest, WeightDtype::Int8)]);
        let numbers = numbers
            .map(|(k, dtype)| PackedLinear::pack(&pool, &[Values::F32(&w[..n * k])], k, dtype).unwrap());
        let of_files = BlockKind::ALL.into_iter().map(|kind| {
            let bytes = blocks(kind, 18, n * 512 / kind.num_values());
            PackedLinear::pack(&pool, &[Values::Blocks(kind, &bytes)], 512, WeightDtype::Blocks).unwrap()
        });
        for packed in numbers.chain(of_files) {
            let (k, dtype) = (packed.in_features(), packed.dtype());
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
    for dtype in [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::F16] {
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
fn outputs_past_the_caches_are_the_same_wherever_their_rows_begin() {
    let (m, k, n) = (17, 20, 62_000);
    let (x, w) = (values(9, m * k), values(10, n * k));
    for isa in Isa::supported() {
        let pool = Pool::with_isa(2, isa).unwrap();
        let packed = PackedLinear::pack(&pool, &[Values::F32(&w)], k, WeightDtype::Bf16).unwrap();
        for stride in [n, n + 1] {
            let mut all = vec![0.0; m * stride];
            assert!(all.len() > finish::PAST);
            let out = RowsMut::new(&mut all, stride);
            linear(&pool, Rows::new(&x, k), m, &packed, &Epilogue::default(), out).unwrap();
            let mut one = vec![0.0; n];
            for i in 0..m {
                let row = Rows::new(&x[i * k..], k);
                linear(&pool, row, 1, &packed, &Epilogue::default(), RowsMut::new(&mut one, n)).unwrap();
                assert!(one == all[i * stride..][..n], "{isa:?}, row {i} of {stride}");
            }
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
}
