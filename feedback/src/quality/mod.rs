//! Which votes may be trained on: pure functions of the votes and the settings. Leaves storage, files and what training
//! makes of the rest to others.

pub mod accuracy;
mod annotators;
mod assess;
mod balance;
mod ballot;
mod campaign;
mod config;
mod dedup;
mod flood;
mod groups;
mod housekeeping;
pub mod minhash;
mod opinions;
mod reason;
mod report;
pub mod stats;
mod summary;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod words;

pub use annotators::{Annotator, Quarantine};
pub use assess::{assess, quarantine};
pub use balance::{Balance, is_refusal};
pub use ballot::{ANONYMOUS, IMPORTED, IMPORTER};
pub use campaign::repetition;
pub use config::{
    AnnotatorRules, BalanceRules, CampaignRules, CapRules, DedupRules, DedupText, FloodRules, PairRules,
    QualityConfig, StalenessRules, StopRules,
};
pub use dedup::{DuplicateCluster, duplicates};
pub(crate) use opinions::liked;
pub use reason::{Exclusion, Reason};
pub use report::{Anomaly, AnomalyKind, Finding, Level, QualityReport};
pub use summary::Summary;
