//! The families of decoders we know, one row of data each. Leaves reading `config.json` to `config`.

/// Where a yes or no of a family comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// Every model of the family.
    Always,
    /// No model of the family.
    Never,
    /// As this field of `config.json` says; absent is no.
    Field(&'static str),
}

/// Which layers attend to a window only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// None.
    Never,
    /// With `use_sliding_window`: those `layer_types` calls `sliding_attention`, or else from `max_window_layers` up.
    UpperLayers,
}

/// What sets a family apart, and the values its `config.json` may leave out.
#[derive(Debug, PartialEq)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Architectures are this plus `ForCausalLM` or `ForSequenceClassification`.
    pub class_prefix: &'static str,
    /// Bias on q, k and v.
    pub qkv_bias: Flag,
    /// Bias on the attention's output projection.
    pub o_bias: Flag,
    /// Bias on the MLP's projections.
    pub mlp_bias: Flag,
    /// RMSNorm of each query and key head before the rotation.
    pub qk_norm: bool,
    /// Sliding windows.
    pub windows: Windows,
    /// `head_dim` if absent; `None` is `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// `rms_norm_eps` if absent.
    pub rms_norm_eps: f64,
    /// `rope_theta` if absent.
    pub rope_theta: f64,
    /// `max_position_embeddings` if absent.
    pub max_position_embeddings: usize,
    /// `max_window_layers` if absent.
    pub max_window_layers: usize,
}

/// Every family; a new one is a new row.
pub static FAMILIES: &[Family] = &[
    Family {
        model_type: "llama",
        class_prefix: "Llama",
        qkv_bias: Flag::Field("attention_bias"),
        o_bias: Flag::Field("attention_bias"),
        mlp_bias: Flag::Field("mlp_bias"),
        qk_norm: false,
        windows: Windows::Never,
        head_dim: None,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        max_position_embeddings: 2048,
        max_window_layers: 0,
    },
    Family {
        model_type: "qwen2",
        class_prefix: "Qwen2",
        qkv_bias: Flag::Always,
        o_bias: Flag::Never,
        mlp_bias: Flag::Never,
        qk_norm: false,
        windows: Windows::UpperLayers,
        head_dim: None,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        max_position_embeddings: 32_768,
        max_window_layers: 28,
    },
    Family {
        model_type: "qwen3",
        class_prefix: "Qwen3",
        qkv_bias: Flag::Field("attention_bias"),
        o_bias: Flag::Field("attention_bias"),
        mlp_bias: Flag::Never,
        qk_norm: true,
        windows: Windows::UpperLayers,
        head_dim: Some(128),
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        max_position_embeddings: 32_768,
        max_window_layers: 28,
    },
];

impl Family {
    /// The family of a `model_type`.
    pub fn find(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.model_type == model_type)
    }

    /// The known model types, as a clause for messages.
    pub fn known() -> String {
        FAMILIES.iter().map(|family| family.model_type).collect::<Vec<_>>().join(", ")
    }
}
