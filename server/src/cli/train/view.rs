//! The progress of a training run on standard error. Leaves the bar itself to `progress`.

use std::io::Write;

use super::examples;
use rectify_trainer::Progress as TrainProgress;
use serde_json::Value;

use crate::cli::ProgressMode;
use crate::cli::progress::Progress;

/// What is shown of a run.
pub(super) struct View {
    mode: ProgressMode,
    bar: Option<Progress>,
    pub(super) total_steps: usize,
    /// Examples were shown, and nothing was trained.
    pub(super) was_dry: bool,
    tokens: usize,
    seconds: f64,
}

impl View {
    pub(super) fn new(mode: ProgressMode) -> Self {
        Self { mode, bar: None, total_steps: 0, was_dry: false, tokens: 0, seconds: 0.0 }
    }

    pub(super) fn show(&mut self, event: &TrainProgress) {
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
            TrainProgress::Reference { done, total } => {
                let (total, done) = (*total as u64, *done as u64);
                let bar = self.bar.get_or_insert_with(|| Progress::new(self.mode, "reference", total, 0));
                bar.update(done, |_| "asking the reference".to_owned());
                if done == total {
                    self.close();
                }
            }
            TrainProgress::Saved(path) => self.say(&format!("saved {}", path.display())),
            TrainProgress::Note(sentence) => self.say(sentence),
            TrainProgress::Example(example) => {
                self.was_dry = true;
                examples::show(example);
            }
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

    pub(super) fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish("");
        }
    }
}

/// A metric for people: four significant digits; the log has them all.
pub(super) fn short(value: &Value) -> String {
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
