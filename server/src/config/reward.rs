//! The section `reward`: which reward model decides where a request names none, or how several do together. Leaves the
//! fields' meaning to `api::alignment`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::alignment::CombinedReward;

/// How rewards are used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardSection {
    /// The reward model of requests that name none; the first by name if unset.
    pub default: Option<String>,
    /// Several reward models decide instead: `mean`, `min`, `weighted`, `mean_minus_var`, `mean_minus_std` or
    /// `safety_gated`.
    pub combine: Option<String>,
    /// Which ones; all if unset.
    pub models: Option<Vec<String>>,
    /// With `weighted`: a weight for each of `models`.
    pub weights: Option<Vec<f32>>,
    /// With `mean_minus_var` and `mean_minus_std`: what disagreement costs; 1 by default.
    pub lambda: Option<f32>,
    /// With `safety_gated`: the reward model that counts for safe answers.
    pub helpful: Option<String>,
    /// With `safety_gated`: the reward model that says what is safe.
    pub safety: Option<String>,
    /// With `safety_gated`: the least reward of a safe answer; 0 by default.
    pub threshold: Option<f32>,
}

impl RewardSection {
    /// The combination, if one is configured.
    pub fn combined(&self) -> Option<CombinedReward> {
        Some(CombinedReward {
            combine: self.combine.clone()?,
            models: self.models.clone(),
            weights: self.weights.clone(),
            lambda: self.lambda,
            helpful: self.helpful.clone(),
            safety: self.safety.clone(),
            threshold: self.threshold,
        })
    }

    /// Checks that fields of a combination come with one. Whether its reward models exist is known when they are loaded.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub fn validate(&self) -> Result<(), String> {
        let given = [
            ("models", self.models.is_some()),
            ("weights", self.weights.is_some()),
            ("lambda", self.lambda.is_some()),
            ("helpful", self.helpful.is_some()),
            ("safety", self.safety.is_some()),
            ("threshold", self.threshold.is_some()),
        ];
        match given.iter().find(|(_, given)| *given && self.combine.is_none()) {
            Some((key, _)) => Err(format!("`reward.{key}` needs `reward.combine`, such as `safety_gated`")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_combination_need_one() {
        let section = RewardSection { threshold: Some(0.1), ..RewardSection::default() };
        assert!(section.validate().unwrap_err().starts_with("`reward.threshold` needs `reward.combine`"));
        assert_eq!(section.combined(), None);
        assert_eq!(RewardSection::default().validate(), Ok(()));
    }
}
