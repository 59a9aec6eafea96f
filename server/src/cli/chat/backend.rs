//! Who answers in the chat: an engine in this process, or a running server. Both tell the same story in [`Said`].
//! Leaves the terminal to `chat`.

use futures::StreamExt;
use rectify_engine::EngineError;
use rectify_engine::request::{Event, Message};
use serde_json::{Value, json};

use super::vote::{self, Answered};
use crate::api::alignment::AlignmentRequest;
use crate::api::new_id;
use crate::cli::candidates::Collector;
use crate::cli::client::{Client, ServerEvent};
use crate::cli::local::Local;
use crate::cli::{CliError, SamplingArgs};
use crate::recorder::{About, Recorder};

/// Who answers.
pub(super) enum Backend {
    /// An engine in this process, and how it samples.
    Local(Box<Local>, SamplingArgs),
    /// A server and the model to ask for.
    Server { client: Client, model: String, sampling: SamplingArgs },
}

/// What happens while an answer is made.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    /// More of the answer.
    Text(String),
    /// Candidates finished so far.
    Finished { done: usize, of: usize },
    /// A keep-alive of the server, as it is.
    Note(String),
}

/// How an answer came about, as far as the backend knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Footer {
    pub(super) reward: Option<f64>,
    pub(super) tokens: Option<u64>,
    /// Why there is no reward, if there should be one.
    pub(super) scoring_failure: Option<String>,
    /// What a vote would be about.
    pub(super) answered: Option<Answered>,
}

impl Backend {
    /// Answers a conversation with the best of `n`; alone, the answer is said as it comes.
    pub(super) async fn answer(
        &self,
        turns: &[Message],
        n: usize,
        say: &mut dyn FnMut(Said),
    ) -> Result<Footer, CliError> {
        match self {
            Self::Local(local, sampling) => local_answer(local, sampling, turns, n, say).await,
            Self::Server { client, model, sampling } => {
                let body = request_body(model, sampling, turns, n);
                server_answer(client, &body, say).await
            }
        }
    }

    /// Votes on an answer.
    pub(super) async fn vote(
        &self,
        answered: &Answered,
        up: bool,
        comment: Option<String>,
    ) -> Result<(), CliError> {
        match (self, answered) {
            (Self::Local(local, _), Answered::Local(record)) => {
                vote::keep(&local.store, record, up, comment).await
            }
            (Self::Server { client, .. }, Answered::Server(id)) => vote::send(client, id, up, comment).await,
            // A chat has one backend from its begin to its end.
            _ => Ok(()),
        }
    }

    /// Refuses options out of range, and `n` candidates where nothing could choose among them.
    pub(super) fn check(&self, n: usize) -> Result<(), CliError> {
        let Self::Local(local, sampling) = self else { return Ok(()) };
        local.sampling(sampling, n)?;
        if n > 1 { local.require_reward("choosing among candidates") } else { Ok(()) }
    }
}

async fn local_answer(
    local: &Local,
    sampling: &SamplingArgs,
    turns: &[Message],
    n: usize,
    say: &mut dyn FnMut(Said),
) -> Result<Footer, CliError> {
    let best_of = AlignmentRequest { n: Some(n), ..AlignmentRequest::default() };
    let alignment = (n > 1).then(|| local.alignment(&best_of)).transpose()?;
    let request = local.request(turns.to_vec(), n, alignment, local.sampling(sampling, n)?)?;
    let about = About { id: new_id("chat"), model: local.models.policy_name.to_string(), ..About::default() };
    let (mut recorder, mut answered) = (Recorder::new(&about, None, std::slice::from_ref(&request)), None);
    let mut events = local.engine.generate(request).await?;
    let (mut collector, mut finished) = (Collector::new(n), 0);
    while let Some(event) = events.next().await {
        answered = recorder.observe(0, &event).or(answered);
        match &event {
            Event::Token { text, .. } | Event::Finished { text, .. } if n == 1 && !text.is_empty() => {
                say(Said::Text(text.clone()));
            }
            Event::Finished { .. } => {
                finished += 1;
                say(Said::Finished { done: finished, of: n });
            }
            _ => {}
        }
        if let Some(outcome) = collector.take(event)? {
            let tokens = Some(outcome.usage.completion_tokens as u64);
            let scoring_failure = outcome.scoring_failure;
            let answered = answered.map(|record| Answered::Local(Box::new(record)));
            let mut footer = Footer { reward: None, tokens, scoring_failure, answered };
            if n > 1 {
                let winner = outcome.selected.first().and_then(|&index| outcome.candidates.get(index));
                let winner = winner.ok_or(EngineError::Shutdown)?;
                footer.reward = winner.reward.map(f64::from);
                say(Said::Text(winner.text.clone()));
            }
            return Ok(footer);
        }
    }
    Err(EngineError::Shutdown.into())
}

fn request_body(model: &str, sampling: &SamplingArgs, turns: &[Message], n: usize) -> Value {
    let mut body = json!({
        "model": model, "messages": turns, "stream": true, "stream_options": {"include_usage": true},
    });
    if n > 1 {
        body["alignment"] = json!({"strategy": "best_of_n", "n": n});
    }
    for (name, value) in sampling.given() {
        body[name] = value;
    }
    body
}

async fn server_answer(client: &Client, body: &Value, say: &mut dyn FnMut(Said)) -> Result<Footer, CliError> {
    let mut events = std::pin::pin!(client.stream("/v1/chat/completions", body).await?);
    let mut footer = Footer::default();
    while let Some(event) = events.next().await {
        match event? {
            ServerEvent::Comment(note) => say(Said::Note(note)),
            ServerEvent::Chunk(chunk) => {
                let choice = &chunk["choices"][0];
                if let Some(id) = chunk["id"].as_str() {
                    footer.answered = Some(Answered::Server(id.to_owned()));
                }
                if let Some(text) = choice["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
                    say(Said::Text(text.to_owned()));
                }
                footer.reward = choice["reward"].as_f64().or(footer.reward);
                footer.tokens = chunk["usage"]["completion_tokens"].as_u64().or(footer.tokens);
                let scoring = chunk["alignment"]["scoring"].as_str();
                if let Some(reason) = scoring.and_then(|scoring| scoring.strip_prefix("failed: ")) {
                    footer.scoring_failure = Some(reason.to_owned());
                }
            }
            ServerEvent::Done => return Ok(footer),
        }
    }
    Err(CliError::Refused("the server's answer ended before it was complete".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_asked_for_best_of_n_only_above_one() {
        let turns = [Message { role: "user".into(), content: "Hi".into() }];
        let sampling =
            SamplingArgs { temperature: Some(0.5), max_tokens: Some(9), ..SamplingArgs::default() };
        let body = request_body("m", &sampling, &turns, 1);
        assert_eq!(body["messages"], json!([{"role": "user", "content": "Hi"}]));
        assert_eq!((&body["temperature"], &body["max_tokens"]), (&json!(0.5), &json!(9)));
        assert_eq!(body.get("alignment"), None);
        assert_eq!(body.get("top_p"), None);
        assert_eq!(request_body("m", &sampling, &turns, 16)["alignment"]["n"], json!(16));
    }
}
