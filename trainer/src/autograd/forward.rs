//! The decoder's operations on the tape: what each makes. Leaves their gradients to `backward`.

use std::rc::Rc;

use rectify_engine::EngineError;
use rectify_engine::model::backend::{AttentionSpec, Backend, Matrix, Result, Values};
use rectify_engine::model::config::ModelConfig;
use rectify_engine::model::family::NormKind;
use rectify_engine::model::layout;
use rectify_engine::model::rope::Rope;
use rectify_kernels::train::{self, Attention, HeadLayout, Term, View};
use rectify_kernels::{Activation, WeightDtype};

use super::VALUE_HEAD;
use super::batch::PackedBatch;
use super::ops::Op;
use super::params::{ParamId, Part};
use super::tape::{LinearData, Tape, Tensor, Weight};

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
pub(super) fn attention_of<'a>(spec: &AttentionSpec, batch: &'a PackedBatch) -> Attention<'a> {
    Attention {
        num_heads: spec.num_heads,
        num_kv_heads: spec.num_kv_heads,
        head_dim: spec.head_dim,
        scale: spec.scale,
        sliding_window: spec.sliding_window,
        cu_seqlens: &batch.cu_seqlens,
        prefixes: &batch.prefixes,
    }
}

/// What of a model has no gradient here, if anything; `frozen` models are not written back.
fn untrainable(config: &ModelConfig, frozen: bool) -> Option<&'static str> {
    let family = config.family;
    if config.experts.is_some() {
        Some("mixtures of experts")
    } else if family.norm == NormKind::Layer {
        Some("layer norms")
    } else if !family.gated || config.activation != Activation::Silu {
        Some("other activations than a gated \"silu\"")
    } else if config.attention_soft_cap.or(config.logit_soft_cap).is_some() {
        Some("capped attention scores and logits")
    } else if [config.embedding_scale, config.residual_scale, config.logit_scale] != [1.0; 3] {
        Some("its multipliers")
    } else if family.norm == NormKind::RmsPlusOne && !frozen {
        Some("norms stored less one")
    } else if family.names.transposed {
        Some("transposed matrices")
    } else {
        None
    }
}

impl Tape {
    /// Computes what an operation makes, and what its gradient needs besides, from values on the tape.
    pub(super) fn run(&mut self, op: &mut Op) {
        match op {
            Op::Embed { table, ids, out } => {
                let table = Rc::clone(&self.linears[*table]);
                let mut value = self.buffers.take(ids.len() * out.width);
                match &table.weight {
                    Weight::Trained(id) => {
                        train::gather_rows(
                            &self.pool,
                            &self.params.get(*id).data,
                            out.width,
                            ids,
                            &mut value,
                        );
                    }
                    Weight::Frozen(weights, _) => train::gather_packed(&self.pool, weights, ids, &mut value),
                }
                self.values[out.id] = value;
            }
            Op::Linear { x, linear, adapted, dropout_seed, mids, out } => {
                let linear = Rc::clone(&self.linears[*linear]);
                if *adapted {
                    *mids = self.lora_mids(&linear.lora, *x, *dropout_seed);
                }
                self.values[out.id] = self.linear_value(&linear, *x, mids);
            }
            Op::RmsNorm { x, norm, rstd, out } => {
                (self.values[out.id], *rstd) = self.norm_of(norm, *x);
            }
            Op::AddRmsNorm { residual, x, sum, norm, rstd, out } => {
                self.sum(*residual, *x, *sum);
                (self.values[out.id], *rstd) = self.norm_of(norm, *sum);
            }
            Op::Add { residual, x, sum } => self.sum(*residual, *x, *sum),
            Op::QkNorm { x, spec, norms, rstd, out } => {
                let mut value = self.buffers.take(x.rows * x.width);
                value.copy_from_slice(&self.values[x.id]);
                for ((layout, norm), rstd) in self.normed_heads(spec, norms).into_iter().zip(norms).zip(rstd)
                {
                    *rstd = self.buffers.take(x.rows * layout.num_heads);
                    let weight = (self.params.get(norm.weight).data.as_slice(), norm.eps);
                    train::rms_norm(&self.pool, layout, &self.values[x.id], weight, &mut value, rstd);
                }
                self.values[out.id] = value;
            }
            Op::Rope { x, rope, spec, out } => {
                // Neither this operation nor the one before reads its result again: rotate in place.
                let mut value = std::mem::take(&mut self.values[x.id]);
                self.rotate(*rope, spec, &mut value, false);
                self.values[out.id] = value;
            }
            Op::Attention { qkv, spec, lse, out } => {
                let mut value = self.buffers.take(out.rows * out.width);
                *lse = self.buffers.take(qkv.rows * spec.num_heads);
                let attention = attention_of(spec, &self.batch);
                train::attention(&self.pool, &attention, &self.values[qkv.id], &mut value, lse);
                self.values[out.id] = value;
            }
            Op::SwiGlu { gate_up, out } => {
                let mut value = self.buffers.take(out.rows * out.width);
                train::swiglu(&self.pool, &self.values[gate_up.id], out.width, &mut value);
                self.values[out.id] = value;
            }
            Op::GatherRows { x, rows, out } => {
                let mut value = self.buffers.take(rows.len() * x.width);
                train::gather_rows(&self.pool, &self.values[x.id], x.width, rows, &mut value);
                self.values[out.id] = value;
            }
            // Runs once, above all layers: nothing below needs it again.
            Op::Logprobs(_) => {}
        }
    }

    /// `x Wᵀ + b`, and what adapters add to it.
    fn linear_value(&mut self, linear: &LinearData, x: Tensor, mids: &[Vec<f32>]) -> Vec<f32> {
        let (inputs, outputs) = (linear.in_features, linear.out_features);
        let mut value = self.buffers.take(x.rows * outputs);
        if let Some(bias) = linear.bias {
            let bias = &self.params.get(bias).data;
            value.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(bias));
        }
        let base = Term {
            columns: 0..outputs,
            k: inputs,
            a: View::rows(&self.values[x.id], inputs),
            b: linear.matrix(&self.params, 0).t(),
            alpha: 1.0,
        };
        let mut terms = vec![base];
        terms.extend(self.lora_terms(&linear.lora, mids));
        let has_bias = linear.bias.is_some();
        train::gemm_sum(&self.pool, (x.rows, outputs), &terms, has_bias, (&mut value, outputs));
        value
    }

    /// `residual + x`, unless it is still there when the layer it begins is run again.
    fn sum(&mut self, residual: Tensor, x: Tensor, sum: Tensor) {
        if self.values[sum.id].is_empty() {
            // The operation that made `x` does not read it again, so the sum takes its place.
            let mut value = std::mem::take(&mut self.values[x.id]);
            train::add_assign(&self.pool, &mut value, &self.values[residual.id]);
            self.values[sum.id] = value;
        }
    }

    /// What the norms of queries and keys see as one head: each of them, or all of them together.
    pub(super) fn normed_heads(&self, spec: &AttentionSpec, norms: &[Norm; 2]) -> [HeadLayout; 2] {
        let layouts = head_layouts(spec);
        [0, 1].map(|i| {
            let (layout, head_dim) = (layouts[i], self.params.get(norms[i].weight).data.len());
            HeadLayout { num_heads: layout.num_heads * layout.head_dim / head_dim.max(1), head_dim, ..layout }
        })
    }

    fn norm_of(&mut self, norm: &Norm, x: Tensor) -> (Vec<f32>, Vec<f32>) {
        let (mut out, mut rstd) = (self.buffers.take(x.rows * x.width), self.buffers.take(x.rows));
        let weight = (self.params.get(norm.weight).data.as_slice(), norm.eps);
        let layout = HeadLayout::rows(x.width);
        train::rms_norm(&self.pool, layout, &self.values[x.id], weight, &mut out, &mut rstd);
        (out, rstd)
    }

    pub(super) fn rotate(&self, rope: usize, spec: &AttentionSpec, rows: &mut [f32], inverse: bool) {
        let [queries, _] = head_layouts(spec);
        // Keys follow queries, and both turn alike.
        let layout = HeadLayout { num_heads: spec.num_heads + spec.num_kv_heads, ..queries };
        let (cos, sin, half) = &self.ropes[rope];
        let table = (cos.as_slice(), sin.as_slice());
        train::rope(&self.pool, layout, rows, &self.batch.positions, table, *half, inverse);
    }

    fn is_trainable(&self, norm: &Norm) -> bool {
        self.params.get(norm.weight).is_trainable()
    }

    /// Runs an operation and keeps it.
    fn push(&mut self, mut op: Op) {
        self.run(&mut op);
        self.record(op);
    }

    /// The matrix of a projection: trained, or frozen and packed.
    fn new_weight(&mut self, parts: &mut [Matrix<'_>], trained: bool) -> Result<Weight> {
        if !trained {
            let is_half = parts.iter().all(|part| matches!(part.values, Values::Bf16(_)));
            let stored = if is_half { WeightDtype::Bf16 } else { WeightDtype::F32 };
            let dtype = self.base.dtype.unwrap_or(stored);
            let weights = self.base.store.pack(&self.pool, parts, dtype)?;
            let precision = self.base.mixed_precision.of(weights.dtype());
            return Ok(Weight::Frozen(weights, precision));
        }
        let (mut names, mut weight) = (Vec::new(), Vec::new());
        for part in parts {
            let shape = vec![part.out_features, part.in_features];
            names.push(Part { name: format!("{}.weight", part.module), shape });
            weight.extend_from_slice(&part.values.reborrow().into_f32());
        }
        Ok(Weight::Trained(self.params.add(names, weight, true, true)))
    }

    /// The stacked bias of a projection, if it has one.
    fn new_bias(&mut self, parts: &mut [Matrix<'_>], trained: bool) -> Result<Option<ParamId>> {
        let (mut names, mut bias) = (Vec::new(), Vec::new());
        for part in &mut *parts {
            if let Some(values) = part.bias.take() {
                let name = format!("{}.bias", part.module);
                names.push(Part { name, shape: vec![values.len()] });
                bias.extend(values);
            }
        }
        if !names.is_empty() && names.len() != parts.len() {
            return Err(EngineError::load(
                &parts[0].module,
                "some matrices of this projection have a bias and some have none, which training does not know",
            ));
        }
        Ok((!names.is_empty()).then(|| self.params.add(names, bias, trained, false)))
    }
}

impl Backend for Tape {
    type Tensor = Tensor;
    type Linear = usize;
    type Norm = Norm;
    type Rope = usize;

    fn new_linear(&mut self, mut parts: Vec<Matrix<'_>>) -> Result<usize> {
        let in_features = parts.first().map_or(0, |part| part.in_features);
        // With adapters the base is frozen; a new head is trained all the same.
        let is_head = |part: &Matrix<'_>| part.module == layout::SCORE_HEAD || part.module == VALUE_HEAD;
        let is_new_head = parts.first().is_some_and(is_head);
        let trained = self.lora.is_none() || is_new_head;
        let (mut lora, mut out_features) = (Vec::new(), 0);
        for part in &parts {
            lora.extend(self.new_lora(&part.module, (out_features, part.out_features, in_features)));
            out_features += part.out_features;
        }
        let weight = self.new_weight(&mut parts, trained)?;
        let bias = self.new_bias(&mut parts, trained)?;
        self.linears.push(Rc::new(LinearData { weight, bias, in_features, out_features, lora }));
        Ok(self.linears.len() - 1)
    }

    fn accept(&mut self, config: &ModelConfig) -> Result<()> {
        untrainable(config, self.lora.is_some()).map_or(Ok(()), |what| {
            let family = config.family.model_type;
            let message = format!("is \"{family}\", but training does not know {what} yet");
            Err(EngineError::load("config.json", format!("`model_type` {message}")))
        })
    }

    fn new_norm(&mut self, name: &str, weight: Vec<f32>, bias: Option<Vec<f32>>, eps: f32) -> Result<Norm> {
        if bias.is_some() {
            return Err(EngineError::load(name, "has a bias, which training does not know yet"));
        }
        let part = Part { name: format!("{name}.weight"), shape: vec![weight.len()] };
        Ok(Norm { weight: self.params.add(vec![part], weight, self.lora.is_none(), false), eps })
    }

    fn new_rope(&mut self, rope: &Rope, max_positions: usize) -> Result<usize> {
        let frequencies = rope.inverse_frequencies(max_positions);
        let angle =
            |index: usize| (index / frequencies.len()) as f64 * frequencies[index % frequencies.len()];
        let count = max_positions * frequencies.len();
        let factor = rope.attention_factor();
        let table = |f: fn(f64) -> f64| (0..count).map(|index| (f(angle(index)) * factor) as f32).collect();
        let half = frequencies.len();
        self.ropes.push((table(f64::cos), table(f64::sin), half));
        Ok(self.ropes.len() - 1)
    }

    fn start_layer(&mut self) {
        self.open_segment();
    }

    fn embed(&mut self, table: &usize, ids: &[u32]) -> Result<Tensor> {
        let (rows, width) = (self.linears[*table].out_features, self.linears[*table].in_features);
        if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
            let message =
                format!("token {id} is outside the model's vocabulary of {rows}; the tokenizer does not fit");
            return Err(EngineError::load("tokenizer.json", message));
        }
        let out = self.declare(ids.len(), width, self.linears[*table].is_trained());
        self.push(Op::Embed { table: *table, ids: ids.to_vec(), out });
        Ok(out)
    }

    fn linear(&mut self, weight: &usize, x: &Tensor) -> Result<Tensor> {
        let (linear, x) = (*weight, *x);
        // Each adapter of each operation drops its own inputs.
        let dropout_seed = self.dropout_seed.wrapping_add((self.values.len() as u64) << 40);
        let data = &self.linears[linear];
        let adapted = self.adapted && !data.lora.is_empty();
        let needs_grad = self.needs_grad[x.id] || adapted || data.is_trained();
        let out = self.declare(x.rows, self.linears[linear].out_features, needs_grad);
        self.push(Op::Linear { x, linear, adapted, dropout_seed, mids: Vec::new(), out });
        Ok(out)
    }

    fn norm(&mut self, norm: &Norm, x: &Tensor) -> Result<Tensor> {
        let needs_grad = self.needs_grad[x.id] || self.is_trainable(norm);
        let out = self.declare(x.rows, x.width, needs_grad);
        self.push(Op::RmsNorm { x: *x, norm: *norm, rstd: Vec::new(), out });
        Ok(out)
    }

    fn add_norm(&mut self, norm: &Norm, residual: Tensor, x: Tensor) -> Result<(Tensor, Tensor)> {
        self.note_input();
        let needs_grad = self.needs_grad[x.id] || self.needs_grad[residual.id];
        let sum = self.declare(x.rows, x.width, needs_grad);
        let out = self.declare(x.rows, x.width, needs_grad || self.is_trainable(norm));
        self.push(Op::AddRmsNorm { residual, x, sum, norm: *norm, rstd: Vec::new(), out });
        self.close_segment();
        Ok((sum, out))
    }

    fn add(&mut self, residual: Tensor, x: Tensor) -> Result<Tensor> {
        self.note_input();
        let sum = self.declare(x.rows, x.width, self.needs_grad[x.id] || self.needs_grad[residual.id]);
        self.push(Op::Add { residual, x, sum });
        self.close_segment();
        Ok(sum)
    }

    fn qk_norm(&mut self, q: &Norm, k: &Norm, spec: &AttentionSpec, qkv: Tensor) -> Result<Tensor> {
        let needs_grad = self.needs_grad[qkv.id] || self.is_trainable(q);
        let out = self.declare(qkv.rows, qkv.width, needs_grad);
        self.push(Op::QkNorm { x: qkv, spec: *spec, norms: [*q, *k], rstd: Default::default(), out });
        Ok(out)
    }

    fn rope(&mut self, rope: &usize, spec: &AttentionSpec, qkv: Tensor) -> Result<Tensor> {
        let out = self.declare(qkv.rows, qkv.width, self.needs_grad[qkv.id]);
        self.push(Op::Rope { x: qkv, rope: *rope, spec: *spec, out });
        Ok(out)
    }

    fn attention(&mut self, spec: &AttentionSpec, qkv: Tensor) -> Result<Tensor> {
        if spec.soft_cap.is_some() {
            return Err(EngineError::load(
                "config.json",
                "attn_logit_softcapping is not known to the trainer",
            ));
        }
        let out = self.declare(qkv.rows, spec.num_heads * spec.head_dim, self.needs_grad[qkv.id]);
        self.push(Op::Attention { qkv, spec: *spec, lse: Vec::new(), out });
        Ok(out)
    }

    fn gated(&mut self, _silu: Activation, gate_up: Tensor) -> Result<Tensor> {
        let out = self.declare(gate_up.rows, gate_up.width / 2, self.needs_grad[gate_up.id]);
        self.push(Op::SwiGlu { gate_up, out });
        Ok(out)
    }

    fn gather_rows(&mut self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        let out = self.declare(rows.len(), x.width, self.needs_grad[x.id]);
        self.push(Op::GatherRows { x: *x, rows: rows.to_vec(), out });
        Ok(out)
    }

    fn narrow(&mut self, _: &[u32]) -> Result<()> {
        Ok(()) // Only attention and rotations look at the batch, and both are past.
    }
}
