//! The comparison of methods in words and pictures: one table, and a plot of each method's course. Leaves numbers to
//! `methods`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use plotters::prelude::*;
use rectify_lab::Item;
use rectify_lab::stats::{Interval, bootstrap_mean};

use crate::methods::{Method, Run};
use crate::policy::Measured;

const REPORT: &str = "README.md";
/// What is drawn, where a method logs it: reward or margin, KL, entropy, length.
const SERIES: [(&str, &[&str]); 4] = [
    ("reward, or its margin", &["objective/scores", "reward", "rewards/margins"]),
    ("KL from the start (nats)", &["objective/kl", "kl"]),
    ("entropy (nats per token)", &["policy/entropy_avg", "entropy"]),
    ("answer length (tokens)", &["completions/mean_length"]),
];

/// Share of good greedy answers of all runs together; prompts are the unit of the bootstrap.
fn good(runs: &[&Measured]) -> Interval {
    bootstrap_mean(&per_prompt(runs, |good| f64::from(u8::from(good))), 1)
}

/// Gain over the start in points, paired by prompt.
fn gain(start: &Measured, runs: &[&Measured]) -> Interval {
    let means = per_prompt(runs, |good| f64::from(u8::from(good)));
    let gains: Vec<f64> =
        means.iter().zip(&start.good).map(|(mean, good)| mean - f64::from(u8::from(*good))).collect();
    bootstrap_mean(&gains, 1)
}

fn per_prompt(runs: &[&Measured], value: impl Fn(bool) -> f64) -> Vec<f64> {
    let num_prompts = runs.first().map_or(0, |run| run.good.len());
    (0..num_prompts)
        .map(|prompt| runs.iter().map(|run| value(run.good[prompt])).sum::<f64>() / runs.len() as f64)
        .collect()
}

/// Writes the report and the plots into `folder`.
pub(crate) fn write(
    folder: &Path,
    items: &[Item],
    start: &Measured,
    results: &[(Method, Vec<Run>)],
) -> anyhow::Result<()> {
    let mut text = String::new();
    writeln!(
        text,
        "# Training methods on the demo\n\n\
         Each run starts from the demo's recipe: its policy, its preferences (5 % of the labels are wrong), its reward\n\
         model. `good` is the share of greedy answers to {} held-out prompts that the oracle calls good, over all seeds,\n\
         with 95 % intervals by bootstrap over prompts; `gain` is paired by prompt. KL from the start is in nats per\n\
         answer, entropy in nats per token, both estimated from sampled answers; length is in tokens of greedy answers.\n\n\
         Made by `cargo run --release -p rectify-examples --example lab -- methods --out DIR`, after `all --out DIR`.\n",
        items.len()
    )?;
    writeln!(text, "| method | seeds | good | by seed | gain (points) | KL | entropy | length | seconds |")?;
    writeln!(text, "|---|---|---|---|---|---|---|---|---|")?;
    writeln!(
        text,
        "| start | | {} | | | 0 | {:.2} | {:.1} | |",
        good(&[start]).percent(),
        start.entropy,
        start.length
    )?;
    for (method, runs) in results {
        let measured: Vec<&Measured> = runs.iter().map(|run| &run.measured).collect();
        let mean = |of: &dyn Fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
        let by_seed: Vec<String> =
            measured.iter().map(|run| format!("{:.1}", 100.0 * good(&[run]).value)).collect();
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {:.2} | {:.2} | {:.1} | {:.0} |",
            method.name(),
            runs.len(),
            good(&measured).percent(),
            by_seed.join(", "),
            gain(start, &measured).percent(),
            mean(&|run| run.measured.kl),
            mean(&|run| run.measured.entropy),
            mean(&|run| run.measured.length),
            mean(&|run| run.seconds),
        )?;
    }
    for (method, runs) in results {
        let name = method.name();
        plot(&folder.join(format!("{name}.svg")), name, runs)?;
        writeln!(text, "\n![{name}: reward, KL, entropy and length by step]({name}.svg)")?;
    }
    let path = folder.join(REPORT);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Copies report and plots to `target`.
pub(crate) fn install(folder: &Path, target: &Path, results: &[(Method, Vec<Run>)]) -> anyhow::Result<()> {
    fs::create_dir_all(target).with_context(|| format!("cannot create {}", target.display()))?;
    let plots = results.iter().map(|(method, _)| format!("{}.svg", method.name()));
    for name in plots.chain([REPORT.to_owned(), "results.json".to_owned()]) {
        let (from, to) = (folder.join(&name), target.join(&name));
        fs::copy(&from, &to)
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

/// Values by step.
type Curve = Vec<(f64, f64)>;

/// One panel for each series that the method logs, one line for each seed.
fn plot(path: &Path, name: &str, runs: &[Run]) -> anyhow::Result<()> {
    let series: Vec<(&str, Vec<Curve>)> = SERIES
        .iter()
        .map(|(title, keys)| (*title, runs.iter().map(|run| points(run, keys)).collect::<Vec<_>>()))
        .filter(|(_, lines)| lines.iter().any(|line| line.len() > 1))
        .collect();
    if series.is_empty() {
        anyhow::bail!("{name}: its log has nothing to draw");
    }
    let root = SVGBackend::new(path, (320 * series.len() as u32, 240)).into_drawing_area();
    root.fill(&WHITE)?;
    for (panel, (title, lines)) in root.split_evenly((1, series.len())).iter().zip(&series) {
        let all = || lines.iter().flatten();
        let (low, high) = all().fold((f64::MAX, f64::MIN), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
        let margin = ((high - low) * 0.05).max(1e-6);
        let steps = all().fold(1.0f64, |most, (x, _)| most.max(*x));
        let mut chart = ChartBuilder::on(panel)
            .caption(format!("{name}: {title}"), ("sans-serif", 13))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..steps, low - margin..high + margin)?;
        chart.configure_mesh().x_labels(5).y_labels(5).light_line_style(WHITE).draw()?;
        for (index, line) in lines.iter().enumerate() {
            chart
                .draw_series(LineSeries::new(line.iter().copied(), Palette99::pick(index).stroke_width(1)))?;
        }
    }
    root.present().context("cannot draw")
}

/// Values by step of the first of `keys` that the run logs.
fn points(run: &Run, keys: &[&str]) -> Vec<(f64, f64)> {
    let of = |key: &str| -> Vec<(f64, f64)> {
        run.log.iter().filter_map(|line| Some((line["step"].as_f64()?, line[key].as_f64()?))).collect()
    };
    keys.iter().map(|key| of(key)).find(|points| !points.is_empty()).unwrap_or_default()
}
