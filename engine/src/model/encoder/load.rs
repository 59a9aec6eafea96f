//! Builds an encoder from a checkpoint, with Hugging Face's names. Leaves packing to the backend.

use std::cell::RefCell;
use std::collections::HashSet;

use rectify_kernels::{self as kernels, Epilogue, PackedLinear, Rows, RowsMut, Values, WeightDtype};

use super::config::{EncoderConfig, RelativeConfig};
use super::disentangled::Relative;
use super::forward::{Encoder, Head, Layer};
use crate::EngineError;
use crate::model::backend::{Backend, Matrix, Result};
use crate::model::checkpoint::Checkpoint;
use crate::model::cpu::{CpuBackend, CpuNorm, refused};
use crate::model::cpu_linear::CpuLinear;
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
            positions: match config.embeds_positions {
                true => Some(self.table(&table("position_embeddings"), config.num_positions)?),
                false => None,
            },
            segments,
            embedding_norm: self.norm(&table("LayerNorm"))?,
            layers: self.layers()?,
            head: Head {
                dense: self.head(
                    dense,
                    hidden,
                    if config.markers.is_some() { 2 * hidden } else { hidden },
                )?,
                out: self.head(out, config.labels.len(), hidden)?,
            },
            config: config.clone(),
        })
    }

    fn layers(&mut self) -> Result<Vec<Layer>> {
        let config = self.config;
        let relative = match &config.relative {
            Some(relative) => Some((relative, self.distances(relative)?)),
            None => None,
        };
        let relative = relative.as_ref().map(|(relative, rows)| (*relative, rows.as_slice()));
        (0..config.num_layers).map(|layer| self.layer(layer, relative)).collect()
    }

    /// The embedding of distances, `[2 · span, hidden_size]`.
    fn distances(&mut self, relative: &RelativeConfig) -> Result<Vec<f32>> {
        let (hidden, trunk) = (self.config.hidden_size, self.config.family.names.trunk);
        let module = format!("{trunk}.encoder.rel_embeddings");
        let rows = self.matrix(&module, 2 * relative.distances.span(), hidden, false)?.values.into_f32();
        if !relative.is_normed {
            return Ok(rows);
        }
        let (weight, bias) = self.norm_values(&format!("{trunk}.encoder.LayerNorm"))?;
        let mut normed = vec![0.0; rows.len()];
        kernels::layer_norm(self.backend.pool(), &rows, (&weight, &bias), self.config.norm_eps, &mut normed)
            .map_err(refused)?;
        Ok(normed)
    }

    /// Keys or queries of distances, by head: what the projection `module` makes of `rows`.
    fn by_head(&self, module: &str, rows: &[f32]) -> Result<Vec<PackedLinear>> {
        let hidden = self.config.hidden_size;
        let projection = self.head(module, hidden, hidden)?;
        let (weight, bias) = projection.parts();
        let (pool, len) = (self.backend.pool(), rows.len() / hidden);
        let mut projected = vec![0.0; rows.len()];
        let epilogue = Epilogue { bias, ..Epilogue::default() };
        let out = RowsMut::new(&mut projected, hidden);
        kernels::linear(pool, Rows::new(rows, hidden), len, weight, &epilogue, out).map_err(refused)?;
        let head_dim = hidden / self.config.num_heads;
        let head = |head: usize| {
            let values: Vec<f32> = projected
                .chunks(hidden)
                .flat_map(|row| &row[head * head_dim..(head + 1) * head_dim])
                .copied()
                .collect();
            PackedLinear::pack(pool, &[Values::F32(&values)], head_dim, WeightDtype::F32).map_err(refused)
        };
        (0..self.config.num_heads).map(head).collect()
    }

    fn relative(&self, layer: &str, relative: &RelativeConfig, rows: &[f32]) -> Result<Relative> {
        let [query, key, _] = self.config.family.names.qkv;
        let [query, key] = match relative.is_shared {
            true => [query, key],
            false => ["attention.self.pos_query_proj", "attention.self.pos_key_proj"],
        };
        let side = |is_there: bool, name: &str| {
            is_there.then(|| self.by_head(&format!("{layer}.{name}"), rows)).transpose()
        };
        Ok(Relative {
            distances: relative.distances,
            keys: side(relative.has_keys, key)?,
            queries: side(relative.has_queries, query)?,
        })
    }

    fn layer(&mut self, layer: usize, relative: Option<(&RelativeConfig, &[f32])>) -> Result<Layer> {
        let names = &self.config.family.names;
        let (hidden, intermediate) = (self.config.hidden_size, self.config.intermediate_size);
        let module = format!("{}.{}.{layer}", names.trunk, names.layers);
        let below = |name: &str| format!("{module}.{name}");
        let qkv = names.qkv.iter().map(|name| self.matrix(&below(name), hidden, hidden, true));
        let qkv = qkv.collect::<Result<Vec<_>>>()?;
        Ok(Layer {
            qkv: self.backend.new_linear(qkv)?,
            relative: match relative {
                Some((relative, rows)) => Some(self.relative(&module, relative, rows)?),
                None => None,
            },
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

    /// A layer of the head, or what distances go through: small, and a choice hangs on small differences, so it stays in
    /// single precision.
    fn head(&self, module: &str, out_features: usize, in_features: usize) -> Result<CpuLinear> {
        let mut matrix = self.matrix(module, out_features, in_features, true)?;
        let bias = matrix.bias.take();
        let weight = WeightStore::default().pack(self.backend.pool(), &[matrix], WeightDtype::F32)?;
        Ok(CpuLinear::unadapted(weight, bias))
    }

    fn norm(&mut self, module: &str) -> Result<CpuNorm> {
        let (weight, bias) = self.norm_values(module)?;
        self.backend.new_norm(module, weight, Some(bias), self.config.norm_eps)
    }

    /// Weight and bias of a norm, `[hidden_size]` each.
    fn norm_values(&self, module: &str) -> Result<(Vec<f32>, Vec<f32>)> {
        // The first BERT's files have TensorFlow's words.
        let old = self.checkpoint.contains(&format!("{module}.gamma"));
        let [weight, bias] = if old { ["gamma", "beta"] } else { ["weight", "bias"] };
        let read = |name: &str| {
            let name = format!("{module}.{name}");
            let values = self.checkpoint.f32_values(&name, &[self.config.hidden_size]);
            self.taken.borrow_mut().insert(name);
            values
        };
        Ok((read(weight)?, read(bias)?))
    }
}
