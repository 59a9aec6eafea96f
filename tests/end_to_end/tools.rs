//! Calls of tools from the real binary, in the format of each family of chat templates. The model knows nothing of
//! tools, so calls are required; what it says of its own accord is the server's tests' matter.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Server, model, text};

/// Templates that know tools, as short as they can be.
const TEMPLATES: [(&str, &str); 4] = [
    (
        "hermes",
        "{% if tools %}Tools: {{ tools | tojson }} Answer with <tool_call>{\"name\": …}</tool_call>.{% endif %}",
    ),
    (
        "llama3",
        "{% if tools %}Tools: {{ tools | tojson }} Answer with {\"name\": …, \"parameters\": …}.{% endif %}",
    ),
    (
        "mistral",
        "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }} Answer with [TOOL_CALLS][…].{% endif %}",
    ),
    ("mistral-late", "{% if tools %}{{ tools | tojson }} Answer with [TOOL_CALLS]name[ARGS]{…}.{% endif %}"),
];

const TURNS: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}\
                     {% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

/// The `llama` fixture under another template.
fn policy_with(folder: &Path, template: &str) -> String {
    for entry in std::fs::read_dir(model("llama/policy")).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, folder.join(from.file_name().unwrap())).unwrap();
    }
    std::fs::write(folder.join("chat_template.jinja"), format!("{template}{TURNS}")).unwrap();
    folder.to_str().unwrap().to_owned()
}

fn tools() -> Value {
    let city = json!({"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"],
        "additionalProperties": false});
    json!([{"type": "function", "function": {"name": "get_weather", "description": "Of a city.", "parameters": city}},
        {"type": "function", "function": {"name": "now"}}])
}

fn ask(fields: Value) -> Value {
    let mut body = json!({"model": "policy", "messages": [{"role": "user", "content": "Weather?"}], "tools": tools(),
        "seed": 5});
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn check(call: &Value) {
    let arguments: Value = serde_json::from_str(text(&call["function"]["arguments"])).unwrap();
    match text(&call["function"]["name"]) {
        "now" => assert_eq!(arguments, json!({})),
        "get_weather" => assert!(["Rome", "Oslo"].contains(&text(&arguments["city"])), "{arguments}"),
        name => panic!("{name}"),
    }
    assert!(!text(&call["id"]).is_empty() && call["type"] == "function", "{call}");
}

#[tokio::test]
async fn required_calls_are_calls_in_every_format_whole_and_streamed() {
    for (name, template) in TEMPLATES {
        let folder = tempfile::tempdir().unwrap();
        let policy = policy_with(folder.path(), template);
        let server = Server::start(&["--policy", &policy, "--dtype", "float32"]).await;
        let named = json!({"type": "function", "function": {"name": "get_weather"}});
        for (choice, parallel, reason) in [(json!("required"), false, "tool_calls"), (named, false, "stop")] {
            let body = ask(json!({"tool_choice": choice, "parallel_tool_calls": parallel}));
            let whole = server.post("/v1/chat/completions", body.clone()).await.ok();
            let choice = &whole["choices"][0];
            let calls =
                choice["message"]["tool_calls"].as_array().unwrap_or_else(|| panic!("{name}: {whole}"));
            assert_eq!((calls.len(), &choice["finish_reason"]), (1, &json!(reason)), "{name}");
            assert!(choice["message"]["content"].is_null(), "{name}: {whole}");
            calls.iter().for_each(check);
            let mut body = body;
            body["stream"] = json!(true);
            let stream = server.stream("/v1/chat/completions", body).await;
            let news = stream
                .chunks
                .iter()
                .filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array());
            let news: Vec<&Value> = news.flatten().collect();
            assert_eq!(news[0]["function"]["name"], calls[0]["function"]["name"]);
            let arguments: String = news.iter().map(|call| text(&call["function"]["arguments"])).collect();
            assert_eq!(arguments, text(&calls[0]["function"]["arguments"]), "{name}");
            assert_eq!(stream.chunks.last().unwrap()["choices"][0]["finish_reason"], reason);
        }
        let several = server.post("/v1/chat/completions", ask(json!({"tool_choice": "required"}))).await.ok();
        let several = &several["choices"][0];
        let calls = several["message"]["tool_calls"].as_array().unwrap();
        // The context may cut off the last of many.
        let whole = calls.len() - usize::from(several["finish_reason"] == "length");
        calls[..whole].iter().for_each(check);
        let tokens = |body: Value| async {
            let Value::Object(mut fields) = body else { panic!() };
            fields.retain(|field, _| ["model", "messages", "tools"].contains(&field.as_str()));
            fields.insert("return_token_strs".into(), json!(true));
            let answer = server.post("/tokenize", Value::Object(fields)).await.ok();
            answer["token_strs"].as_array().unwrap().iter().map(text).collect::<String>()
        };
        let prompt = tokens(ask(json!({}))).await;
        assert!(prompt.contains("get_weather") && prompt.contains("Of a city."), "{name}: {prompt}");
    }
}

#[tokio::test]
async fn a_template_without_tools_has_them_described() {
    let server = Server::llama(&[]).await;
    let body = ask(json!({"tool_choice": "required", "parallel_tool_calls": false, "n": 4}));
    let answer = server.post("/v1/chat/completions", body).await.ok();
    // The description leaves little room in this model's context.
    let choices =
        answer["choices"].as_array().unwrap().iter().filter(|choice| choice["finish_reason"] == "tool_calls");
    let choices: Vec<&Value> = choices.collect();
    choices.iter().for_each(|choice| check(&choice["message"]["tool_calls"][0]));
    let call = &choices[0]["message"];
    let messages = json!([{"role": "user", "content": "Weather?"}, call,
        {"role": "tool", "content": "sun", "tool_call_id": call["tool_calls"][0]["id"]}]);
    let answer =
        server.post("/v1/chat/completions", ask(json!({"messages": messages, "max_tokens": 8}))).await.ok();
    assert!(answer["choices"][0]["message"]["content"].is_string());
}

#[tokio::test]
async fn thoughts_stand_apart_from_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let template = "{# thoughts stand before </think> #}";
    let policy = policy_with(folder.path(), template);
    let server = Server::start(&["--policy", &policy, "--dtype", "float32"]).await;
    let body = json!({"model": "policy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 60, "seed": 1,
        "guided_choice": ["<think>Let me see.</think>\n\nYes."]});
    let whole = server.post("/v1/chat/completions", body.clone()).await.ok();
    let message = &whole["choices"][0]["message"];
    assert_eq!((&message["reasoning_content"], &message["content"]), (&json!("Let me see."), &json!("Yes.")));
    let mut body = body;
    body["stream"] = json!(true);
    let stream = server.stream("/v1/chat/completions", body).await;
    let thoughts: String = stream
        .chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["reasoning_content"].as_str())
        .collect();
    assert_eq!((thoughts.as_str(), stream.text(0).as_str()), ("Let me see.", "Yes."));
}
