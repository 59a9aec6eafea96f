//! The decoder's operations on the tape. Leaves their gradients to `backward`.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rectify_engine::EngineError;
use rectify_engine::model::backend::{AttentionSpec, Backend, Matrix, Result};
use rectify_engine::model::config::ModelConfig;
use rectify_engine::model::{layout, rope};
use rectify_kernels::train::{self, Attention, HeadLayout, Product, View};

use super::params::{ParamId, Part};
use super::tape::{LinearData, LoraPart, Op, Tape, Tensor};

/// A norm's weight and epsilon.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub(super) weight: ParamId,
    pub(super) eps: f32,
}

/// Heads of fused rows: queries, then keys.
pub(super) fn head_layouts(spec: &AttentionSpec) -> [HeadLayout; 2] {
    let stride = (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim;
    let layout = |column, num_heads| HeadLayout { stride, column, num_heads, head_dim: spec.head_dim };
    [layout(0, spec.num_heads), layout(spec.num_heads * spec.head_dim, spec.num_kv_heads)]
}

/// The kernels' view of an attention.
pub(super) fn attention_of<'a>(spec: &AttentionSpec, cu_seqlens: &'a [u32]) -> Attention<'a> {
    Attention {
        num_heads: spec.num_heads,
        num_kv_heads: spec.num_kv_heads,
        head_dim: spec.head_dim,
        scale: spec.scale,
        sliding_window: spec.sliding_window,
        cu_seqlens,
    }
}

impl Tape {
    fn new_lora(&mut self, module: &str, shape: (usize, usize, usize)) -> Option<LoraPart> {
        let (column, out_features, in_features) = shape;
        let lora = self.lora.as_ref()?;
        let short = module.rsplit('.').next().unwrap_or(module);
        if !module.starts_with("model.layers.") || !lora.target_modules.iter().any(|target| target == short) {
            return None;
        }
        let rank = lora.rank;
        let mut rng = ChaCha8Rng::seed_from_u64(lora.seed);
        rng.set_stream(self.params.iter().count() as u64);
        // PEFT's start: Kaiming-uniform with a = √5, that is, uniform within 1/√in.
        let bound = (in_features as f32).sqrt().recip();
        let a: Vec<f32> = (0..rank * in_features).map(|_| rng.random_range(-bound..bound)).collect();
        let part = |name: &str, shape: [usize; 2]| {
            vec![Part { name: format!("{module}.{name}.weight"), shape: shape.to_vec() }]
        };
        let a = self.params.add(part("lora_A", [rank, in_features]), a, true, true);
        let b =
            self.params.add(part("lora_B", [out_features, rank]), vec![0.0; out_features * rank], true, true);
        Some(LoraPart { column, out_features, a, b })
    }

    /// `y[:, columns] += scale · dropout(x) Aᵀ Bᵀ`; returns `dropout(x) Aᵀ`.
    fn lora_forward(&mut self, linear: usize, index: usize, x: Tensor, seed: u64, y: &mut [f32]) -> Vec<f32> {
        let (lora, width) = (self.linears[linear].lora[index].clone(), self.linears[linear].out_features);
        let (rank, scale, dropout) =
            self.lora.as_ref().map_or((0, 0.0, 0.0), |l| (l.rank, l.scale, l.dropout));
        let mut mid = self.buffers.take(x.rows * rank);
        let mut dropped = Vec::new();
        if self.recording && dropout > 0.0 {
            dropped = self.buffers.take(x.rows * x.width);
            train::dropout(&self.pool, &self.values[x.id], dropout, seed, false, &mut dropped);
        }
        let input = if dropped.is_empty() { &self.values[x.id] } else { &dropped };
        let down = Product {
            m: x.rows,
            n: rank,
            k: x.width,
            a: View::rows(input, x.width),
            b: View::rows(&self.params.get(lora.a).data, x.width).t(),
            alpha: 1.0,
            accumulate: false,
        };
        train::gemm(&self.pool, &down, &mut mid, rank);
        let up = Product {
            m: x.rows,
            n: lora.out_features,
            k: rank,
            a: View::rows(&mid, rank),
            b: View::rows(&self.params.get(lora.b).data, rank).t(),
            alpha: scale,
            accumulate: true,
        };
        train::gemm(&self.pool, &up, &mut y[lora.column..], width);
        self.buffers.give(dropped);
        mid
    }

    fn norm_of(&mut self, norm: &Norm, x: Tensor) -> (Vec<f32>, Vec<f32>) {
        let (mut out, mut rstd) = (self.buffers.take(x.rows * x.width), vec![0.0; x.rows]);
        let weight = (self.params.get(norm.weight).data.as_slice(), norm.eps);
        train::rms_norm(
            &self.pool,
            HeadLayout::rows(x.width),
            &self.values[x.id],
            weight,
            &mut out,
            &mut rstd,
        );
        (out, rstd)
    }

    fn is_trainable(&self, id: ParamId) -> bool {
        self.params.get(id).is_trainable()
    }

    /// Moves a value out of the tape, if no gradient will ask for it.
    fn take_value(&mut self, tensor: Tensor) -> Vec<f32> {
        std::mem::take(&mut self.values[tensor.id])
    }
}

impl Backend for Tape {
    type Tensor = Tensor;
    type Linear = usize;
    type Norm = Norm;
    type Rope = usize;

    fn new_linear(&mut self, parts: Vec<Matrix<'_>>) -> Result<usize> {
        let in_features = parts.first().map_or(0, |part| part.in_features);
        let out_features = parts.iter().map(|part| part.out_features).sum();
        // With adapters the base is frozen; a new score head is trained all the same.
        let is_score_head = parts.first().is_some_and(|part| part.module == layout::SCORE_HEAD);
        let trainable = self.lora.is_none() || is_score_head;
        let (mut names, mut weight) = (Vec::new(), Vec::with_capacity(out_features * in_features));
        let (mut bias_names, mut bias) = (Vec::new(), Vec::new());
        let mut lora = Vec::new();
        let mut column = 0;
        for part in parts {
            let shape = vec![part.out_features, in_features];
            names.push(Part { name: format!("{}.weight", part.module), shape });
            weight.extend_from_slice(&part.values.into_f32());
            if let Some(values) = part.bias {
                let name = format!("{}.bias", part.module);
                bias_names.push(Part { name, shape: vec![values.len()] });
                bias.resize(column, 0.0);
                bias.extend(values);
            }
            lora.extend(self.new_lora(&part.module, (column, part.out_features, in_features)));
            column += part.out_features;
        }
        if !bias.is_empty() && bias_names.len() != names.len() {
            return Err(EngineError::load(
                &names[0].name,
                "some matrices of this projection have a bias and some have none, which training does not know",
            ));
        }
        let weight = self.params.add(names, weight, trainable, true);
        let bias = (!bias.is_empty()).then(|| self.params.add(bias_names, bias, trainable, false));
        self.linears.push(LinearData { weight, bias, in_features, out_features, lora });
        Ok(self.linears.len() - 1)
    }

    fn new_norm(&mut self, name: &str, weight: Vec<f32>, eps: f32) -> Result<Norm> {
        let part = Part { name: format!("{name}.weight"), shape: vec![weight.len()] };
        Ok(Norm { weight: self.params.add(vec![part], weight, self.lora.is_none(), false), eps })
    }

    fn new_rope(&mut self, config: &ModelConfig) -> Result<usize> {
        let frequencies = rope::inverse_frequencies(config);
        let angle =
            |index: usize| (index / frequencies.len()) as f64 * frequencies[index % frequencies.len()];
        let count = config.max_position_embeddings * frequencies.len();
        let table = |f: fn(f64) -> f64| (0..count).map(|index| f(angle(index)) as f32).collect();
        self.ropes.push((table(f64::cos), table(f64::sin)));
        Ok(self.ropes.len() - 1)
    }

    fn embed(&mut self, table: &usize, ids: &[u32]) -> Result<Tensor> {
        let (weight, width) = (self.linears[*table].weight, self.linears[*table].in_features);
        let rows = self.linears[*table].out_features;
        if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
            let message =
                format!("token {id} is outside the model's vocabulary of {rows}; the tokenizer does not fit");
            return Err(EngineError::load("tokenizer.json", message));
        }
        let mut out = self.buffers.take(ids.len() * width);
        train::gather_rows(&self.pool, &self.params.get(weight).data, width, ids, &mut out);
        let out = self.push(out, width, self.is_trainable(weight));
        self.record(Op::Embed { table: weight, ids: ids.to_vec(), out });
        Ok(out)
    }

    fn linear(&mut self, weight: &usize, x: &Tensor) -> Result<Tensor> {
        let (linear, x) = (*weight, *x);
        let LinearData { weight, bias, in_features, out_features, ref lora } = self.linears[linear];
        let num_lora = lora.len();
        let mut out = self.buffers.take(x.rows * out_features);
        if let Some(bias) = bias {
            let bias = &self.params.get(bias).data;
            out.chunks_exact_mut(out_features).for_each(|row| row.copy_from_slice(bias));
        }
        let product = Product {
            m: x.rows,
            n: out_features,
            k: in_features,
            a: View::rows(&self.values[x.id], in_features),
            b: View::rows(&self.params.get(weight).data, in_features).t(),
            alpha: 1.0,
            accumulate: bias.is_some(),
        };
        train::gemm(&self.pool, &product, &mut out, out_features);
        // Each adapter of each operation drops its own inputs.
        let dropout_seed = self.dropout_seed.wrapping_add((self.values.len() as u64) << 40);
        let mut mids = Vec::with_capacity(num_lora);
        for index in 0..num_lora {
            mids.push(self.lora_forward(linear, index, x, lora_seed(dropout_seed, index), &mut out));
        }
        let needs_grad = self.needs_grad[x.id] || num_lora > 0 || self.is_trainable(weight);
        let out = self.push(out, out_features, needs_grad);
        self.record(Op::Linear { x, linear, mids, dropout_seed, out });
        Ok(out)
    }

    fn rms_norm(&mut self, norm: &Norm, x: &Tensor) -> Result<Tensor> {
        let (out, rstd) = self.norm_of(norm, *x);
        let out = self.push(out, x.width, self.needs_grad[x.id] || self.is_trainable(norm.weight));
        self.record(Op::RmsNorm { x: *x, norm: norm.weight, rstd, out });
        Ok(out)
    }

    fn add_rms_norm(&mut self, norm: &Norm, residual: Tensor, x: Tensor) -> Result<(Tensor, Tensor)> {
        // The operation that made `x` does not read it again, so the sum takes its place.
        let mut sum = self.take_value(x);
        train::add_assign(&self.pool, &mut sum, &self.values[residual.id]);
        let needs_grad = self.needs_grad[x.id] || self.needs_grad[residual.id];
        let sum = self.push(sum, x.width, needs_grad);
        let (out, rstd) = self.norm_of(norm, sum);
        let out = self.push(out, x.width, needs_grad || self.is_trainable(norm.weight));
        self.record(Op::AddRmsNorm { residual, x, sum, norm: norm.weight, rstd, out });
        Ok((sum, out))
    }

    fn qk_norm(&mut self, q: &Norm, k: &Norm, spec: &AttentionSpec, qkv: Tensor) -> Result<Tensor> {
        let mut out = self.buffers.take(qkv.rows * qkv.width);
        out.copy_from_slice(&self.values[qkv.id]);
        let mut saved = [Vec::new(), Vec::new()];
        for ((layout, norm), rstd) in head_layouts(spec).into_iter().zip([q, k]).zip(&mut saved) {
            rstd.resize(qkv.rows * layout.num_heads, 0.0);
            let weight = (self.params.get(norm.weight).data.as_slice(), norm.eps);
            train::rms_norm(&self.pool, layout, &self.values[qkv.id], weight, &mut out, rstd);
        }
        let needs_grad = self.needs_grad[qkv.id] || self.is_trainable(q.weight);
        let out = self.push(out, qkv.width, needs_grad);
        self.record(Op::QkNorm { x: qkv, spec: *spec, norms: [q.weight, k.weight], rstd: saved, out });
        Ok(out)
    }

    fn rope(&mut self, rope: &usize, spec: &AttentionSpec, qkv: Tensor) -> Result<Tensor> {
        // Neither this operation nor the one before reads its result again: rotate in place.
        let mut value = self.take_value(qkv);
        self.rotate(*rope, spec, &mut value, false);
        let out = self.push(value, qkv.width, self.needs_grad[qkv.id]);
        self.record(Op::Rope { x: qkv, rope: *rope, spec: *spec, out });
        Ok(out)
    }

    fn attention(&mut self, spec: &AttentionSpec, qkv: Tensor) -> Result<Tensor> {
        if spec.soft_cap.is_some() {
            return Err(EngineError::load(
                "config.json",
                "attn_logit_softcapping is not known to the trainer",
            ));
        }
        let width = spec.num_heads * spec.head_dim;
        let (mut out, mut lse) = (self.buffers.take(qkv.rows * width), vec![0.0; qkv.rows * spec.num_heads]);
        let attention = attention_of(spec, &self.batch.cu_seqlens);
        train::attention(&self.pool, &attention, &self.values[qkv.id], &mut out, &mut lse);
        let out = self.push(out, width, self.needs_grad[qkv.id]);
        self.record(Op::Attention { qkv, spec: *spec, lse, out });
        Ok(out)
    }

    fn swiglu(&mut self, gate_up: Tensor) -> Result<Tensor> {
        let width = gate_up.width / 2;
        let mut out = self.buffers.take(gate_up.rows * width);
        train::swiglu(&self.pool, &self.values[gate_up.id], width, &mut out);
        let out = self.push(out, width, self.needs_grad[gate_up.id]);
        self.record(Op::SwiGlu { gate_up, out });
        Ok(out)
    }

    fn gather_rows(&mut self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        let mut out = self.buffers.take(rows.len() * x.width);
        train::gather_rows(&self.pool, &self.values[x.id], x.width, rows, &mut out);
        let out = self.push(out, x.width, self.needs_grad[x.id]);
        self.record(Op::GatherRows { x: *x, rows: rows.to_vec(), out });
        Ok(out)
    }

    fn narrow(&mut self, _: &[u32]) -> Result<()> {
        Ok(()) // Only attention and rotations look at the batch, and both are past.
    }
}

impl Tape {
    pub(super) fn rotate(&self, rope: usize, spec: &AttentionSpec, rows: &mut [f32], inverse: bool) {
        let [queries, _] = head_layouts(spec);
        // Keys follow queries, and both turn alike.
        let layout = HeadLayout { num_heads: spec.num_heads + spec.num_kv_heads, ..queries };
        let (cos, sin) = &self.ropes[rope];
        let table = (cos.as_slice(), sin.as_slice());
        train::rope(&self.pool, layout, rows, &self.batch.positions, table, spec.head_dim / 2, inverse);
    }
}

/// What adapter `index` of an operation drops.
pub(super) fn lora_seed(operation: u64, index: usize) -> u64 {
    operation.wrapping_add((index as u64 + 1).wrapping_mul(0xA076_1D64_78BD_642F))
}
