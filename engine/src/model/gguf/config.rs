//! `config.json` and the names of tensors from a GGUF file's settings. Leaves the tokenizer to `tokenizer`.

use serde_json::{Map, Value, json};

use super::Gguf;
use crate::model::backend::Result;

/// An architecture we read, and the same model in a Hugging Face folder.
struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    model_type: &'static str,
    causal: &'static str,
    /// Queries and keys are stored by pairs of dimensions that turn together.
    interleaved: bool,
}

const ARCHITECTURES: [Architecture; 3] = [
    Architecture { name: "llama", model_type: "llama", causal: "LlamaForCausalLM", interleaved: true },
    Architecture { name: "qwen2", model_type: "qwen2", causal: "Qwen2ForCausalLM", interleaved: false },
    Architecture { name: "qwen3", model_type: "qwen3", causal: "Qwen3ForCausalLM", interleaved: false },
];

/// Modules of a layer: their names in the file and in a folder.
const LAYER_MODULES: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The other modules.
const MODULES: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Frequencies of rotations that the file stores, as divisors.
const ROPE_FACTORS: &str = "rope_freqs.weight";

fn architecture(gguf: &Gguf) -> Result<&'static Architecture> {
    const FIELD: &str = "general.architecture";
    let name = gguf.string(FIELD).ok_or_else(|| gguf.missing(FIELD))?;
    ARCHITECTURES.iter().find(|known| known.name == name).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
        let message = format!(
            "`{FIELD}` is \"{name}\", which is not read from GGUF yet; known are {}",
            known.join(", ")
        );
        gguf.error(message)
    })
}

/// A number of the architecture's settings.
fn setting<'a>(gguf: &'a Gguf, architecture: &Architecture, name: &str) -> Option<&'a Value> {
    gguf.get(&format!("{}.{name}", architecture.name))
}

/// The `config.json` of the same model in a folder.
pub(super) fn config_json(gguf: &Gguf) -> Result<Value> {
    let architecture = architecture(gguf)?;
    let require = |name: &str| {
        setting(gguf, architecture, name)
            .ok_or_else(|| gguf.missing(&format!("{}.{name}", architecture.name)))
    };
    let optional = |name: &str| setting(gguf, architecture, name).cloned().unwrap_or(Value::Null);
    let token =
        |name: &str| gguf.get(&format!("tokenizer.ggml.{name}_token_id")).cloned().unwrap_or(Value::Null);
    let mut map = Map::new();
    let mut put = |field: &str, value: Value| map.insert(field.to_owned(), value);
    put("model_type", architecture.model_type.into());
    put("architectures", json!([architecture.causal]));
    put("vocab_size", gguf.list("tokenizer.ggml.tokens")?.len().into());
    put("num_hidden_layers", require("block_count")?.clone());
    put("max_position_embeddings", require("context_length")?.clone());
    put("hidden_size", require("embedding_length")?.clone());
    put("intermediate_size", require("feed_forward_length")?.clone());
    put("num_attention_heads", require("attention.head_count")?.clone());
    put("num_key_value_heads", optional("attention.head_count_kv"));
    put("head_dim", optional("attention.key_length"));
    put("rms_norm_eps", require("attention.layer_norm_rms_epsilon")?.clone());
    put("rope_theta", optional("rope.freq_base"));
    put("rope_scaling", rope_scaling(gguf, architecture)?);
    put("hidden_act", "silu".into());
    put("attention_bias", gguf.has_tensor("blk.0.attn_q.bias").into());
    put("tie_word_embeddings", (!gguf.has_tensor("output.weight")).into());
    put("bos_token_id", token("bos"));
    put("eos_token_id", token("eos"));
    put("pad_token_id", token("padding"));
    Ok(Value::Object(map))
}

fn rope_scaling(gguf: &Gguf, architecture: &Architecture) -> Result<Value> {
    let get = |name: &str| setting(gguf, architecture, name);
    if gguf.has_tensor(ROPE_FACTORS) {
        let Some(factors) = gguf.f32_tensor(ROPE_FACTORS) else {
            return Err(gguf.error(format!("the tensor `{ROPE_FACTORS}` must be F32")));
        };
        // One factor for each frequency, whatever the length.
        return Ok(json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors,
            "attention_factor": 1.0}));
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

/// From a file's names of tensors to a folder's.
pub(super) struct TensorNames<'a> {
    gguf: &'a Gguf,
    interleaved: bool,
    num_heads: usize,
    num_kv_heads: usize,
}

impl<'a> TensorNames<'a> {
    pub(super) fn new(gguf: &'a Gguf) -> Result<Self> {
        let architecture = architecture(gguf)?;
        let heads = |name: &str| setting(gguf, architecture, name).and_then(Value::as_u64);
        let num_heads = heads("attention.head_count").unwrap_or(1) as usize;
        let num_kv_heads = heads("attention.head_count_kv").map_or(num_heads, |heads| heads as usize);
        Ok(Self { gguf, interleaved: architecture.interleaved, num_heads, num_kv_heads })
    }

    /// The name in a folder, and the heads of a matrix whose rows come by pairs; `None` if a folder has no such tensor.
    pub(super) fn find(&self, own: &str) -> Result<Option<(String, Option<usize>)>> {
        if own == ROPE_FACTORS {
            return Ok(None);
        }
        let unknown = || self.gguf.error(format!("holds the tensor `{own}`, which is not known"));
        let (module, what) = own.rsplit_once('.').ok_or_else(unknown)?;
        if let Some((_, name)) = MODULES.iter().find(|(known, _)| *known == module) {
            return Ok(Some((format!("{name}.{what}"), None)));
        }
        let (layer, module) =
            module.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).ok_or_else(unknown)?;
        let (_, name) = LAYER_MODULES.iter().find(|(known, _)| *known == module).ok_or_else(unknown)?;
        let heads = match module {
            "attn_q" if self.interleaved => Some(self.num_heads),
            "attn_k" if self.interleaved => Some(self.num_kv_heads),
            _ => None,
        };
        Ok(Some((format!("model.layers.{layer}.{name}.{what}"), heads)))
    }
}
