//! What an encoder is made of, read from Hugging Face's `config.json`. Leaves tensors to `load`.

use rectify_kernels::Activation;

use super::family::{EncoderFamily, Positions};
use crate::model::backend::Result;
use crate::model::config::parse_activation;
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
    /// Rows of the embedding of positions.
    pub num_positions: usize,
    /// Rows of the embedding of segments; 0 without one.
    pub num_segments: usize,
    /// The token that fills up batches elsewhere.
    pub pad_token_id: u32,
    /// Epsilon of every norm.
    pub norm_eps: f32,
    /// What the MLP applies between its projections.
    pub activation: Activation,
    /// Names of the head's outputs.
    pub labels: Vec<String>,
}

impl EncoderConfig {
    /// Reads a `config.json` of `family`.
    ///
    /// # Errors
    /// [`crate::EngineError::Load`] naming the file, the field, its value and what is known.
    pub fn parse(fields: &Fields, family: &'static EncoderFamily) -> Result<Self> {
        let architectures = fields.strings("architectures")?.unwrap_or_default();
        if let Some(other) = architectures.first().filter(|other| **other != family.classifier) {
            let message = format!("is [\"{other}\"], but must be {}", family.classifier);
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
            num_segments: match family.has_segments {
                true => fields.size("type_vocab_size")?.unwrap_or(2),
                false => 0,
            },
            pad_token_id: pad_token_id.unwrap_or(pad_default),
            norm_eps: fields.positive("layer_norm_eps")?.unwrap_or(1e-12) as f32,
            activation: parse_activation(fields, own("hidden_act"), Activation::Gelu)?,
            labels: label_names(fields)?,
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

    /// Longest text, in tokens.
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
        let family = EncoderFamily::find(text["model_type"].as_str().unwrap()).unwrap();
        EncoderConfig::parse(&Fields::parse("config.json".into(), text.to_string().as_bytes())?, family)
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
