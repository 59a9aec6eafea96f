//! Health, metrics, the API's description and the page.

use serde_json::json;

use super::Server;

#[tokio::test]
async fn health_and_readiness_follow_the_engine() {
    let server = Server::new();
    assert_eq!(server.get("/health").await.ok()["status"], "ok");
    assert_eq!(server.get("/ready").await.ok()["status"], "ready");
}

#[tokio::test]
async fn metrics_tell_of_requests_by_path_and_status() {
    let server = Server::new();
    server.chat("hello", json!({"alignment": {"n": 4}})).await.ok();
    server.chat("hello", json!({"n": 0})).await.refused(400);
    server.get("/no/such/path").await.refused(404);
    let answer = server.get("/metrics").await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    for line in [
        "rectify_http_requests_total{path=\"/v1/chat/completions\",status=\"200\"}",
        "rectify_http_requests_total{path=\"/v1/chat/completions\",status=\"400\"}",
        "rectify_http_requests_total{path=\"other\",status=\"404\"}",
        "rectify_http_request_duration_seconds_bucket{path=\"/v1/chat/completions\",le=\"0.005\"}",
        "rectify_rejected_tokens_total",
        "# HELP rectify_http_requests_total HTTP requests by path and status",
    ] {
        assert!(answer.text.lines().any(|found| found.starts_with(line)), "no {line} in\n{}", answer.text);
    }
    assert!(!answer.text.contains("/no/such/path"), "labels must not take any value");
}

#[tokio::test]
async fn the_description_covers_every_path() {
    let server = Server::new();
    let document = server.get("/openapi.json").await.ok();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    for path in super::POSTS {
        let operation = &document["paths"][path]["post"];
        let has_answer = ["200", "201"].iter().any(|status| operation["responses"][status].is_object());
        assert!(operation["requestBody"].is_object() && has_answer, "{path}");
    }
    for path in [
        "/v1/models",
        "/v1/models/{id}",
        "/v1/adapters",
        "/v1/feedback",
        "/v1/completions/{id}",
        "/v1/labeling/next",
        "/health",
        "/ready",
        "/metrics",
        "/openapi.json",
    ] {
        assert!(document["paths"][path]["get"]["responses"]["200"].is_object(), "{path}");
    }
    assert!(document["components"]["schemas"]["AlignmentReport"].is_object());
}

#[tokio::test]
async fn the_page_and_its_files_come_from_this_server_alone() {
    let server = Server::new();
    let page = server.get("/").await;
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("default-src 'self'"));
    for (path, kind) in [("/page/app.js", "text/javascript"), ("/page/style.css", "text/css")] {
        assert!(page.text.contains(path), "{path}");
        let file = server.get(path).await;
        assert_eq!(file.status, 200, "{path}");
        assert!(file.headers["content-type"].to_str().unwrap().starts_with(kind), "{path}");
    }
    assert!(!page.text.contains("http://www.") || page.text.contains("xmlns"), "nothing from elsewhere");
}
