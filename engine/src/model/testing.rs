//! Tiny model folders for tests.

use std::path::Path;

use serde_json::{Value, json};

use super::backend::Values;
use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use super::layout;
use super::peft::{self, PeftConfig};
use super::save::{NamedTensor, save_safetensors};
use super::source::ModelSource;

/// A `config.json` with `changes` put over it; `null` takes a field away.
pub(crate) fn config_json(changes: &Value) -> Value {
    let mut config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 272, "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "hidden_act": "silu", "eos_token_id": 257, "bos_token_id": 256,
    });
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    config
}

/// The configuration of [`config_json`].
pub(crate) fn config(changes: &Value) -> Result<ModelConfig, crate::EngineError> {
    ModelConfig::from_json("config.json", &config_json(changes).to_string())
}

/// A byte-level tokenizer without merges: 256 bytes, then `<s>` (added to every whole text), `</s>`, `<|turn|>`.
pub(crate) fn tokenizer_json() -> Value {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100..;
    let mut vocabulary = serde_json::Map::new();
    for byte in 0..=0xff {
        let code = if printable(byte) { byte } else { others.next().unwrap() };
        vocabulary.insert(char::from_u32(code).unwrap().to_string(), byte.into());
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(256, "<s>"), special(257, "</s>"), special(258, "<|turn|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
    })
}

/// The template of the test models.
pub(crate) const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}:{{ m.content }}{% endfor %}\
                                   {% if add_generation_prompt %}<|turn|>assistant:{% endif %}";

fn write(folder: &Path, file: &str, text: &str) {
    std::fs::write(folder.join(file), text).unwrap();
}

/// Writes a whole model folder.
pub(crate) fn write_model(folder: &Path, changes: &Value) -> ModelSource {
    std::fs::create_dir_all(folder).unwrap();
    let config = config(changes).unwrap();
    write(folder, "config.json", &config_json(changes).to_string());
    write(folder, "tokenizer.json", &tokenizer_json().to_string());
    write(folder, "tokenizer_config.json", r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}}"#);
    write(folder, "chat_template.jinja", TEMPLATE);
    let checkpoint = Checkpoint::random(&config, 1);
    save_safetensors(&folder.join("model.safetensors"), &named(&checkpoint, &config)).unwrap();
    ModelSource::from(folder)
}

/// Every tensor of a checkpoint.
pub(crate) fn named<'a>(checkpoint: &'a Checkpoint, config: &ModelConfig) -> Vec<NamedTensor<'a>> {
    let tensor = |spec: layout::TensorSpec| NamedTensor {
        values: checkpoint.values(&spec.name, &spec.shape).unwrap(),
        name: spec.name,
        shape: spec.shape,
    };
    layout::tensors(config).into_iter().map(tensor).collect()
}

/// The tensors of a rank-2 adapter of `q_proj` and `down_proj` for the model of [`config_json`].
pub(crate) fn adapter_tensors(score: bool) -> Vec<NamedTensor<'static>> {
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: [usize; 2]| {
        let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| (i % 7) as f32 * 0.01 - 0.03).collect();
        tensors.push(NamedTensor { name, shape: shape.to_vec(), values: Values::F32(values.into()) });
    };
    for layer in 0..2 {
        for (module, out_features, in_features) in [("self_attn.q_proj", 32, 32), ("mlp.down_proj", 32, 48)] {
            let module = format!("model.layers.{layer}.{module}");
            add(peft::lora_tensor(&module, 'A'), [2, in_features]);
            add(peft::lora_tensor(&module, 'B'), [out_features, 2]);
        }
    }
    if score {
        add(peft::score_tensor(), [1, 32]);
    }
    tensors
}

/// Writes an adapter folder, with `changes` put over its settings.
pub(crate) fn write_adapter(folder: &Path, tensors: &[NamedTensor<'_>], changes: &Value) -> ModelSource {
    std::fs::create_dir_all(folder).unwrap();
    let targets = ["q_proj", "down_proj"].map(str::to_owned).to_vec();
    let score_head = tensors.iter().any(|tensor| tensor.name == peft::score_tensor());
    let mut config = PeftConfig { score_head, ..PeftConfig::new(2, 4.0, targets) }.to_json();
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    write(folder, peft::CONFIG_FILE, &config.to_string());
    save_safetensors(&folder.join(peft::WEIGHTS_FILE), tensors).unwrap();
    ModelSource::from(folder)
}
