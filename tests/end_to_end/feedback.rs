//! The story of a vote, on the real binary: answers are recorded, people vote, change their minds and label; nothing
//! acknowledged is lost to `kill -9`; the store stays out of the way of answers.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Answer, Server, close, number, text};

fn ask(fields: Value) -> Value {
    let mut body =
        json!({"model": "policy", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 6});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

async fn vote(server: &Server, fields: Value) -> Answer {
    server.post("/v1/feedback", fields).await
}

fn thumb(id: &str, user: &str, value: i32) -> Value {
    json!({"completion_id": id, "kind": "thumb", "value": value, "user": user})
}

#[tokio::test]
async fn from_an_answer_to_a_vote_and_back() {
    let server = Server::llama(&[]).await;
    let best =
        server.post("/v1/chat/completions", ask(json!({"alignment": {"n": 4}, "user": "ann"}))).await.ok();
    let id = text(&best["id"]);
    let record = server.get(&format!("/v1/completions/{id}")).await.ok();
    assert_eq!(record["candidates"].as_array().unwrap().len(), 4);
    let winner = record["candidates"].as_array().unwrap().iter().find(|c| c["choice"] == 0).unwrap();
    assert_eq!(winner["text"], best["choices"][0]["message"]["content"]);
    close(&[number(&winner["reward"])], &[number(&best["choices"][0]["reward"])], 1e-6);

    let stream = server.stream("/v1/chat/completions", ask(json!({"stream": true, "seed": 1}))).await;
    let streamed = text(&stream.chunks[0]["id"]).to_owned();
    assert_eq!(vote(&server, thumb(&streamed, "ann", 1)).await.status, 201);
    let record = server.get(&format!("/v1/completions/{streamed}")).await.ok();
    assert_eq!(record["candidates"][0]["text"], stream.text(0));

    assert_eq!(vote(&server, thumb(id, "ann", 1)).await.status, 201);
    let message = vote(&server, thumb(id, "ann", -1)).await.refused(409);
    assert!(message.contains("replace"), "{message}");
    let mut change = thumb(id, "ann", -1);
    change["replace"] = json!(true);
    assert_eq!(vote(&server, change).await.status, 201);
    assert_eq!(vote(&server, thumb(id, "bob", 1)).await.status, 201);
    let listed = server.get(&format!("/v1/feedback?completion_id={id}")).await.ok();
    let values: Vec<&Value> = listed["data"].as_array().unwrap().iter().map(|v| &v["value"]).collect();
    assert_eq!(values, [&json!(1), &json!(-1)], "newest first, changes only as they are now");

    let task = server.get("/v1/labeling/next?user=carl").await.ok();
    let path = format!("/v1/labeling/{}", text(&task["id"]));
    assert_eq!(server.post(&path, json!({"preference": "tie", "user": "carl"})).await.status, 201);
    assert_eq!(server.get("/v1/labeling/next?user=carl").await.status, 204);

    let message = vote(&server, thumb("chatcmpl-none", "ann", 1)).await.refused(404);
    assert!(message.contains("chatcmpl-none"), "{message}");
    vote(&server, json!({"completion_id": id, "kind": "rating", "value": 9})).await.refused(400);
    assert!(server.metric("rectify_feedback_records_total", "").await >= 2.0);
    assert_eq!(server.metric("rectify_feedback_votes_total", "stored").await, 5.0);
    assert!(server.metric("rectify_feedback_commit_seconds_count", "").await >= 1.0);

    let deleted = server.http.delete(format!("{}/v1/feedback?user=ann", server.url)).send().await.unwrap();
    let deleted: Value = serde_json::from_str(&deleted.text().await.unwrap()).unwrap();
    assert_eq!((&deleted["votes"], &deleted["completions"]), (&json!(3), &json!(1)));
}

/// Rounds of a server killed in the middle of votes; each must find every vote that was acknowledged before.
#[tokio::test]
async fn no_acknowledged_vote_is_lost_to_kill_9() {
    let data = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", data.path().join("votes.db").display());
    let config = data.path().join("config.yaml");
    std::fs::write(&config, format!("store: {{url: '{url}'}}\n")).unwrap();
    let options = ["--config", config.to_str().unwrap()];
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..5 {
        let mut server = Server::llama(&options).await;
        let stored = all_votes(&server).await;
        let lost: Vec<&String> = acknowledged.iter().filter(|id| !stored.contains(id.as_str())).collect();
        assert!(lost.is_empty(), "{} of {} votes are lost in round {round}", lost.len(), acknowledged.len());
        let answer = server.post("/v1/chat/completions", ask(json!({}))).await.ok();
        let id = text(&answer["id"]).to_owned();
        let voters: Vec<_> = (0..8)
            .map(|voter| {
                let (http, url, id) = (server.http.clone(), server.url.clone(), id.clone());
                tokio::spawn(async move {
                    let mut taken = Vec::new();
                    for number in 0.. {
                        let body = thumb(&id, &format!("u{voter}-{number}"), 1);
                        let Ok(response) = http.post(format!("{url}/v1/feedback")).json(&body).send().await
                        else {
                            break;
                        };
                        let Ok(body) = response.json::<Value>().await else { break };
                        taken.push(text(&body["id"]).to_owned());
                    }
                    taken
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(150 + 70 * round)).await;
        server.signal("KILL");
        server.ended().await;
        for voter in voters {
            acknowledged.extend(voter.await.unwrap());
        }
    }
    assert!(acknowledged.len() > 50, "only {} votes", acknowledged.len());
}

async fn all_votes(server: &Server) -> std::collections::HashSet<String> {
    let (mut ids, mut after) = (std::collections::HashSet::new(), String::new());
    loop {
        let page = server.get(&format!("/v1/feedback?limit=1000{after}")).await.ok();
        ids.extend(page["data"].as_array().unwrap().iter().map(|vote| text(&vote["id"]).to_owned()));
        if page["has_more"] == json!(false) {
            return ids;
        }
        after = format!("&after={}", text(&page["last_id"]));
    }
}

#[tokio::test]
async fn answers_do_not_wait_for_a_store_that_is_stuck() {
    if Command::new("python3")
        .args(["-c", "import sqlite3"])
        .status()
        .map_or(true, |status| !status.success())
    {
        eprintln!("NOT RUN: python3 holds the store's lock in this test");
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("stuck.db");
    let config = data.path().join("config.yaml");
    std::fs::write(&config, format!("store: {{url: 'sqlite://{}'}}\n", path.display())).unwrap();
    let server = Arc::new(Server::llama(&["--config", config.to_str().unwrap()]).await);
    let answer = server.post("/v1/chat/completions", ask(json!({}))).await.ok();
    assert_eq!(vote(&server, thumb(text(&answer["id"]), "u", 1)).await.status, 201);
    // Another program holds the file's write lock until its input ends.
    let holder = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); \
                  c.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()";
    let mut holder = Command::new("python3")
        .args(["-c", holder, path.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut line)
        .unwrap();
    assert_eq!(line.trim(), "held");
    let is_answered = Arc::new(AtomicBool::new(false));
    let waiting = tokio::spawn({
        let (server, is_answered, id) =
            (Arc::clone(&server), Arc::clone(&is_answered), text(&answer["id"]).to_owned());
        async move {
            let status = vote(&server, thumb(&id, "v", 1)).await.status;
            is_answered.store(true, Ordering::Relaxed);
            status
        }
    });
    let began = Instant::now();
    for seed in 0..10 {
        server.post("/v1/chat/completions", ask(json!({"seed": seed}))).await.ok();
    }
    assert!(began.elapsed() < Duration::from_secs(4), "answers took {:?}", began.elapsed());
    assert!(!is_answered.load(Ordering::Relaxed), "a vote is not acknowledged before it is stored");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert_eq!(waiting.await.unwrap(), 201, "and it is, once the store goes on");
}

#[test]
fn a_folder_that_cannot_be_written_is_one_sentence() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("a file");
    std::fs::write(&file, "").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rectify"))
        .args(["serve", "--port", "0", "--data-dir", file.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    assert!(said.contains("a file") && said.contains("--data-dir"), "{said}");
}

/// `rectify chat ARGS` in a folder, by somebody who types `lines`.
fn typed(folder: &Path, args: &[&str], lines: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rectify"))
        .args(["chat", "--max-tokens", "8"])
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn votes_of_a_chat_with_a_server_are_the_servers() {
    let server = Server::demo().await;
    let folder = tempfile::tempdir().unwrap();
    let said = |lines: &str| typed(folder.path(), &["--url", &server.url, "-n", "2"], lines);
    let output = said("Hello!\n/up\nWhat is 3 plus 4?\n/down not so good\n");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let votes = server.get("/v1/feedback?order=asc").await.ok();
    let votes: Vec<(&Value, &Value)> =
        votes["data"].as_array().unwrap().iter().map(|vote| (&vote["value"], &vote["comment"])).collect();
    assert_eq!(votes, [(&json!(1), &json!(null)), (&json!(-1), &json!("not so good"))]);
    // A vote is about the answer before it, and there is none yet.
    let output = said("/down\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no answer to vote on"));
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is kept on this side");
}

#[test]
fn a_chat_in_the_terminal_keeps_its_votes() {
    let data = tempfile::tempdir().unwrap();
    let said = |lines: &str| typed(data.path(), &["--data-dir", data.path().to_str().unwrap()], lines);
    let output = said("Hello!\n");
    assert!(output.status.success());
    assert!(!data.path().join("feedback.db").exists(), "nothing is opened without a vote");
    let output = said("Hello!\n/up\n/down not so good\n");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stored = std::fs::read(data.path().join("feedback.db")).unwrap();
    assert!(stored.windows(11).any(|window| window == b"not so good"));
    let output = said("/up\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no answer to vote on"));
}
