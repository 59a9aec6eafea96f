//! The embedded demo, judged by the lab's oracle: coherent but flawed alone, good when the best of sixteen is taken.
//! Leaves the whole measurement to the lab's recipe and its report.

use rectify_lab::data::prompts;
use rectify_lab::{Item, Split, judge};
use serde_json::{Value, json};

use crate::harness::{Server, number, text};

/// Other prompts than the report's, so that the demo was not chosen by them.
const SEED: u64 = 2026;
const PROMPTS_PER_CATEGORY: usize = 8;

fn request(item: &Item, n: usize) -> Value {
    json!({
        "model": "demo",
        "messages": [{"role": "user", "content": item.prompt}],
        "temperature": 1.0,
        "max_tokens": 96,
        "seed": 1,
        "alignment": {"strategy": "best_of_n", "n": n, "return_candidates": true},
    })
}

fn is_good(item: &Item, answer: &str) -> bool {
    judge(&item.task, &item.prompt, answer).good
}

#[tokio::test]
async fn best_of_sixteen_makes_a_flawed_policy_good() {
    let server = Server::demo().await;
    let items = prompts(Split::HeldOut, PROMPTS_PER_CATEGORY, SEED, "demo-test").unwrap();
    let (mut single, mut best, mut right, mut pairs) = (0.0, 0.0, 0.0, 0.0);
    for item in &items {
        let answer = server.post("/v1/chat/completions", request(item, 16)).await.ok();
        best += f64::from(u8::from(is_good(item, text(&answer["choices"][0]["message"]["content"]))));
        let candidates = answer["alignment"]["candidates"].as_array().unwrap();
        let judged: Vec<(bool, f64)> =
            candidates.iter().map(|c| (is_good(item, text(&c["text"])), number(&c["reward"]))).collect();
        single += judged.iter().filter(|(good, _)| *good).count() as f64 / judged.len() as f64;
        for (_, good) in judged.iter().filter(|(is_good, _)| *is_good) {
            for (_, bad) in judged.iter().filter(|(is_good, _)| !is_good) {
                pairs += 1.0;
                right += f64::from(u8::from(good > bad));
            }
        }
    }
    let total = items.len() as f64;
    let (single, best, accuracy) = (single / total, best / total, right / pairs);
    println!(
        "good alone {single:.3}, best of 16 {best:.3}, reward model right on {accuracy:.3} of {pairs} pairs"
    );
    // Everything is seeded, so these numbers repeat; the margins are for demos trained anew.
    assert!((0.3..=0.7).contains(&single), "alone, {single:.3} of the answers are good");
    assert!(best >= 0.88, "the best of sixteen is good for {best:.3} of {total} prompts");
    assert!(accuracy >= 0.85, "the reward model is right on {accuracy:.3} of {pairs} pairs");
}
