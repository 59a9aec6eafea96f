//! `rectify score`: rewards for a file of answers. Leaves formats to `line`.

mod line;

use std::io::Write;
use std::path::PathBuf;
use std::pin::pin;

use futures::StreamExt;
use rectify_engine::request::{Event, ScoreInput};
use rectify_engine::{EngineError, ScoreRequest};
use rectify_feedback::{FeedbackError, JsonlReader, JsonlWriter, Line, Message};
use serde_json::{Value, json};

use self::line::{Answers, Rewards, Scorable, ScoreLine};
use super::local::{Local, engine_messages};
use super::progress::{Progress, clock};
use super::{CliError, ModelArgs, ProgressMode, interrupt};

/// Options of `rectify score`.
#[derive(Clone, Debug, clap::Args)]
pub struct ScoreArgs {
    /// JSON lines with `messages`, `prompt` and `completion`, `prompt`, `chosen` and `rejected`, or `prompt` and `candidates`.
    #[arg(short, long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where the lines go with their rewards added, in the order of the input.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Print the summary as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Models. With several rewards, the first is `reward` and all are in `rewards`.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Lines scored at once: enough to fill a batch, few enough that their prompts stay in the cache.
const IN_FLIGHT: usize = 64;

pub(crate) fn run(args: ScoreArgs, mode: ProgressMode) -> Result<(), CliError> {
    let usage = |error: FeedbackError| CliError::Usage(error.to_string());
    let lines: Vec<Line<ScoreLine>> =
        JsonlReader::open(&args.input).map_err(usage)?.collect::<Result<_, _>>().map_err(usage)?;
    if args.input.canonicalize().ok().is_some_and(|input| args.output.canonicalize().ok() == Some(input)) {
        let output = args.output.display();
        return Err(CliError::Usage(format!("--output: {output} is the input; choose another file")));
    }
    let local = Local::start(&args.model, mode)?;
    local.require_reward("scoring")?;
    let writer = JsonlWriter::create(&args.output).map_err(usage)?;
    let progress = Progress::new(mode, "lines", lines.len() as u64, 0);
    let mut job = Job { args: &args, local: &local, writer, progress, tally: Tally::default() };
    let interrupted = super::runtime()?.block_on(job.run(&lines))?;
    let Job { writer, progress, tally, .. } = job;
    writer.sync().map_err(usage)?;
    let elapsed = progress.elapsed();
    progress.finish("");
    if args.json {
        writeln!(std::io::stdout().lock(), "{}", tally.json(elapsed.as_secs_f64()))
    } else {
        writeln!(std::io::stdout().lock(), "{} in {}", tally.sentence(), clock(elapsed))
    }
    .map_err(|error| CliError::stdout(&error))?;
    if interrupted {
        let (done, total) = (tally.lines, lines.len());
        return Err(CliError::Interrupted(format!(
            "{done} of {total} lines are in {}",
            args.output.display()
        )));
    }
    match tally.first_failure {
        Some(reason) if tally.rewards.is_empty() => Err(CliError::Refused(reason)),
        _ => Ok(()),
    }
}

struct Job<'a> {
    args: &'a ScoreArgs,
    local: &'a Local,
    writer: JsonlWriter,
    progress: Progress,
    tally: Tally,
}

impl Job<'_> {
    /// Scores every line and writes it in its turn; true if Ctrl-C came first.
    async fn run(&mut self, lines: &[Line<ScoreLine>]) -> Result<bool, CliError> {
        let local = self.local;
        // A line may be two requests.
        let in_flight = IN_FLIGHT.min(local.max_waiting.div_ceil(2));
        let scores = futures::stream::iter(lines)
            .map(|line| async move { (line, line_rewards(local, &line.record.answers).await) })
            .buffered(in_flight);
        let (mut scores, mut stop) = (pin!(scores), pin!(interrupt::signal()));
        loop {
            let (line, scored) = tokio::select! {
                biased;
                () = &mut stop => return Ok(true),
                next = scores.next() => match next {
                    Some(scored) => scored,
                    None => return Ok(false),
                },
            };
            let (rewards, failure) = scored?;
            if let Some(reason) = failure {
                self.tally
                    .fail(format!("{}:{}: {reason}", self.args.input.display(), line.number), &self.progress);
            }
            self.tally.add(&line.record.answers, &rewards);
            let fields = line.record.with_rewards(&self.local.rewards, &rewards);
            self.writer.write(&fields).map_err(|error| CliError::Usage(error.to_string()))?;
            self.progress.update(self.tally.lines, |elapsed| {
                format!("{:.1} lines/s", self.tally.lines as f64 / elapsed.as_secs_f64().max(1e-9))
            });
        }
    }
}

/// Rewards of each answer by each reward model, and why the first one missing is.
async fn line_rewards(
    local: &Local,
    answers: &Answers,
) -> Result<(Vec<Rewards>, Option<EngineError>), EngineError> {
    let answers: Vec<&Scorable> = answers.iter().collect();
    let (mut rewards, mut failure) = (vec![Rewards::new(); answers.len()], None);
    for name in &local.rewards {
        let found: Vec<Result<f32, EngineError>> = if local.models.comparing.iter().any(|n| **n == **name) {
            match compared(local, name, &answers).await {
                Ok(found) => found.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error); answers.len()],
            }
        } else {
            let alone = answers.iter().map(|answer| async move {
                let found = score(local, name, &answer.messages, vec![answer.answer.clone()]).await?;
                found.into_iter().next().ok_or(EngineError::Shutdown)
            });
            futures::stream::iter(alone).buffered(2).collect().await
        };
        for (rewards, found) in rewards.iter_mut().zip(found) {
            match found {
                Ok(reward) => rewards.push(Some(reward)),
                // A line that one model cannot read is no reason to stop; an engine that is gone is.
                Err(EngineError::Shutdown) => return Err(EngineError::Shutdown),
                Err(error) => {
                    rewards.push(None);
                    failure = failure.or(Some(error));
                }
            }
        }
    }
    Ok((rewards, failure))
}

/// Rewards of the answers of a line by a reward model that compares them.
async fn compared(local: &Local, name: &str, answers: &[&Scorable]) -> Result<Vec<f32>, EngineError> {
    let Some((first, others)) = answers.split_first() else { return Ok(Vec::new()) };
    if others.iter().any(|other| other.messages != first.messages) {
        let message =
            format!("the reward model `{name}` compares answers to one conversation, but these are to two");
        return Err(EngineError::invalid("messages", message));
    }
    let texts = answers.iter().map(|answer| answer.answer.clone()).collect();
    score(local, name, &first.messages, texts).await
}

async fn score(
    local: &Local,
    name: &str,
    messages: &[Message],
    candidates: Vec<String>,
) -> Result<Vec<f32>, EngineError> {
    let mut found = vec![None; candidates.len()];
    let input = ScoreInput::Candidates { messages: engine_messages(messages.to_vec()).into(), candidates };
    let request = ScoreRequest { reward: Some(name.to_owned()), input, priority: 0 };
    let mut events = local.engine.score(request).await?;
    while let Some(event) = events.next().await {
        match event {
            Event::Scored { index, reward } if reward.is_nan() => {
                let message = format!("the reward of answer {index} is not a number");
                return Err(EngineError::Execution(message));
            }
            Event::Scored { index, reward } => found[index] = Some(reward),
            Event::Failed(error) => return Err(error),
            Event::Done(_) => break,
            _ => {}
        }
    }
    found.into_iter().map(|reward| reward.ok_or(EngineError::Shutdown)).collect()
}

/// What was scored so far, by the first reward model.
#[derive(Debug, Default)]
struct Tally {
    lines: u64,
    rewards: Vec<f64>,
    pairs: u64,
    correct: u64,
    failed: u64,
    first_failure: Option<String>,
}

impl Tally {
    fn add(&mut self, answers: &Answers, rewards: &[Rewards]) {
        self.lines += 1;
        let first: Vec<Option<f32>> =
            rewards.iter().map(|of_answer| of_answer.first().copied().flatten()).collect();
        self.rewards.extend(first.iter().flatten().map(|&reward| f64::from(reward)));
        if let (Answers::Pair { .. }, [Some(chosen), Some(rejected)]) = (answers, &first[..]) {
            self.pairs += 1;
            self.correct += u64::from(chosen > rejected);
        }
    }

    fn fail(&mut self, reason: String, progress: &Progress) {
        self.failed += 1;
        if self.first_failure.is_none() {
            progress.say(&format!("warning: {reason}"));
            self.first_failure = Some(reason);
        }
    }

    fn mean(&self) -> Option<f64> {
        (!self.rewards.is_empty()).then(|| self.rewards.iter().sum::<f64>() / self.rewards.len() as f64)
    }

    fn accuracy(&self) -> Option<f64> {
        (self.pairs > 0).then(|| self.correct as f64 / self.pairs as f64)
    }

    fn json(&self, seconds: f64) -> Value {
        json!({
            "lines": self.lines, "mean_reward": self.mean(), "pairs": self.pairs, "accuracy": self.accuracy(),
            "failed": self.failed, "duration_s": seconds,
        })
    }

    fn sentence(&self) -> String {
        let mut text = format!("{} lines", self.lines);
        if let Some(mean) = self.mean() {
            text += &format!(", mean reward {mean:.4}");
        }
        if let Some(accuracy) = self.accuracy() {
            text += &format!(", accuracy {:.1} % of {} pairs", 100.0 * accuracy, self.pairs);
        }
        if self.failed > 0 {
            text += &format!(", {} not scored", self.failed);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rectify_feedback::jsonl::parse;

    #[test]
    fn accuracy_counts_pairs_whose_chosen_scores_higher() {
        let line: ScoreLine = parse(r#"{"prompt":"q","chosen":"a","rejected":"b"}"#).expect("valid");
        let mut tally = Tally::default();
        for (chosen, rejected) in [(1.0, 0.0), (0.0, 1.0), (2.0, 2.0), (3.0, -1.0)] {
            tally.add(&line.answers, &[vec![Some(chosen)], vec![Some(rejected)]]);
        }
        tally.add(&line.answers, &[vec![Some(1.0)], vec![None]]);
        assert_eq!((tally.lines, tally.pairs, tally.accuracy()), (5, 4, Some(0.5)));
        assert_eq!(tally.sentence(), "5 lines, mean reward 1.0000, accuracy 50.0 % of 4 pairs");
    }
}
