//! Names and shapes of a decoder's tensors in Hugging Face's layout: the one place that knows them, for loading,
//! random initialisation, adapters and writing. Leaves values to `checkpoint`.

use super::config::ModelConfig;
use super::family::{NormKind, QkNorm};
use super::names;

/// A projection of a layer as it runs: its parts read the same input, so they are one matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Projection {
    /// `q_proj | k_proj | v_proj`.
    Qkv,
    /// `o_proj`.
    O,
    /// `gate_proj | up_proj`.
    GateUp,
    /// `down_proj`.
    Down,
}

impl Projection {
    /// All projections of a layer, in the order they run.
    pub const ALL: [Self; 4] = [Self::Qkv, Self::O, Self::GateUp, Self::Down];

    /// Number of this projection of layer `layer` among all of a model's.
    pub fn index(self, layer: usize) -> usize {
        layer * Self::ALL.len() + self as usize
    }
}

/// One linear module of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Of the layers, before their number: `model.layers`.
    pub layers: &'static str,
    /// Its name below that of a layer, e.g. `self_attn.q_proj`.
    pub name: &'static str,
    /// Rows of its weight.
    pub out_features: usize,
    /// Columns of its weight.
    pub in_features: usize,
    /// Has a bias.
    pub bias: bool,
    /// Its weight is stored `[in_features, out_features]`.
    pub transposed: bool,
}

impl Part {
    /// Full name in layer `layer`, without `.weight`.
    pub fn module(&self, layer: usize) -> String {
        format!("{}.{layer}.{}", self.layers, self.name)
    }

    /// Last component of the name, what PEFT's `target_modules` usually lists.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// Shape of its weight as stored.
    pub fn stored_shape(&self) -> Vec<usize> {
        match self.transposed {
            true => vec![self.in_features, self.out_features],
            false => vec![self.out_features, self.in_features],
        }
    }
}

/// Name of the output head, without `.weight`.
pub const LM_HEAD: &str = "lm_head";
/// What stands before the names of a model with a head, and may be missing in a file of its trunk alone.
pub(super) const TRUNKS: [&str; 2] = ["model.", "transformer."];
/// Name of the head of a `ForSequenceClassification` model, without `.weight`.
pub const SCORE_HEAD: &str = "score";
/// Name of the value head that trainers put beside the output head of a critic, without `.weight`.
pub const VALUE_HEAD: &str = "v_head.summary";

/// The modules of `projection` in layer `layer`, in the order they are stacked; none if experts stand in its place.
pub fn parts(config: &ModelConfig, layer: usize, projection: Projection) -> Vec<Part> {
    let names = config.family.names;
    let hidden = config.hidden_size;
    let (q_width, kv_width) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let part = |name: &'static str, out_features, in_features, bias| Part {
        layers: names.layers,
        name,
        out_features,
        in_features,
        bias,
        transposed: names.transposed,
    };
    let has_experts = config.layers.get(layer).is_some_and(|layer| layer.has_experts);
    // A single name stands for all that would be stacked.
    let stack = |names: &'static [&'static str], widths: &[usize], bias| match names {
        [fused] => vec![part(fused, widths.iter().sum(), hidden, bias)],
        names => names.iter().zip(widths).map(|(name, &width)| part(name, width, hidden, bias)).collect(),
    };
    let gate_up = [config.intermediate_size; 2];
    match projection {
        Projection::Qkv => stack(names.qkv, &[q_width, kv_width, kv_width], config.qkv_bias),
        Projection::O => vec![part(names.o, hidden, q_width, config.o_bias)],
        Projection::GateUp | Projection::Down if has_experts => Vec::new(),
        Projection::GateUp => {
            let num_widths = if config.family.gated { 2 } else { 1 };
            stack(names.gate_up, &gate_up[..num_widths], config.mlp_bias)
        }
        Projection::Down => vec![part(names.down, hidden, config.intermediate_size, config.mlp_bias)],
    }
}

/// A matrix of a mixture of experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertPart {
    /// Its full name, without `.weight`.
    pub module: String,
    /// Rows of its weight.
    pub out_features: usize,
    /// Columns of its weight.
    pub in_features: usize,
}

/// The matrices of a layer's experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertParts {
    /// `[count, hidden_size]`.
    pub router: ExpertPart,
    /// Gate and first projection of each, in the order they are stacked, and the last projection.
    pub experts: Vec<([ExpertPart; 2], ExpertPart)>,
}

/// The mixture of experts of layer `layer`, if it has one.
pub fn experts(config: &ModelConfig, layer: usize) -> Option<ExpertParts> {
    let (sizes, names) = (config.experts?, config.family.names.experts.as_ref()?);
    if !config.layers.get(layer)?.has_experts {
        return None;
    }
    let (hidden, width, layers) = (config.hidden_size, sizes.intermediate_size, config.family.names.layers);
    let part = |name: String, out_features, in_features| ExpertPart {
        module: format!("{layers}.{layer}.{name}"),
        out_features,
        in_features,
    };
    let expert = |i: usize| {
        let name = |last: &str| format!("{}.{i}.{last}", names.experts);
        (names.gate_up.map(|last| part(name(last), width, hidden)), part(name(names.down), hidden, width))
    };
    Some(ExpertParts {
        router: part(names.router.to_owned(), sizes.count, hidden),
        experts: (0..sizes.count).map(expert).collect(),
    })
}

/// The number and the rest of the name of a module in a layer of any family.
fn in_layer(module: &str) -> Option<(usize, &str)> {
    let rest = names::ALL.iter().find_map(|names| module.strip_prefix(names.layers)?.strip_prefix('.'))?;
    let (layer, name) = rest.split_once('.')?;
    Some((layer.parse().ok()?, name))
}

/// The layer and projection of a module's full name; `None` for heads and other modules.
pub fn find_projection(module: &str) -> Option<(usize, Projection)> {
    let (layer, name) = in_layer(module)?;
    let projection = names::ALL.iter().find_map(|names| {
        let lists = [names.qkv, &[names.o], names.gate_up, &[names.down]];
        Projection::ALL.into_iter().zip(lists).find(|(_, list)| list.contains(&name)).map(|(found, _)| found)
    });
    Some((layer, projection?))
}

/// What a matrix decides, and so how it may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixRole {
    /// A projection of a layer, or of an expert: may be quantised.
    Projection,
    /// A choice between answers or experts that differ little.
    Choice,
    /// An embedding or an output head.
    Vocabulary,
}

/// What the matrix of a module decides.
pub fn role(module: &str) -> MatrixRole {
    let is_router = |name: &str| {
        names::ALL.iter().any(|names| names.experts.as_ref().is_some_and(|experts| experts.router == name))
    };
    match in_layer(module) {
        _ if matches!(module, SCORE_HEAD | VALUE_HEAD) => MatrixRole::Choice,
        Some((_, name)) if is_router(name) => MatrixRole::Choice,
        Some(_) => MatrixRole::Projection,
        None => MatrixRole::Vocabulary,
    }
}

/// What a tensor is for: decides its random start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorRole {
    /// A matrix.
    Weight,
    /// The weight of a norm.
    Norm,
    /// A bias.
    Bias,
}

/// A tensor of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name in the file.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: TensorRole,
}

/// A norm of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormPart {
    /// Its full name, without `.weight`.
    pub module: String,
    /// Its width.
    pub width: usize,
}

/// The norms of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerNorms {
    /// What attention reads, and what it adds.
    pub attention: [Option<NormPart>; 2],
    /// Queries and keys.
    pub qk: Option<[NormPart; 2]>,
    /// What the MLP reads, and what it adds.
    pub mlp: [Option<NormPart>; 2],
}

/// The norms of layer `layer`.
pub fn norms(config: &ModelConfig, layer: usize) -> LayerNorms {
    let names = config.family.names;
    let part = |name: &str, width| NormPart { module: format!("{}.{layer}.{name}", names.layers), width };
    let whole = |name: Option<&str>| name.map(|name| part(name, config.hidden_size));
    let heads = [config.num_heads, config.num_kv_heads];
    let qk = |widths: [usize; 2]| [0, 1].map(|i| part(names.qk_norms[i], widths[i]));
    LayerNorms {
        attention: [whole(names.norms.before_attention), whole(names.norms.after_attention)],
        qk: match config.family.qk_norm {
            QkNorm::None => None,
            QkNorm::Head => Some(qk([config.head_dim; 2])),
            QkNorm::Row => Some(qk(heads.map(|heads| heads * config.head_dim))),
        },
        mlp: [whole(names.norms.before_mlp), whole(names.norms.after_mlp)],
    }
}

/// The norm before the heads.
pub fn final_norm(config: &ModelConfig) -> NormPart {
    NormPart { module: config.family.names.final_norm.to_owned(), width: config.hidden_size }
}

/// Every tensor of a model, from the input up.
pub fn tensors(config: &ModelConfig) -> Vec<TensorSpec> {
    let names = config.family.names;
    let mut specs = Vec::new();
    let mut add = |name: String, shape: Vec<usize>, role| specs.push(TensorSpec { name, shape, role });
    let norm_role = match config.family.norm {
        NormKind::RmsPlusOne => TensorRole::Bias,
        NormKind::Rms | NormKind::Layer => TensorRole::Norm,
    };
    let has_norm_bias = config.family.norm == NormKind::Layer;
    let weight = |name: &str| format!("{name}.weight");
    add(weight(names.embedding), vec![config.vocab_size, config.hidden_size], TensorRole::Weight);
    if let Some(positions) = names.positions {
        add(weight(positions), vec![config.max_position_embeddings, config.hidden_size], TensorRole::Weight);
    }
    for layer in 0..config.num_layers {
        let LayerNorms { attention: [before_attention, after_attention], qk, mlp } = norms(config, layer);
        let [before_mlp, after_mlp] = mlp;
        let norms = [before_attention, after_attention, before_mlp, after_mlp].into_iter().flatten();
        for norm in norms.chain(qk.into_iter().flatten()) {
            add(weight(&norm.module), vec![norm.width], norm_role);
            if has_norm_bias {
                add(format!("{}.bias", norm.module), vec![norm.width], TensorRole::Bias);
            }
        }
        for part in Projection::ALL.iter().flat_map(|&projection| parts(config, layer, projection)) {
            let module = part.module(layer);
            add(weight(&module), part.stored_shape(), TensorRole::Weight);
            if part.bias {
                add(format!("{module}.bias"), vec![part.out_features], TensorRole::Bias);
            }
        }
        if let Some(ExpertParts { router, experts }) = experts(config, layer) {
            let matrices = experts.into_iter().flat_map(|([gate, up], down)| [gate, up, down]);
            for part in [router].into_iter().chain(matrices) {
                add(weight(&part.module), vec![part.out_features, part.in_features], TensorRole::Weight);
            }
        }
    }
    let norm = final_norm(config);
    add(weight(&norm.module), vec![norm.width], norm_role);
    if has_norm_bias {
        add(format!("{}.bias", norm.module), vec![norm.width], TensorRole::Bias);
    }
    match config.num_labels {
        Some(_) if config.has_value_head => {
            add(weight(VALUE_HEAD), vec![1, config.hidden_size], TensorRole::Weight);
            add(format!("{VALUE_HEAD}.bias"), vec![1], TensorRole::Bias);
        }
        Some(labels) => {
            add(weight(SCORE_HEAD), vec![labels, config.hidden_size], TensorRole::Weight);
            if config.is_token_classifier {
                add(format!("{SCORE_HEAD}.bias"), vec![labels], TensorRole::Bias);
            }
        }
        None if config.tie_word_embeddings => {}
        None => add(weight(LM_HEAD), vec![config.vocab_size, config.hidden_size], TensorRole::Weight),
    }
    specs
}

/// Tensors that some files hold and no model needs: rotations and masks that old versions stored, and an output head
/// that is the embedding, or that a classifier was made from.
pub fn is_ignored(config: &ModelConfig, name: &str) -> bool {
    let headless = config.tie_word_embeddings || config.num_labels.is_some();
    let is_mask = in_layer(name).is_some_and(|(_, name)| matches!(name, "attn.bias" | "attn.masked_bias"));
    is_mask
        || name.ends_with(".rotary_emb.inv_freq")
        || (headless && name.strip_suffix(".weight") == Some(LM_HEAD))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::testing::config;

    #[test]
    fn every_part_is_found_in_its_projection_and_listed_once() {
        let config = config(&json!({"attention_bias": true})).unwrap();
        let specs = tensors(&config);
        for layer in 0..config.num_layers {
            for projection in Projection::ALL {
                for part in parts(&config, layer, projection) {
                    let module = part.module(layer);
                    assert_eq!(find_projection(&module), Some((layer, projection)));
                    let weight = format!("{module}.weight");
                    assert_eq!(specs.iter().filter(|spec| spec.name == weight).count(), 1, "{weight}");
                    let bias = specs.iter().any(|spec| spec.name == format!("{module}.bias"));
                    assert_eq!(bias, part.bias, "{module}");
                }
            }
        }
        for other in
            ["lm_head", "score", "model.norm", "model.layers.x.mlp.up_proj", "model.layers.0.mlp.gate"]
        {
            assert_eq!(find_projection(other), None);
        }
    }

    #[test]
    fn heads_follow_the_task_and_the_tie() {
        let has =
            |changes, name: &str| tensors(&config(&changes).unwrap()).iter().any(|spec| spec.name == name);
        assert!(!has(json!({}), "lm_head.weight"));
        assert!(has(json!({"tie_word_embeddings": false}), "lm_head.weight"));
        let classifier =
            json!({"tie_word_embeddings": false, "architectures": ["LlamaForSequenceClassification"]});
        assert!(has(classifier.clone(), "score.weight") && !has(classifier.clone(), "lm_head.weight"));
        assert!(is_ignored(&config(&classifier).unwrap(), "lm_head.weight"));
        assert!(!is_ignored(&config(&json!({"tie_word_embeddings": false})).unwrap(), "lm_head.weight"));
    }
}
