//! What the decoder asks of the machine: the few operations it is made of, over a backend's own tensors. Serving runs
//! them on packed weights and the paged cache, training on an autograd tape; the decoder is written once. Leaves
//! batches to the backends: each knows the positions and sequences of the tokens it is about to see.

use std::borrow::Cow;

use rectify_kernels::{Activation, BlockKind};

use super::config::{ExpertsConfig, ModelConfig};
use super::mmap::MappedFile;
use super::rope::Rope;
use crate::EngineError;

/// A result of the model.
pub type Result<T> = std::result::Result<T, EngineError>;

/// One named matrix of a checkpoint, as stored: `[out_features, in_features]`, row-major.
#[derive(Clone, Debug)]
pub struct Matrix<'a> {
    /// Its module's name without `.weight`, e.g. `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// Rows.
    pub out_features: usize,
    /// Columns.
    pub in_features: usize,
    /// The values.
    pub values: Values<'a>,
    /// `[out_features]`.
    pub bias: Option<Vec<f32>>,
    /// The file the values are borrowed from, if it is mapped.
    pub file: Option<&'a MappedFile>,
}

/// Stored numbers.
#[derive(Clone, Debug)]
pub enum Values<'a> {
    /// Single precision.
    F32(Cow<'a, [f32]>),
    /// bfloat16.
    Bf16(Cow<'a, [half::bf16]>),
    /// Blocks of few bits.
    Blocks(BlockKind, Cow<'a, [u8]>),
}

impl Values<'_> {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::Blocks(kind, bytes) => bytes.len() / kind.num_bytes() * kind.num_values(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether they lie where they are stored.
    pub fn is_borrowed(&self) -> bool {
        match self {
            Self::F32(values) => matches!(values, Cow::Borrowed(_)),
            Self::Bf16(values) => matches!(values, Cow::Borrowed(_)),
            Self::Blocks(_, bytes) => matches!(bytes, Cow::Borrowed(_)),
        }
    }

    /// The same values, borrowed.
    pub fn reborrow(&self) -> Values<'_> {
        match self {
            Self::F32(values) => Values::F32(Cow::Borrowed(values)),
            Self::Bf16(values) => Values::Bf16(Cow::Borrowed(values)),
            Self::Blocks(kind, bytes) => Values::Blocks(*kind, Cow::Borrowed(bytes)),
        }
    }

    /// In single precision.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::F32(values) => values.into_owned(),
            Self::Bf16(values) => values.iter().map(|value| value.to_f32()).collect(),
            Self::Blocks(kind, bytes) => kind.numbers(&bytes),
        }
    }
}

/// The attention of one layer. Fused rows are `[q heads | k heads | v heads]`, each head `head_dim` wide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Index of the layer (of its KV cache).
    pub layer: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Scores are multiplied by this.
    pub scale: f32,
    /// Attend to this many last tokens only.
    pub sliding_window: Option<usize>,
    /// `cap · tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

/// A row and one of the experts it chose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Route {
    /// The row.
    pub row: u32,
    /// What the expert's answer is multiplied by.
    pub weight: f32,
}

fn unsupported<T>(what: &str) -> Result<T> {
    Err(EngineError::Execution(format!("this backend does not know {what}")))
}

/// The operations of a decoder. Tensors are `[rows, width]`; a row is a token of the current batch, in order.
pub trait Backend {
    /// Activations.
    type Tensor;
    /// A projection: one matrix, or several fused row-wise (`q_proj`, `k_proj`, `v_proj`), with its biases and whatever
    /// adapters apply.
    type Linear;
    /// The weight of a norm, `[width]`.
    type Norm;
    /// Precomputed rotations.
    type Rope;

    /// Takes the matrices of one projection, to be stacked along the output.
    fn new_linear(&mut self, parts: Vec<Matrix<'_>>) -> Result<Self::Linear>;
    /// Takes the weight of the norm `name` (without `.weight`); with a bias it is a layer norm, else of the root mean
    /// square.
    fn new_norm(
        &mut self,
        name: &str,
        weight: Vec<f32>,
        bias: Option<Vec<f32>>,
        eps: f32,
    ) -> Result<Self::Norm>;
    /// Prepares rotations for sequences of up to `max_positions`.
    fn new_rope(&mut self, rope: &Rope, max_positions: usize) -> Result<Self::Rope>;
    /// Says which model is about to be loaded.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the field of a model that is not supported.
    fn accept(&mut self, _: &ModelConfig) -> Result<()> {
        Ok(())
    }

    /// Says that a layer begins: of the layers before it only the residual stream, and what the last of them adds to it,
    /// is read again. For backends that remember.
    fn start_layer(&mut self) {}

    /// Rows `ids` of a projection's matrix: `[ids.len(), in_features]`. A tied embedding is stored once.
    fn embed(&mut self, table: &Self::Linear, ids: &[u32]) -> Result<Self::Tensor>;
    /// `x Wᵀ + b`, plus adapters.
    fn linear(&mut self, weight: &Self::Linear, x: &Self::Tensor) -> Result<Self::Tensor>;
    /// The rows of a table of positions that the batch's tokens stand at.
    fn embed_positions(&mut self, _table: &Self::Linear) -> Result<Self::Tensor> {
        unsupported("learned positions")
    }
    /// Norm of each row.
    fn norm(&mut self, norm: &Self::Norm, x: &Self::Tensor) -> Result<Self::Tensor>;
    /// `residual + x`, and its norm.
    fn add_norm(
        &mut self,
        norm: &Self::Norm,
        residual: Self::Tensor,
        x: Self::Tensor,
    ) -> Result<(Self::Tensor, Self::Tensor)>;
    /// `residual + x`.
    fn add(&mut self, residual: Self::Tensor, x: Self::Tensor) -> Result<Self::Tensor>;
    /// `factor · x`.
    fn scale(&mut self, _x: Self::Tensor, _factor: f32) -> Result<Self::Tensor> {
        unsupported("factors of tensors")
    }
    /// `cap · tanh(x / cap)`.
    fn soft_cap(&mut self, _x: Self::Tensor, _cap: f32) -> Result<Self::Tensor> {
        unsupported("capped logits")
    }
    /// Norm of queries by `q` and keys by `k`, in fused rows: of each head, or of all heads together, as the width of
    /// the norms says.
    fn qk_norm(
        &mut self,
        q: &Self::Norm,
        k: &Self::Norm,
        spec: &AttentionSpec,
        qkv: Self::Tensor,
    ) -> Result<Self::Tensor>;
    /// Rotates query and key heads of fused rows by their tokens' positions.
    fn rope(&mut self, rope: &Self::Rope, spec: &AttentionSpec, qkv: Self::Tensor) -> Result<Self::Tensor>;
    /// Causal attention of fused rows: `[rows, num_heads * head_dim]`.
    fn attention(&mut self, spec: &AttentionSpec, qkv: Self::Tensor) -> Result<Self::Tensor>;
    /// `f(x)`.
    fn activate(&mut self, _activation: Activation, _x: Self::Tensor) -> Result<Self::Tensor> {
        unsupported("an MLP without a gate")
    }
    /// `f(gate) · up` of fused rows `[gate | up]`: half the width.
    fn gated(&mut self, activation: Activation, gate_up: Self::Tensor) -> Result<Self::Tensor>;
    /// [`Backend::gated`] of [`Backend::linear`].
    ///
    /// # Errors
    /// As both.
    fn gated_linear(
        &mut self,
        activation: Activation,
        gate_up: &Self::Linear,
        x: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        let gate_up = self.linear(gate_up, x)?;
        self.gated(activation, gate_up)
    }
    /// [`Backend::linear`] by `down` of [`Backend::gated_linear`] by `gate_up`.
    ///
    /// # Errors
    /// As both.
    fn gated_mlp(
        &mut self,
        activation: Activation,
        gate_up: &Self::Linear,
        down: &Self::Linear,
        x: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        let activated = self.gated_linear(activation, gate_up, x)?;
        self.linear(down, &activated)
    }
    /// For each expert the rows that chose it, ascending, by `scores`, `[rows, count]`.
    fn route(&mut self, _scores: &Self::Tensor, _experts: &ExpertsConfig) -> Result<Vec<Vec<Route>>> {
        unsupported("mixtures of experts")
    }
    /// `rows × width` zeros.
    fn zeros(&mut self, _rows: usize, _width: usize) -> Result<Self::Tensor> {
        unsupported("mixtures of experts")
    }
    /// `out[route.row] += route.weight · x[i]` for each route `i`.
    fn add_rows(&mut self, _out: &mut Self::Tensor, _x: &Self::Tensor, _routes: &[Route]) -> Result<()> {
        unsupported("mixtures of experts")
    }
    /// Picks rows.
    fn gather_rows(&mut self, x: &Self::Tensor, rows: &[u32]) -> Result<Self::Tensor>;
    /// Says that projections will see only the tokens `rows` of the batch from here on, ascending. Only for
    /// [`super::decoder::Decoder::hidden_rows`]; a backend that is not asked for rows need not know it.
    ///
    /// # Errors
    /// [`EngineError::Execution`] if the backend cannot.
    fn narrow(&mut self, rows: &[u32]) -> Result<()> {
        Err(EngineError::Execution(format!("this backend cannot narrow its batch to {} rows", rows.len())))
    }
}
