//! Rows of data to tokens and labels, beside what TRL makes of them (`fixtures/tokenise.py`).

use std::path::{Path, PathBuf};

use rectify_engine::model::config::ModelConfig;
use rectify_engine::model::source::ModelSource;
use rectify_feedback::{PreferenceRecord, Text, UnpairedLine, read_records};
use serde_json::{Map, Value};

use super::{Prompted, SftExample, SftNotes, SftText, TextEncoder, pack, read_sft};
use crate::config::{PackingStrategy, TruncationMode};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn encoder(model: &str) -> TextEncoder {
    let folder = root().join("../tests/fixtures/models").join(model);
    let source = ModelSource::from(folder.as_path());
    TextEncoder::load(&source, &ModelConfig::load(&source).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// TRL's rows as examples; sequences of a packed row one by one. Its first label counts for nothing, as ours.
fn expected_sft(rows: &[Value]) -> Vec<Vec<SftExample>> {
    let row = |row: &Value| {
        let all = ids(&row["input_ids"]);
        let loss: Vec<bool> =
            row["labels"].as_array().unwrap().iter().map(|label| label.as_i64() != Some(-100)).collect();
        let lengths = row.get("seq_lengths").map_or(vec![all.len() as u32], ids);
        let mut start = 0;
        let sequence = |length: &u32| {
            let range = start..start + *length as usize;
            start = range.end;
            SftExample::new(all[range.clone()].to_vec(), loss[range].to_vec())
        };
        lengths.iter().map(sequence).collect()
    };
    rows.iter().map(row).collect()
}

fn sft(encoder: &TextEncoder, file: &Path, options: &Map<String, Value>) -> Vec<Vec<SftExample>> {
    let flag = |name: &str| options.get(name).and_then(Value::as_bool);
    let packing = flag("packing") == Some(true);
    let max_length = options.get("max_length").and_then(Value::as_u64).unwrap_or(64) as usize;
    let text = SftText {
        completion_only: flag("completion_only_loss"),
        assistant_only: flag("assistant_only_loss") == Some(true),
        ghost_attention: false,
        max_length: if packing { usize::MAX } else { max_length },
        truncation_mode: match options.get("truncation_mode") {
            Some(_) => TruncationMode::KeepEnd,
            None => TruncationMode::KeepStart,
        },
    };
    let examples = read_sft(file, encoder, text, &mut SftNotes::default()).unwrap();
    if !packing {
        return examples.into_iter().map(|example| vec![example]).collect();
    }
    let strategy = match options.get("packing_strategy") {
        Some(_) => PackingStrategy::BfdSplit,
        None => PackingStrategy::Bfd,
    };
    pack(examples, max_length, strategy)
}

/// Bins in an order of their own: TRL's sort leaves equal lengths in any.
fn sorted(mut bins: Vec<Vec<SftExample>>) -> Vec<Vec<usize>> {
    let mut lengths: Vec<Vec<usize>> =
        bins.iter_mut().map(|bin| bin.iter().map(|example| example.ids.len()).collect()).collect();
    lengths.sort();
    lengths
}

fn prompted(encoder: &TextEncoder, prompt: &Text, answers: &[&Text]) -> Prompted {
    encoder.encode_prompted(prompt, answers, &Map::new()).unwrap()
}

#[test]
fn tokens_and_labels_are_trls() {
    let text = std::fs::read_to_string(root().join("fixtures/tokenise.json")).unwrap();
    let fixture: Value = serde_json::from_str(&text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for case in fixture["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let encoder = encoder(case["model"].as_str().unwrap());
        let file = folder.path().join("rows.json");
        std::fs::write(&file, case["rows"].to_string()).unwrap();
        let expected = case["expected"].as_array().unwrap();
        match name.split(' ').next().unwrap() {
            "sft" => {
                let options = case["options"].as_object().unwrap();
                let (ours, trls) = (sft(&encoder, &file, options), expected_sft(expected));
                if options.contains_key("packing") {
                    assert_eq!(sorted(ours), sorted(trls), "{name}");
                } else {
                    assert_eq!(ours, trls, "{name}");
                }
            }
            "dpo" => {
                let records =
                    read_records::<PreferenceRecord>(&file).unwrap().map(|line| line.unwrap().record);
                let ours: Vec<PreferenceRecord> = records.collect();
                assert_eq!(ours.len(), expected.len(), "{name}");
                for (ours, trls) in ours.iter().zip(expected) {
                    let ours = prompted(&encoder, &ours.prompt, &[&ours.chosen, &ours.rejected]);
                    assert_eq!(ours.prompt, ids(&trls["prompt_ids"]), "{name}");
                    assert_eq!(
                        ours.answers,
                        [ids(&trls["chosen_ids"]), ids(&trls["rejected_ids"])],
                        "{name}"
                    );
                }
            }
            _ => {
                let lines = read_records::<UnpairedLine>(&file).unwrap();
                let ours: Vec<_> = lines.flat_map(|line| line.unwrap().record.into_records()).collect();
                assert_eq!(ours.len(), expected.len(), "{name}");
                for (ours, trls) in ours.iter().zip(expected) {
                    let tokens = prompted(&encoder, &ours.prompt, &[&ours.completion]);
                    assert_eq!(tokens.prompt, ids(&trls["prompt_ids"]), "{name}");
                    assert_eq!(tokens.answers, [ids(&trls["completion_ids"])], "{name}");
                    assert_eq!(Some(ours.label), trls["label"].as_bool(), "{name}");
                }
            }
        }
    }
}

#[test]
fn a_prompt_to_answer_opens_the_assistants_turn_or_leaves_its_own_open() {
    let encoder = encoder("qwen3/policy");
    let spell = |turns: &[(&str, &str)]| {
        let turns = turns.iter().map(|(role, text)| rectify_feedback::Message::new(*role, *text)).collect();
        encoder.spell(&encoder.encode_prompt(&Text::Chat(turns), &Map::new()).unwrap())
    };
    assert_eq!(spell(&[("user", "Hi")]), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(
        spell(&[("user", "Hi"), ("assistant", "Well,")]),
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nWell,"
    );
}
