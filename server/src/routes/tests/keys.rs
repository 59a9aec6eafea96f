//! API keys: what asks for one, how a refusal looks, and that the description says the same.

use axum::body::Body;
use axum::http::Request;

use super::Server;

async fn ask(server: &Server, method: &str, path: &str, key: Option<&str>) -> super::Answer {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    server.send(request.body(Body::from("{}")).unwrap()).await
}

#[tokio::test]
async fn every_path_asks_for_a_key_where_the_description_says_so() {
    let (guarded, open) = (Server::with_keys(&["sk-one", "sk-two"]), Server::new());
    let document = open.get("/openapi.json").await.ok();
    assert_eq!(document["components"]["securitySchemes"]["api_key"]["scheme"], "bearer");
    let mut num_open = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let (method, path) = (method.to_uppercase(), path.replace(['{', '}'], ""));
            let without = ask(&guarded, &method, &path, None).await;
            if operation["responses"]["401"].is_null() {
                assert_ne!(without.status, 401, "{method} {path}");
                assert!(operation["security"].is_null(), "{method} {path}");
                num_open += 1;
                continue;
            }
            let (message, _, code) = without.refused(401);
            assert!(message.contains("Authorization: Bearer KEY") && code == "invalid_api_key", "{message}");
            assert_eq!(without.headers["www-authenticate"], "Bearer");
            assert!(without.headers.contains_key("x-request-id"));
            ask(&guarded, &method, &path, Some("sk-three")).await.refused(401);
            for key in ["sk-one", "sk-two"] {
                assert_ne!(ask(&guarded, &method, &path, Some(key)).await.status, 401, "{method} {path}");
            }
            assert_ne!(ask(&open, &method, &path, None).await.status, 401, "{method} {path}");
        }
    }
    assert_eq!(num_open, 4, "health, ready, metrics and the description");
    // The page can be opened; it asks for the key itself.
    for path in ["/", "/page/app.js", "/page/style.css"] {
        assert_eq!(guarded.get(path).await.status, 200, "{path}");
    }
    assert!(guarded.get("/").await.text.contains("id=\"key\""));
    assert!(guarded.get("/metrics").await.text.contains("status=\"401\""));
}
