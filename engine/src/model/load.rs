//! Builds the decoder of any backend from a checkpoint, with Hugging Face's names. Leaves packing to the backend.

use super::backend::{Backend, Result};
use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use super::decoder::{Decoder, Layer};
use super::layout::{self, Projection};

/// Builds the decoder.
///
/// # Errors
/// [`crate::EngineError::Load`] naming the file and tensor that is missing, of a wrong shape or too many; or what the
/// backend refuses.
pub fn load_decoder<B: Backend>(
    backend: &mut B,
    config: &ModelConfig,
    checkpoint: &Checkpoint,
) -> Result<Decoder<B>> {
    checkpoint.validate(config)?;
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let head = |backend: &mut B, name: &str, rows: usize| {
        backend.new_linear(vec![checkpoint.matrix(name, rows, hidden, false)?])
    };
    let embedding = head(backend, layout::EMBEDDING, vocab)?;
    let mut layers = Vec::with_capacity(config.num_layers);
    for layer in 0..config.num_layers {
        layers.push(load_layer(backend, config, checkpoint, layer)?);
    }
    let final_norm = norm(backend, config, checkpoint, layout::FINAL_NORM, hidden)?;
    let lm_head = match config.num_labels {
        None if !config.tie_word_embeddings => Some(head(backend, layout::LM_HEAD, vocab)?),
        _ => None,
    };
    let score_head = match config.num_labels {
        Some(num_labels) => Some(head(backend, layout::SCORE_HEAD, num_labels)?),
        None => None,
    };
    let rope = backend.new_rope(config)?;
    Ok(Decoder { config: config.clone(), embedding, layers, final_norm, rope, lm_head, score_head })
}

fn load_layer<B: Backend>(
    backend: &mut B,
    config: &ModelConfig,
    checkpoint: &Checkpoint,
    layer: usize,
) -> Result<Layer<B>> {
    let mut linear = |projection| {
        let matrix = |part: layout::Part| {
            checkpoint.matrix(&part.module(layer), part.out_features, part.in_features, part.bias)
        };
        let parts = layout::parts(config, projection).into_iter().map(matrix).collect::<Result<_>>()?;
        backend.new_linear(parts)
    };
    let (qkv, o) = (linear(Projection::Qkv)?, linear(Projection::O)?);
    let (gate_up, down) = (linear(Projection::GateUp)?, linear(Projection::Down)?);
    let mut norm = |name, width| norm(backend, config, checkpoint, &layout::layer_norm(layer, name), width);
    let qk_norm = if config.qk_norm {
        Some((norm("self_attn.q_norm", config.head_dim)?, norm("self_attn.k_norm", config.head_dim)?))
    } else {
        None
    };
    Ok(Layer {
        input_norm: norm("input_layernorm", config.hidden_size)?,
        qkv,
        qk_norm,
        o,
        post_attention_norm: norm("post_attention_layernorm", config.hidden_size)?,
        gate_up,
        down,
    })
}

fn norm<B: Backend>(
    backend: &mut B,
    config: &ModelConfig,
    checkpoint: &Checkpoint,
    name: &str,
    width: usize,
) -> Result<B::Norm> {
    let weight = checkpoint.f32_values(&format!("{name}.weight"), &[width])?;
    backend.new_norm(name, weight, config.rms_norm_eps)
}
