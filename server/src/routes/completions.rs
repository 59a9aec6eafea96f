//! `POST /v1/completions`. Leaves the wire types to `api::completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use rectify_engine::GenerateRequest;
use rectify_engine::request::{Logprobs, Message};

use super::sse::{self, Render};
use crate::answer::{Answer, Piece, Plan};
use crate::api::alignment::AlignmentRequest;
use crate::api::completions::{CompletionChoice, CompletionRequest, CompletionResponse, OnePrompt, Prompt};
use crate::api::logprobs::{CompletionLogprobs, PromptLogprobs};
use crate::api::sampling::check_num_choices;
use crate::api::{new_id, unix_time};
use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::extract::ApiJson;
use crate::recorder::{About, labels};
use crate::text::TextModel;

/// Continue one or more prompts.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "generation",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, one object of the same shape as the data of each server-sent event, then `[DONE]`", content(
            (CompletionResponse = "application/json"),
            (CompletionResponse = "text/event-stream"),
        )),
        (status = 400, description = "A field is wrong", body = ErrorBody),
        (status = 404, description = "No such model", body = ErrorBody),
        (status = 429, description = "Too many requests wait", body = ErrorBody),
    )
)]
pub(super) async fn create(
    State(app): State<App>,
    ApiJson(request, ignored): ApiJson<CompletionRequest>,
) -> Result<Response, ApiError> {
    let name = request.model.clone().unwrap_or_else(|| app.policy_name().to_owned());
    let is_stream = request.stream.unwrap_or(false);
    let include_usage = request.stream_options.is_some_and(|options| options.include_usage.unwrap_or(false));
    let echo = request.echo.unwrap_or(false);
    let id = new_id("cmpl");
    let num_top = request.logprobs;
    let wants_prompt_logprobs = request.prompt_logprobs;
    let (plan, prompts) = plan(&app, request, &id).await?;
    let sampled = plan.requests.first().map_or(1, |request| request.num_choices);
    let num_choices = plan.most_likely.unwrap_or(sampled);
    let text = Arc::clone(&plan.target.policy.text);
    let answer = Answer::start(&app, plan).await?;
    let head = Head {
        id,
        created: unix_time(),
        model: name,
        fingerprint: answer.policy_version().to_string(),
        text,
        num_top,
        wants_prompt_logprobs,
        prompts: if echo { prompts } else { Vec::new() },
        num_choices,
        offsets: Vec::new(),
    };
    if is_stream {
        return Ok((ignored, sse::stream(answer, Chunks { head, include_usage })).into_response());
    }
    Ok((ignored, Json(collect(answer, head).await?)).into_response())
}

/// A prompt as text and tokens, for `echo` and for reward models.
#[derive(Debug)]
struct Encoded {
    text: String,
    tokens: Vec<u32>,
}

fn encode(model: &dyn TextModel, prompt: OnePrompt) -> Result<Encoded, ApiError> {
    let (text, tokens) = match prompt {
        OnePrompt::Text(text) => {
            let tokens = model.encode_text(&text, true)?;
            (text, tokens)
        }
        OnePrompt::Tokens(tokens) => (model.decode(&tokens, true)?, tokens),
    };
    if tokens.is_empty() {
        return Err(ApiError::invalid("prompt", "prompt is empty, but must hold at least one token"));
    }
    Ok(Encoded { text, tokens })
}

/// Checks the request and turns it into the engine's, one for each prompt.
async fn plan(app: &App, mut request: CompletionRequest, id: &str) -> Result<(Plan, Vec<Encoded>), ApiError> {
    request.check_features()?;
    let person = request.user.as_deref().unwrap_or(id);
    let target = app.resolve(request.model.as_deref(), person)?;
    let policy = &*target.policy;
    let num_choices = check_num_choices(request.n, app.max_candidates)?;
    // As many as `n` need no choice between them.
    let best_of = request.best_of.filter(|&best_of| best_of > num_choices);
    let sampled = check_best_of(best_of.unwrap_or(num_choices), app.max_candidates)?;
    let mut sampling = request.sampling()?.into_params(&policy.generation)?;
    let form = request.form()?;
    if best_of.is_some() {
        sampling.logprobs = sampling.logprobs.or(Some(0));
    }
    let prompts = std::mem::replace(&mut request.prompt, Prompt::Tokens(Vec::new())).split()?;
    let alignment = AlignmentRequest::resolve(request.alignment.take(), target.profile.as_ref());
    if alignment.is_some() {
        check_alignable(&request, prompts.len())?;
    }
    let validated = alignment
        .as_ref()
        .map(|alignment| alignment.validate(num_choices, &app.alignment_limits(policy)))
        .transpose()?;
    policy.check_sampling_tokens(&sampling)?;
    sampling.grammar = policy.grammar(form).await?;
    for prompt in &prompts {
        if let OnePrompt::Tokens(tokens) = prompt {
            policy.check_tokens("prompt", tokens.iter().copied())?;
        }
    }
    let size = prompts.iter().map(OnePrompt::size).sum();
    let encoded: Vec<Encoded> = policy
        .tokenize(size, move |model| prompts.into_iter().map(|prompt| encode(model, prompt)).collect())
        .await?;
    let mut requests = Vec::with_capacity(encoded.len());
    for (index, prompt) in encoded.iter().enumerate() {
        policy.check_fit(prompt.tokens.len(), sampling.max_tokens).map_err(|error| error.at("prompt"))?;
        let mut sampling = sampling.clone();
        let seed = alignment.as_ref().and_then(|alignment| alignment.seed).map(i64::cast_unsigned);
        // Prompts of one request draw independently, also under one seed.
        sampling.seed = seed.or(sampling.seed).map(|seed| seed.wrapping_add(index as u64));
        requests.push(GenerateRequest {
            messages: Arc::new([Message { role: "user".into(), content: prompt.text.clone() }]),
            prompt: prompt.tokens.clone(),
            sampling,
            num_choices: sampled,
            alignment: validated.clone(),
            adapter: target.served.adapter.clone(),
            priority: request.priority.unwrap_or(0),
        });
    }
    let return_candidates = alignment.and_then(|alignment| alignment.return_candidates).unwrap_or(false);
    let about = About {
        id: id.to_owned(),
        model: target.name.clone(),
        policy: (!app.others.is_empty()).then(|| policy.name().to_owned()),
        user: request.user.take(),
        metadata: labels(request.metadata.take()),
    };
    let most_likely = best_of.map(|_| num_choices);
    Ok((Plan { target, requests, return_candidates, most_likely, about }, encoded))
}

fn check_best_of(best_of: usize, most: usize) -> Result<usize, ApiError> {
    if best_of <= most {
        return Ok(best_of);
    }
    Err(ApiError::invalid("best_of", format!("best_of is {best_of}, but must be at most {most}")))
}

/// The report of a strategy stands beside the choices, so it can be about one prompt only.
fn check_alignable(request: &CompletionRequest, num_prompts: usize) -> Result<(), ApiError> {
    if num_prompts > 1 {
        let message = format!("alignment takes one prompt in a request, but there are {num_prompts}");
        return Err(ApiError::invalid("prompt", message));
    }
    if request.best_of.is_some_and(|best_of| best_of > request.n.unwrap_or(1)) {
        let message = "best_of and alignment contradict each other; leave one out";
        return Err(ApiError::invalid("best_of", message));
    }
    if request.echo.unwrap_or(false) && request.logprobs.is_some() {
        let message = "echo with logprobs cannot be combined with alignment; leave one of them out";
        return Err(ApiError::invalid("echo", message));
    }
    Ok(())
}

impl OnePrompt {
    /// Roughly how many bytes of text it is.
    fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Tokens(tokens) => 4 * tokens.len(),
        }
    }
}

/// What all chunks of an answer have in common, and how far each choice's text is.
struct Head {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    text: Arc<dyn TextModel>,
    /// `logprobs`.
    num_top: Option<usize>,
    /// `prompt_logprobs`.
    wants_prompt_logprobs: Option<usize>,
    /// With `echo`.
    prompts: Vec<Encoded>,
    num_choices: usize,
    /// Characters of each choice so far, for `text_offset`.
    offsets: Vec<usize>,
}

/// With this many alternatives: `echo` and `prompt_logprobs` may want different numbers of them.
fn cut(logprobs: &Logprobs, num_top: usize) -> Logprobs {
    let top = logprobs.top.iter().take(num_top).copied().collect();
    Logprobs { own: logprobs.own, top }
}

impl Head {
    fn offset(&mut self, choice: usize) -> &mut usize {
        if self.offsets.len() <= choice {
            self.offsets.resize(choice + 1, 0);
        }
        &mut self.offsets[choice]
    }

    /// The echoed prompt of a choice.
    fn start(&mut self, choice: usize, prompt_logprobs: Option<&[Logprobs]>) -> CompletionChoice {
        let mut news = CompletionChoice { index: choice, ..CompletionChoice::default() };
        let mut offset = 0;
        news.logprobs = self.num_top.map(|_| CompletionLogprobs::default());
        if let (Some(num_top), Some(entries)) = (self.wants_prompt_logprobs, prompt_logprobs) {
            let entries: Vec<Logprobs> = entries.iter().map(|entry| cut(entry, num_top)).collect();
            news.prompt_logprobs = Some(PromptLogprobs::new(&*self.text, &entries));
        }
        if let Some(prompt) = self.prompts.get(choice / self.num_choices) {
            news.text.clone_from(&prompt.text);
            if let Some(list) = &mut news.logprobs {
                let first = prompt.tokens.first().copied().unwrap_or_default();
                offset = list.push_first(&*self.text, first);
                for entry in prompt_logprobs.unwrap_or_default() {
                    let entry = cut(entry, self.num_top.unwrap_or(0));
                    offset = list.push(&*self.text, &entry, offset);
                }
            }
        }
        *self.offset(choice) = offset;
        news
    }

    fn added(&mut self, choice: usize, text: String, logprobs: &[Logprobs]) -> CompletionChoice {
        let mut news = CompletionChoice { index: choice, text, ..CompletionChoice::default() };
        if self.num_top.is_some() && !logprobs.is_empty() {
            let model = Arc::clone(&self.text);
            let offset = self.offset(choice);
            let mut list = CompletionLogprobs::default();
            for entry in logprobs {
                *offset = list.push(&*model, entry, *offset);
            }
            news.logprobs = Some(list);
        }
        news
    }

    fn envelope(&self) -> CompletionResponse {
        CompletionResponse {
            id: self.id.clone(),
            object: "text_completion".into(),
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: Some(self.fingerprint.clone()),
            choices: Vec::new(),
            usage: None,
            alignment: None,
        }
    }
}

/// The whole answer, from the same pieces a stream is made of.
async fn collect(mut answer: Answer, mut head: Head) -> Result<CompletionResponse, ApiError> {
    let mut response = head.envelope();
    while let Some(piece) = answer.next().await {
        match piece? {
            Piece::Start { choice, prompt_logprobs } => {
                response.choices.push(head.start(choice, prompt_logprobs.as_deref()));
            }
            Piece::Text { choice, text, logprobs } => {
                let news = head.added(choice, text, &logprobs);
                let Some(choice) = response.choices.iter_mut().find(|known| known.index == choice) else {
                    continue;
                };
                choice.text.push_str(&news.text);
                if let (Some(list), Some(more)) = (&mut choice.logprobs, news.logprobs) {
                    list.append(more);
                }
            }
            Piece::End { choice, reason, reward, alignment } => {
                if let Some(report) = alignment {
                    response.alignment = Some(*report);
                }
                if let Some(choice) = response.choices.iter_mut().find(|known| known.index == choice) {
                    choice.finish_reason = Some(reason.as_str().to_owned());
                    choice.reward = reward;
                }
            }
            Piece::Progress { .. } => {}
            Piece::Done(usage) => response.usage = Some(Some(usage)),
        }
    }
    response.choices.sort_by_key(|choice| choice.index);
    Ok(response)
}

struct Chunks {
    head: Head,
    include_usage: bool,
}

impl Render for Chunks {
    type Chunk = CompletionResponse;

    fn chunks(&mut self, piece: Piece) -> Vec<CompletionResponse> {
        self.chunk(piece).into_iter().collect()
    }
}

impl Chunks {
    fn chunk(&mut self, piece: Piece) -> Option<CompletionResponse> {
        let mut chunk = self.head.envelope();
        chunk.usage = self.include_usage.then_some(None);
        let choice = match piece {
            Piece::Start { choice, prompt_logprobs } => {
                let news = self.head.start(choice, prompt_logprobs.as_deref());
                // Without `echo` a choice starts with its first text.
                if news.text.is_empty() {
                    return None;
                }
                news
            }
            Piece::Text { choice, text, logprobs } => self.head.added(choice, text, &logprobs),
            Piece::End { choice, reason, reward, alignment } => {
                chunk.alignment = alignment.map(|report| *report);
                let finish_reason = Some(reason.as_str().to_owned());
                CompletionChoice { index: choice, finish_reason, reward, ..CompletionChoice::default() }
            }
            Piece::Done(usage) if self.include_usage => {
                chunk.usage = Some(Some(usage));
                return Some(chunk);
            }
            Piece::Done(_) | Piece::Progress { .. } => return None,
        };
        chunk.choices.push(choice);
        Some(chunk)
    }
}
