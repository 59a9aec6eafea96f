//! What a decoder is made of, read from Hugging Face's `config.json`. A family is a row of data here, not a copy of
//! the model. Leaves tensors to `checkpoint`.

/// Shape and flags of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
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
    /// Attend to this many last tokens only.
    pub sliding_window: Option<usize>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Outputs of a `ForSequenceClassification` head; `None` for a language model.
    pub num_labels: Option<usize>,
}
