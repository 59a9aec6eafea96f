//! `POST /v1/chat/completions`. Leaves the wire types to `api::chat`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use rectify_engine::GenerateRequest;

use super::sse::{self, Render};
use crate::answer::{Answer, Piece, Plan};
use crate::api::alignment::AlignmentRequest;
use crate::api::chat::{
    AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatRequest, ChatResponse, Delta,
};
use crate::api::logprobs::ChatLogprobs;
use crate::api::sampling::check_num_choices;
use crate::api::{Usage, new_id, unix_time};
use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::extract::ApiJson;
use crate::recorder::{About, labels};
use crate::text::TextModel;

/// Answer a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "generation",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, `ChatChunk` objects as server-sent events", body = ChatResponse),
        (status = 400, description = "A field is wrong", body = ErrorBody),
        (status = 404, description = "No such model", body = ErrorBody),
        (status = 429, description = "Too many requests wait", body = ErrorBody),
    )
)]
pub(super) async fn create(
    State(app): State<App>,
    ApiJson(request, ignored): ApiJson<ChatRequest>,
) -> Result<Response, ApiError> {
    let name = request.model.clone().unwrap_or_else(|| app.policy_name().to_owned());
    let is_stream = request.stream.unwrap_or(false);
    let include_usage = request.stream_options.is_some_and(|options| options.include_usage.unwrap_or(false));
    let has_logprobs = request.logprobs.unwrap_or(false);
    let id = new_id("chatcmpl");
    let plan = plan(&app, request, &id).await?;
    let answer = Answer::start(&app, plan).await?;
    let head = Head {
        id,
        created: unix_time(),
        model: name,
        fingerprint: answer.policy_version().to_string(),
        text: Arc::clone(&app.text),
        has_logprobs,
    };
    if is_stream {
        return Ok((ignored, sse::stream(answer, Chunks { head, include_usage })).into_response());
    }
    Ok((ignored, Json(collect(answer, head).await?)).into_response())
}

/// Checks the request and turns it into the engine's.
async fn plan(app: &App, mut request: ChatRequest, id: &str) -> Result<Plan, ApiError> {
    request.check_features()?;
    let person = request.user.as_deref().unwrap_or(id);
    let target = app.resolve(request.model.as_deref(), person)?;
    let num_choices = check_num_choices(request.n, app.max_candidates)?;
    let messages = request.conversation()?;
    let form = request.form()?;
    let alignment = AlignmentRequest::resolve(request.alignment.take(), target.profile.as_ref());
    let size = messages.iter().map(|message| message.content.len()).sum();
    let conversation = Arc::clone(&messages);
    let prompt = app.tokenize(size, move |text| Ok(text.encode_chat(&conversation)?)).await?;
    let room = app.room(prompt.len())?;
    let default_max_tokens = app.generation.max_tokens.map_or(room, |most| most.min(room));
    let mut sampling = request.sampling(default_max_tokens)?.into_params(&app.generation)?;
    if let Some(seed) = alignment.as_ref().and_then(|alignment| alignment.seed) {
        sampling.seed = Some(seed.cast_unsigned());
    }
    app.check_fit(prompt.len(), sampling.max_tokens)?;
    app.check_sampling_tokens(&sampling)?;
    sampling.grammar = app.grammar(form).await?;
    let validated = alignment
        .as_ref()
        .map(|alignment| alignment.validate(num_choices, &app.alignment_limits()))
        .transpose()?;
    let generate = GenerateRequest {
        prompt,
        messages,
        sampling,
        num_choices,
        alignment: validated,
        adapter: target.served.adapter.clone(),
        priority: request.priority.unwrap_or(0),
    };
    let return_candidates = alignment.and_then(|alignment| alignment.return_candidates).unwrap_or(false);
    let about = About {
        id: id.to_owned(),
        model: target.name.clone(),
        user: request.user.take(),
        metadata: labels(request.metadata.take()),
    };
    Ok(Plan { target, requests: vec![generate], return_candidates, about })
}

/// What all chunks of an answer have in common.
struct Head {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    text: Arc<dyn TextModel>,
    has_logprobs: bool,
}

impl Head {
    fn logprobs(&self, logprobs: &[rectify_engine::request::Logprobs]) -> Option<ChatLogprobs> {
        self.has_logprobs.then(|| {
            let mut list = ChatLogprobs::default();
            logprobs.iter().for_each(|entry| list.push(&*self.text, entry));
            list
        })
    }
}

/// The whole answer, from the same pieces a stream is made of.
async fn collect(mut answer: Answer, head: Head) -> Result<ChatResponse, ApiError> {
    let mut choices: Vec<ChatChoice> = Vec::new();
    let mut usage = Usage::default();
    let mut report = None;
    while let Some(piece) = answer.next().await {
        match piece? {
            Piece::Start { choice, .. } => choices.push(ChatChoice {
                index: choice,
                message: AssistantMessage {
                    role: "assistant".into(),
                    content: Some(String::new()),
                    refusal: None,
                },
                logprobs: head.logprobs(&[]),
                ..ChatChoice::default()
            }),
            Piece::Text { choice, text, logprobs } => {
                let Some(choice) = choices.get_mut(choice) else { continue };
                choice.message.content.get_or_insert_default().push_str(&text);
                if let Some(list) = &mut choice.logprobs {
                    logprobs.iter().for_each(|entry| list.push(&*head.text, entry));
                }
            }
            Piece::End { choice, reason, reward, alignment } => {
                report = report.or(alignment);
                let Some(choice) = choices.get_mut(choice) else { continue };
                choice.finish_reason = Some(reason.as_str().to_owned());
                choice.reward = reward;
            }
            Piece::Progress { .. } => {}
            Piece::Done(spent) => usage = spent,
        }
    }
    let alignment = report.map(|report| *report);
    let Head { id, created, model, fingerprint, .. } = head;
    let object = "chat.completion".into();
    Ok(ChatResponse {
        id,
        object,
        created,
        model,
        system_fingerprint: Some(fingerprint),
        choices,
        usage,
        alignment,
    })
}

struct Chunks {
    head: Head,
    include_usage: bool,
}

impl Render for Chunks {
    type Chunk = ChatChunk;

    fn chunk(&mut self, piece: Piece) -> Option<ChatChunk> {
        let head = &self.head;
        let mut chunk = ChatChunk {
            id: head.id.clone(),
            object: "chat.completion.chunk".into(),
            created: head.created,
            model: head.model.clone(),
            system_fingerprint: Some(head.fingerprint.clone()),
            choices: Vec::new(),
            usage: self.include_usage.then_some(None),
            alignment: None,
        };
        let choice = match piece {
            Piece::Start { choice, .. } => ChatChunkChoice {
                index: choice,
                delta: Delta { role: Some("assistant".into()), content: Some(String::new()) },
                ..ChatChunkChoice::default()
            },
            Piece::Text { choice, text, logprobs } => ChatChunkChoice {
                index: choice,
                delta: Delta { role: None, content: Some(text) },
                logprobs: if logprobs.is_empty() { None } else { head.logprobs(&logprobs) },
                ..ChatChunkChoice::default()
            },
            Piece::End { choice, reason, reward, alignment } => {
                chunk.alignment = alignment.map(|report| *report);
                let finish_reason = Some(reason.as_str().to_owned());
                ChatChunkChoice { index: choice, finish_reason, reward, ..ChatChunkChoice::default() }
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
