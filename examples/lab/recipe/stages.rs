//! The recipe's stages, from a seed to the installed demo. Each reads and writes files in one folder, so that a run can
//! go on from any of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};
use rectify_lab::data::{
    Answers, cut_pairs, graded_pairs, pairs, preference_prompts_of, prompts_of, sft_examples,
};
use rectify_lab::tokenizer::{self, write_json};
use rectify_lab::{Split, World};
use serde_json::json;

use crate::evaluate::{SIZES, evaluate};
use crate::files::{Generated, prompt_line, read_lines, turn, write_lines};
use crate::{blocks, report};

const SFT: &str = include_str!("sft.yaml");
const REWARD: &str = include_str!("reward.yaml");
const POLICY_FILES: [&str; 6] = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
];
const REWARD_FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];
/// What the demo may weigh in the repository and in the binary.
const MAX_BYTES: u64 = 12_000_000;

/// Settings of the recipe. The defaults are those of the committed demo.
#[derive(clap::Args)]
pub(crate) struct Recipe {
    /// Folder for everything that is made.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// What it is made for; the folder then holds policy and reward model of that world.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) world: World,
    /// Decides everything that is random.
    #[arg(long, default_value_t = 7)]
    pub(crate) seed: u64,
    /// The `rectify` program; without it, the one beside this program, built if need be.
    #[arg(long, value_name = "FILE")]
    pub(crate) rectify: Option<PathBuf>,
    /// Examples of SFT text.
    #[arg(long, default_value_t = 100_000, default_value_if("world", "letters", "9000"))]
    pub(crate) examples: usize,
    /// Tokens of the vocabulary, at most.
    #[arg(long, default_value_t = 1024)]
    pub(crate) vocab: usize,
    /// Training prompts whose answers become pairs.
    #[arg(long, default_value_t = 8_000, default_value_if("world", "letters", "1000"))]
    pub(crate) preference_prompts: usize,
    /// Answers sampled to each of them.
    #[arg(long, default_value_t = 16, default_value_if("world", "letters", "8"))]
    pub(crate) samples: usize,
    /// Pairs made of each of them.
    #[arg(long, default_value_t = 12, default_value_if("world", "letters", "8"))]
    pub(crate) pairs: usize,
    /// Share of pairs of which only the first words are left, so that a part of an answer ranks as the whole will.
    #[arg(long, default_value_t = 0.0, default_value_if("world", "letters", "0.6"))]
    pub(crate) prefixes: f64,
    /// Share of pairs with the wrong label.
    #[arg(long, default_value_t = 0.05)]
    pub(crate) noise: f64,
    /// Held-out prompts of each category.
    #[arg(long, default_value_t = 40)]
    pub(crate) eval_prompts: usize,
}

/// A stage of the recipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Stage {
    /// SFT text, prompts, tokenizer.
    #[default]
    Data,
    /// The policy, by `rectify train sft`.
    Policy,
    /// The policy's answers to training prompts, by `rectify generate`.
    Sample,
    /// Pairs of them, labelled by the oracle with noise.
    Pairs,
    /// The reward model, by `rectify train reward`.
    Reward,
    /// Scored answers to held-out prompts, by `rectify generate`.
    Answers,
    /// Measurements and the report.
    Report,
}

const STAGES: [Stage; 7] =
    [Stage::Data, Stage::Policy, Stage::Sample, Stage::Pairs, Stage::Reward, Stage::Answers, Stage::Report];

impl Recipe {
    /// Runs the stages from `from` on.
    pub(crate) fn run(&self, from: Stage) -> anyhow::Result<()> {
        STAGES.into_iter().filter(|stage| *stage >= from).try_for_each(|stage| self.run_one(stage))
    }

    /// Runs one stage and notes how long it took.
    pub(crate) fn run_one(&self, stage: Stage) -> anyhow::Result<()> {
        fs::create_dir_all(&self.out).with_context(|| format!("cannot create {}", self.out.display()))?;
        let start = Instant::now();
        match stage {
            Stage::Data => self.data(),
            Stage::Policy => self.policy(),
            Stage::Sample => self.sample(),
            Stage::Pairs => self.pairs(),
            Stage::Reward => self.reward(),
            Stage::Answers => self.answers(),
            Stage::Report => self.report(),
        }?;
        let mut durations = self.durations();
        durations.insert(format!("{stage:?}").to_lowercase(), start.elapsed().as_secs_f64());
        write_json(&self.path("durations.json"), &json!(durations))
    }

    /// Seconds of each stage that ran in this folder.
    pub(crate) fn durations(&self) -> BTreeMap<String, f64> {
        let text = fs::read_to_string(self.path("durations.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// A file of the run.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    fn data(&self) -> anyhow::Result<()> {
        let examples = sft_examples(self.world, self.examples, self.seed);
        let line = |question: &str, answer: &str| json!({"messages": [turn("user", question), turn("assistant", answer)]});
        let lines = examples.iter().map(|e| line(&e.item.prompt, &e.answer));
        write_lines(&self.path("sft.jsonl"), lines)?;
        let init = self.path("init");
        let texts = examples.iter().flat_map(|e| [e.item.prompt.as_str(), e.answer.as_str()]);
        let roles = ["user", "assistant", "system"];
        let texts: Vec<&str> = texts.chain(roles.repeat(100)).collect();
        let vocab_size = tokenizer::train(texts.into_iter(), self.vocab, self.world.max_new_tokens(), &init)?;
        write_json(&init.join("config.json"), &report::model_config(vocab_size))?;
        let eval = prompts_of(self.world, Split::HeldOut, self.eval_prompts, self.seed, "report")?;
        write_lines(&self.path("eval.jsonl"), eval.iter().map(prompt_line))?;
        let train = preference_prompts_of(self.world, self.preference_prompts, self.seed);
        write_lines(&self.path("preference_prompts.jsonl"), train.iter().map(prompt_line))
    }

    fn policy(&self) -> anyhow::Result<()> {
        self.train("sft", SFT, "--init", "init", "sft.jsonl", "policy")?;
        // The tokenizer's files belong to the model, whichever of them the trainer already wrote.
        for name in POLICY_FILES {
            let (from, to) = (self.path("init").join(name), self.path("policy").join(name));
            if from.exists() && !to.exists() {
                copy(&from, &to)?;
            }
        }
        Ok(())
    }

    fn reward(&self) -> anyhow::Result<()> {
        self.train("reward", REWARD, "--policy", "policy", "pairs.jsonl", "reward")
    }

    fn train(
        &self,
        method: &str,
        config: &str,
        start: &str,
        model: &str,
        data: &str,
        output: &str,
    ) -> anyhow::Result<()> {
        let file = self.path(&format!("{method}.yaml"));
        fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = self.rectify()?;
        command.args(["train", method, "--config"]).arg(file).arg(start).arg(self.path(model));
        command.arg("--data").arg(self.path(data)).arg("--output").arg(self.path(output));
        command.args(["--seed", &self.seed.to_string()]);
        call(command)
    }

    fn sample(&self) -> anyhow::Result<()> {
        self.generate("preference_prompts.jsonl", "samples.jsonl", self.samples, false)
    }

    fn answers(&self) -> anyhow::Result<()> {
        self.generate("eval.jsonl", "eval_answers.jsonl", SIZES[SIZES.len() - 1], true)
    }

    fn generate(&self, input: &str, output: &str, n: usize, scored: bool) -> anyhow::Result<()> {
        let mut command = self.rectify()?;
        command.arg("generate").arg("-i").arg(self.path(input)).arg("-o").arg(self.path(output));
        command.args(["--keep", "all", "-n", &n.to_string(), "--seed", &self.seed.to_string()]);
        command.args(["--max-tokens", &self.world.max_new_tokens().to_string()]);
        command.args(["--overwrite", "--temperature", "1"]).arg("--policy").arg(self.path("policy"));
        if scored {
            command.arg("--reward").arg(format!("helpful={}", self.path("reward").display()));
        }
        call(command)
    }

    fn pairs(&self) -> anyhow::Result<()> {
        let make = match self.world {
            World::Demo => pairs,
            World::Letters => graded_pairs,
        };
        let mut pairs = make(&self.sampled()?, self.pairs, self.noise, self.seed);
        cut_pairs(&mut pairs, self.prefixes, self.seed);
        let line = |p: &rectify_lab::data::Pair| {
            json!({
                "prompt": [turn("user", &p.item.prompt)],
                "chosen": [turn("assistant", &p.chosen)],
                "rejected": [turn("assistant", &p.rejected)],
            })
        };
        write_lines(&self.path("pairs.jsonl"), pairs.iter().map(line))
    }

    /// The policy's answers to training prompts.
    pub(crate) fn sampled(&self) -> anyhow::Result<Vec<Answers>> {
        let lines: Vec<Generated> = read_lines(&self.path("samples.jsonl"))?;
        let answers = |line: Generated| Answers {
            item: line.item(),
            answers: line.candidates.into_iter().map(|c| c.text).collect(),
        };
        Ok(lines.into_iter().map(answers).collect())
    }

    fn report(&self) -> anyhow::Result<()> {
        let answers: Vec<Generated> = read_lines(&self.path("eval_answers.jsonl"))?;
        let evaluation = evaluate(&answers, self.noise, self.seed)?;
        write_json(&self.path("evaluation.json"), &serde_json::to_value(&evaluation)?)?;
        let num_pairs = read_lines::<serde_json::Value>(&self.path("pairs.jsonl"))?.len();
        // The longest prompt shows the sharing best.
        let longest =
            answers.iter().map(|line| line.item().prompt).max_by_key(String::len).unwrap_or_default();
        let blocks = blocks::measure(&self.path("policy"), &longest, SIZES[SIZES.len() - 1], 64)?;
        let text = report::markdown(self, &evaluation, num_pairs, &blocks)?;
        let path = self.path("report.md");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Copies policy, reward model and report to `target`.
    pub(crate) fn install(&self, target: &Path) -> anyhow::Result<()> {
        let mut bytes = 0;
        let policy = POLICY_FILES.map(|name| Path::new("policy").join(name));
        let reward = REWARD_FILES.map(|name| Path::new("reward").join(name));
        for name in policy.iter().chain(&reward).map(PathBuf::as_path).chain([Path::new("report.md")]) {
            let (from, to) = (self.out.join(name), target.join(name));
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
            }
            bytes += copy(&from, &to)?;
        }
        // The adapter names its base by where it was trained; installed, the two lie side by side.
        let config = target.join("reward").join(REWARD_FILES[0]);
        let text =
            fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
        let mut value: serde_json::Value = serde_json::from_str(&text)?;
        value["base_model_name_or_path"] = json!("../policy");
        write_json(&config, &value)?;
        if bytes > MAX_BYTES {
            bail!("the demo weighs {bytes} bytes, more than the {MAX_BYTES} that the repository takes");
        }
        Ok(())
    }

    /// The `rectify` command.
    pub(crate) fn rectify(&self) -> anyhow::Result<Command> {
        if let Some(program) = &self.rectify {
            return Ok(Command::new(program));
        }
        // `cargo run` names itself; building what is built costs a moment.
        if let Ok(cargo) = std::env::var("CARGO") {
            let mut build = Command::new(cargo);
            build.args(["build", "--quiet", "--release", "-p", "rectify-server", "--bin", "rectify"]);
            call(build)?;
        }
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        let program = own.parent().and_then(Path::parent).map(|folder| folder.join("rectify"));
        match program {
            Some(program) if program.exists() => Ok(Command::new(program)),
            _ => bail!("the `rectify` program is not built; name it with --rectify"),
        }
    }
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<u64> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// Runs a command to its end.
pub(crate) fn call(mut command: Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{command:?} ended with {status}") }
}
