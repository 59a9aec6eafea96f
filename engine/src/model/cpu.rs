//! The serving backend on the CPU: packed weights, paged KV caches, adapters per run of tokens, recycled activations.
//! Leaves batches to `cpu_executor` and arithmetic to the kernels.

use std::ops::Range;
use std::sync::Arc;

use rectify_kernels as kernels;
use rectify_kernels::{
    Activation, AttentionParams, Epilogue, GatedMlp, KernelError, KvCache, PackedLinear, Pool, RopeTable,
    Rows, RowsMut, WeightDtype,
};

use super::adapter::LoraProjection;
use super::backend::{AttentionSpec, Backend, Matrix, Result, Route};
use super::config::ExpertsConfig;
use super::cpu_linear::CpuLinear;
use super::cpu_step::Step;
use super::cpu_tensor::{Buffers, CpuTensor};
use super::layout;
use super::rope::Rope;
use super::routing::routes;
use super::weights::WeightStore;
use crate::EngineError;
use crate::batch::{AdapterRun, Batch};

/// Packed weights' home: the threads, the KV caches, and what the current batch looks like.
#[derive(Debug)]
pub struct CpuBackend {
    pool: Arc<Pool>,
    dtype: WeightDtype,
    weights: WeightStore,
    max_positions: usize,
    caches: Vec<KvCache>,
    step: Step,
    buffers: Buffers,
}

/// The weight of a norm; with a bias it is a layer norm.
#[derive(Debug)]
pub struct CpuNorm {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    eps: f32,
}

/// A kernel refused: a bug of ours, or a batch that does not fit.
pub(super) fn refused(error: KernelError) -> EngineError {
    EngineError::Execution(error.to_string())
}

impl CpuBackend {
    /// A backend without caches, whose projections come from `weights`; rotations reach up to `max_positions`.
    pub fn new(pool: Arc<Pool>, dtype: WeightDtype, weights: WeightStore, max_positions: usize) -> Self {
        let (caches, step, buffers) = (Vec::new(), Step::default(), Buffers::default());
        Self { pool, dtype, weights, max_positions, caches, step, buffers }
    }

    /// Takes one KV cache for each layer.
    pub fn set_caches(&mut self, caches: Vec<KvCache>) {
        self.caches = caches;
    }

    /// Takes the memory of some blocks of a layer before they are written.
    pub fn populate(&self, layer: usize, blocks: Range<usize>) {
        if let Some(cache) = self.caches.get(layer) {
            cache.populate(&self.pool, blocks);
        }
    }

    /// Threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Copies blocks and notes what the batch looks like; the next forward pass is of its tokens.
    ///
    /// # Errors
    /// [`EngineError::Execution`] if a block lies outside of the caches.
    pub fn begin(&mut self, batch: &Batch) -> Result<()> {
        for cache in &mut self.caches {
            for (from, to) in &batch.block_copies {
                cache.copy_block(from.0, to.0).map_err(refused)?;
            }
        }
        self.step.begin(batch);
        Ok(())
    }

    /// Lets go of the batch's adapters.
    pub fn end(&mut self) {
        self.step.adapter_runs.clear();
    }

    /// `rows × width` zeros.
    pub(super) fn zeroed(&self, rows: usize, width: usize) -> CpuTensor {
        let mut zeros = self.buffers.take(rows, width);
        zeros.as_mut_slice().fill(0.0);
        zeros
    }

    /// `x Wᵀ + b` of a head for one row, without adapters.
    ///
    /// # Errors
    /// [`EngineError::Execution`] if the widths differ.
    pub fn head(
        &self,
        (weight, bias): (&PackedLinear, Option<&[f32]>),
        x: &CpuTensor,
        row: usize,
        out: &mut [f32],
    ) -> Result<()> {
        let (start, end) = (row * x.width, (row + 1) * x.width);
        let Some(x) = x.as_slice().get(start..end) else {
            return Err(EngineError::Execution(format!("there is no row {row}")));
        };
        let (rows, out) = (Rows::new(x, x.len()), RowsMut::new(out, weight.out_features()));
        let epilogue = Epilogue { bias, ..Epilogue::default() };
        kernels::linear(&self.pool, rows, 1, weight, &epilogue, out).map_err(refused)
    }

    /// What the step's adapters add to a projection, and where.
    fn adapters_of(&self, linear: &CpuLinear) -> impl Iterator<Item = (&LoraProjection, &AdapterRun)> {
        let projection = linear.projection;
        let runs = self.step.adapter_runs.iter();
        runs.filter_map(move |run| Some((run.adapter.projection(projection?)?, run)))
    }

    /// Adds an adapter's product to the rows of its run: `out += scale · (x Aᵀ) Bᵀ`, part by part.
    fn add_lora(
        &self,
        lora: &LoraProjection,
        run: &AdapterRun,
        x: &CpuTensor,
        out: &mut CpuTensor,
    ) -> std::result::Result<(), KernelError> {
        let (start, rows) = (run.tokens.start, run.tokens.len());
        let rank = lora.a.out_features();
        let mut low = self.buffers.take(rows, rank);
        let x = Rows { data: &x.as_slice()[start * x.width..], stride: x.width, column: 0 };
        kernels::linear(&self.pool, x, rows, &lora.a, &Epilogue::default(), low.view_mut(0))?;
        let stride = out.width;
        for part in &lora.parts {
            let epilogue = Epilogue { bias: None, scale: part.scale, accumulate: true };
            let data = &mut out.as_mut_slice()[start * stride..];
            let out = RowsMut { data, stride, column: part.out_column };
            kernels::linear(&self.pool, low.view(part.rank_column), rows, &part.b, &epilogue, out)?;
        }
        Ok(())
    }
}

impl Backend for CpuBackend {
    type Tensor = CpuTensor;
    type Linear = CpuLinear;
    type Norm = CpuNorm;
    type Rope = RopeTable;

    fn new_linear(&mut self, parts: Vec<Matrix<'_>>) -> Result<CpuLinear> {
        let weight = self.weights.pack(&self.pool, &parts, self.dtype)?;
        let projection = parts.first().and_then(|part| layout::find_projection(&part.module));
        let projection = projection.map(|(layer, projection)| projection.index(layer));
        let has_bias = parts.iter().any(|part| part.bias.is_some());
        let bias = has_bias.then(|| {
            let part_bias = |part: Matrix<'_>| part.bias.unwrap_or_else(|| vec![0.0; part.out_features]);
            parts.into_iter().flat_map(part_bias).collect()
        });
        Ok(CpuLinear { weight, bias, projection })
    }

    fn new_norm(
        &mut self,
        _name: &str,
        weight: Vec<f32>,
        bias: Option<Vec<f32>>,
        eps: f32,
    ) -> Result<CpuNorm> {
        Ok(CpuNorm { weight, bias, eps })
    }

    fn new_rope(&mut self, rope: &Rope, max_positions: usize) -> Result<RopeTable> {
        let max_positions = max_positions.min(self.max_positions);
        let frequencies = rope.inverse_frequencies(max_positions);
        Ok(RopeTable::scaled(&frequencies, max_positions, rope.attention_factor()))
    }

    fn embed(&mut self, table: &CpuLinear, ids: &[u32]) -> Result<CpuTensor> {
        let mut out = self.buffers.take(ids.len(), table.weight.in_features());
        kernels::embed(&self.pool, &table.weight, ids, out.as_mut_slice()).map_err(refused)?;
        Ok(out)
    }

    fn linear(&mut self, linear: &CpuLinear, x: &CpuTensor) -> Result<CpuTensor> {
        let mut out = self.buffers.take(x.rows, linear.weight.out_features());
        let epilogue = Epilogue { bias: linear.bias.as_deref(), ..Epilogue::default() };
        kernels::linear(&self.pool, x.view(0), x.rows, &linear.weight, &epilogue, out.view_mut(0))
            .map_err(refused)?;
        for (lora, run) in self.adapters_of(linear) {
            self.add_lora(lora, run, x, &mut out).map_err(refused)?;
        }
        Ok(out)
    }

    fn embed_positions(&mut self, table: &CpuLinear) -> Result<CpuTensor> {
        let positions = std::mem::take(&mut self.step.positions);
        let embedded = self.embed(table, &positions);
        self.step.positions = positions;
        embedded
    }

    fn norm(&mut self, norm: &CpuNorm, x: &CpuTensor) -> Result<CpuTensor> {
        let mut out = self.buffers.take(x.rows, x.width);
        let (pool, weight, values) = (&self.pool, &norm.weight, out.as_mut_slice());
        match &norm.bias {
            None => kernels::rms_norm(pool, x.as_slice(), weight, norm.eps, values),
            Some(bias) => kernels::layer_norm(pool, x.as_slice(), (weight, bias), norm.eps, values),
        }
        .map_err(refused)?;
        Ok(out)
    }

    fn add_norm(
        &mut self,
        norm: &CpuNorm,
        mut residual: CpuTensor,
        x: CpuTensor,
    ) -> Result<(CpuTensor, CpuTensor)> {
        if norm.bias.is_some() {
            let sum = self.add(residual, x)?;
            let out = self.norm(norm, &sum)?;
            return Ok((sum, out));
        }
        let mut out = self.buffers.take(x.rows, x.width);
        let (sum, out_values) = (residual.as_mut_slice(), out.as_mut_slice());
        kernels::add_rms_norm(&self.pool, sum, x.as_slice(), &norm.weight, norm.eps, out_values)
            .map_err(refused)?;
        Ok((residual, out))
    }

    fn add(&mut self, mut residual: CpuTensor, x: CpuTensor) -> Result<CpuTensor> {
        kernels::add(&self.pool, residual.as_mut_slice(), x.as_slice()).map_err(refused)?;
        Ok(residual)
    }

    fn scale(&mut self, mut x: CpuTensor, factor: f32) -> Result<CpuTensor> {
        kernels::scale(&self.pool, x.as_mut_slice(), factor);
        Ok(x)
    }

    fn soft_cap(&mut self, mut x: CpuTensor, cap: f32) -> Result<CpuTensor> {
        kernels::soft_cap(&self.pool, x.as_mut_slice(), cap);
        Ok(x)
    }

    fn qk_norm(
        &mut self,
        q: &CpuNorm,
        k: &CpuNorm,
        spec: &AttentionSpec,
        mut qkv: CpuTensor,
    ) -> Result<CpuTensor> {
        let rows = qkv.rows;
        let keys = spec.num_heads * spec.head_dim;
        for (norm, column, width) in [(q, 0, keys), (k, keys, spec.num_kv_heads * spec.head_dim)] {
            let heads = width / norm.weight.len().max(1);
            kernels::head_rms_norm(&self.pool, qkv.view_mut(column), rows, heads, &norm.weight, norm.eps)
                .map_err(refused)?;
        }
        Ok(qkv)
    }

    fn rope(&mut self, rope: &RopeTable, spec: &AttentionSpec, mut qkv: CpuTensor) -> Result<CpuTensor> {
        let heads = spec.num_heads + spec.num_kv_heads;
        kernels::rope(&self.pool, qkv.view_mut(0), &self.step.positions, heads, spec.head_dim, rope)
            .map_err(refused)?;
        Ok(qkv)
    }

    fn attention(&mut self, spec: &AttentionSpec, qkv: CpuTensor) -> Result<CpuTensor> {
        let Some(cache) = self.caches.get_mut(spec.layer) else {
            return Err(EngineError::Execution(format!("layer {} has no KV cache", spec.layer)));
        };
        let width = spec.num_heads * spec.head_dim;
        let values = width + spec.num_kv_heads * spec.head_dim;
        kernels::reshape_and_cache(&self.pool, qkv.view(width), qkv.view(values), &self.step.slots, cache)
            .map_err(refused)?;
        let AttentionSpec { num_heads, scale, sliding_window, soft_cap, .. } = *spec;
        let params = AttentionParams { num_heads, scale, sliding_window, soft_cap };
        let plan = self.step.plan(&self.pool, cache, &params).map_err(refused)?;
        let mut out = self.buffers.take(qkv.rows, width);
        kernels::paged_attention(&self.pool, qkv.view(0), cache, plan, out.as_mut_slice())
            .map_err(refused)?;
        Ok(out)
    }

    fn activate(&mut self, activation: Activation, mut x: CpuTensor) -> Result<CpuTensor> {
        kernels::activate(&self.pool, activation, x.as_mut_slice());
        Ok(x)
    }

    fn gated(&mut self, activation: Activation, gate_up: CpuTensor) -> Result<CpuTensor> {
        let mut out = self.buffers.take(gate_up.rows, gate_up.width / 2);
        kernels::gated(&self.pool, activation, gate_up.as_slice(), gate_up.rows, out.as_mut_slice())
            .map_err(refused)?;
        Ok(out)
    }

    fn gated_linear(
        &mut self,
        activation: Activation,
        gate_up: &CpuLinear,
        x: &CpuTensor,
    ) -> Result<CpuTensor> {
        // What adapters add comes before the gate.
        if self.adapters_of(gate_up).next().is_some() {
            let gate_up = self.linear(gate_up, x)?;
            return self.gated(activation, gate_up);
        }
        let (weight, bias) = (&gate_up.weight, gate_up.bias.as_deref());
        let mut out = self.buffers.take(x.rows, weight.out_features() / 2);
        kernels::gated_linear(&self.pool, x.view(0), x.rows, weight, bias, activation, out.as_mut_slice())
            .map_err(refused)?;
        Ok(out)
    }

    fn gated_mlp(
        &mut self,
        activation: Activation,
        gate_up: &CpuLinear,
        down: &CpuLinear,
        x: &CpuTensor,
    ) -> Result<CpuTensor> {
        if [gate_up, down].iter().any(|linear| self.adapters_of(linear).next().is_some()) {
            let activated = self.gated_linear(activation, gate_up, x)?;
            return self.linear(down, &activated);
        }
        let [gate_up, down] = [gate_up, down].map(|linear| (&*linear.weight, linear.bias.as_deref()));
        let mut out = self.buffers.take(x.rows, down.0.out_features());
        let mlp = GatedMlp { gate_up, activation, down };
        kernels::gated_mlp(&self.pool, x.view(0), x.rows, &mlp, out.view_mut(0)).map_err(refused)?;
        Ok(out)
    }

    fn route(&mut self, scores: &CpuTensor, experts: &ExpertsConfig) -> Result<Vec<Vec<Route>>> {
        Ok(routes(scores.as_slice(), experts))
    }

    fn zeros(&mut self, rows: usize, width: usize) -> Result<CpuTensor> {
        Ok(self.zeroed(rows, width))
    }

    fn add_rows(&mut self, out: &mut CpuTensor, x: &CpuTensor, routes: &[Route]) -> Result<()> {
        let width = x.width.max(1);
        for (route, x) in routes.iter().zip(x.as_slice().chunks(width)) {
            let start = route.row as usize * width;
            let Some(out) = out.as_mut_slice().get_mut(start..start + width) else {
                return Err(EngineError::Execution(format!("there is no row {}", route.row)));
            };
            out.iter_mut().zip(x).for_each(|(out, x)| *out += route.weight * x);
        }
        Ok(())
    }

    fn narrow(&mut self, rows: &[u32]) -> Result<()> {
        for run in &mut self.step.adapter_runs {
            let place = |token: usize| rows.partition_point(|&row| (row as usize) < token);
            run.tokens = place(run.tokens.start)..place(run.tokens.end);
        }
        self.step.adapter_runs.retain(|run| !run.tokens.is_empty());
        Ok(())
    }

    fn gather_rows(&mut self, x: &CpuTensor, rows: &[u32]) -> Result<CpuTensor> {
        let mut out = self.buffers.take(rows.len(), x.width);
        for (&row, out) in rows.iter().zip(out.as_mut_slice().chunks_mut(x.width.max(1))) {
            let start = row as usize * x.width;
            let Some(row) = x.as_slice().get(start..start + x.width) else {
                return Err(EngineError::Execution(format!("there is no row {row}")));
            };
            out.copy_from_slice(row);
        }
        Ok(out)
    }
}
