//! Low-rank adapters of projections, forward and backward. Leaves the base's products to `forward` and `backward`.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rectify_engine::model::layout::find_projection;
use rectify_kernels::train::{self, Dropout, Orientation, Term, Thin, View, WideRows};

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

impl Tape {
    /// Makes the adapter of the matrix `module` if it gets one; `shape` is its first column, outputs and inputs.
    pub(super) fn new_lora(&mut self, module: &str, shape: (usize, usize, usize)) -> Option<LoraPart> {
        let (column, out_features, in_features) = shape;
        let lora = self.lora.as_ref()?;
        let short = module.rsplit('.').next().unwrap_or(module);
        if find_projection(module).is_none() || !lora.target_modules.iter().any(|target| target == short) {
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

    /// What adapter `index` of an operation drops of its input.
    fn lora_dropout(&self, operation: u64, index: usize) -> Option<Dropout> {
        let (_, _, p) = self.lora_numbers();
        let seed = operation.wrapping_add((index as u64 + 1).wrapping_mul(0xA076_1D64_78BD_642F));
        (p > 0.0).then_some(Dropout { p, seed })
    }

    fn lora_input(&self, x: Tensor, dropout: Option<Dropout>) -> WideRows<'_> {
        WideRows { data: &self.values[x.id], stride: x.width, width: x.width, dropout }
    }

    /// `dropout(x) Aᵀ` of each adapter.
    pub(super) fn lora_mids(&mut self, adapters: &[LoraPart], x: Tensor, dropout_seed: u64) -> Vec<Vec<f32>> {
        let (rank, _, _) = self.lora_numbers();
        let mut mids = Vec::with_capacity(adapters.len());
        for (index, adapter) in adapters.iter().enumerate() {
            let mut mid = self.buffers.take(x.rows * rank);
            let input = self.lora_input(x, self.lora_dropout(dropout_seed, index));
            let a = Thin::transposed(&self.params.get(adapter.a).data, rank, x.width);
            train::thin_product(&self.pool, input, a, 1.0, &mut mid);
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
        (grad, stride): (&[f32], usize),
        mids: &[Vec<f32>],
    ) -> Vec<Vec<f32>> {
        let (rank, scale, _) = self.lora_numbers();
        let mut grad_mids = Vec::with_capacity(adapters.len());
        for (index, (adapter, mid)) in adapters.iter().zip(mids).enumerate() {
            let data = grad.get(adapter.column..).unwrap_or_default();
            let grad = WideRows { data, stride, width: adapter.out_features, dropout: None };
            let b = self.params.get_mut(adapter.b);
            let mut grad_mid = self.buffers.take(x.rows * rank);
            train::thin_product(&self.pool, grad, Thin::rows(&b.data, rank), scale, &mut grad_mid);
            let grad_b = (b.grad.as_mut_slice(), Orientation::Tall);
            train::thin_outer(&self.pool, (grad, x.rows), Thin::rows(mid, rank), scale, grad_b);

            let dropout = self.lora_dropout(dropout_seed, index);
            let input = WideRows { data: &self.values[x.id], stride: x.width, width: x.width, dropout };
            let grad_a = (self.params.get_mut(adapter.a).grad.as_mut_slice(), Orientation::Wide);
            train::thin_outer(&self.pool, (input, x.rows), Thin::rows(&grad_mid, rank), 1.0, grad_a);
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
        &self,
        adapters: &[LoraPart],
        x: Tensor,
        dropout_seed: u64,
        grad_mids: &[Vec<f32>],
        grad_x: &mut [f32],
    ) {
        for (index, (adapter, grad_mid)) in adapters.iter().zip(grad_mids).enumerate() {
            let Some(dropout) = self.lora_dropout(dropout_seed, index) else { return };
            train::thin_expand(
                &self.pool,
                grad_mid,
                &self.params.get(adapter.a).data,
                dropout,
                grad_x,
                x.width,
            );
        }
    }
}
