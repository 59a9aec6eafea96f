//! The decoder: embedding, layers, final norm and heads, written once over [`Backend`]. Leaves the shapes to
//! [`ModelConfig`], the numbers to the backend.

use super::backend::{AttentionSpec, Backend, Result};
use super::config::ModelConfig;

/// A decoder whose weights live in backend `B`.
#[derive(Debug)]
pub struct Decoder<B: Backend> {
    /// Shape and flags.
    pub config: ModelConfig,
    /// `[vocab_size, hidden_size]`.
    pub embedding: B::Linear,
    /// From the input up.
    pub layers: Vec<Layer<B>>,
    /// Before the heads.
    pub final_norm: B::Norm,
    /// Rotations.
    pub rope: B::Rope,
    /// Output head; `None` if it is the embedding.
    pub lm_head: Option<B::Linear>,
    /// `[num_labels, hidden_size]` of a reward model.
    pub score_head: Option<B::Linear>,
}

/// One layer.
#[derive(Debug)]
pub struct Layer<B: Backend> {
    /// Before attention.
    pub input_norm: B::Norm,
    /// Fused `q_proj | k_proj | v_proj`.
    pub qkv: B::Linear,
    /// Query and key norms, if the family has them.
    pub qk_norm: Option<(B::Norm, B::Norm)>,
    /// `o_proj`.
    pub o: B::Linear,
    /// Before the MLP.
    pub post_attention_norm: B::Norm,
    /// Fused `gate_proj | up_proj`.
    pub gate_up: B::Linear,
    /// `down_proj`.
    pub down: B::Linear,
}

impl<B: Backend> Decoder<B> {
    /// Final hidden states of the backend's current batch, `[ids.len(), hidden_size]`, normed.
    ///
    /// # Errors
    /// Whatever the backend refuses.
    pub fn hidden(&self, backend: &mut B, ids: &[u32]) -> Result<B::Tensor> {
        self.forward(backend, ids, None)
    }

    /// Final hidden states of the tokens `rows`, ascending, `[rows.len(), hidden_size]`. Cheaper than all of them: past
    /// the last layer's attention the other tokens are of no use.
    ///
    /// # Errors
    /// Whatever the backend refuses.
    pub fn hidden_rows(&self, backend: &mut B, ids: &[u32], rows: &[u32]) -> Result<B::Tensor> {
        self.forward(backend, ids, (rows.len() < ids.len()).then_some(rows))
    }

    fn forward(&self, backend: &mut B, ids: &[u32], rows: Option<&[u32]>) -> Result<B::Tensor> {
        let mut residual = backend.embed(&self.embedding, ids)?;
        let mut pending: Option<B::Tensor> = None;
        for (index, layer) in self.layers.iter().enumerate() {
            backend.start_layer();
            let normed;
            (residual, normed) = add_norm(backend, &layer.input_norm, residual, pending)?;
            let mut attended = self.attend(backend, layer, index, &normed)?;
            if let Some(rows) = rows
                && index + 1 == self.layers.len()
            {
                residual = backend.gather_rows(&residual, rows)?;
                attended = backend.gather_rows(&attended, rows)?;
                backend.narrow(rows)?;
            }
            let attended = backend.linear(&layer.o, &attended)?;
            let normed;
            (residual, normed) = backend.add_rms_norm(&layer.post_attention_norm, residual, attended)?;
            let gate_up = backend.linear(&layer.gate_up, &normed)?;
            let activated = backend.swiglu(gate_up)?;
            pending = Some(backend.linear(&layer.down, &activated)?);
        }
        Ok(add_norm(backend, &self.final_norm, residual, pending)?.1)
    }

    /// Attention before its output projection.
    fn attend(&self, backend: &mut B, layer: &Layer<B>, index: usize, x: &B::Tensor) -> Result<B::Tensor> {
        let spec = self.attention_spec(index);
        let mut qkv = backend.linear(&layer.qkv, x)?;
        if let Some((q, k)) = &layer.qk_norm {
            qkv = backend.qk_norm(q, k, &spec, qkv)?;
        }
        let qkv = backend.rope(&self.rope, &spec, qkv)?;
        backend.attention(&spec, qkv)
    }

    /// The attention of layer `layer`.
    pub fn attention_spec(&self, layer: usize) -> AttentionSpec {
        let config = &self.config;
        AttentionSpec {
            layer,
            num_heads: config.num_heads,
            num_kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            scale: (config.head_dim as f32).sqrt().recip(),
            sliding_window: config.windows.get(layer).copied().flatten(),
            soft_cap: None,
        }
    }

    /// Logits of hidden states, `[rows, vocab_size]`.
    ///
    /// # Errors
    /// Whatever the backend refuses.
    pub fn logits(&self, backend: &mut B, hidden: &B::Tensor) -> Result<B::Tensor> {
        backend.linear(self.lm_head.as_ref().unwrap_or(&self.embedding), hidden)
    }
}

/// Adds what the last layer left pending, if any, and norms.
fn add_norm<B: Backend>(
    backend: &mut B,
    norm: &B::Norm,
    residual: B::Tensor,
    pending: Option<B::Tensor>,
) -> Result<(B::Tensor, B::Tensor)> {
    match pending {
        Some(x) => backend.add_rms_norm(norm, residual, x),
        None => {
            let normed = backend.rms_norm(norm, &residual)?;
            Ok((residual, normed))
        }
    }
}
