//! Process reward models: what `transformers` computes at step tokens, however the text is cut into chunks and whatever of
//! it comes from the prefix cache. Leaves rewards of whole texts to `model` and `encoders`.

use std::collections::BTreeMap;
use std::sync::Arc;

use rectify_engine::model::assemble::{self, ModelsConfig};
use rectify_engine::model::reading::{Aggregate, OutputActivation, RewardReading};
use rectify_engine::model::source::ModelSource;
use rectify_engine::request::{Message, ScoreInput};
use rectify_engine::{EngineConfig, EngineError, EngineHandle, ScoreRequest};
use rectify_tests::fixture::fixtures;
use rectify_tests::outcome::score;
use serde::Deserialize;

const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Expected {
    conversations: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt: String,
    steps: Vec<String>,
    text: String,
    /// `[steps, labels]`.
    logits: Vec<[f64; 2]>,
}

fn cases() -> Vec<Case> {
    let path = fixtures().join("models/qwen2-process/expected.json");
    let expected: Expected = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    expected.conversations
}

/// The share of `LABEL_1` at each step.
fn reading(aggregate: Aggregate) -> RewardReading {
    RewardReading {
        labels: BTreeMap::from([("LABEL_1".to_owned(), 1.0)]),
        activation: OutputActivation::Softmax,
        step_separator: Some("\n\n".into()),
        aggregate,
        ..RewardReading::default()
    }
}

fn models(folder: ModelSource, readings: &[(&str, RewardReading)]) -> ModelsConfig {
    ModelsConfig {
        rewards: readings.iter().map(|(name, _)| ((*name).to_owned(), folder.clone())).collect(),
        readings: readings.iter().map(|(name, reading)| ((*name).to_owned(), reading.clone())).collect(),
        kv_memory: 16 << 20,
        reward_kv_memory: 16 << 20,
        threads: Some(2),
        ..ModelsConfig::new(ModelSource::Folder(fixtures().join("models/llama/policy")))
    }
}

fn folder() -> ModelSource {
    ModelSource::Folder(fixtures().join("models/qwen2-process/reward"))
}

async fn rewards(engine: &EngineHandle, reward: &str, case: &Case) -> Result<Vec<f32>, EngineError> {
    let messages: Arc<[Message]> = [Message { role: "user".into(), content: case.prompt.clone() }].into();
    let answer = case.steps.join("\n\n");
    let candidates = vec![answer.clone(), case.steps[0].clone(), answer];
    let input = ScoreInput::Candidates { messages, candidates };
    score(engine, ScoreRequest { reward: Some(reward.into()), input, priority: 0 }).await
}

#[tokio::test]
async fn steps_have_pytorchs_rewards_in_any_chunks_and_from_a_warm_cache() {
    let aggregates = [
        ("min", Aggregate::Min),
        ("mean", Aggregate::Mean),
        ("prod", Aggregate::Prod),
        ("last", Aggregate::Last),
    ];
    let mut settings: Vec<_> =
        aggregates.iter().map(|&(name, aggregate)| (name, reading(aggregate))).collect();
    let raw = RewardReading { activation: OutputActivation::None, ..reading(Aggregate::Min) };
    settings.push(("raw", raw));
    let mut found: Vec<Vec<Vec<f32>>> = Vec::new();
    for (max_num_batched_tokens, prefix_caching) in [(2048, false), (2048, true), (16, true), (16, false)] {
        let engine = EngineConfig {
            max_num_batched_tokens,
            max_num_seqs: 8,
            prefix_caching,
            ..EngineConfig::default()
        };
        let (engine, _) = assemble::start(engine, models(folder(), &settings)).unwrap();
        for _ in 0..2 {
            let mut all = Vec::new();
            for (name, _) in &settings {
                for case in cases() {
                    all.push(rewards(&engine, name, &case).await.unwrap());
                }
            }
            found.push(all);
        }
    }
    assert!(
        found.windows(2).all(|pair| pair[0] == pair[1]),
        "chunks or the cache change a reward: {found:?}"
    );
    let cases = cases();
    let mut largest = 0.0f64;
    for (index, rewards) in found[0].iter().enumerate() {
        let (name, case) = (settings[index / cases.len()].0, &cases[index % cases.len()]);
        assert_eq!(rewards[0], rewards[2]);
        let share = |[no, yes]: [f64; 2]| 1.0 / (1.0 + (no - yes).exp());
        let steps = |count: usize| {
            let values: Vec<f64> = case.logits[..count]
                .iter()
                .map(|&logits| if name == "raw" { logits[1] } else { share(logits) })
                .collect();
            match name {
                "mean" => values.iter().sum::<f64>() / count as f64,
                "prod" => values.iter().product(),
                "last" => values[count - 1],
                _ => values.iter().copied().fold(f64::INFINITY, f64::min),
            }
        };
        for (found, wanted) in [(rewards[0], steps(case.steps.len())), (rewards[1], steps(1))] {
            let difference = (f64::from(found) - wanted).abs();
            assert!(difference <= TOLERANCE, "{name}: {found} instead of {wanted}");
            largest = largest.max(difference);
        }
    }
    eprintln!("{:<14} {largest:>11.1e}", "qwen2-process");
}

#[tokio::test]
async fn a_text_without_a_step_token_is_refused() {
    let unmarked = RewardReading { step_separator: None, ..reading(Aggregate::Min) };
    let (engine, _) = assemble::start(
        EngineConfig::default(),
        models(folder(), &[("marked", reading(Aggregate::Min)), ("unmarked", unmarked)]),
    )
    .unwrap();
    let case = &cases()[0];
    let error = rewards(&engine, "unmarked", case).await.unwrap_err().to_string();
    assert!(
        error.contains("holds no step token (400, \"<|step|>\"), where the reward model `unmarked` is read"),
        "{error}"
    );
    let marked = rewards(&engine, "marked", case).await.unwrap();
    let input = ScoreInput::Texts(vec![case.text.clone()]);
    let request = ScoreRequest { reward: Some("unmarked".into()), input, priority: 0 };
    assert_eq!(score(&engine, request).await.unwrap(), [marked[0]]);
}

#[test]
fn refusals_name_the_setting() {
    let refusal = |source: ModelSource, reading: RewardReading| {
        assemble::assemble(&models(source, &[("prm", reading)])).unwrap_err().to_string()
    };
    let raw = RewardReading { activation: OutputActivation::None, ..reading(Aggregate::Prod) };
    let error = refusal(folder(), raw);
    assert!(error.contains("`rewards.prm.aggregate` is prod, which is of probabilities"), "{error}");
    let outside = RewardReading { step_tag_id: Some(401), ..reading(Aggregate::Min) };
    let error = refusal(folder(), outside);
    assert!(error.contains("`rewards.prm.step_tag_id` is 401, but the tokenizer has 401 tokens"), "{error}");

    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder().path()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = copy.path().join("config.json");
    let untagged = std::fs::read_to_string(&path).unwrap().replace("step_tag_id", "other");
    std::fs::write(&path, untagged).unwrap();
    let error = refusal(ModelSource::Folder(copy.path().to_owned()), reading(Aggregate::Min));
    assert!(
        error.contains("config.json: `architectures` is of a classifier of tokens")
            && error.ends_with("set `rewards.prm.step_tag_id`"),
        "{error}"
    );
}
