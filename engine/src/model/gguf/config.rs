//! `config.json` from a GGUF file's settings. An architecture is a row of data: which family of decoders it is, and what
//! it stores differently. Leaves the names of tensors to `names`, the tokenizer to `tokenizer`.

use serde_json::{Map, Value, json};

use super::Gguf;
use crate::model::backend::Result;
use crate::model::family::Family;

/// An architecture we read, and the same model in a Hugging Face folder.
#[derive(Debug)]
pub(super) struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    /// It has experts; one name may stand for two families.
    experts: bool,
    /// The family, by its `model_type`.
    model_type: &'static str,
    /// Queries and keys are stored by pairs of dimensions that turn together.
    pub(super) interleaved: bool,
    /// Norms are stored with the one that the family adds to their weight.
    pub(super) whole_norms: bool,
    /// Epsilon of the norms.
    epsilon: &'static str,
    /// Fields of its own, and the settings they are read from.
    fields: &'static [(&'static str, &'static str)],
}

const RMS: &str = "attention.layer_norm_rms_epsilon";
const LAYER_NORM: &str = "attention.layer_norm_epsilon";
const WINDOW: (&str, &str) = ("sliding_window", "attention.sliding_window");
const CHOSEN: (&str, &str) = ("num_experts_per_tok", "expert_used_count");

/// Llama, from which the others differ.
const LLAMA: Architecture = Architecture {
    name: "llama",
    experts: false,
    model_type: "llama",
    interleaved: true,
    whole_norms: false,
    epsilon: RMS,
    fields: &[],
};

/// Qwen 2.
const QWEN2: Architecture = Architecture { name: "qwen2", model_type: "qwen2", interleaved: false, ..LLAMA };

/// Gemma 2.
const GEMMA2: Architecture = Architecture {
    name: "gemma2",
    model_type: "gemma2",
    whole_norms: true,
    fields: &[
        WINDOW,
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
    ],
    ..QWEN2
};

/// Every architecture; a new one is a new row.
const ARCHITECTURES: [Architecture; 12] = [
    LLAMA,
    Architecture {
        experts: true,
        model_type: "mixtral",
        fields: &[("num_local_experts", "expert_count"), CHOSEN],
        ..LLAMA
    },
    Architecture {
        name: "granite",
        model_type: "granite",
        fields: &[
            ("embedding_multiplier", "embedding_scale"),
            ("attention_multiplier", "attention.scale"),
            ("residual_multiplier", "residual_scale"),
            ("logits_scaling", "logit_scale"),
        ],
        ..LLAMA
    },
    QWEN2,
    Architecture { name: "qwen3", model_type: "qwen3", ..QWEN2 },
    Architecture {
        name: "qwen3moe",
        experts: true,
        model_type: "qwen3_moe",
        fields: &[
            ("num_experts", "expert_count"),
            CHOSEN,
            ("moe_intermediate_size", "expert_feed_forward_length"),
        ],
        ..QWEN2
    },
    GEMMA2,
    Architecture { name: "gemma3", model_type: "gemma3_text", fields: &[WINDOW], ..GEMMA2 },
    Architecture { name: "phi3", model_type: "phi3", fields: &[WINDOW], ..QWEN2 },
    Architecture { name: "olmo2", model_type: "olmo2", ..QWEN2 },
    Architecture {
        name: "starcoder2",
        model_type: "starcoder2",
        epsilon: LAYER_NORM,
        fields: &[WINDOW],
        ..QWEN2
    },
    Architecture { name: "gpt2", model_type: "gpt2", epsilon: LAYER_NORM, ..QWEN2 },
];

/// Frequencies of rotations that the file stores, as divisors.
const ROPE_FACTORS: &str = "rope_freqs.weight";
/// The same for short and long contexts.
const LONG_FACTORS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// Whether a tensor is part of the configuration.
pub(super) fn is_setting(tensor: &str) -> bool {
    tensor == ROPE_FACTORS || LONG_FACTORS.contains(&tensor)
}

impl Architecture {
    pub(super) fn of(gguf: &Gguf) -> Result<&'static Self> {
        const FIELD: &str = "general.architecture";
        let name = gguf.string(FIELD).ok_or_else(|| gguf.missing(FIELD))?;
        let count = gguf.get(&format!("{name}.expert_count")).and_then(Value::as_u64);
        let experts = count.is_some_and(|count| count > 0);
        let alike = |known: &&Self| known.name == name && known.experts == experts;
        ARCHITECTURES.iter().find(alike).ok_or_else(|| {
            let mut known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
            known.dedup();
            let with = if experts { " with experts" } else { "" };
            let message = format!(
                "`{FIELD}` is \"{name}\"{with}, which is not read from GGUF yet; known are {}",
                known.join(", ")
            );
            gguf.error(message)
        })
    }

    pub(super) fn family(&self, gguf: &Gguf) -> Result<&'static Family> {
        let unknown = || gguf.error(format!("is of the family {}, which is not known", self.model_type));
        Family::find(self.model_type).ok_or_else(unknown)
    }

    /// A setting of the architecture.
    pub(super) fn setting<'a>(&self, gguf: &'a Gguf, name: &str) -> Option<&'a Value> {
        gguf.get(&format!("{}.{name}", self.name))
    }
}

/// The `config.json` of the same model in a folder.
pub(super) fn config_json(gguf: &Gguf) -> Result<Value> {
    let architecture = Architecture::of(gguf)?;
    let family = architecture.family(gguf)?;
    let require = |name: &str| {
        let missing = || gguf.missing(&format!("{}.{name}", architecture.name));
        architecture.setting(gguf, name).ok_or_else(missing)
    };
    let optional = |name: &str| architecture.setting(gguf, name).cloned().unwrap_or(Value::Null);
    let token =
        |name: &str| gguf.get(&format!("tokenizer.ggml.{name}_token_id")).cloned().unwrap_or(Value::Null);
    let mut map = Map::new();
    let mut put = |field: &'static str, value: Value| map.insert(family.field(field).to_owned(), value);
    put("model_type", architecture.model_type.into());
    put("architectures", json!([family.causal]));
    put("vocab_size", gguf.list("tokenizer.ggml.tokens")?.len().into());
    put("num_hidden_layers", require("block_count")?.clone());
    put("max_position_embeddings", require("context_length")?.clone());
    put("hidden_size", require("embedding_length")?.clone());
    put("intermediate_size", require("feed_forward_length")?.clone());
    put("num_attention_heads", require("attention.head_count")?.clone());
    put("num_key_value_heads", optional("attention.head_count_kv"));
    put("head_dim", optional("attention.key_length"));
    put("rms_norm_eps", require(architecture.epsilon)?.clone());
    put("rope_theta", optional("rope.freq_base"));
    put("rope_scaling", rope_scaling(gguf, architecture)?);
    put("partial_rotary_factor", rotary_share(gguf, architecture));
    put("original_max_position_embeddings", optional("rope.scaling.original_context_length"));
    put("query_pre_attn_scalar", query_scalar(gguf, architecture));
    // What converters check before they write a file, and llama.cpp takes for granted.
    put("norm_topk_prob", architecture.experts.into());
    put("attention_bias", gguf.has_tensor("blk.0.attn_q.bias").into());
    put("mlp_bias", gguf.has_tensor("blk.0.ffn_up.bias").into());
    put("tie_word_embeddings", (!gguf.has_tensor("output.weight")).into());
    put("bos_token_id", token("bos"));
    put("eos_token_id", token("eos"));
    put("pad_token_id", token("padding"));
    for (field, setting) in architecture.fields {
        put(field, optional(setting));
    }
    Ok(Value::Object(map))
}

/// The share of a head that turns, if it is not the whole.
fn rotary_share(gguf: &Gguf, architecture: &Architecture) -> Value {
    let number = |name: &str| architecture.setting(gguf, name).and_then(Value::as_f64);
    let head = number("attention.key_length")
        .or_else(|| Some(number("embedding_length")? / number("attention.head_count")?));
    match (number("rope.dimension_count"), head) {
        (Some(turning), Some(head)) if turning < head => (turning / head).into(),
        _ => Value::Null,
    }
}

/// What the scores of Gemma's attention are divided by the root of: the file does not say, and depth tells, as it does in
/// llama.cpp. The largest of Gemma 2 (46 layers) and of Gemma 3 (62) divide by the mean width of a head.
fn query_scalar(gguf: &Gguf, architecture: &Architecture) -> Value {
    let number = |name: &str| architecture.setting(gguf, name).and_then(Value::as_f64);
    let largest = match architecture.model_type {
        "gemma2" => 46.0,
        "gemma3_text" => 62.0,
        _ => return Value::Null,
    };
    let scalar = match number("block_count") == Some(largest) {
        true => {
            number("embedding_length").zip(number("attention.head_count")).map(|(width, heads)| width / heads)
        }
        false => number("attention.key_length"),
    };
    scalar.map_or(Value::Null, Value::from)
}

fn rope_scaling(gguf: &Gguf, architecture: &Architecture) -> Result<Value> {
    let get = |name: &str| architecture.setting(gguf, name);
    let factors = |name: &str| {
        gguf.f32_tensor(name).ok_or_else(|| gguf.error(format!("the tensor `{name}` must be F32")))
    };
    if gguf.has_tensor(ROPE_FACTORS) {
        // One factor for each frequency, whatever the length.
        let factors = factors(ROPE_FACTORS)?;
        return Ok(json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors,
            "attention_factor": 1.0}));
    }
    if gguf.has_tensor(LONG_FACTORS[0]) {
        let [short, long] = LONG_FACTORS.map(factors);
        let attention = get("rope.scaling.attn_factor").cloned().unwrap_or(Value::Null);
        return Ok(json!({"rope_type": "longrope", "short_factor": short?, "long_factor": long?,
            "attention_factor": attention}));
    }
    let factor = get("rope.scaling.factor").cloned().unwrap_or(Value::Null);
    match get("rope.scaling.type").and_then(Value::as_str) {
        None | Some("none") => Ok(Value::Null),
        Some(kind @ ("linear" | "yarn")) => {
            let original = get("rope.scaling.original_context_length").cloned().unwrap_or(Value::Null);
            Ok(json!({"rope_type": kind, "factor": factor, "original_max_position_embeddings": original}))
        }
        Some(other) => {
            let field = format!("{}.rope.scaling.type", architecture.name);
            Err(gguf.error(format!("`{field}` is \"{other}\", but only none, linear and yarn are known")))
        }
    }
}
