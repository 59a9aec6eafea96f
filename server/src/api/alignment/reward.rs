//! Which reward models judge, on the wire and in the configuration: a name, or several and how their rewards become one.
//! Leaves the arithmetic to the engine.

use rectify_engine::alignment::RewardRule;
use rectify_engine::strategy::Combine;
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::ToSchema;

use super::AlignmentLimits;
use crate::error::ApiError;

/// Ways to combine rewards this server knows.
pub const COMBINATIONS: [&str; 6] =
    ["mean", "min", "weighted", "mean_minus_var", "mean_minus_std", "safety_gated"];

/// `λ` of `mean_minus_var` and `mean_minus_std` if unset.
const DEFAULT_LAMBDA: f32 = 1.0;

/// A reward model by name, or several and how their rewards become one.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema, JsonSchema)]
#[serde(untagged)]
pub enum RewardRequest {
    /// The name.
    Name(String),
    /// The combination.
    Combined(CombinedReward),
}

/// Several reward models and how their rewards become one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CombinedReward {
    /// `mean`, `min`, `weighted`, `mean_minus_var`, `mean_minus_std`, or `safety_gated`: `helpful`'s reward where
    /// `safety`'s reaches the threshold, else `safety`'s.
    pub combine: String,
    /// The reward models; all of the server's if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// With `weighted`: a weight for each of `models`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Vec<f32>>,
    /// With `mean_minus_var` and `mean_minus_std`: what disagreement costs; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f32>,
    /// With `safety_gated`: the reward model that counts for safe answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helpful: Option<String>,
    /// With `safety_gated`: the reward model that says what is safe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety: Option<String>,
    /// With `safety_gated`: the least reward of a safe answer; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
}

/// By hand, because serde's message for an untagged enum names no field.
impl<'de> Deserialize<'de> for RewardRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = RewardRequest;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a reward model's name or an object with `combine`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<RewardRequest, E> {
                Ok(RewardRequest::Name(name.to_owned()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<RewardRequest, A::Error> {
                CombinedReward::deserialize(MapAccessDeserializer::new(map)).map(RewardRequest::Combined)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// What a request asks for, else the server's combination, else its default reward model.
pub(super) fn rule(
    requested: Option<&RewardRequest>,
    limits: &AlignmentLimits<'_>,
) -> Result<RewardRule, ApiError> {
    let name = match (requested, limits.combined_reward, limits.default_reward) {
        (Some(RewardRequest::Combined(combined)), ..) | (None, Some(combined), _) => {
            return combined.rule(limits);
        }
        (Some(RewardRequest::Name(name)), ..) => name,
        (None, None, Some(name)) => name,
        (None, None, None) => {
            return Err(ApiError::invalid(
                "alignment.reward",
                "this server has no reward model to choose with; start it with `--reward NAME=DIR`",
            ));
        }
    };
    named(name, limits)?;
    Ok(RewardRule::one(Some(name)))
}

fn named(name: &str, limits: &AlignmentLimits<'_>) -> Result<(), ApiError> {
    if limits.rewards.iter().any(|known| known == name) {
        return Ok(());
    }
    let known = crate::names(limits.rewards);
    let message = format!("the reward model `{name}` does not exist; available: {known}");
    Err(ApiError::model_not_found(message).at("alignment.reward"))
}

impl CombinedReward {
    fn rule(&self, limits: &AlignmentLimits<'_>) -> Result<RewardRule, ApiError> {
        let combine = self.combine.as_str();
        super::known("reward.combine", Some(combine), &COMBINATIONS)?;
        let refuse = |field: &str, message: String| {
            Err(ApiError::invalid(format!("alignment.reward.{field}"), message))
        };
        let others = [
            ("weights", self.weights.is_some(), &["weighted"][..]),
            ("lambda", self.lambda.is_some(), &["mean_minus_var", "mean_minus_std"]),
            ("helpful", self.helpful.is_some(), &["safety_gated"]),
            ("safety", self.safety.is_some(), &["safety_gated"]),
            ("threshold", self.threshold.is_some(), &["safety_gated"]),
            ("models", self.models.is_some(), &COMBINATIONS[..5]),
        ];
        if let Some((field, _, _)) = others.iter().find(|(_, given, of)| *given && !of.contains(&combine)) {
            return refuse(
                field,
                format!("`alignment.reward.{field}` has no meaning with `combine: {combine}`; leave it out"),
            );
        }
        let models = if combine == "safety_gated" {
            let mut models = Vec::new();
            for (field, name) in [("helpful", &self.helpful), ("safety", &self.safety)] {
                let Some(name) = name else {
                    return refuse(
                        field,
                        format!(
                            "`alignment.reward.{field}` is missing: `safety_gated` needs a reward model for it"
                        ),
                    );
                };
                models.push(name.clone());
            }
            models
        } else {
            self.models.clone().unwrap_or_else(|| limits.rewards.to_vec())
        };
        if models.is_empty() {
            return refuse(
                "models",
                "`alignment.reward.models` is empty, but at least one reward model must judge".into(),
            );
        }
        models.iter().try_for_each(|name| named(name, limits))?;
        let lambda = self.lambda.unwrap_or(DEFAULT_LAMBDA);
        let combine = match combine {
            "min" => Combine::Min,
            "weighted" => Combine::Weighted(self.weights.clone().unwrap_or_default()),
            "mean_minus_var" => Combine::MeanMinusVar(lambda),
            "mean_minus_std" => Combine::MeanMinusStd(lambda),
            "safety_gated" => Combine::SafetyGated(self.threshold.unwrap_or(0.0)),
            _ => Combine::Mean,
        };
        Ok(RewardRule { models, combine })
    }
}
