//! `rectify eval`: runs a suite on a candidate and shows the report. Leaves the checks to the trainer's gate.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rectify_engine::AdapterRef;
use rectify_trainer::gate::{self, Bench, GateControl, GateError, GateProgress, GateReport, Subject, Suite};

use super::progress::{Progress, clock};
use super::{CliError, ModelArgs, NamedDir, ProgressMode, interrupt};
use crate::boot::{self, Booted};
use crate::config::{AdapterSection, Config};
use crate::demo;

/// Options of `rectify eval`.
#[derive(Clone, Debug, clap::Args)]
pub struct EvalArgs {
    /// The suite; by default the configuration's, or the demo's own for the demo.
    #[arg(long, value_name = "FILE")]
    pub suite: Option<PathBuf>,
    /// The adapter to compare with; by default the policy with adapters off.
    #[arg(long, value_name = "NAME=DIR")]
    pub baseline: Option<NamedDir>,
    /// The reward model that the candidate was trained on: another one judges where there is one.
    #[arg(long, value_name = "NAME")]
    pub training_reward: Option<String>,
    /// Print the report as JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Write report.json and report.html into this folder.
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Models; the first adapter is the candidate.
    #[command(flatten)]
    pub model: ModelArgs,
}

pub(crate) fn run(args: EvalArgs, mode: ProgressMode) -> Result<(), CliError> {
    let mut config = boot::configure(&args.model)?;
    let suite = suite(&args, &config)?;
    let candidate = args.model.adapters.first();
    if let Some(baseline) = &args.baseline {
        if candidate.is_some_and(|candidate| candidate.name == baseline.name) {
            let name = &baseline.name;
            return Err(CliError::Usage(format!(
                "--baseline has the candidate's name `{name}`; give it another, as --baseline old={}",
                baseline.path.display()
            )));
        }
        config
            .adapters
            .insert(baseline.name.clone(), AdapterSection { path: baseline.path.clone(), policy: None });
    }
    let stop = interrupt::flag()?;
    // A model that cannot be loaded is no verdict: exit 2, whatever is wrong.
    let Booted { engine, models, .. } =
        boot::start_one(&config, None, mode).map_err(|error| CliError::Usage(error.to_string()))?;
    let subject = |adapter: Option<&NamedDir>| match adapter {
        Some(NamedDir { name, .. }) => {
            Subject { label: name.clone(), adapter: Some(AdapterRef::Named(name.clone())) }
        }
        None => Subject { label: format!("{}@base", models.policy_name), adapter: None },
    };
    let (candidate, baseline) = (subject(candidate), subject(args.baseline.as_ref()));
    let bench = Bench { engine, models, training_reward: args.training_reward.clone() };
    let report = evaluate(&suite, &bench, candidate, baseline, mode, &stop)?;
    if let Some(folder) = &args.report {
        write(folder, &report)?;
    }
    let shown = if args.json { json(&report)? } else { report.table() };
    std::io::stdout().lock().write_all(shown.as_bytes()).map_err(|error| CliError::stdout(&error))?;
    if report.passed() {
        return Ok(());
    }
    Err(CliError::Refused(format!(
        "{} has not passed the suite {}: {}",
        report.candidate,
        report.suite,
        report.reasons()
    )))
}

/// The suite of the options, else the configuration's, else the demo's.
fn suite(args: &EvalArgs, config: &Config) -> Result<Suite, CliError> {
    let suite = match args.suite.as_ref().or(config.gate.suite.as_ref()) {
        Some(path) => Suite::load(path),
        None if config.is_demo() => Suite::from_yaml(demo::SUITE),
        None => {
            let message = "--suite is missing: only the demo has a suite of its own; assets/suites/starter.yaml is one to begin with";
            return Err(CliError::Usage(message.to_owned()));
        }
    };
    suite.map_err(gate_error)
}

fn evaluate(
    suite: &Suite,
    bench: &Bench,
    candidate: Subject,
    baseline: Subject,
    mode: ProgressMode,
    stop: &Arc<AtomicBool>,
) -> Result<GateReport, CliError> {
    let num_checks = suite.check_names().len() as u64;
    let mut bar = Progress::new(mode, "checks", num_checks, 0);
    let mut progress = |now: &GateProgress| {
        bar.update(now.done as u64, |_| {
            format!("{} {}/{} prompts", now.check, now.prompts_done, now.num_prompts)
        });
    };
    let report =
        gate::run(suite, bench, candidate, baseline, &mut GateControl { progress: &mut progress, stop });
    let elapsed = bar.elapsed();
    let summary = report
        .as_ref()
        .map_or_else(|_| String::new(), |_| format!("{num_checks} checks in {}", clock(elapsed)));
    bar.finish(&summary);
    report.map_err(gate_error)
}

fn gate_error(error: GateError) -> CliError {
    match error {
        GateError::Stopped { .. } => CliError::Interrupted(error.to_string()),
        other => CliError::Usage(other.to_string()),
    }
}

fn json(report: &GateReport) -> Result<String, CliError> {
    let text = serde_json::to_string_pretty(report).map_err(|error| CliError::Usage(error.to_string()))?;
    Ok(text + "\n")
}

fn write(folder: &Path, report: &GateReport) -> Result<(), CliError> {
    std::fs::create_dir_all(folder).map_err(|error| CliError::io(folder, "create the folder", &error))?;
    for (file, text) in [("report.json", json(report)?), ("report.html", report.html())] {
        let path = folder.join(file);
        std::fs::write(&path, text).map_err(|error| CliError::io(&path, "write", &error))?;
    }
    Ok(())
}
