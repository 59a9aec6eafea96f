//! `rectify train`: runs a method, draws its progress, saves on Ctrl-C. Leaves settings to `settings` and training to
//! `rectify_trainer`.

mod args;
mod settings;

use std::io::Write;

use rectify_trainer::{Control, Progress as TrainProgress, TrainError, TrainReport};

pub use args::{TrainArgs, TrainCommand};

use serde_json::Value;

use super::progress::Progress;
use super::{CliError, ProgressMode, interrupt};

pub(crate) fn run(command: TrainCommand, mode: ProgressMode) -> Result<(), CliError> {
    let stop = interrupt::flag()?;
    let mut view = View { mode, bar: None, total_steps: 0, tokens: 0, seconds: 0.0 };
    let mut progress = |event: &TrainProgress| view.show(event);
    let mut control = Control { progress: &mut progress, stop: &stop };
    let (json, outcome) = match command {
        TrainCommand::Sft(args) => {
            let config = settings::sft(&args)?;
            (args.json, rectify_trainer::train_sft(&config, &mut control))
        }
        TrainCommand::Reward(args) => {
            let config = settings::reward(&args)?;
            (args.json, rectify_trainer::train_reward(&config, &mut control))
        }
    };
    view.close();
    let report = outcome.map_err(train_error)?;
    if json {
        print_json(&report)?;
    }
    conclude(&report, view.total_steps)
}

/// The last words, and 130 if the run was stopped.
fn conclude(report: &TrainReport, total_steps: usize) -> Result<(), CliError> {
    let (steps, output) = (report.steps, report.output_dir.display());
    if report.stopped {
        return Err(CliError::Interrupted(format!(
            "step {steps} of {total_steps} is saved in {output}, and the same command with --resume goes on from it"
        )));
    }
    let metrics = report.metrics.iter().filter(|(name, _)| *name != "step");
    let metrics: String = metrics.map(|(name, value)| format!(", {name} {}", short(value))).collect();
    let speed = report.tokens_per_second;
    // A closed standard error is no failure of the training.
    let _ = writeln!(
        std::io::stderr().lock(),
        "{steps} steps at {speed:.0} tokens/s{metrics}; saved in {output}"
    );
    Ok(())
}

/// A metric for people: four significant digits; the log has them all.
fn short(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if number.fract() == 0.0 => value.to_string(),
        Some(number) if (1e-3..1e5).contains(&number.abs()) => {
            let digits = 3 - number.abs().log10().floor() as i32;
            format!("{number:.*}", digits.max(0) as usize)
        }
        Some(number) => format!("{number:.3e}"),
        None => value.to_string(),
    }
}

fn print_json(report: &TrainReport) -> Result<(), CliError> {
    let line = serde_json::to_string(report).map_err(|error| CliError::Refused(error.to_string()))?;
    writeln!(std::io::stdout().lock(), "{line}").map_err(|error| CliError::stdout(&error))
}

fn train_error(error: TrainError) -> CliError {
    match error {
        TrainError::NotFinite { .. } | TrainError::RewardAccuracy { .. } => {
            CliError::Refused(error.to_string())
        }
        TrainError::Engine(error) => CliError::Engine(error),
        other => CliError::Usage(other.to_string()),
    }
}

/// Progress of the run on standard error.
struct View {
    mode: ProgressMode,
    bar: Option<Progress>,
    total_steps: usize,
    tokens: usize,
    seconds: f64,
}

impl View {
    fn show(&mut self, event: &TrainProgress) {
        match event {
            TrainProgress::Started(info) => {
                self.total_steps = info.total_steps;
                self.say(&format!(
                    "{} examples, {} held out; {} of {} weights are trained",
                    info.num_examples,
                    info.num_eval_examples,
                    info.num_trainable_parameters,
                    info.num_parameters
                ));
                let (total, done) = (info.total_steps as u64, info.resumed_steps as u64);
                self.bar = Some(Progress::new(self.mode, "steps", total, done));
            }
            TrainProgress::Step(step) => {
                self.tokens += step.num_tokens;
                self.seconds += step.seconds;
                let speed = self.tokens as f64 / self.seconds.max(1e-9);
                if let Some(bar) = &mut self.bar {
                    let message = |_| format!("loss {:.4}, {speed:.0} tokens/s", step.loss);
                    bar.update(step.step as u64, message);
                }
            }
            TrainProgress::Log(metrics) => {
                // Only evaluations: the bar already shows the loss, and the file has everything.
                if metrics.keys().any(|name| name.starts_with("eval_")) {
                    let text: Vec<String> =
                        metrics.iter().map(|(name, value)| format!("{name} {}", short(value))).collect();
                    self.say(&text.join(", "));
                }
            }
            TrainProgress::Evaluating { done, total } => {
                if let Some(bar) = &self.bar {
                    bar.note(&format!("evaluating {done}/{total}"));
                }
            }
            TrainProgress::Saved(path) => self.say(&format!("saved {}", path.display())),
            TrainProgress::Warning(sentence) => self.say(&format!("warning: {sentence}")),
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.say(line),
            None => {
                let _ = writeln!(std::io::stderr().lock(), "{line}");
            }
        }
    }

    fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish("");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metrics_read_well() {
        for (value, text) in [
            (json!(6.477117117262228), "6.477"),
            (json!(0.0123456), "0.01235"),
            (json!(1234.56), "1235"),
            (json!(2e-5), "2.000e-5"),
            (json!(185), "185"),
            (json!(1.0), "1.0"),
            (json!("x"), "\"x\""),
        ] {
            assert_eq!(short(&value), text);
        }
    }
}
