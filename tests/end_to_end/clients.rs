//! The clients people have, against the demo: `async-openai`, OpenAI's packages for Python and Node, LangChain, LiteLLM.
//! `the_matrix_of_clients` prints what each of them could do. Leaves the asking in other languages to `tests/clients`.

use std::path::Path;
use std::process::Command;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::types::{
    ChatCompletionMessageToolCall, ChatCompletionRequestSystemMessageArgs,
    ChatCompletionRequestUserMessageArgs, ChatCompletionStreamOptions, ChatCompletionTool,
    ChatCompletionToolChoiceOption, ChatCompletionToolType, CreateChatCompletionRequest,
    CreateChatCompletionRequestArgs, FunctionObject, ResponseFormat, ResponseFormatJsonSchema,
};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::harness::{Server, fixtures, text};

async fn policy(server: &Server) -> String {
    text(&server.get("/v1/models").await.ok()["data"][0]["id"]).to_owned()
}

fn request(model: &str) -> CreateChatCompletionRequestArgs {
    let system = ChatCompletionRequestSystemMessageArgs::default().content("Be brief.").build().unwrap();
    let user = ChatCompletionRequestUserMessageArgs::default().content("Hello!").build().unwrap();
    let mut request = CreateChatCompletionRequestArgs::default();
    request.model(model).messages([system.into(), user.into()]).max_completion_tokens(16u32).seed(4);
    request
}

#[tokio::test]
async fn async_openai_works() {
    let server = Server::demo().await;
    let model = policy(&server).await;
    let config = OpenAIConfig::new().with_api_base(format!("{}/v1", server.url)).with_api_key("none");
    let client = Client::with_config(config);

    let listed = client.models().list().await.unwrap();
    assert!(listed.data.iter().any(|entry| entry.id == model));
    let answer = client
        .chat()
        .create(request(&model).n(4u8).logprobs(true).top_logprobs(2u8).build().unwrap())
        .await
        .unwrap();
    assert_eq!(answer.choices.len(), 4);
    for choice in &answer.choices {
        assert!(choice.finish_reason.is_some());
        let logprobs = choice.logprobs.as_ref().unwrap().content.as_ref().unwrap();
        assert!(logprobs.iter().all(|token| token.logprob <= 0.0 && token.top_logprobs.len() == 2));
    }
    let usage = answer.usage.unwrap();
    assert_eq!(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);

    let whole = client.chat().create(request(&model).build().unwrap()).await.unwrap();
    let options = ChatCompletionStreamOptions { include_usage: true };
    let streaming: CreateChatCompletionRequest = request(&model).stream_options(options).build().unwrap();
    let mut stream = client.chat().create_stream(streaming).await.unwrap();
    let (mut streamed, mut usage) = (String::new(), None);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.unwrap();
        usage = chunk.usage.or(usage);
        for choice in chunk.choices {
            streamed.push_str(choice.delta.content.as_deref().unwrap_or_default());
        }
    }
    assert_eq!(Some(streamed.as_str()), whole.choices[0].message.content.as_deref());
    assert_eq!(usage.unwrap().completion_tokens, whole.usage.unwrap().completion_tokens);

    let error = client.chat().create(request("no-such-model").build().unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("no-such-model"), "{error}");
}

/// What async-openai makes of a schema and of tools.
async fn forms(client: &Client<OpenAIConfig>, model: &str) -> (Value, ChatCompletionMessageToolCall) {
    let city = json!({"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"],
        "additionalProperties": false});
    let json_schema = ResponseFormatJsonSchema {
        description: None,
        name: "city".into(),
        schema: Some(city.clone()),
        strict: Some(true),
    };
    let mut asked = request(model);
    asked.max_completion_tokens(200u32).response_format(ResponseFormat::JsonSchema { json_schema });
    let answer = client.chat().create(asked.build().unwrap()).await.unwrap();
    let formed = serde_json::from_str(answer.choices[0].message.content.as_deref().unwrap()).unwrap();
    let function = FunctionObject {
        name: "get_weather".into(),
        description: None,
        parameters: Some(city),
        strict: None,
    };
    let tool = ChatCompletionTool { r#type: ChatCompletionToolType::Function, function };
    let mut asked = request(model);
    asked.max_completion_tokens(200u32).tools([tool]).tool_choice(ChatCompletionToolChoiceOption::Required);
    asked.parallel_tool_calls(false);
    let mut answer = client.chat().create(asked.build().unwrap()).await.unwrap();
    (formed, answer.choices.remove(0).message.tool_calls.unwrap().remove(0))
}

#[tokio::test]
async fn async_openai_knows_schemas_and_tools() {
    let server = Server::demo().await;
    let config = OpenAIConfig::new().with_api_base(format!("{}/v1", server.url)).with_api_key("none");
    let (formed, call) = forms(&Client::with_config(config), &policy(&server).await).await;
    let is_city = |value: &Value| ["Rome", "Oslo"].contains(&text(&value["city"]));
    assert!(is_city(&formed), "{formed}");
    assert!(is_city(&serde_json::from_str(&call.function.arguments).unwrap()), "{call:?}");
    assert_eq!(call.function.name, "get_weather");
}

/// The Python that has the clients.
pub(crate) fn python() -> String {
    std::env::var("RECTIFY_TEST_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// Whether a Python package is there; says loudly if it is not.
pub(crate) fn has_package(python: &str, package: &str) -> bool {
    let found = Command::new(python).args(["-c", &format!("import {package}")]).output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        eprintln!(
            "\n*** SKIPPED: `{python}` has no package `{package}`. Install it with pip, or set RECTIFY_TEST_PYTHON to a \
             Python that has it. ***\n"
        );
    }
    found
}

/// Runs a script of `tests/clients`; whether it succeeded, and what it said.
pub(crate) fn run(program: &str, script: &str, args: &[&str], env: &[(&str, &str)]) -> (bool, String) {
    let path = fixtures().join("../clients").join(script);
    let output = Command::new(program).arg(path).args(args).envs(env.iter().copied()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test]
async fn the_matrix_of_clients() {
    const CHECKS: [&str; 6] = ["chat", "stream", "tools", "JSON schema", "logprobs", "responses"];
    let node = std::env::var("NODE_PATH").unwrap_or_default();
    let has_node = Path::new(&node).join("openai/package.json").exists();
    if !has_node {
        eprintln!("\n*** SKIPPED: NODE_PATH leads to no folder with the npm package `openai`. ***\n");
    }
    let python = python();
    let of_python = [
        ("openai", "openai_python.py"),
        ("langchain_openai", "langchain_python.py"),
        ("litellm", "litellm_python.py"),
    ];
    let of_python = of_python.iter().filter(|(package, _)| has_package(&python, package));
    let mut clients: Vec<(&str, &str)> = of_python.map(|(_, script)| (python.as_str(), *script)).collect();
    clients.extend(has_node.then_some(("node", "openai_node.cjs")));
    let server = Server::demo().await;
    let url = format!("{}/v1", server.url);
    let mut failures = String::new();
    eprintln!("| client | version | {} |\n|---|---|{}", CHECKS.join(" | "), "---|".repeat(CHECKS.len()));
    for (program, script) in clients {
        let (_, said) = run(program, script, &[&url], &[("PYTHONDONTWRITEBYTECODE", "1")]);
        let outcome = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            line.unwrap_or("–").to_owned()
        };
        let outcomes = CHECKS.map(outcome);
        eprintln!("| {script} | {} | {} |", outcome("version"), outcomes.join(" | "));
        // LangChain and LiteLLM are not asked for responses.
        let is_good =
            outcomes[..5].iter().all(|outcome| outcome == "ok") && ["ok", "–"].contains(&&*outcomes[5]);
        if !is_good {
            failures.push_str(&format!("{script}:\n{said}\n"));
        }
    }
    assert!(failures.is_empty(), "{failures}\n{}", server.log());
}

#[tokio::test]
async fn openais_python_client_works() {
    let python = python();
    if !has_package(&python, "openai") {
        return;
    }
    let server = Server::demo().await;
    let script = fixtures().join("../end_to_end/openai_client.py");
    let run = Command::new(&python).arg(script).arg(format!("{}/v1", server.url)).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{out}\n{err}\n{}", server.log());
    assert!(out.contains("all checks passed"), "{out}");
}
