//! The clients people have: `async-openai` and OpenAI's own Python package, against the demo.

use std::process::Command;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::types::{
    ChatCompletionRequestSystemMessageArgs, ChatCompletionRequestUserMessageArgs,
    ChatCompletionStreamOptions, CreateChatCompletionRequest, CreateChatCompletionRequestArgs,
};
use futures::StreamExt;

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

#[tokio::test]
async fn openais_python_client_works() {
    let python = std::env::var("RECTIFY_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import openai; print(openai.__version__)"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "\n*** SKIPPED: `{python}` has no `openai` package, so OpenAI's Python client was not tried. \
             `pip install openai`, or set RECTIFY_TEST_PYTHON to a Python that has it. ***\n"
        );
        return;
    }
    let server = Server::demo().await;
    let script = fixtures().join("../end_to_end/openai_client.py");
    let run = Command::new(&python).arg(script).arg(format!("{}/v1", server.url)).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{out}\n{err}\n{}", server.log());
    assert!(out.contains("all checks passed"), "{out}");
}
