//! What a decoder is made of, read from Hugging Face's `config.json` and written back. A family is a row of data in
//! `family`, not a copy of the model. Leaves tensors to `checkpoint`, rotations to `rope`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::backend::Result;
use super::family::{Family, Flag, Windows};
use super::fields::Fields;
use super::rope::RopeScaling;
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
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched for long contexts.
    pub rope_scaling: RopeScaling,
    /// Bias on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the attention's output projection.
    pub o_bias: bool,
    /// Bias on the MLP's projections.
    pub mlp_bias: bool,
    /// RMSNorm of each query and key head before the rotation (Qwen3).
    pub qk_norm: bool,
    /// The output head is the embedding.
    pub tie_word_embeddings: bool,
    /// Last tokens that each layer attends to, `[num_layers]`; `None` is all of them.
    pub windows: Vec<Option<usize>>,
    /// Token that starts a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text, as `config.json` says; `generation_config.json` goes before it.
    pub eos_token_ids: Vec<u32>,
    /// Token that fills up a batch elsewhere; kept for writing.
    pub pad_token_id: Option<u32>,
    /// Outputs of a `ForSequenceClassification` head; `None` for a language model.
    pub num_labels: Option<usize>,
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
        let num_labels = parse_task(fields, family)?;
        if let Some(activation) = fields.string("hidden_act")?
            && !matches!(activation, "silu" | "swish")
        {
            return Err(
                fields.error("hidden_act", format!("is \"{activation}\", but only \"silu\" is known"))
            );
        }
        if fields.get("quantization_config").is_some() {
            return Err(
                fields.error("quantization_config", "is set, but quantised checkpoints are not supported")
            );
        }
        if let Some(share) = fields.number("partial_rotary_factor")?
            && share != 1.0
        {
            return Err(fields.error("partial_rotary_factor", format!("is {share}, but only 1 is supported")));
        }
        let hidden_size = fields.require_size("hidden_size")?;
        let num_heads = fields.require_size("num_attention_heads")?;
        let num_kv_heads = fields.size("num_key_value_heads")?.unwrap_or(num_heads);
        if num_heads % num_kv_heads != 0 {
            let message = format!("is {num_kv_heads}, but must divide num_attention_heads ({num_heads})");
            return Err(fields.error("num_key_value_heads", message));
        }
        let head_dim = match fields.size("head_dim")?.or(family.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden_size % num_heads == 0 => hidden_size / num_heads,
            None => {
                let message = format!("is {num_heads}, but must divide hidden_size ({hidden_size})");
                return Err(fields.error("num_attention_heads", message));
            }
        };
        if head_dim % 2 != 0 {
            return Err(fields.error("head_dim", format!("is {head_dim}, but must be even to be rotated")));
        }
        let max_position_embeddings =
            fields.size("max_position_embeddings")?.unwrap_or(family.max_position_embeddings);
        let num_layers = fields.require_size("num_hidden_layers")?;
        let (rope_theta, rope_scaling) = RopeScaling::parse(fields, family, max_position_embeddings)?;
        let flag = |flag| match flag {
            Flag::Always => Ok(true),
            Flag::Never => Ok(false),
            Flag::Field(field) => Ok(fields.flag(field)?.unwrap_or(false)),
        };
        let one = |field| Ok(fields.tokens(field)?.and_then(|ids| ids.first().copied()));
        Ok(Self {
            family,
            vocab_size: fields.require_size("vocab_size")?,
            hidden_size,
            intermediate_size: fields.require_size("intermediate_size")?,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: fields.positive("rms_norm_eps")?.unwrap_or(family.rms_norm_eps) as f32,
            rope_theta,
            rope_scaling,
            qkv_bias: flag(family.qkv_bias)?,
            o_bias: flag(family.o_bias)?,
            mlp_bias: flag(family.mlp_bias)?,
            qk_norm: family.qk_norm,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            windows: parse_windows(fields, family, num_layers)?,
            bos_token_id: one("bos_token_id")?,
            eos_token_ids: fields.tokens("eos_token_id")?.unwrap_or_default(),
            pad_token_id: one("pad_token_id")?,
            num_labels,
        })
    }

    /// The `config.json` of this model in the words that old and new `transformers` both read; `dtype` is that of the
    /// stored tensors (`float32`, `bfloat16`).
    pub fn to_json(&self, dtype: &str) -> Value {
        let family = self.family;
        let task = if self.num_labels.is_some() { "ForSequenceClassification" } else { "ForCausalLM" };
        let mut map = Map::new();
        let mut put = |field: &str, value: Value| map.insert(field.to_owned(), value);
        put("architectures", json!([format!("{}{task}", family.class_prefix)]));
        put("model_type", json!(family.model_type));
        put("vocab_size", json!(self.vocab_size));
        put("hidden_size", json!(self.hidden_size));
        put("intermediate_size", json!(self.intermediate_size));
        put("num_hidden_layers", json!(self.num_layers));
        put("num_attention_heads", json!(self.num_heads));
        put("num_key_value_heads", json!(self.num_kv_heads));
        put("head_dim", json!(self.head_dim));
        put("hidden_act", json!("silu"));
        put("max_position_embeddings", json!(self.max_position_embeddings));
        put("rms_norm_eps", json!(short(self.rms_norm_eps)));
        put("rope_theta", json!(self.rope_theta));
        put("rope_scaling", self.rope_scaling.to_json());
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
        for (flag, value) in [(family.qkv_bias, self.qkv_bias), (family.mlp_bias, self.mlp_bias)] {
            if let Flag::Field(field) = flag {
                put(field, json!(value));
            }
        }
        if family.windows != Windows::Never {
            let sliding = |window: &Option<usize>| {
                json!(if window.is_some() { "sliding_attention" } else { "full_attention" })
            };
            let window = self.windows.iter().flatten().next();
            put("use_sliding_window", json!(window.is_some()));
            put("sliding_window", json!(window));
            put("layer_types", self.windows.iter().map(sliding).collect());
        }
        if let Some(num_labels) = self.num_labels {
            let label = |i: usize| format!("LABEL_{i}");
            put(
                "id2label",
                (0..num_labels).map(|i| (i.to_string(), json!(label(i)))).collect::<Map<_, _>>().into(),
            );
            put("label2id", (0..num_labels).map(|i| (label(i), json!(i))).collect::<Map<_, _>>().into());
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

/// `None` for a language model, the number of outputs for a classifier.
fn parse_task(fields: &Fields, family: &Family) -> Result<Option<usize>> {
    let architectures = fields.strings("architectures")?.unwrap_or_default();
    let Some(architecture) = architectures.first() else { return Ok(None) };
    match architecture.strip_prefix(family.class_prefix) {
        Some("ForCausalLM") => Ok(None),
        Some("ForSequenceClassification") => {
            let labels = fields.object("id2label")?.map(|labels| labels.names().count());
            // Two is what `transformers` means when nothing is said.
            Ok(Some(fields.size("num_labels")?.or(labels).unwrap_or(2)))
        }
        _ => {
            let known = family.class_prefix;
            let message = format!(
                "is [\"{architecture}\"], but must be {known}ForCausalLM or {known}ForSequenceClassification"
            );
            Err(fields.error("architectures", message))
        }
    }
}

fn parse_windows(fields: &Fields, family: &Family, num_layers: usize) -> Result<Vec<Option<usize>>> {
    let full = vec![None; num_layers];
    if family.windows == Windows::Never || !fields.flag("use_sliding_window")?.unwrap_or(false) {
        return Ok(full);
    }
    let Some(window) = fields.size("sliding_window")? else { return Ok(full) };
    let Some(kinds) = fields.strings("layer_types")? else {
        let first = match fields.get("max_window_layers").and_then(Value::as_u64) {
            Some(first) => first as usize,
            None => family.max_window_layers,
        };
        return Ok((0..num_layers).map(|layer| (layer >= first).then_some(window)).collect());
    };
    if kinds.len() != num_layers {
        let message = format!("has {} entries, but num_hidden_layers is {num_layers}", kinds.len());
        return Err(fields.error("layer_types", message));
    }
    let one = |kind: &str| match kind {
        "full_attention" => Ok(None),
        "sliding_attention" => Ok(Some(window)),
        other => Err(fields.error(
            "layer_types",
            format!("holds \"{other}\", but only full_attention and sliding_attention are known"),
        )),
    };
    kinds.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
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
        assert_eq!(old.rope_theta, 5e5);
        let plain = config(&json!({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}})).unwrap();
        assert_eq!((plain.rope_theta, plain.rope_scaling), (7.0, RopeScaling::None));
    }

    #[test]
    fn a_family_fills_in_what_it_means() {
        let llama = config(&json!({"attention_bias": true})).unwrap();
        assert_eq!((llama.qkv_bias, llama.o_bias, llama.mlp_bias, llama.qk_norm), (true, true, false, false));
        let qwen2 = json!({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]});
        let qwen2 = config(&qwen2).unwrap();
        assert_eq!((qwen2.qkv_bias, qwen2.o_bias, qwen2.head_dim), (true, false, 8));
        let qwen3 = json!({"model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"],
            "id2label": {"0": "a"}, "num_key_value_heads": null, "eos_token_id": [1, 2]});
        let qwen3 = config(&qwen3).unwrap();
        assert_eq!((qwen3.qkv_bias, qwen3.qk_norm, qwen3.head_dim), (false, true, 128));
        assert_eq!((qwen3.num_labels, qwen3.num_kv_heads, &*qwen3.eos_token_ids), (Some(1), 4, &[1, 2][..]));
    }

    #[test]
    fn windows_follow_layer_types_or_upper_layers() {
        let windows = |mut changes: Value| {
            changes["model_type"] = json!("qwen2");
            changes["architectures"] = json!(["Qwen2ForCausalLM"]);
            changes["sliding_window"] = json!(8);
            config(&changes).map(|config| config.windows)
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
                "config.json: `model_type` is \"mamba\", which is not known; known are llama, qwen2, qwen3",
            ),
            (json!({"model_type": null}), "`model_type` is missing"),
            (
                json!({"architectures": ["LlamaForQuestionAnswering"]}),
                "must be LlamaForCausalLM or LlamaForSequenceClassification",
            ),
            (json!({"hidden_act": "gelu"}), "`hidden_act` is \"gelu\", but only \"silu\" is known"),
            (
                json!({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}),
                "`rope_scaling.rope_type` is \"yarn\", which is not known; known are default, linear, llama3",
            ),
            (json!({"rope_scaling": {"type": "linear"}}), "`rope_scaling.factor` is missing"),
            (json!({"quantization_config": {"bits": 4}}), "`quantization_config` is set, but quantised"),
            (json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor` is 0.5, but only 1"),
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
