//! What an encoder that compares reads: a conversation and two answers to it, each behind its marker, as LLM-Blender
//! prepares them for PairRM (Jiang et al. 2023, arXiv:2306.02561). Leaves what the comparisons come to to `comparisons`.

use std::sync::Arc;

use super::config::Markers;
use crate::EngineError;
use crate::model::backend::Result;
use crate::parts::RewardSpec;
use crate::request::Message;
use crate::text::PairTokenizer;

/// Most tokens of the conversation, as PairRM was trained.
const SOURCE_MAX_LENGTH: usize = 1224;
/// Most tokens of each answer.
const CANDIDATE_MAX_LENGTH: usize = 412;
/// Fewest tokens of a part that its marker and special tokens leave anything of.
const SHORTEST: usize = 8;
/// In front of a conversation of several turns: letter by letter what PairRM has seen.
const INSTRUCTION: &str =
    "Finish the following coversation in each i-th turn by filling in <Response i> with your response.";

/// Tokenizer and reading of an encoder that compares two answers.
#[derive(Debug)]
pub struct EncoderPairText {
    name: Arc<str>,
    tokenizer: PairTokenizer,
    ids: [u32; 3],
    /// How the markers of the conversation and of the answers are written.
    markers: [String; 3],
    source_max_length: usize,
    candidate_max_length: usize,
}

impl EncoderPairText {
    /// The reading of the reward model `name`. Lengths are in tokens with special ones; `None` is what PairRM was trained on.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] naming the setting that is too small, or [`EngineError::Load`] if a marker is not in
    /// the vocabulary.
    pub fn new(
        name: &Arc<str>,
        tokenizer: PairTokenizer,
        markers: &Markers,
        [source_max_length, candidate_max_length]: [Option<usize>; 2],
    ) -> Result<Self> {
        let length = |setting: &str, value: Option<usize>, usual| match value {
            Some(value) if value < SHORTEST => {
                let message =
                    format!("`rewards.{name}.{setting}` is {value}, but must be at least {SHORTEST}");
                Err(EngineError::invalid("rewards", message))
            }
            value => Ok(value.unwrap_or(usual)),
        };
        let ids = markers.ids();
        if let Some(id) = ids.into_iter().find(|&id| tokenizer.token(id).is_none()) {
            let message = format!("has no token {id}, which config.json gives as a marker");
            return Err(EngineError::load(tokenizer.path(), message));
        }
        Ok(Self {
            name: Arc::clone(name),
            ids,
            markers: ids.map(|id| tokenizer.token(id).unwrap_or_default()),
            source_max_length: length("source_max_length", source_max_length, SOURCE_MAX_LENGTH)?,
            candidate_max_length: length("candidate_max_length", candidate_max_length, CANDIDATE_MAX_LENGTH)?,
            tokenizer,
        })
    }

    /// Longest text, in tokens.
    pub fn max_len(&self) -> usize {
        self.source_max_length + 2 * self.candidate_max_length
    }

    /// `text` behind a marker. The markers are the model's: written in a text they would be read in place of its own.
    fn part(&self, marker: usize, text: &str, most: usize) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.encode_cut(&format!("{}{text}", self.markers[marker]), most)?;
        let mut is_first = true;
        ids.retain(|id| !self.ids.contains(id) || std::mem::take(&mut is_first));
        Ok(ids)
    }

    fn refuse<T>(&self) -> Result<T> {
        let message =
            format!("the reward model `{}` compares answers, so a text alone has no reward", self.name);
        Err(EngineError::invalid("messages", message))
    }
}

impl RewardSpec for EncoderPairText {
    fn prompt_tokens(&self, _: &[Message]) -> Result<Vec<u32>> {
        self.refuse()
    }

    fn candidate_tokens(&self, _: &[Message], _: &str) -> Result<Vec<u32>> {
        self.refuse()
    }

    fn text_tokens(&self, _: &str) -> Result<Vec<u32>> {
        self.refuse()
    }

    fn compares(&self) -> bool {
        true
    }

    fn pair_tokens(&self, messages: &[Message], answers: [&str; 2]) -> Result<Vec<u32>> {
        let (source, answers) = written(messages, answers);
        let mut tokens = self.part(0, &source, self.source_max_length)?;
        // What the conversation does not need is the answers'.
        let most = (self.max_len() - tokens.len()) / 2;
        for (marker, answer) in answers.iter().enumerate() {
            tokens.extend(self.part(marker + 1, answer, most)?);
        }
        Ok(tokens)
    }
}

/// A conversation as one text, and the answers to it. A question is itself, behind the system prompt if there is one;
/// of several turns the user's make the text, with a gap to fill for each answer.
fn written(messages: &[Message], answers: [&str; 2]) -> (String, [String; 2]) {
    let is_dialogue = |turns: &[Message]| {
        let roles = ["user", "assistant"].into_iter().cycle();
        turns.len() > 1
            && turns.len() % 2 == 1
            && turns.iter().zip(roles).all(|(turn, role)| turn.role == role)
    };
    let (system, turns) = match messages {
        [first, rest @ ..] if first.role == "system" => (Some(first), rest),
        all => (None, all),
    };
    let lines = |lines: Vec<String>| lines.join("\n");
    if !is_dialogue(turns) {
        let source = lines(messages.iter().map(|message| message.content.clone()).collect());
        return (source, answers.map(str::to_owned));
    }
    let [asked, answered] = [0, 1].map(|from| turns[from..].iter().step_by(2).map(|turn| &turn.content));
    let asked = asked.enumerate();
    let asked =
        asked.map(|(turn, text)| format!("USER: {text}\nAssistant: <Response {}>", turn + 1)).collect();
    let source = format!("{INSTRUCTION}{}", lines(asked));
    let source = system.map_or(source.clone(), |system| format!("{}\n{source}", system.content));
    let answers = answers.map(|last| {
        let all = answered.clone().map(String::as_str).chain([last]).enumerate();
        lines(all.map(|(turn, text)| format!("<Response {}>: {text}", turn + 1)).collect())
    });
    (source, answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(turns: &[(&str, &str)]) -> Vec<Message> {
        let message =
            |(role, content): &(&str, &str)| Message { role: (*role).into(), content: (*content).into() };
        turns.iter().map(message).collect()
    }

    #[test]
    fn a_question_is_itself_and_a_dialogue_has_gaps() {
        let (source, answers) = written(&turns(&[("user", "Why?")]), ["a", "b"]);
        assert_eq!((&*source, answers), ("Why?", ["a".to_owned(), "b".to_owned()]));
        let (source, _) = written(&turns(&[("system", "Be brief."), ("user", "Why?")]), ["a", "b"]);
        assert_eq!(source, "Be brief.\nWhy?");
        let dialogue = [("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")];
        let (source, answers) = written(&turns(&dialogue), ["a", "b"]);
        let gaps = "USER: Hi\nAssistant: <Response 1>\nUSER: Why?\nAssistant: <Response 2>";
        assert_eq!(source, format!("{INSTRUCTION}{gaps}"));
        assert_eq!(answers, ["a", "b"].map(|last| format!("<Response 1>: Hello\n<Response 2>: {last}")));
        let system = [&[("system", "Be brief.")], &dialogue[..]].concat();
        assert_eq!(written(&turns(&system), ["a", "b"]).0, format!("Be brief.\n{source}"));
        let other = [("user", "Hi"), ("tool", "7"), ("user", "Why?")];
        assert_eq!(written(&turns(&other), ["a", "b"]).0, "Hi\n7\nWhy?");
    }
}
