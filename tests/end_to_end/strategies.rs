//! Every strategy of the menu over HTTP and on the command line: what it answers, what it accounts for, and that a seed
//! repeats it. Leaves best-of-N itself to `alignment` and what a strategy decides to the engine's tests.

use serde_json::{Value, json};

use crate::harness::{Server, model, number, run, text};

/// A request of 24 tokens a candidate at most, none of which ends before.
fn ask(alignment: Value) -> Value {
    json!({
        "model": "policy",
        "messages": [{"role": "user", "content": "Say something about lamps, please."}],
        "max_tokens": 24,
        "ignore_eos": true,
        "seed": 3,
        "alignment": alignment,
    })
}

async fn answer(server: &Server, alignment: Value) -> Value {
    server.post("/v1/chat/completions", ask(alignment)).await.ok()
}

fn candidates(answer: &Value) -> &[Value] {
    answer["alignment"]["candidates"].as_array().unwrap()
}

/// `alignment` of a strategy with all candidates reported.
fn with(strategy: &str, fields: Value) -> Value {
    let mut alignment = json!({"strategy": strategy, "n": 8, "return_candidates": true});
    alignment.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    alignment
}

fn pruning() -> Value {
    with("speculative_rejection", json!({"early_stop": {"alpha": 0.5, "first_check": 4}}))
}

#[tokio::test]
async fn every_strategy_accounts_for_its_tokens_and_repeats() {
    let server = Server::llama(&[]).await;
    let adaptive = json!({"early_stop": {"cost": 0.01, "first": 2, "round": 2}});
    for alignment in [
        pruning(),
        with("adaptive", adaptive),
        with("blockwise", json!({"block_tokens": 5})),
        with("mbr", json!({"mbr_weight": 0.5})),
        with("majority", json!({"extract": "text"})),
        with("best_of_n", json!({"select": "softmax", "select_temperature": 0.3})),
        with("best_of_n", json!({"reward_per_token": true})),
    ] {
        let first = answer(&server, alignment.clone()).await;
        let (report, usage) = (&first["alignment"], &first["usage"]);
        assert_eq!((&report["strategy"], &report["scoring"]), (&alignment["strategy"], &json!("ok")));
        let selected = report["selected"][0].as_u64().unwrap() as usize;
        let winner = &candidates(&first)[selected];
        let choice = &first["choices"][0];
        assert_eq!((&choice["message"]["content"], &choice["reward"]), (&winner["text"], &winner["reward"]));
        let generated = number(&report["tokens_generated"]);
        assert_eq!(generated, number(&usage["completion_tokens"]), "{alignment}");
        let rejected = number(&usage["completion_tokens_details"]["rejected_prediction_tokens"]);
        assert_eq!(rejected, generated - number(&winner["tokens"]), "{alignment}");
        assert!(number(&report["tokens_pruned"]) <= rejected, "{report}");
        assert!(number(&report["kl_bound"]) > 0.0);
        let again = answer(&server, alignment).await;
        assert_eq!((&again["alignment"], &again["choices"]), (report, &first["choices"]));
    }
}

#[tokio::test]
async fn pruned_candidates_are_beginnings_of_what_they_would_have_said() {
    let server = Server::llama(&[]).await;
    let pruned = answer(&server, pruning()).await;
    let whole = answer(&server, with("best_of_n", json!({}))).await;
    let mut num_pruned = 0.0;
    for (candidate, whole) in candidates(&pruned).iter().zip(candidates(&whole)) {
        assert!(text(&whole["text"]).starts_with(text(&candidate["text"])), "{candidate}");
        assert_eq!(candidate["pruned"].as_bool().unwrap(), candidate["finish_reason"].is_null());
        if candidate["pruned"] == true {
            num_pruned += number(&candidate["tokens"]);
        } else {
            assert_eq!((&candidate["text"], &candidate["reward"]), (&whole["text"], &whole["reward"]));
        }
    }
    // Four of eight at 4 tokens, two at 8, one at 16.
    assert_eq!(number(&pruned["alignment"]["tokens_pruned"]), 4.0 * 4.0 + 2.0 * 8.0 + 16.0);
    assert_eq!(num_pruned, number(&pruned["alignment"]["tokens_pruned"]));
}

#[tokio::test]
async fn adaptive_draws_the_first_of_what_best_of_n_draws() {
    let server = Server::llama(&[]).await;
    let settled = json!({"early_stop": {"cost": 1000.0, "first": 3}});
    let few = answer(&server, with("adaptive", settled)).await;
    let all = answer(&server, with("adaptive", json!({"early_stop": {"cost": 0.0}}))).await;
    let whole = answer(&server, with("best_of_n", json!({}))).await;
    assert_eq!((few["alignment"]["n"].as_u64(), all["alignment"]["n"].as_u64()), (Some(3), Some(8)));
    assert_eq!(candidates(&few), &candidates(&whole)[..3]);
    assert_eq!(candidates(&all), candidates(&whole));
}

#[tokio::test]
async fn blocks_stream_as_they_are_chosen() {
    let server = Server::llama(&[]).await;
    let alignment = with("blockwise", json!({"block_tokens": 6}));
    let whole = answer(&server, alignment.clone()).await;
    let mut body = ask(alignment);
    body["stream"] = json!(true);
    let stream = server.stream("/v1/chat/completions", body.clone()).await;
    assert_eq!(stream.text(0), text(&whole["choices"][0]["message"]["content"]));
    let pieces = stream.chunks.iter().filter(|chunk| {
        chunk["choices"][0]["delta"]["content"].as_str().is_some_and(|content| !content.is_empty())
    });
    assert_eq!(pieces.count(), 4, "24 tokens in blocks of 6");
    let last = stream.chunks.iter().rfind(|chunk| chunk["alignment"].is_object()).unwrap();
    assert_eq!((&last["alignment"], stream.done), (&whole["alignment"], true));
    body["n"] = json!(2);
    let message = server.post("/v1/chat/completions", body).await.refused(400);
    assert!(message.contains("blockwise"), "{message}");
}

#[tokio::test]
async fn reward_models_judge_together() {
    let server = Server::llama(&[]).await;
    for (reward, combined) in [
        (json!({"combine": "min"}), (|helpful: f64, own: f64| helpful.min(own)) as fn(f64, f64) -> f64),
        (json!({"combine": "mean", "models": ["own", "helpful"]}), |helpful, own| (helpful + own) / 2.0),
        (json!({"combine": "mean_minus_std", "lambda": 1.0}), |helpful, own| {
            (helpful + own) / 2.0 - (helpful - own).abs() / 2.0
        }),
        (
            json!({"combine": "safety_gated", "helpful": "own", "safety": "helpful", "threshold": 0.0}),
            |helpful, own| if helpful >= 0.0 { own } else { helpful },
        ),
    ] {
        let answer = answer(&server, with("best_of_n", json!({"reward": reward}))).await;
        let named = text(&answer["alignment"]["reward_model"]);
        assert!(named.starts_with(text(&reward["combine"])) && named.contains("own"), "{named}");
        for candidate in candidates(&answer) {
            let (helpful, own) =
                (number(&candidate["rewards"]["helpful"]), number(&candidate["rewards"]["own"]));
            assert!((number(&candidate["reward"]) - combined(helpful, own)).abs() < 1e-5, "{candidate}");
        }
    }
}

/// The `llama` fixture with a reward model that compares answers.
async fn comparing() -> Server {
    let (policy, pairs) = (model("llama/policy"), format!("pairs={}", model("pairrm/reward")));
    let own = format!("own={}", model("llama/reward"));
    Server::start(&["--policy", &policy, "--dtype", "float32", "--reward", &pairs, "--reward", &own]).await
}

/// What `/v1/score` says of texts.
async fn scored(server: &Server, texts: &[&str]) -> Vec<f64> {
    let messages = json!([{"role": "user", "content": "Say something about lamps, please."}]);
    let body = json!({"model": "pairs", "messages": messages, "candidates": texts});
    let answer = server.post("/v1/score", body).await.ok();
    answer["rewards"].as_array().unwrap().iter().map(number).collect()
}

#[tokio::test]
async fn answers_are_compared_all_with_all_or_in_a_tournament() {
    let server = comparing().await;
    let tournament = answer(&server, with("tournament", json!({}))).await;
    let all = answer(&server, with("best_of_n", json!({}))).await;
    let said = |answer: &Value| -> Vec<String> {
        candidates(answer).iter().map(|candidate| text(&candidate["text"]).to_owned()).collect()
    };
    assert_eq!(said(&tournament), said(&all), "the same candidates");
    let texts = said(&all);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let rewards: Vec<f64> = candidates(&all).iter().map(|candidate| number(&candidate["reward"])).collect();
    assert_eq!(rewards, scored(&server, &texts).await);
    let mut champion = 0;
    for next in 1..texts.len() {
        if scored(&server, &[texts[champion], texts[next]]).await[0] < 0.0 {
            champion = next;
        }
    }
    let report = &tournament["alignment"];
    assert_eq!((&report["strategy"], &report["selected"]), (&json!("tournament"), &json!([champion])));
    let winner = &candidates(&tournament)[champion];
    let choice = &tournament["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["reward"]), (&winner["text"], &winner["reward"]));
    assert!(number(&winner["reward"]) >= 0.0 && report["scoring"] == "ok");
    // Two choices: the second is the best of the others.
    let mut body = ask(with("tournament", json!({})));
    body["n"] = json!(2);
    let two = server.post("/v1/chat/completions", body).await.ok();
    assert_eq!(two["alignment"]["selected"][0], json!(champion));
    assert_eq!(two["choices"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn comparing_is_refused_where_an_answer_is_alone() {
    let server = comparing().await;
    for (alignment, word) in [
        (with("adaptive", json!({})), "adaptive needs the reward of an answer alone"),
        (with("blockwise", json!({})), "use best_of_n or tournament"),
        (pruning(), "speculative_rejection needs"),
        (json!({"n": 1}), "between 2 and 256, but there is 1"),
        (json!({"strategy": "tournament", "n": 4, "reward": {"combine": "mean"}}), "takes one reward model"),
    ] {
        let message = server.post("/v1/chat/completions", ask(alignment.clone())).await.refused(400);
        assert!(message.contains(word), "{alignment}: {message}");
    }
    let alone = json!({"model": "pairs", "input": "a text"});
    let message = server.post("/classify", alone).await.refused(400);
    assert!(message.contains("compares answers, so a text alone has no reward"), "{message}");
    // Among rewards a tournament is won by the highest.
    let own = answer(&server, with("tournament", json!({"reward": "own"}))).await;
    let best = answer(&server, with("best_of_n", json!({"reward": "own"}))).await;
    assert_eq!(own["alignment"]["selected"], best["alignment"]["selected"]);
}

#[test]
fn the_command_line_compares_answers() {
    let folder = tempfile::tempdir().unwrap();
    let lines = [
        r#"{"prompt": "Why?", "candidates": ["Because.", "No.", "Thank you!"]}"#,
        r#"{"prompt": "Why?", "chosen": "Because.", "rejected": "No."}"#,
        r#"{"prompt": "Why?", "completion": "Because."}"#,
    ];
    std::fs::write(folder.path().join("lines.jsonl"), lines.join("\n")).unwrap();
    let reward = format!("pairs={}", model("pairrm/reward"));
    run(folder.path(), &["score", "-i", "lines.jsonl", "-o", "out.jsonl", "--reward", &reward]);
    let written = std::fs::read_to_string(folder.path().join("out.jsonl")).unwrap();
    let lines: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rewards: Vec<f64> = lines[0]["reward"].as_array().unwrap().iter().map(number).collect();
    assert!(rewards.len() == 3 && rewards.iter().sum::<f64>().abs() < 1e-5, "{rewards:?}");
    assert_eq!(number(&lines[1]["reward_chosen"]), -number(&lines[1]["reward_rejected"]));
    assert!(lines[2]["reward"].is_null(), "alone");
    std::fs::write(folder.path().join("prompts.jsonl"), "{\"prompt\": \"Why?\"}\n").unwrap();
    let line = ["generate", "-i", "prompts.jsonl", "-n", "4", "--max-tokens", "8", "--keep", "all"];
    for strategy in ["tournament", "best_of_n"] {
        let output = format!("{strategy}.jsonl");
        let options = ["--strategy", strategy, "-o", &output, "--reward", &reward];
        run(folder.path(), &[&line[..], &options].concat());
        let line: Value =
            serde_json::from_str(&std::fs::read_to_string(folder.path().join(output)).unwrap()).unwrap();
        assert!(
            line["candidates"].as_array().unwrap().iter().all(|candidate| candidate["reward"].is_number())
        );
    }
}

#[tokio::test]
async fn a_configured_combination_decides_where_a_request_names_no_reward() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("rectify.yaml");
    let yaml = "reward: {combine: safety_gated, helpful: own, safety: helpful}\n\
                profiles: {frugal: {strategy: adaptive, n: 6, early_stop: {cost: 1000, first: 2}}}\n";
    std::fs::write(&config, yaml).unwrap();
    let server = Server::llama(&["--config", config.to_str().unwrap()]).await;
    let mut body = ask(Value::Null);
    body["model"] = json!("policy:frugal");
    let answer = server.post("/v1/chat/completions", body).await.ok();
    let report = &answer["alignment"];
    assert_eq!(report["reward_model"], "safety_gated(own, helpful)");
    assert_eq!((&report["strategy"], &report["n"]), (&json!("adaptive"), &json!(2)));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_in_one_sentence() {
    let server = Server::llama(&[]).await;
    for (alignment, word) in [
        (json!({"strategy": "beam"}), "speculative_rejection"),
        (json!({"strategy": "speculative_rejection", "early_stop": {"alpha": 2}}), "between 0 and 1"),
        (json!({"strategy": "adaptive", "early_stop": {"alpha": 0.5}}), "belongs to `speculative_rejection`"),
        (json!({"strategy": "majority", "extract_pattern": "("}), "regular expression"),
        (json!({"reward": {"combine": "weighted", "weights": [1]}}), "1 weights for 2"),
        (json!({"reward": 7}), "name or an object"),
        (json!({"early_stop": "soon"}), "early_stop"),
    ] {
        let message = server.post("/v1/chat/completions", ask(alignment.clone())).await.refused(400);
        assert!(message.contains(word), "{alignment}: {message}");
    }
}

#[test]
fn the_command_line_has_the_same_menu() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = "{\"prompt\": \"How do I reset the Lumo lamp?\"}\n{\"prompt\": \"What is 17 + 25?\"}\n";
    std::fs::write(folder.path().join("prompts.jsonl"), prompts).unwrap();
    let line = ["generate", "-i", "prompts.jsonl", "-n", "8", "--max-tokens", "96", "--keep", "all"];
    let pruning = r#"{"early_stop": {"first_check": 4}}"#;
    let options = ["--strategy", "speculative_rejection", "--alignment", pruning, "-o", "pruned.jsonl"];
    run(folder.path(), &[&line[..], &options].concat());
    let written = std::fs::read_to_string(folder.path().join("pruned.jsonl")).unwrap();
    for line in written.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let candidates = line["candidates"].as_array().unwrap();
        assert!(candidates.iter().any(|candidate| candidate["finish_reason"].is_null()), "{line}");
        let winner = &candidates[line["selected"].as_u64().unwrap() as usize];
        assert_eq!(winner["finish_reason"], "stop");
    }
    let refused = |options: &[&str]| {
        let line = ["generate", "-i", "prompts.jsonl", "-o", "other.jsonl"];
        let output = crate::harness::rectify(folder.path(), &[&line[..], options].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&["--alignment", r#"{"slect": "mbr"}"#]).contains("did you mean `select`"));
    assert!(refused(&["--strategy", "beam"]).contains("best_of_n, speculative_rejection"));
}
