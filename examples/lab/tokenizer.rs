//! The demo's tokenizer: byte-level BPE trained on the SFT text, ChatML special tokens, every digit a token of its own
//! so that sums of new operands are made of known pieces. Written as transformers reads it.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    SplitDelimiterBehavior, TokenizerBuilder, TokenizerImpl,
};

/// End of text and padding.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Begins a turn.
pub const TURN_START: &str = "<|im_start|>";
/// Ends a turn; generation stops at it.
pub const TURN_END: &str = "<|im_end|>";

/// ChatML.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

// A word or a digit takes the space before it along; digits never join.
const PIECES: &str = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s+";

type Bpe = TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// Trains a tokenizer of at most `vocab_size` tokens on `texts` and writes `tokenizer.json`, `tokenizer_config.json`,
/// `chat_template.jinja` and `generation_config.json` into `dir`, which says that an answer has at most `max_new_tokens`.
/// Returns the number of tokens.
///
/// # Errors
/// If training fails or a file cannot be written.
pub fn train<'a>(
    texts: impl Iterator<Item = &'a str> + Send,
    vocab_size: usize,
    max_new_tokens: usize,
    dir: &Path,
) -> anyhow::Result<usize> {
    let specials = [END_OF_TEXT, TURN_START, TURN_END].map(|token| AddedToken::from(token, true));
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(vocab_size)
        .min_frequency(2)
        .special_tokens(specials.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let split = Split::new(SplitPattern::Regex(PIECES.to_owned()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|e| anyhow!("the tokenizer's pattern is broken: {e}"))?;
    let pieces = Sequence::new(vec![
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)),
    ]);
    let mut tokenizer: Bpe = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(pieces)))
        .with_post_processor(None)
        .with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::new(false, false, false))))
        .build()
        .map_err(|e| anyhow!("the tokenizer cannot be built: {e}"))?;
    tokenizer.train(&mut trainer, texts).map_err(|e| anyhow!("training the tokenizer failed: {e}"))?;

    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let path = dir.join("tokenizer.json");
    tokenizer.save(&path, true).map_err(|e| anyhow!("cannot write {}: {e}", path.display()))?;
    let id = |token: &str| tokenizer.token_to_id(token);
    write_json(
        &dir.join("tokenizer_config.json"),
        &json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": null,
            "eos_token": TURN_END,
            "pad_token": END_OF_TEXT,
            "unk_token": null,
            "clean_up_tokenization_spaces": false,
            "model_max_length": 512,
            "chat_template": CHAT_TEMPLATE,
        }),
    )?;
    write_json(
        &dir.join("generation_config.json"),
        &json!({
            "eos_token_id": [id(TURN_END), id(END_OF_TEXT)],
            "pad_token_id": id(END_OF_TEXT),
            "do_sample": true,
            "temperature": 1.0,
            "max_new_tokens": max_new_tokens,
        }),
    )?;
    fs::write(dir.join("chat_template.jinja"), CHAT_TEMPLATE)?;
    Ok(tokenizer.get_vocab_size(true))
}

/// Writes indented JSON.
///
/// # Errors
/// If the file cannot be written.
pub fn write_json(path: &Path, value: &serde_json::Value) -> anyhow::Result<()> {
    fs::write(path, format!("{value:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}
