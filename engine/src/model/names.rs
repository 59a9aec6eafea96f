//! How the families of decoders call their tensors. Leaves shapes to `layout`, and which family has which names to
//! `family`.

/// Names of one family; those of a layer are below `layers.N.`.
#[derive(Debug, PartialEq)]
pub struct Names {
    /// Of the embedding.
    pub embedding: &'static str,
    /// Of the embedding of positions.
    pub positions: Option<&'static str>,
    /// Of the layers, before their number.
    pub layers: &'static str,
    /// Of the norm before the heads.
    pub final_norm: &'static str,
    /// Of queries, keys and values; a single one holds all of them.
    pub qkv: &'static [&'static str],
    /// Of the attention's output projection.
    pub o: &'static str,
    /// Of an MLP's gate and first projection; a single one holds both, or is an MLP's without a gate.
    pub gate_up: &'static [&'static str],
    /// Of the MLP's last projection.
    pub down: &'static str,
    /// Of the norms of a layer.
    pub norms: NormNames,
    /// Of the norms of queries and keys.
    pub qk_norms: [&'static str; 2],
    /// Of a mixture of experts in the MLP's place.
    pub experts: Option<ExpertNames>,
    /// Matrices of layers are stored `[in_features, out_features]`.
    pub transposed: bool,
}

/// Where a layer norms its residual stream.
#[derive(Debug, PartialEq)]
pub struct NormNames {
    /// What attention reads.
    pub before_attention: Option<&'static str>,
    /// What attention adds.
    pub after_attention: Option<&'static str>,
    /// What the MLP reads.
    pub before_mlp: Option<&'static str>,
    /// What the MLP adds.
    pub after_mlp: Option<&'static str>,
}

/// Names of a mixture of experts.
#[derive(Debug, PartialEq)]
pub struct ExpertNames {
    /// Of what chooses them.
    pub router: &'static str,
    /// Of the experts, before their number.
    pub experts: &'static str,
    /// Of an expert's gate and first projection.
    pub gate_up: [&'static str; 2],
    /// Of an expert's last projection.
    pub down: &'static str,
}

/// Llama's, which most families took over.
pub static LLAMA: Names = LLAMA_NAMES;
const LLAMA_NAMES: Names = Names {
    embedding: "model.embed_tokens",
    positions: None,
    layers: "model.layers",
    final_norm: "model.norm",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    o: "self_attn.o_proj",
    gate_up: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    norms: NormNames {
        before_attention: Some("input_layernorm"),
        after_attention: None,
        before_mlp: Some("post_attention_layernorm"),
        after_mlp: None,
    },
    qk_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    experts: None,
    transposed: false,
};

/// Phi-3's: fused projections.
pub static PHI3: Names =
    Names { qkv: &["self_attn.qkv_proj"], gate_up: &["mlp.gate_up_proj"], ..LLAMA_NAMES };

/// Gemma 2's and 3's: norms on both sides.
pub static GEMMA: Names = Names {
    norms: NormNames {
        before_attention: Some("input_layernorm"),
        after_attention: Some("post_attention_layernorm"),
        before_mlp: Some("pre_feedforward_layernorm"),
        after_mlp: Some("post_feedforward_layernorm"),
    },
    ..LLAMA_NAMES
};

/// OLMo 2's: norms behind.
pub static OLMO2: Names = Names {
    norms: NormNames {
        before_attention: None,
        after_attention: Some("post_attention_layernorm"),
        before_mlp: None,
        after_mlp: Some("post_feedforward_layernorm"),
    },
    ..LLAMA_NAMES
};

/// StarCoder2's: an MLP without a gate.
pub static STARCODER2: Names = Names { gate_up: &["mlp.c_fc"], down: "mlp.c_proj", ..LLAMA_NAMES };

/// GPT-2's.
pub static GPT2: Names = Names {
    embedding: "transformer.wte",
    positions: Some("transformer.wpe"),
    layers: "transformer.h",
    final_norm: "transformer.ln_f",
    qkv: &["attn.c_attn"],
    o: "attn.c_proj",
    gate_up: &["mlp.c_fc"],
    down: "mlp.c_proj",
    norms: NormNames {
        before_attention: Some("ln_1"),
        after_attention: None,
        before_mlp: Some("ln_2"),
        after_mlp: None,
    },
    transposed: true,
    ..LLAMA_NAMES
};

/// Qwen3-MoE's.
pub static QWEN3_MOE: Names = Names {
    experts: Some(ExpertNames {
        router: "mlp.gate",
        experts: "mlp.experts",
        gate_up: ["gate_proj", "up_proj"],
        down: "down_proj",
    }),
    ..LLAMA_NAMES
};

/// Mixtral's.
pub static MIXTRAL: Names = Names {
    experts: Some(ExpertNames {
        router: "block_sparse_moe.gate",
        experts: "block_sparse_moe.experts",
        gate_up: ["w1", "w3"],
        down: "w2",
    }),
    ..LLAMA_NAMES
};

/// All of them.
pub static ALL: [&Names; 8] = [&LLAMA, &PHI3, &GEMMA, &OLMO2, &STARCODER2, &GPT2, &QWEN3_MOE, &MIXTRAL];
