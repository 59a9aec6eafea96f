//! `rectify generate`: best-of-N over a file of prompts. Leaves order and crash safety to `pipeline`, formats to
//! `output`.

mod output;
mod pipeline;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use futures::StreamExt;
use rectify_engine::SamplingParams;
use rectify_engine::alignment::Alignment;
use rectify_engine::request::Event;
use rectify_feedback::{JsonlReader, JsonlWriter};

use self::pipeline::Prompt;
use super::candidates::{Collector, Outcome};
use super::local::{Local, engine_messages};
use super::progress::{Progress, clock};
use super::{CliError, ModelArgs, ProgressMode, SamplingArgs, interrupt, random};
use crate::api::alignment::AlignmentRequest;

pub(crate) use output::widen;

/// Options of `rectify generate`.
#[derive(Clone, Debug, clap::Args)]
pub struct GenerateArgs {
    /// Prompts: JSON lines with `prompt` or `messages`. A plain `prompt` is one user turn.
    #[arg(short, long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where the answers go, one line per prompt, in the order of the prompts.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Candidates per prompt.
    #[arg(short, long, default_value_t = 16, value_parser = super::args::positive, value_name = "N")]
    pub n: usize,
    /// How the candidates are spent and chosen: best_of_n, speculative_rejection, adaptive, blockwise, mbr, majority or
    /// tournament.
    #[arg(long, value_name = "NAME")]
    pub strategy: Option<String>,
    /// The fields of the API's `alignment` object as JSON, such as '{"select": "softmax", "reward": "helpful"}'.
    #[arg(long, value_name = "JSON", value_parser = alignment)]
    pub alignment: Option<AlignmentRequest>,
    /// What to write of the candidates.
    #[arg(long, value_enum, default_value_t)]
    pub keep: Keep,
    /// Do one of K consecutive parts of the prompts, from 0 on, so that K machines share the file.
    #[arg(long, value_name = "I/K")]
    pub shard: Option<Shard>,
    /// Go on where an earlier run of the same command stopped.
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Start again although the output exists.
    #[arg(long)]
    pub overwrite: bool,
    /// How answers are drawn. The default seed is 0: the same command writes the same file.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Models.
    #[command(flatten)]
    pub model: ModelArgs,
}

impl GenerateArgs {
    /// `-n`, `--strategy` and `--alignment` as one.
    fn alignment_request(&self) -> Result<AlignmentRequest, CliError> {
        let given = self.alignment.clone().unwrap_or_default();
        let clash = |flag: &str, field: &str| {
            Err(CliError::Usage(format!("--alignment: `{field}` is also given by {flag}; name it once")))
        };
        match (given.n, &given.strategy, &self.strategy) {
            (Some(n), ..) if n != self.n => clash("-n", "n"),
            (_, Some(_), Some(_)) => clash("--strategy", "strategy"),
            _ if given.seed.is_some() => clash("--seed", "seed"),
            _ => {
                let strategy = self.strategy.clone().or(given.strategy);
                Ok(AlignmentRequest { n: Some(self.n), strategy, ..given })
            }
        }
    }
}

/// The `alignment` object of a request.
fn alignment(json: &str) -> Result<AlignmentRequest, String> {
    let value: serde_yaml_ng::Value =
        serde_json::from_str(json).map_err(|error| format!("not JSON: {error}"))?;
    let schema = schemars::schema_for!(AlignmentRequest).to_value();
    rectify_trainer::unknown::check(&value, &schema)?;
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// What is written for each prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Keep {
    /// The conversation with the best answer: `messages`, ready for SFT.
    #[default]
    Best,
    /// The best and the worst answer: `prompt`, `chosen`, `rejected`, with their rewards; prompts whose answers tie
    /// are left out.
    Pairs,
    /// Every candidate with its reward, logprob, tokens and finish reason.
    All,
}

/// One of `of` equal parts of a file, written `I/K` with `I` from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which part, below `of`.
    pub index: u64,
    /// How many parts.
    pub of: u64,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(i, k)| Some((i.parse().ok()?, k.parse().ok()?)));
        match parts {
            Some((index, of)) if index < of => Ok(Self { index, of }),
            _ => Err("write I/K with I below K, such as 0/4 for the first of four".to_owned()),
        }
    }
}

pub(crate) fn run(args: GenerateArgs, mode: ProgressMode) -> Result<(), CliError> {
    let prompts = read(&args.input)?;
    let prompts = pipeline::shard(&prompts, args.shard);
    refuse_to_overwrite(&args)?;
    let local = Local::start(&args.model, mode)?;
    let sampling = local.sampling(&args.sampling, args.n)?;
    if args.keep == Keep::Pairs || (args.keep == Keep::Best && args.n > 1) {
        local.require_reward("choosing among candidates")?;
    }
    let wanted = args.alignment_request()?;
    let is_scored = !local.rewards.is_empty() || wanted.strategy.is_some() || args.alignment.is_some();
    let alignment = is_scored.then(|| local.alignment(&wanted)).transpose()?;
    let job = Job { args: &args, local: &local, sampling, alignment, num_tokens: Cell::new(0) };
    for prompt in prompts {
        job.request(prompt)?;
    }
    let (mut writer, left) = if args.resume {
        pipeline::resume(&args.output, args.keep, prompts)?
    } else {
        (JsonlWriter::create(&args.output).map_err(|error| CliError::Usage(error.to_string()))?, prompts)
    };
    let done = (prompts.len() - left.len()) as u64;
    let mut progress = Progress::new(mode, "prompts", prompts.len() as u64, done);
    let outcome = super::runtime()?.block_on(job.run(left, done, &mut writer, &mut progress));
    let (tally, seconds) = (outcome?, progress.elapsed());
    progress.finish(&tally.summary(&args, job.num_tokens.get(), seconds));
    writer.sync().map_err(|error| CliError::Usage(error.to_string()))?;
    if tally.interrupted {
        let (done, total, output) = (done + tally.prompts, prompts.len(), args.output.display());
        return Err(CliError::Interrupted(format!(
            "{done} of {total} prompts are in {output}, and the same command with --resume goes on from there"
        )));
    }
    Ok(())
}

/// All prompts; the first bad line ends the command before any work is spent.
fn read(path: &Path) -> Result<Vec<Prompt>, CliError> {
    let usage = |error: rectify_feedback::FeedbackError| CliError::Usage(error.to_string());
    let prompts: Vec<Prompt> =
        JsonlReader::open(path).map_err(usage)?.collect::<Result<_, _>>().map_err(usage)?;
    if prompts.is_empty() {
        return Err(CliError::Usage(format!(
            "{}: the file has no prompts, but needs at least one",
            path.display()
        )));
    }
    Ok(prompts)
}

fn refuse_to_overwrite(args: &GenerateArgs) -> Result<(), CliError> {
    let size = std::fs::metadata(&args.output).map_or(0, |file| if file.is_file() { file.len() } else { 0 });
    let same = || Some(args.input.canonicalize().ok()? == args.output.canonicalize().ok()?);
    let output = args.output.display();
    if same() == Some(true) {
        return Err(CliError::Usage(format!("--output: {output} is the input; choose another file")));
    }
    if size > 0 && !args.resume && !args.overwrite {
        return Err(CliError::Usage(format!(
            "--output: {output} exists; add --resume to go on with it or --overwrite to start again"
        )));
    }
    Ok(())
}

/// Everything the answers of a run share.
struct Job<'a> {
    args: &'a GenerateArgs,
    local: &'a Local,
    sampling: SamplingParams,
    alignment: Option<Alignment>,
    /// Tokens generated so far.
    num_tokens: Cell<u64>,
}

impl Job<'_> {
    /// The request of one prompt.
    fn request(&self, prompt: &Prompt) -> Result<rectify_engine::GenerateRequest, CliError> {
        let seed = random::mix(self.args.sampling.seed.unwrap_or(0), prompt.number);
        let sampling = SamplingParams { seed: Some(seed), ..self.sampling.clone() };
        let messages = engine_messages(prompt.record.prompt.to_messages("user"));
        self.local.request(messages, self.args.n, self.alignment.clone(), sampling).map_err(|error| {
            CliError::Usage(format!("{}:{}: {error}", self.args.input.display(), prompt.number))
        })
    }

    async fn answer(&self, prompt: &Prompt) -> Result<Outcome, CliError> {
        let mut events = self.local.engine.generate(self.request(prompt)?).await?;
        let mut collector = Collector::new(self.args.n);
        while let Some(event) = events.next().await {
            if matches!(event, Event::Token { .. }) {
                self.num_tokens.set(self.num_tokens.get() + 1);
            }
            if let Some(outcome) = collector.take(event)? {
                return Ok(outcome);
            }
        }
        Err(rectify_engine::EngineError::Shutdown.into())
    }

    /// Answers prompts until all are done or Ctrl-C; every line is written when its turn has come.
    async fn run(
        &self,
        prompts: &[Prompt],
        done: u64,
        writer: &mut JsonlWriter,
        progress: &mut Progress,
    ) -> Result<Tally, CliError> {
        let in_flight = pipeline::in_flight(self.args.n, self.local.max_num_seqs).min(self.local.max_waiting);
        let mut answers = pin!(pipeline::answers(prompts, in_flight, |prompt| self.answer(prompt)));
        let mut stop = pin!(interrupt::signal());
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        let mut tally = Tally::default();
        loop {
            tokio::select! {
                biased;
                () = &mut stop => {
                    tally.interrupted = true;
                    return Ok(tally);
                }
                next = answers.next() => {
                    let Some((prompt, outcome)) = next else { return Ok(tally) };
                    let outcome = outcome?;
                    let line = output::fields(self.args.keep, prompt.number, &prompt.record, &outcome);
                    tally.add(prompt, &outcome, line.is_some(), progress);
                    if let Some(fields) = line {
                        writer.write(&fields).map_err(|error| CliError::Usage(error.to_string()))?;
                    }
                }
                _ = tick.tick() => {}
            }
            progress.update(done + tally.prompts, |elapsed| {
                format!("{:.0} tokens/s", self.num_tokens.get() as f64 / elapsed.as_secs_f64().max(1e-9))
            });
        }
    }
}

/// What a run has done so far.
#[derive(Debug, Default)]
struct Tally {
    prompts: u64,
    lines: u64,
    unscored: u64,
    /// Sums over prompts of the best and of the mean reward, and how many prompts have one.
    best_reward: f64,
    mean_reward: f64,
    rewarded: u64,
    interrupted: bool,
}

impl Tally {
    fn add(&mut self, prompt: &Prompt, outcome: &Outcome, written: bool, progress: &Progress) {
        self.prompts += 1;
        self.lines += u64::from(written);
        if let Some(reason) = &outcome.scoring_failure {
            self.unscored += 1;
            // One line says it; the count comes at the end.
            if self.unscored == 1 {
                progress.say(&format!("warning: line {}: scoring failed: {reason}", prompt.number));
            }
        }
        let ended = outcome.candidates.iter().filter(|candidate| candidate.finish_reason.is_some());
        let rewards: Vec<f64> = ended.filter_map(|candidate| candidate.reward).map(f64::from).collect();
        let winner = output::winner(outcome).and_then(|index| outcome.candidates[index].reward);
        if let Some(best) = winner.map(f64::from) {
            self.rewarded += 1;
            self.best_reward += best;
            self.mean_reward += rewards.iter().sum::<f64>() / rewards.len() as f64;
        }
    }

    fn summary(&self, args: &GenerateArgs, num_tokens: u64, elapsed: Duration) -> String {
        if self.prompts == 0 && !self.interrupted {
            return format!("every prompt was answered before; {} is complete", args.output.display());
        }
        let speed = num_tokens as f64 / elapsed.as_secs_f64().max(1e-9);
        let mut text = format!(
            "{} prompts × {} candidates in {}, {speed:.0} tokens/s; {} lines in {}",
            self.prompts,
            args.n,
            clock(elapsed),
            self.lines,
            args.output.display()
        );
        if self.rewarded > 0 {
            let mean = |sum: f64| sum / self.rewarded as f64;
            let (best, all) = (mean(self.best_reward), mean(self.mean_reward));
            text += &format!("; mean reward {best:.3} of the best, {all:.3} of all");
        }
        if self.lines < self.prompts {
            text += &format!("; {} prompts gave no pair, their candidates tie", self.prompts - self.lines);
        }
        if self.unscored > 0 {
            text += &format!("; scoring failed for {}", self.unscored);
        }
        text
    }
}
