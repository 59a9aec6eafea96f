//! Tools and thoughts in chat answers, whole and streamed.

use serde_json::{Value, json};

use super::Server;

const CALL: &str = "say: <think>Hm.</think>I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1]}}\n</tool_call>";

fn last_request(server: &Server) -> rectify_engine::GenerateRequest {
    server.seen.requests.lock().unwrap().last().cloned().unwrap()
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}])
}

#[tokio::test]
async fn a_call_is_read_and_its_thoughts_and_text_stand_beside_it() {
    let server = Server::new();
    let answer = server.chat(CALL, json!({"tools": tools(), "max_tokens": 500})).await.ok();
    let (choice, message) = (&answer["choices"][0], &answer["choices"][0]["message"]);
    assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("I look."), &json!("Hm.")));
    let call = &message["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("f")));
    assert_eq!(call["function"]["arguments"], "{\"a\": [1]}");
    assert!(call["id"].as_str().unwrap().starts_with("call_"));
    assert_eq!(choice["finish_reason"], "tool_calls");
    let prompt = String::from_utf8(last_request(&server).prompt.iter().map(|&t| t as u8).collect()).unwrap();
    assert!(prompt.starts_with("tools: [{\"type\":\"function\""), "{prompt}");

    let ignored =
        server.chat(CALL, json!({"tools": tools(), "tool_choice": "none", "max_tokens": 500})).await.ok();
    let message = &ignored["choices"][0]["message"];
    assert!(
        message.get("tool_calls").is_none() && message["content"].as_str().unwrap().contains("<tool_call>")
    );
}

#[tokio::test]
async fn a_streamed_call_is_the_whole_one_in_openais_deltas() {
    let server = Server::new();
    let fields = json!({"tools": tools(), "max_tokens": 500, "stream": true});
    let events = server.chat(CALL, fields).await.events();
    let deltas: Vec<&Value> = events.iter().map(|event| &event["choices"][0]["delta"]).collect();
    let text = |field: &str| deltas.iter().filter_map(|delta| delta[field].as_str()).collect::<String>();
    assert_eq!((text("content"), text("reasoning_content")), ("I look.".into(), "Hm.".into()));
    let calls: Vec<&Value> =
        deltas.iter().filter_map(|delta| delta["tool_calls"].as_array()).flatten().collect();
    assert!(calls.iter().all(|call| call["index"] == 0));
    assert_eq!((&calls[0]["function"]["name"], &calls[0]["type"]), (&json!("f"), &json!("function")));
    assert!(calls[1..].iter().all(|call| call.get("id").is_none() && call["function"].get("name").is_none()));
    let arguments: String =
        calls.iter().map(|call| call["function"]["arguments"].as_str().unwrap()).collect();
    assert_eq!(arguments, "{\"a\": [1]}");
    assert!(calls.len() > 3, "arguments come as they are written");
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn calls_and_results_of_earlier_turns_reach_the_template() {
    let server = Server::new();
    let messages = json!([
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
        {"role": "tool", "content": "7", "tool_call_id": "c1"},
    ]);
    server.post("/v1/chat/completions", &json!({"messages": messages, "tools": tools()})).await.ok();
    let request = last_request(&server);
    let prompt = String::from_utf8(request.prompt.iter().map(|&t| t as u8).collect()).unwrap();
    assert!(prompt.contains(r#""arguments":{"a":1}"#) && prompt.contains("tool: 7"), "{prompt}");
    // Reward models know nothing of tools: for them calls and results are text.
    assert!(request.messages[1].content.contains("<tool_call>"), "{:?}", request.messages);
    assert_eq!(request.messages[2].role, "user");
}

#[tokio::test]
async fn a_required_call_is_a_grammar_and_excludes_another() {
    let server = Server::new();
    server.chat("hello", json!({"tools": tools(), "tool_choice": "required"})).await.ok();
    assert!(last_request(&server).sampling.grammar.is_some());
    server.chat("hello", json!({"tools": tools()})).await.ok();
    assert!(last_request(&server).sampling.grammar.is_none());
    let both =
        json!({"tools": tools(), "tool_choice": "required", "response_format": {"type": "json_object"}});
    let (message, param, _) = server.chat("hello", both).await.refused(400);
    assert!(message.contains("response_format") && param == "tool_choice", "{message}");
    let wrong = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "strnig"}}}]);
    let (message, param, _) =
        server.chat("hello", json!({"tools": wrong, "tool_choice": "required"})).await.refused(400);
    assert!(message.contains("strnig") && param == "tools", "{message}");
}
