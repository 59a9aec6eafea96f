//! The curve of reward against tokens in words and pictures: a CSV file, a plot for each set of prompts, a report that says
//! what best-of-N would have cost for the same reward. Leaves running the strategies to `curve`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use plotters::prelude::*;
use rectify_lab::stats::{Interval, bootstrap_mean};
use rectify_lab::{Category, Item};

use crate::curve::{Correlations, Point};

const BEST_OF_N: &str = "best_of_n";
/// Answers of these categories are long, and what is wrong with them shows early (`harmful`) or anywhere (`steps`).
pub(crate) const LONG: [Category; 2] = [Category::Harmful, Category::Steps];

/// How many times as many prompts they have.
pub(crate) const MORE: usize = 3;

/// A line of the table: a point over a set of prompts.
struct Row<'a> {
    point: &'a Point,
    reward: Interval,
    tokens: f64,
    candidates: f64,
    scored_tokens: f64,
    good: f64,
}

/// Says a point as it comes.
pub(crate) fn say(point: &Point) {
    let mut out = std::io::stdout().lock();
    // A progress line that nobody reads is no reason to stop.
    let _ = writeln!(
        out,
        "{} {}: reward {:.3}, {:.0} tokens, {:.1} candidates",
        point.strategy,
        point.settings,
        mean(&point.rewards),
        mean(&point.tokens),
        mean(&point.candidates)
    );
}

/// Writes `curve.csv`, a plot for each set of prompts, and `README.md`.
pub(crate) fn write(
    folder: &Path,
    items: &[Item],
    per_category: usize,
    points: &[Point],
    correlations: &Correlations,
    seeds: u64,
) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut csv = String::from(
        "prompts,strategy,settings,reward,reward_low,reward_high,tokens,candidates,scored_tokens,good,\
         tokens_of_best_of_n,candidates_of_best_of_n\n",
    );
    let mut text = head(items, seeds)?;
    for (name, title, of) in sets(items, per_category) {
        let rows: Vec<Row<'_>> = points.iter().map(|point| row(point, &of)).collect();
        table(&mut text, &mut csv, name, title, &rows)?;
        plot(&folder.join(format!("{name}.svg")), title, &rows)?;
    }
    correlation_table(&mut text, items, correlations)?;
    for (name, content) in [("README.md", text), ("curve.csv", csv)] {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn head(items: &[Item], seeds: u64) -> anyhow::Result<String> {
    let mut text = String::new();
    write!(
        text,
        "# Reward against tokens\n\n\
         Mean reward of the answers that come back, by the demo's reward model, against the tokens generated for one: {} held-out\n\
         prompts, {seeds} seeds each, temperature 1, 95 % intervals by bootstrap over prompts. `as best-of-N` is what best-of-N\n\
         needs for the same mean reward, interpolated between its points in the logarithm of N: its candidates, and its tokens\n\
         over those that were spent. Tokens that the reward model read, partial answers included, stand beside.\n\n\
         Made by `cargo run --release -p rectify-examples --example lab -- curve --out DIR`.\n",
        items.len()
    )?;
    Ok(text)
}

/// Sets of prompts: a name for files, a title, and which prompts.
fn sets(items: &[Item], per_category: usize) -> Vec<(&'static str, &'static str, Vec<usize>)> {
    let of = |keep: &dyn Fn(Category) -> bool| {
        let kept = items.iter().enumerate().filter(|(_, item)| keep(item.category));
        kept.map(|(index, _)| index).collect::<Vec<usize>>()
    };
    let even = Category::ALL
        .iter()
        .flat_map(|&category| of(&|other| other == category).into_iter().take(per_category));
    vec![
        ("all", "All kinds of prompts", even.collect()),
        (
            "harmful",
            "Long answers whose flaws show early (harmful requests)",
            of(&|category| category == LONG[0]),
        ),
        (
            "steps",
            "The longest answers, whose flaws show anywhere (steps)",
            of(&|category| category == LONG[1]),
        ),
    ]
}

fn row<'a>(point: &'a Point, of: &[usize]) -> Row<'a> {
    let over = |values: &[f64]| mean(&of.iter().map(|&index| values[index]).collect::<Vec<_>>());
    let rewards: Vec<f64> = of.iter().map(|&index| point.rewards[index]).collect();
    Row {
        point,
        reward: bootstrap_mean(&rewards, 1),
        tokens: over(&point.tokens),
        candidates: over(&point.candidates),
        scored_tokens: over(&point.scored_tokens),
        good: over(&point.good),
    }
}

/// What best-of-N spends for `reward`: candidates and tokens. None outside of what it was run for.
fn best_of_n(rows: &[Row<'_>], reward: f64) -> Option<(f64, f64)> {
    let curve: Vec<&Row<'_>> = rows.iter().filter(|row| row.point.strategy == BEST_OF_N).collect();
    let (low, high) = curve
        .windows(2)
        .map(|pair| (pair[0], pair[1]))
        .find(|(low, high)| (low.reward.value..=high.reward.value).contains(&reward))?;
    let share = (reward - low.reward.value) / (high.reward.value - low.reward.value).max(1e-12);
    let between = |a: f64, b: f64| (a.ln() + share * (b.ln() - a.ln())).exp();
    Some((between(low.candidates, high.candidates), between(low.tokens, high.tokens)))
}

fn table(
    text: &mut String,
    csv: &mut String,
    name: &str,
    title: &str,
    rows: &[Row<'_>],
) -> anyhow::Result<()> {
    writeln!(text, "\n## {title}\n\n![{title}: mean reward by tokens]({name}.svg)\n")?;
    writeln!(
        text,
        "| strategy | settings | reward | tokens | candidates | tokens scored | good (%) | as best-of-N |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|---|")?;
    for row in rows {
        let Row { point, reward, tokens, candidates, scored_tokens, good } = row;
        let equal = best_of_n(rows, reward.value);
        let versus = match equal {
            Some((n, cost)) if point.strategy != BEST_OF_N => {
                format!("N = {n:.1}, {:.2}× the tokens", cost / tokens)
            }
            _ => String::new(),
        };
        writeln!(
            text,
            "| {} | {} | {:.3} [{:.3}, {:.3}] | {tokens:.0} | {candidates:.1} | {scored_tokens:.0} | {:.1} | {versus} |",
            point.strategy,
            point.settings,
            reward.value,
            reward.low,
            reward.high,
            100.0 * good
        )?;
        let (equal_n, equal_tokens) = equal
            .map_or((String::new(), String::new()), |(n, cost)| (format!("{n:.2}"), format!("{cost:.1}")));
        writeln!(
            csv,
            "{name},{},{},{:.4},{:.4},{:.4},{tokens:.2},{candidates:.3},{scored_tokens:.2},{good:.4},{equal_tokens},{equal_n}",
            point.strategy, point.settings, reward.value, reward.low, reward.high
        )?;
    }
    Ok(())
}

fn correlation_table(text: &mut String, items: &[Item], correlations: &Correlations) -> anyhow::Result<()> {
    write!(
        text,
        "\n## What a partial answer tells\n\n\
         Rank correlation (Spearman) of the reward of an answer's first tokens with its final reward, within a prompt, mean over\n\
         prompts; of answers longer than that. Where it is low, dropping candidates early drops good ones.\n\n"
    )?;
    let parts: Vec<String> = correlations.keys().map(usize::to_string).collect();
    writeln!(text, "| tokens | {} |\n|---|{}", parts.join(" | "), "---|".repeat(parts.len()))?;
    let mut of: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        of.entry(item.category.label()).or_default().push(index);
    }
    for (category, prompts) in of {
        let cells: Vec<String> = correlations
            .values()
            .map(|by_prompt| {
                let known: Vec<f64> = prompts.iter().filter_map(|&index| by_prompt[index]).collect();
                if known.len() * 2 < prompts.len() { String::new() } else { format!("{:.2}", mean(&known)) }
            })
            .collect();
        writeln!(text, "| {category} | {} |", cells.join(" | "))?;
    }
    Ok(())
}

/// One line for each strategy and kind of settings, tokens on a logarithmic axis.
fn plot(path: &Path, title: &str, rows: &[Row<'_>]) -> anyhow::Result<()> {
    let mut lines: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for row in rows {
        lines.entry(row.point.strategy).or_default().push((row.tokens.max(1.0).ln(), row.reward.value));
    }
    let all = || lines.values().flatten();
    let least = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(f64::INFINITY, f64::min);
    let most = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(f64::NEG_INFINITY, f64::max);
    let (left, right, low, high) = (least(|p| p.0), most(|p| p.0), least(|p| p.1), most(|p| p.1));
    let root = SVGBackend::new(path, (760, 460)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(left..right, low - 0.05..high + 0.05)?;
    chart
        .configure_mesh()
        .x_desc("tokens generated for an answer")
        .y_desc("mean reward")
        .x_label_formatter(&|tokens| format!("{:.0}", tokens.exp()))
        .light_line_style(WHITE)
        .draw()?;
    for (index, (strategy, mut points)) in lines.into_iter().enumerate() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let colour = Palette99::pick(index).to_rgba();
        let is_curve = matches!(strategy, BEST_OF_N | "adaptive");
        if is_curve {
            chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        }
        let mark = points.into_iter().map(|point| Circle::new(point, 4, colour.filled()));
        chart
            .draw_series(mark)?
            .label(strategy)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    root.present().context("cannot draw")
}

/// Spearman's correlation; none if one side does not vary. Ties take their mean rank.
pub(crate) fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (ranks(a), ranks(b));
    let (mean_a, mean_b) = (mean(&a), mean(&b));
    let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(&b).map(|(x, y)| of(x - mean_a, y - mean_b)).sum()
    };
    let spread = (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
    (spread > 0.0).then(|| sum(&|x, y| x * y) / spread)
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |value: &f64| {
        let below = values.iter().filter(|other| *other < value).count();
        let equal = values.iter().filter(|other| *other == value).count();
        below as f64 + (equal as f64 - 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
