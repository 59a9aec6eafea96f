//! Learning from answers that are there from the start, for the loop: data, passes and gradients are the same for every
//! such method, which is an [`Objective`]. Leaves formulas to `losses`.

use super::logprobs::{Asked, Role, TokenLogprobs};
use super::method::{Method, Pass, Preview, Split, Stats};
use super::model::Model;
use super::parts::parts;
use super::progress::{Control, Progress, TrainReport};
use super::trainer::Trainer;
use crate::config::TrainConfig;
use crate::data::{Answers, AnswersLine, AnswersNotes, Fingerprint, Splits, read_answers};
use crate::error::TrainError;
use crate::losses::TokenLoss;

/// What is known of the answers of an objective's examples.
pub(crate) type Label<O> = <<O as Objective>::Line as AnswersLine>::Label;
/// An example of an objective.
pub(crate) type Example<O> = Answers<Label<O>>;

/// What a method makes of the log-probabilities of answers.
pub(crate) trait Objective: Sized {
    /// A line of the data.
    type Line: AnswersLine;
    /// What is asked of other models before the policy's pass.
    type Before: Default;

    /// The texts of an example that the policy is asked for.
    fn asked(&self, example: &Example<Self>) -> Vec<Asked> {
        let completion = |answer: &Vec<u32>| Asked::completion(&example.prompt, answer);
        example.answers.iter().map(completion).collect()
    }

    /// As [`Method::loss_tokens`].
    fn loss_tokens(&self, example: &Example<Self>) -> f64 {
        let _ = example;
        0.0
    }

    /// Whether loss and metrics of a batch are sums over its examples.
    fn is_separable(&self) -> bool {
        true
    }

    /// Adds what is known of answers to the examples' fingerprint.
    fn hash_label(&self, label: &Label<Self>, fingerprint: &mut Fingerprint) {
        let _ = (label, fingerprint);
    }

    /// As [`Method::start`].
    fn start(
        &self,
        examples: &Splits<Example<Self>>,
        model: &mut Model,
        control: &mut Control<'_>,
    ) -> Result<(), TrainError> {
        let _ = (examples, model, control);
        Ok(())
    }

    /// Passes before the policy's; without a reference there are none.
    fn before(
        &self,
        examples: &[Example<Self>],
        model: &mut Model,
        batch: (Split, &[usize]),
    ) -> Result<Self::Before, TrainError> {
        let _ = (examples, model, batch);
        Ok(Self::Before::default())
    }

    /// Loss, gradient and metrics from the policy's answer to what was asked.
    fn evaluate(
        &self,
        batch: &[&Example<Self>],
        before: Self::Before,
        policy: &TokenLogprobs,
        pass: Pass,
        stats: &mut Stats,
    ) -> TokenLoss;
}

/// An objective and its examples.
pub(crate) struct Offline<O: Objective> {
    objective: O,
    examples: Splits<Example<O>>,
}

/// Loads the model and the examples, makes the objective of them, and trains.
pub(crate) fn train<O: Objective>(
    name: &'static str,
    (settings, config): (&TrainConfig, serde_json::Value),
    disable_dropout: bool,
    objective: impl FnOnce(&Splits<Example<O>>, &Model, &mut Control<'_>) -> Result<O, TrainError>,
    control: &mut Control<'_>,
) -> Result<TrainReport, TrainError> {
    let model = model(settings, disable_dropout)?;
    let examples = load::<O::Line>(settings, &model, control)?;
    let objective = objective(&examples, &model, control)?;
    run(name, (settings, config), Offline::new(objective, examples), model, control)
}

/// The model to be trained.
pub(crate) fn model(settings: &TrainConfig, disable_dropout: bool) -> Result<Model, TrainError> {
    let mut model = Model::load(settings, false)?;
    if disable_dropout {
        model.tape.disable_dropout();
    }
    Ok(model)
}

/// Trains.
pub(crate) fn run<O: Objective>(
    name: &'static str,
    (settings, config): (&TrainConfig, serde_json::Value),
    method: Offline<O>,
    model: Model,
    control: &mut Control<'_>,
) -> Result<TrainReport, TrainError> {
    Trainer { name, settings, method, model }.run(config, control)
}

/// Reads the examples of a run, and tells what was met on the way.
pub(crate) fn load<R: AnswersLine>(
    settings: &TrainConfig,
    model: &Model,
    control: &mut Control<'_>,
) -> Result<Splits<Answers<R::Label>>, TrainError> {
    let mut notes = AnswersNotes::default();
    let max_length = model.max_length(settings);
    let read = |file: &std::path::Path| read_answers::<R>(file, &model.encoder, max_length, &mut notes);
    let examples = Splits::load(settings, read)?;
    for sentence in notes.sentences() {
        (control.progress)(&Progress::Warning(sentence));
    }
    Ok(examples)
}

/// Tokens of the examples of each split.
pub(crate) fn lengths<L>(examples: &Splits<Answers<L>>) -> [Vec<usize>; 2] {
    [&examples.train, &examples.eval].map(|examples| examples.iter().map(Answers::num_tokens).collect())
}

impl<O: Objective> Offline<O> {
    pub(crate) fn new(objective: O, examples: Splits<Example<O>>) -> Self {
        Self { objective, examples }
    }

    fn examples(&self, split: Split) -> &[Example<O>] {
        split.of(&self.examples)
    }
}

impl<O: Objective> Method for Offline<O> {
    fn lengths(&self, split: Split) -> Vec<usize> {
        self.examples(split).iter().map(Answers::num_tokens).collect()
    }

    fn weight(&self, _: Split, _: usize) -> f64 {
        1.0
    }

    fn loss_tokens(&self, split: Split, example: usize) -> f64 {
        self.objective.loss_tokens(&self.examples(split)[example])
    }

    fn parts<'a>(&self, examples: &'a [usize]) -> Vec<&'a [usize]> {
        match self.objective.is_separable() {
            true => parts(examples, |example| self.examples.train[example].num_tokens()),
            false => vec![examples],
        }
    }

    fn start(&mut self, model: &mut Model, control: &mut Control<'_>) -> Result<(), TrainError> {
        self.objective.start(&self.examples, model, control)
    }

    fn batch(&self, model: &mut Model, examples: &[usize], pass: Pass) -> Result<Stats, TrainError> {
        let all = self.examples(pass.split);
        let batch: Vec<&Example<O>> = examples.iter().map(|index| &all[*index]).collect();
        let before = self.objective.before(all, model, (pass.split, examples))?;
        let asked: Vec<Asked> = batch.iter().flat_map(|example| self.objective.asked(example)).collect();
        let policy = model.token_logprobs(&asked, Role::Policy(pass.dropout_seed))?;
        let num_tokens = asked.iter().map(|text| text.ids.len()).sum();
        let mut stats = Stats { num_tokens, ..Stats::default() };
        let total = self.objective.evaluate(&batch, before, &policy, pass, &mut stats);
        stats.loss = total.loss;
        if pass.dropout_seed.is_some() {
            model.backward(&policy, &total.grad);
        }
        Ok(stats)
    }

    fn preview(&self, example: usize) -> Vec<Preview<'_>> {
        let Answers { prompt, answers, label } = &self.examples.train[example];
        let name = |index| <O::Line as AnswersLine>::name(label, index);
        answers
            .iter()
            .enumerate()
            .map(|(index, answer)| Preview::prompted(name(index), prompt, answer))
            .collect()
    }

    fn fingerprint(&self) -> String {
        let mut hash = Fingerprint::default();
        for example in self.examples.train.iter().chain(&self.examples.eval) {
            example.add_to(&mut hash);
            self.objective.hash_label(&example.label, &mut hash);
        }
        hash.finish()
    }
}
