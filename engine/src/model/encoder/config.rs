//! What an encoder is made of, read from Hugging Face's `config.json`. Leaves tensors to `load`.

use rectify_kernels::Activation;

use super::disentangled::Distances;
use super::family::{EncoderFamily, HeadActivation, HeadInput, Positions};
use crate::model::activation::parse_activation;
use crate::model::backend::Result;
use crate::model::fields::Fields;
use crate::model::readout::label_names;

/// Shape and flags of an encoder with a classification head.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Names and flags of its kind.
    pub family: &'static EncoderFamily,
    /// Rows of the embedding of words.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_layers: usize,
    /// Heads.
    pub num_heads: usize,
    /// Positions of a text.
    pub num_positions: usize,
    /// They have an embedding.
    pub embeds_positions: bool,
    /// How attention knows how far apart tokens are.
    pub(super) relative: Option<RelativeConfig>,
    /// Rows of the embedding of segments; 0 without one.
    pub num_segments: usize,
    /// The token that fills up batches elsewhere.
    pub pad_token_id: u32,
    /// Epsilon of every norm.
    pub norm_eps: f32,
    /// What the MLP applies between its projections.
    pub activation: Activation,
    /// What follows the first layer of the head; `None` is the hyperbolic tangent.
    pub(super) head_activation: Option<Activation>,
    /// What the head compares; `None` reads the first token.
    pub markers: Option<Markers>,
    /// Names of the head's outputs.
    pub labels: Vec<String>,
}

/// The tokens in front of a prompt and of two answers, at which a head that compares is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Markers {
    /// In front of the prompt.
    pub source: u32,
    /// In front of each answer.
    pub answers: [u32; 2],
}

impl Markers {
    /// All of them, in the order of a text.
    pub fn ids(&self) -> [u32; 3] {
        [self.source, self.answers[0], self.answers[1]]
    }

    fn parse(fields: &Fields) -> Result<Self> {
        let id = |field: &str| {
            let ids = fields.tokens(field)?.unwrap_or_default();
            ids.first().copied().ok_or_else(|| {
                fields.error(field, "is missing, but says at which token a model that compares is read")
            })
        };
        Ok(Self {
            source: id("source_prefix_id")?,
            answers: [id("cand1_prefix_id")?, id("cand2_prefix_id")?],
        })
    }
}

/// Disentangled attention, as `config.json` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RelativeConfig {
    pub(super) distances: Distances,
    /// Queries meet keys of distances (`c2p`).
    pub(super) has_keys: bool,
    /// Keys meet queries of distances (`p2c`).
    pub(super) has_queries: bool,
    /// Distances go through the projections of tokens.
    pub(super) is_shared: bool,
    /// The embedding of distances is normed.
    pub(super) is_normed: bool,
}

impl EncoderConfig {
    /// Reads a `config.json` of `family`.
    ///
    /// # Errors
    /// [`crate::EngineError::Load`] naming the file, the field, its value and what is known.
    pub fn parse(fields: &Fields, family: &'static EncoderFamily) -> Result<Self> {
        let architectures = fields.strings("architectures")?.unwrap_or_default();
        if let Some(other) = architectures.first().filter(|other| **other != family.classifier) {
            let message = format!("is [\"{other}\"], but must be {}", family.classifiers());
            return Err(fields.error("architectures", message));
        }
        if let Some(kind) = fields.string("position_embedding_type")?.filter(|kind| *kind != "absolute") {
            let message = format!("is \"{kind}\", but only \"absolute\" is supported");
            return Err(fields.error("position_embedding_type", message));
        }
        let own = |usual| family.field(usual);
        let hidden_size = fields.require_size(own("hidden_size"))?;
        let heads_field = own("num_attention_heads");
        let num_heads = fields.require_size(heads_field)?;
        // The cache that attention reads holds heads in whole vectors.
        if hidden_size % num_heads != 0 || (hidden_size / num_heads) % 8 != 0 {
            let hidden_field = own("hidden_size");
            let message = format!(
                "is {num_heads}, but {hidden_field} ({hidden_size}) must divide into heads of a multiple of 8"
            );
            return Err(fields.error(heads_field, message));
        }
        let num_positions = fields.size("max_position_embeddings")?.unwrap_or(512);
        let pad_default = if family.positions == Positions::AfterPadding { 1 } else { 0 };
        let pad_token_id = fields.tokens("pad_token_id")?.and_then(|ids| ids.first().copied());
        let config = Self {
            family,
            vocab_size: fields.require_size("vocab_size")?,
            hidden_size,
            intermediate_size: fields.require_size(own("intermediate_size"))?,
            num_layers: fields.require_size(own("num_hidden_layers"))?,
            num_heads,
            num_positions,
            embeds_positions: !family.is_disentangled
                || fields.flag("position_biased_input")?.unwrap_or(true),
            relative: match family.is_disentangled {
                true => Some(parse_relative(fields, hidden_size, num_positions)?),
                false => None,
            },
            num_segments: match family.segments {
                Some(default) => count(fields, "type_vocab_size")?.unwrap_or(default),
                None => 0,
            },
            pad_token_id: pad_token_id.unwrap_or(pad_default),
            norm_eps: fields.positive("layer_norm_eps")?.unwrap_or(family.norm_eps) as f32,
            activation: parse_activation(fields, own("hidden_act"), Activation::Gelu)?,
            head_activation: match family.head_activation {
                HeadActivation::Tanh => None,
                HeadActivation::Always(activation) => Some(activation),
                HeadActivation::Field(field) => Some(parse_activation(fields, field, Activation::Gelu)?),
            },
            markers: match family.head_input {
                HeadInput::First => None,
                HeadInput::Markers => Some(Markers::parse(fields)?),
            },
            labels: match family.head_input {
                HeadInput::First => label_names(fields)?,
                HeadInput::Markers => {
                    let num_tasks = fields.size("n_tasks")?.unwrap_or(1);
                    (0..num_tasks).map(|task| format!("task {task}")).collect()
                }
            },
        };
        if config.max_len() == 0 {
            let message = format!("is {num_positions}, which leaves no position for a token");
            return Err(fields.error("max_position_embeddings", message));
        }
        Ok(config)
    }

    /// Name of the embedding of words.
    pub fn word_embedding(&self) -> String {
        format!("{}.embeddings.word_embeddings.weight", self.family.names.trunk)
    }

    /// Longest text, in tokens, that a head of labels reads. Without an embedding of positions longer ones can be read, too:
    /// far distances are all alike.
    pub fn max_len(&self) -> usize {
        match self.family.positions {
            Positions::Zero => self.num_positions,
            Positions::AfterPadding => self.num_positions.saturating_sub(self.pad_token_id as usize + 1),
        }
    }

    /// Rows of the embedding of positions for the tokens `ids` of one text.
    pub(super) fn positions<'a>(&self, ids: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
        let pad = self.pad_token_id;
        let first = match self.family.positions {
            Positions::Zero => None,
            Positions::AfterPadding => Some(pad),
        };
        let mut next = 0;
        ids.iter().map(move |&id| match first {
            Some(first) if id == pad => first,
            _ => {
                next += 1;
                next - 1 + first.map_or(0, |first| first + 1)
            }
        })
    }
}

/// A whole number; below zero counts as zero.
fn count(fields: &Fields, field: &str) -> Result<Option<usize>> {
    match fields.number(field)? {
        Some(x) if x <= 0.0 => Ok(Some(0)),
        _ => fields.size(field),
    }
}

fn parse_relative(fields: &Fields, hidden_size: usize, num_positions: usize) -> Result<RelativeConfig> {
    if !fields.flag("relative_attention")?.unwrap_or(false) {
        return Err(fields.error("relative_attention", "is false, but only true is supported"));
    }
    if count(fields, "conv_kernel_size")?.is_some_and(|size| size > 0) {
        return Err(fields.error("conv_kernel_size", "is set, but convolutions are not supported"));
    }
    for field in ["embedding_size", "pooler_hidden_size"] {
        if let Some(size) = fields.size(field)?.filter(|&size| size != hidden_size) {
            let message = format!("is {size}, but only that of hidden_size ({hidden_size}) is supported");
            return Err(fields.error(field, message));
        }
    }
    // A list, or its parts between bars.
    let listed = match fields.get("pos_att_type") {
        Some(serde_json::Value::String(kinds)) => kinds.split('|').map(str::trim).collect(),
        _ => fields.strings("pos_att_type")?.unwrap_or_default(),
    };
    if let Some(kind) = listed.iter().find(|kind| !["c2p", "p2c"].contains(*kind)) {
        return Err(fields.error("pos_att_type", format!("holds \"{kind}\", but known are c2p and p2c")));
    }
    let max = count(fields, "max_relative_positions")?.filter(|&max| max > 0).unwrap_or(num_positions);
    let buckets = count(fields, "position_buckets")?.filter(|&buckets| buckets > 0);
    if let Some(buckets) = buckets.filter(|&buckets| buckets < 4 || max <= buckets / 2 + 1) {
        let message =
            format!("is {buckets}, but must be at least 4, and its half below the largest distance ({max})");
        return Err(fields.error("position_buckets", message));
    }
    let norms = fields.string("norm_rel_ebd")?.unwrap_or("none").to_lowercase();
    Ok(RelativeConfig {
        distances: Distances { buckets, max },
        has_keys: listed.contains(&"c2p"),
        has_queries: listed.contains(&"p2c"),
        is_shared: fields.flag("share_att_key")?.unwrap_or(false),
        is_normed: norms.split('|').any(|norm| norm.trim() == "layer_norm"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(changes: Value) -> Result<EncoderConfig> {
        let mut text = json!({"model_type": "roberta", "vocab_size": 40, "hidden_size": 32, "num_attention_heads": 4,
            "num_hidden_layers": 2, "intermediate_size": 48, "max_position_embeddings": 10, "type_vocab_size": 1});
        for (field, value) in changes.as_object().unwrap() {
            text[field] = value.clone();
        }
        let fields = Fields::parse("config.json".into(), text.to_string().as_bytes())?;
        EncoderConfig::parse(&fields, EncoderFamily::find(&fields)?.unwrap())
    }

    #[test]
    fn positions_begin_where_the_family_begins_them() {
        let roberta = parse(json!({})).unwrap();
        assert_eq!((roberta.max_len(), roberta.pad_token_id), (8, 1));
        assert_eq!(roberta.positions(&[0, 7, 1, 9]).collect::<Vec<_>>(), [2, 3, 1, 4]);
        let bert = parse(json!({"model_type": "bert"})).unwrap();
        assert_eq!((bert.max_len(), bert.pad_token_id), (10, 0));
        assert_eq!(bert.positions(&[0, 7, 1, 9]).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn refusals_name_the_field() {
        for (changes, wanted) in [
            (json!({"architectures": ["RobertaForMaskedLM"]}), "must be RobertaForSequenceClassification"),
            (
                json!({"num_attention_heads": 3}),
                "`num_attention_heads` is 3, but hidden_size (32) must divide",
            ),
            (json!({"position_embedding_type": "relative_key"}), "only \"absolute\" is supported"),
            (json!({"max_position_embeddings": 2}), "leaves no position"),
            (json!({"hidden_act": "mish"}), "`hidden_act` is \"mish\", which is not known"),
            (json!({"vocab_size": null}), "`vocab_size` is missing"),
        ] {
            let error = parse(changes).unwrap_err().to_string();
            assert!(error.starts_with("config.json: ") && error.contains(wanted), "{error}");
        }
    }
}
