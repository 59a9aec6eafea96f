//! Tokens to text as they come: bytes are joined to whole characters, and nothing is shown before it is certain.
//! Leaves stop strings to `stop`.

use crate::TokenBytes;

/// The characters of one candidate so far. Tokens of a byte-level vocabulary may end inside a character; its bytes wait
/// here for the rest.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    /// The beginning of a character: three bytes at most.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// The text that became certain with `token`. Bytes that can be no character become U+FFFD.
    pub fn push(&mut self, token: u32, vocabulary: &dyn TokenBytes) -> String {
        self.pending.extend_from_slice(vocabulary.token_bytes(token));
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    // Without a length the error is that the end is missing, which may still come.
                    let Some(len) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[len..];
                }
            }
        }
        let consumed = self.pending.len() - rest.len();
        self.pending.drain(..consumed);
        text
    }

    /// What is left at the end: U+FFFD for a character whose end never came.
    pub fn finish(&mut self) -> &'static str {
        let is_empty = self.pending.is_empty();
        self.pending.clear();
        if is_empty { "" } else { "\u{fffd}" }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Token `t` is byte `t`; above 255 it is special.
    struct Bytes(Vec<[u8; 1]>);

    impl Bytes {
        fn new() -> Self {
            Self((0..=255).map(|byte| [byte]).collect())
        }
    }

    impl TokenBytes for Bytes {
        fn token_bytes(&self, token: u32) -> &[u8] {
            self.0.get(token as usize).map_or(&[], |byte| byte.as_slice())
        }
    }

    fn all(tokens: impl IntoIterator<Item = u32>) -> String {
        let (vocabulary, mut detokenizer, mut text) = (Bytes::new(), Detokenizer::default(), String::new());
        for token in tokens {
            text.push_str(&detokenizer.push(token, &vocabulary));
        }
        text + detokenizer.finish()
    }

    #[test]
    fn never_shows_half_a_character() {
        let vocabulary = Bytes::new();
        let mut detokenizer = Detokenizer::default();
        let pieces: Vec<String> =
            "é€😀".bytes().map(|byte| detokenizer.push(u32::from(byte), &vocabulary)).collect();
        assert_eq!(pieces, ["", "é", "", "", "€", "", "", "", "😀"]);
        assert_eq!(detokenizer.finish(), "");
    }

    #[test]
    fn special_tokens_are_silent_and_a_lost_end_is_marked() {
        assert_eq!(all([104, 1000, 105]), "hi");
        assert_eq!(all([104, 0xf0, 0x9f]), "h\u{fffd}");
        assert_eq!(all([0xf0, 104]), "\u{fffd}h");
    }

    proptest! {
        #[test]
        fn equals_lossy_decoding_of_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(all(bytes.iter().map(|&byte| u32::from(byte))), String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn text_survives(text in "\\PC*") {
            prop_assert_eq!(all(text.bytes().map(u32::from)), text);
        }
    }
}
