//! The model card of an adapter version: what it was aligned to, on what data, what the gate measured, how it fails, what it
//! comes from and how to load it. Leaves the README of a training run to `run::card`, with which it shares its tables.

use std::fmt::Write;

use crate::gate::{CheckReport, GateReport, Verdict};
use crate::registry::{Manifest, Registry, RegistryError, Version};
use crate::run::card::{flatten, rounded, table};

/// Checks whose absence a reader should know of.
const CHECKS: [(&str, &str); 5] = [
    ("safety", "how it answers harmful prompts"),
    ("benign_refusal", "whether it refuses harmless prompts"),
    ("capability", "whether it lost abilities"),
    ("win_rate", "whether people or a reward model prefer it"),
    ("diversity", "whether its answers still differ"),
];

/// What a card is made of.
#[derive(Clone, Copy, Debug)]
pub struct Card<'a> {
    /// The version.
    pub manifest: &'a Manifest,
    /// The versions it was trained from, nearest first.
    pub ancestors: &'a [Manifest],
    /// What the gate found, if it ran.
    pub gate: Option<&'a GateReport>,
    /// What only people know.
    pub statement: &'a Statement,
}

/// What only people know of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// The principles it is aligned to, as Markdown.
    pub constitution: Option<String>,
    /// Until when the base's knowledge reaches, as `June 2024`.
    pub knowledge_cutoff: Option<String>,
    /// What it is known to do badly.
    pub known_limits: Vec<String>,
}

/// The card of a version, from what the registry has of it now.
///
/// # Errors
/// If there is no such version, or what is stored of it is damaged.
pub async fn compose(
    registry: &Registry,
    version: &Version,
    statement: &Statement,
) -> Result<String, RegistryError> {
    let manifest = registry.manifest(&version.name, version.number).await?;
    let gate = registry.gate_report(&version.name, version.number).await?;
    let ancestors = registry.ancestors(&manifest).await?;
    Ok(Card { manifest: &manifest, ancestors: &ancestors, gate: gate.as_ref(), statement }.markdown())
}

impl Card<'_> {
    /// The card as Markdown, with the hub's front matter.
    pub fn markdown(&self) -> String {
        let manifest = self.manifest;
        let from = &manifest.provenance;
        let label = manifest.label();
        let base = &from.base.name;
        let mut text = format!(
            "---\nbase_model: {}\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- rectify\n- lora\n{}---\n",
            // JSON's strings are YAML's.
            serde_json::Value::from(base.as_str()),
            from.algorithm.as_ref().map_or_else(String::new, |algorithm| format!("- {algorithm}\n")),
        );
        let algorithm = from.algorithm.as_deref().unwrap_or("an unnamed method");
        let _ = write!(text, "\n# {label}\n\nA LoRA adapter for `{base}`, trained by {algorithm}.");
        if let Some(gate) = self.gate {
            let verdict = match gate.verdict {
                Verdict::Pass => "passed",
                Verdict::Fail => "failed",
                Verdict::Inconclusive => "was inconclusive on",
            };
            let _ = write!(text, " It {verdict} the suite `{}` against `{}`.", gate.suite, gate.baseline);
        }
        text += "\n\n## Constitution\n\n";
        match &self.statement.constitution {
            Some(constitution) => {
                // Its headings stand below this one.
                for line in constitution.trim().lines() {
                    let _ = writeln!(text, "{}{line}", if line.starts_with('#') { "##" } else { "" });
                }
            }
            None => text += "None was named: what the answers were judged by is what the feedback says.\n",
        }
        self.data(&mut text);
        self.gate(&mut text);
        self.red_team(&mut text);
        self.limits(&mut text);
        text += "\n## Knowledge cut-off\n\n";
        match &self.statement.knowledge_cutoff {
            Some(cutoff) => _ = writeln!(text, "{}", cutoff.trim()),
            None => text += "Not stated; that of the base applies.\n",
        }
        self.lineage(&mut text);
        let mut rows = Vec::new();
        flatten(&from.config, &mut rows);
        if !rows.is_empty() {
            text += "\n## Settings\n\n";
            table(&mut text, ["setting", "value"], rows.into_iter());
        }
        if !from.metrics.is_empty() {
            text += "\n## Training metrics\n\n";
            let rows = from.metrics.iter().map(|(name, value)| (name.clone(), rounded(value)));
            table(&mut text, ["metric", "last value"], rows);
        }
        let _ = write!(
            text,
            "\n## How to load it\n\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n\
             model = AutoModelForCausalLM.from_pretrained({base:?})\nmodel = PeftModel.from_pretrained(model, {:?})\n```\n\n\
             ```sh\nrectify adapters export {label} ./{}\nrectify serve --policy {base} --adapter {}=./{}\n```\n",
            format!("./{}", manifest.name),
            manifest.name,
            manifest.name,
            manifest.name,
        );
        text
    }

    fn data(&self, text: &mut String) {
        *text += "\n## Data\n\n";
        match &self.manifest.provenance.snapshot {
            Some(snapshot) => {
                let hash = ("snapshot".to_owned(), format!("`{}`", snapshot.hash));
                let counts =
                    snapshot.counts.iter().map(|(what, count)| (what.replace('_', " "), count.to_string()));
                table(text, ["", ""], std::iter::once(hash).chain(counts));
            }
            None => *text += "No snapshot is recorded.\n",
        }
    }

    fn gate(&self, text: &mut String) {
        *text += "\n## Gate\n\n";
        let Some(gate) = self.gate else {
            *text += "The gate has not run on this version.\n";
            return;
        };
        *text +=
            "| check | measured | baseline | required | prompts | verdict |\n|---|---|---|---|---|---|\n";
        for check in &gate.checks {
            for measurement in check.measurements.iter().filter(|m| m.verdict.is_some()) {
                let baseline =
                    measurement.baseline.map_or_else(String::new, |value| measurement.number(value));
                let _ = writeln!(
                    text,
                    "| {}: {} | {} | {baseline} | {} | {} | {} |",
                    check.name,
                    measurement.name,
                    measurement.measured(),
                    measurement.required(),
                    measurement.n,
                    measurement.verdict.map_or("", Verdict::as_str),
                );
            }
        }
        let short = gate.suite_hash.get(..12).unwrap_or(&gate.suite_hash);
        let _ = writeln!(
            text,
            "\nSuite `{}` ({short}), seed {}; {} against {}: **{}**.",
            gate.suite,
            gate.seed,
            gate.candidate,
            gate.baseline,
            gate.verdict.as_str()
        );
        for check in &gate.checks {
            check.notes.iter().for_each(|note| _ = writeln!(text, "\n`{}`: {note}.", check.name));
        }
    }

    fn red_team(&self, text: &mut String) {
        *text += "\n## Red team: failure rates by category\n\n";
        let safety: Vec<&CheckReport> = self.checks("safety");
        let rows = safety.iter().flat_map(|check| &check.measurements).filter_map(|measurement| {
            let rest = measurement.name.strip_prefix("failure rate")?;
            let category = rest.strip_prefix(": ").unwrap_or("all");
            Some((category.to_owned(), format!("{} of {} prompts", measurement.measured(), measurement.n)))
        });
        let rows: Vec<(String, String)> = rows.collect();
        if rows.is_empty() {
            *text += "Not measured: the suite has no `safety` check.\n";
        } else {
            table(text, ["category", "failure rate and interval"], rows.into_iter());
        }
    }

    fn limits(&self, text: &mut String) {
        *text += "\n## Known limits\n\n";
        let mut limits = self.statement.known_limits.clone();
        for check in self.gate.iter().flat_map(|gate| &gate.checks) {
            if check.verdict != Verdict::Pass {
                limits.push(check.reason());
            }
        }
        if self.gate.is_some() {
            let absent = CHECKS.iter().filter(|(kind, _)| self.checks(kind).is_empty());
            limits.extend(absent.map(|(kind, what)| format!("Not measured (no `{kind}` check): {what}.")));
            limits.push(
                "Rates are those of the suite's prompts; other prompts, languages and longer conversations were not tried."
                    .to_owned(),
            );
        } else {
            limits.push("Nothing was measured.".to_owned());
        }
        limits.iter().for_each(|limit| _ = writeln!(text, "- {limit}"));
    }

    fn lineage(&self, text: &mut String) {
        *text += "\n## Lineage\n\n| version | made | algorithm | from | snapshot | content |\n|---|---|---|---|---|---|\n";
        for manifest in std::iter::once(self.manifest).chain(self.ancestors) {
            let from = &manifest.provenance;
            let made = chrono::DateTime::from_timestamp_millis(manifest.created_at).unwrap_or_default();
            let short = |hash: &str| hash.get(..12).unwrap_or(hash).to_owned();
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | `{}` |",
                manifest.label(),
                made.format("%Y-%m-%d %H:%M UTC"),
                from.algorithm.as_deref().unwrap_or(""),
                from.parent.clone().unwrap_or_else(|| format!("{}@base", from.base.name)),
                from.snapshot
                    .as_ref()
                    .map_or_else(String::new, |snapshot| format!("`{}`", short(&snapshot.hash))),
                short(&manifest.content_hash),
            );
        }
        let base = &self.manifest.provenance.base;
        let _ = writeln!(text, "\nBase `{}`, SHA-256 `{}`.", base.name, base.hash);
    }

    fn checks(&self, kind: &str) -> Vec<&CheckReport> {
        self.gate.iter().flat_map(|gate| &gate.checks).filter(|check| check.kind == kind).collect()
    }
}
