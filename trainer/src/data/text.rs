//! Words to tokens, as the model will meet them when served and as TRL tokenises them. Leaves which tokens bear loss to
//! the methods.

use rectify_engine::EngineError;
use rectify_engine::model::config::ModelConfig;
use rectify_engine::model::source::ModelSource;
use rectify_engine::text::{ChatTemplate, TemplateInput, Tokenizer};
use rectify_feedback::{Message, Text};
use serde_json::{Map, Value};

/// A model's tokenizer and chat template.
#[derive(Debug)]
pub struct TextEncoder {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    eos: Option<u32>,
}

/// A prompt and the answers that may follow it, in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompted {
    /// The prompt, as far as every answer leaves it as it is.
    pub prompt: Vec<u32>,
    /// What follows `prompt`, for each answer.
    pub answers: Vec<Vec<u32>>,
    /// Tokens at the end of the prompt alone that change once an answer follows; they are in none of the above.
    pub num_changed: usize,
}

/// A text in tokens and which of them are the assistant's words.
pub(super) struct Marked {
    pub(super) ids: Vec<u32>,
    pub(super) is_assistant: Vec<bool>,
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

    /// The conversation through the model's template. Of a line's other columns, `tools` and `chat_template_kwargs`
    /// reach the template.
    ///
    /// # Errors
    /// One sentence: no template, or what the template says.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        columns: &Map<String, Value>,
    ) -> Result<String, String> {
        let Some(template) = &self.template else {
            return Err("the line is a conversation, but the model has no chat_template.jinja".to_owned());
        };
        let tools = match columns.get("tools") {
            // Columnar files cannot hold any JSON, so tools are often a text of it.
            Some(Value::String(text)) => Some(
                serde_json::from_str(text)
                    .map_err(|error| format!("`tools` is a string, but not of JSON: {error}"))?,
            ),
            Some(Value::Null) | None => None,
            Some(tools) => Some(tools.clone()),
        };
        let tools = tools.filter(|tools: &Value| tools.as_array().is_none_or(|list| !list.is_empty()));
        let input = TemplateInput {
            messages,
            tools: tools.as_ref(),
            documents: None,
            add_generation_prompt,
            variables: columns.get("chat_template_kwargs").and_then(Value::as_object),
        };
        template.render(&input).map_err(|error| error.to_string())
    }

    /// Tokens of a rendered text; templates write their own special tokens.
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

    /// A whole plain text with the token that ends it, unless the text spells that out.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn encode_ended(&self, text: &str) -> Result<Vec<u32>, String> {
        self.encode_start(&self.ended(text))
    }

    /// The prompt of something to be generated: a conversation opens the assistant's turn, or leaves the assistant's
    /// last turn open if it ends with one.
    ///
    /// # Errors
    /// What the template or the tokenizer says.
    pub fn encode_prompt(&self, prompt: &Text, columns: &Map<String, Value>) -> Result<Vec<u32>, String> {
        let messages = match prompt {
            Text::Plain(text) => return self.encode_start(text),
            Text::Chat(messages) => messages,
        };
        let Some(last) = messages.last().filter(|last| last.role == "assistant") else {
            return self.encode(&self.render(messages, true, columns)?);
        };
        let whole = self.render(messages, false, columns)?;
        let content = last.content.trim();
        let Some(start) = whole.rfind(content) else {
            return Err("the prompt ends with an assistant's message that the chat template changes, so it cannot be \
                        continued"
                .to_owned());
        };
        self.encode(&whole[..start + content.len()])
    }

    /// A prompt and answers to it as TRL tokenises them: the prompt alone, the prompt with each answer as one text (a
    /// plain answer ended by the token that ends texts), and the answer begins where the two part.
    ///
    /// # Errors
    /// One sentence: an empty side, a mix of plain texts and conversations, or what the template or tokenizer says.
    pub fn encode_prompted(
        &self,
        prompt: &Text,
        answers: &[&Text],
        columns: &Map<String, Value>,
    ) -> Result<Prompted, String> {
        let alone = match prompt {
            Text::Plain(text) => self.encode_start(text)?,
            Text::Chat(messages) => self.encode(&self.render(messages, true, columns)?)?,
        };
        let mut wholes = Vec::with_capacity(answers.len());
        for answer in answers {
            wholes.push(match (prompt, answer) {
                (Text::Plain(prompt), Text::Plain(answer)) => {
                    self.encode_start(&format!("{prompt}{}", self.ended(answer)))?
                }
                (Text::Chat(prompt), Text::Chat(answer)) => {
                    self.encode(&self.render(&[prompt.as_slice(), answer].concat(), false, columns)?)?
                }
                _ => return Err("the prompt and its answers must all be texts or all be messages".to_owned()),
            });
        }
        let length = wholes.iter().map(|whole| common_prefix(&alone, whole)).min().unwrap_or(alone.len());
        let num_changed = alone.len() - length;
        let answers = wholes.into_iter().map(|mut whole| whole.split_off(length)).collect();
        let mut prompt = alone;
        prompt.truncate(length);
        Ok(Prompted { prompt, answers, num_changed })
    }

    /// A conversation in tokens, the assistant's marked: what follows the generation prompt of each of its turns, with
    /// what ends the turn.
    ///
    /// # Errors
    /// One sentence if the template writes earlier turns differently once others follow.
    pub(super) fn encode_marked(
        &self,
        messages: &[Message],
        columns: &Map<String, Value>,
    ) -> Result<Marked, String> {
        let whole = self.render(messages, false, columns)?;
        let mut spans = Vec::new();
        let mut done = 0;
        for (index, _) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
            let start = self.render(&messages[..index], true, columns)?;
            let end = self.render(&messages[..=index], false, columns)?;
            if !whole.starts_with(&end) || !end.starts_with(&start) || start.len() < done {
                return Err(
                    "the chat template writes earlier turns differently once others follow, so the assistant's tokens \
                     cannot be told apart"
                        .to_owned(),
                );
            }
            spans.push(start.len()..end.len());
            done = end.len();
        }
        let (ids, offsets) = self.tokenizer.encode_with_offsets(&whole).map_err(|error| error.to_string())?;
        // A token on the border belongs to the assistant.
        let overlaps = |token: &std::ops::Range<usize>| {
            spans.iter().any(|span| token.start < span.end && span.start < token.end)
        };
        let is_assistant = offsets.iter().map(overlaps).collect();
        Ok(Marked { ids, is_assistant })
    }

    /// The text of a part of a sequence, special tokens spelt out, halves of characters as `�`.
    pub fn spell(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.tokenizer.bytes(*id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The token that ends a plain text, if there is one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    fn ended(&self, text: &str) -> String {
        let eos = self.eos.map(|eos| self.tokenizer.text(eos)).unwrap_or_default();
        if text.ends_with(eos.as_ref()) { text.to_owned() } else { format!("{text}{eos}") }
    }
}

/// Tokens that both begin with.
fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
