//! The model card of a run: what it was trained from, by what, on what, how well, and how to load it. Leaves the weights
//! to `output`.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::output::About;
use crate::config::{ModelStart, TrainConfig, Tuning};

/// `README.md` as the hub and PEFT expect it.
pub(crate) fn text(settings: &TrainConfig, base: &str, has_score_head: bool, about: &About<'_>) -> String {
    let is_adapter = matches!(settings.tuning, Tuning::Lora(_));
    let folder = settings.output_dir.display().to_string();
    let name = settings
        .output_dir
        .file_name()
        .map_or_else(|| folder.clone(), |name| name.to_string_lossy().into_owned());
    let mut text = front_matter(settings, base, has_score_head, about.method);
    let what = match (is_adapter, has_score_head) {
        (true, false) => "A LoRA adapter for",
        (true, true) => "A LoRA adapter with a score head, which makes a reward model of",
        (false, false) => "A language model trained from",
        (false, true) => "A reward model trained from",
    };
    let method = about.method;
    text += &format!(
        "\n# {name}\n\n{what} `{base}`, made by `rectify train {method}` {}.\n",
        env!("CARGO_PKG_VERSION")
    );
    if !about.metrics.is_empty() {
        text += "\n## Results\n\n";
        table(
            &mut text,
            ["metric", "value"],
            about.metrics.iter().map(|(name, value)| (name.clone(), rounded(value))),
        );
    }
    text += "\n## Data\n\n";
    let files = |files: &[std::path::PathBuf]| {
        let names = files.iter().map(|file| file.file_name().unwrap_or_default().to_string_lossy());
        names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    };
    let held_out = match (settings.eval_data.is_empty(), settings.eval_split > 0.0) {
        (false, _) => files(&settings.eval_data),
        (true, true) => format!("{} % of it", settings.eval_split * 100.0),
        (true, false) => "none".to_owned(),
    };
    let rows = [
        ("trained on".to_owned(), files(&settings.data)),
        ("held out".to_owned(), held_out),
        ("SHA-256 of the tokenised examples".to_owned(), format!("`{}`", about.data)),
    ];
    table(&mut text, ["", ""], rows.into_iter());
    text += "\n## Settings\n\n";
    let mut rows = Vec::new();
    flatten(about.config, &mut rows);
    table(&mut text, ["setting", "value"], rows.into_iter());
    text += "\n## How to load it\n";
    if is_adapter {
        let (class, task) = if has_score_head {
            ("AutoModelForSequenceClassification", ", num_labels=1")
        } else {
            ("AutoModelForCausalLM", "")
        };
        text += &format!(
            "\n```python\nfrom peft import PeftModel\nfrom transformers import {class}\n\n\
             model = {class}.from_pretrained({base:?}{task})\nmodel = PeftModel.from_pretrained(model, {folder:?})\n```\n"
        );
    } else {
        text += &format!(
            "\n```python\nfrom transformers import AutoModel\n\nmodel = AutoModel.from_pretrained({folder:?})\n```\n"
        );
    }
    match (is_adapter, has_score_head) {
        (true, false) => {
            text += &format!("\n```sh\nvllm serve {base} --enable-lora --lora-modules {name}={folder}\n```\n")
        }
        (false, false) => text += &format!("\n```sh\nrectify serve --policy {folder}\n```\n"),
        (_, true) => {
            text += &format!("\n```sh\nrectify serve --policy {base} --reward {name}={folder}\n```\n")
        }
    }
    text
}

fn front_matter(settings: &TrainConfig, base: &str, has_score_head: bool, method: &str) -> String {
    let is_adapter = matches!(settings.tuning, Tuning::Lora(_));
    let mut text = "---\n".to_owned();
    if !matches!(settings.model, ModelStart::Init(_)) {
        // JSON's strings are YAML's.
        text += &format!("base_model: {}\n", Value::from(base));
    }
    text += &format!("library_name: {}\n", if is_adapter { "peft" } else { "transformers" });
    text += &format!(
        "pipeline_tag: {}\n",
        if has_score_head { "text-classification" } else { "text-generation" }
    );
    text += "tags:\n- rectify\n";
    if is_adapter {
        text += "- lora\n";
    }
    if has_score_head && method != "reward" {
        text += "- reward\n";
    }
    text + &format!("- {method}\n---\n")
}

/// A Markdown table.
pub(crate) fn table(text: &mut String, head: [&str; 2], rows: impl Iterator<Item = (String, String)>) {
    let _ = write!(text, "| {} | {} |\n|---|---|\n", head[0], head[1]);
    for (name, value) in rows {
        let _ = writeln!(text, "| {name} | {} |", value.replace('|', "\\|").replace('\n', " "));
    }
}

/// Six significant digits; the log has them all.
pub(crate) fn rounded(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if value.is_f64() => format!("{number:.5e}")
            .parse::<f64>()
            .map_or_else(|_| value.to_string(), |number| number.to_string()),
        _ => value.to_string(),
    }
}

/// Leaves of nested settings; what was not set is left out.
pub(crate) fn flatten(value: &Value, rows: &mut Vec<(String, String)>) {
    let Value::Object(fields) = value else { return };
    let nested = |fields: &Map<String, Value>| fields.values().any(|value| !value.is_null());
    for (name, value) in fields {
        match value {
            Value::Object(inner) if nested(inner) => flatten(value, rows),
            Value::Null | Value::Object(_) => {}
            // Paths, told above.
            _ if name == "data" || name == "eval_data" => {}
            Value::String(text) => rows.push((name.clone(), text.clone())),
            Value::Array(list) => {
                let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                rows.push((name.clone(), list.iter().map(text).collect::<Vec<_>>().join(", ")));
            }
            other => rows.push((name.clone(), other.to_string())),
        }
    }
}
