//! The three ways to ask for a reward, against PyTorch's numbers. Leaves selection to `alignment`.

use serde_json::{Value, json};

use crate::harness::{Server, close, expected, number};

fn list(values: &Value) -> Vec<f64> {
    values.as_array().unwrap().iter().map(number).collect()
}

#[tokio::test]
async fn rewards_are_pytorchs_through_every_endpoint() {
    let server = Server::llama(&[]).await;
    for (model, key) in [("helpful", "reward-adapter"), ("own", "reward")] {
        let conversations = expected("llama")[key]["conversations"].as_array().unwrap().clone();
        for case in &conversations {
            let body = json!({"model": model, "messages": case["messages"], "candidates": [case["answer"], "other"]});
            let answer = server.post("/v1/score", body).await.ok();
            close(&list(&answer["rewards"])[..1], &[number(&case["score"])], 1e-4);
            assert_eq!(answer["rewards"].as_array().unwrap().len(), 2);
            assert_eq!(number(&answer["data"][0]["score"]), number(&answer["rewards"][0]));
        }
        let texts: Vec<&Value> = conversations.iter().map(|case| &case["text"]).collect();
        let wanted: Vec<f64> = conversations.iter().map(|case| number(&case["score_of_text"])).collect();
        let classified = server.post("/classify", json!({"model": model, "input": texts})).await.ok();
        let found: Vec<f64> =
            classified["data"].as_array().unwrap().iter().map(|entry| number(&entry["probs"][0])).collect();
        close(&found, &wanted, 1e-4);
        let remote = server.post("/get_reward", json!({"model": model, "query": texts})).await.ok();
        close(&list(&remote["rewards"]), &wanted, 1e-4);
        close(&list(&remote["scores"]), &wanted, 1e-4);
        assert!(remote["extra_logs"].is_object());
    }
}
