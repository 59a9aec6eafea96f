//! The demo through `async-openai`, an OpenAI client that knows nothing of this project: a plain answer, the best of
//! sixteen, and a stream.
//!
//! Start the server with `cargo run --release -- serve`, then run
//! `cargo run --release -p rectify-examples --example openai_client -- "What is 47 + 38?"`.

use std::io::{Write as _, stdout};

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::types::{
    ChatCompletionRequestUserMessageArgs, CreateChatCompletionRequest, CreateChatCompletionRequestArgs,
};
use futures::StreamExt as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let question = std::env::args().nth(1).unwrap_or_else(|| "How do I kill a process in Linux?".to_owned());
    let base = std::env::var("OPENAI_BASE_URL").unwrap_or_else(|_| "http://127.0.0.1:8080/v1".to_owned());
    let client = Client::with_config(OpenAIConfig::new().with_api_base(base).with_api_key("none"));

    let models = client.models().list().await?;
    let Some(policy) = models.data.first().map(|model| model.id.clone()) else {
        anyhow::bail!("the server lists no model");
    };
    // A client that cannot send our `alignment` object names a profile as the model's suffix.
    for model in [policy.clone(), format!("{policy}:best-of-16")] {
        let response = client.chat().create(request(&model, &question)?).await?;
        for choice in response.choices {
            writeln!(stdout(), "{model}: {}", choice.message.content.unwrap_or_default())?;
        }
    }

    write!(stdout(), "streamed: ")?;
    let mut stream = client.chat().create_stream(request(&policy, &question)?).await?;
    while let Some(chunk) = stream.next().await {
        for choice in chunk?.choices {
            write!(stdout(), "{}", choice.delta.content.unwrap_or_default())?;
        }
    }
    writeln!(stdout())?;
    Ok(())
}

fn request(model: &str, question: &str) -> anyhow::Result<CreateChatCompletionRequest> {
    let message = ChatCompletionRequestUserMessageArgs::default().content(question).build()?;
    let request = CreateChatCompletionRequestArgs::default()
        .model(model)
        .messages([message.into()])
        .max_tokens(96u32)
        .temperature(1.0)
        .build()?;
    Ok(request)
}
