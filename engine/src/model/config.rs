//! What a decoder is made of, read from Hugging Face's `config.json` and written back. A family is a row of data in
//! `family`, not a copy of the model. Leaves what differs between layers to `layer_config`, tensors to `checkpoint`,
//! rotations to `rope`.

use std::path::Path;

use rectify_kernels::Activation;
use serde_json::{Map, Value, json};

use super::activation::{activation_name, parse_activation};
use super::backend::Result;
use super::family::{Factor, Family, Flag, Windows};
use super::fields::Fields;
use super::layer_config::{LayerConfig, parse_layers};
use super::rope::{Rope, Shape};
use super::source::ModelSource;

/// Shape and flags of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Names and flags of its kind.
    pub family: &'static Family,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Epsilon of every norm.
    pub norm_eps: f32,
    /// What the MLP applies to its gate, or between its projections.
    pub activation: Activation,
    /// The rotations there are; [`LayerConfig::rope`] says which layer has which.
    pub ropes: Vec<Rope>,
    /// Bias on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the attention's output projection.
    pub o_bias: bool,
    /// Bias on the MLP's projections.
    pub mlp_bias: bool,
    /// The output head is the embedding.
    pub tie_word_embeddings: bool,
    /// What differs between layers, `[num_layers]`.
    pub layers: Vec<LayerConfig>,
    /// Mixtures of experts, in the layers that have them.
    pub experts: Option<ExpertsConfig>,
    /// Factor of the embedding.
    pub embedding_scale: f32,
    /// Factor of the scores of attention.
    pub attention_scale: f32,
    /// Factor of what attention and MLP add to the residual stream.
    pub residual_scale: f32,
    /// Factor of the logits.
    pub logit_scale: f32,
    /// `cap · tanh(score / cap)` of the scores of attention.
    pub attention_soft_cap: Option<f32>,
    /// The same of the logits.
    pub logit_soft_cap: Option<f32>,
    /// Token that starts a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text, as `config.json` says; `generation_config.json` goes before it.
    pub eos_token_ids: Vec<u32>,
    /// Token that fills up a batch elsewhere; kept for writing.
    pub pad_token_id: Option<u32>,
    /// Outputs of a `ForSequenceClassification` head; `None` for a language model.
    pub num_labels: Option<usize>,
    /// That head is a `ForTokenClassification`'s: it has a bias.
    pub is_token_classifier: bool,
    /// That head is a value head beside a language model's ([`super::layout::VALUE_HEAD`]).
    pub has_value_head: bool,
    /// What was read, for writing.
    pub stored: Stored,
}

/// A mixture of experts: Shazeer et al. 2017 (arXiv:1701.06538), as Mixtral has it (arXiv:2401.04088).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertsConfig {
    /// Experts of a layer.
    pub count: usize,
    /// Experts of a token.
    pub per_token: usize,
    /// Width of an expert.
    pub intermediate_size: usize,
    /// The weights of a token's experts are made to sum to one.
    pub normalised: bool,
}

/// A `config.json` as it was read. It says nothing that the other fields of [`ModelConfig`] do not, so all are equal.
#[derive(Clone, Debug, Default)]
pub struct Stored(Map<String, Value>);

impl PartialEq for Stored {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl ModelConfig {
    /// Reads a model's `config.json`.
    ///
    /// # Errors
    /// [`crate::EngineError::Load`] naming the file, the field, its value and what is known.
    pub fn load(source: &ModelSource) -> Result<Self> {
        Self::parse(&source.require_json("config.json")?)
    }

    /// Reads the JSON text of a `config.json`; `path` is what messages call it.
    ///
    /// # Errors
    /// As [`ModelConfig::load`].
    pub fn from_json(path: impl AsRef<Path>, text: &str) -> Result<Self> {
        Self::parse(&Fields::parse(path.as_ref().to_owned(), text.as_bytes())?)
    }

    fn parse(fields: &Fields) -> Result<Self> {
        let family = find_family(fields)?;
        let (num_labels, is_token_classifier) = parse_task(fields, family)?;
        refuse(fields, family)?;
        let own = |usual| family.field(usual);
        let hidden_size = fields.require_size(own("hidden_size"))?;
        let heads_field = own("num_attention_heads");
        let num_heads = fields.require_size(heads_field)?;
        let num_kv_heads = fields.size("num_key_value_heads")?.unwrap_or(num_heads);
        if num_heads % num_kv_heads != 0 {
            let message = format!("is {num_kv_heads}, but must divide {heads_field} ({num_heads})");
            return Err(fields.error("num_key_value_heads", message));
        }
        let head_dim = match fields.size("head_dim")?.or(family.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden_size % num_heads == 0 => hidden_size / num_heads,
            None => {
                let message =
                    format!("is {num_heads}, but must divide {} ({hidden_size})", own("hidden_size"));
                return Err(fields.error(heads_field, message));
            }
        };
        if head_dim % 2 != 0 {
            return Err(fields.error("head_dim", format!("is {head_dim}, but must be even to be rotated")));
        }
        let max_position_embeddings =
            fields.size(own("max_position_embeddings"))?.unwrap_or(family.max_position_embeddings);
        let num_layers = fields.require_size(own("num_hidden_layers"))?;
        let intermediate_size = match fields.size(own("intermediate_size"))? {
            Some(size) => size,
            // GPT-2's; every other family says it.
            None if own("intermediate_size") != "intermediate_size" => 4 * hidden_size,
            None => fields.require_size("intermediate_size")?,
        };
        let shape = Shape { head_dim, max_position_embeddings };
        let (ropes, layers) = parse_layers(fields, family, num_layers, &shape)?;
        let factor = |factor| parse_factor(fields, factor, hidden_size, head_dim);
        let cap = |field| match family.soft_caps {
            true => Ok(fields.positive(field)?.map(|cap| cap as f32)),
            false => Ok(None),
        };
        let one = |field| Ok(fields.tokens(field)?.and_then(|ids| ids.first().copied()));
        Ok(Self {
            family,
            vocab_size: fields.require_size("vocab_size")?,
            hidden_size,
            intermediate_size,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            max_position_embeddings,
            norm_eps: fields.positive(own("rms_norm_eps"))?.unwrap_or(family.norm_eps) as f32,
            activation: parse_activation(fields, own("hidden_act"), family.activation)?,
            ropes,
            qkv_bias: flag(fields, family.qkv_bias)?,
            o_bias: flag(fields, family.o_bias)?,
            mlp_bias: flag(fields, family.mlp_bias)?,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(family.tied),
            experts: parse_experts(fields, family)?,
            layers,
            embedding_scale: factor(family.embedding_scale)?,
            attention_scale: factor(family.attention_scale)?,
            residual_scale: factor(family.residual_scale)?,
            logit_scale: factor(family.logit_scale)?,
            attention_soft_cap: cap("attn_logit_softcapping")?,
            logit_soft_cap: cap("final_logit_softcapping")?,
            bos_token_id: one("bos_token_id")?,
            eos_token_ids: fields.tokens("eos_token_id")?.unwrap_or_default(),
            pad_token_id: one("pad_token_id")?,
            num_labels,
            is_token_classifier,
            has_value_head: false,
            stored: Stored(fields.all().clone()),
        })
    }

    /// The same model with the value head of its critic in the place of the output head.
    #[must_use]
    pub fn with_value_head(self) -> Self {
        Self { num_labels: Some(1), has_value_head: true, ..self }
    }

    /// The `config.json` of this model in the words that old and new `transformers` both read, and whatever else was
    /// read; `dtype` is that of the stored tensors (`float32`, `bfloat16`).
    pub fn to_json(&self, dtype: &str) -> Value {
        let family = self.family;
        let mut map = Map::new();
        let mut put = |usual, value: Value| map.insert(family.field(usual).to_owned(), value);
        let architecture = match self.num_labels {
            Some(_) if self.is_token_classifier => family.token_classifier(),
            Some(_) => family.classifier.to_owned(),
            None => family.causal.to_owned(),
        };
        put("architectures", json!([architecture]));
        put("model_type", json!(family.model_type));
        put("vocab_size", json!(self.vocab_size));
        put("hidden_size", json!(self.hidden_size));
        put("intermediate_size", json!(self.intermediate_size));
        put("num_hidden_layers", json!(self.num_layers));
        put("num_attention_heads", json!(self.num_heads));
        put("num_key_value_heads", json!(self.num_kv_heads));
        put("head_dim", json!(self.head_dim));
        put("hidden_act", json!(activation_name(self.activation)));
        put("max_position_embeddings", json!(self.max_position_embeddings));
        put("rms_norm_eps", json!(short(self.norm_eps)));
        put("tie_word_embeddings", json!(self.tie_word_embeddings));
        put("torch_dtype", json!(dtype));
        put("bos_token_id", json!(self.bos_token_id));
        put(
            "eos_token_id",
            match self.eos_token_ids.as_slice() {
                [] => Value::Null,
                [id] => json!(id),
                ids => json!(ids),
            },
        );
        put("pad_token_id", json!(self.pad_token_id));
        let flags = [
            (family.qkv_bias, self.qkv_bias),
            (family.o_bias, self.o_bias),
            (family.mlp_bias, self.mlp_bias),
        ];
        for (flag, value) in flags {
            if let Flag::Field(field) | Flag::FieldOrYes(field) = flag {
                put(field, json!(value));
            }
        }
        if family.windows != Windows::Never {
            let sliding = |layer: &LayerConfig| {
                json!(if layer.window.is_some() { "sliding_attention" } else { "full_attention" })
            };
            let window = self.layers.iter().find_map(|layer| layer.window);
            put("use_sliding_window", json!(window.is_some()));
            put("sliding_window", json!(window));
            put("layer_types", self.layers.iter().map(sliding).collect());
        }
        let mut replaced = vec!["dtype", "num_labels", "transformers_version"];
        if let [rope] = self.ropes.as_slice()
            && let Some(scaling) = rope.scaling.to_json()
        {
            put("rope_theta", json!(rope.theta));
            put("rope_scaling", scaling);
            if rope.dim != self.head_dim {
                put("partial_rotary_factor", json!(rope.dim as f64 / self.head_dim as f64));
            }
            replaced.push("rope_parameters");
        }
        if let Some(num_labels) = self.num_labels {
            let label = |i: usize| format!("LABEL_{i}");
            put(
                "id2label",
                (0..num_labels).map(|i| (i.to_string(), json!(label(i)))).collect::<Map<_, _>>().into(),
            );
            put("label2id", (0..num_labels).map(|i| (label(i), json!(i))).collect::<Map<_, _>>().into());
        }
        for (field, value) in &self.stored.0 {
            if !replaced.contains(&field.as_str()) {
                map.entry(field.clone()).or_insert_with(|| value.clone());
            }
        }
        Value::Object(map)
    }
}

/// The number a person would have written: `1e-5`, not `9.999999747378752e-6`.
fn short(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

fn find_family(fields: &Fields) -> Result<&'static Family> {
    let Some(model_type) = fields.string("model_type")? else {
        return Err(fields.error("model_type", format!("is missing; known are {}", Family::known())));
    };
    Family::find(model_type).ok_or_else(|| {
        let message = format!("is \"{model_type}\", which is not known; known are {}", Family::known());
        fields.error("model_type", message)
    })
}

/// `None` for a language model, the number of outputs for a classifier; and whether that is one of tokens.
fn parse_task(fields: &Fields, family: &Family) -> Result<(Option<usize>, bool)> {
    let architectures = fields.strings("architectures")?.unwrap_or_default();
    match architectures.first() {
        None => Ok((None, false)),
        Some(&architecture) if architecture == family.causal => Ok((None, false)),
        Some(&architecture)
            if architecture == family.classifier || architecture == family.token_classifier() =>
        {
            let labels = fields.object("id2label")?.map(|labels| labels.names().count());
            // Two is what `transformers` means when nothing is said.
            let num_labels = fields.size("num_labels")?.or(labels).unwrap_or(2);
            Ok((Some(num_labels), architecture != family.classifier))
        }
        Some(architecture) => {
            let (causal, classifier) = (family.causal, family.classifier);
            let message = format!("is [\"{architecture}\"], but must be {causal} or {classifier}");
            Err(fields.error("architectures", message))
        }
    }
}

/// What would compute something else than we do.
fn refuse(fields: &Fields, family: &Family) -> Result<()> {
    if fields.get("quantization_config").is_some() {
        return Err(
            fields.error("quantization_config", "is set, but quantised checkpoints are not supported")
        );
    }
    for &(field, wanted) in family.fixed {
        if fields.flag(field)?.is_some_and(|value| value != wanted) {
            return Err(fields.error(field, format!("is {}, but only {wanted} is supported", !wanted)));
        }
    }
    Ok(())
}

fn flag(fields: &Fields, flag: Flag) -> Result<bool> {
    match flag {
        Flag::Always => Ok(true),
        Flag::Never => Ok(false),
        Flag::Field(field) => Ok(fields.flag(field)?.unwrap_or(false)),
        Flag::FieldOrYes(field) => Ok(fields.flag(field)?.unwrap_or(true)),
    }
}

fn parse_factor(fields: &Fields, factor: Factor, hidden_size: usize, head_dim: usize) -> Result<f32> {
    let by_head = (head_dim as f32).sqrt().recip();
    Ok(match factor {
        Factor::One => 1.0,
        Factor::RootOfHidden => (hidden_size as f32).sqrt(),
        Factor::Field(field) => fields.positive(field)?.unwrap_or(1.0) as f32,
        Factor::Inverse(field) => fields.positive(field)?.unwrap_or(1.0).recip() as f32,
        Factor::InverseRoot(field) => fields.positive(field)?.map_or(by_head, |x| x.sqrt().recip() as f32),
        Factor::InverseRootOfHead => by_head,
    })
}

fn parse_experts(fields: &Fields, family: &Family) -> Result<Option<ExpertsConfig>> {
    let Some(names) = family.experts else { return Ok(None) };
    // The one name stands for the other in `transformers`.
    let count = match fields.size(names.count)? {
        Some(count) => count,
        None => fields.size("num_local_experts")?.map_or_else(|| fields.require_size("num_experts"), Ok)?,
    };
    let per_token = fields.require_size("num_experts_per_tok")?;
    if per_token > count {
        let message = format!("is {per_token}, but there are {count} experts");
        return Err(fields.error("num_experts_per_tok", message));
    }
    let intermediate_size = fields.require_size(names.intermediate_size)?;
    Ok(Some(ExpertsConfig {
        count,
        per_token,
        intermediate_size,
        normalised: flag(fields, names.normalised)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::family::{FAMILIES, QkNorm};
    use crate::model::rope::RopeScaling;
    use crate::model::testing::config;

    #[test]
    fn reads_the_shapes_of_old_and_new_transformers_alike() {
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        let old = config(&json!({"rope_theta": 5e5, "rope_scaling": llama3})).unwrap();
        let mut parameters = llama3.clone();
        parameters["rope_theta"] = json!(5e5);
        let new =
            config(&json!({"rope_theta": null, "rope_parameters": parameters, "dtype": "bfloat16"})).unwrap();
        assert_eq!(old, new);
        assert_eq!(old.ropes[0].theta, 5e5);
        let plain = config(&json!({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}})).unwrap();
        assert_eq!(plain.ropes, [Rope { theta: 7.0, dim: 8, scaling: RopeScaling::None }]);
    }

    #[test]
    fn a_family_fills_in_what_it_means() {
        let llama = config(&json!({"attention_bias": true})).unwrap();
        assert_eq!((llama.qkv_bias, llama.o_bias, llama.mlp_bias), (true, true, false));
        let qwen2 = json!({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]});
        let qwen2 = config(&qwen2).unwrap();
        assert_eq!((qwen2.qkv_bias, qwen2.o_bias, qwen2.head_dim), (true, false, 8));
        let qwen3 = json!({"model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"],
            "id2label": {"0": "a"}, "num_key_value_heads": null, "eos_token_id": [1, 2]});
        let qwen3 = config(&qwen3).unwrap();
        assert_eq!((qwen3.qkv_bias, qwen3.family.qk_norm, qwen3.head_dim), (false, QkNorm::Head, 128));
        assert_eq!((qwen3.num_labels, qwen3.num_kv_heads, &*qwen3.eos_token_ids), (Some(1), 4, &[1, 2][..]));
    }

    #[test]
    fn every_family_is_read_from_its_own_words_and_written_back_the_same() {
        for family in FAMILIES {
            let own = |usual| family.field(usual);
            let mut text = json!({"model_type": family.model_type, "architectures": [family.causal],
                "vocab_size": 64, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8,
                "use_sliding_window": true, "num_experts_per_tok": 2, "num_local_experts": 4,
                "moe_intermediate_size": 16, "residual_multiplier": 0.5, "logits_scaling": 4.0,
                "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 16,
                "rope_scaling": {"rope_type": "yarn", "factor": 2.0}});
            for (usual, value) in [("hidden_size", 32), ("intermediate_size", 48), ("num_hidden_layers", 4)] {
                text[own(usual)] = json!(value);
            }
            text[own("num_attention_heads")] = json!(4);
            let read = ModelConfig::from_json("config.json", &text.to_string()).unwrap();
            let written = read.to_json("float32").to_string();
            assert_eq!(ModelConfig::from_json("written", &written).unwrap(), read, "{}", family.model_type);
            assert_eq!(read.layers.len(), 4);
            assert_eq!(read.experts.is_some(), family.experts.is_some());
        }
        let gemma = json!({"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "sliding_window": 8,
            "num_hidden_layers": 3, "use_bidirectional_attention": true});
        let error = config(&gemma).unwrap_err().to_string();
        assert!(
            error.contains("`use_bidirectional_attention` is true, but only false is supported"),
            "{error}"
        );
    }

    #[test]
    fn windows_follow_layer_types_or_upper_layers() {
        let windows = |mut changes: Value| {
            changes["model_type"] = json!("qwen2");
            changes["architectures"] = json!(["Qwen2ForCausalLM"]);
            changes["sliding_window"] = json!(8);
            config(&changes).map(|config| config.layers.iter().map(|layer| layer.window).collect::<Vec<_>>())
        };
        assert_eq!(windows(json!({})).unwrap(), [None, None]);
        let upper = json!({"use_sliding_window": true, "max_window_layers": 1});
        assert_eq!(windows(upper).unwrap(), [None, Some(8)]);
        let listed =
            json!({"use_sliding_window": true, "layer_types": ["sliding_attention", "full_attention"]});
        assert_eq!(windows(listed).unwrap(), [Some(8), None]);
        let unknown =
            json!({"use_sliding_window": true, "layer_types": ["linear_attention", "full_attention"]});
        assert!(windows(unknown).unwrap_err().to_string().contains("\"linear_attention\""));
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        for changes in [
            json!({"rms_norm_eps": 1e-6, "mlp_bias": true, "attention_bias": true, "pad_token_id": 3}),
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "tie_word_embeddings": false}),
            json!({"model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"], "num_labels": 1,
                "use_sliding_window": true, "sliding_window": 9, "max_window_layers": 1, "eos_token_id": null}),
            json!({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "eos_token_id": [1, 2]}),
        ] {
            let read = config(&changes).unwrap();
            let written = read.to_json("float32");
            assert_eq!(ModelConfig::from_json("written", &written.to_string()).unwrap(), read);
        }
    }

    #[test]
    fn refusals_name_file_field_value_and_what_is_known() {
        for (changes, words) in [
            (
                json!({"model_type": "mamba"}),
                "config.json: `model_type` is \"mamba\", which is not known; known are llama, qwen2, qwen3, ",
            ),
            (json!({"model_type": null}), "`model_type` is missing"),
            (
                json!({"architectures": ["LlamaForQuestionAnswering"]}),
                "must be LlamaForCausalLM or LlamaForSequenceClassification",
            ),
            (
                json!({"hidden_act": "quick"}),
                "`hidden_act` is \"quick\", which is not known; known are silu, swish, gelu_pytorch_tanh",
            ),
            (
                json!({"rope_scaling": {"rope_type": "spiral", "factor": 2.0}}),
                "`rope_scaling.rope_type` is \"spiral\", which is not known; known are default, linear, dynamic, llama3",
            ),
            (json!({"rope_scaling": {"type": "linear"}}), "`rope_scaling.factor` is missing"),
            (json!({"quantization_config": {"bits": 4}}), "`quantization_config` is set, but quantised"),
            (
                json!({"partial_rotary_factor": 0.4}),
                "`partial_rotary_factor` is 0.4, but must turn an even number",
            ),
            (json!({"hidden_size": null}), "`hidden_size` is missing"),
            (json!({"hidden_size": "big"}), "`hidden_size` is \"big\", but must be a whole number"),
            (json!({"num_hidden_layers": 1e30}), "`num_hidden_layers` is 1e+30, but must be a whole number"),
            (
                json!({"num_key_value_heads": 3}),
                "`num_key_value_heads` is 3, but must divide num_attention_heads (4)",
            ),
            (json!({"num_attention_heads": 5, "num_key_value_heads": 5}), "must divide hidden_size (32)"),
            (json!({"head_dim": 7}), "`head_dim` is 7, but must be even"),
            (json!({"rms_norm_eps": -1.0}), "`rms_norm_eps` is -1, but must be above 0"),
            (json!({"eos_token_id": "</s>"}), "`eos_token_id` is \"</s>\", but must be a token id"),
        ] {
            let error = config(&changes).unwrap_err().to_string();
            assert!(error.contains(words), "{error}\nlacks: {words}");
        }
        for text in ["", "[]", "{\"a\": "] {
            let error = ModelConfig::from_json("m/config.json", text).unwrap_err().to_string();
            assert!(error.starts_with("m/config.json: ") && error.contains("JSON"), "{error}");
        }
    }
}
