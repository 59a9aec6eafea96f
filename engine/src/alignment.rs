//! What a request says of its candidates: how many, how they are spent, judged and picked. Leaves doing so to
//! `strategy`.

use crate::EngineError;
use crate::request::MAX_CANDIDATES;
use crate::strategy::{AdaptiveSettings, Combine, LengthPenalty, Select};

/// Most candidates that are all compared with one another, by [`Select::Mbr`] or by a reward model that compares.
pub const MAX_COMPARED: usize = 256;

/// How candidates are sampled, scored and chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Alignment {
    /// Candidates to sample, at least as many as choices; the most of them for [`Method::Adaptive`], those that compete
    /// at a time for [`Method::Blockwise`].
    pub n: usize,
    /// How the candidates are spent.
    pub method: Method,
    /// Which reward models judge.
    pub reward: RewardRule,
    /// How the winners are picked.
    pub select: Select,
    /// What length costs.
    pub length_penalty: LengthPenalty,
    /// Most tokens to generate over all candidates, at least `n`; `None` is no limit. Each candidate may use an equal
    /// share and then ends with `length`, so that what it says does not depend on when the others ran.
    pub max_total_tokens: Option<usize>,
}

/// How candidates are spent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// Every candidate runs to its end.
    BestOfN,
    /// The same, and the best is found by comparing two at a time: [`crate::strategy::Tournament`].
    Tournament,
    /// The unpromising ones are stopped on the way: [`crate::strategy::SpeculativeRejection`].
    SpeculativeRejection {
        /// Share of the running candidates that a check drops, in (0, 1).
        alpha: f32,
        /// Tokens before the first check; every later one comes when the survivors hold as much as all did at the first.
        first_check: usize,
        /// Most checks; what survives them runs to its end.
        max_checks: usize,
    },
    /// No more are drawn once another is not worth its cost: [`crate::strategy::Adaptive`].
    Adaptive(AdaptiveSettings),
    /// The answer grows by the best of `n` blocks at a time: [`crate::strategy::Blockwise`].
    Blockwise {
        /// Tokens of a block.
        block_tokens: usize,
    },
}

/// Which reward models judge, and how their rewards become one.
#[derive(Clone, Debug, PartialEq)]
pub struct RewardRule {
    /// By name; none is the engine's default one.
    pub models: Vec<String>,
    /// How their rewards become one.
    pub combine: Combine,
}

impl RewardRule {
    /// One reward model, or the engine's default one.
    pub fn one(name: Option<&str>) -> Self {
        Self { models: name.map(str::to_owned).into_iter().collect(), combine: Combine::Mean }
    }
}

impl Alignment {
    /// The best of `n` by the default reward model.
    pub fn best_of(n: usize) -> Self {
        Self {
            n,
            method: Method::BestOfN,
            reward: RewardRule::one(None),
            select: Select::Argmax,
            length_penalty: LengthPenalty::Subtract(0.0),
            max_total_tokens: None,
        }
    }

    /// The strategy's name, as requests and reports call it.
    pub fn name(&self) -> &'static str {
        match (self.method, &self.select) {
            (Method::SpeculativeRejection { .. }, _) => "speculative_rejection",
            (Method::Adaptive(_), _) => "adaptive",
            (Method::Blockwise { .. }, _) => "blockwise",
            (Method::Tournament, _) => "tournament",
            (Method::BestOfN, Select::Mbr { .. }) => "mbr",
            (Method::BestOfN, Select::Majority(_)) => "majority",
            (Method::BestOfN, _) => "best_of_n",
        }
    }

    /// Checks every range for a request of `num_choices`.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] naming the field and what would be right.
    pub fn validate(&self, num_choices: usize) -> Result<(), EngineError> {
        let n = self.n;
        let refuse = |param, message: String| Err(EngineError::invalid(param, message));
        if !(1..=MAX_CANDIDATES).contains(&n) {
            return refuse(
                "alignment.n",
                format!("alignment.n is {n}, but must lie between 1 and {MAX_CANDIDATES}"),
            );
        }
        if n < num_choices {
            let message =
                format!("alignment.n is {n}, but n asks for {num_choices} choices; sample at least as many");
            return refuse("alignment.n", message);
        }
        if let Some(budget) = self.max_total_tokens.filter(|&budget| budget < n) {
            let message =
                format!("alignment.max_total_tokens is {budget}, but {n} candidates need a token each");
            return refuse("alignment.max_total_tokens", message);
        }
        self.length_penalty.validate()?;
        self.reward.combine.validate(self.reward.models.len().max(1))?;
        self.select.validate(n)?;
        self.check_method(num_choices)
    }

    fn check_method(&self, num_choices: usize) -> Result<(), EngineError> {
        let refuse = |param, message: String| Err(EngineError::invalid(param, message));
        match self.method {
            Method::BestOfN => {}
            Method::Tournament => {
                if self.select != Select::Argmax {
                    let message =
                        "alignment.select must be `argmax` with tournament, which returns the winner";
                    return refuse("alignment.select", message.into());
                }
            }
            Method::SpeculativeRejection { alpha, first_check, .. } => {
                if !(alpha > 0.0 && alpha < 1.0) {
                    let message =
                        format!("alignment.early_stop.alpha is {alpha}, but must lie between 0 and 1");
                    return refuse("alignment.early_stop.alpha", message);
                }
                if first_check == 0 {
                    let message = "alignment.early_stop.first_check is 0, but must be at least 1 token";
                    return refuse("alignment.early_stop.first_check", message.into());
                }
            }
            Method::Adaptive(settings) => settings.validate()?,
            Method::Blockwise { block_tokens } => {
                if block_tokens == 0 {
                    let message = "alignment.block_tokens is 0, but a block has at least 1 token";
                    return refuse("alignment.block_tokens", message.into());
                }
                if num_choices > 1 {
                    let message = format!("n is {num_choices}, but blockwise makes one answer; leave n out");
                    return refuse("n", message);
                }
                if self.select != Select::Argmax {
                    let message =
                        "alignment.select must be `argmax` with blockwise, which keeps the best block";
                    return refuse("alignment.select", message.into());
                }
            }
        }
        Ok(())
    }
}
