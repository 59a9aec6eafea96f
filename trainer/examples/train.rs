//! Runs a training from a JSON configuration.
use std::io::Write;
use std::sync::atomic::AtomicBool;

use rectify_trainer::*;

fn main() {
    let mut args = std::env::args().skip(1);
    let (method, path) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let stop = AtomicBool::new(false);
    let mut err = std::io::stderr();
    let mut progress = |event: &Progress| {
        if !matches!(event, Progress::Step(_)) {
            let _ = writeln!(err, "{event:?}");
        }
    };
    let mut control = Control { progress: &mut progress, stop: &stop };
    let report = match method.as_str() {
        "sft" => serde_json::from_str(&text).map(|config| train_sft(&config, &mut control)),
        _ => serde_json::from_str(&text).map(|config| train_reward(&config, &mut control)),
    };
    let _ = match report {
        Ok(Ok(report)) => writeln!(std::io::stderr(), "{report:?}"),
        Ok(Err(error)) => writeln!(std::io::stderr(), "error: {error}"),
        Err(error) => writeln!(std::io::stderr(), "bad configuration: {error}"),
    };
}
