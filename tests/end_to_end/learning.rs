//! The whole story over HTTP: people chat and vote, the shadow trainer makes an adapter of it, the gate passes it, it is
//! swapped in while streams are open, and answers are better. Leaves crashes to `crashes`, people's wishes to `versions`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use rectify_lab::data::{preference_prompts, prompts};
use rectify_lab::rng::{chance, rng_for};
use rectify_lab::{Item, Split, judge};
use serde_json::{Value, json};

use crate::harness::{Server, text};
use crate::people::{prefer, run_in, with};

/// Decides prompts and noise, unless `RECTIFY_TEST_SEED` does; other prompts than those the demo and the methods were chosen
/// by.
const SEED: u64 = 41;
/// Prompts that people ask at most.
const ASKED: usize = 9000;
/// Votes that start a run.
const VOTES: usize = 3000;
/// Share of votes that are the opposite of what their person thinks.
const NOISE: f64 = 0.1;
/// People; each says little, so that nobody looks like a flood.
const PEOPLE: usize = 200;
/// Requests at once.
const AT_ONCE: usize = 16;
/// Held-out prompts of each category.
const HELD_OUT: usize = 20;
/// Streams that are open all the time.
const STREAMS: usize = 3;
/// Swaps by hand after those of the run, an even number, and how long before and after each steps are looked at.
const SWAPS: usize = 8;
const AROUND: Duration = Duration::from_millis(300);

// Tests run beside each other, so no core is ever idle: the trainer takes a fair share. A tenth of the votes is wrong, and
// the loss reckons with it: the plain one learns the wrong facts by heart, and `capability` stops it.
const CONFIG: &str = "
shadow: {enabled: true, algorithm: dpo, every: 0s, min_records: 3000, threads: 2, priority: normal}
dpo: {loss_type: cdpo, label_smoothing: 0.1, learning_rate: 4.0e-4, lora_r: 16, lora_alpha: 32, beta: 0.5, per_device_train_batch_size: 8, max_steps: 600,
  warmup_steps: 20, save_steps: 50, logging_steps: 10}
gate: {probation: 8s}
probation: {share: 0.3}
";

fn is_good(item: &Item, answer: &str) -> bool {
    judge(&item.task, &item.prompt, answer).good
}

fn chat(model: &str, prompt: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 96})
}

fn seed() -> u64 {
    std::env::var("RECTIFY_TEST_SEED").map_or(SEED, |seed| seed.parse().unwrap())
}

/// People chat and vote until there are votes enough.
async fn people(server: &Server) -> usize {
    let mut rng = rng_for(seed(), "votes");
    let items = preference_prompts(ASKED, seed());
    let flips: Vec<bool> = items.iter().map(|_| chance(&mut rng, NOISE)).collect();
    let mut votes = 0;
    let mut asked = futures::stream::iter(items.iter().zip(flips).enumerate())
        .map(|(number, (item, flip))| async move {
            prefer(server, item, &format!("u-{}", number % PEOPLE), number, flip).await
        })
        .buffer_unordered(AT_ONCE);
    while votes < VOTES {
        votes += usize::from(asked.next().await.expect("prompts enough for the votes"));
    }
    votes
}

/// A token's arrival: when, how long after the one before.
#[derive(Clone, Copy, Debug)]
struct Gap {
    at: SystemTime,
    gap: Duration,
}

/// What somebody sees who always has a stream open.
async fn stream(server: &Server, number: usize, stop: &AtomicBool) -> (Vec<Gap>, usize) {
    let (mut gaps, mut streams) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let body = with(
            chat("demo", "How do I reset the Lumo lamp?"),
            json!({"stream": true, "ignore_eos": true, "seed": streams, "user": format!("reader-{number}-{streams}")}),
        );
        let request = server.http.post(format!("{}/v1/chat/completions", server.url)).json(&body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let (mut bytes, mut rest, mut versions, mut done) =
            (response.bytes_stream(), Vec::new(), BTreeSet::new(), false);
        let mut last: Option<Instant> = None;
        while let Some(piece) = bytes.next().await {
            rest.extend_from_slice(&piece.unwrap());
            // Tokens that arrive together are one arrival.
            let mut has_token = false;
            while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let Some(data) = std::str::from_utf8(&line).unwrap().trim().strip_prefix("data: ") else {
                    continue;
                };
                if data == "[DONE]" {
                    done = true;
                    continue;
                }
                let chunk: Value = serde_json::from_str(data).unwrap();
                assert!(chunk.get("error").is_none(), "{chunk}");
                versions.insert(text(&chunk["system_fingerprint"]).to_owned());
                has_token = true;
            }
            let now = Instant::now();
            if has_token && let Some(last) = last.replace(now) {
                gaps.push(Gap { at: SystemTime::now(), gap: now - last });
            }
        }
        assert!(done, "a stream broke off");
        assert_eq!(versions.len(), 1, "a stream saw two versions: {versions:?}");
        streams += 1;
    }
    (gaps, streams)
}

/// Somebody who drops in all the time, whatever the trainer does meanwhile.
async fn visitor(server: &Server, stop: &AtomicBool) -> usize {
    let mut answers = 0;
    while !stop.load(Ordering::Relaxed) {
        let answer = server.post("/v1/chat/completions", chat("demo", "What is 12 plus 30?")).await.ok();
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
        answers += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    answers
}

/// The share of good greedy answers on held-out prompts.
async fn good_share(server: &Server, model: &str) -> f64 {
    let items = prompts(Split::HeldOut, HELD_OUT, seed(), "learning-test").unwrap();
    let ask = async |item: &Item| {
        let answer = server
            .post("/v1/chat/completions", with(chat(model, &item.prompt), json!({"temperature": 0})))
            .await
            .ok();
        is_good(item, text(&answer["choices"][0]["message"]["content"]))
    };
    let good: Vec<bool> = futures::stream::iter(&items).map(ask).buffer_unordered(AT_ONCE).collect().await;
    good.iter().filter(|good| **good).count() as f64 / good.len() as f64
}

fn median(mut gaps: Vec<Duration>) -> Duration {
    gaps.sort_unstable();
    gaps[gaps.len() / 2]
}

/// Goes to the version before and back, while streams are open.
async fn swap_by_hand(server: &Server) -> Vec<SystemTime> {
    let mut swaps = Vec::new();
    for number in 0..SWAPS {
        tokio::time::sleep(3 * AROUND).await;
        swaps.push(SystemTime::now());
        let to = ["rollback", "1/promote"][number % 2];
        server.post(&format!("/v1/adapters/demo/{to}"), json!({})).await.ok();
    }
    tokio::time::sleep(2 * AROUND).await;
    swaps
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn votes_become_a_better_policy_while_people_go_on_chatting() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("rectify.yaml");
    std::fs::write(&config, CONFIG).unwrap();
    let options = ["--config", config.to_str().unwrap()];
    let server = Arc::new(Server::at(data.path(), &options).await);
    let begun = Instant::now();
    let before = good_share(&server, "demo").await;
    let votes = people(&server).await;
    let voted = begun.elapsed();

    let stop = Arc::new(AtomicBool::new(false));
    let visits = {
        let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
        tokio::spawn(async move { visitor(&server, &stop).await })
    };
    run_in(
        &server,
        &["training", "candidate", "validating", "published", "probation"],
        Duration::from_secs(30),
    )
    .await;
    run_in(&server, &["validating", "published", "probation"], Duration::from_secs(300)).await;
    let trained = begun.elapsed();
    let readers: Vec<_> = (0..STREAMS)
        .map(|number| {
            let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
            tokio::spawn(async move { stream(&server, number, &stop).await })
        })
        .collect();
    run_in(&server, &["published", "probation", "kept"], Duration::from_secs(300)).await;
    let judged = begun.elapsed();
    let run = run_in(&server, &["kept"], Duration::from_secs(60)).await;
    let mut swaps = swap_by_hand(&server).await;
    stop.store(true, Ordering::Relaxed);
    let (mut gaps, mut streams) = (Vec::new(), 0);
    for reader in readers {
        let (seen, count) = reader.await.unwrap();
        gaps.extend(seen);
        streams += count;
    }

    let visits = visits.await.unwrap();

    // Any single step may meet with a busy machine; what a swap costs is there each time.
    let events = server.get("/v1/events?limit=1000").await.ok();
    let at = |kind: &str| {
        let event = events["data"].as_array().unwrap().iter().find(|event| event["kind"] == kind);
        let millis = event.unwrap_or_else(|| panic!("no event {kind}: {events}"))["at"].as_u64().unwrap();
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    };
    // Those that bring an adapter in come second, as by hand.
    swaps.extend([at("kept"), at("published")]);
    let longest = |from: SystemTime| {
        let within = gaps.iter().filter(|gap| from < gap.at && gap.at < from + AROUND);
        within.map(|gap| gap.gap).max()
    };
    let ordinary = median(swaps.iter().filter_map(|swap| longest(*swap - AROUND)).collect());
    let at_swaps = |which: usize| {
        median(swaps.iter().skip(which).step_by(2).filter_map(|swap| longest(*swap)).collect())
    };
    let at_swap = at_swaps(0).max(at_swaps(1));

    let after = good_share(&server, "demo").await;
    let base = good_share(&server, "demo@base").await;
    println!(
        "{votes} votes in {voted:.0?}, trained after {trained:.0?}, judged after {judged:.0?}, all in {:.0?}; good greedy \
         answers {before:.3} before, {after:.3} after; {visits} visits, {streams} streams, {} tokens: the longest step takes \
         {ordinary:.1?} before and {at_swap:.1?} after a swap (medians of {} swaps, after them of the costlier kind)",
        begun.elapsed(),
        gaps.len(),
        swaps.len(),
    );
    println!("gate: {}", run["detail"]["gate"]);
    assert!((base - before).abs() < 1e-9, "the base still answers as it did: {base} and {before}");
    assert!(after - before >= 0.2, "good answers rose from {before:.3} to {after:.3} only");
    assert!(at_swap <= 2 * ordinary, "a swap makes the longest step {at_swap:?} of {ordinary:?}");
    assert_eq!(server.metric("rectify_swaps_total", "").await, (1 + SWAPS) as f64);

    // The audit log tells the story in order, and a restart comes back with the version.
    let kinds: Vec<&str> =
        events["data"].as_array().unwrap().iter().map(|event| text(&event["kind"])).collect();
    let mut story = vec!["run_started", "snapshot", "trained", "candidate", "published", "probation", "kept"];
    story.extend(["rolled_back", "promoted"].repeat(SWAPS / 2));
    assert_eq!(kinds, story);
    let version = server.get("/v1/adapters/demo/1").await.ok();
    assert_eq!((&version["serving"], &version["gate_report"]["verdict"]), (&json!("active"), &json!("pass")));
    Arc::into_inner(server).unwrap().kill();
    let server = Server::at(data.path(), &options).await;
    assert_eq!(server.get("/v1/adapters/demo").await.ok()["active"], "demo@1");
    let answer = server.post("/v1/chat/completions", chat("demo", "Hello!")).await.ok();
    assert_eq!(answer["system_fingerprint"], "demo@1");
}
