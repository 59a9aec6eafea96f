//! A reward model in the engine that samples. Leaves loading to `rollout`.

use std::sync::Arc;

use rectify_engine::request::{Message, ScoreInput};
use rectify_feedback::Text;

use super::{Judge, Judged};
use crate::error::TrainError;
use crate::rollout::RolloutEngine;

/// A reward model by its name in the engine.
pub(super) struct Model {
    engine: Arc<RolloutEngine>,
    name: String,
}

impl Model {
    pub(super) fn new(engine: &Arc<RolloutEngine>, name: &str) -> Self {
        Self { engine: Arc::clone(engine), name: name.to_owned() }
    }
}

impl Judge for Model {
    fn rewards(&self, completions: &[Judged<'_>]) -> Result<Vec<f64>, TrainError> {
        let of_one_prompt = completions.chunk_by(|a, b| std::ptr::eq(a.prompt, b.prompt));
        let compares = self.engine.compares(&self.name);
        if compares && of_one_prompt.clone().any(|judged| judged.len() < 2) {
            let reason = format!(
                "the reward model `{}` compares completions of one prompt, but there is one alone; use a method that samples \
                 several for each, such as grpo, rloo or online-dpo",
                self.name
            );
            return Err(TrainError::Config { field: "reward", reason });
        }
        let input = |judged: &[Judged<'_>]| {
            let texts = judged.iter().map(|judged| judged.completion);
            match &judged[0].prompt.text {
                // It has no template that a plain prompt could do without.
                Text::Plain(prompt) if compares => ScoreInput::Candidates {
                    messages: Arc::new([Message { role: "user".into(), content: prompt.clone() }]),
                    candidates: texts.map(str::to_owned).collect(),
                },
                Text::Chat(_) => ScoreInput::Candidates {
                    messages: Arc::clone(&judged[0].prompt.messages),
                    candidates: texts.map(str::to_owned).collect(),
                },
                // A plain prompt knows no template, and neither does its answer.
                Text::Plain(prompt) => {
                    ScoreInput::Texts(texts.map(|completion| format!("{prompt}{completion}")).collect())
                }
            }
        };
        let rewards = self.engine.score(&self.name, of_one_prompt.map(input).collect())?;
        Ok(rewards.into_iter().flatten().map(f64::from).collect())
    }
}
