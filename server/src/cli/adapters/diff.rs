//! `rectify adapters diff`: what changed from one version to another. Leaves measuring to the gate and comparing weights
//! to the registry.

use std::fmt::Write;

use rectify_trainer::gate::{GateReport, Measurement};
use rectify_trainer::registry::{Manifest, Registry, UpdateDifference, Version, WEIGHTS};

use super::{CliError, registry_error};

pub(super) async fn diff(registry: &Registry, from: &Version, to: &Version) -> Result<String, CliError> {
    let manifest = async |version: &Version| {
        registry.manifest(&version.name, version.number).await.map_err(registry_error)
    };
    let (old, new) = (manifest(from).await?, manifest(to).await?);
    let mut text = format!("{from} → {to}\n");
    origin(&mut text, &old, &new);
    let report = async |version: &Version| {
        registry.gate_report(&version.name, version.number).await.map_err(registry_error)
    };
    let (old_gate, new_gate) = (report(from).await?, report(to).await?);
    gates(&mut text, old_gate.as_ref(), new_gate.as_ref());
    if old.files.get(WEIGHTS) == new.files.get(WEIGHTS) {
        text += "\nweights: the same\n";
    } else {
        weights(&mut text, &registry.update_difference(from, to).await.map_err(registry_error)?);
    }
    Ok(text)
}

/// Modules that are named.
const MOST_CHANGED: usize = 5;

fn weights(text: &mut String, difference: &UpdateDifference) {
    let UpdateDifference { old_norm, new_norm, cosine, modules } = difference;
    let _ = writeln!(
        text,
        "\nweights: norm of the update {old_norm:.3} → {new_norm:.3}, cosine {cosine:.3}; most changed"
    );
    for (module, norm) in modules.iter().take(MOST_CHANGED) {
        let _ = writeln!(text, "  {norm:.3}  {}", module.trim_start_matches("base_model.model."));
    }
}

fn origin(text: &mut String, old: &Manifest, new: &Manifest) {
    let fields = |manifest: &Manifest| {
        let from = &manifest.provenance;
        let mut fields = vec![
            ("base".to_owned(), format!("{} {}", from.base.name, from.base.hash)),
            ("algorithm".to_owned(), from.algorithm.clone().unwrap_or_default()),
            ("parent".to_owned(), from.parent.clone().unwrap_or_default()),
            ("content".to_owned(), manifest.content_hash.clone()),
        ];
        if let Some(snapshot) = &from.snapshot {
            fields.push(("snapshot".to_owned(), snapshot.hash.clone()));
            fields.extend(
                snapshot.counts.iter().map(|(what, count)| (format!("snapshot {what}"), count.to_string())),
            );
        }
        for (key, value) in from.config.as_object().into_iter().flatten() {
            fields.push((format!("config {key}"), value.to_string()));
        }
        for (key, value) in &from.metrics {
            fields.push((format!("metric {key}"), value.to_string()));
        }
        fields
    };
    let (old, new) = (fields(old), fields(new));
    let find = |fields: &[(String, String)], key: &str| {
        fields.iter().find(|(name, _)| name == key).map_or("–".to_owned(), |(_, value)| value.clone())
    };
    let mut keys: Vec<&String> = old.iter().chain(&new).map(|(key, _)| key).collect();
    let mut seen = std::collections::HashSet::new();
    keys.retain(|key| seen.insert(*key));
    for key in keys {
        let (before, after) = (find(&old, key), find(&new, key));
        if before != after {
            let _ = writeln!(text, "  {key}: {before} → {after}");
        }
    }
}

fn gates(text: &mut String, old: Option<&GateReport>, new: Option<&GateReport>) {
    let verdict = |report: Option<&GateReport>| report.map_or("not run", |report| report.verdict.as_str());
    let _ = writeln!(text, "\ngate: {} → {}", verdict(old), verdict(new));
    let (Some(old), Some(new)) = (old, new) else { return };
    if old.suite_hash != new.suite_hash {
        *text += "  the suites differ: numbers may not compare\n";
    }
    for check in &new.checks {
        let before = old.checks.iter().find(|other| other.name == check.name);
        for measured in &check.measurements {
            let same = |other: &&Measurement| other.name == measured.name;
            let before = before.and_then(|check| check.measurements.iter().find(same));
            let before = before.map_or("–".to_owned(), Measurement::measured);
            let _ = writeln!(text, "  {}: {}: {before} → {}", check.name, measured.name, measured.measured());
        }
    }
}
