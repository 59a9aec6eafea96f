//! Builds an encoder from a checkpoint, with Hugging Face's names. Leaves packing to the backend.

use std::cell::RefCell;
use std::collections::HashSet;

use rectify_kernels::WeightDtype;

use super::config::EncoderConfig;
use super::forward::{Encoder, Head, Layer};
use crate::EngineError;
use crate::model::backend::{Backend, Matrix, Result};
use crate::model::checkpoint::Checkpoint;
use crate::model::cpu::{CpuBackend, CpuLinear, CpuNorm};
use crate::model::weights::WeightStore;

/// Builds the encoder.
///
/// # Errors
/// [`EngineError::Load`] naming the file and tensor that is missing, of a wrong shape or too many.
pub(super) fn load(
    backend: &mut CpuBackend,
    config: &EncoderConfig,
    checkpoint: &Checkpoint,
) -> Result<Encoder> {
    let taken = RefCell::default();
    let mut loader = Loader { backend, config, checkpoint, taken: &taken };
    let encoder = loader.encoder()?;
    let names = &config.family.names;
    let unused = |name: &str| {
        let buffer = name.ends_with(".position_ids");
        buffer || config.family.unused.iter().any(|module| name.starts_with(module))
    };
    let taken = taken.borrow();
    let extra = checkpoint.names().into_iter().find(|name| !taken.contains(*name) && !unused(name));
    match extra {
        Some(name) => {
            let message = format!(
                "holds the tensor `{name}`, which a {} model with this config.json does not have",
                names.trunk
            );
            Err(EngineError::load(checkpoint.origin(), message))
        }
        None => Ok(encoder),
    }
}

struct Loader<'a> {
    backend: &'a mut CpuBackend,
    config: &'a EncoderConfig,
    checkpoint: &'a Checkpoint,
    /// Tensors that were read.
    taken: &'a RefCell<HashSet<String>>,
}

impl<'a> Loader<'a> {
    fn encoder(&mut self) -> Result<Encoder> {
        let config = self.config;
        let hidden = config.hidden_size;
        let trunk = config.family.names.trunk;
        let table = |name: &str| format!("{trunk}.embeddings.{name}");
        let segments = match config.num_segments {
            0 => None,
            rows => Some(self.table(&table("token_type_embeddings"), rows)?),
        };
        let [dense, out] = config.family.names.head;
        Ok(Encoder {
            words: self.table(&table("word_embeddings"), config.vocab_size)?,
            positions: self.table(&table("position_embeddings"), config.num_positions)?,
            segments,
            embedding_norm: self.norm(&table("LayerNorm"))?,
            layers: (0..config.num_layers).map(|layer| self.layer(layer)).collect::<Result<_>>()?,
            head: Head {
                dense: self.head(dense, hidden)?,
                activation: config.family.head_activation,
                out: self.head(out, config.labels.len())?,
            },
            config: config.clone(),
        })
    }

    fn layer(&mut self, layer: usize) -> Result<Layer> {
        let names = &self.config.family.names;
        let (hidden, intermediate) = (self.config.hidden_size, self.config.intermediate_size);
        let below = |name: &str| format!("{}.{}.{layer}.{name}", names.trunk, names.layers);
        let qkv = names.qkv.iter().map(|name| self.matrix(&below(name), hidden, hidden, true));
        let qkv = qkv.collect::<Result<Vec<_>>>()?;
        Ok(Layer {
            qkv: self.backend.new_linear(qkv)?,
            o: self.linear(&below(names.o), hidden, hidden)?,
            attention_norm: self.norm(&below(names.attention_norm))?,
            up: self.linear(&below(names.up), intermediate, hidden)?,
            down: self.linear(&below(names.down), hidden, intermediate)?,
            mlp_norm: self.norm(&below(names.mlp_norm))?,
        })
    }

    fn matrix(
        &self,
        module: &str,
        out_features: usize,
        in_features: usize,
        bias: bool,
    ) -> Result<Matrix<'a>> {
        let mut taken = self.taken.borrow_mut();
        taken.insert(format!("{module}.weight"));
        taken.extend(bias.then(|| format!("{module}.bias")));
        self.checkpoint.matrix(module, out_features, in_features, bias)
    }

    fn table(&mut self, module: &str, rows: usize) -> Result<CpuLinear> {
        let matrix = self.matrix(module, rows, self.config.hidden_size, false)?;
        self.backend.new_linear(vec![matrix])
    }

    fn linear(&mut self, module: &str, out_features: usize, in_features: usize) -> Result<CpuLinear> {
        let matrix = self.matrix(module, out_features, in_features, true)?;
        self.backend.new_linear(vec![matrix])
    }

    /// A layer of the head: a choice hangs on small differences, so it stays in single precision.
    fn head(&self, module: &str, out_features: usize) -> Result<CpuLinear> {
        let mut matrix = self.matrix(module, out_features, self.config.hidden_size, true)?;
        let bias = matrix.bias.take();
        let weight = WeightStore::default().pack(self.backend.pool(), &[matrix], WeightDtype::F32)?;
        Ok(CpuLinear::unadapted(weight, bias))
    }

    fn norm(&mut self, module: &str) -> Result<CpuNorm> {
        // The first BERT's files have TensorFlow's words.
        let old = self.checkpoint.contains(&format!("{module}.gamma"));
        let [weight, bias] = if old { ["gamma", "beta"] } else { ["weight", "bias"] };
        let read = |name: &str| {
            let name = format!("{module}.{name}");
            let values = self.checkpoint.f32_values(&name, &[self.config.hidden_size]);
            self.taken.borrow_mut().insert(name);
            values
        };
        let (weight, bias) = (read(weight)?, read(bias)?);
        self.backend.new_norm(module, weight, Some(bias), self.config.norm_eps)
    }
}
