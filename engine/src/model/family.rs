//! The families of decoders we know, one row of data each. Leaves reading `config.json` to `config`, the names of
//! tensors to `names`.

use rectify_kernels::Activation;

use super::names::{self, Names};
pub use super::terms::{ExpertFields, Factor, Flag, NormKind, QkNorm, Rotation, Windows};

/// What sets a family apart, and the values its `config.json` may leave out.
#[derive(Debug, PartialEq)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The architecture of its language models.
    pub causal: &'static str,
    /// The architecture of its classifiers.
    pub classifier: &'static str,
    /// What it calls its tensors.
    pub names: &'static Names,
    /// Fields that it calls differently, `(usual name, its name)`.
    pub aliases: &'static [(&'static str, &'static str)],
    /// Bias on q, k and v.
    pub qkv_bias: Flag,
    /// Bias on the attention's output projection.
    pub o_bias: Flag,
    /// Bias on the MLP's projections.
    pub mlp_bias: Flag,
    /// What its norms compute.
    pub norm: NormKind,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// The MLP has a gate.
    pub gated: bool,
    /// `hidden_act` if absent.
    pub activation: Activation,
    /// A mixture of experts in the MLP's place.
    pub experts: Option<ExpertFields>,
    /// Sliding windows.
    pub windows: Windows,
    /// Rotations.
    pub rotation: Rotation,
    /// Of the embedding.
    pub embedding_scale: Factor,
    /// Of the scores of attention.
    pub attention_scale: Factor,
    /// Of what attention and MLP add to the residual stream.
    pub residual_scale: Factor,
    /// Of the logits.
    pub logit_scale: Factor,
    /// Scores of attention and logits may be capped (`attn_logit_softcapping`, `final_logit_softcapping`).
    pub soft_caps: bool,
    /// Fields that would compute something else, and the value that does not.
    pub fixed: &'static [(&'static str, bool)],
    /// `head_dim` if absent; `None` is `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// `rms_norm_eps` if absent.
    pub norm_eps: f64,
    /// `rope_theta` if absent.
    pub rope_theta: f64,
    /// `max_position_embeddings` if absent.
    pub max_position_embeddings: usize,
    /// `max_window_layers` if absent.
    pub max_window_layers: usize,
    /// `tie_word_embeddings` if absent.
    pub tied: bool,
}

/// Llama, from which the others differ.
const LLAMA: Family = Family {
    model_type: "llama",
    causal: "LlamaForCausalLM",
    classifier: "LlamaForSequenceClassification",
    names: &names::LLAMA,
    aliases: &[],
    qkv_bias: Flag::Field("attention_bias"),
    o_bias: Flag::Field("attention_bias"),
    mlp_bias: Flag::Field("mlp_bias"),
    norm: NormKind::Rms,
    qk_norm: QkNorm::None,
    gated: true,
    activation: Activation::Silu,
    experts: None,
    windows: Windows::Never,
    rotation: Rotation::All,
    embedding_scale: Factor::One,
    attention_scale: Factor::InverseRootOfHead,
    residual_scale: Factor::One,
    logit_scale: Factor::One,
    soft_caps: false,
    fixed: &[],
    head_dim: None,
    norm_eps: 1e-6,
    rope_theta: 10_000.0,
    max_position_embeddings: 2048,
    max_window_layers: 0,
    tied: false,
};

/// Mistral 7B.
const MISTRAL: Family = Family {
    model_type: "mistral",
    causal: "MistralForCausalLM",
    classifier: "MistralForSequenceClassification",
    qkv_bias: Flag::Never,
    o_bias: Flag::Never,
    mlp_bias: Flag::Never,
    windows: Windows::All,
    max_position_embeddings: 131_072,
    ..LLAMA
};

/// Qwen3 8B.
const QWEN3: Family = Family {
    model_type: "qwen3",
    causal: "Qwen3ForCausalLM",
    classifier: "Qwen3ForSequenceClassification",
    mlp_bias: Flag::Never,
    qk_norm: QkNorm::Head,
    windows: Windows::UpperLayers,
    head_dim: Some(128),
    max_position_embeddings: 32_768,
    max_window_layers: 28,
    ..LLAMA
};

/// Gemma 2 9B.
const GEMMA2: Family = Family {
    model_type: "gemma2",
    causal: "Gemma2ForCausalLM",
    classifier: "Gemma2ForSequenceClassification",
    names: &names::GEMMA,
    aliases: &[("hidden_act", "hidden_activation")],
    mlp_bias: Flag::Never,
    norm: NormKind::RmsPlusOne,
    activation: Activation::GeluTanh,
    windows: Windows::AllBut(2),
    embedding_scale: Factor::RootOfHidden,
    attention_scale: Factor::InverseRoot("query_pre_attn_scalar"),
    soft_caps: true,
    fixed: &[("use_bidirectional_attention", false)],
    head_dim: Some(256),
    max_position_embeddings: 8192,
    tied: true,
    ..LLAMA
};

/// Every family; a new one is a new row.
pub static FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        model_type: "qwen2",
        causal: "Qwen2ForCausalLM",
        classifier: "Qwen2ForSequenceClassification",
        qkv_bias: Flag::Always,
        o_bias: Flag::Never,
        mlp_bias: Flag::Never,
        windows: Windows::UpperLayers,
        max_position_embeddings: 32_768,
        max_window_layers: 28,
        ..LLAMA
    },
    QWEN3,
    MISTRAL,
    Family {
        model_type: "phi3",
        causal: "Phi3ForCausalLM",
        classifier: "Phi3ForSequenceClassification",
        names: &names::PHI3,
        norm_eps: 1e-5,
        max_position_embeddings: 4096,
        ..MISTRAL
    },
    GEMMA2,
    Family {
        model_type: "gemma3_text",
        causal: "Gemma3ForCausalLM",
        classifier: "Gemma3TextForSequenceClassification",
        qk_norm: QkNorm::Head,
        windows: Windows::AllBut(6),
        rotation: Rotation::ByWindow(10_000.0),
        rope_theta: 1_000_000.0,
        max_position_embeddings: 131_072,
        ..GEMMA2
    },
    Family {
        model_type: "smollm3",
        causal: "SmolLM3ForCausalLM",
        classifier: "SmolLM3ForSequenceClassification",
        windows: Windows::WithoutRotation,
        rotation: Rotation::Marked,
        rope_theta: 2_000_000.0,
        max_position_embeddings: 32_768,
        tied: true,
        ..LLAMA
    },
    Family {
        model_type: "olmo2",
        causal: "Olmo2ForCausalLM",
        classifier: "Olmo2ForSequenceClassification",
        names: &names::OLMO2,
        mlp_bias: Flag::Never,
        qk_norm: QkNorm::Row,
        norm_eps: 1e-5,
        ..LLAMA
    },
    Family {
        model_type: "granite",
        causal: "GraniteForCausalLM",
        classifier: "GraniteForSequenceClassification",
        embedding_scale: Factor::Field("embedding_multiplier"),
        attention_scale: Factor::Field("attention_multiplier"),
        residual_scale: Factor::Field("residual_multiplier"),
        logit_scale: Factor::Inverse("logits_scaling"),
        ..LLAMA
    },
    Family {
        model_type: "starcoder2",
        causal: "Starcoder2ForCausalLM",
        classifier: "Starcoder2ForSequenceClassification",
        names: &names::STARCODER2,
        aliases: &[("rms_norm_eps", "norm_epsilon")],
        qkv_bias: Flag::FieldOrYes("use_bias"),
        o_bias: Flag::FieldOrYes("use_bias"),
        mlp_bias: Flag::FieldOrYes("use_bias"),
        norm: NormKind::Layer,
        gated: false,
        activation: Activation::GeluTanh,
        norm_eps: 1e-5,
        max_position_embeddings: 4096,
        tied: true,
        ..MISTRAL
    },
    Family {
        model_type: "gpt2",
        causal: "GPT2LMHeadModel",
        classifier: "GPT2ForSequenceClassification",
        names: &names::GPT2,
        aliases: &[
            ("hidden_size", "n_embd"),
            ("num_hidden_layers", "n_layer"),
            ("num_attention_heads", "n_head"),
            ("max_position_embeddings", "n_positions"),
            ("intermediate_size", "n_inner"),
            ("hidden_act", "activation_function"),
            ("rms_norm_eps", "layer_norm_epsilon"),
        ],
        qkv_bias: Flag::Always,
        o_bias: Flag::Always,
        mlp_bias: Flag::Always,
        norm: NormKind::Layer,
        gated: false,
        activation: Activation::GeluTanh,
        rotation: Rotation::Never,
        fixed: &[
            ("scale_attn_weights", true),
            ("scale_attn_by_inverse_layer_idx", false),
            ("add_cross_attention", false),
        ],
        norm_eps: 1e-5,
        max_position_embeddings: 1024,
        tied: true,
        ..LLAMA
    },
    Family {
        model_type: "qwen3_moe",
        causal: "Qwen3MoeForCausalLM",
        classifier: "Qwen3MoeForSequenceClassification",
        names: &names::QWEN3_MOE,
        experts: Some(ExpertFields {
            count: "num_experts",
            intermediate_size: "moe_intermediate_size",
            normalised: Flag::Field("norm_topk_prob"),
        }),
        windows: Windows::AllIfUsed,
        head_dim: None,
        ..QWEN3
    },
    Family {
        model_type: "mixtral",
        causal: "MixtralForCausalLM",
        classifier: "MixtralForSequenceClassification",
        names: &names::MIXTRAL,
        experts: Some(ExpertFields {
            count: "num_local_experts",
            intermediate_size: "intermediate_size",
            normalised: Flag::Always,
        }),
        norm_eps: 1e-5,
        rope_theta: 1_000_000.0,
        ..MISTRAL
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

    /// The architecture of its classifiers of tokens.
    pub fn token_classifier(&self) -> String {
        self.classifier.replace("ForSequenceClassification", "ForTokenClassification")
    }

    /// What this family calls a field.
    pub fn field(&self, usual: &'static str) -> &'static str {
        self.aliases.iter().find(|(name, _)| *name == usual).map_or(usual, |(_, own)| own)
    }
}
