//! Words to tokens, as the model will meet them when served. Leaves which tokens bear loss to the methods.

use rectify_engine::EngineError;
use rectify_engine::model::config::ModelConfig;
use rectify_engine::model::source::ModelSource;
use rectify_engine::text::{ChatTemplate, TemplateInput, Tokenizer};
use rectify_feedback::Message;

/// A model's tokenizer and chat template.
#[derive(Debug)]
pub struct TextEncoder {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    eos: Option<u32>,
}

impl TextEncoder {
    /// Reads both from a model's folder.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the file, also if the tokenizer has more tokens than the model.
    pub fn load(source: &ModelSource, config: &ModelConfig) -> Result<Self, EngineError> {
        let tokenizer = Tokenizer::load(source)?;
        tokenizer.check_vocabulary(config)?;
        let eos = tokenizer.eos_token_id().or(config.eos_token_ids.first().copied());
        Ok(Self { tokenizer, template: ChatTemplate::load(source)?, eos })
    }

    /// The conversation through the model's template.
    ///
    /// # Errors
    /// One sentence: no template, or what the template says.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, String> {
        let Some(template) = &self.template else {
            return Err("the line is a conversation, but the model has no chat_template.jinja".to_owned());
        };
        let input = TemplateInput::new(messages, add_generation_prompt);
        template.render(&input).map_err(|error| error.to_string())
    }

    /// Tokens of a part of a text; templates write their own special tokens.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer.encode(text, false).map_err(|error| error.to_string())
    }

    /// Tokens of the beginning of a plain text, with what the tokenizer puts before every text.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn encode_start(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer.encode_whole(text).map_err(|error| error.to_string())
    }

    /// The token that ends a plain text, if there is one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }
}
