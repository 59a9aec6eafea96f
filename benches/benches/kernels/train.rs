//! Speed of the kernels of training at the shapes of W2. Leaves how they are timed to its parent.

use rectify_kernels::train::{self, Dropout, Factor, Orientation, Precision, Product, Thin, View, WideRows};
use rectify_kernels::{PackedLinear, Pool, Values, WeightDtype};

use crate::{Bench, Cost, Outcome, Peak, values};

/// Tokens of a training batch: sixteen sequences of 280.
const TRAIN_ROWS: usize = 16 * 280;

/// The products of a frozen projection of W2 and its adapter in training.
pub(crate) fn bench_products(bench: &mut Bench, pool: &Pool) -> Outcome {
    let (m, rank) = (TRAIN_ROWS, 16);
    let (inputs, outputs) = (512, 3072);
    let (x, weights) = (values(m * outputs), values(outputs * inputs));
    let mut out = vec![0.0; m * outputs];
    let flops = (2 * m * inputs * outputs) as f64;
    for (dtype, precision) in [
        (WeightDtype::F32, Precision::Single),
        (WeightDtype::Bf16, Precision::Single),
        (WeightDtype::Bf16, Precision::Half),
        (WeightDtype::Int8, Precision::Half),
        (WeightDtype::Nf4, Precision::Half),
    ] {
        let packed = PackedLinear::pack(pool, &[Values::F32(&weights)], inputs, dtype)?;
        let bytes = packed.num_bytes() as f64 + 4.0 * (m * (inputs + outputs)) as f64;
        let cost = Cost { bytes, flops };
        let weight = Factor::packed(&packed, 0, precision);
        for (name, n, k, b) in
            [("forward", outputs, inputs, weight.t()), ("backward", inputs, outputs, weight)]
        {
            bench.run(&format!("train/product/{dtype:?}/{precision:?}/{name}"), cost, Peak::F32, || {
                let product = Product { m, n, k, a: View::rows(&x, k), b, alpha: 1.0, accumulate: false };
                train::gemm(pool, &product, &mut out, n);
                Ok(())
            })?;
        }
    }
    let cost = Cost { bytes: 4.0 * (m * outputs) as f64, flops: (2 * m * outputs * rank) as f64 };
    let (low, mut thin) = (values(m.max(outputs) * rank), vec![0.0; m.max(outputs) * rank]);
    for (name, dropout) in [("", None), ("/dropout", Some(Dropout { p: 0.05, seed: 1 }))] {
        let wide = WideRows { data: &x, stride: outputs, width: outputs, dropout };
        bench.run(&format!("train/adapter/product{name}"), cost, Peak::F32, || {
            let right = Thin::rows(&low[..outputs * rank], rank);
            train::thin_product(pool, wide, right, 1.0, &mut thin[..m * rank]);
            Ok(())
        })?;
        bench.run(&format!("train/adapter/outer{name}"), cost, Peak::F32, || {
            let into = (&mut thin[..outputs * rank], Orientation::Tall);
            train::thin_outer(pool, (wide, m), Thin::rows(&low[..m * rank], rank), 1.0, into);
            Ok(())
        })?;
    }
    bench.run("train/adapter/expand/dropout", cost, Peak::F32, || {
        let dropout = Dropout { p: 0.05, seed: 1 };
        train::thin_expand(pool, &low[..m * rank], &weights[..rank * outputs], dropout, &mut out, outputs);
        Ok(())
    })
}

/// The attention of a layer of W2 in training.
pub(crate) fn bench_attention(bench: &mut Bench, pool: &Pool) -> Outcome {
    let (num_heads, num_kv_heads, head_dim, len) = (8, 4, 64, 280);
    let cu_seqlens: Vec<u32> = (0..=TRAIN_ROWS / len).map(|i| (i * len) as u32).collect();
    let spec = train::Attention {
        num_heads,
        num_kv_heads,
        head_dim,
        scale: 0.125,
        sliding_window: None,
        cu_seqlens: &cu_seqlens,
        prefixes: &[],
    };
    let width = num_heads * head_dim;
    let qkv = values(TRAIN_ROWS * (num_heads + 2 * num_kv_heads) * head_dim);
    let (mut out, mut lse) = (vec![0.0; TRAIN_ROWS * width], vec![0.0; TRAIN_ROWS * num_heads]);
    // Two products of half of the scores.
    let flops = (2 * TRAIN_ROWS * len * width) as f64;
    let bytes = 4.0 * (qkv.len() + out.len()) as f64;
    bench.run("train/attention/forward", Cost { bytes, flops }, Peak::F32, || {
        train::attention(pool, &spec, &qkv, &mut out, &mut lse);
        Ok(())
    })?;
    let (upstream, mut grad) = (values(out.len()), vec![0.0; qkv.len()]);
    let saved = train::AttentionSaved { qkv: &qkv, out: &out, lse: &lse };
    bench.run("train/attention/backward", Cost { bytes: 2.0 * bytes, flops: 2.5 * flops }, Peak::F32, || {
        train::attention_backward(pool, &spec, &saved, &upstream, &mut grad);
        Ok(())
    })
}
