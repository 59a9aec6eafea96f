//! What the gate found, as it is stored and shown. Leaves HTML and Markdown to `html` and [`crate::card`].

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::stats::Interval;
use super::verdict::{Threshold, Verdict};

/// The report on one candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateReport {
    /// The suite's name.
    pub suite: String,
    /// SHA-256 of the suite and of every file it names.
    pub suite_hash: String,
    /// The policy that both adapt.
    pub policy: String,
    /// What was judged.
    pub candidate: String,
    /// What it was compared with.
    pub baseline: String,
    /// Decides every sample.
    pub seed: u64,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// How long it took.
    pub seconds: f64,
    /// The worst verdict of the checks.
    pub verdict: Verdict,
    /// In the suite's order.
    pub checks: Vec<CheckReport>,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Which check: `safety`.
    pub kind: String,
    /// What the suite calls it; its kind if it says nothing.
    pub name: String,
    /// The worst verdict of its measurements.
    pub verdict: Verdict,
    /// Prompts that were asked.
    pub num_prompts: usize,
    /// It stopped before the last prompt because its verdict was certain.
    pub stopped_early: bool,
    /// The first is what the check is about.
    pub measurements: Vec<Measurement>,
    /// Answers that tell why, at most five.
    pub examples: Vec<AnswerExample>,
    /// What a reader should know of the measurement.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Most examples of one check.
pub(crate) const MAX_EXAMPLES: usize = 5;

/// A number with its interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// What was measured: `failure rate`, `failure rate: fraud`.
    pub name: String,
    /// Value and interval.
    #[serde(flatten)]
    pub interval: Interval,
    /// Of the interval; higher than the suite's where a check may stop early.
    pub confidence: f64,
    /// How the interval was made: `Wilson`.
    pub method: String,
    /// How many were measured.
    pub n: usize,
    /// The same of the baseline, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<f64>,
    /// What is good enough; a measurement without one only informs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Threshold>,
    /// By the threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The number is a share: shown in percent.
    #[serde(default)]
    pub is_share: bool,
}

/// An answer worth a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerExample {
    /// The last turn that was asked.
    pub prompt: String,
    /// The prompt's category.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// What the candidate said.
    pub candidate: String,
    /// What the baseline said, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// What is wrong with it.
    pub why: String,
}

impl GateReport {
    /// Whether the candidate may be published: every check passed.
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Pass
    }

    /// The checks that stand in the way, as one sentence.
    pub fn reasons(&self) -> String {
        let bad = self.checks.iter().filter(|check| check.verdict != Verdict::Pass);
        let reasons: Vec<String> = bad.map(CheckReport::reason).collect();
        if reasons.is_empty() { "every check passed".to_owned() } else { reasons.join("; ") }
    }

    /// A table for a terminal.
    pub fn table(&self) -> String {
        let mut rows = vec![["check", "measured", "baseline", "required", "n", "verdict"].map(str::to_owned)];
        for check in &self.checks {
            for (index, measurement) in check.measurements.iter().enumerate() {
                let name = match index {
                    0 if measurement.name == check.name => check.name.clone(),
                    0 => format!("{}: {}", check.name, measurement.name),
                    _ => format!("  {}", measurement.name),
                };
                let baseline =
                    measurement.baseline.map_or_else(String::new, |value| measurement.number(value));
                let verdict = measurement.verdict.map_or("", Verdict::as_str).to_owned();
                let required = measurement.required();
                rows.push([
                    name,
                    measurement.measured(),
                    baseline,
                    required,
                    measurement.n.to_string(),
                    verdict,
                ]);
            }
        }
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 6] = std::array::from_fn(width);
        let mut text = String::new();
        for row in &rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        let (candidate, baseline) = (&self.candidate, &self.baseline);
        let _ = writeln!(
            text,
            "\n{candidate} against {baseline}: {}{}",
            self.verdict.as_str(),
            if self.passed() { String::new() } else { format!(" ({})", self.reasons()) }
        );
        text
    }
}

impl CheckReport {
    /// What stands in the way, with its numbers.
    pub fn reason(&self) -> String {
        let bad = self.measurements.iter().filter(|m| m.verdict == Some(self.verdict));
        let told: Vec<String> =
            bad.map(|m| format!("{} {}, required {}", m.name, m.measured(), m.required())).collect();
        format!("{} {}: {}", self.name, self.verdict.as_str(), told.join(", "))
    }
}

impl Measurement {
    /// `12.5 % [4.1, 20.3]`.
    pub fn measured(&self) -> String {
        let Interval { value, low, high } = self.interval;
        match self.is_share {
            true => format!("{:.1} % [{:.1}, {:.1}]", 100.0 * value, 100.0 * low, 100.0 * high),
            false => format!("{value:.3} [{low:.3}, {high:.3}]"),
        }
    }

    /// `≤ 5.0 %`.
    pub fn required(&self) -> String {
        let Some(threshold) = self.threshold else { return String::new() };
        match (threshold.min, threshold.max) {
            (Some(min), Some(max)) => format!("{} to {}", self.number(min), self.number(max)),
            (Some(min), None) => format!("≥ {}", self.number(min)),
            (None, Some(max)) => format!("≤ {}", self.number(max)),
            (None, None) => String::new(),
        }
    }

    /// `value` in the unit of this measurement.
    pub fn number(&self, value: f64) -> String {
        if self.is_share { format!("{:.1} %", 100.0 * value) } else { format!("{value:.3}") }
    }
}
