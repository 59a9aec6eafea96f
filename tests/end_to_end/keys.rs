//! API keys of a real server: from options, environment and file; from clients and from our own commands.

use std::io::Write;
use std::process::Stdio;

use serde_json::json;

use crate::harness::{Server, rectify};

async fn status(server: &Server, key: Option<&str>) -> u16 {
    let mut request = server.http.get(format!("{}/v1/models", server.url));
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_key_of_the_server_opens_it_and_its_absence_closes_it() {
    let server = Server::start(&["--api-key", "sk-one", "--api-key", "sk-two"]).await;
    for (key, wanted) in [(None, 401), (Some("sk-three"), 401), (Some("sk-one"), 200), (Some("sk-two"), 200)]
    {
        assert_eq!(status(&server, key).await, wanted, "{key:?}");
    }
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "stream": true});
    let refused = server.post("/v1/chat/completions", body.clone()).await.refused(401);
    assert!(refused.contains("Authorization: Bearer KEY"), "{refused}");
    let request =
        server.http.post(format!("{}/v1/chat/completions", server.url)).bearer_auth("sk-two").json(&body);
    assert!(request.send().await.unwrap().text().await.unwrap().contains("[DONE]"));
    assert!(server.log().contains("$RECTIFY_API_KEY"), "the first request to try has a key in it");
    assert!(!server.log().contains("sk-"), "keys are not shown: {}", server.log());

    // Our own commands are clients, too.
    let folder = tempfile::tempdir().unwrap();
    let chat = |key: Option<&str>| {
        let mut command = rectify(folder.path(), &["chat", "--url", &server.url, "--max-tokens", "2"]);
        command.env_remove("RECTIFY_API_KEY").envs(key.map(|key| ("RECTIFY_API_KEY", key)));
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"hi\n").unwrap();
        child.wait_with_output().unwrap()
    };
    let output = chat(Some("sk-one"));
    assert!(output.status.success(), "{output:?}");
    let output = chat(None);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("401"), "{output:?}");
}

#[tokio::test]
async fn keys_come_from_the_environment_and_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let (config, keys) = (folder.path().join("rectify.yaml"), folder.path().join("keys.yaml"));
    std::fs::write(&keys, "alice: sk-alice\n").unwrap();
    std::fs::write(&config, format!("auth: {{api_keys: [sk-config], keys_file: {}}}", keys.display()))
        .unwrap();
    let options = ["--config", config.to_str().unwrap()];
    let server = Server::within(folder.path(), &options, &[("RECTIFY_API_KEY", "sk-env")]).await;
    for key in ["sk-alice", "sk-config", "sk-env"] {
        assert_eq!(status(&server, Some(key)).await, 200, "{key}");
    }
    assert_eq!(status(&server, Some("alice")).await, 401);
    let print = rectify(folder.path(), &["config", "print", "--config", "rectify.yaml"]).output().unwrap();
    let shown = String::from_utf8(print.stdout).unwrap();
    assert!(shown.contains("***") && !shown.contains("sk-config"), "{shown}");
    std::fs::write(&keys, "").unwrap();
    let refused =
        rectify(folder.path(), &["serve", "--config", "rectify.yaml", "--port", "0"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("keys.yaml: there is no key in it"));
}
