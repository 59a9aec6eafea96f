//! The bytes of every token of a tokenizer, in one table: what streaming, stop strings and logprobs need. Leaves
//! encoding to `tokenizer`.

use serde_json::Value;

/// Bytes of every token, back to back.
#[derive(Clone, Debug, Default)]
pub struct TokenTable {
    bytes: Vec<u8>,
    /// End of each token's bytes, `[num_tokens]`.
    ends: Vec<usize>,
    special: Vec<bool>,
}

impl TokenTable {
    /// Ids from 0 to this are in the table.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether the table has no token.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of a token, the name of a special one; empty for unknown ids.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    /// Whether a token is a control token, which is no part of a text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// Builds the table; `tokens` are in the order of their ids, `None` for holes.
    pub(super) fn new(decoder: &Decoding, tokens: Vec<Option<Token>>) -> Self {
        let mut table = Self::default();
        for token in tokens {
            match &token {
                Some(Token { content, is_special: true }) => {
                    table.bytes.extend_from_slice(content.as_bytes())
                }
                Some(Token { content, is_special: false }) => decoder.append(content, &mut table.bytes),
                None => {}
            }
            table.ends.push(table.bytes.len());
            table.special.push(token.is_some_and(|token| token.is_special));
        }
        table
    }
}

/// A token as its vocabulary spells it.
#[derive(Clone, Debug)]
pub(super) struct Token {
    /// Text, in the vocabulary's alphabet unless special.
    pub(super) content: String,
    /// A control token.
    pub(super) is_special: bool,
}

/// How a vocabulary spells bytes: read from the `decoder` of `tokenizer.json`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decoding {
    /// Each byte is a printable character (GPT-2).
    ByteLevel,
    /// Text with replacements (`▁` is a space), and `<0xNN>` for single bytes.
    Pieces { replacements: Vec<(String, String)>, byte_fallback: bool },
}

impl Decoding {
    /// Reads the `decoder` of `tokenizer.json`; the name of a kind that is not known otherwise.
    pub(super) fn parse(decoder: &Value) -> Result<Self, String> {
        let mut pieces = (Vec::new(), false);
        Ok(match parse_into(decoder, &mut pieces)? {
            true => Self::ByteLevel,
            false => Self::Pieces { replacements: pieces.0, byte_fallback: pieces.1 },
        })
    }

    fn append(&self, content: &str, out: &mut Vec<u8>) {
        match self {
            Self::ByteLevel => match content.chars().map(byte_of).collect::<Option<Vec<u8>>>() {
                Some(bytes) => out.extend(bytes),
                None => out.extend_from_slice(content.as_bytes()),
            },
            Self::Pieces { replacements, byte_fallback } => {
                let hex = content.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                let byte = hex.filter(|hex| hex.len() == 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
                if let (true, Some(byte)) = (*byte_fallback, byte) {
                    out.push(byte);
                    return;
                }
                let replaced =
                    replacements.iter().fold(content.to_owned(), |text, (pattern, replacement)| {
                        text.replace(pattern, replacement)
                    });
                out.extend_from_slice(replaced.as_bytes());
            }
        }
    }
}

/// True if the decoder is byte-level.
fn parse_into(decoder: &Value, pieces: &mut (Vec<(String, String)>, bool)) -> Result<bool, String> {
    let text = |field: &str| decoder.get(field).and_then(Value::as_str).map(str::to_owned);
    match decoder.get("type").and_then(Value::as_str) {
        // `Strip` takes the space before a whole text; a generated text goes on after its prompt.
        None | Some("Fuse" | "Strip") => Ok(false),
        Some("ByteLevel") => Ok(true),
        Some("ByteFallback") => {
            pieces.1 = true;
            Ok(false)
        }
        Some("Metaspace") => {
            pieces.0.push((text("replacement").unwrap_or_else(|| "▁".into()), " ".into()));
            Ok(false)
        }
        Some("Replace") => {
            let pattern = decoder.pointer("/pattern/String").and_then(Value::as_str);
            let Some(pattern) = pattern.filter(|pattern| !pattern.is_empty()) else {
                return Err("Replace with a regular expression".into());
            };
            pieces.0.push((pattern.to_owned(), text("content").unwrap_or_default()));
            Ok(false)
        }
        Some("Sequence") => {
            let mut byte_level = false;
            for step in decoder.get("decoders").and_then(Value::as_array).into_iter().flatten() {
                byte_level |= parse_into(step, pieces)?;
            }
            Ok(byte_level)
        }
        Some(other) => Err(other.to_owned()),
    }
}

/// The byte that GPT-2's alphabet spells with `c`: printable bytes stand for themselves, the others for the characters
/// from U+0100 on, in order.
fn byte_of(c: char) -> Option<u8> {
    let code = c as u32;
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if printable(code) {
        return u8::try_from(code).ok();
    }
    let index = code.checked_sub(0x100)? as usize;
    (0..=0xff).filter(|&byte| !printable(byte)).nth(index).and_then(|byte| u8::try_from(byte).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_level_alphabet_covers_every_byte_once() {
        let mut seen = [0; 256];
        for c in (0..0x200).filter_map(char::from_u32) {
            if let Some(byte) = byte_of(c) {
                seen[byte as usize] += 1;
            }
        }
        assert_eq!(seen, [1; 256]);
        assert_eq!((byte_of('Ġ'), byte_of('Ċ'), byte_of('a')), (Some(b' '), Some(b'\n'), Some(b'a')));
    }

    #[test]
    fn pieces_know_spaces_and_single_bytes() {
        let decoder = serde_json::json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        let decoding = Decoding::parse(&decoder).unwrap();
        let mut out = Vec::new();
        for token in ["▁hi", "<0xE2>", "<0x4", "é"] {
            decoding.append(token, &mut out);
        }
        assert_eq!(out, [b" hi", &[0xe2][..], b"<0x4", "é".as_bytes()].concat());
        assert_eq!(Decoding::parse(&serde_json::json!({"type": "CTC"})).unwrap_err(), "CTC");
    }
}
