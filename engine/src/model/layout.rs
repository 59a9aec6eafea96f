//! Names and shapes of a decoder's tensors in Hugging Face's layout: the one place that knows them, for loading,
//! random initialisation, adapters and writing. Leaves values to `checkpoint`.

use super::config::ModelConfig;

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
    /// Its name below `model.layers.N.`, e.g. `self_attn.q_proj`.
    pub name: &'static str,
    /// Rows of its weight.
    pub out_features: usize,
    /// Columns of its weight.
    pub in_features: usize,
    /// Has a bias.
    pub bias: bool,
}

impl Part {
    /// Full name in layer `layer`, without `.weight`.
    pub fn module(&self, layer: usize) -> String {
        format!("model.layers.{layer}.{}", self.name)
    }

    /// Last component of the name, what PEFT's `target_modules` usually lists.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

/// Name of the embedding, without `.weight`.
pub const EMBEDDING: &str = "model.embed_tokens";
/// Name of the norm before the heads, without `.weight`.
pub const FINAL_NORM: &str = "model.norm";
/// Name of the output head, without `.weight`.
pub const LM_HEAD: &str = "lm_head";
/// Name of the head of a `ForSequenceClassification` model, without `.weight`.
pub const SCORE_HEAD: &str = "score";

/// The modules of `projection` in every layer, in the order they are stacked.
pub fn parts(config: &ModelConfig, projection: Projection) -> Vec<Part> {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let (q_width, kv_width) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let part = |name, out_features, in_features, bias| Part { name, out_features, in_features, bias };
    match projection {
        Projection::Qkv => vec![
            part("self_attn.q_proj", q_width, hidden, config.qkv_bias),
            part("self_attn.k_proj", kv_width, hidden, config.qkv_bias),
            part("self_attn.v_proj", kv_width, hidden, config.qkv_bias),
        ],
        Projection::O => vec![part("self_attn.o_proj", hidden, q_width, config.o_bias)],
        Projection::GateUp => vec![
            part("mlp.gate_proj", intermediate, hidden, config.mlp_bias),
            part("mlp.up_proj", intermediate, hidden, config.mlp_bias),
        ],
        Projection::Down => vec![part("mlp.down_proj", hidden, intermediate, config.mlp_bias)],
    }
}

/// The layer and projection of a module's full name; `None` for heads and other modules.
pub fn find_projection(module: &str) -> Option<(usize, Projection)> {
    let (layer, name) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let projection = match name {
        "self_attn.q_proj" | "self_attn.k_proj" | "self_attn.v_proj" => Projection::Qkv,
        "self_attn.o_proj" => Projection::O,
        "mlp.gate_proj" | "mlp.up_proj" => Projection::GateUp,
        "mlp.down_proj" => Projection::Down,
        _ => return None,
    };
    Some((layer.parse().ok()?, projection))
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

/// Every tensor of a model, from the input up.
pub fn tensors(config: &ModelConfig) -> Vec<TensorSpec> {
    let mut specs = Vec::new();
    let mut add = |name: String, shape: Vec<usize>, role| specs.push(TensorSpec { name, shape, role });
    let norm = |name: String| (format!("{name}.weight"), TensorRole::Norm);
    add(format!("{EMBEDDING}.weight"), vec![config.vocab_size, config.hidden_size], TensorRole::Weight);
    for layer in 0..config.num_layers {
        let mut norms = vec![
            (layer_norm(layer, "input_layernorm"), config.hidden_size),
            (layer_norm(layer, "post_attention_layernorm"), config.hidden_size),
        ];
        if config.qk_norm {
            norms.push((layer_norm(layer, "self_attn.q_norm"), config.head_dim));
            norms.push((layer_norm(layer, "self_attn.k_norm"), config.head_dim));
        }
        for (name, width) in norms {
            let (name, role) = norm(name);
            add(name, vec![width], role);
        }
        for part in Projection::ALL.iter().flat_map(|&projection| parts(config, projection)) {
            let module = part.module(layer);
            add(format!("{module}.weight"), vec![part.out_features, part.in_features], TensorRole::Weight);
            if part.bias {
                add(format!("{module}.bias"), vec![part.out_features], TensorRole::Bias);
            }
        }
    }
    let (name, role) = norm(FINAL_NORM.to_owned());
    add(name, vec![config.hidden_size], role);
    match config.num_labels {
        Some(labels) => {
            add(format!("{SCORE_HEAD}.weight"), vec![labels, config.hidden_size], TensorRole::Weight)
        }
        None if config.tie_word_embeddings => {}
        None => {
            add(format!("{LM_HEAD}.weight"), vec![config.vocab_size, config.hidden_size], TensorRole::Weight)
        }
    }
    specs
}

/// Name of a norm of layer `layer`, without `.weight`.
pub fn layer_norm(layer: usize, name: &str) -> String {
    format!("model.layers.{layer}.{name}")
}

/// Tensors that some files hold and no model needs: rotations old versions stored, and an output head that is the
/// embedding, or that a classifier was made from.
pub fn is_ignored(config: &ModelConfig, name: &str) -> bool {
    let headless = config.tie_word_embeddings || config.num_labels.is_some();
    name.ends_with(".rotary_emb.inv_freq") || (headless && name.strip_suffix(".weight") == Some(LM_HEAD))
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
                for part in parts(&config, projection) {
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
