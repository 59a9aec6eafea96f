//! Tools for models whose chat template knows none: the functions are described in a system turn, calls and results
//! become text, all in the format of Hermes. Leaves templates that know tools to themselves.

use std::fmt::Write;

use serde_json::{Map, Value, json};

/// The conversation with `tools` described, without any field that a plain template does not know.
pub fn describe(messages: &[Value], tools: &Value) -> Vec<Value> {
    let mut system = "You can call functions. Their signatures, one in each line:\n".to_owned();
    for tool in tools.as_array().into_iter().flatten() {
        let _ = writeln!(system, "{}", tool.get("function").unwrap_or(tool));
    }
    system.push_str(
        "To call one, write a block with its name and arguments, and nothing after the last block:\n<tool_call>\n\
         {\"name\": \"NAME\", \"arguments\": {}}\n</tool_call>",
    );
    let mut turns: Vec<Value> = messages.iter().map(plain).collect();
    match turns.first_mut() {
        Some(first) if first["role"] == "system" => {
            let own = first["content"].as_str().unwrap_or_default();
            first["content"] = format!("{own}\n\n{system}").into();
        }
        _ => turns.insert(0, json!({"role": "system", "content": system})),
    }
    turns
}

/// A message whose calls or result are text; any other as it is.
pub fn plain(message: &Value) -> Value {
    let role = message["role"].as_str().unwrap_or_default();
    if role != "tool" && message["tool_calls"].is_null() {
        return message.clone();
    }
    let mut content = message["content"].as_str().unwrap_or_default().to_owned();
    for call in message["tool_calls"].as_array().into_iter().flatten() {
        let mut object = Map::new();
        object.insert("name".to_owned(), call["function"]["name"].clone());
        object.insert("arguments".to_owned(), call["function"]["arguments"].clone());
        let start = if content.is_empty() { "" } else { "\n" };
        let _ = write!(content, "{start}<tool_call>\n{}\n</tool_call>", Value::Object(object));
    }
    if role == "tool" {
        let content = format!("<tool_response>\n{content}\n</tool_response>");
        return json!({"role": "user", "content": content});
    }
    json!({"role": role, "content": content})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_results_become_text() {
        let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
        let messages = [
            json!({"role": "system", "content": "Be brief."}),
            json!({"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function",
                "function": {"name": "f", "arguments": {"a": 1}}}]}),
            json!({"role": "tool", "content": "7", "tool_call_id": "1"}),
        ];
        let turns = describe(&messages, &tools);
        assert!(
            turns[0]["content"].as_str().unwrap().starts_with("Be brief.\n\nYou can call"),
            "{}",
            turns[0]
        );
        assert!(turns[0]["content"].as_str().unwrap().contains(r#"{"name":"f","parameters":{}}"#));
        assert_eq!(
            turns[1],
            json!({"role": "assistant", "content": "<tool_call>\n{\"name\":\"f\",\"arguments\":{\"a\":1}}\n</tool_call>"})
        );
        assert_eq!(turns[2], json!({"role": "user", "content": "<tool_response>\n7\n</tool_response>"}));
        assert_eq!(describe(&messages[2..], &tools)[0]["role"], "system");
    }
}
