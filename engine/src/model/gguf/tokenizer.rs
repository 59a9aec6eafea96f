//! `tokenizer.json` and `tokenizer_config.json` from a GGUF file's settings: byte-level BPE (`gpt2`) and SentencePiece
//! BPE (`llama`). Leaves tokenising to `text`.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::Gguf;
use crate::model::backend::Result;

/// Token types of ggml: unknown, control and user-defined ones are matched before text is split.
const ADDED: [u64; 3] = [2, 3, 4];
/// Of those, the ones that are no text of their own.
const SPECIAL: [u64; 2] = [2, 3];
/// How GPT-4 splits text, up to three digits at a time; Llama 3 took it over.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How GPT-2 does, but for digits, which stand alone before that.
const DIGITS: &str = r"\p{N}";
/// The same as Llama 3's, one digit at a time.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The tokens of a file.
struct Tokens<'a> {
    gguf: &'a Gguf,
    texts: Vec<&'a str>,
    kinds: Vec<u64>,
}

impl<'a> Tokens<'a> {
    fn new(gguf: &'a Gguf) -> Result<Self> {
        let texts: Vec<&str> = gguf
            .list("tokenizer.ggml.tokens")?
            .iter()
            .map(|text| text.as_str().unwrap_or_default())
            .collect();
        let kinds = match gguf.list("tokenizer.ggml.token_type") {
            Ok(kinds) => kinds.iter().map(|kind| kind.as_u64().unwrap_or(1)).collect(),
            Err(_) => vec![1; texts.len()],
        };
        Ok(Self { gguf, texts, kinds })
    }

    fn special(&self, name: &str) -> Option<&'a str> {
        let id = self.gguf.get(&format!("tokenizer.ggml.{name}_token_id"))?.as_u64()?;
        self.texts.get(usize::try_from(id).ok()?).copied()
    }

    fn vocabulary(&self) -> Map<String, Value> {
        self.texts.iter().enumerate().map(|(id, text)| ((*text).to_owned(), id.into())).collect()
    }

    fn added(&self) -> Vec<Value> {
        let tokens = self.texts.iter().zip(&self.kinds).enumerate();
        let added = tokens.filter(|(_, (_, kind))| ADDED.contains(kind));
        let entry = |(id, (text, kind)): (usize, (&&str, &u64))| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": SPECIAL.contains(kind)})
        };
        added.map(entry).collect()
    }

    /// Puts the beginning of text in front, and its end behind, if the file says so.
    fn post_processor(&self, default_bos: bool) -> Value {
        let flag =
            |name: &str| self.gguf.get(&format!("tokenizer.ggml.add_{name}_token")).and_then(Value::as_bool);
        let wanted = [("bos", flag("bos").unwrap_or(default_bos)), ("eos", flag("eos").unwrap_or(false))];
        let [bos, eos] = wanted.map(|(name, is_wanted)| {
            let id = self.gguf.get(&format!("tokenizer.ggml.{name}_token_id")).and_then(Value::as_u64);
            self.special(name).zip(id).filter(|_| is_wanted)
        });
        if bos.is_none() && eos.is_none() {
            return Value::Null;
        }
        let around = |texts: &[Value]| -> Value {
            let token = |token: Option<(&str, u64)>| {
                token.map(|(text, _)| json!({"SpecialToken": {"id": text, "type_id": 0}}))
            };
            token(bos).into_iter().chain(texts.iter().cloned()).chain(token(eos)).collect()
        };
        let text = |id: &str, kind: usize| json!({"Sequence": {"id": id, "type_id": kind}});
        let entry =
            |(text, id): (&str, u64)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]}));
        let special: Map<String, Value> = bos.into_iter().chain(eos).map(entry).collect();
        json!({"type": "TemplateProcessing", "single": around(&[text("A", 0)]),
            "pair": around(&[text("A", 0), text("B", 1)]), "special_tokens": special})
    }
}

/// The `tokenizer.json` of the same tokenizer in a folder.
pub(super) fn tokenizer_json(gguf: &Gguf) -> Result<Value> {
    const FIELD: &str = "tokenizer.ggml.model";
    let tokens = Tokens::new(gguf)?;
    match gguf.string(FIELD) {
        Some("gpt2") => byte_level(&tokens),
        Some("llama") => sentence_piece(&tokens),
        Some(other) => {
            Err(gguf.error(format!("`{FIELD}` is \"{other}\", which is not known; known are gpt2, llama")))
        }
        None => Err(gguf.missing(FIELD)),
    }
}

/// The `tokenizer_config.json`: special tokens by name.
pub(super) fn tokenizer_config_json(gguf: &Gguf) -> Result<Value> {
    let tokens = Tokens::new(gguf)?;
    let entry = |(ours, theirs)| Some((format!("{ours}_token"), tokens.special(theirs)?.into()));
    let names = [("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")];
    Ok(Value::Object(names.into_iter().filter_map(entry).collect()))
}

fn byte_level(tokens: &Tokens<'_>) -> Result<Value> {
    const FIELD: &str = "tokenizer.ggml.pre";
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]})
    };
    let whole =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
    let digits = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": DIGITS}, "behavior": "Isolated", "invert": false}, whole]});
    let pre = tokens.gguf.string(FIELD).unwrap_or("default");
    // Llama 3's knows words that its merges do not lead to, and begins texts.
    let is_llama3 = matches!(pre, "llama-bpe" | "llama3" | "llama-v3");
    let (normalizer, pre_tokenizer) = match pre {
        "default" | "gpt-2" | "olmo" => (Value::Null, whole.clone()),
        "starcoder" | "refact" | "smollm" | "command-r" => (Value::Null, digits),
        "dbrx" | "smaug-bpe" => (Value::Null, split(LLAMA3)),
        _ if is_llama3 => (Value::Null, split(LLAMA3)),
        "qwen2" => (json!({"type": "NFC"}), split(QWEN2)),
        other => {
            let message = format!(
                "`{FIELD}` is \"{other}\", which is not known; known are gpt-2, olmo, starcoder, refact, smollm, \
                 command-r, dbrx, smaug-bpe, llama-bpe, qwen2"
            );
            return Err(tokens.gguf.error(message));
        }
    };
    let merges = tokens.gguf.list("tokenizer.ggml.merges")?;
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": tokens.added(), "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": tokens.post_processor(is_llama3), "decoder": whole,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": is_llama3,
            "vocab": tokens.vocabulary(), "merges": merges},
    }))
}

fn sentence_piece(tokens: &Tokens<'_>) -> Result<Value> {
    let scores = tokens.gguf.list("tokenizer.ggml.scores")?;
    let scores: Vec<f64> = scores.iter().map(|score| score.as_f64().unwrap_or(0.0)).collect();
    let prefix = tokens.gguf.get("tokenizer.ggml.add_space_prefix").and_then(Value::as_bool).unwrap_or(true);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let mut normalizers = vec![replace];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": tokens.added(), "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null, "post_processor": tokens.post_processor(true),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "dropout": null, "unk_token": tokens.special("unknown"),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "ignore_merges": false, "vocab": tokens.vocabulary(), "merges": merges(&tokens.texts, &scores)},
    }))
}

/// SentencePiece joins the two neighbours whose piece scores best: the same joins as a list of merges, best first; of
/// equals the one whose parts come first in the vocabulary.
fn merges(texts: &[&str], scores: &[f64]) -> Vec<[String; 2]> {
    let ids: HashMap<&str, usize> = texts.iter().enumerate().map(|(id, text)| (*text, id)).collect();
    let mut merges = Vec::new();
    for (text, &score) in texts.iter().zip(scores) {
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                merges.push((score, l, r, [left.to_owned(), right.to_owned()]));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    merges.into_iter().map(|merge| merge.3).collect()
}
