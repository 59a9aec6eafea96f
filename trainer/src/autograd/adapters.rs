//! Low-rank adapters of projections, forward and backward. Leaves the base's products to `forward` and `backward`.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rectify_kernels::train::{self, Term, View};

use super::backward::product;
use super::params::{ParamId, Part};
use super::tape::{Tape, Tensor};

/// Adapters to put on the projections of a model as it is loaded.
#[derive(Clone, Debug)]
pub struct LoraSettings {
    /// Rank.
    pub rank: usize,
    /// `alpha / rank`.
    pub scale: f32,
    /// Share of inputs dropped.
    pub dropout: f32,
    /// Last parts of the names of the projections that get one.
    pub target_modules: Vec<String>,
    /// Decides the start of `lora_a`; `lora_b` starts at zero.
    pub seed: u64,
}

/// The adapter of one matrix of a projection.
#[derive(Clone, Debug)]
pub(super) struct LoraPart {
    /// First output column.
    pub(super) column: usize,
    pub(super) out_features: usize,
    /// `[rank, in_features]`.
    pub(super) a: ParamId,
    /// `[out_features, rank]`.
    pub(super) b: ParamId,
}

/// What adapter `index` of an operation drops.
fn lora_seed(operation: u64, index: usize) -> u64 {
    operation.wrapping_add((index as u64 + 1).wrapping_mul(0xA076_1D64_78BD_642F))
}

impl Tape {
    /// Makes the adapter of the matrix `module` if it gets one; `shape` is its first column, outputs and inputs.
    pub(super) fn new_lora(&mut self, module: &str, shape: (usize, usize, usize)) -> Option<LoraPart> {
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

    /// Rank, scale and the share that is dropped in this pass.
    fn lora_numbers(&self) -> (usize, f32, f32) {
        let Some(lora) = &self.lora else { return (0, 0.0, 0.0) };
        (lora.rank, lora.scale, if self.recording { lora.dropout } else { 0.0 })
    }

    /// `dropout(x) Aᵀ` of each adapter.
    pub(super) fn lora_mids(&mut self, adapters: &[LoraPart], x: Tensor, dropout_seed: u64) -> Vec<Vec<f32>> {
        let (rank, _, _) = self.lora_numbers();
        let mut mids = Vec::with_capacity(adapters.len());
        for (index, adapter) in adapters.iter().enumerate() {
            let mut mid = self.buffers.take(x.rows * rank);
            let dropped = self.dropped(x, lora_seed(dropout_seed, index));
            let input = dropped.as_ref().unwrap_or(&self.values[x.id]);
            let a = View::rows(&self.params.get(adapter.a).data, x.width).t();
            let down = product((x.rows, rank, x.width), View::rows(input, x.width), a.into(), 1.0, false);
            train::gemm(&self.pool, &down, &mut mid, rank);
            dropped.into_iter().for_each(|buffer| self.buffers.give(buffer));
            mids.push(mid);
        }
        mids
    }

    /// What the adapters add to a projection: `scale · mid Bᵀ` each in its columns.
    pub(super) fn lora_terms<'a>(&'a self, adapters: &'a [LoraPart], mids: &'a [Vec<f32>]) -> Vec<Term<'a>> {
        let (rank, scale, _) = self.lora_numbers();
        let term = |(adapter, mid): (&LoraPart, &'a Vec<f32>)| Term {
            columns: adapter.column..adapter.column + adapter.out_features,
            k: rank,
            a: View::rows(mid, rank),
            b: View::rows(&self.params.get(adapter.b).data, rank).t().into(),
            alpha: scale,
        };
        adapters.iter().zip(mids).map(term).collect()
    }

    /// Adds the gradients of the adapters' matrices; returns those of what lies between them, `scale · dY B`.
    pub(super) fn lora_backward(
        &mut self,
        adapters: &[LoraPart],
        x: Tensor,
        dropout_seed: u64,
        (grad, width): (&[f32], usize),
        mids: &[Vec<f32>],
    ) -> Vec<Vec<f32>> {
        let (rank, scale, _) = self.lora_numbers();
        let mut grad_mids = Vec::with_capacity(adapters.len());
        for (index, (adapter, mid)) in adapters.iter().zip(mids).enumerate() {
            let (rows, outputs) = (x.rows, adapter.out_features);
            let grad = View::rows(&grad[adapter.column..], width);
            let b = self.params.get_mut(adapter.b);
            let mut grad_mid = self.buffers.take(rows * rank);
            let down = product((rows, rank, outputs), grad, View::rows(&b.data, rank).into(), scale, false);
            train::gemm(&self.pool, &down, &mut grad_mid, rank);
            let grad_b = product((outputs, rank, rows), grad.t(), View::rows(mid, rank).into(), scale, true);
            train::gemm(&self.pool, &grad_b, &mut b.grad, rank);

            let dropped = self.dropped(x, lora_seed(dropout_seed, index));
            let input = dropped.as_ref().unwrap_or(&self.values[x.id]);
            let (left, right) = (View::rows(&grad_mid, rank).t(), View::rows(input, x.width));
            let grad_a = product((rank, x.width, rows), left, right.into(), 1.0, true);
            train::gemm(&self.pool, &grad_a, &mut self.params.get_mut(adapter.a).grad, x.width);
            dropped.into_iter().for_each(|buffer| self.buffers.give(buffer));
            grad_mids.push(grad_mid);
        }
        grad_mids
    }

    /// What the adapters add to the gradient of their input where nothing is dropped: `grad_mid A` each.
    pub(super) fn lora_grad_terms<'a>(
        &'a self,
        adapters: &'a [LoraPart],
        x: Tensor,
        grad_mids: &'a [Vec<f32>],
    ) -> Vec<Term<'a>> {
        let (rank, _, dropout) = self.lora_numbers();
        if dropout > 0.0 {
            return Vec::new();
        }
        let term = |(adapter, grad_mid): (&LoraPart, &'a Vec<f32>)| Term {
            columns: 0..x.width,
            k: rank,
            a: View::rows(grad_mid, rank),
            b: View::rows(&self.params.get(adapter.a).data, x.width).into(),
            alpha: 1.0,
        };
        adapters.iter().zip(grad_mids).map(term).collect()
    }

    /// As [`Tape::lora_grad_terms`] where something is dropped: `dropout(grad_mid A)`, added to `grad_x`.
    pub(super) fn lora_grad_dropped(
        &mut self,
        adapters: &[LoraPart],
        x: Tensor,
        dropout_seed: u64,
        grad_mids: &[Vec<f32>],
        grad_x: &mut [f32],
    ) {
        let (rank, _, dropout) = self.lora_numbers();
        if dropout == 0.0 {
            return;
        }
        for (index, (adapter, grad_mid)) in adapters.iter().zip(grad_mids).enumerate() {
            let mut undropped = self.buffers.take(grad_x.len());
            let a = View::rows(&self.params.get(adapter.a).data, x.width);
            let up = product((x.rows, x.width, rank), View::rows(grad_mid, rank), a.into(), 1.0, false);
            train::gemm(&self.pool, &up, &mut undropped, x.width);
            train::dropout(&self.pool, &undropped, dropout, lora_seed(dropout_seed, index), true, grad_x);
            self.buffers.give(undropped);
        }
    }

    /// `dropout(x)`, or `None` where nothing is dropped.
    fn dropped(&mut self, x: Tensor, seed: u64) -> Option<Vec<f32>> {
        let (_, _, dropout) = self.lora_numbers();
        (dropout > 0.0).then(|| {
            let mut dropped = self.buffers.take(x.rows * x.width);
            train::dropout(&self.pool, &self.values[x.id], dropout, seed, false, &mut dropped);
            dropped
        })
    }
}
