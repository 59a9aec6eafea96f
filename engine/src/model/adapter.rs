//! LoRA adapters ready to run: low-rank pairs packed by projection, an optional score head, a version. Leaves PEFT's
//! folders to `peft` and the choice of adapter to the scheduler.

use std::sync::Arc;

use rectify_kernels::{KernelError, PackedLinear, Pool, Values, WeightDtype};

use super::backend::Result;
use super::config::ModelConfig;
use super::layout::{self, Projection};
use super::peft::PeftAdapter;
use super::source::ModelSource;
use crate::EngineError;

/// An immutable, content-hashed LoRA adapter.
#[derive(Debug)]
pub struct Adapter {
    /// Name, version and content hash.
    pub info: AdapterInfo,
    /// By [`Projection::index`].
    projections: Vec<Option<LoraProjection>>,
    /// `[1, hidden_size]`.
    score_head: Option<PackedLinear>,
}

/// What people see of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterInfo {
    /// The name requests use.
    pub name: Arc<str>,
    /// First 12 hex digits of the content's SHA-256, or the number its registry gave it.
    pub version: Arc<str>,
    /// SHA-256 of the content: what keys and values are cached by.
    pub content_hash: Arc<str>,
    /// LoRA rank (the largest, if modules differ).
    pub rank: usize,
    /// Has a score head: it is a reward model on the policy's base.
    pub has_score_head: bool,
}

/// The pairs of one fused projection.
#[derive(Debug)]
pub(super) struct LoraProjection {
    /// A matrices of all parts, stacked: they read the same input.
    pub(super) a: PackedLinear,
    /// B matrices and where they go.
    pub(super) parts: Vec<LoraPart>,
}

/// The B matrix of one part of a fused projection.
#[derive(Debug)]
pub(super) struct LoraPart {
    /// First of this part's columns in the product with A.
    pub(super) rank_column: usize,
    /// First of this part's columns in the fused output.
    pub(super) out_column: usize,
    /// `[out_features, rank]`.
    pub(super) b: PackedLinear,
    /// Factor of the product.
    pub(super) scale: f32,
}

impl Adapter {
    /// An adapter that changes nothing, for tests of scheduling.
    pub fn identity(info: AdapterInfo) -> Self {
        Self { info, projections: Vec::new(), score_head: None }
    }

    /// Reads a PEFT folder for a model with this configuration.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the file and what is wrong in it.
    pub fn load(name: &str, source: &ModelSource, base: &ModelConfig, pool: &Pool) -> Result<Self> {
        let adapter = PeftAdapter::load(source, base)?;
        Self::pack(name, &adapter, base, pool)
            .map_err(|error| EngineError::load(source.path_of(super::peft::WEIGHTS_FILE), error.to_string()))
    }

    /// Packs an adapter that was read, or that was just trained.
    ///
    /// # Errors
    /// [`KernelError`] if a shape disagrees with `base`.
    pub fn pack(
        name: &str,
        adapter: &PeftAdapter,
        base: &ModelConfig,
        pool: &Pool,
    ) -> std::result::Result<Self, KernelError> {
        // Single precision even for bf16 models: adapters are small, and what they add is a small difference.
        let pack = |parts: &[Values<'_>], width| PackedLinear::pack(pool, parts, width, WeightDtype::F32);
        let mut projections = Vec::with_capacity(base.num_layers * Projection::ALL.len());
        for layer in 0..base.num_layers {
            for projection in Projection::ALL {
                let mut a_parts = Vec::new();
                let mut parts = Vec::new();
                let (mut rank_column, mut out_column, mut in_features) = (0, 0, 0);
                for part in layout::parts(base, layer, projection) {
                    if let Some(pair) = adapter.modules.get(&part.module(layer)) {
                        a_parts.push(Values::F32(&pair.a));
                        let b = pack(&[Values::F32(&pair.b)], pair.rank)?;
                        parts.push(LoraPart { rank_column, out_column, b, scale: pair.scale });
                        rank_column += pair.rank;
                    }
                    out_column += part.out_features;
                    in_features = part.in_features;
                }
                projections.push(if parts.is_empty() {
                    None
                } else {
                    Some(LoraProjection { a: pack(&a_parts, in_features)?, parts })
                });
            }
        }
        let head = adapter.score_head.as_deref();
        let score_head = head.map(|head| pack(&[Values::F32(head)], base.hidden_size)).transpose()?;
        let info = AdapterInfo {
            name: name.into(),
            version: adapter.content_hash.get(..12).unwrap_or(&adapter.content_hash).into(),
            content_hash: adapter.content_hash.as_str().into(),
            rank: adapter.modules.values().map(|pair| pair.rank).max().unwrap_or(0),
            has_score_head: score_head.is_some(),
        };
        Ok(Self { info, projections, score_head })
    }

    /// The same adapter under the version that a registry knows it by.
    #[must_use]
    pub fn with_version(self, version: &str) -> Self {
        Self { info: AdapterInfo { version: version.into(), ..self.info }, ..self }
    }

    /// Pairs of the projection with this [`Projection::index`].
    pub(super) fn projection(&self, index: usize) -> Option<&LoraProjection> {
        self.projections.get(index)?.as_ref()
    }

    /// The reward model's head.
    pub(super) fn score_head(&self) -> Option<&PackedLinear> {
        self.score_head.as_ref()
    }
}
