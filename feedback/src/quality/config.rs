//! The settings of the quality rules, with defaults that are safe for a server anyone may vote on. Leaves what they do
//! to the rules.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which votes may be trained on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QualityConfig {
    /// Near-duplicates.
    pub dedup: DedupRules,
    /// Votes on answers of earlier versions.
    pub staleness: StalenessRules,
    /// How much one person may say.
    pub caps: CapRules,
    /// Many votes in a short time.
    pub flood: FloodRules,
    /// Votes that reward empty or repeated texts.
    pub campaign: CampaignRules,
    /// Whose votes are trusted.
    pub annotators: AnnotatorRules,
    /// Safety beside capability, and what votes prefer for the wrong reason.
    pub balance: BalanceRules,
    /// When the data as a whole are refused.
    pub stop: StopRules,
    /// Pairs that nobody compared.
    pub pairs: PairRules,
}

/// What makes two texts duplicates of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DedupText {
    /// The same prompt, whatever the answer.
    Prompt,
    /// The same prompt and answer.
    PromptAndAnswer,
}

/// Near-duplicates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DedupRules {
    /// Which texts are compared.
    pub on: DedupText,
    /// Jaccard similarity of word shingles from which two texts are near-duplicates; 1 means equal words.
    pub similarity: f64,
    /// Words of a shingle.
    pub shingle: usize,
    /// Votes kept of each cluster of near-duplicates.
    pub keep: usize,
}

impl Default for DedupRules {
    fn default() -> Self {
        Self { on: DedupText::Prompt, similarity: 0.9, shingle: 3, keep: 16 }
    }
}

/// Votes on answers of earlier versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StalenessRules {
    /// The version in force, as `demo@3`; the newest that any vote is about if unset.
    pub current: Option<String>,
    /// Versions that count: the current one and the last ones before it that have votes. Methods that learn from the policy's own samples
    /// need 1.
    pub window: u32,
}

impl Default for StalenessRules {
    fn default() -> Self {
        Self { current: None, window: 3 }
    }
}

/// How much one person may say. All votes without a person count as one person's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CapRules {
    /// Votes of one person in all.
    pub per_person: usize,
    /// Votes of one person in any hour.
    pub per_hour: usize,
}

impl Default for CapRules {
    fn default() -> Self {
        Self { per_person: 1000, per_hour: 120 }
    }
}

/// Many votes in a short time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FloodRules {
    /// More votes than this by one person within `seconds` are a flood: none of them counts.
    pub votes: usize,
    /// More near-identical texts than this within `text_seconds`, by whomever, are a flood: those beyond the cap of
    /// near-duplicates do not count.
    pub texts: usize,
    /// Length of the window for one person.
    pub seconds: u32,
    /// Length of the window for texts.
    pub text_seconds: u32,
}

impl Default for FloodRules {
    fn default() -> Self {
        Self { votes: 30, texts: 40, seconds: 60, text_seconds: 600 }
    }
}

/// Votes that reward empty or repeated texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CampaignRules {
    /// Texts of which fewer runs of two words are distinct than this share are degenerate.
    pub min_distinct: f64,
    /// Different prompts for which one and the same text may be rewarded, whatever its share.
    pub max_prompts: usize,
    /// Beyond that number, one text may be rewarded for this share of all prompts.
    pub max_share: f64,
    /// A person who rewards one and the same text for more different prompts than this, and with most of their
    /// votes, campaigns for it: none of these votes counts.
    pub max_prompts_per_person: usize,
}

impl Default for CampaignRules {
    fn default() -> Self {
        Self { min_distinct: 0.5, max_prompts: 16, max_share: 0.05, max_prompts_per_person: 4 }
    }
}

/// Whose votes are trusted. An annotator is quarantined when the upper end of a 95 % interval is below a limit, so that
/// few votes never suffice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AnnotatorRules {
    /// Gold questions someone must have answered before they count.
    pub min_gold: usize,
    /// Limit for the share of gold questions answered right.
    pub min_gold_accuracy: f64,
    /// Limit for Cohen's κ with the gold answers.
    pub min_kappa: f64,
    /// Limit for how often someone is right by what everybody else and the reward model say.
    pub min_accuracy: f64,
    /// People who contradict the rest on the same answers are judged together from this number on.
    pub min_group: usize,
}

impl Default for AnnotatorRules {
    fn default() -> Self {
        Self { min_gold: 5, min_gold_accuracy: 0.7, min_kappa: 0.2, min_accuracy: 0.6, min_group: 3 }
    }
}

/// Safety beside capability, and what votes prefer for the wrong reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BalanceRules {
    /// Values of the tag `category` that mean safety.
    pub safety_categories: Vec<String>,
    /// Warn above this share of safety: more makes a model that refuses too much. A tenth is recommended.
    pub max_safety: f64,
    /// Warn when the longer answer is preferred surely more often than this.
    pub max_longer: f64,
    /// Warn when answers that begin by agreeing or praising are liked surely by this much more than others.
    pub max_flattery: f64,
}

impl Default for BalanceRules {
    fn default() -> Self {
        let categories = ["safety", "harmful", "harmless", "red-team"];
        Self {
            safety_categories: categories.map(str::to_owned).to_vec(),
            max_safety: 0.2,
            max_longer: 0.6,
            max_flattery: 0.1,
        }
    }
}

/// When the data as a whole are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StopRules {
    /// Refuse the data if more than this share of the votes is under suspicion (flood, campaign, untrusted people), until
    /// somebody has looked and put those votes into quarantine.
    pub max_suspect: f64,
    /// Refuse the data if those who are trusted are, taken together, surely right less often than this.
    pub min_accuracy: f64,
}

impl Default for StopRules {
    fn default() -> Self {
        Self { max_suspect: 0.15, min_accuracy: 0.65 }
    }
}

/// Pairs of answers that nobody compared, made from what is known of each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PairRules {
    /// Make pairs of liked and disliked answers to the same prompt.
    pub from_thumbs: bool,
    /// Make a pair of a returned best-of-N answer that somebody liked and the worst candidate it won against.
    pub from_candidates: bool,
    /// Such a pair needs rewards that differ by at least this much.
    pub min_reward_gap: f64,
    /// Most pairs of liked and disliked answers to one prompt.
    pub max_per_prompt: usize,
}

impl Default for PairRules {
    fn default() -> Self {
        Self { from_thumbs: true, from_candidates: true, min_reward_gap: 1.0, max_per_prompt: 4 }
    }
}

impl QualityConfig {
    /// Checks ranges.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub fn validate(&self) -> Result<(), String> {
        let shares = [
            ("dedup.similarity", self.dedup.similarity),
            ("campaign.min_distinct", self.campaign.min_distinct),
            ("campaign.max_share", self.campaign.max_share),
            ("annotators.min_gold_accuracy", self.annotators.min_gold_accuracy),
            ("annotators.min_kappa", self.annotators.min_kappa),
            ("annotators.min_accuracy", self.annotators.min_accuracy),
            ("balance.max_safety", self.balance.max_safety),
            ("balance.max_longer", self.balance.max_longer),
            ("balance.max_flattery", self.balance.max_flattery),
            ("stop.max_suspect", self.stop.max_suspect),
            ("stop.min_accuracy", self.stop.min_accuracy),
        ];
        if let Some((key, _)) = shares.iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return Err(format!("`quality.{key}` must be between 0 and 1"));
        }
        let counts = [
            ("dedup.shingle", self.dedup.shingle),
            ("dedup.keep", self.dedup.keep),
            ("staleness.window", self.staleness.window as usize),
            ("caps.per_person", self.caps.per_person),
            ("caps.per_hour", self.caps.per_hour),
            ("flood.votes", self.flood.votes),
            ("flood.texts", self.flood.texts),
            ("flood.seconds", self.flood.seconds as usize),
            ("flood.text_seconds", self.flood.text_seconds as usize),
            ("campaign.max_prompts", self.campaign.max_prompts),
            ("campaign.max_prompts_per_person", self.campaign.max_prompts_per_person),
            ("annotators.min_gold", self.annotators.min_gold),
        ];
        if let Some((key, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(format!("`quality.{key}` must be at least 1"));
        }
        if self.pairs.min_reward_gap.is_nan() || self.pairs.min_reward_gap < 0.0 {
            return Err("`quality.pairs.min_reward_gap` must be 0 or more".to_owned());
        }
        if self.annotators.min_group < 2 {
            return Err("`quality.annotators.min_group` must be at least 2".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_bad_values_are_named() {
        assert_eq!(QualityConfig::default().validate(), Ok(()));
        let mut config = QualityConfig::default();
        config.dedup.similarity = 1.5;
        assert_eq!(config.validate(), Err("`quality.dedup.similarity` must be between 0 and 1".into()));
        let mut config = QualityConfig::default();
        config.staleness.window = 0;
        assert_eq!(config.validate(), Err("`quality.staleness.window` must be at least 1".into()));
    }
}
