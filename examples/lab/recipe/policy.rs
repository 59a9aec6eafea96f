//! What a policy says to the held-out prompts, alone or under an adapter: the share of good greedy answers, and how far
//! it moved from where it started. Leaves training to the methods and tables to their report.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use rectify_engine::model::assemble::{self, ModelsConfig, PolicyConfig, ServedModels};
use rectify_engine::model::source::ModelSource;
use rectify_engine::request::Message;
use rectify_engine::text::TemplateInput;
use rectify_engine::{EngineConfig, EngineHandle, Event, GenerateRequest, SamplingParams};
use rectify_lab::{Item, judge};
use serde::{Deserialize, Serialize};

/// Draws per prompt for what is measured of the distribution.
const SAMPLES: usize = 4;
const MAX_TOKENS: usize = 128;
const IN_FLIGHT: usize = 32;
const ADAPTER: &str = "trained";

/// What was measured over the held-out prompts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Whether the greedy answer to each prompt is good.
    pub(crate) good: Vec<bool>,
    /// Mean tokens of a greedy answer.
    pub(crate) length: f64,
    /// Mean over sampled answers of `ln p(y) − ln p₀(y)` in nats: an unbiased estimate of the KL from the start.
    pub(crate) kl: f64,
    /// Mean over sampled tokens of `−ln p`: an unbiased estimate of the entropy of a token, in nats.
    pub(crate) entropy: f64,
}

/// Asks the policy in the folder `policy`, under the PEFT adapter in `adapter` if there is one.
///
/// # Errors
/// A folder that does not load.
pub(crate) fn measure(policy: &Path, adapter: Option<&Path>, items: &[Item]) -> anyhow::Result<Measured> {
    let mut config = PolicyConfig::new(ModelSource::Folder(policy.to_owned()));
    config.adapters =
        adapter.iter().map(|path| (ADAPTER.to_owned(), ModelSource::Folder((*path).to_owned()))).collect();
    let (engine, served) = assemble::start(EngineConfig::default(), ModelsConfig::of(config))?;
    let asked = Asked { engine, served, adapter: adapter.map(|_| ADAPTER.to_owned()) };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let answers: Vec<Answered> = runtime.block_on(async {
        let each = |(seed, item)| asked.item(seed as u64, item);
        stream::iter(items.iter().enumerate()).map(each).buffered(IN_FLIGHT).try_collect().await
    })?;
    let mean = |of: fn(&Answered) -> f64| answers.iter().map(of).sum::<f64>() / answers.len().max(1) as f64;
    let num_tokens: usize = answers.iter().map(|answer| answer.num_tokens).sum();
    Ok(Measured {
        good: answers.iter().map(|answer| answer.good).collect(),
        length: mean(|answer| answer.length as f64),
        kl: mean(|answer| (answer.own - answer.base) / SAMPLES as f64),
        entropy: -answers.iter().map(|answer| answer.own).sum::<f64>() / num_tokens.max(1) as f64,
    })
}

struct Asked {
    engine: EngineHandle,
    served: ServedModels,
    adapter: Option<String>,
}

/// What one prompt showed.
struct Answered {
    /// Whether the greedy answer is good.
    good: bool,
    /// Its tokens.
    length: usize,
    /// Sum of the samples' logprobs under the policy that is measured.
    own: f64,
    /// The same under the base alone.
    base: f64,
    /// Tokens of the samples.
    num_tokens: usize,
}

/// One candidate: its tokens, the sum of their logprobs, its text.
#[derive(Clone, Default)]
struct Said {
    tokens: Vec<u32>,
    logprob: f64,
    text: String,
}

impl Asked {
    /// Asks one prompt greedily and by samples.
    async fn item(&self, seed: u64, item: &Item) -> anyhow::Result<Answered> {
        let messages = [Message { role: "user".to_owned(), content: item.prompt.clone() }];
        let template = self.served.chat_template.as_ref().context("the policy has no chat template")?;
        let text = template.render(&TemplateInput::new(&messages, true))?;
        let prompt = self.served.tokenizer.encode(&text, false)?;
        let greedy = self.generate(&prompt, seed, 0.0, 1).await?.swap_remove(0);
        let good = judge(&item.task, &item.prompt, &greedy.text).good;
        let samples = self.generate(&prompt, seed, 1.0, SAMPLES).await?;
        let (mut own, mut base, mut num_tokens) = (0.0, 0.0, 0);
        for said in &samples {
            own += said.logprob;
            num_tokens += said.tokens.len();
            base += match self.adapter {
                Some(_) => self.under_base(&prompt, &said.tokens).await?,
                None => said.logprob,
            };
        }
        Ok(Answered { good, length: greedy.tokens.len(), own, base, num_tokens })
    }

    async fn generate(
        &self,
        prompt: &[u32],
        seed: u64,
        temperature: f32,
        n: usize,
    ) -> anyhow::Result<Vec<Said>> {
        let sampling = SamplingParams {
            max_tokens: MAX_TOKENS,
            temperature,
            seed: Some(seed),
            logprobs: Some(0),
            ..SamplingParams::default()
        };
        let mut events =
            self.engine.generate(request(prompt.to_vec(), sampling, n, self.adapter.clone())).await?;
        let mut said = vec![Said::default(); n];
        while let Some(event) = events.next().await {
            match event {
                Event::Token { index, token, text, logprobs } => {
                    said[index].tokens.push(token);
                    said[index].text.push_str(&text);
                    said[index].logprob += logprobs.map_or(0.0, |logprobs| f64::from(logprobs.own.logprob));
                }
                Event::Finished { index, text, .. } => said[index].text.push_str(&text),
                Event::Failed(error) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(said)
    }

    /// The logprob of `tokens` after `prompt` with adapters off.
    async fn under_base(&self, prompt: &[u32], tokens: &[u32]) -> anyhow::Result<f64> {
        let sampling =
            SamplingParams { max_tokens: 1, prompt_logprobs: Some(0), ..SamplingParams::default() };
        let mut events = self.engine.generate(request([prompt, tokens].concat(), sampling, 1, None)).await?;
        let mut sum = None;
        while let Some(event) = events.next().await {
            match event {
                Event::Prefilled { prompt_logprobs: Some(logprobs), .. } => {
                    let own =
                        logprobs.iter().skip(prompt.len() - 1).map(|entry| f64::from(entry.own.logprob));
                    sum = Some(own.sum());
                }
                Event::Failed(error) => return Err(error.into()),
                _ => {}
            }
        }
        sum.context("the engine gave no logprobs of the prompt")
    }
}

fn request(
    prompt: Vec<u32>,
    sampling: SamplingParams,
    num_choices: usize,
    adapter: Option<String>,
) -> GenerateRequest {
    GenerateRequest {
        prompt,
        messages: Arc::new([]),
        sampling,
        num_choices,
        alignment: None,
        adapter: adapter.map(Into::into),
        priority: 0,
    }
}
