//! The report as one HTML page that needs nothing else: every measurement with its interval drawn beside the threshold.
//! Leaves the terminal's table to `report`, and looks to `report.html`.

use minijinja::{Environment, Value, context};

use super::report::{GateReport, Measurement};

impl GateReport {
    /// The page.
    pub fn html(&self) -> String {
        let mut environment = Environment::new();
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|check| {
                let rows: Vec<Value> = check.measurements.iter().map(row).collect();
                context! { rows, ..Value::from_serialize(check) }
            })
            .collect();
        let created = chrono::DateTime::from_timestamp_millis(self.created_at).unwrap_or_default();
        let told = context! {
            reasons => self.reasons(),
            created => created.format("%Y-%m-%d %H:%M UTC").to_string(),
            took => format!("{:.1} s", self.seconds),
            version => env!("CARGO_PKG_VERSION"),
            checks,
            ..Value::from_serialize(self)
        };
        let page = environment
            .add_template("report.html", include_str!("report.html"))
            .and_then(|()| environment.get_template("report.html"))
            .and_then(|template| template.render(told));
        // The template is a part of the program and is tested with it.
        page.unwrap_or_else(|error| format!("<!doctype html><title>report</title><pre>{error:#}</pre>"))
    }
}

fn row(measurement: &Measurement) -> Value {
    context! {
        name => measurement.name,
        measured => measurement.measured(),
        required => measurement.required(),
        baseline => measurement.baseline.map(|value| measurement.number(value)),
        verdict => measurement.verdict,
        how => format!("{}, {:.1} % confidence", measurement.method, 100.0 * measurement.confidence),
        n => measurement.n,
        plot => Plot::new(measurement).map(Value::from_serialize),
    }
}

/// Where things stand on a line, in percent of its length.
#[derive(serde::Serialize)]
struct Plot {
    low: f64,
    high: f64,
    value: f64,
    baseline: Option<f64>,
    /// Begin and end of what is good enough.
    good: Option<(f64, f64)>,
}

impl Plot {
    /// `None` for what has no end, or is no number.
    fn new(measurement: &Measurement) -> Option<Self> {
        let interval = measurement.interval;
        let (min, max) = measurement.threshold.map_or((None, None), |t| (t.min, t.max));
        let shown =
            [Some(interval.low), Some(interval.value), Some(interval.high), measurement.baseline, min, max];
        let shown: Vec<f64> = shown.into_iter().flatten().collect();
        if shown.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let ends = shown.iter().fold((f64::MAX, f64::MIN), |(a, b), &value| (a.min(value), b.max(value)));
        // Shares from nothing to all, so that lines compare; else what is shown, with a margin.
        let (from, to) = if measurement.is_share && ends.0 >= 0.0 {
            (0.0, 1.0)
        } else {
            let margin = 0.1 * (ends.1 - ends.0).max(1e-6);
            (ends.0 - margin, ends.1 + margin)
        };
        let at = |value: f64| 100.0 * ((value - from) / (to - from)).clamp(0.0, 1.0);
        let good = measurement.threshold.map(|_| (min.map_or(0.0, at), max.map_or(100.0, at)));
        Some(Self {
            low: at(interval.low),
            high: at(interval.high),
            value: at(interval.value),
            baseline: measurement.baseline.map(at),
            good,
        })
    }
}
