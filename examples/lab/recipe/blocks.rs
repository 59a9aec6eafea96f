//! How many KV blocks sixty-four candidates of one prompt take, measured in the engine. Leaves the arithmetic of blocks
//! to the reader: prompt and answers are given in tokens.

use std::path::Path;

use anyhow::bail;
use rectify_engine::model::assemble::{self, ModelsConfig};
use rectify_engine::model::source::ModelSource;
use rectify_engine::request::Message;
use rectify_engine::text::TemplateInput;
use rectify_engine::{EngineConfig, Event, GenerateRequest, SamplingParams};

/// What was measured.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Blocks {
    /// Candidates.
    pub(crate) n: usize,
    /// Tokens of a block.
    pub(crate) block_size: usize,
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: usize,
    /// Tokens of each answer: all are of this length, so that all are there at the end.
    pub(crate) answer_tokens: usize,
    /// Most blocks in use at once.
    pub(crate) peak: usize,
}

impl Blocks {
    /// The prompt's whole blocks once, and for each candidate the rest: a copy of the prompt's unfinished block and
    /// what the answer adds. The last token's KV is never needed.
    pub(crate) fn shared(&self) -> usize {
        let whole = self.prompt_tokens / self.block_size;
        whole + self.n * (self.alone() - whole)
    }

    /// What one sequence takes alone.
    pub(crate) fn alone(&self) -> usize {
        (self.prompt_tokens + self.answer_tokens - 1).div_ceil(self.block_size)
    }
}

/// Samples `n` answers of `answer_tokens` tokens to `prompt` and reads the engine's peak of blocks in use.
pub(crate) fn measure(policy: &Path, prompt: &str, n: usize, answer_tokens: usize) -> anyhow::Result<Blocks> {
    let models = ModelsConfig::new(ModelSource::Folder(policy.to_owned()));
    let block_size = models.block_size;
    let (engine, served) = assemble::start(EngineConfig::default(), models)?;
    let messages = [Message { role: "user".to_owned(), content: prompt.to_owned() }];
    let Some(template) = &served.chat_template else { bail!("the policy has no chat template") };
    let tokens = served.tokenizer.encode(&template.render(&TemplateInput::new(&messages, true))?, false)?;
    let prompt_tokens = tokens.len();
    let sampling = SamplingParams {
        max_tokens: answer_tokens,
        ignore_eos: true,
        temperature: 1.0,
        seed: Some(7),
        ..SamplingParams::default()
    };
    let request = GenerateRequest {
        prompt: tokens,
        messages: messages.into(),
        sampling,
        num_choices: n,
        alignment: None,
        adapter: None,
        priority: 0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let stats = runtime.block_on(async {
        let mut events = engine.generate(request).await?;
        while let Some(event) = events.next().await {
            if let Event::Failed(error) = event {
                return Err(error);
            }
        }
        engine.stats().await
    })?;
    Ok(Blocks { n, block_size, prompt_tokens, answer_tokens, peak: stats.peak_used_blocks })
}
