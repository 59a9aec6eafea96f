//! An online method for the loop: sample, judge, let a learner make of it what it learns from, and give it back in
//! batches. Leaves what is learnt to the learners, one file each.

use serde_json::Value;

use super::plan::{Plan, Shape};
use super::{Online, Sample};
use crate::config::TrainConfig;
use crate::error::TrainError;
use crate::run::method::{Method, Pass, Preview, Split, Stats};
use crate::run::model::Model;
use crate::run::parts::parts;
use crate::run::progress::Control;
use crate::run::steps::Steps;

/// What a method makes of its samples.
pub(crate) trait Learner {
    /// What batches are made of: a completion, a pair.
    type Unit;

    /// Completions to sample for each prompt.
    fn num_completions(&self) -> usize;

    /// How its units are gone through, with so many prompts.
    fn shape(&self, num_prompts: usize) -> Shape;

    /// Units of a rollout, those of a prompt side by side; `samples` are [`Learner::num_completions`] for each prompt in
    /// turn. Adds metrics of the rollout to `stats`.
    ///
    /// # Errors
    /// [`TrainError::Diverged`] with step 0 if the policy has left its bounds.
    fn units(
        &mut self,
        online: &Online,
        model: &mut Model,
        samples: Vec<Sample>,
        stats: &mut Stats,
    ) -> Result<Vec<Self::Unit>, TrainError>;

    /// How much a unit counts in the mean that is the loss.
    fn weight(&self, unit: &Self::Unit) -> f64 {
        let _ = unit;
        1.0
    }

    /// Tokens of a unit, if loss and metrics of a batch are sums over its units.
    fn num_tokens(&self, online: &Online, unit: &Self::Unit) -> Option<usize> {
        let _ = (online, unit);
        None
    }

    /// Runs a batch; with [`Pass::dropout_seed`], adds its gradients.
    fn learn(
        &self,
        online: &Online,
        model: &mut Model,
        units: &[&Self::Unit],
        pass: Pass,
    ) -> Result<Stats, TrainError>;

    /// What a checkpoint keeps besides weights and optimiser.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Goes on from what [`Learner::state`] gave.
    fn resume(&mut self, state: &Value) {
        let _ = state;
    }
}

/// Completions that `learner` samples at once, with so many prompts.
pub(crate) fn completions_at_once(learner: &impl Learner, train: &TrainConfig, num_prompts: usize) -> usize {
    let Shape { units_per_prompt, batches_per_rollout, .. } = learner.shape(num_prompts);
    let batches = match batches_per_rollout {
        0 => train.gradient_accumulation_steps,
        batches => batches,
    };
    (train.per_device_train_batch_size * batches).div_ceil(units_per_prompt) * learner.num_completions()
}

/// A learner with what it learns from.
pub(crate) struct OnlineMethod<L: Learner> {
    online: Online,
    learner: L,
    plan: Plan,
    units: Vec<L::Unit>,
}

impl<L: Learner> OnlineMethod<L> {
    /// The method of `learner` over the prompts of `online`.
    pub(crate) fn new(train: &TrainConfig, online: Online, learner: L) -> Result<Self, TrainError> {
        let num_prompts = online.prompts.train.len();
        if num_prompts == 0 {
            return Err(TrainError::config("data", "no prompt is left to sample for"));
        }
        let plan = Plan::new(train, num_prompts, learner.shape(num_prompts))
            .map_err(|reason| TrainError::config("per_device_train_batch_size", reason))?;
        Ok(Self { online, learner, plan, units: Vec::new() })
    }

    fn evaluate(&self, model: &mut Model, prompts: &[usize]) -> Result<Stats, TrainError> {
        // The same seeds at every evaluation, for a fair comparison.
        let round = prompts.first().copied().unwrap_or(0);
        let (samples, mut stats) = self.online.rollout(model, Split::Eval, prompts, 1, round)?;
        stats.num_tokens = samples.iter().map(|sample| sample.completion.tokens.len()).sum();
        Ok(stats)
    }
}

impl<L: Learner> Method for OnlineMethod<L> {
    fn lengths(&self, split: Split) -> Vec<usize> {
        self.online.lengths(split)
    }

    fn weight(&self, split: Split, unit: usize) -> f64 {
        match split {
            Split::Train => self.learner.weight(&self.units[unit]),
            Split::Eval => 1.0,
        }
    }

    fn parts<'a>(&self, units: &'a [usize]) -> Vec<&'a [usize]> {
        let num_tokens = |unit: usize| self.learner.num_tokens(&self.online, &self.units[unit]);
        match units.first().and_then(|unit| num_tokens(*unit)) {
            Some(_) => parts(units, |unit| num_tokens(unit).unwrap_or(0)),
            None => vec![units],
        }
    }

    fn steps(&self, _: &TrainConfig) -> Box<dyn Steps> {
        Box::new(self.plan.clone())
    }

    fn is_border(&self, step: usize) -> bool {
        self.plan.starts_rollout(step)
    }

    fn restores(&self) -> bool {
        true
    }

    fn prepare(&mut self, model: &mut Model, step: usize, _: &mut Control<'_>) -> Result<Stats, TrainError> {
        if !self.plan.starts_rollout(step) {
            return Ok(Stats::default());
        }
        let round = self.plan.rollout(step);
        let prompts = self.plan.prompts(round);
        let count = self.learner.num_completions();
        let (samples, mut stats) = self.online.rollout(model, Split::Train, &prompts, count, round)?;
        let units = self.learner.units(&self.online, model, samples, &mut stats);
        self.units = units.map_err(|error| match error {
            TrainError::Diverged { reason, .. } => TrainError::Diverged { step: step + 1, reason },
            other => other,
        })?;
        Ok(stats)
    }

    fn state(&self) -> Value {
        self.learner.state()
    }

    fn resume(&mut self, state: &Value) {
        self.learner.resume(state);
    }

    fn batch(&self, model: &mut Model, examples: &[usize], pass: Pass) -> Result<Stats, TrainError> {
        if pass.split == Split::Eval {
            return self.evaluate(model, examples);
        }
        let units: Vec<&L::Unit> = examples.iter().map(|index| &self.units[*index]).collect();
        self.learner.learn(&self.online, model, &units, pass)
    }

    fn preview(&self, example: usize) -> Vec<Preview<'_>> {
        let prompt = &self.online.prompts.train[example];
        vec![Preview::prompted("prompt", &prompt.ids, &prompt.answer)]
    }

    fn fingerprint(&self) -> String {
        self.online.fingerprint()
    }
}
