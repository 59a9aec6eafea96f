//! The operations a tape records: what each read, what it made, and what its gradient needs besides. Leaves what they
//! compute to `forward` and `backward`.

use rectify_engine::model::backend::AttentionSpec;

use super::buffers::Buffers;
use super::forward::Norm;
use super::logprobs::LogprobsOp;
use super::tape::Tensor;

/// An operation. Running it again gives the same bits.
#[derive(Debug)]
pub(super) enum Op {
    Embed {
        table: usize,
        ids: Vec<u32>,
        out: Tensor,
    },
    Linear {
        x: Tensor,
        linear: usize,
        /// Adapters take part.
        adapted: bool,
        dropout_seed: u64,
        /// `dropout(x) Aᵀ` of each adapter.
        mids: Vec<Vec<f32>>,
        out: Tensor,
    },
    RmsNorm {
        x: Tensor,
        norm: Norm,
        rstd: Vec<f32>,
        out: Tensor,
    },
    AddRmsNorm {
        residual: Tensor,
        x: Tensor,
        sum: Tensor,
        norm: Norm,
        rstd: Vec<f32>,
        out: Tensor,
    },
    Add {
        residual: Tensor,
        x: Tensor,
        sum: Tensor,
    },
    QkNorm {
        x: Tensor,
        spec: AttentionSpec,
        norms: [Norm; 2],
        rstd: [Vec<f32>; 2],
        out: Tensor,
    },
    Rope {
        x: Tensor,
        rope: usize,
        spec: AttentionSpec,
        out: Tensor,
    },
    Attention {
        qkv: Tensor,
        spec: AttentionSpec,
        lse: Vec<f32>,
        out: Tensor,
    },
    SwiGlu {
        gate_up: Tensor,
        out: Tensor,
    },
    GatherRows {
        x: Tensor,
        rows: Vec<u32>,
        out: Tensor,
    },
    Logprobs(LogprobsOp),
}

impl Op {
    /// What it made.
    pub(super) fn outputs(&self) -> [Option<Tensor>; 2] {
        match self {
            Self::AddRmsNorm { sum, out, .. } => [Some(*sum), Some(*out)],
            Self::Add { sum, .. } => [Some(*sum), None],
            Self::Embed { out, .. }
            | Self::Linear { out, .. }
            | Self::RmsNorm { out, .. }
            | Self::QkNorm { out, .. }
            | Self::Rope { out, .. }
            | Self::Attention { out, .. }
            | Self::SwiGlu { out, .. }
            | Self::GatherRows { out, .. } => [Some(*out), None],
            Self::Logprobs(op) => op.outputs().map(Some),
        }
    }

    /// Gives back what it kept for its gradient.
    pub(super) fn forget(&mut self, buffers: &mut Buffers) {
        let mut give = |kept: &mut Vec<f32>| buffers.give(std::mem::take(kept));
        match self {
            Self::Linear { mids, .. } => mids.drain(..).for_each(|mut mid| give(&mut mid)),
            Self::RmsNorm { rstd, .. } | Self::AddRmsNorm { rstd, .. } => give(rstd),
            Self::QkNorm { rstd, .. } => rstd.iter_mut().for_each(give),
            Self::Attention { lse, .. } => give(lse),
            Self::Logprobs(op) => op.logits.drain(..).for_each(|mut logits| give(&mut logits)),
            Self::Embed { .. }
            | Self::Add { .. }
            | Self::Rope { .. }
            | Self::SwiGlu { .. }
            | Self::GatherRows { .. } => {}
        }
    }
}
