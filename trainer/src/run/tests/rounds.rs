//! Rounds of the loop: an adapter goes on from the last one, compared with the base or with its start, on a base that an
//! engine of the same process holds.

use std::path::Path;

use rectify_engine::EngineConfig;
use rectify_engine::model::assemble::{self, ModelsConfig, PolicyConfig};
use rectify_engine::model::source::ModelSource;
use rectify_engine::model::weights::WeightStore;
use rectify_kernels::WeightDtype;

use super::{log, model, run_until, settings};
use crate::{
    DpoConfig, HeldModel, LoraConfig, ModelStart, ReferencePolicy, TrainConfig, TrainError, Tuning, train_dpo,
};

fn round(folder: &Path, lora: LoraConfig) -> DpoConfig {
    let train = TrainConfig {
        tuning: Tuning::Lora(LoraConfig { lora_r: 4, lora_alpha: 8.0, lora_dropout: 0.0, ..lora }),
        max_steps: 3,
        max_length: 100,
        learning_rate: 1e-2,
        ..settings("llama/policy", "trajectory_pairs.jsonl", folder)
    };
    DpoConfig { train, ..DpoConfig::default() }
}

fn train(config: &DpoConfig) -> Result<(), TrainError> {
    run_until(usize::MAX, |control| train_dpo(config, control)).map(drop)
}

#[test]
fn a_round_goes_on_from_the_last_and_is_compared_as_was_asked() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    train(&round(&at("first"), LoraConfig::default())).unwrap();
    let first_margin = |reference, name: &str| {
        let start = LoraConfig { init_adapter: Some(at("first")), reference, ..LoraConfig::default() };
        train(&round(&at(name), start)).unwrap();
        log(&at(name))[0]["rewards/margins"].as_f64().unwrap()
    };
    assert_eq!(first_margin(ReferencePolicy::Start, "beside-start"), 0.0);
    assert!(first_margin(ReferencePolicy::Base, "beside-base").abs() > 1e-4);
    let other = LoraConfig { init_adapter: Some(at("first")), ..LoraConfig::default() };
    let mut other = round(&at("other"), other);
    other.train.tuning =
        Tuning::Lora(LoraConfig { lora_r: 8, init_adapter: Some(at("first")), ..LoraConfig::default() });
    let refusal = train(&other).unwrap_err().to_string();
    assert!(refusal.contains("lora_r") && refusal.contains("first"), "{refusal}");
}

#[test]
fn the_base_that_an_engine_serves_is_trained_on_without_a_copy() {
    let folder = tempfile::tempdir().unwrap();
    let ModelStart::Folder(base) = model("llama/policy") else { unreachable!() };
    let source = ModelSource::Folder(base);
    let store = WeightStore::default();
    let models = ModelsConfig {
        kv_memory: 1 << 20,
        threads: Some(1),
        ..ModelsConfig::of(PolicyConfig {
            weights: store.clone(),
            weight_dtype: Some(WeightDtype::F32),
            ..PolicyConfig::new(source.clone())
        })
    };
    let (engine, _) = assemble::start(EngineConfig::default(), models).unwrap();
    let (before, alone, shared) =
        (store.num_bytes(), folder.path().join("alone"), folder.path().join("shared"));
    assert!(before > 0);
    train(&round(&alone, LoraConfig::default())).unwrap();
    let mut config = round(&shared, LoraConfig::default());
    config.train.model =
        ModelStart::Held(HeldModel { source, weights: store.clone(), dtype: Some(WeightDtype::F32) });
    train(&config).unwrap();
    assert_eq!(store.num_bytes(), before);
    let adapter = |folder: &Path| std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    assert_eq!(adapter(&shared), adapter(&alone));
    config.train.tuning = Tuning::Full;
    assert!(train(&config).unwrap_err().to_string().starts_with("use_peft"));
    drop(engine);
}
