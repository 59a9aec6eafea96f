//! How a download is shown: a bar of bytes on a terminal, a plain line now and then elsewhere. Leaves counting to the
//! download.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::ProgressMode;

/// Time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// One file on its way.
#[derive(Debug)]
pub(super) struct FileProgress {
    name: String,
    bar: Option<ProgressBar>,
    done: u64,
    size: u64,
    last_line: Instant,
}

impl FileProgress {
    /// Nothing has come yet.
    pub(super) fn new(mode: ProgressMode, name: &str, size: u64) -> Self {
        let bar = mode.is_bar().then(|| new_bar(name, size));
        Self { name: name.to_owned(), bar, done: 0, size, last_line: Instant::now() }
    }
}

impl hf_hub::api::Progress for &mut FileProgress {
    /// Called at every start, from the first byte or a later one.
    fn init(&mut self, _size: usize, _filename: &str) {
        self.done = 0;
        if let Some(bar) = &self.bar {
            bar.set_position(0);
            bar.reset_eta();
        }
    }

    fn update(&mut self, bytes: usize) {
        self.done += bytes as u64;
        match &self.bar {
            Some(bar) => bar.set_position(self.done),
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                say(&format!("{}: {} of {}", self.name, HumanBytes(self.done), HumanBytes(self.size)));
            }
            None => {}
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(name: &str, size: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr_with_hz(8));
    let template = "{msg}  {bar:32} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸ "));
    }
    bar.set_message(name.to_owned());
    bar
}

/// A line on standard error; nobody reading it is no reason to stop.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
