//! A base that this process holds already: a server's, on which the loop trains. Leaves the weights to the engine.

use rectify_engine::model::source::ModelSource;
use rectify_engine::model::weights::WeightStore;
use rectify_kernels::WeightDtype;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The base of an engine in this process. Adapters are trained on its own weights: there is no second copy.
#[derive(Clone, Debug)]
pub struct HeldModel {
    /// Where it came from: its configuration, tokenizer and template.
    pub source: ModelSource,
    /// Its packed weights.
    pub weights: WeightStore,
    /// How they are held; wins over `base_dtype`.
    pub dtype: Option<WeightDtype>,
}

impl PartialEq for HeldModel {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.dtype == other.dtype
    }
}

impl Eq for HeldModel {}

/// Its name, for checkpoints: a resumed run must be on the same base.
impl Serialize for HeldModel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.source.path().display())
    }
}

/// Nothing outside a process can name what it holds.
impl<'de> Deserialize<'de> for HeldModel {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("only a running server holds models; name a folder"))
    }
}
