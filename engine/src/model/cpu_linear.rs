//! A packed projection of the CPU backend. Leaves the product to `cpu`.

use std::sync::Arc;

use rectify_kernels::PackedLinear;

/// A packed projection.
#[derive(Debug)]
pub struct CpuLinear {
    pub(super) weight: Arc<PackedLinear>,
    /// `[out_features]`.
    pub(super) bias: Option<Vec<f32>>,
    /// Where adapters look for it; `None` for heads.
    pub(super) projection: Option<usize>,
}

impl CpuLinear {
    /// A projection that no adapter changes.
    pub(super) fn unadapted(weight: Arc<PackedLinear>, bias: Option<Vec<f32>>) -> Self {
        Self { weight, bias, projection: None }
    }

    /// Weight and bias.
    pub(super) fn parts(&self) -> (&PackedLinear, Option<&[f32]>) {
        (&self.weight, self.bias.as_deref())
    }
}
