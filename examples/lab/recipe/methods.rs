//! Training methods beside each other: each starts from the lab's policy, and held-out prompts say what became of it.
//! Leaves measuring to `policy`, tables and plots to `comparison`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use rectify_lab::data::{Thumb, thumbs};
use rectify_lab::tokenizer::write_json;
use rectify_lab::{Item, Split};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::comparison;
use crate::files::{read_lines, turn, write_lines};
use crate::policy::{Measured, measure};
use crate::stages::{Recipe, call};

/// A method of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Method {
    /// Pairs of answers.
    Dpo,
    /// Thumbs on single answers.
    Kto,
    /// The reward model on fresh answers, with a critic.
    Ppo,
    /// The reward model on groups of fresh answers.
    Grpo,
}

impl Method {
    pub(crate) const ALL: [Self; 4] = [Self::Dpo, Self::Kto, Self::Ppo, Self::Grpo];

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dpo => "dpo",
            Self::Kto => "kto",
            Self::Ppo => "ppo",
            Self::Grpo => "grpo",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Dpo => include_str!("methods/dpo.yaml"),
            Self::Kto => include_str!("methods/kto.yaml"),
            Self::Ppo => include_str!("methods/ppo.yaml"),
            Self::Grpo => include_str!("methods/grpo.yaml"),
        }
    }

    fn data(self) -> &'static str {
        match self {
            Self::Dpo => "pairs.jsonl",
            Self::Kto => "thumbs.jsonl",
            Self::Ppo | Self::Grpo => "rollout_prompts.jsonl",
        }
    }

    fn takes_reward(self) -> bool {
        matches!(self, Self::Ppo | Self::Grpo)
    }
}

/// Settings of the comparison.
#[derive(clap::Args)]
pub(crate) struct Comparison {
    /// What the recipe made.
    #[command(flatten)]
    pub(crate) recipe: Recipe,
    /// Methods; all of them by default.
    #[arg(long = "method", value_enum)]
    pub(crate) methods: Vec<Method>,
    /// Runs of each method, with seeds from 1 on.
    #[arg(long, default_value_t = 3)]
    pub(crate) seeds: u64,
    /// Copies the report and its plots here, if given: `docs/methods`.
    #[arg(long, value_name = "DIR")]
    pub(crate) install: Option<PathBuf>,
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) measured: Measured,
    /// Of training alone.
    pub(crate) seconds: f64,
    /// Lines of `train_log.jsonl`.
    #[serde(skip)]
    pub(crate) log: Vec<Value>,
}

impl Comparison {
    /// Trains, measures and writes the report. Runs whose folder holds a `run.json` are not run again.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let folder = self.recipe.path("methods");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        self.data()?;
        // Prompts that no stage of the recipe has looked at.
        let items = rectify_lab::data::prompts(
            Split::HeldOut,
            self.recipe.eval_prompts,
            self.recipe.seed,
            "methods",
        )?;
        let policy = self.recipe.path("policy");
        let start = measure(&policy, None, &items)?;
        let methods = if self.methods.is_empty() { Method::ALL.to_vec() } else { self.methods.clone() };
        let mut results = Vec::new();
        for method in methods {
            let runs: Vec<Run> = (1..=self.seeds)
                .map(|seed| self.one(method, seed, &folder, &items))
                .collect::<anyhow::Result<_>>()?;
            results.push((method, runs));
        }
        let named: serde_json::Map<String, Value> =
            results.iter().map(|(method, runs)| (method.name().to_owned(), json!(runs))).collect();
        write_json(&folder.join("results.json"), &json!({"start": start, "methods": named}))?;
        comparison::write(&folder, &items, &start, &results)?;
        match &self.install {
            Some(target) => comparison::install(&folder, target, &results),
            None => Ok(()),
        }
    }

    /// What the methods learn from beside the pairs: thumbs on the policy's own answers, as noisy as the pairs, and
    /// prompts to answer.
    fn data(&self) -> anyhow::Result<()> {
        let recipe = &self.recipe;
        let sampled = recipe.sampled()?;
        let line = |thumb: &Thumb| {
            json!({
                "prompt": [turn("user", &thumb.item.prompt)],
                "completion": [turn("assistant", &thumb.answer)],
                "label": thumb.up,
            })
        };
        let thumbs = thumbs(&sampled, THUMBS, recipe.noise, recipe.seed);
        write_lines(&recipe.path(Method::Kto.data()), thumbs.iter().map(line))?;
        let prompts = sampled.iter().map(|answers| json!({"prompt": [turn("user", &answers.item.prompt)]}));
        write_lines(&recipe.path(Method::Grpo.data()), prompts)
    }

    /// Trains and measures; a run that is there already is only read.
    fn one(&self, method: Method, seed: u64, folder: &Path, items: &[Item]) -> anyhow::Result<Run> {
        let (name, recipe) = (method.name(), &self.recipe);
        let output = folder.join(format!("{name}-{seed}"));
        let done = output.join("run.json");
        if let Ok(text) = fs::read_to_string(&done) {
            let run: Run =
                serde_json::from_str(&text).with_context(|| format!("cannot read {}", done.display()))?;
            return Ok(Run { log: read_lines(&output.join("train_log.jsonl"))?, ..run });
        }
        let config = folder.join(format!("{name}.yaml"));
        fs::write(&config, method.config()).with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = recipe.rectify()?;
        command.args(["train", name, "--config"]).arg(&config).arg("--policy").arg(recipe.path("policy"));
        command.arg("--data").arg(recipe.path(method.data())).arg("--output").arg(&output);
        command.args(["--seed", &seed.to_string()]);
        if method.takes_reward() {
            command.arg("--reward").arg(format!("model:{}", recipe.path("reward").display()));
        }
        let start = Instant::now();
        call(command)?;
        let seconds = start.elapsed().as_secs_f64();
        let log = read_lines(&output.join("train_log.jsonl"))?;
        let measured = measure(&recipe.path("policy"), Some(&output), items)?;
        let run = Run { seed, measured, seconds, log };
        write_json(&done, &json!(run))?;
        Ok(run)
    }
}

/// Thumbs on each prompt's answers.
const THUMBS: usize = 2;
