//! Logprobs in OpenAI's two shapes: the chat one (`content`) and the legacy one of completions (four parallel lists).
//! Leaves computing them to the engine.

use std::collections::BTreeMap;

use rectify_engine::request::{Logprobs, TokenLogprob};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::text::TextModel;

/// `logprobs` of a chat choice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatLogprobs {
    /// One entry for each token of the answer.
    pub content: Vec<ChatTokenLogprob>,
    /// Always null: this server has no separate refusals.
    #[schema(value_type = Option<Object>)]
    pub refusal: Option<Value>,
}

/// One token of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatTokenLogprob {
    /// The token's text.
    pub token: String,
    /// `ln p`, of the raw distribution.
    pub logprob: f32,
    /// The bytes of its text: a token may be part of a character.
    pub bytes: Vec<u8>,
    /// The most likely tokens at this place, most likely first.
    pub top_logprobs: Vec<TopLogprob>,
}

/// One alternative.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TopLogprob {
    /// The token's text.
    pub token: String,
    /// `ln p`, of the raw distribution.
    pub logprob: f32,
    /// The bytes of its text.
    pub bytes: Vec<u8>,
}

/// `logprobs` of a completion choice: parallel lists, one entry for each token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionLogprobs {
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// `ln p` of each; null for a prompt's first token.
    pub token_logprobs: Vec<Option<f32>>,
    /// The alternatives of each, text to logprob; null where there are none.
    #[schema(value_type = Vec<Option<Object>>)]
    pub top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Where each token's text starts, in characters from the start of the choice's text.
    pub text_offset: Vec<usize>,
}

/// vLLM's `prompt_logprobs`: one entry for each token of the prompt, null for the first, which nothing predicts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct PromptLogprobs(
    /// By token id: the token itself and the most likely ones.
    pub Vec<Option<BTreeMap<String, PromptLogprob>>>,
);

/// One token at a place of the prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PromptLogprob {
    /// `ln p`, of the raw distribution.
    pub logprob: f32,
    /// Its place among all tokens, from 1; null beyond those asked for.
    pub rank: Option<usize>,
    /// The token's text.
    pub decoded_token: String,
}

impl PromptLogprobs {
    /// Of a prompt whose tokens from the second on have `entries`.
    pub fn new(text: &dyn TextModel, entries: &[Logprobs]) -> Self {
        let place = |logprobs: &Logprobs| {
            let entry = |token: &TokenLogprob, rank| PromptLogprob {
                logprob: finite(token.logprob),
                rank,
                decoded_token: token_text(text, token.token).0,
            };
            let top = logprobs.top.iter().enumerate();
            let top = top.map(|(index, token)| (token.token.to_string(), entry(token, Some(index + 1))));
            let own = (logprobs.own.token.to_string(), entry(&logprobs.own, None));
            // The token itself may be among the most likely: that entry, which has a rank, stays.
            Some([own].into_iter().chain(top).collect())
        };
        Self([None].into_iter().chain(entries.iter().map(place)).collect())
    }
}

/// JSON has no infinity; OpenAI's stand-in for a probability of zero.
fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}

fn token_text(text: &dyn TextModel, token: u32) -> (String, Vec<u8>) {
    let bytes = text.token_bytes(token);
    (String::from_utf8_lossy(&bytes).into_owned(), bytes)
}

impl ChatLogprobs {
    /// Adds a token.
    pub fn push(&mut self, text: &dyn TextModel, logprobs: &Logprobs) {
        let top = |&TokenLogprob { token, logprob }: &TokenLogprob| {
            let (token, bytes) = token_text(text, token);
            TopLogprob { token, logprob: finite(logprob), bytes }
        };
        let (token, bytes) = token_text(text, logprobs.own.token);
        let top_logprobs = logprobs.top.iter().map(top).collect();
        self.content.push(ChatTokenLogprob {
            token,
            logprob: finite(logprobs.own.logprob),
            bytes,
            top_logprobs,
        });
    }
}

impl CompletionLogprobs {
    /// Adds a token whose text starts at `offset`; returns where the next one starts.
    pub fn push(&mut self, text: &dyn TextModel, logprobs: &Logprobs, offset: usize) -> usize {
        let alternatives = logprobs
            .top
            .iter()
            .chain([&logprobs.own])
            .map(|entry| (token_text(text, entry.token).0, Value::from(finite(entry.logprob))));
        let top = (!logprobs.top.is_empty()).then(|| alternatives.collect());
        self.push_entry(text, logprobs.own.token, Some(finite(logprobs.own.logprob)), top, offset)
    }

    /// Adds a prompt's first token, which nothing predicts.
    pub fn push_first(&mut self, text: &dyn TextModel, token: u32) -> usize {
        self.push_entry(text, token, None, None, 0)
    }

    fn push_entry(
        &mut self,
        text: &dyn TextModel,
        token: u32,
        logprob: Option<f32>,
        top: Option<Map<String, Value>>,
        offset: usize,
    ) -> usize {
        let (token, _) = token_text(text, token);
        let next = offset + token.chars().count();
        self.tokens.push(token);
        self.token_logprobs.push(logprob);
        self.top_logprobs.push(top);
        self.text_offset.push(offset);
        next
    }

    /// Adds all of `other`.
    pub fn append(&mut self, other: Self) {
        self.tokens.extend(other.tokens);
        self.token_logprobs.extend(other.token_logprobs);
        self.top_logprobs.extend(other.top_logprobs);
        self.text_offset.extend(other.text_offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ByteText;

    fn logprobs(own: (char, f32), top: &[(char, f32)]) -> Logprobs {
        let entry = |&(token, logprob): &(char, f32)| TokenLogprob { token: token as u32, logprob };
        Logprobs { own: entry(&own), top: top.iter().map(entry).collect() }
    }

    #[test]
    fn legacy_lists_stay_parallel_and_keep_the_sampled_token() {
        let mut lists = CompletionLogprobs::default();
        let next = lists.push_first(&ByteText, u32::from(b'H'));
        let next = lists.push(&ByteText, &logprobs(('i', -3.0), &[('e', -0.1), ('o', -2.0)]), next);
        lists.push(&ByteText, &logprobs(('!', -0.5), &[]), next);
        assert_eq!(lists.tokens, ["H", "i", "!"]);
        assert_eq!(lists.token_logprobs, [None, Some(-3.0), Some(-0.5)]);
        assert_eq!(lists.text_offset, [0, 1, 2]);
        let top = lists.top_logprobs[1].as_ref().unwrap();
        assert_eq!(top.keys().collect::<Vec<_>>(), ["e", "o", "i"]);
        assert_eq!((&lists.top_logprobs[0], &lists.top_logprobs[2]), (&None, &None));
    }

    #[test]
    fn a_prompts_tokens_have_ranks_where_they_are_known() {
        let entries = [logprobs(('e', -0.1), &[('e', -0.1)]), logprobs(('z', -9.0), &[('e', -0.1)])];
        let PromptLogprobs(places) = PromptLogprobs::new(&ByteText, &entries);
        assert_eq!((places.len(), &places[0]), (3, &None));
        let rank =
            |place: usize, token: char| places[place].as_ref().unwrap()[&(token as u32).to_string()].rank;
        assert_eq!((rank(1, 'e'), rank(2, 'e'), rank(2, 'z')), (Some(1), Some(1), None));
        assert_eq!((places[1].as_ref().unwrap().len(), places[2].as_ref().unwrap().len()), (1, 2));
    }

    #[test]
    fn zero_probability_stays_a_number() {
        let mut chat = ChatLogprobs::default();
        chat.push(&ByteText, &logprobs(('a', f32::NEG_INFINITY), &[('b', 0.0)]));
        assert_eq!(chat.content[0].logprob, -9999.0);
        assert_eq!(chat.content[0].top_logprobs[0].bytes, b"b");
    }
}
