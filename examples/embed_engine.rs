//! The engine as a library, without a server: the best of sixteen answers, and what the others scored.
//!
//! `cargo run --release -p rectify-examples --example embed_engine -- "How do I reset the Lumo lamp?"`

use std::io::{Write as _, stdout};
use std::path::Path;

use rectify_engine::alignment::Alignment;
use rectify_engine::model::assemble::{self, ModelsConfig};
use rectify_engine::model::source::ModelSource;
use rectify_engine::request::Message;
use rectify_engine::text::TemplateInput;
use rectify_engine::{EngineConfig, Event, GenerateRequest, SamplingParams};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let question = std::env::args().nth(1).unwrap_or_else(|| "How do I reset the Lumo lamp?".to_owned());
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/demo");
    let mut models = ModelsConfig::new(ModelSource::Folder(demo.join("policy")));
    models.rewards.push(("helpful".to_owned(), ModelSource::Folder(demo.join("reward"))));
    let (engine, served) = assemble::start(EngineConfig::default(), models)?;

    let messages = [Message { role: "user".to_owned(), content: question }];
    let Some(template) = &served.chat_template else { anyhow::bail!("the policy has no chat template") };
    let text = template.render(&TemplateInput::new(&messages, true))?;
    let request = GenerateRequest {
        prompt: served.tokenizer.encode(&text, false)?,
        messages: messages.into(),
        sampling: SamplingParams {
            max_tokens: 96,
            temperature: 1.0,
            seed: Some(7),
            ..SamplingParams::default()
        },
        num_choices: 1,
        alignment: Some(Alignment::best_of(16)),
        adapter: None,
        priority: 0,
    };

    let mut events = engine.generate(request).await?;
    while let Some(event) = events.next().await {
        match event {
            Event::Selected(selection) => {
                for (index, candidate) in selection.candidates.iter().enumerate() {
                    let mark = if selection.selected.contains(&index) { '*' } else { ' ' };
                    let reward = candidate.reward.unwrap_or(f32::NAN);
                    writeln!(stdout(), "{mark} {reward:7.3}  {}", candidate.text)?;
                }
            }
            Event::Failed(error) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
