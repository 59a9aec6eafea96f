//! Progress of long work: a bar on a terminal, a plain line now and then elsewhere. Leaves what is counted to the
//! commands.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// When to draw a progress bar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressMode {
    /// A bar if standard error is a terminal, plain lines otherwise.
    #[default]
    Auto,
    /// A bar, terminal or not.
    Always,
    /// Plain lines.
    Never,
}

impl ProgressMode {
    /// Whether there is a bar.
    pub(crate) fn is_bar(self) -> bool {
        match self {
            Self::Auto => std::io::stderr().is_terminal(),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The progress of one piece of work, on standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    total: u64,
    done: u64,
    started: Instant,
    /// Work that was done before this run, left out of the estimate of time left.
    resumed: u64,
    what: &'static str,
    message: String,
    view: View,
}

#[derive(Debug)]
enum View {
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Progress {
    /// Progress over `total` of `what` ("prompts", "steps"), of which `done` were done by an earlier run.
    pub(crate) fn new(mode: ProgressMode, what: &'static str, total: u64, done: u64) -> Self {
        let now = Instant::now();
        let view =
            if mode.is_bar() { View::Bar(new_bar(what, total, done)) } else { View::Lines { last: now } };
        Self { total, done, started: now, resumed: done, what, message: String::new(), view }
    }

    /// Notes that `done` of the total are done; `message` says what else is worth knowing (speed, loss).
    pub(crate) fn update(&mut self, done: u64, message: impl FnOnce(Duration) -> String) {
        self.done = done;
        let elapsed = self.started.elapsed();
        match &mut self.view {
            View::Bar(bar) => {
                bar.set_message(message(elapsed));
                bar.set_position(done);
            }
            View::Lines { last } => {
                if last.elapsed() < LINE_EVERY && done < self.total {
                    return;
                }
                *last = Instant::now();
                self.message = message(elapsed);
                self.line();
            }
        }
    }

    fn line(&self) {
        let left = match self.time_left() {
            Some(left) => format!(", {} left", clock(left)),
            None => String::new(),
        };
        let separator = if self.message.is_empty() { "" } else { ", " };
        let (done, total, what) = (self.done, self.total, self.what);
        // A closed standard error is no reason to stop the work.
        let _ = writeln!(std::io::stderr().lock(), "{done}/{total} {what}{separator}{}{left}", self.message);
    }

    fn time_left(&self) -> Option<Duration> {
        let (new, left) = (self.done.checked_sub(self.resumed)?, self.total.checked_sub(self.done)?);
        if new == 0 || left == 0 {
            return None;
        }
        Some(self.started.elapsed().mul_f64(left as f64 / new as f64))
    }

    /// Time since this run began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// A passing message in place of the bar's own; plain lines leave it out.
    pub(crate) fn note(&self, message: &str) {
        if let View::Bar(bar) = &self.view {
            bar.set_message(message.to_owned());
        }
    }

    /// Says a line above the bar.
    pub(crate) fn say(&self, line: &str) {
        let write = || {
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        };
        match &self.view {
            View::Bar(bar) => bar.suspend(write),
            View::Lines { .. } => write(),
        }
    }

    /// Takes the bar off the terminal, leaving `summary` in its place.
    pub(crate) fn finish(self, summary: &str) {
        if let View::Bar(bar) = &self.view {
            bar.finish_and_clear();
        }
        if !summary.is_empty() {
            let _ = writeln!(std::io::stderr().lock(), "{summary}");
        }
    }
}

fn new_bar(what: &str, total: u64, done: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8));
    let template = format!("{{bar:32}} {{pos}}/{{len}} {what}  {{msg}}  {{eta}} left");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("━╸ "));
    }
    bar.set_position(done);
    bar.reset_eta();
    bar
}

/// A duration as people read it: `42s`, `3m 05s`, `2h 07m`.
pub(crate) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m {s:02}s"),
        (h, m, _) => format!("{h}h {m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (185, "3m 05s"), (7620, "2h 07m")] {
            assert_eq!(clock(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn resumed_work_does_not_shorten_the_estimate() {
        let mut progress = Progress::new(ProgressMode::Never, "prompts", 100, 90);
        assert_eq!(progress.time_left(), None);
        progress.started -= Duration::from_secs(10);
        progress.done = 91;
        let left = progress.time_left().expect("some work is done").as_secs_f64();
        assert!((left - 90.0).abs() < 1.0, "{left}");
    }
}
