//! Grammars that an answer must follow (JSON schemas, regular expressions, choices, Lark), compiled by `llguidance`
//! against the policy's vocabulary. This file owns what a grammar is and its compilation; `state` owns a candidate's
//! place in one and the thread that computes masks. Leaves applying masks to the sampler and fields of requests to
//! `server`.

mod state;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory, regex_to_lark};
use serde_json::{Value, json};

pub(crate) use state::GrammarState;
use state::{MaskThread, Slot};

use crate::EngineError;

/// Compiled grammars that are kept for the next request with the same one.
const KEPT: usize = 32;
/// Longer tokens are never chosen under a grammar; the trie's offsets are small.
const MAX_TOKEN_BYTES: usize = 255;
/// Longest cause of a refusal, in characters.
const MAX_CAUSE: usize = 240;

/// What an answer must be.
#[derive(Clone, Debug, PartialEq)]
pub enum GrammarSpec {
    /// JSON that follows a schema; `true` is any JSON. `strict` refuses schemas with keywords that cannot be enforced,
    /// which are left out otherwise.
    Json {
        /// The JSON schema.
        schema: Value,
        /// Refuse what cannot be enforced.
        strict: bool,
    },
    /// A text that the regular expression (Rust's dialect, `\d` for ASCII's digits) matches as a whole.
    Regex(String),
    /// One of these texts; at least one.
    Choice(Vec<String>),
    /// A grammar in llguidance's dialect of Lark.
    Lark(String),
}

impl GrammarSpec {
    /// Any JSON object.
    pub fn json_object() -> Self {
        Self::Json { schema: json!({"type": "object"}), strict: true }
    }

    /// The same behind thoughts that the prompt has opened: anything up to `</think>`, then the answer.
    ///
    /// # Errors
    /// What is wrong with a schema, as a clause.
    pub fn after_thoughts(&self) -> Result<Self, String> {
        let answer = match self {
            Self::Json { schema, strict } => lark_json(schema, *strict)?,
            Self::Regex(pattern) => format!("/{}/", regex_to_lark(pattern, "d")),
            Self::Choice(texts) => lark_choice(texts),
            Self::Lark(grammar) => format!("%lark {{\n{grammar}\n}}"),
        };
        Ok(Self::Lark(format!(
            "start: thoughts space? answer\nthoughts[suffix=\"</think>\"]: /(?s:.*)/\nspace: /[ \\n]{{1,8}}/\nanswer: {answer}\n"
        )))
    }

    fn compile(&self) -> Result<TopLevelGrammar, String> {
        Ok(match self {
            Self::Json { schema, strict } => {
                TopLevelGrammar::from_json_schema(with_options(schema, *strict)?)
            }
            // Digits are those of ASCII: nobody who writes `\d` wants the other six hundred.
            Self::Regex(pattern) => {
                TopLevelGrammar::from_lark(format!("start: /{}/", regex_to_lark(pattern, "d")))
            }
            Self::Choice(texts) => TopLevelGrammar::from_lark(format!("start: {}", lark_choice(texts))),
            Self::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        })
    }
}

fn lark_choice(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| lark_literal(text)).collect();
    texts.join(" | ")
}

/// A text as a literal of Lark.
pub fn lark_literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// A JSON schema as the expression `%json {…}` of Lark.
///
/// # Errors
/// A sentence if the schema is neither an object nor a boolean.
pub fn lark_json(schema: &Value, strict: bool) -> Result<String, String> {
    Ok(format!("%json {}", with_options(schema, strict)?))
}

/// White space is free between the parts of JSON, but bounded: a model that falls into line breaks would otherwise go
/// on to the end of its context.
fn with_options(schema: &Value, strict: bool) -> Result<Value, String> {
    let mut schema = match schema {
        Value::Object(fields) => fields.clone(),
        Value::Bool(true) => serde_json::Map::new(),
        _ => return Err("a JSON schema must be an object".to_owned()),
    };
    let options = json!({"whitespace_flexible": true, "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,40}", "lenient": !strict});
    schema.insert("x-guidance".to_owned(), options);
    Ok(Value::Object(schema))
}

/// Compiles grammars for one vocabulary. Building it takes time in proportion to the vocabulary: once for each model.
pub struct Grammars {
    factory: ParserFactory,
    masks: MaskThread,
    /// The latest ones, newest last.
    compiled: Mutex<VecDeque<Arc<Grammar>>>,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

/// A token as grammars see it.
#[derive(Clone, Copy, Debug)]
pub struct Spelling<'a> {
    /// Its bytes, the name of a special one.
    pub bytes: &'a [u8],
    /// A control token: only a grammar that names it allows it.
    pub is_special: bool,
}

impl Grammars {
    /// For the tokens `0..vocab_size`; unknown ids are empty. A complete answer ends with one of `eos_token_ids`.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if there is no end-of-text token, or no thread for the masks.
    pub fn new<'a>(
        vocab_size: usize,
        eos_token_ids: &[u32],
        spelling: impl Fn(u32) -> Spelling<'a>,
    ) -> Result<Self, EngineError> {
        let unavailable = |cause: String| EngineError::invalid(FIELD, cause);
        let eos: Vec<u32> = eos_token_ids.iter().copied().filter(|&id| (id as usize) < vocab_size).collect();
        let (Some(&first), Ok(size)) = (eos.first(), u32::try_from(vocab_size)) else {
            let message =
                "this model names no end-of-text token, so an answer under a grammar would never end";
            return Err(unavailable(message.to_owned()));
        };
        let words: Vec<Vec<u8>> = (0..size)
            .map(|token| match spelling(token) {
                Spelling { bytes, .. } if bytes.len() > MAX_TOKEN_BYTES => Vec::new(),
                Spelling { bytes, is_special: true } if !bytes.is_empty() => {
                    [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat()
                }
                Spelling { bytes, .. } => bytes.to_vec(),
            })
            .collect();
        let trie = TokTrie::from(&TokRxInfo::new(size, first), &words).with_eos_tokens(&eos);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| unavailable(cause(&error.to_string())))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        let masks = MaskThread::start()
            .map_err(|error| unavailable(format!("the thread for masks did not start: {error}")))?;
        Ok(Self { factory, masks, compiled: Mutex::default() })
    }

    /// Compiles a grammar, or finds the one that was compiled before. Takes a millisecond for ordinary schemas and
    /// may take a hundred for large ones.
    ///
    /// # Errors
    /// What is wrong with it, as a clause.
    pub fn compile(&self, spec: &GrammarSpec) -> Result<Arc<Grammar>, String> {
        if let Some(known) = self.lock().iter().find(|known| known.spec == *spec) {
            return Ok(Arc::clone(known));
        }
        let parser =
            self.factory.create_parser(spec.compile()?).map_err(|error| cause(&error.to_string()))?;
        let mut matcher = Matcher::new(Ok(parser));
        let mask = matcher.compute_mask_or_eos().map_err(|error| cause(&error.to_string()))?;
        if mask.is_zero() {
            return Err("no text follows it that this model's tokens can spell".to_owned());
        }
        let start = Slot::new(matcher, Mask(mask));
        let grammar = Arc::new(Grammar { spec: spec.clone(), start, masks: self.masks.clone() });
        let mut compiled = self.lock();
        if compiled.len() == KEPT {
            compiled.pop_front();
        }
        compiled.push_back(Arc::clone(&grammar));
        Ok(grammar)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Grammar>>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The field that grammars are asked for by, where no other is known.
const FIELD: &str = "response_format";

/// The first line of what llguidance says, in bounds.
fn cause(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it is not understood");
    let mut short: String = line.chars().take(MAX_CAUSE).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

/// A compiled grammar, shared by every candidate of every request with it.
pub struct Grammar {
    spec: GrammarSpec,
    start: Slot,
    masks: MaskThread,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Grammar").field(&self.spec).finish()
    }
}

impl PartialEq for Grammar {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec
    }
}

/// The tokens that may come next.
#[derive(Clone, Debug)]
pub struct Mask(SimpleVob);

impl Mask {
    /// That allows these of `vocab_size` tokens.
    pub fn new(vocab_size: usize, tokens: impl IntoIterator<Item = u32>) -> Self {
        let mut mask = SimpleVob::alloc(vocab_size);
        tokens
            .into_iter()
            .filter(|&token| (token as usize) < vocab_size)
            .for_each(|token| mask.allow_token(token));
        Self(mask)
    }

    /// Whether `token` may come next.
    pub fn allows(&self, token: u32) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }

    /// Whether a token besides `tokens` may come next.
    pub fn allows_more_than(&self, tokens: &[u32]) -> bool {
        self.0.iter().any(|token| !tokens.contains(&token))
    }

    /// Writes `logits` into `out`, those of tokens that may not come next as −∞.
    pub fn apply(&self, logits: &[f32], out: &mut Vec<f32>) {
        let known = &logits[..logits.len().min(self.0.len())];
        out.clear();
        for (logits, &word) in known.chunks(u32::BITS as usize).zip(self.0.as_slice()) {
            match word {
                0 => out.resize(out.len() + logits.len(), f32::NEG_INFINITY),
                u32::MAX => out.extend_from_slice(logits),
                _ => out.extend(
                    logits
                        .iter()
                        .enumerate()
                        .map(|(bit, &logit)| if word >> bit & 1 == 1 { logit } else { f32::NEG_INFINITY }),
                ),
            }
        }
        out.resize(logits.len(), f32::NEG_INFINITY);
    }
}
