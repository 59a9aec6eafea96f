//! Whole runs of the methods that learn from preferences, on the tiny models of `tests/fixtures`: beside TRL,
//! accumulated, resumed, and on data with flaws.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::dpo::Dpo;
use super::logprobs::{Asked, Role};
use super::model::Model;
use super::offline::{self, Offline};
use super::progress::{Control, Progress};
use super::tests::{data, log, root, run_until, settings, weights};
use crate::losses::{DpoLossType, KtoLossType};
use crate::{
    CpoConfig, CpoConfigLossType, DpoConfig, KtoConfig, LoraConfig, OrpoConfig, RrhfConfig, TrainConfig,
    TrainError, TrainReport, Tuning, train_cpo, train_dpo, train_kto, train_orpo, train_rrhf,
};

const LLAMA: &str = "llama/policy";
const QWEN: &str = "qwen3/policy";
const PAIRS: &str = "trajectory_pairs.jsonl";
const PLAIN: &str = "trajectory_plain.jsonl";
const THUMBS: &str = "trajectory_thumbs.jsonl";

/// The settings of `fixtures/trajectory_offline.py`.
fn common(model: &str, data: &str, folder: &Path) -> TrainConfig {
    TrainConfig { max_steps: 20, max_length: 100, ..settings(model, data, folder) }
}

fn whole<C>(
    config: &C,
    train: impl Fn(&C, &mut Control<'_>) -> Result<TrainReport, TrainError>,
) -> TrainReport {
    run_until(usize::MAX, |control| train(config, control)).unwrap()
}

/// Every step's loss, gradient norm and metrics within 1 % of TRL's.
fn follows_trl(case: &str, skipped: &[&str], folder: &Path) {
    follows("trajectory_offline.json", case, skipped, folder);
}

fn follows(file: &str, case: &str, skipped: &[&str], folder: &Path) {
    let text = std::fs::read_to_string(root().join("fixtures").join(file)).unwrap();
    let fixture: Value = serde_json::from_str(&text).unwrap();
    let (got, want) = (log(folder), fixture[case].as_array().unwrap());
    assert_eq!(got.len(), want.len());
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        for (key, want) in
            want.as_object().unwrap().iter().filter(|(key, _)| !skipped.contains(&key.as_str()))
        {
            let (Some(got), Some(want)) = (got[key].as_f64(), want.as_f64()) else {
                panic!("{case}, step {}: no {key} in {got}", step + 1);
            };
            // Differences of numbers that cancel have the noise of f32; so have gradients when nothing is left to learn.
            let bound = 0.01 * want.abs().max(2e-3);
            assert!((got - want).abs() <= bound, "{case}, step {}: {key} is {got}, not {want}", step + 1);
        }
    }
}

fn dpo(case: &str, model: &str, data: &str, change: impl FnOnce(&mut DpoConfig)) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = DpoConfig { train: common(model, data, folder.path()), ..DpoConfig::default() };
    change(&mut config);
    whole(&config, train_dpo);
    follows_trl(case, &[], folder.path());
}

#[test]
fn dpo_follows_trl() {
    dpo("dpo", LLAMA, PAIRS, |_| {});
}

#[test]
fn ipo_follows_trl() {
    dpo("dpo_ipo", QWEN, PLAIN, |config| config.loss_type = vec![DpoLossType::Ipo]);
}

#[test]
fn a_sum_of_losses_with_ld_alpha_follows_trl() {
    dpo("dpo_sum", LLAMA, PLAIN, |config| {
        config.loss_type = vec![DpoLossType::Sigmoid, DpoLossType::BcoPair, DpoLossType::Sft];
        config.loss_weights = Some(vec![0.8, 0.2, 0.5]);
        config.ld_alpha = Some(0.5);
    });
}

#[test]
fn weighted_pairs_follow_trl() {
    dpo("dpo_wpo", LLAMA, PAIRS, |config| {
        config.loss_type = vec![DpoLossType::SigmoidNorm, DpoLossType::NcaPair];
        config.use_weighting = true;
    });
}

fn lora() -> Tuning {
    Tuning::Lora(LoraConfig { lora_r: 4, lora_alpha: 8.0, ..LoraConfig::default() })
}

#[test]
fn dpo_on_adapters_follows_trl_from_the_same_start() {
    let folder = tempfile::tempdir().unwrap();
    let train = TrainConfig { tuning: lora(), ..common(LLAMA, PAIRS, folder.path()) };
    let config = DpoConfig { train, ..DpoConfig::default() };
    let bytes = std::fs::read(root().join("fixtures/trajectory_lora.safetensors")).unwrap();
    let start = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    run_until(usize::MAX, |control| {
        let mut model = offline::model(&config.train, true)?;
        for param in model.tape.params.trainable_mut() {
            let name = format!("base_model.model.{}", param.parts[0].name);
            if name.contains("lora_A") {
                let tensor = start.tensor(&name).unwrap();
                bytemuck::cast_slice_mut::<f32, u8>(&mut param.data).copy_from_slice(tensor.data());
            }
        }
        let examples = offline::load::<rectify_feedback::PreferenceRecord>(&config.train, &model, control)?;
        let method = Offline::new(Dpo::new(&config, &examples), examples);
        offline::run("dpo", (&config.train, Value::Null), method, model, control)
    })
    .unwrap();
    follows_trl("dpo_lora", &[], folder.path());
}

#[test]
fn kto_follows_trl() {
    let folder = tempfile::tempdir().unwrap();
    let train = common(LLAMA, THUMBS, folder.path());
    whole(&KtoConfig { train, desirable_weight: 1.5, ..KtoConfig::default() }, train_kto);
    follows_trl("kto", &[], folder.path());
}

#[test]
fn apo_on_thumbs_follows_trl() {
    let folder = tempfile::tempdir().unwrap();
    let train = common(QWEN, THUMBS, folder.path());
    let loss_type = KtoLossType::ApoZeroUnpaired;
    whole(&KtoConfig { train, loss_type, beta: 0.3, ..KtoConfig::default() }, train_kto);
    follows_trl("kto_apo", &[], folder.path());
}

/// TRL takes these over prompts and padding too.
const LOGITS: [&str; 2] = ["logits/chosen", "logits/rejected"];

#[test]
fn orpo_follows_trl() {
    let folder = tempfile::tempdir().unwrap();
    whole(&OrpoConfig { train: common(LLAMA, PLAIN, folder.path()), ..OrpoConfig::default() }, train_orpo);
    follows_trl("orpo", &LOGITS, folder.path());
}

#[test]
fn cpo_follows_trl() {
    let folder = tempfile::tempdir().unwrap();
    whole(&CpoConfig { train: common(LLAMA, PLAIN, folder.path()), ..CpoConfig::default() }, train_cpo);
    follows_trl("cpo", &LOGITS, folder.path());
}

#[test]
fn simpo_follows_trl() {
    let folder = tempfile::tempdir().unwrap();
    let config = CpoConfig {
        train: common(LLAMA, PLAIN, folder.path()),
        loss_type: CpoConfigLossType::Simpo,
        beta: 2.0,
        simpo_gamma: 1.0,
        cpo_alpha: 0.0,
        ..CpoConfig::default()
    };
    whole(&config, train_cpo);
    follows_trl("simpo", &LOGITS, folder.path());
}

#[test]
fn rrhf_follows_its_paper_and_learns_to_rank() {
    let folder = tempfile::tempdir().unwrap();
    whole(&RrhfConfig { train: common(LLAMA, PLAIN, folder.path()), ..RrhfConfig::default() }, train_rrhf);
    let log = log(folder.path());
    assert_eq!(log[19]["rewards/accuracies"], 1.0);
    follows("trajectory_rrhf.json", "rrhf", &[], folder.path());
}

#[test]
fn an_untrained_policy_is_its_reference() {
    let folder = tempfile::tempdir().unwrap();
    let train = TrainConfig { tuning: lora(), max_steps: 1, ..common(LLAMA, PAIRS, folder.path()) };
    whole(&DpoConfig { train: train.clone(), ..DpoConfig::default() }, train_dpo);
    assert_eq!(log(folder.path())[0]["loss"].as_f64().unwrap(), std::f64::consts::LN_2);
    whole(
        &KtoConfig { train: TrainConfig { data: data(THUMBS), ..train }, ..KtoConfig::default() },
        train_kto,
    );
    let first = &log(folder.path())[0];
    assert_eq!(first["kl"], 0.0);
    assert!((first["loss"].as_f64().unwrap() - 0.5).abs() < 1e-15, "{first}");
}

#[test]
fn accumulation_is_the_same_as_a_larger_batch() {
    let folder = tempfile::tempdir().unwrap();
    // Its lines, the first two of them again.
    let eight = |name: &str| {
        let text = std::fs::read_to_string(&data(name)[0]).unwrap();
        let (file, lines) = (folder.path().join(name), text.lines().cycle().take(8));
        std::fs::write(&file, lines.collect::<Vec<&str>>().join("\n")).unwrap();
        file
    };
    let case = |name: &str, batch: usize, accumulation: usize| {
        let folder = folder.path().join(format!("{name}-{batch}"));
        let train = TrainConfig {
            per_device_train_batch_size: batch,
            gradient_accumulation_steps: accumulation,
            max_steps: 6,
            data: vec![eight(if name == "kto" { THUMBS } else { PLAIN })],
            ..common(LLAMA, PLAIN, &folder)
        };
        match name {
            "dpo" => whole(
                &DpoConfig {
                    train,
                    loss_type: vec![DpoLossType::Sigmoid, DpoLossType::Sft],
                    ..DpoConfig::default()
                },
                train_dpo,
            ),
            "kto" => {
                // Without a KL estimate, which is of a forward pass.
                let loss_type = KtoLossType::ApoZeroUnpaired;
                whole(&KtoConfig { train, loss_type, ..KtoConfig::default() }, train_kto)
            }
            "rrhf" => whole(&RrhfConfig { train, ..RrhfConfig::default() }, train_rrhf),
            "orpo" => whole(&OrpoConfig { train, ..OrpoConfig::default() }, train_orpo),
            _ => whole(&CpoConfig { train, ..CpoConfig::default() }, train_cpo),
        };
        log(&folder)
    };
    for name in ["dpo", "kto", "orpo", "cpo", "rrhf"] {
        for (step, (large, small)) in case(name, 8, 1).iter().zip(case(name, 1, 8)).enumerate() {
            // A margin of means takes both kinds of thumbs in one pass.
            let keys = large
                .as_object()
                .unwrap()
                .iter()
                .filter(|(key, _)| name != "kto" || *key != "rewards/margins");
            for (key, large) in keys {
                let (large, small) = (large.as_f64().unwrap(), small[key].as_f64().unwrap());
                let bound = 2e-4 * large.abs().max(1.0);
                assert!((large - small).abs() < bound, "{name}, step {step}: {key} is {large} or {small}");
            }
        }
    }
}

#[test]
fn a_resumed_run_gives_the_bits_of_an_uninterrupted_one() {
    for tuning in [Tuning::Full, lora()] {
        let folder = tempfile::tempdir().unwrap();
        let config = |name: &str| {
            let train = TrainConfig {
                tuning: tuning.clone(),
                max_steps: 10,
                per_device_train_batch_size: 2,
                gradient_accumulation_steps: 2,
                logging_steps: 3,
                eval_split: 0.2,
                ..common(LLAMA, PAIRS, &folder.path().join(name))
            };
            DpoConfig { train, disable_dropout: false, ..DpoConfig::default() }
        };
        whole(&config("whole"), train_dpo);
        let mut parts = config("parts");
        assert!(run_until(4, |control| train_dpo(&parts, control)).unwrap().stopped);
        parts.train.resume = true;
        whole(&parts, train_dpo);
        assert_eq!(log(&folder.path().join("whole")), log(&folder.path().join("parts")));
        let read = |name: &str| match tuning {
            Tuning::Full => weights(&folder.path().join(name)),
            Tuning::Lora(_) => {
                std::fs::read(folder.path().join(name).join("adapter_model.safetensors")).unwrap()
            }
        };
        assert_eq!(read("whole"), read("parts"));
    }
}

#[test]
fn merged_adapters_say_what_they_say_beside_the_base() {
    let folder = tempfile::tempdir().unwrap();
    let adapted = TrainConfig { tuning: lora(), ..common(LLAMA, PAIRS, folder.path()) };
    let mut model = offline::model(&adapted, true).unwrap();
    let mut lora: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (index, param) in model.tape.params.trainable_mut().enumerate() {
        // Training starts from `lora_B` at zero, which would make this test say nothing.
        let wave = |element: usize| ((element * 7 + index) as f32).sin() * 0.05;
        param.data.iter_mut().enumerate().for_each(|(element, value)| *value += wave(element));
        lora.insert(param.parts[0].name.clone(), param.data.clone());
    }
    let mut merged = offline::model(&TrainConfig { tuning: Tuning::Full, ..adapted }, true).unwrap();
    for param in merged.tape.params.trainable_mut() {
        let (parts, mut from) = (param.parts.clone(), 0);
        for part in parts {
            let module = part.name.trim_end_matches(".weight");
            if let Some(a) = lora.get(&format!("{module}.lora_A.weight")) {
                let (b, inputs) = (&lora[&format!("{module}.lora_B.weight")], part.shape[1]);
                for (element, weight) in param.data[from..from + part.num_elements()].iter_mut().enumerate() {
                    let (row, column) = (element / inputs, element % inputs);
                    let product = (0..4).map(|rank| b[4 * row + rank] * a[rank * inputs + column]);
                    *weight += 2.0 * product.sum::<f32>();
                }
            }
            from += part.num_elements();
        }
    }
    let text = [Asked { ids: vec![5, 9, 300, 4, 77, 12], from: 1 }];
    let say = |model: &mut Model, role| model.token_logprobs(&text, role).unwrap().values;
    let (beside, base) = (say(&mut model, Role::Policy(None)), say(&mut model, Role::Reference));
    let inside = say(&mut merged, Role::Policy(None));
    let largest = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(largest(&beside, &base) > 0.01, "the adapters do nothing");
    assert!(largest(&beside, &inside) < 1e-4, "{beside:?} and {inside:?}");
}

/// Warnings of a run, or its error.
fn outcome(
    lines: &str,
    change: impl FnOnce(&mut TrainConfig),
    train: impl Fn(TrainConfig, &mut Control<'_>) -> Result<TrainReport, TrainError>,
) -> Result<Vec<String>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("lines.jsonl");
    std::fs::write(&file, lines).unwrap();
    let mut config = common(LLAMA, PAIRS, &folder.path().join("out"));
    (config.data, config.max_steps) = (vec![file], 1);
    change(&mut config);
    let mut warnings = Vec::new();
    let mut progress = |event: &Progress| {
        if let Progress::Warning(sentence) = event {
            warnings.push(sentence.clone());
        }
    };
    let stop = std::sync::atomic::AtomicBool::new(false);
    let result = train(config, &mut Control { progress: &mut progress, stop: &stop });
    result.map(|_| warnings).map_err(|error| error.to_string())
}

const GOOD: &str = r#"{"prompt": "One two", "chosen": " three", "rejected": " nine"}"#;

#[test]
fn pairs_with_flaws_are_left_out_and_counted_or_named() {
    let train =
        |train, control: &mut Control<'_>| train_dpo(&DpoConfig { train, ..DpoConfig::default() }, control);
    let long = format!(r#"{{"prompt": "a", "chosen": "{}", "rejected": "b"}}"#, "many words ".repeat(60));
    let filled = format!(r#"{{"prompt": "{}", "chosen": "a", "rejected": "b"}}"#, "many words ".repeat(60));
    let silent =
        r#"{"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": ""}],
        "rejected": [{"role": "assistant", "content": "b"}]}"#
            .replace('\n', "");
    for (line, part) in [
        (r#"{"prompt": "a", "chosen": "b", "rejected": "b"}"#, "1 lines have the same answer twice"),
        (&long, "1 lines are longer than max_length"),
        (&filled, "1 lines have a prompt that alone fills max_length"),
        (&silent, "1 lines have an empty answer"),
    ] {
        let warnings = outcome(&format!("{GOOD}\n{line}\n"), |_| {}, train).unwrap();
        assert!(warnings.iter().any(|warning| warning.contains(part)), "{warnings:?}");
    }
    for (line, part) in [
        (r#"{"prompt": "a", "chosen": "", "rejected": "b"}"#, "lines.jsonl:2: `chosen`"),
        (r#"{"prompt": "a", "chosen": "c", "rejected": "b", "margin": NaN}"#, "lines.jsonl:2"),
        (r#"{"prompt": "a", "chosen": "c"}"#, "lines.jsonl:2: `rejected` is missing"),
    ] {
        let error = outcome(&format!("{GOOD}\n{line}\n"), |_| {}, train).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let error = outcome(r#"{"prompt": "a", "chosen": "b", "rejected": "b"}"#, |_| {}, train).unwrap_err();
    assert!(error.contains("no example is left to train on"), "{error}");
}

#[test]
fn thumbs_of_one_kind_are_said_and_a_single_one_is_refused() {
    let train =
        |train, control: &mut Control<'_>| train_kto(&KtoConfig { train, ..KtoConfig::default() }, control);
    let line = |prompt: &str, answer: &str, label: bool| {
        format!(r#"{{"prompt": "{prompt}", "completion": "{answer}", "label": {label}}}"#) + "\n"
    };
    let likes = line("a", " b", true) + &line("c", " d", true);
    let warnings = outcome(&likes, |_| {}, train).unwrap();
    assert!(
        warnings.len() == 1 && warnings[0].contains("every label of the training data is true"),
        "{warnings:?}"
    );
    let warnings = outcome(&(likes + &line("e", "", false) + &line("e", "f", false)), |_| {}, train).unwrap();
    assert!(warnings[0].contains("1 lines have an empty answer"), "{warnings:?}");
    let error = outcome(&line("a", "b", true), |_| {}, train).unwrap_err();
    assert!(error.contains("kto needs at least two examples"), "{error}");
    let single = |config: &mut TrainConfig| config.per_device_train_batch_size = 1;
    let error = outcome(&line("a", "b", true), single, train).unwrap_err();
    assert!(error.contains("per_device_train_batch_size: give 2 or more"), "{error}");
}
