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
    /// `[max_position_embeddings, hidden_size]` of a model that learned its positions.
    pub positions: Option<B::Linear>,
    /// From the input up.
    pub layers: Vec<Layer<B>>,
    /// Before the heads.
    pub final_norm: B::Norm,
    /// Rotations, as [`ModelConfig::ropes`].
    pub ropes: Vec<B::Rope>,
    /// Output head; `None` if it is the embedding.
    pub lm_head: Option<B::Linear>,
    /// `[num_labels, hidden_size]` of a reward model.
    pub score_head: Option<B::Linear>,
}

/// One layer: attention, then an MLP, each between its norms, each added to the residual stream.
#[derive(Debug)]
pub struct Layer<B: Backend> {
    /// Norms around attention.
    pub attention_norms: Around<B>,
    /// Fused `q_proj | k_proj | v_proj`.
    pub qkv: B::Linear,
    /// Query and key norms, if the family has them.
    pub qk_norm: Option<(B::Norm, B::Norm)>,
    /// `o_proj`.
    pub o: B::Linear,
    /// Norms around the MLP.
    pub mlp_norms: Around<B>,
    /// What follows attention.
    pub mlp: Mlp<B>,
}

/// Norms around a part of a layer.
#[derive(Debug)]
pub struct Around<B: Backend> {
    /// Of what it reads; without one it reads the residual stream as it is.
    pub before: Option<B::Norm>,
    /// Of what it adds.
    pub after: Option<B::Norm>,
}

/// The second half of a layer.
#[derive(Debug)]
pub enum Mlp<B: Backend> {
    /// The same for every token.
    Dense(Dense<B>),
    /// Chosen by each token.
    Experts {
        /// `[count, hidden_size]`.
        router: B::Linear,
        /// What there is to choose from.
        experts: Vec<Dense<B>>,
    },
}

/// Two projections with an activation between.
#[derive(Debug)]
pub struct Dense<B: Backend> {
    /// Fused `gate_proj | up_proj`, or the first projection of an MLP without a gate.
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
        let mut residual = self.embed(backend, ids)?;
        let mut pending: Option<B::Tensor> = None;
        let mut num_rows = ids.len();
        for (index, layer) in self.layers.iter().enumerate() {
            backend.start_layer();
            let normed;
            (residual, normed) = enter(backend, layer.attention_norms.before.as_ref(), residual, pending)?;
            let mut attended = self.attend(backend, layer, index, normed.as_ref().unwrap_or(&residual))?;
            if let Some(rows) = rows
                && index + 1 == self.layers.len()
            {
                residual = backend.gather_rows(&residual, rows)?;
                attended = backend.gather_rows(&attended, rows)?;
                backend.narrow(rows)?;
                num_rows = rows.len();
            }
            let attended = backend.linear(&layer.o, &attended)?;
            let attended = self.leave(backend, &layer.attention_norms, attended)?;
            let normed;
            (residual, normed) = enter(backend, layer.mlp_norms.before.as_ref(), residual, Some(attended))?;
            let x = normed.as_ref().unwrap_or(&residual);
            let added = match &layer.mlp {
                Mlp::Dense(dense) => self.dense(backend, dense, x)?,
                Mlp::Experts { router, experts } => self.mix(backend, router, experts, x, num_rows)?,
            };
            pending = Some(self.leave(backend, &layer.mlp_norms, added)?);
        }
        let (residual, normed) = enter(backend, Some(&self.final_norm), residual, pending)?;
        Ok(normed.unwrap_or(residual))
    }

    fn embed(&self, backend: &mut B, ids: &[u32]) -> Result<B::Tensor> {
        let mut embedded = backend.embed(&self.embedding, ids)?;
        if self.config.embedding_scale != 1.0 {
            embedded = backend.scale(embedded, self.config.embedding_scale)?;
        }
        match &self.positions {
            Some(positions) => {
                let positions = backend.embed_positions(positions)?;
                backend.add(embedded, positions)
            }
            None => Ok(embedded),
        }
    }

    /// What a part of a layer adds to the residual stream.
    fn leave(&self, backend: &mut B, norms: &Around<B>, mut x: B::Tensor) -> Result<B::Tensor> {
        if let Some(norm) = &norms.after {
            x = backend.norm(norm, &x)?;
        }
        match self.config.residual_scale {
            1.0 => Ok(x),
            factor => backend.scale(x, factor),
        }
    }

    fn dense(&self, backend: &mut B, dense: &Dense<B>, x: &B::Tensor) -> Result<B::Tensor> {
        if self.config.family.gated {
            return backend.gated_mlp(self.config.activation, &dense.gate_up, &dense.down, x);
        }
        let up = backend.linear(&dense.gate_up, x)?;
        let activated = backend.activate(self.config.activation, up)?;
        backend.linear(&dense.down, &activated)
    }

    /// The sum of what a token's experts say, weighed by its choice, in the order of the experts.
    fn mix(
        &self,
        backend: &mut B,
        router: &B::Linear,
        experts: &[Dense<B>],
        x: &B::Tensor,
        num_rows: usize,
    ) -> Result<B::Tensor> {
        let mut out = backend.zeros(num_rows, self.config.hidden_size)?;
        let Some(sizes) = &self.config.experts else { return Ok(out) };
        let scores = backend.linear(router, x)?;
        for (expert, routes) in experts.iter().zip(backend.route(&scores, sizes)?) {
            if routes.is_empty() {
                continue;
            }
            let rows: Vec<u32> = routes.iter().map(|route| route.row).collect();
            let x = backend.gather_rows(x, &rows)?;
            let said = self.dense(backend, expert, &x)?;
            backend.add_rows(&mut out, &said, &routes)?;
        }
        Ok(out)
    }

    /// Attention before its output projection.
    fn attend(&self, backend: &mut B, layer: &Layer<B>, index: usize, x: &B::Tensor) -> Result<B::Tensor> {
        let spec = self.attention_spec(index);
        let mut qkv = backend.linear(&layer.qkv, x)?;
        if let Some((q, k)) = &layer.qk_norm {
            qkv = backend.qk_norm(q, k, &spec, qkv)?;
        }
        let rope = self.config.layers.get(index).and_then(|layer| self.ropes.get(layer.rope?));
        if let Some(rope) = rope {
            qkv = backend.rope(rope, &spec, qkv)?;
        }
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
            scale: config.attention_scale,
            sliding_window: config.layers.get(layer).and_then(|layer| layer.window),
            soft_cap: config.attention_soft_cap,
        }
    }

    /// Logits of hidden states, `[rows, vocab_size]`.
    ///
    /// # Errors
    /// Whatever the backend refuses.
    pub fn logits(&self, backend: &mut B, hidden: &B::Tensor) -> Result<B::Tensor> {
        let mut logits = backend.linear(self.lm_head.as_ref().unwrap_or(&self.embedding), hidden)?;
        if self.config.logit_scale != 1.0 {
            logits = backend.scale(logits, self.config.logit_scale)?;
        }
        match self.config.logit_soft_cap {
            Some(cap) => backend.soft_cap(logits, cap),
            None => Ok(logits),
        }
    }
}

/// Adds what was left pending, if anything, and norms; without a norm what follows reads the sum itself.
fn enter<B: Backend>(
    backend: &mut B,
    norm: Option<&B::Norm>,
    residual: B::Tensor,
    pending: Option<B::Tensor>,
) -> Result<(B::Tensor, Option<B::Tensor>)> {
    match (norm, pending) {
        (Some(norm), Some(x)) => {
            let (residual, normed) = backend.add_norm(norm, residual, x)?;
            Ok((residual, Some(normed)))
        }
        (Some(norm), None) => {
            let normed = backend.norm(norm, &residual)?;
            Ok((residual, Some(normed)))
        }
        (None, Some(x)) => Ok((backend.add(residual, x)?, None)),
        (None, None) => Ok((residual, None)),
    }
}
