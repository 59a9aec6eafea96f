//! Every method of the loop inside a server: bare thumbs, edits, the served reward model; and a reward model trained on
//! people's pairs, which the loop takes or refuses by its hold-out. A few steps each: what is tested is what they learn from
//! and what becomes of it. Leaves how much they help to `learning` and to the lab.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use rectify_lab::Item;
use rectify_lab::data::preference_prompts;
use rectify_lab::rng::{chance, rng_for};
use serde_json::{Value, json};

use crate::harness::{Server, number, text};
use crate::people::{BLIND_SUITE, ask, chat, prefer, run_in, serving, thumb, vote, with};

const CONFIG: &str = "
shadow: {enabled: true, automatic: false, threads: 2, priority: normal}
kto: {max_steps: 2, lora_r: 2, per_device_train_batch_size: 4, report_to: none}
sft: {max_steps: 2, lora_r: 2, per_device_train_batch_size: 4, report_to: none}
grpo: {max_steps: 1, lora_r: 2, num_generations: 2, per_device_train_batch_size: 4, max_completion_length: 24, report_to: none}
ppo: {max_steps: 1, lora_r: 2, per_device_train_batch_size: 4, max_completion_length: 24, report_to: none}
reward_model: {max_steps: 60, lora_r: 8, learning_rate: 2.0e-3, per_device_train_batch_size: 8, eval_split: 0.5, report_to: none}
probation: {share: 0.5, min_answers: 0}
quality: {staleness: {window: 1}, stop: {min_accuracy: 0.0, max_suspect: 1.0}}
";
const PATIENCE: Duration = Duration::from_secs(60);

async fn server(data: &Path) -> Server {
    let (config, suite) = (data.join("rectify.yaml"), data.join("suite.yaml"));
    std::fs::write(&suite, BLIND_SUITE).unwrap();
    let gate = format!("gate: {{suite: {}, probation: 0s}}\n", suite.display());
    std::fs::write(&config, format!("{CONFIG}{gate}")).unwrap();
    Server::at(data, &["--config", config.to_str().unwrap()]).await
}

/// Runs `algorithm` to one of `ends`.
async fn run(server: &Server, algorithm: &str, ends: &[&str]) -> Value {
    // Votes of the very millisecond in which a run begins are the next one's.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    server.post("/v1/training/runs", json!({"algorithm": algorithm})).await.ok();
    run_in(server, ends, PATIENCE).await
}

/// People ask, one each, and say by `kind` what they think.
async fn people(server: &Server, items: &[Item], kind: &str, opinion: impl Fn(&Item, &Value) -> Value) {
    for (number, item) in items.iter().enumerate() {
        let person = format!("{kind}-{number}");
        let answer = ask(server, chat(&item.prompt, &person)).await;
        vote(server, &answer, &person, kind, opinion(item, &answer)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_method_learns_from_what_is_its_own_and_is_published() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path()).await;
    let items = preference_prompts(400, 91);

    // Nothing but thumbs: what fits is KTO.
    people(&server, &items[..72], "thumb", thumb).await;
    let kept = run(&server, "auto", &["kept"]).await;
    let count = |run: &Value, what: &str| run["detail"]["counts"][what].as_u64().unwrap();
    assert_eq!((&kept["algorithm"], &kept["version"]), (&json!("kto"), &json!("demo@1")));
    assert!(count(&kept, "pairs") < 64 && count(&kept, "thumbs") >= 64, "{kept}");

    // What people write instead is what SFT learns.
    serving(&server, "demo@1").await;
    let wish = |_: &Item, _: &Value| json!("Thank you for asking. I will gladly help.");
    people(&server, &items[72..90], "edit", wish).await;
    let kept = run(&server, "sft", &["kept"]).await;
    assert_eq!((&kept["algorithm"], &kept["version"]), (&json!("sft"), &json!("demo@2")));
    assert!(count(&kept, "edits") >= 16, "{kept}");

    // Prompts alone, answers of its own, and the served reward model as the judge; of the current version's prompts only.
    for (round, algorithm) in ["grpo", "ppo"].into_iter().enumerate() {
        let before = format!("demo@{}", 2 + round);
        serving(&server, &before).await;
        people(&server, &items[90 + 8 * round..98 + 8 * round], "thumb", thumb).await;
        let kept = run(&server, algorithm, &["kept"]).await;
        let version = format!("demo@{}", 3 + round);
        assert_eq!((&kept["version"], &kept["base_version"]), (&json!(version), &json!(before)));
        assert_eq!(count(&kept, "prompts"), 8, "{kept}");
        let manifest = server.get(&format!("/v1/adapters/demo/{}", 3 + round)).await.ok()["manifest"].clone();
        let judge = text(&manifest["config"]["rollout"]["reward"][0]["path"]);
        assert!(judge.ends_with("cache/demo-reward"), "the served one: {judge}");
        assert_eq!(manifest["algorithm"], algorithm);
    }
}

/// Votes on two answers to each prompt: what people think, or the toss of a coin.
async fn pairs(server: &Server, items: &[Item], is_thought: bool) {
    let mut rng = rng_for(17, "coins");
    let coins: Vec<bool> = items.iter().map(|_| chance(&mut rng, 0.5)).collect();
    let votes = items.iter().zip(coins).enumerate().map(|(number, (item, coin))| async move {
        let person = format!("judge-{number}");
        if is_thought {
            prefer(server, item, &person, number, false).await;
            return;
        }
        let two = json!({"n": 2, "temperature": 1.0, "seed": number});
        let answer = ask(server, with(chat(&item.prompt, &person), two)).await;
        let (better, worse) = (usize::from(coin), usize::from(!coin));
        vote(server, &answer, &person, "comparison", json!({"better": better, "worse": worse})).await;
    });
    futures::stream::iter(votes).buffer_unordered(8).collect::<Vec<()>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reward_model_is_taken_when_it_is_right_and_refused_when_it_guesses() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path()).await;
    let items = preference_prompts(1200, 92);
    pairs(&server, &items[..600], true).await;
    let kept = run(&server, "reward", &["kept"]).await;
    println!("{}", kept["detail"]);
    assert_eq!(kept["version"], "demo-reward@1");
    assert!(number(&kept["detail"]["metrics"]["eval_accuracy"]) >= 0.65, "{kept}");
    // Nobody is served by it, but who learns from rewards learns from it.
    assert_eq!(server.get("/v1/adapters/demo").await.ok()["active"], "demo@base");
    run(&server, "grpo", &["kept"]).await;
    let judge = async |version: usize| {
        let manifest = server.get(&format!("/v1/adapters/demo/{version}")).await.ok()["manifest"].clone();
        text(&manifest["config"]["rollout"]["reward"][0]["path"]).to_owned()
    };
    let first = judge(1).await;
    assert!(first.contains("demo-reward/1"), "{first}");

    // Votes by the toss of a coin: a hold-out says so, and the one before stays.
    serving(&server, "demo@1").await;
    pairs(&server, &items[600..], false).await;
    let rejected = run(&server, "reward", &["rejected"]).await;
    println!("{}", rejected["detail"]["reason"]);
    assert!(text(&rejected["detail"]["reason"]).contains("60"), "{rejected}");
    assert_eq!(rejected["version"], Value::Null, "{rejected}");
    run(&server, "grpo", &["kept"]).await;
    assert_eq!(judge(2).await, first);
}
