//! `rectify adapters list` and `show`. Leaves differences to `diff`.

use rectify_trainer::registry::{GATE_REPORT, MODEL_CARD, Manifest, Registry, Version};
use serde_json::{Value, json};

use super::{CliError, registry_error};

pub(super) async fn list(registry: &Registry, name: Option<&str>, json: bool) -> Result<String, CliError> {
    let names = match name {
        Some(name) => vec![name.to_owned()],
        None => registry.names().await.map_err(registry_error)?,
    };
    let mut rows = vec![["version", "made", "algorithm", "from", "gate", "content"].map(str::to_owned)];
    let mut lines = String::new();
    for name in names {
        for number in registry.versions(&name).await.map_err(registry_error)? {
            let manifest = registry.manifest(&name, number).await.map_err(registry_error)?;
            let gate = registry
                .gate_report(&name, number)
                .await
                .map_err(registry_error)?
                .map(|report| report.verdict.as_str());
            if json {
                let mut line = json!(manifest);
                line["gate"] = json!(gate);
                lines += &format!("{line}\n");
            }
            rows.push(row(&manifest, gate.unwrap_or("not run")));
        }
    }
    if json {
        return Ok(lines);
    }
    if rows.len() == 1 {
        return Ok(format!("{} holds no adapter\n", registry.url()));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    Ok(rows.iter().map(line).collect())
}

fn row(manifest: &Manifest, gate: &str) -> [String; 6] {
    let from = &manifest.provenance;
    let made = chrono::DateTime::from_timestamp_millis(manifest.created_at).unwrap_or_default();
    [
        manifest.label(),
        made.format("%Y-%m-%d %H:%M").to_string(),
        from.algorithm.clone().unwrap_or_default(),
        from.parent.clone().unwrap_or_else(|| format!("{}@base", from.base.name)),
        gate.to_owned(),
        manifest.content_hash.get(..12).unwrap_or_default().to_owned(),
    ]
}

pub(super) async fn show(registry: &Registry, version: &Version) -> Result<String, CliError> {
    let manifest = registry.manifest(&version.name, version.number).await.map_err(registry_error)?;
    let mut shown = json!(manifest);
    for (key, file) in [("gate_report", GATE_REPORT), ("model_card", MODEL_CARD)] {
        let bytes = registry.get(&version.name, version.number, file).await.map_err(registry_error)?;
        let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        // What is no JSON is shown as it is.
        shown[key] =
            text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap_or(Value::String(text)));
    }
    let text = serde_json::to_string_pretty(&shown).map_err(|error| CliError::Usage(error.to_string()))?;
    Ok(text + "\n")
}
