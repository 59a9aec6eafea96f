//! From a request and its events to the records of its answer: one for each prompt, with every candidate. [`Recording`]
//! hands them to the store's queue where the answer ends, and never waits. Knows nothing of the response.

use rectify_engine::GenerateRequest;
use rectify_engine::request::{Candidate, Event, Selection};
use rectify_feedback::Message;
use rectify_feedback::store::{CandidateRecord, CompletionRecord, Writer, now};
use serde_json::{Map, Value, json};

/// What the request says of itself.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The id of the response.
    pub id: String,
    /// The model it named.
    pub model: String,
    /// The policy that answers, if there are several.
    pub policy: Option<String>,
    /// Who asks.
    pub user: Option<String>,
    /// The client's labels.
    pub metadata: Map<String, Value>,
}

/// The records of one answer, as far as they have come.
#[derive(Debug)]
pub(crate) struct Recorder {
    drafts: Vec<Draft>,
    num_choices: usize,
}

/// A recorder whose records go to the store's queue: at the end, or when the answer is dropped. What a client had seen
/// when it left can still be voted on.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) recorder: Recorder,
    pub(crate) writer: Writer,
}

impl Recording {
    /// Notes what an event says.
    pub(crate) fn observe(&mut self, prompt: usize, event: &Event) {
        if let Some(record) = self.recorder.observe(prompt, event) {
            self.writer.completion(record);
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        for prompt in 0..self.recorder.drafts.len() {
            if let Some(record) = self.recorder.done(prompt) {
                self.writer.completion(record);
            }
        }
    }
}

/// One prompt's record until it is handed over.
#[derive(Debug)]
struct Draft {
    record: CompletionRecord,
    is_done: bool,
}

impl Recorder {
    /// Drafts of the records of `requests`.
    pub(crate) fn new(about: &About, arm: Option<&str>, requests: &[GenerateRequest]) -> Self {
        let num_choices = requests.first().map_or(1, |request| request.num_choices);
        let draft = |(prompt, request): (usize, &GenerateRequest)| Draft {
            record: CompletionRecord {
                id: if prompt == 0 { about.id.clone() } else { format!("{}#{prompt}", about.id) },
                model: about.model.clone(),
                policy: about.policy.clone(),
                arm: arm.map(str::to_owned),
                user: about.user.clone(),
                metadata: about.metadata.clone(),
                messages: request.messages.iter().map(|m| Message::new(&*m.role, &*m.content)).collect(),
                sampling: sampling(request),
                // A strategy reports its candidates at the end, whole.
                candidates: match request.alignment {
                    Some(_) => Vec::new(),
                    None => (0..num_choices).map(|index| blank(prompt * num_choices, index)).collect(),
                },
                ..CompletionRecord::default()
            },
            is_done: false,
        };
        Self { drafts: requests.iter().enumerate().map(draft).collect(), num_choices }
    }

    /// Notes what an event of a prompt's answer says; at its end, the record.
    pub(crate) fn observe(&mut self, prompt: usize, event: &Event) -> Option<CompletionRecord> {
        match event {
            Event::Prefilled { policy_version, .. } => {
                if let Some(draft) = self.drafts.get_mut(prompt) {
                    draft.record.policy_version = policy_version.to_string();
                }
            }
            Event::Token { index, text, logprobs, .. } => {
                if let Some(candidate) = self.candidate(prompt, *index) {
                    candidate.text.push_str(text);
                    candidate.tokens += 1;
                    if let Some(logprobs) = logprobs {
                        *candidate.logprob.get_or_insert_default() += f64::from(logprobs.own.logprob);
                    }
                }
            }
            Event::Finished { index, reason, text } => {
                if let Some(candidate) = self.candidate(prompt, *index) {
                    candidate.text.push_str(text);
                    candidate.finish_reason = Some(reason.as_str().to_owned());
                }
            }
            Event::Selected(selection) => self.select(prompt, selection),
            Event::Done(_) => return self.done(prompt),
            Event::Scored { .. } | Event::Dropped { .. } | Event::Block { .. } | Event::Failed(_) => {}
        }
        None
    }

    fn candidate(&mut self, prompt: usize, index: usize) -> Option<&mut CandidateRecord> {
        self.drafts.get_mut(prompt)?.record.candidates.get_mut(index)
    }

    /// A strategy has decided.
    fn select(&mut self, prompt: usize, selection: &Selection) {
        let first_choice = prompt * self.num_choices;
        let Some(draft) = self.drafts.get_mut(prompt) else { return };
        draft.record.strategy = Some(selection.strategy.to_owned());
        // What is ranked by likelihood alone has no reward model.
        let is_scored = !selection.reward_model.is_empty();
        draft.record.reward_model = is_scored.then(|| selection.reward_model.to_string());
        let candidate = |(index, candidate): (usize, &Candidate)| CandidateRecord {
            choice: selection
                .selected
                .iter()
                .position(|&selected| selected == index)
                .map(|rank| number(first_choice + rank)),
            index: number(index),
            text: candidate.text.clone(),
            tokens: number(candidate.tokens.len()),
            finish_reason: candidate.finish_reason.map(|reason| reason.as_str().to_owned()),
            reward: candidate.reward.map(f64::from),
            logprob: Some(candidate.logprob),
        };
        draft.record.candidates = selection.candidates.iter().enumerate().map(candidate).collect();
    }

    /// The record of a prompt's answer, once; none for a prompt that was only read.
    fn done(&mut self, prompt: usize) -> Option<CompletionRecord> {
        let draft = self.drafts.get_mut(prompt)?;
        if std::mem::replace(&mut draft.is_done, true) {
            return None;
        }
        let record = CompletionRecord { created_at: now(), ..std::mem::take(&mut draft.record) };
        record.candidates.iter().any(|candidate| candidate.tokens > 0).then_some(record)
    }
}

/// A request's `metadata`, if it is what OpenAI has there: an object.
pub(crate) fn labels(metadata: Option<Value>) -> Map<String, Value> {
    match metadata {
        Some(Value::Object(labels)) => labels,
        _ => Map::new(),
    }
}

fn blank(first_choice: usize, index: usize) -> CandidateRecord {
    CandidateRecord {
        index: number(index),
        choice: Some(number(first_choice + index)),
        ..CandidateRecord::default()
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn sampling(request: &GenerateRequest) -> Value {
    let sampling = &request.sampling;
    json!({
        "n": request.num_choices, "max_tokens": sampling.max_tokens, "temperature": sampling.temperature,
        "top_p": sampling.top_p, "top_k": sampling.top_k, "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty, "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty, "seed": sampling.seed, "stop": sampling.stop,
    })
}
