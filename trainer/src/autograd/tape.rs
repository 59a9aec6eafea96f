//! The tape: values of a forward pass, the operations that made them, and the packed batch they belong to. Leaves what
//! operations compute to `forward` and `backward`.

use std::rc::Rc;
use std::sync::Arc;

use rectify_engine::model::backend::AttentionSpec;
use rectify_kernels::Pool;

use super::buffers::Buffers;
use super::logprobs::LogprobsOp;
use super::params::{ParamId, Params};

/// A value on the tape: `[rows, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub(super) id: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub width: usize,
}

/// Sequences laid end to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedBatch {
    /// Token ids, `[num_tokens]`.
    pub ids: Vec<u32>,
    /// Position of each token in its sequence, `[num_tokens]`.
    pub positions: Vec<u32>,
    /// Sequence `i` is tokens `cu_seqlens[i]..cu_seqlens[i + 1]`.
    pub cu_seqlens: Vec<u32>,
}

impl PackedBatch {
    /// Packs sequences.
    pub fn new<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut batch = Self { cu_seqlens: vec![0], ..Self::default() };
        for ids in sequences {
            batch.ids.extend_from_slice(ids);
            batch.positions.extend(0..ids.len() as u32);
            batch.cu_seqlens.push(batch.ids.len() as u32);
        }
        batch
    }
}

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

/// A projection: its stacked matrix, bias and adapters.
#[derive(Clone, Debug)]
pub(super) struct LinearData {
    pub(super) weight: ParamId,
    pub(super) bias: Option<ParamId>,
    pub(super) in_features: usize,
    pub(super) out_features: usize,
    pub(super) lora: Vec<LoraPart>,
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

/// An operation: what it read, what it made, and what its gradient needs besides.
#[derive(Debug)]
pub(super) enum Op {
    Embed { table: ParamId, ids: Vec<u32>, out: Tensor },
    Linear { x: Tensor, linear: usize, mids: Vec<Vec<f32>>, dropout_seed: u64, out: Tensor },
    RmsNorm { x: Tensor, norm: ParamId, rstd: Vec<f32>, out: Tensor },
    AddRmsNorm { residual: Tensor, x: Tensor, sum: Tensor, norm: ParamId, rstd: Vec<f32>, out: Tensor },
    QkNorm { x: Tensor, spec: AttentionSpec, norms: [ParamId; 2], rstd: [Vec<f32>; 2], out: Tensor },
    Rope { x: Tensor, rope: usize, spec: AttentionSpec, out: Tensor },
    Attention { qkv: Tensor, spec: AttentionSpec, lse: Vec<f32>, out: Tensor },
    SwiGlu { gate_up: Tensor, out: Tensor },
    GatherRows { x: Tensor, rows: Vec<u32>, out: Tensor },
    Logprobs(LogprobsOp),
}

/// The decoder's training backend. Its batch is set with [`Tape::begin`].
#[derive(Debug)]
pub struct Tape {
    pub(super) pool: Arc<Pool>,
    /// Weights and their gradients.
    pub params: Params,
    pub(super) linears: Vec<LinearData>,
    pub(super) ropes: Vec<(Vec<f32>, Vec<f32>)>,
    pub(super) lora: Option<LoraSettings>,
    pub(super) batch: Rc<PackedBatch>,
    /// Whether gradients will be asked for.
    pub(super) recording: bool,
    pub(super) dropout_seed: u64,
    pub(super) ops: Vec<Op>,
    pub(super) values: Vec<Vec<f32>>,
    pub(super) needs_grad: Vec<bool>,
    pub(super) grads: Vec<Option<Rc<Vec<f32>>>>,
    pub(super) buffers: Buffers,
}

impl Tape {
    /// A tape without weights. With `lora`, projections loaded onto it are frozen and get adapters; without, every
    /// weight is trained.
    pub fn new(pool: Arc<Pool>, lora: Option<LoraSettings>) -> Self {
        Self {
            pool,
            params: Params::default(),
            linears: Vec::new(),
            ropes: Vec::new(),
            lora,
            batch: Rc::default(),
            recording: false,
            dropout_seed: 0,
            ops: Vec::new(),
            values: Vec::new(),
            needs_grad: Vec::new(),
            grads: Vec::new(),
            buffers: Buffers::default(),
        }
    }

    /// Forgets the last pass and sets the batch of the next. `train` asks for gradients and dropout; `dropout_seed`
    /// decides what is dropped.
    pub fn begin(&mut self, batch: PackedBatch, train: bool, dropout_seed: u64) {
        self.reset();
        self.batch = Rc::new(batch);
        self.recording = train;
        self.dropout_seed = dropout_seed;
    }

    /// Token ids of the batch.
    pub fn ids(&self) -> Rc<PackedBatch> {
        Rc::clone(&self.batch)
    }

    /// The threads.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Values of a tensor of this pass.
    pub fn value(&self, tensor: Tensor) -> &[f32] {
        &self.values[tensor.id]
    }

    pub(super) fn push(&mut self, value: Vec<f32>, width: usize, needs_grad: bool) -> Tensor {
        let tensor = Tensor { id: self.values.len(), rows: value.len() / width.max(1), width };
        self.values.push(value);
        self.needs_grad.push(needs_grad);
        tensor
    }

    pub(super) fn record(&mut self, op: Op) {
        if self.recording {
            self.ops.push(op);
        }
    }

    /// Bytes of activations and gradients, in use or spare.
    pub fn num_bytes(&self) -> usize {
        let values: usize = self.values.iter().map(|value| 4 * value.capacity()).sum();
        values + self.buffers.num_bytes()
    }

    pub(super) fn reset(&mut self) {
        for op in std::mem::take(&mut self.ops) {
            let extra = match op {
                Op::Linear { mids, .. } => mids,
                Op::Logprobs(op) => op.logits,
                _ => Vec::new(),
            };
            extra.into_iter().for_each(|buffer| self.buffers.give(buffer));
        }
        for value in std::mem::take(&mut self.values) {
            self.buffers.give(value);
        }
        for grad in std::mem::take(&mut self.grads).into_iter().flatten() {
            self.release(grad);
        }
        self.needs_grad.clear();
    }

    pub(super) fn release(&mut self, grad: Rc<Vec<f32>>) {
        if let Ok(buffer) = Rc::try_unwrap(grad) {
            self.buffers.give(buffer);
        }
    }
}
