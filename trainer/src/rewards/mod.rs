//! What judges completions: reward models through the engine, and programs. A reward is a number, or NaN where a judge has
//! nothing to say. Leaves what is learnt from rewards to `run`.

pub(crate) mod accuracy;
mod command;
mod http;
mod model;
mod spec;
mod words;

use std::sync::Arc;

use rectify_engine::model::source::ModelSource;
pub use spec::RewardSpec;

use crate::autograd::FrozenBase;
use crate::config::RolloutConfig;
use crate::data::PromptExample;
use crate::error::TrainError;
use crate::rollout::{RolloutEngine, RolloutModels};

/// A completion to judge.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// What it answers.
    pub prompt: &'a PromptExample,
    /// Its text.
    pub completion: &'a str,
    /// Its tokens.
    pub num_tokens: usize,
}

/// A judge.
pub(crate) trait Judge: Send {
    /// A reward for each completion, in their order; those of a prompt stand together.
    ///
    /// # Errors
    /// If the judge cannot work at all.
    fn rewards(&self, completions: &[Judged<'_>]) -> Result<Vec<f64>, TrainError>;
}

/// A judge with its name and weight.
struct Named {
    name: String,
    weight: f64,
    judge: Box<dyn Judge>,
}

/// The judges of a run.
pub(crate) struct Judges {
    judges: Vec<Named>,
}

/// What the judges said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Verdicts {
    /// Weighted sums; NaN where no judge had anything to say.
    pub(crate) rewards: Vec<f64>,
    /// Of each judge.
    pub(crate) each: Vec<(String, Vec<f64>)>,
}

/// Names of `specs`, each its own.
fn names(specs: &[RewardSpec]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for spec in specs {
        let name = spec.name();
        let taken =
            names.iter().filter(|other| **other == name || other.starts_with(&format!("{name}-"))).count();
        names.push(if taken == 0 { name } else { format!("{name}-{}", taken + 1) });
    }
    names
}

/// Starts an engine with the policy's base and the reward models among the judges, and opens the judges.
pub(crate) fn open(
    config: &RolloutConfig,
    policy: ModelSource,
    base: FrozenBase,
    (kv_memory, threads): (usize, Option<usize>),
) -> Result<(Arc<RolloutEngine>, Judges), TrainError> {
    let names = names(&config.reward);
    let models = names.iter().zip(&config.reward).filter_map(|(name, spec)| match spec {
        RewardSpec::Model { path } => Some((name.clone(), path.clone())),
        _ => None,
    });
    let models = RolloutModels { policy, rewards: models.collect(), base, kv_memory, threads };
    let engine = Arc::new(RolloutEngine::start(&models)?);
    let judges = names.into_iter().zip(&config.reward).enumerate();
    let judges = judges.map(|(index, (name, spec))| {
        let judge: Box<dyn Judge> = match spec {
            RewardSpec::Model { .. } => Box::new(model::Model::new(&engine, &name)),
            RewardSpec::Regex { pattern } => Box::new(words::Matches::new(pattern)?),
            RewardSpec::ExactMatch { column } => Box::new(words::Equals::new(column)),
            RewardSpec::Json {} => Box::new(words::IsJson),
            RewardSpec::Length { target } => Box::new(words::HasLength::new(*target)),
            RewardSpec::Http { url, timeout_seconds } => {
                Box::new(http::Endpoint::new(url, *timeout_seconds)?)
            }
            RewardSpec::Command { command, limits } => Box::new(command::Program::new(command, *limits)?),
        };
        Ok(Named { name, weight: config.weight(index), judge })
    });
    let judges = judges.collect::<Result<_, TrainError>>()?;
    Ok((engine, Judges { judges }))
}

impl Judges {
    /// A single judge, for tests.
    #[cfg(test)]
    pub(crate) fn one(name: &str, judge: Box<dyn Judge>) -> Self {
        Self { judges: vec![Named { name: name.to_owned(), weight: 1.0, judge }] }
    }

    /// What all judges say of `completions`.
    pub(crate) fn judge(&self, completions: &[Judged<'_>]) -> Result<Verdicts, TrainError> {
        let mut out = Verdicts { rewards: vec![f64::NAN; completions.len()], each: Vec::new() };
        for Named { name, weight, judge } in &self.judges {
            let rewards = judge.rewards(completions)?;
            for (sum, reward) in out.rewards.iter_mut().zip(&rewards).filter(|(_, reward)| reward.is_finite())
            {
                *sum = weight * reward + if sum.is_nan() { 0.0 } else { *sum };
            }
            out.each.push((name.clone(), rewards));
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(Vec<f64>);

    impl Judge for Says {
        fn rewards(&self, _: &[Judged<'_>]) -> Result<Vec<f64>, TrainError> {
            Ok(self.0.clone())
        }
    }

    #[test]
    fn rewards_are_weighted_sums_of_what_is_known() {
        let named = |name: &str, weight, rewards: &[f64]| Named {
            name: name.to_owned(),
            weight,
            judge: Box::new(Says(rewards.to_vec())),
        };
        let judges = Judges {
            judges: vec![named("a", 1.0, &[1.0, f64::NAN, f64::NAN]), named("b", 0.5, &[4.0, 2.0, f64::NAN])],
        };
        let prompt = words::tests::prompt("{}");
        let judged = [Judged { prompt: &prompt, completion: "", num_tokens: 1 }; 3];
        let verdicts = judges.judge(&judged).unwrap();
        assert_eq!(verdicts.rewards[..2], [3.0, 1.0]);
        assert!(verdicts.rewards[2].is_nan());
    }

    #[test]
    fn judges_of_one_kind_have_names_of_their_own() {
        let specs: Vec<RewardSpec> =
            ["json", "regex:a", "regex:b", "json"].iter().map(|spec| spec.parse().unwrap()).collect();
        assert_eq!(names(&specs), ["json", "regex", "regex-2", "json-2"]);
    }
}
