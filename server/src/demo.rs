//! The demo policy and its reward model, embedded in the binary: what is served when no `--policy` is given. Leaves how
//! they were made to `assets/demo/report.md`.

use rectify_engine::model::source::ModelSource;

/// The demo policy's name.
pub const POLICY: &str = "demo";
/// The demo reward model's name.
pub const REWARD: &str = "demo-reward";

/// Files of a folder under `assets/demo`, by name.
macro_rules! embedded {
    ($folder:literal: $($file:literal),+ $(,)?) => {
        &[$(($file, include_bytes!(concat!("../../assets/demo/", $folder, "/", $file)))),+]
    };
}

/// The demo policy.
pub fn policy() -> ModelSource {
    ModelSource::Embedded {
        name: POLICY,
        files: embedded!(
            "policy": "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
            "generation_config.json", "chat_template.jinja",
        ),
    }
}

/// Its suite of checks.
pub const SUITE: &str = include_str!("../../assets/demo/suite.yaml");

/// Its reward model: an adapter and a score head on the policy's base.
pub fn reward() -> ModelSource {
    ModelSource::Embedded {
        name: REWARD,
        files: embedded!("reward": "adapter_config.json", "adapter_model.safetensors"),
    }
}
