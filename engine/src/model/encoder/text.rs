//! What an encoder reads of a conversation: the prompt and the answer as a pair of texts, or the answer alone. Leaves the
//! special tokens around them to `tokenizer.json`.

use std::sync::Arc;

use crate::EngineError;
use crate::model::backend::Result;
use crate::model::reading::EncoderInput;
use crate::parts::RewardSpec;
use crate::request::Message;
use crate::text::PairTokenizer;

/// Tokenizer and reading of an encoder. A token of segment `s` is `id + s · vocab_size`, so that a text is one list of
/// numbers for the scheduler.
#[derive(Debug)]
pub struct EncoderText {
    /// What messages call the model.
    pub name: Arc<str>,
    /// Its tokenizer.
    pub tokenizer: PairTokenizer,
    /// Rows of its embedding of words.
    pub vocab_size: usize,
    /// Rows of its embedding of segments; with fewer than two, segments are all the same.
    pub num_segments: usize,
    /// What it reads.
    pub input: EncoderInput,
    /// Longest text; a prompt that makes it longer loses its beginning. `None` refuses such texts.
    pub truncate_to: Option<usize>,
}

impl EncoderText {
    fn tokens(&self, text: &str, answer: Option<&str>) -> Result<Vec<u32>> {
        let (ids, segments) = self.tokenizer.encode(text, answer, self.truncate_to)?;
        if self.num_segments < 2 {
            return Ok(ids);
        }
        let token = |(id, segment): (u32, u32)| {
            let known = (segment as usize) < self.num_segments;
            known.then(|| id + segment * self.vocab_size as u32).ok_or_else(|| {
                let message = format!(
                    "the tokenizer of the reward model `{}` makes segment {segment}, but `type_vocab_size` is {}",
                    self.name, self.num_segments
                );
                EngineError::invalid("reward", message)
            })
        };
        ids.into_iter().zip(segments).map(token).collect()
    }
}

impl RewardSpec for EncoderText {
    /// There is none: what an encoder computes of the prompt depends on the answer.
    fn prompt_tokens(&self, _: &[Message]) -> Result<Vec<u32>> {
        let message =
            format!("the reward model `{}` is an encoder: it reads prompt and answer at once", self.name);
        Err(EngineError::invalid("messages", message))
    }

    fn candidate_tokens(&self, messages: &[Message], answer: &str) -> Result<Vec<u32>> {
        match self.input {
            EncoderInput::Answer => self.tokens(answer, None),
            EncoderInput::Pair => {
                let turns: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
                self.tokens(&turns.join("\n"), Some(answer))
            }
        }
    }

    fn text_tokens(&self, text: &str) -> Result<Vec<u32>> {
        self.tokens(text, None)
    }
}
