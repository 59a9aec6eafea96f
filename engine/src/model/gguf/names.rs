//! From a GGUF file's names of tensors to a folder's, and what has to be undone to what is stored under them. The folder's
//! names are those of the family of decoders. Leaves which family that is to `config`.

use super::Gguf;
use super::config::{Architecture, is_setting};
use crate::model::backend::Result;
use crate::model::layout::LM_HEAD;
use crate::model::names::Names;
use crate::model::stored_values::{halves_of_heads, transposed};

/// How a file stores the numbers of a tensor differently from a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Change {
    /// It does not.
    None,
    /// Rows come by pairs of a head's dimensions; how many heads there are.
    Interleaved(usize),
    /// With one added to each.
    PlusOne,
    /// The matrix on its side.
    Transposed,
}

impl Change {
    /// The numbers of a tensor as a folder has them, `shape`.
    pub(in crate::model) fn undo(self, numbers: Vec<f32>, shape: &[usize]) -> Vec<f32> {
        match self {
            Self::None => numbers,
            Self::Interleaved(heads) => halves_of_heads(&numbers, heads, shape),
            Self::PlusOne => numbers.into_iter().map(|number| number - 1.0).collect(),
            Self::Transposed => transposed(&numbers, shape.first().copied().unwrap_or(1)),
        }
    }

    /// The shape of a tensor in a folder, of the `shape` in the file.
    pub(super) fn shape(self, shape: &[usize]) -> Vec<usize> {
        match self {
            Self::Transposed => shape.iter().rev().copied().collect(),
            _ => shape.to_vec(),
        }
    }
}

/// Where the numbers of a tensor belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: they are part of the configuration.
    Setting,
    /// A tensor of a folder.
    Tensor(String, Change),
    /// One of each expert, one after the other.
    Experts(Vec<String>),
}

/// The names of a file's tensors.
pub(super) struct TensorNames<'a> {
    gguf: &'a Gguf,
    architecture: &'static Architecture,
    names: &'static Names,
    num_heads: usize,
    num_kv_heads: usize,
    num_experts: usize,
}

impl<'a> TensorNames<'a> {
    pub(super) fn new(gguf: &'a Gguf) -> Result<Self> {
        let architecture = Architecture::of(gguf)?;
        let size = |name: &str| architecture.setting(gguf, name)?.as_u64().map(|size| size as usize);
        let num_heads = size("attention.head_count").unwrap_or(1);
        Ok(Self {
            gguf,
            architecture,
            names: architecture.family(gguf)?.names,
            num_heads,
            num_kv_heads: size("attention.head_count_kv").unwrap_or(num_heads),
            num_experts: size("expert_count").unwrap_or(0),
        })
    }

    /// Where the tensor `own` of the file belongs.
    ///
    /// # Errors
    /// [`crate::EngineError::Load`] if it is not known.
    pub(super) fn find(&self, own: &str) -> Result<Place> {
        if is_setting(own) {
            return Ok(Place::Setting);
        }
        let unknown = || self.gguf.error(format!("holds the tensor `{own}`, which is not known"));
        let (module, what) = own.rsplit_once('.').ok_or_else(unknown)?;
        let named = |name: &str, change| Place::Tensor(format!("{name}.{what}"), change);
        let is_norm = module.ends_with("norm") && what == "weight" && self.architecture.whole_norms;
        let norm = if is_norm { Change::PlusOne } else { Change::None };
        match module {
            "token_embd" => return Ok(named(self.names.embedding, Change::None)),
            "position_embd" => {
                return self.names.positions.map(|name| named(name, Change::None)).ok_or_else(unknown);
            }
            "output_norm" => return Ok(named(self.names.final_norm, norm)),
            "output" => return Ok(named(LM_HEAD, Change::None)),
            _ => {}
        }
        let (layer, module) =
            module.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).ok_or_else(unknown)?;
        let layer = format!("{}.{layer}", self.names.layers);
        if let Some(last) = self.of_each_expert(module) {
            let experts = self.names.experts.as_ref().map_or("", |names| names.experts);
            let name = |expert: usize| format!("{layer}.{experts}.{expert}.{last}.{what}");
            return Ok(Place::Experts((0..self.num_experts).map(name).collect()));
        }
        let name = self.in_layer(module).ok_or_else(unknown)?;
        let change = match module {
            "attn_q" if self.architecture.interleaved => Change::Interleaved(self.num_heads),
            "attn_k" if self.architecture.interleaved => Change::Interleaved(self.num_kv_heads),
            _ if self.names.transposed && what == "weight" && !module.ends_with("norm") => Change::Transposed,
            _ => norm,
        };
        Ok(named(&format!("{layer}.{name}"), change))
    }

    /// The family's name of a module of a layer.
    fn in_layer(&self, module: &str) -> Option<&'static str> {
        let Names { qkv, gate_up, norms, qk_norms, .. } = self.names;
        match (module, *qkv, *gate_up) {
            ("attn_norm", ..) => norms.before_attention,
            ("post_attention_norm", ..) => norms.after_attention,
            ("ffn_norm", ..) => norms.before_mlp,
            ("post_ffw_norm", ..) => norms.after_mlp,
            ("attn_q_norm", ..) => Some(qk_norms[0]),
            ("attn_k_norm", ..) => Some(qk_norms[1]),
            ("attn_qkv", [fused], _) => Some(fused),
            ("attn_q", [name, _, _], _) | ("attn_k", [_, name, _], _) | ("attn_v", [_, _, name], _) => {
                Some(name)
            }
            ("attn_output", ..) => Some(self.names.o),
            ("ffn_up", _, [only]) | ("ffn_gate", _, [only, _]) | ("ffn_up", _, [_, only]) => Some(only),
            ("ffn_down", ..) => Some(self.names.down),
            ("ffn_gate_inp", ..) => self.names.experts.as_ref().map(|names| names.router),
            _ => None,
        }
    }

    /// The family's name of a matrix of each expert.
    fn of_each_expert(&self, module: &str) -> Option<&'static str> {
        let names = self.names.experts.as_ref()?;
        match module {
            "ffn_gate_exps" => Some(names.gate_up[0]),
            "ffn_up_exps" => Some(names.gate_up[1]),
            "ffn_down_exps" => Some(names.down),
            _ => None,
        }
    }
}
