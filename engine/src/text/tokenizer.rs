//! The tokenizer of a model's folder (`tokenizer.json`, `tokenizer_config.json`). Leaves templates to
//! `chat_template`.

use serde_json::Value;

use super::chat_template::special_token;
use super::token_table::{Decoding, Token, TokenTable};
use crate::EngineError;
use crate::model::backend::Result;
use crate::model::config::ModelConfig;
use crate::model::source::ModelSource;
use crate::parts::TokenBytes;

pub(super) const FILE: &str = "tokenizer.json";

/// Text to tokens and back.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    table: TokenTable,
    path: std::path::PathBuf,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    pad_token_id: Option<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and the special tokens of `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the file.
    pub fn load(source: &ModelSource) -> Result<Self> {
        let path = source.path_of(FILE);
        let inner = read(source)?;
        let broken = |error: String| broken(&path, &error);
        let decoder = inner.get_decoder().map(serde_json::to_value).transpose();
        let decoder = decoder.map_err(|error| broken(error.to_string()))?.unwrap_or(Value::Null);
        let decoding = Decoding::parse(&decoder)
            .map_err(|kind| broken(format!("its decoder {kind} is not known; known are ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip")))?;
        let table = TokenTable::new(&decoding, tokens_by_id(&inner).map_err(broken)?);
        let config = source.json("tokenizer_config.json")?;
        let id = |name: &str| inner.token_to_id(&special_token(config.as_ref()?, name)?);
        let (bos_token_id, eos_token_id, pad_token_id) = (id("bos_token"), id("eos_token"), id("pad_token"));
        Ok(Self { inner, table, path, bos_token_id, eos_token_id, pad_token_id })
    }

    /// Checks that every token has a row in the model's embedding.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming both sizes.
    pub fn check_vocabulary(&self, config: &ModelConfig) -> Result<()> {
        if self.vocab_size() <= config.vocab_size {
            return Ok(());
        }
        let message = format!(
            "has token ids up to {}, but the model's embedding has {} rows (`vocab_size` in config.json): they do not \
             belong together",
            self.vocab_size() - 1,
            config.vocab_size
        );
        Err(EngineError::load(&self.path, message))
    }

    /// Tokens of `text`; with `add_special_tokens`, the beginning-of-text token and whatever else the model's own
    /// recipe adds. Special tokens written out in the text are recognised.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if the text cannot be encoded.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        match self.inner.encode_fast(text, add_special_tokens) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(cannot_tokenise(error)),
        }
    }

    /// Tokens of `text` without anything added, and the bytes of `text` each stands for.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<std::ops::Range<usize>>)> {
        match self.inner.encode(text, false) {
            Ok(encoding) => {
                let offsets = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
                Ok((encoding.get_ids().to_vec(), offsets))
            }
            Err(error) => Err(cannot_tokenise(error)),
        }
    }

    /// Tokens of a whole text with special tokens, the beginning-of-text token once even if the text spells it out.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_whole(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(text, true)?;
        if let Some(bos) = self.bos_token_id
            && ids.starts_with(&[bos, bos])
        {
            ids.remove(0);
        }
        Ok(ids)
    }

    /// The text of `ids`, as the tokenizer's own decoder writes it.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if the decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner
            .decode(ids, skip_special_tokens)
            .map_err(|error| EngineError::invalid("prompt", format!("the tokens cannot be decoded: {error}")))
    }

    /// Bytes of a token, possibly a part of a UTF-8 character; a special token is its name, an unknown one empty.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.table.bytes(id)
    }

    /// A token as people read it: its bytes as text, with `�` for parts of characters.
    pub fn text(&self, id: u32) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.bytes(id))
    }

    /// Whether a token is a control token, which is no part of a text.
    pub fn is_special(&self, id: u32) -> bool {
        self.table.is_special(id)
    }

    /// Highest token id plus one.
    pub fn vocab_size(&self) -> usize {
        self.table.len()
    }

    /// Id of a token by its exact content.
    pub fn token_to_id(&self, content: &str) -> Option<u32> {
        self.inner.token_to_id(content)
    }

    /// The token that begins a text, if `tokenizer_config.json` names one.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.bos_token_id
    }

    /// The token that ends a text, if `tokenizer_config.json` names one.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos_token_id
    }

    /// The token that fills up batches elsewhere, if `tokenizer_config.json` names one.
    pub fn pad_token_id(&self) -> Option<u32> {
        self.pad_token_id
    }
}

impl TokenBytes for Tokenizer {
    fn token_bytes(&self, token: u32) -> &[u8] {
        if self.table.is_special(token) { &[] } else { self.table.bytes(token) }
    }

    fn special_bytes(&self, token: u32) -> &[u8] {
        if self.table.is_special(token) { self.table.bytes(token) } else { &[] }
    }
}

/// The tokenizer of `tokenizer.json`.
pub(super) fn read(source: &ModelSource) -> Result<tokenizers::Tokenizer> {
    let path = source.path_of(FILE);
    if !source.contains(FILE) && source.contains("tokenizer.model") {
        let message = "is missing; tokenizer.model alone is not read: save the tokenizer with transformers' \
                       AutoTokenizer(…).save_pretrained, which writes it";
        return Err(EngineError::load(path, message));
    }
    let bytes = source.require(FILE)?;
    let broken = |error: String| broken(&path, &error);
    let mut inner: tokenizers::Tokenizer =
        serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
    // Lengths are the scheduler's business, and there is no padding anywhere.
    inner.with_truncation(None).map_err(|error| broken(error.to_string()))?;
    inner.with_padding(None);
    Ok(inner)
}

fn broken(path: &std::path::Path, error: &str) -> EngineError {
    EngineError::load(path, format!("is not a tokenizer: {error}"))
}

pub(super) fn cannot_tokenise(error: tokenizers::Error) -> EngineError {
    EngineError::invalid("prompt", format!("the text cannot be tokenised: {error}"))
}

/// Ids above this are mistakes, and would make the table as large as memory.
const MAX_TOKEN_ID: u32 = 1 << 24;

fn tokens_by_id(inner: &tokenizers::Tokenizer) -> std::result::Result<Vec<Option<Token>>, String> {
    let vocabulary = inner.get_vocab(true);
    let added = inner.get_added_tokens_decoder();
    let max = vocabulary.values().chain(added.keys()).max().copied();
    if let Some(id) = max.filter(|&id| id > MAX_TOKEN_ID) {
        return Err(format!("it has the token id {id}, but ids go up to {MAX_TOKEN_ID}"));
    }
    let size = max.map_or(0, |id| id as usize + 1);
    let mut tokens: Vec<Option<Token>> = vec![None; size];
    for (content, id) in vocabulary {
        tokens[id as usize] = Some(Token { content, is_special: false });
    }
    for (id, token) in added {
        tokens[id as usize] = Some(Token { content: token.content, is_special: token.special });
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::model::testing::{tokenizer_json, write_model};

    #[test]
    fn encodes_decodes_and_spells_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::load(&write_model(folder.path(), &json!({}))).unwrap();
        let ids = tokenizer.encode("é</s>\n", true).unwrap();
        assert_eq!(ids, [256, 0xc3, 0xa9, 257, 10]);
        assert_eq!(tokenizer.encode("a", false).unwrap(), [97]);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "é\n");
        assert_eq!((tokenizer.bytes(0xc3), tokenizer.bytes(257)), (&[0xc3][..], &b"</s>"[..]));
        assert_eq!((tokenizer.text(0xc3).as_ref(), tokenizer.text(10).as_ref()), ("\u{fffd}", "\n"));
        assert_eq!((tokenizer.token_bytes(257), tokenizer.token_bytes(9999)), (&[][..], &[][..]));
        assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_id()), (Some(256), Some(257)));
        assert_eq!((tokenizer.vocab_size(), tokenizer.is_special(258)), (259, true));
    }

    #[test]
    fn refusals_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let source = ModelSource::from(folder.path());
        let path = folder.path().join(FILE);
        let error = || Tokenizer::load(&source).unwrap_err().to_string();
        assert!(error().contains("tokenizer.json: is missing"));
        fs::write(folder.path().join("tokenizer.model"), "x").unwrap();
        assert!(error().contains("tokenizer.model alone is not read"));
        fs::write(&path, "{").unwrap();
        assert!(error().contains("tokenizer.json: is not a tokenizer"));
        let mut tokenizer = tokenizer_json();
        tokenizer["decoder"] =
            json!({"type": "CTC", "pad_token": "_", "word_delimiter_token": "|", "cleanup": true});
        fs::write(&path, tokenizer.to_string()).unwrap();
        assert!(error().contains("its decoder CTC is not known"));
    }
}
