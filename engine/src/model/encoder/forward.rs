//! The encoder: embeddings, layers that norm behind attention and MLP, and a head on the first token (Devlin et al. 2018,
//! arXiv:1810.04805) or on markers. Leaves which texts run to `executor` and arithmetic to the backend.

use std::ops::Range;

use super::config::EncoderConfig;
use super::disentangled::Relative;
use crate::EngineError;
use crate::model::backend::{AttentionSpec, Backend, Result};
use crate::model::cpu::{CpuBackend, CpuNorm};
use crate::model::cpu_linear::CpuLinear;
use crate::model::cpu_tensor::CpuTensor;

/// Weights of an encoder.
#[derive(Debug)]
pub(super) struct Encoder {
    pub(super) config: EncoderConfig,
    pub(super) words: CpuLinear,
    pub(super) positions: Option<CpuLinear>,
    pub(super) segments: Option<CpuLinear>,
    pub(super) embedding_norm: CpuNorm,
    pub(super) layers: Vec<Layer>,
    pub(super) head: Head,
}

#[derive(Debug)]
pub(super) struct Layer {
    pub(super) qkv: CpuLinear,
    /// How far apart tokens are, where attention knows.
    pub(super) relative: Option<Relative>,
    pub(super) o: CpuLinear,
    pub(super) attention_norm: CpuNorm,
    pub(super) up: CpuLinear,
    pub(super) down: CpuLinear,
    pub(super) mlp_norm: CpuNorm,
}

#[derive(Debug)]
pub(super) struct Head {
    pub(super) dense: CpuLinear,
    pub(super) out: CpuLinear,
}

impl Encoder {
    /// What the first layer reads, `[num_tokens, hidden_size]`, of the tokens that the backend has begun. A token of
    /// segment `s` is `id + s · vocab_size`.
    pub(super) fn embed(&self, backend: &mut CpuBackend, tokens: &[u32]) -> Result<CpuTensor> {
        let vocab_size = self.config.vocab_size as u32;
        let ids: Vec<u32> = tokens.iter().map(|token| token % vocab_size).collect();
        let mut x = backend.embed(&self.words, &ids)?;
        if let Some(table) = &self.segments {
            let segments: Vec<u32> = tokens.iter().map(|token| token / vocab_size).collect();
            let segments = backend.embed(table, &segments)?;
            x = backend.add(x, segments)?;
        }
        if let Some(table) = &self.positions {
            let positions = backend.embed_positions(table)?;
            x = backend.add(x, positions)?;
        }
        backend.norm(&self.embedding_norm, &x)
    }

    /// What layer `layer` makes of `x`, the rows of `texts` one after the other.
    pub(super) fn layer(
        &self,
        backend: &mut CpuBackend,
        layer: usize,
        texts: &[Range<usize>],
        x: CpuTensor,
    ) -> Result<CpuTensor> {
        let num_heads = self.config.num_heads;
        let head_dim = self.config.hidden_size / num_heads;
        let spec = AttentionSpec {
            // One layer's keys and values at a time: no later one reads them.
            layer: 0,
            num_heads,
            num_kv_heads: num_heads,
            head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            sliding_window: None,
            soft_cap: None,
        };
        let Some(layer) = self.layers.get(layer) else {
            return Err(EngineError::Execution(format!("there is no layer {layer}")));
        };
        let qkv = backend.linear(&layer.qkv, &x)?;
        let attended = match &layer.relative {
            None => backend.attention(&spec, qkv)?,
            Some(relative) => {
                let mut attended = backend.zeroed(x.rows, x.width);
                for text in texts {
                    relative.attend(backend.pool(), &qkv, text.clone(), head_dim, &mut attended)?;
                }
                attended
            }
        };
        let attended = backend.linear(&layer.o, &attended)?;
        let x = backend.add(x, attended)?;
        let x = backend.norm(&layer.attention_norm, &x)?;
        let inner = backend.linear(&layer.up, &x)?;
        let inner = backend.activate(self.config.activation, inner)?;
        let inner = backend.linear(&layer.down, &inner)?;
        let x = backend.add(x, inner)?;
        backend.norm(&layer.mlp_norm, &x)
    }

    /// The head's outputs for a text of `tokens` that begins at `row` of the last layer's output, `[labels.len()]`. Of a
    /// head that compares they are those of the first answer less those of the second.
    pub(super) fn outputs(
        &self,
        backend: &CpuBackend,
        x: &CpuTensor,
        row: usize,
        tokens: &[u32],
    ) -> Result<Vec<f32>> {
        let Some(markers) = &self.config.markers else { return self.head(backend, x, row) };
        // The prompt's row beside that of each answer.
        let hidden = self.config.hidden_size;
        let mut beside = backend.zeroed(2, 2 * hidden);
        for (rows, answer) in beside.as_mut_slice().chunks_exact_mut(2 * hidden).zip(markers.answers) {
            for (half, marker) in rows.chunks_exact_mut(hidden).zip([markers.source, answer]) {
                let Some(place) = tokens.iter().position(|&token| token == marker) else {
                    return Err(EngineError::Execution(format!("the text has no marker {marker}")));
                };
                half.copy_from_slice(&x.as_slice()[(row + place) * hidden..][..hidden]);
            }
        }
        let [first, second] = [self.head(backend, &beside, 0)?, self.head(backend, &beside, 1)?];
        Ok(first.iter().zip(second).map(|(first, second)| first - second).collect())
    }

    /// What the head makes of a row.
    fn head(&self, backend: &CpuBackend, x: &CpuTensor, row: usize) -> Result<Vec<f32>> {
        let Head { dense, out } = &self.head;
        let mut pooled = backend.zeroed(1, self.config.hidden_size);
        backend.head(dense.parts(), x, row, pooled.as_mut_slice())?;
        match self.config.head_activation {
            None => pooled.as_mut_slice().iter_mut().for_each(|value| *value = value.tanh()),
            Some(activation) => rectify_kernels::activate(backend.pool(), activation, pooled.as_mut_slice()),
        }
        let mut outputs = vec![0.0; self.config.labels.len()];
        backend.head(out.parts(), &pooled, 0, &mut outputs)?;
        Ok(outputs)
    }
}
