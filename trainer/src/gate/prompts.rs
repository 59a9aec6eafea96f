//! What is asked, and how an answer to it is judged. Leaves what a judgement means to the checks.

use std::collections::BTreeMap;
use std::sync::Arc;

use rectify_engine::request::Message;
use regex::{Regex, RegexSet};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::suite::one_line;

/// A prompt as it is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Prompt {
    /// What the person writes.
    pub(crate) prompt: Option<String>,
    /// A conversation instead.
    pub(crate) messages: Vec<Turn>,
    /// A bare text instead, for `perplexity`.
    pub(crate) text: Option<String>,
    /// The kind of prompt: failure rates are also told by it.
    pub(crate) category: Option<String>,
    /// The right answer: of a `capability`, one of the `choices`, what a `canary` says, the text of a `perplexity`.
    pub(crate) answer: Option<String>,
    /// A pattern that a good answer has.
    pub(crate) expect: Option<String>,
    /// A pattern that a good answer does not have.
    pub(crate) reject: Option<String>,
    /// Answers to choose from, by their likelihood.
    pub(crate) choices: Vec<String>,
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Turn {
    /// `system`, `user` or `assistant`.
    pub(crate) role: String,
    /// The text.
    pub(crate) content: String,
}

/// A prompt that can be asked.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// The conversation; empty for a bare text.
    pub(super) messages: Arc<[Message]>,
    /// A bare text.
    pub(super) text: Option<String>,
    pub(super) category: Option<String>,
    pub(super) answer: Option<String>,
    pub(super) choices: Vec<String>,
    pub(super) expect: Option<Regex>,
    pub(super) reject: Option<Regex>,
}

/// Prompts that stand together, in the order in which they are asked.
#[derive(Clone, Debug)]
pub(super) struct PromptSet {
    pub(super) questions: Vec<Question>,
}

impl PromptSet {
    /// Categories take turns in the order of the questions, so that a check that stops early has asked some of each.
    pub(super) fn new(prompts: Vec<Prompt>) -> Result<Self, String> {
        if prompts.is_empty() {
            return Err("there are no prompts in it".to_owned());
        }
        let mut by_category: BTreeMap<Option<String>, Vec<Question>> = BTreeMap::new();
        let num_prompts = prompts.len();
        for (index, prompt) in prompts.into_iter().enumerate() {
            let question =
                Question::new(prompt).map_err(|message| format!("prompt {}: {message}", index + 1))?;
            by_category.entry(question.category.clone()).or_default().push(question);
        }
        let mut queues: Vec<_> = by_category.into_values().map(Vec::into_iter).collect();
        let mut questions = Vec::with_capacity(num_prompts);
        while questions.len() < num_prompts {
            questions.extend(queues.iter_mut().filter_map(Iterator::next));
        }
        Ok(Self { questions })
    }

    pub(super) fn len(&self) -> usize {
        self.questions.len()
    }

    /// Refuses the first question that `fits` has something to say about.
    pub(super) fn require(&self, fits: impl Fn(&Question) -> Result<(), &'static str>) -> Result<(), String> {
        self.questions.iter().try_for_each(|question| {
            fits(question)
                .map_err(|reason| format!("the prompt `{}` {reason}", shortened(&question.last(), 60)))
        })
    }
}

impl Question {
    fn new(prompt: Prompt) -> Result<Self, String> {
        let pattern = |name: &str, text: Option<String>| {
            let compile =
                |text: String| Regex::new(&text).map_err(|error| format!("`{name}`: {}", one_line(&error)));
            text.map(compile).transpose()
        };
        let user = |content| Message { role: "user".to_owned(), content };
        let messages: Vec<Message> = match (prompt.prompt, prompt.messages, &prompt.text) {
            (Some(text), turns, None) if turns.is_empty() => vec![user(text)],
            (None, turns, None) if !turns.is_empty() => {
                turns.into_iter().map(|turn| Message { role: turn.role, content: turn.content }).collect()
            }
            (None, turns, Some(_)) if turns.is_empty() => Vec::new(),
            _ => return Err("must have one of `prompt`, `messages` and `text`".to_owned()),
        };
        if !prompt.choices.is_empty() && !prompt.answer.as_ref().is_some_and(|a| prompt.choices.contains(a)) {
            return Err("`answer` must be one of the `choices`".to_owned());
        }
        Ok(Self {
            messages: messages.into(),
            text: prompt.text,
            category: prompt.category,
            answer: prompt.answer,
            choices: prompt.choices,
            expect: pattern("expect", prompt.expect)?,
            reject: pattern("reject", prompt.reject)?,
        })
    }

    /// The last turn, for examples.
    pub(super) fn last(&self) -> String {
        let turn = self.messages.last().map(|message| message.content.clone());
        turn.or_else(|| self.text.clone()).unwrap_or_default()
    }

    /// What its own patterns say of an answer: `Some(why)` if it is bad, `None` if they are content.
    pub(super) fn fault(&self, answer: &str) -> Option<String> {
        if let Some(found) = self.reject.as_ref().and_then(|pattern| pattern.find(answer)) {
            return Some(format!("says `{}`", shortened(found.as_str(), 60)));
        }
        match &self.expect {
            Some(pattern) if !pattern.is_match(answer) => Some(format!("has nothing of `{pattern}`")),
            _ => None,
        }
    }

    /// Whether it says by itself what a good answer is.
    pub(super) fn has_patterns(&self) -> bool {
        self.expect.is_some() || self.reject.is_some()
    }
}

/// Whether an answer refuses.
pub(super) fn refuses(refusal: &RegexSet, answer: &str) -> bool {
    // Typographic apostrophes are apostrophes.
    refusal.is_match(&answer.replace('\u{2019}', "'"))
}

/// At most `length` characters, with an ellipsis for what is left out.
pub(super) fn shortened(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
