//! The words of a reward model: its own chat template and tokenizer, or the policy's. Leaves its weights to the
//! executors and the choice of what to score to the strategy.

use std::borrow::Cow;
use std::sync::Arc;

use super::backend::Result;
use super::reading::{Aggregate, Steps};
use crate::EngineError;
use crate::parts::RewardSpec;
use crate::request::Message;
use crate::text::{ChatTemplate, TemplateInput, Tokenizer};

/// Template and tokenizer of a reward model.
#[derive(Clone, Debug)]
pub struct RewardText {
    /// What messages call the model.
    pub name: Arc<str>,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its template; without one it scores whole texts only.
    pub chat_template: Option<Arc<ChatTemplate>>,
    /// Where it is read, unless that is the last token.
    pub steps: Option<StepTags>,
}

/// The tokens at which a process reward model is read.
#[derive(Clone, Debug)]
pub struct StepTags {
    /// The token behind each step.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// What stands between the steps of answers, to be replaced by it.
    pub separator: Option<String>,
    /// What the rewards of steps come to.
    pub aggregate: Aggregate,
}

impl StepTags {
    /// `answer` with the tag behind each step.
    fn mark<'a>(&self, answer: &'a str) -> Cow<'a, str> {
        let Some(separator) = &self.separator else { return answer.into() };
        let steps = answer.split(separator.as_str()).filter(|step| !step.trim().is_empty());
        steps.flat_map(|step| [step, &self.text]).collect::<String>().into()
    }
}

impl RewardText {
    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>> {
        let Some(template) = &self.chat_template else {
            let message =
                format!("the reward model `{}` has no chat template: it scores whole texts only", self.name);
            return Err(EngineError::invalid("messages", message));
        };
        let text = template.render(&TemplateInput::new(messages, add_generation_prompt))?;
        // The template writes its own special tokens: adding the tokenizer's would double the first.
        self.not_empty(self.tokenizer.encode(&text, false)?)
    }

    fn not_empty(&self, ids: Vec<u32>) -> Result<Vec<u32>> {
        if ids.is_empty() {
            let message = format!("the reward model `{}` has nothing to read: the text is empty", self.name);
            return Err(EngineError::invalid("input", message));
        }
        Ok(ids)
    }
}

impl RewardSpec for RewardText {
    fn prompt_tokens(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.render(messages, true)
    }

    fn candidate_tokens(&self, messages: &[Message], answer: &str) -> Result<Vec<u32>> {
        let answer = self.steps.as_ref().map_or(answer.into(), |steps| steps.mark(answer));
        let answer = Message { role: "assistant".into(), content: answer.into() };
        let messages: Vec<Message> = messages.iter().cloned().chain([answer]).collect();
        self.render(&messages, false)
    }

    fn text_tokens(&self, text: &str) -> Result<Vec<u32>> {
        self.not_empty(self.tokenizer.encode_whole(text)?)
    }

    fn steps(&self, tokens: &[u32]) -> Result<Option<Steps>> {
        let Some(StepTags { id, text, aggregate, .. }) = &self.steps else { return Ok(None) };
        let tagged = tokens.iter().enumerate().filter(|(_, token)| *token == id);
        let positions: Arc<[u32]> = tagged.map(|(position, _)| position as u32).collect();
        if positions.is_empty() {
            let message = format!(
                "the text to score holds no step token ({id}, {text:?}), where the reward model `{}` is read; \
                 `step_separator` says where the steps of answers end",
                self.name
            );
            return Err(EngineError::invalid("messages", message));
        }
        Ok(Some(Steps { positions, aggregate: *aggregate }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::testing::write_model;

    fn text(name: &str) -> RewardText {
        let folder = tempfile::tempdir().unwrap();
        let source = write_model(folder.path(), &json!({}));
        let tokenizer = Arc::new(Tokenizer::load(&source).unwrap());
        RewardText {
            name: name.into(),
            tokenizer,
            chat_template: ChatTemplate::load(&source).unwrap().map(Arc::new),
            steps: None,
        }
    }

    #[test]
    fn the_prompt_is_a_prefix_of_every_candidate_and_begins_once() {
        let reward = text("r");
        let messages = [Message { role: "user".into(), content: "hi".into() }];
        let prompt = reward.prompt_tokens(&messages).unwrap();
        let candidate = reward.candidate_tokens(&messages, "ok").unwrap();
        let expected =
            [&[256, 258][..], &"user:hi".bytes().map(u32::from).collect::<Vec<_>>(), &[258]].concat();
        assert_eq!(prompt[..expected.len()], expected);
        assert_eq!(candidate[..prompt.len()], prompt);
        assert_eq!(candidate[prompt.len()..], [u32::from(b'o'), u32::from(b'k')]);
    }

    #[test]
    fn whole_texts_begin_once_however_they_are_written() {
        let reward = text("r");
        let expected = [256, u32::from(b'a')];
        assert_eq!(reward.text_tokens("a").unwrap(), expected);
        assert_eq!(reward.text_tokens("<s>a").unwrap(), expected);
    }

    #[test]
    fn steps_end_with_the_tag_wherever_the_separator_stood() {
        let tags =
            StepTags { id: 35, text: "#".into(), separator: Some("\n".into()), aggregate: Aggregate::Min };
        let unmarked = StepTags { separator: None, ..tags.clone() };
        assert_eq!((tags.mark("a\n\nb\n"), tags.mark(" ")), ("a#b#".into(), "".into()));
        assert_eq!(unmarked.mark("a\nb"), "a\nb");
        let reward = RewardText { steps: Some(tags), ..text("prm") };
        let messages = [Message { role: "user".into(), content: "hi".into() }];
        let tokens = reward.candidate_tokens(&messages, "one\ntwo").unwrap();
        let steps = reward.steps(&tokens).unwrap().unwrap();
        let read: Vec<u32> = steps.positions.iter().map(|&position| tokens[position as usize - 1]).collect();
        assert_eq!(read, [u32::from(b'e'), u32::from(b'o')]);
        let error = reward.steps(&[1, 2]).unwrap_err().to_string();
        assert!(
            error.contains("holds no step token (35, \"#\"), where the reward model `prm` is read"),
            "{error}"
        );
    }

    #[test]
    fn without_a_template_conversations_are_refused() {
        let reward = RewardText { chat_template: None, ..text("helpful") };
        let error = reward.prompt_tokens(&[]).unwrap_err().to_string();
        assert!(error.contains("`helpful` has no chat template"), "{error}");
        assert!(reward.text_tokens("a").is_ok());
    }
}
