//! Texts and pairs of texts as an encoder's own recipe frames them (`[CLS] A [SEP] B [SEP]`). Leaves turning tokens back
//! into text to `tokenizer`.

use std::path::PathBuf;

use tokenizers::{PostProcessor, TruncationDirection};

use super::tokenizer::{FILE, cannot_tokenise, read};
use crate::EngineError;
use crate::model::backend::Result;
use crate::model::source::ModelSource;

/// An encoder's tokenizer.
#[derive(Debug)]
pub struct PairTokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
}

impl PairTokenizer {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the file.
    pub fn load(source: &ModelSource) -> Result<Self> {
        Ok(Self { inner: read(source)?, path: source.path_of(FILE) })
    }

    /// Checks that every token has a row in an embedding of `vocab_size` rows.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming both sizes.
    pub fn check_vocabulary(&self, vocab_size: usize) -> Result<()> {
        let highest = self.inner.get_vocab(true).into_values().max().unwrap_or(0);
        if (highest as usize) < vocab_size {
            return Ok(());
        }
        let message = format!(
            "has token ids up to {highest}, but the model's embedding has {vocab_size} rows (`vocab_size` in \
             config.json): they do not belong together"
        );
        Err(EngineError::load(&self.path, message))
    }

    /// The file it was read from.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// How a token is written; none for an id that is not in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Ids of `text` with special tokens around it; of more than `most` in all, the end of the text goes.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if the text cannot be encoded.
    pub fn encode_cut(&self, text: &str, most: usize) -> Result<Vec<u32>> {
        let mut ids = self.inner.encode_fast(text, false).map_err(cannot_tokenise)?;
        let others = self.inner.get_post_processor().map_or(0, |recipe| recipe.added_tokens(false));
        ids.truncate(most.saturating_sub(others), 0, TruncationDirection::Right);
        let whole = self.inner.post_process(ids, None, true).map_err(cannot_tokenise)?;
        Ok(whole.get_ids().to_vec())
    }

    /// Ids and segments of `a`, or of the pair `a` and `b`, with special tokens; special tokens written out in the texts are
    /// recognised. Where a pair has more than `most` tokens, the beginning of `a` goes as far as it takes.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if a text cannot be encoded.
    pub fn encode(&self, a: &str, b: Option<&str>, most: Option<usize>) -> Result<(Vec<u32>, Vec<u32>)> {
        let bare = |text: &str| self.inner.encode_fast(text, false).map_err(cannot_tokenise);
        let mut first = bare(a)?;
        let second = b.map(bare).transpose()?.map(|mut second| {
            second.set_type_ids(vec![1; second.len()]);
            second
        });
        if let (Some(most), Some(second)) = (most, &second) {
            let others =
                second.len() + self.inner.get_post_processor().map_or(0, |recipe| recipe.added_tokens(true));
            first.truncate(most.saturating_sub(others), 0, TruncationDirection::Left);
        }
        let whole = self.inner.post_process(first, second, true).map_err(cannot_tokenise)?;
        Ok((whole.get_ids().to_vec(), whole.get_type_ids().to_vec()))
    }
}
