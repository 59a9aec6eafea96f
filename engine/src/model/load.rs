//! Builds the decoder of any backend from a checkpoint, with Hugging Face's names. Leaves packing to the backend.

use super::backend::{Backend, Result};
use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use super::decoder::{Around, Decoder, Dense, Layer, Mlp};
use super::family::NormKind;
use super::layout::{self, ExpertPart, NormPart, Projection};

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
    backend.accept(config)?;
    checkpoint.validate(config)?;
    let (vocab, hidden, names) = (config.vocab_size, config.hidden_size, config.family.names);
    let mut loader = Loader { backend, config, checkpoint };
    let embedding = loader.table(names.embedding, vocab, hidden)?;
    let max_positions = config.max_position_embeddings;
    let positions = names.positions.map(|name| loader.table(name, max_positions, hidden)).transpose()?;
    let layers = (0..config.num_layers).map(|layer| loader.layer(layer)).collect::<Result<_>>()?;
    let final_norm = loader.norm(&layout::final_norm(config))?;
    let lm_head = match config.num_labels {
        None if !config.tie_word_embeddings => Some(loader.table(layout::LM_HEAD, vocab, hidden)?),
        _ => None,
    };
    let score_head = config.num_labels.map(|labels| loader.score_head(labels)).transpose()?;
    let new_rope = |rope| backend.new_rope(rope, max_positions);
    let ropes = config.ropes.iter().map(new_rope).collect::<Result<_>>()?;
    Ok(Decoder {
        config: config.clone(),
        embedding,
        positions,
        layers,
        final_norm,
        ropes,
        lm_head,
        score_head,
    })
}

struct Loader<'a, B> {
    backend: &'a mut B,
    config: &'a ModelConfig,
    checkpoint: &'a Checkpoint,
}

impl<B: Backend> Loader<'_, B> {
    /// A matrix outside of the layers, without a bias.
    fn table(&mut self, module: &str, out_features: usize, in_features: usize) -> Result<B::Linear> {
        self.backend.new_linear(vec![self.checkpoint.matrix(module, out_features, in_features, false)?])
    }

    fn score_head(&mut self, labels: usize) -> Result<B::Linear> {
        let (head, has_bias) = match self.config.has_value_head {
            true => (layout::VALUE_HEAD, true),
            false => (layout::SCORE_HEAD, self.config.is_token_classifier),
        };
        self.backend.new_linear(vec![self.checkpoint.matrix(
            head,
            labels,
            self.config.hidden_size,
            has_bias,
        )?])
    }

    fn layer(&mut self, layer: usize) -> Result<Layer<B>> {
        let norms = layout::norms(self.config, layer);
        Ok(Layer {
            attention_norms: self.around(&norms.attention)?,
            qkv: self.projection(layer, Projection::Qkv)?,
            qk_norm: match &norms.qk {
                Some([q, k]) => Some((self.norm(q)?, self.norm(k)?)),
                None => None,
            },
            o: self.projection(layer, Projection::O)?,
            mlp_norms: self.around(&norms.mlp)?,
            mlp: self.mlp(layer)?,
        })
    }

    fn mlp(&mut self, layer: usize) -> Result<Mlp<B>> {
        let Some(parts) = layout::experts(self.config, layer) else {
            let gate_up = self.projection(layer, Projection::GateUp)?;
            return Ok(Mlp::Dense(Dense { gate_up, down: self.projection(layer, Projection::Down)? }));
        };
        let mut experts = Vec::with_capacity(parts.experts.len());
        for (gate_up, down) in &parts.experts {
            experts.push(Dense {
                gate_up: self.expert(gate_up)?,
                down: self.expert(std::slice::from_ref(down))?,
            });
        }
        Ok(Mlp::Experts { router: self.expert(&[parts.router])?, experts })
    }

    fn projection(&mut self, layer: usize, projection: Projection) -> Result<B::Linear> {
        let matrix = |part: layout::Part| {
            let (module, shape) = (part.module(layer), (part.out_features, part.in_features));
            match part.transposed {
                true => self.checkpoint.transposed_matrix(&module, shape.0, shape.1, part.bias),
                false => self.checkpoint.matrix(&module, shape.0, shape.1, part.bias),
            }
        };
        let parts = layout::parts(self.config, layer, projection).into_iter().map(matrix);
        self.backend.new_linear(parts.collect::<Result<_>>()?)
    }

    fn expert(&mut self, parts: &[ExpertPart]) -> Result<B::Linear> {
        let matrix = |part: &ExpertPart| {
            self.checkpoint.matrix(&part.module, part.out_features, part.in_features, false)
        };
        self.backend.new_linear(parts.iter().map(matrix).collect::<Result<_>>()?)
    }

    fn around(&mut self, [before, after]: &[Option<NormPart>; 2]) -> Result<Around<B>> {
        let mut one = |norm: &Option<NormPart>| norm.as_ref().map(|norm| self.norm(norm)).transpose();
        Ok(Around { before: one(before)?, after: one(after)? })
    }

    fn norm(&mut self, norm: &NormPart) -> Result<B::Norm> {
        let (name, shape) = (&norm.module, [norm.width]);
        let mut weight = self.checkpoint.f32_values(&format!("{name}.weight"), &shape)?;
        let bias = match self.config.family.norm {
            NormKind::Rms => None,
            NormKind::RmsPlusOne => {
                weight.iter_mut().for_each(|weight| *weight += 1.0);
                None
            }
            NormKind::Layer => Some(self.checkpoint.f32_values(&format!("{name}.bias"), &shape)?),
        };
        self.backend.new_norm(name, weight, bias, self.config.norm_eps)
    }
}
