//! Mean reward against tokens as a picture: best-of-N as a line, what was chosen as lines with marks, the rest as marks.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use plotters::prelude::*;

use super::Point;
use super::statistics::{BestOfN, mean};

const SIZE: (u32, u32) = (760, 460);

/// Draws one set of prompts, tokens on a logarithmic axis.
pub(super) fn plot(path: &Path, title: &str, best_of_n: &BestOfN, points: &[Point]) -> anyhow::Result<()> {
    let line: Vec<(f64, f64)> =
        best_of_n.curve().into_iter().map(|(tokens, reward)| (tokens.ln(), reward)).collect();
    let mut marks: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for point in points {
        let at = (mean(&point.spent.tokens).max(1.0).ln(), mean(&point.spent.rewards));
        marks.entry(point.setting.strategy).or_default().push(at);
    }
    let all = || line.iter().chain(marks.values().flatten());
    let least = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(f64::INFINITY, f64::min);
    let most = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(f64::NEG_INFINITY, f64::max);
    let (left, right, low, high) = (least(|p| p.0), most(|p| p.0), least(|p| p.1), most(|p| p.1));
    let (aside, above) = (0.02 * (right - left), 0.04 * (high - low));
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(left - aside..right + aside, low - above..high + above)?;
    chart
        .configure_mesh()
        .x_desc("tokens generated for an answer")
        .y_desc("mean reward")
        .x_label_formatter(&|tokens| format!("{:.0}", tokens.exp()))
        .y_label_formatter(&|reward| format!("{reward:.1}"))
        .light_line_style(WHITE)
        .draw()?;
    chart
        .draw_series(LineSeries::new(line, BLACK.stroke_width(2)))?
        .label("best_of_n")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK.stroke_width(2)));
    for (index, (strategy, mut at)) in marks.into_iter().enumerate() {
        at.sort_by(|a, b| a.0.total_cmp(&b.0));
        let colour = Palette99::pick(index).to_rgba();
        if points.iter().any(|point| point.setting.strategy == strategy && point.target.is_some()) {
            chart.draw_series(LineSeries::new(at.iter().copied(), colour.stroke_width(1)))?;
        }
        chart
            .draw_series(at.into_iter().map(|at| Circle::new(at, 4, colour.filled())))?
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
