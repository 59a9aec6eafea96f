//! From the fields of `alignment` to the engine's settings: defaults, and refusals of what does not go together. Leaves
//! ranges to the engine, which checks its own.

use rectify_engine::alignment::{Alignment, Method};
use rectify_engine::strategy::{AdaptiveSettings, Extractor, LengthPenalty, Pattern, Select};

use super::{AlignmentLimits, AlignmentRequest, EXTRACTORS, EarlyStop, SELECTS, STRATEGIES, known, reward};
use crate::error::ApiError;

/// Candidates when the request does not say.
const DEFAULT_N: usize = 16;
/// The same for `blockwise`.
const DEFAULT_BLOCKS: usize = 4;
const DEFAULT_BLOCK_TOKENS: usize = 16;
const DEFAULT_ALPHA: f32 = 0.5;
const DEFAULT_FIRST_CHECK: usize = 16;

impl AlignmentRequest {
    /// The strategy that the fields name.
    fn strategy_name(&self) -> &'static str {
        let named = self.strategy.as_deref().filter(|&name| name != STRATEGIES[0]);
        let stopped = self.early_stop.as_ref().and_then(|early_stop| early_stop.kind.as_deref());
        let wanted = named.or(stopped).unwrap_or(STRATEGIES[0]);
        STRATEGIES.into_iter().find(|&name| name == wanted).unwrap_or(STRATEGIES[0])
    }

    /// Checks every field and turns the request into the engine's; `num_choices` is OpenAI's `n`.
    ///
    /// # Errors
    /// 400 naming the field, and what would be right.
    pub fn validate(&self, num_choices: usize, limits: &AlignmentLimits<'_>) -> Result<Alignment, ApiError> {
        known("strategy", self.strategy.as_deref(), &STRATEGIES)?;
        known("select", self.select.as_deref(), &SELECTS)?;
        known("extract", self.extract.as_deref(), &EXTRACTORS)?;
        let method = self.method()?;
        let select = self.selection()?;
        let n = self.num_candidates(num_choices, method, limits)?;
        let length_penalty = match (self.reward_per_token.unwrap_or(false), self.length_penalty) {
            (true, Some(_)) => {
                let message = "`alignment.length_penalty` and `alignment.reward_per_token` exclude each other; leave one out";
                return Err(ApiError::invalid("alignment.reward_per_token", message));
            }
            (true, None) => LengthPenalty::Divide,
            (false, penalty) => LengthPenalty::Subtract(penalty.unwrap_or(0.0)),
        };
        let reward = reward::rule(self.reward.as_ref(), limits)?;
        let max_total_tokens = self.max_total_tokens;
        let alignment = Alignment { n, method, reward, select, length_penalty, max_total_tokens };
        alignment.validate(num_choices)?;
        Ok(alignment)
    }

    fn num_candidates(
        &self,
        num_choices: usize,
        method: Method,
        limits: &AlignmentLimits<'_>,
    ) -> Result<usize, ApiError> {
        let most = limits.max_candidates;
        let default = match method {
            Method::SpeculativeRejection { first_check, .. } => limits.kv_tokens / first_check.max(1),
            Method::Blockwise { .. } => DEFAULT_BLOCKS,
            _ => DEFAULT_N,
        };
        let n = self.n.unwrap_or(default.clamp(1, most).max(num_choices));
        if n == 0 || n > most {
            let message = format!("`alignment.n` is {n}, but must lie between 1 and {most}");
            return Err(ApiError::invalid("alignment.n", message));
        }
        if n < num_choices {
            let message = format!(
                "`alignment.n` is {n}, but `n` asks for {num_choices} choices out of them; raise `alignment.n`"
            );
            return Err(ApiError::invalid("alignment.n", message));
        }
        Ok(n)
    }

    fn method(&self) -> Result<Method, ApiError> {
        let strategy = self.strategy_name();
        let default = EarlyStop::default();
        let early_stop = self.early_stop.as_ref().unwrap_or(&default);
        let EarlyStop {
            kind,
            alpha,
            first_check,
            max_checks,
            cost,
            first,
            round,
            reward_mean,
            reward_std,
            prior_weight,
        } = early_stop;
        known("early_stop.kind", kind.as_deref(), &STRATEGIES[1..3])?;
        if let Some(kind) = kind.as_deref().filter(|&kind| kind != strategy) {
            let message = format!(
                "`alignment.early_stop.kind` is `{kind}`, but `alignment.strategy` is `{strategy}`; choose one of them"
            );
            return Err(ApiError::invalid("alignment.early_stop.kind", message));
        }
        let fields = [
            ("early_stop.alpha", alpha.is_some(), "speculative_rejection"),
            ("early_stop.first_check", first_check.is_some(), "speculative_rejection"),
            ("early_stop.max_checks", max_checks.is_some(), "speculative_rejection"),
            ("early_stop.cost", cost.is_some(), "adaptive"),
            ("early_stop.first", first.is_some(), "adaptive"),
            ("early_stop.round", round.is_some(), "adaptive"),
            ("early_stop.reward_mean", reward_mean.is_some(), "adaptive"),
            ("early_stop.reward_std", reward_std.is_some(), "adaptive"),
            ("early_stop.prior_weight", prior_weight.is_some(), "adaptive"),
            ("block_tokens", self.block_tokens.is_some(), "blockwise"),
        ];
        if let Some((field, _, of)) = fields.iter().find(|(_, given, of)| *given && *of != strategy) {
            let message = format!(
                "`alignment.{field}` belongs to `{of}`, but the strategy is `{strategy}`; leave it out"
            );
            return Err(ApiError::invalid(format!("alignment.{field}"), message));
        }
        Ok(match strategy {
            "speculative_rejection" => Method::SpeculativeRejection {
                alpha: alpha.unwrap_or(DEFAULT_ALPHA),
                first_check: first_check.unwrap_or(DEFAULT_FIRST_CHECK),
                max_checks: max_checks.unwrap_or(usize::MAX),
            },
            "adaptive" => {
                let default = AdaptiveSettings::default();
                Method::Adaptive(AdaptiveSettings {
                    cost: cost.unwrap_or(default.cost),
                    first: first.unwrap_or(default.first),
                    round: round.unwrap_or(default.round),
                    reward_mean: reward_mean.unwrap_or(default.reward_mean),
                    reward_std: reward_std.unwrap_or(default.reward_std),
                    prior_weight: prior_weight.unwrap_or(default.prior_weight),
                })
            }
            "blockwise" => {
                Method::Blockwise { block_tokens: self.block_tokens.unwrap_or(DEFAULT_BLOCK_TOKENS) }
            }
            "tournament" => Method::Tournament,
            _ => Method::BestOfN,
        })
    }

    fn selection(&self) -> Result<Select, ApiError> {
        let strategy = Some(self.strategy_name()).filter(|name| SELECTS.contains(name));
        let select = match (strategy, self.select.as_deref()) {
            (Some(strategy), Some(select)) if strategy != select => {
                let message = format!(
                    "`alignment.select` is `{select}`, but `alignment.strategy` is `{strategy}`; choose one of them"
                );
                return Err(ApiError::invalid("alignment.select", message));
            }
            (strategy, select) => strategy.or(select).unwrap_or("argmax"),
        };
        let fields = [
            ("select_temperature", self.select_temperature.is_some(), "softmax"),
            ("mbr_weight", self.mbr_weight.is_some(), "mbr"),
            ("extract", self.extract.is_some(), "majority"),
            ("extract_pattern", self.extract_pattern.is_some(), "majority"),
        ];
        if let Some((field, _, of)) = fields.iter().find(|(_, given, of)| *given && *of != select) {
            let message = format!(
                "`alignment.{field}` belongs to `select: {of}`, but `select` is `{select}`; leave it out"
            );
            return Err(ApiError::invalid(format!("alignment.{field}"), message));
        }
        Ok(match select {
            "softmax" => Select::Softmax { temperature: self.select_temperature.unwrap_or(1.0) },
            "mbr" => Select::Mbr { weight: self.mbr_weight.unwrap_or(1.0) },
            "majority" => Select::Majority(self.extractor()?),
            _ => Select::Argmax,
        })
    }

    fn extractor(&self) -> Result<Extractor, ApiError> {
        if let Some(pattern) = &self.extract_pattern {
            if self.extract.is_some() {
                let message =
                    "`alignment.extract` and `alignment.extract_pattern` exclude each other; leave one out";
                return Err(ApiError::invalid("alignment.extract", message));
            }
            return Ok(Extractor::Pattern(Pattern::new(pattern)?));
        }
        Ok(match self.extract.as_deref() {
            Some("boxed") => Extractor::Boxed,
            Some("last_line") => Extractor::LastLine,
            Some("text") => Extractor::Text,
            _ => Extractor::Number,
        })
    }
}

#[cfg(test)]
mod tests {
    use rectify_engine::alignment::RewardRule;
    use rectify_engine::strategy::Combine;

    use super::*;

    const REWARDS: [&str; 2] = ["helpful", "safe"];

    fn check(json: &str, num_choices: usize) -> Result<Alignment, ApiError> {
        let rewards = REWARDS.map(str::to_owned);
        let limits = AlignmentLimits {
            max_candidates: 64,
            kv_tokens: 640,
            rewards: &rewards,
            default_reward: Some("helpful"),
            combined_reward: None,
        };
        let request: AlignmentRequest = serde_json::from_str(json).unwrap();
        request.validate(num_choices, &limits)
    }

    #[test]
    fn unknown_words_are_refused_with_the_known_ones() {
        for (json, param, word) in [
            (r#"{"strategy": "beam"}"#, "alignment.strategy", "best_of_n, speculative_rejection"),
            (r#"{"select": "worst"}"#, "alignment.select", "argmax, softmax"),
            (r#"{"extract": "verb", "select": "majority"}"#, "alignment.extract", "last_line"),
            (r#"{"early_stop": {"kind": "never"}}"#, "alignment.early_stop.kind", "adaptive"),
            (r#"{"reward": {"combine": "sum"}}"#, "alignment.reward.combine", "weighted"),
        ] {
            let error = check(json, 1).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{json}");
            assert!(error.message.contains(word), "{}", error.message);
        }
        for json in [r#"{"reward": "kind"}"#, r#"{"reward": {"combine": "min", "models": ["kind"]}}"#] {
            let error = check(json, 1).unwrap_err();
            assert_eq!((error.status.as_u16(), error.code), (404, Some("model_not_found")));
            assert!(error.message.contains("helpful"), "{}", error.message);
        }
    }

    #[test]
    fn what_is_out_of_range_or_does_not_go_together_is_refused() {
        for (json, choices) in [
            (r#"{"n": 0}"#, 1),
            (r#"{"n": 65}"#, 1),
            (r#"{"n": 2}"#, 3),
            (r#"{"max_total_tokens": 0}"#, 1),
            (r#"{"n": 4, "max_total_tokens": 3}"#, 1),
            (r#"{"length_penalty": 1e39}"#, 1),
            (r#"{"length_penalty": 1, "reward_per_token": true}"#, 1),
            (r#"{"early_stop": {"alpha": 0.5}}"#, 1),
            (r#"{"early_stop": {"kind": "adaptive", "alpha": 0.5}}"#, 1),
            (r#"{"early_stop": {"kind": "speculative_rejection", "alpha": 1.0}}"#, 1),
            (r#"{"early_stop": {"kind": "speculative_rejection", "first_check": 0}}"#, 1),
            (r#"{"strategy": "adaptive", "early_stop": {"cost": -1}}"#, 1),
            (r#"{"strategy": "adaptive", "early_stop": {"reward_std": 0}}"#, 1),
            (r#"{"strategy": "adaptive", "early_stop": {"kind": "speculative_rejection"}}"#, 1),
            (r#"{"strategy": "blockwise", "block_tokens": 0}"#, 1),
            (r#"{"strategy": "blockwise", "select": "softmax"}"#, 1),
            (r#"{"block_tokens": 4}"#, 1),
            (r#"{"strategy": "mbr", "select": "majority"}"#, 1),
            (r#"{"strategy": "tournament", "select": "softmax"}"#, 1),
            (r#"{"select": "softmax", "select_temperature": 0}"#, 1),
            (r#"{"select_temperature": 1}"#, 1),
            (r#"{"select": "majority", "extract": "number", "extract_pattern": "x"}"#, 1),
            (r#"{"select": "majority", "extract_pattern": "("}"#, 1),
            (r#"{"reward": {"combine": "safety_gated", "helpful": "helpful"}}"#, 1),
            (r#"{"reward": {"combine": "safety_gated", "models": ["helpful", "safe"]}}"#, 1),
            (r#"{"reward": {"combine": "weighted", "weights": [1]}}"#, 1),
            (r#"{"reward": {"combine": "min", "models": []}}"#, 1),
            (r#"{"reward": {"combine": "min", "lambda": 1}}"#, 1),
        ] {
            let error = check(json, choices).unwrap_err();
            assert_eq!(error.status.as_u16(), 400, "{json}");
            assert!(error.param.unwrap().starts_with("alignment."), "{json}");
            assert!(!error.message.contains('\n'), "{}", error.message);
        }
        assert_eq!(check(r#"{"strategy": "blockwise"}"#, 2).unwrap_err().param.as_deref(), Some("n"));
    }

    #[test]
    fn a_reward_that_is_neither_name_nor_object_says_what_would_be() {
        let error = serde_json::from_str::<AlignmentRequest>(r#"{"reward": 3}"#).unwrap_err().to_string();
        assert!(error.contains("a reward model's name or an object with `combine`"), "{error}");
    }

    #[test]
    fn a_request_without_n_samples_what_suits_its_strategy() {
        let n = |json, choices| check(json, choices).unwrap().n;
        assert_eq!((n("{}", 1), n("{}", 20), n(r#"{"strategy": "blockwise"}"#, 1)), (16, 20, 4));
        // 640 tokens of KV: forty candidates of sixteen tokens.
        assert_eq!(n(r#"{"strategy": "speculative_rejection"}"#, 1), 40);
        assert_eq!(n(r#"{"strategy": "speculative_rejection", "early_stop": {"first_check": 4}}"#, 1), 64);
    }

    #[test]
    fn names_lead_to_methods_and_rules() {
        let method = |json| check(json, 1).unwrap().method;
        let early = r#"{"early_stop": {"kind": "speculative_rejection", "alpha": 0.25}}"#;
        assert_eq!(
            method(early),
            Method::SpeculativeRejection { alpha: 0.25, first_check: 16, max_checks: usize::MAX }
        );
        let adaptive = r#"{"strategy": "adaptive", "early_stop": {"cost": 0.5, "round": 1}}"#;
        let settings = AdaptiveSettings { cost: 0.5, round: 1, ..AdaptiveSettings::default() };
        assert_eq!(method(adaptive), Method::Adaptive(settings));
        assert_eq!(method(r#"{"strategy": "blockwise"}"#), Method::Blockwise { block_tokens: 16 });
        assert_eq!(method(r#"{"strategy": "tournament"}"#), Method::Tournament);
        let select = |json| check(json, 1).unwrap().select;
        assert_eq!(select(r#"{"strategy": "mbr", "mbr_weight": 2}"#), Select::Mbr { weight: 2.0 });
        assert_eq!(
            select(r#"{"strategy": "majority", "extract": "boxed"}"#),
            Select::Majority(Extractor::Boxed)
        );
        assert_eq!(select(r#"{"select": "softmax"}"#), Select::Softmax { temperature: 1.0 });
        let reward = |json| check(json, 1).unwrap().reward;
        let both = || REWARDS.map(str::to_owned).to_vec();
        assert_eq!(
            reward(r#"{"reward": {"combine": "min"}}"#),
            RewardRule { models: both(), combine: Combine::Min }
        );
        let gated = r#"{"reward": {"combine": "safety_gated", "helpful": "safe", "safety": "helpful", "threshold": 0.5}}"#;
        let models = vec!["safe".to_owned(), "helpful".to_owned()];
        assert_eq!(reward(gated), RewardRule { models, combine: Combine::SafetyGated(0.5) });
    }

    #[test]
    fn request_fields_win_over_the_profile() {
        let parse = |json: &str| serde_json::from_str::<AlignmentRequest>(json).unwrap();
        let profile = parse(r#"{"n": 4, "reward": "safe", "seed": 1}"#);
        let merged = AlignmentRequest::resolve(Some(parse(r#"{"n": 8}"#)), Some(&profile)).unwrap();
        assert_eq!(merged, parse(r#"{"n": 8, "reward": "safe", "seed": 1}"#));
    }
}
