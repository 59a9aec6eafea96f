//! The families of encoders we know, one row of data each. Leaves reading `config.json` to `config`.

use rectify_kernels::Activation;

use crate::model::backend::Result;
use crate::model::fields::Fields;

/// Where the positions of a text begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Positions {
    /// At zero.
    Zero,
    /// Behind that of the padding token; a padding token within the text keeps its own.
    AfterPadding,
}

/// What follows the first layer of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadActivation {
    Tanh,
    /// The same for all of a family.
    Always(Activation),
    /// What a field names; GELU if it is absent.
    Field(&'static str),
}

/// What a head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadInput {
    /// The first token.
    First,
    /// The markers of a prompt and of two answers: it compares these.
    Markers,
}

/// What sets a family apart.
#[derive(Debug, PartialEq)]
pub struct EncoderFamily {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The architecture of its classifiers.
    pub classifier: &'static str,
    /// Fields that it calls differently, `(usual name, its name)`.
    pub(super) aliases: &'static [(&'static str, &'static str)],
    pub(super) positions: Positions,
    /// Rows of the embedding that tells texts from their answers, if `type_vocab_size` is absent; `None` if there is none.
    pub(super) segments: Option<usize>,
    /// Attention knows how far apart tokens are: `disentangled`.
    pub(super) is_disentangled: bool,
    /// `layer_norm_eps` if absent.
    pub(super) norm_eps: f64,
    pub(super) head_input: HeadInput,
    pub(super) head_activation: HeadActivation,
    pub(super) names: Names,
    /// Modules of published folders that its classifiers do not read.
    pub(super) unused: &'static [&'static str],
}

/// What a family calls its tensors; those of a layer are below `layers.N.`.
#[derive(Debug, PartialEq)]
pub(super) struct Names {
    /// Before everything but the head.
    pub(super) trunk: &'static str,
    pub(super) layers: &'static str,
    pub(super) qkv: [&'static str; 3],
    pub(super) o: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    pub(super) mlp_norm: &'static str,
    /// Full names of the head's layers.
    pub(super) head: [&'static str; 2],
}

/// BERT (Devlin et al. 2018, arXiv:1810.04805), from which the others differ.
const BERT: EncoderFamily = EncoderFamily {
    model_type: "bert",
    classifier: "BertForSequenceClassification",
    aliases: &[],
    positions: Positions::Zero,
    segments: Some(2),
    is_disentangled: false,
    norm_eps: 1e-12,
    head_input: HeadInput::First,
    head_activation: HeadActivation::Tanh,
    names: BERT_NAMES,
    unused: &[],
};

const BERT_NAMES: Names = Names {
    trunk: "bert",
    layers: "encoder.layer",
    qkv: ["attention.self.query", "attention.self.key", "attention.self.value"],
    o: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    mlp_norm: "output.LayerNorm",
    head: ["bert.pooler.dense", "classifier"],
};

/// RoBERTa (Liu et al. 2019, arXiv:1907.11692).
const ROBERTA: EncoderFamily = EncoderFamily {
    model_type: "roberta",
    classifier: "RobertaForSequenceClassification",
    positions: Positions::AfterPadding,
    names: Names { trunk: "roberta", head: ["classifier.dense", "classifier.out_proj"], ..BERT_NAMES },
    unused: &["roberta.pooler.dense"],
    ..BERT
};

/// DeBERTa v2 (He et al. 2020, arXiv:2006.03654) and v3 (2021, arXiv:2111.09543).
const DEBERTA: EncoderFamily = EncoderFamily {
    model_type: "deberta-v2",
    classifier: "DebertaV2ForSequenceClassification",
    segments: Some(0),
    is_disentangled: true,
    norm_eps: 1e-7,
    head_activation: HeadActivation::Field("pooler_hidden_act"),
    names: Names {
        trunk: "deberta",
        qkv: ["attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"],
        head: ["pooler.dense", "classifier"],
        ..BERT_NAMES
    },
    ..BERT
};

/// Every family; a new one is a new row.
static FAMILIES: &[EncoderFamily] = &[
    BERT,
    EncoderFamily {
        model_type: "distilbert",
        classifier: "DistilBertForSequenceClassification",
        aliases: &[
            ("hidden_size", "dim"),
            ("num_hidden_layers", "n_layers"),
            ("num_attention_heads", "n_heads"),
            ("intermediate_size", "hidden_dim"),
            ("hidden_act", "activation"),
        ],
        segments: None,
        head_activation: HeadActivation::Always(Activation::Relu),
        names: Names {
            trunk: "distilbert",
            layers: "transformer.layer",
            qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
            o: "attention.out_lin",
            attention_norm: "sa_layer_norm",
            up: "ffn.lin1",
            down: "ffn.lin2",
            mlp_norm: "output_layer_norm",
            head: ["pre_classifier", "classifier"],
        },
        ..BERT
    },
    ROBERTA,
    // Conneau et al. 2019 (arXiv:1911.02116): RoBERTa with another vocabulary.
    EncoderFamily { model_type: "xlm-roberta", classifier: "XLMRobertaForSequenceClassification", ..ROBERTA },
    DEBERTA,
    // Jiang et al. 2023 (arXiv:2306.02561): PairRM, as the published `PairRM-hf` has it.
    EncoderFamily {
        classifier: "DebertaV2PairRM",
        head_input: HeadInput::Markers,
        head_activation: HeadActivation::Tanh,
        names: Names { trunk: "pretrained_model", head: ["head_layer.1", "head_layer.4"], ..DEBERTA.names },
        ..DEBERTA
    },
];

impl EncoderFamily {
    /// The family of a `config.json`: of its `model_type`, and of its architecture where there are several.
    ///
    /// # Errors
    /// [`crate::EngineError::Load`] if a field is of another kind.
    pub fn find(fields: &Fields) -> Result<Option<&'static Self>> {
        let model_type = fields.string("model_type")?;
        let architectures = fields.strings("architectures")?.unwrap_or_default();
        let alike = || FAMILIES.iter().filter(|family| Some(family.model_type) == model_type);
        let named = alike().find(|family| architectures.first() == Some(&family.classifier));
        Ok(named.or_else(|| alike().next()))
    }

    /// The architectures of this kind of model, for messages.
    pub(super) fn classifiers(&self) -> String {
        let alike = FAMILIES.iter().filter(|family| family.model_type == self.model_type);
        alike.map(|family| family.classifier).collect::<Vec<_>>().join(" or ")
    }

    /// What this family calls a field.
    pub(super) fn field(&self, usual: &'static str) -> &'static str {
        self.aliases.iter().find(|(name, _)| *name == usual).map_or(usual, |(_, own)| own)
    }
}
