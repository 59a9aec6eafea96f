//! The tape: weights, values of a forward pass, the operations that made them, and the packed batch they belong to.
//! Leaves what operations compute to `forward` and `backward`.

use std::rc::Rc;
use std::sync::Arc;

use rectify_engine::model::weights::WeightStore;
use rectify_kernels::train::{Factor, Precision, View};
use rectify_kernels::{PackedLinear, Pool, WeightDtype};

use super::adapters::{LoraPart, LoraSettings};
use super::batch::PackedBatch;
use super::buffers::Buffers;
use super::ops::Op;
use super::params::{ParamId, Params};
use super::segments::Segment;
use crate::config::MixedPrecision;

/// A value on the tape: `[rows, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub(super) id: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub width: usize,
}

/// How weights that are not trained are held, and where.
#[derive(Clone, Debug, Default)]
pub struct FrozenBase {
    /// Projections of layers; `None` is as they are stored, half precision as bfloat16 where that loses nothing.
    pub dtype: Option<WeightDtype>,
    /// How products with them are computed.
    pub mixed_precision: MixedPrecision,
    /// Shared with others who hold the same model: an engine that serves it.
    pub store: WeightStore,
}

/// The stacked matrix of a projection.
#[derive(Clone, Debug)]
pub(super) enum Weight {
    Trained(ParamId),
    /// Only the gradient to the input goes through it.
    Frozen(Arc<PackedLinear>, Precision),
}

/// A projection: its stacked matrix, bias and adapters.
#[derive(Debug)]
pub(super) struct LinearData {
    pub(super) weight: Weight,
    pub(super) bias: Option<ParamId>,
    pub(super) in_features: usize,
    pub(super) out_features: usize,
    pub(super) lora: Vec<LoraPart>,
}

impl LinearData {
    pub(super) fn is_trained(&self) -> bool {
        matches!(self.weight, Weight::Trained(_))
    }

    /// The matrix `W` from output `first` on, `[out_features - first, in_features]`.
    pub(super) fn matrix<'a>(&'a self, params: &'a Params, first: usize) -> Factor<'a> {
        match &self.weight {
            Weight::Trained(id) => {
                View::rows(&params.get(*id).data[first * self.in_features..], self.in_features).into()
            }
            Weight::Frozen(weights, precision) => Factor::packed(weights, first, *precision),
        }
    }
}

/// The decoder's training backend. Its batch is set with [`Tape::begin`].
#[derive(Debug)]
pub struct Tape {
    pub(super) pool: Arc<Pool>,
    /// Weights that are trained, and small ones that are not.
    pub params: Params,
    pub(super) linears: Vec<Rc<LinearData>>,
    /// Cosines and sines, and pairs of dimensions that turn.
    pub(super) ropes: Vec<(Vec<f32>, Vec<f32>, usize)>,
    pub(super) lora: Option<LoraSettings>,
    pub(super) base: FrozenBase,
    pub(super) checkpointing: bool,
    pub(super) adapted: bool,
    pub(super) batch: Rc<PackedBatch>,
    /// Whether gradients will be asked for.
    pub(super) recording: bool,
    pub(super) dropout_seed: u64,
    pub(super) ops: Vec<Op>,
    pub(super) values: Vec<Vec<f32>>,
    pub(super) needs_grad: Vec<bool>,
    pub(super) grads: Vec<Option<Rc<Vec<f32>>>>,
    /// Layers of which only the input is kept, from the input up.
    pub(super) segments: Vec<Segment>,
    /// The layer in hand.
    pub(super) open: Option<Segment>,
    /// The layer before, until the layer in hand has read its result.
    pub(super) ended: Option<Segment>,
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
            base: FrozenBase::default(),
            checkpointing: false,
            adapted: true,
            batch: Rc::default(),
            recording: false,
            dropout_seed: 0,
            ops: Vec::new(),
            values: Vec::new(),
            needs_grad: Vec::new(),
            grads: Vec::new(),
            segments: Vec::new(),
            open: None,
            ended: None,
            buffers: Buffers::default(),
        }
    }

    /// Sets how projections that are frozen will be held; for those loaded afterwards.
    #[must_use]
    pub fn with_base(self, base: FrozenBase) -> Self {
        Self { base, ..self }
    }

    /// How frozen projections are held, and the store an engine that serves the same model may share.
    pub fn base(&self) -> &FrozenBase {
        &self.base
    }

    /// Keeps only the input of each layer for the backward pass, which then runs the layer again: the same bits for
    /// less memory and a third more work.
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.checkpointing = on;
    }

    /// Keeps adapters from dropping inputs.
    pub fn disable_dropout(&mut self) {
        if let Some(lora) = &mut self.lora {
            lora.dropout = 0.0;
        }
    }

    /// Whether adapters take part in the passes that follow. Without them the model is the one they started from: the
    /// reference policy.
    pub fn set_adapters(&mut self, on: bool) {
        self.adapted = on;
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

    /// Values of a tensor of this pass. Inside of a layer they may be gone once the next has begun.
    pub fn value(&self, tensor: Tensor) -> &[f32] {
        &self.values[tensor.id]
    }

    /// Numbers in all weights, frozen or not.
    pub fn num_parameters(&self) -> usize {
        let frozen = |linear: &Rc<LinearData>| match linear.is_trained() {
            true => 0,
            false => linear.in_features * linear.out_features,
        };
        self.params.num_elements() + self.linears.iter().map(frozen).sum::<usize>()
    }

    /// Bytes of activations and gradients, in use or spare.
    pub fn num_bytes(&self) -> usize {
        let values: usize = self.values.iter().map(|value| 4 * value.capacity()).sum();
        values + self.buffers.num_bytes()
    }

    /// A tensor whose value is still to come.
    pub(super) fn declare(&mut self, rows: usize, width: usize, needs_grad: bool) -> Tensor {
        let tensor = Tensor { id: self.values.len(), rows, width };
        self.values.push(Vec::new());
        self.needs_grad.push(needs_grad);
        tensor
    }

    /// Keeps an operation for the backward pass, if there will be one.
    pub(super) fn record(&mut self, mut op: Op) {
        if self.recording {
            self.ops.push(op);
        } else {
            op.forget(&mut self.buffers);
        }
    }

    pub(super) fn reset(&mut self) {
        for mut op in std::mem::take(&mut self.ops) {
            op.forget(&mut self.buffers);
        }
        for value in std::mem::take(&mut self.values) {
            self.buffers.give(value);
        }
        for grad in std::mem::take(&mut self.grads).into_iter().flatten() {
            self.release(grad);
        }
        self.needs_grad.clear();
        self.segments.clear();
        (self.open, self.ended) = (None, None);
    }

    pub(super) fn release(&mut self, grad: Rc<Vec<f32>>) {
        if let Ok(buffer) = Rc::try_unwrap(grad) {
            self.buffers.give(buffer);
        }
    }
}
