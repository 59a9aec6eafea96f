//! `POST /v1/chat/completions`. Leaves the wire types to `api::chat`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use rectify_engine::GenerateRequest;
use rectify_engine::request::{FinishReason, Logprobs, Message};
use rectify_engine::text::tools::plain;

use super::sse::{self, Render};
use crate::answer::{Answer, Piece, Plan};
use crate::api::alignment::AlignmentRequest;
use crate::api::chat::{ChatChoice, ChatChunk, ChatChunkChoice, ChatRequest, ChatResponse, Delta};
use crate::api::logprobs::{ChatLogprobs, PromptLogprobs};
use crate::api::sampling::check_num_choices;
use crate::api::structured::Form;
use crate::api::tools::ToolUse;
use crate::api::{Usage, new_id, unix_time};
use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::extract::ApiJson;
use crate::recorder::{About, labels};
use crate::reply::{Calls, Reply, ReplyFormat};
use crate::text::{Chat, TextModel};

/// Answer a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "generation",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, one chunk as the data of each server-sent event, then `[DONE]`", content(
            (ChatResponse = "application/json"),
            (ChatChunk = "text/event-stream"),
        )),
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
    let (plan, format) = plan(&app, request, &id).await?;
    let text = Arc::clone(&plan.target.policy.text);
    let answer = Answer::start(&app, plan).await?;
    let head = Head {
        id,
        created: unix_time(),
        model: name,
        fingerprint: answer.policy_version().to_string(),
        text,
        has_logprobs,
        format,
    };
    if is_stream {
        let chunks = Chunks { head, include_usage, replies: Vec::new() };
        return Ok((ignored, sse::stream(answer, chunks)).into_response());
    }
    Ok((ignored, Json(collect(answer, head).await?)).into_response())
}

/// Checks the request and turns it into the engine's; also what is looked for in its answers.
pub(super) async fn plan(
    app: &App,
    mut request: ChatRequest,
    id: &str,
) -> Result<(Plan, ReplyFormat), ApiError> {
    let person = request.user.as_deref().unwrap_or(id);
    let target = app.resolve(request.model.as_deref(), person)?;
    let policy = &*target.policy;
    let num_choices = check_num_choices(request.n, app.max_candidates)?;
    let turns = request.conversation()?;
    let form = request.form()?;
    let tools = request.tool_use()?;
    let alignment = AlignmentRequest::resolve(request.alignment.take(), target.profile.as_ref());
    let size = turns.iter().map(|turn| turn.content.len()).sum();
    let chat = Chat {
        messages: request.for_template(&turns),
        tools: tools.as_ref().map(|tools| tools.definitions.clone()),
        variables: request.chat_template_kwargs.take().unwrap_or_default(),
        add_generation_prompt: true,
    };
    let messages = chat.messages.iter().map(plain::plain).map(engine_message).collect();
    let prompt = policy.tokenize(size, move |text| Ok(text.encode_chat(&chat)?)).await?;
    let room = policy.room(prompt.tokens.len())?;
    let default_max_tokens = policy.generation.max_tokens.map_or(room, |most| most.min(room));
    let mut sampling = request.sampling(default_max_tokens)?.into_params(&policy.generation)?;
    if let Some(seed) = alignment.as_ref().and_then(|alignment| alignment.seed) {
        sampling.seed = Some(seed.cast_unsigned());
    }
    policy.check_fit(prompt.tokens.len(), sampling.max_tokens)?;
    policy.check_sampling_tokens(&sampling)?;
    let style = policy.text.style();
    let format = ReplyFormat {
        reasoning: style.marks_reasoning.then_some(prompt.opens_reasoning),
        tools: tools.as_ref().and_then(|tools| Calls::of(tools, style.tools)),
    };
    if format.tools.is_some() && style.tools.has_special_tokens() {
        sampling.skip_special_tokens = false;
    }
    let mut form = form_of_answer(&*policy.text, form, tools.as_ref())?;
    if format.reasoning == Some(true)
        && let Some(form) = &mut form
    {
        let refuse =
            |cause| ApiError::invalid(form.param, format!("{} cannot be followed: {cause}", form.param));
        form.spec = form.spec.after_thoughts().map_err(refuse)?;
    }
    sampling.grammar = policy.grammar(form).await?;
    let validated = alignment
        .as_ref()
        .map(|alignment| alignment.validate(num_choices, &app.alignment_limits(policy)))
        .transpose()?;
    let generate = GenerateRequest {
        prompt: prompt.tokens,
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
        policy: (!app.others.is_empty()).then(|| policy.name().to_owned()),
        user: request.user.take(),
        metadata: labels(request.metadata.take()),
    };
    let requests = vec![generate];
    Ok((Plan { target, requests, return_candidates, most_likely: None, about }, format))
}

/// A turn as reward models and records have it.
fn engine_message(message: serde_json::Value) -> Message {
    let text = |field: &str| message[field].as_str().unwrap_or_default().to_owned();
    Message { role: text("role"), content: text("content") }
}

/// The form that is asked for, or that of calls where one is required.
fn form_of_answer(
    text: &dyn TextModel,
    form: Option<Form>,
    tools: Option<&ToolUse>,
) -> Result<Option<Form>, ApiError> {
    let Some(tools) = tools.filter(|tools| tools.is_forced()) else { return Ok(form) };
    if let Some(form) = form {
        let message =
            format!("tool_choice requires a call, which {} would not allow; leave one out", form.param);
        return Err(ApiError::invalid("tool_choice", message));
    }
    let special = |name: &str| text.special_token(name);
    match text.style().tools.grammar(&tools.functions, tools.parallel, special) {
        Ok(spec) => Ok(Some(Form { param: "tools", spec })),
        Err((index, cause)) => {
            let name = tools.functions.get(index).map_or("", |function| &function.name);
            let message = format!("the parameters of `{name}` cannot be followed: {cause}");
            Err(ApiError::invalid("tools", message))
        }
    }
}

/// What all chunks of an answer have in common.
struct Head {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    text: Arc<dyn TextModel>,
    has_logprobs: bool,
    format: ReplyFormat,
}

impl Head {
    fn logprobs(&self, logprobs: &[Logprobs]) -> Option<ChatLogprobs> {
        self.has_logprobs.then(|| {
            let mut list = ChatLogprobs::default();
            logprobs.iter().for_each(|entry| list.push(&*self.text, entry));
            list
        })
    }
}

/// The replies of all choices; a choice that is seen first has none yet.
fn reply<'a>(replies: &'a mut Vec<Reply>, choice: usize, format: &ReplyFormat) -> &'a mut Reply {
    if replies.len() <= choice {
        replies.resize_with(choice + 1, || Reply::new(format));
    }
    &mut replies[choice]
}

/// The whole answer, from the same pieces a stream is made of.
async fn collect(mut answer: Answer, head: Head) -> Result<ChatResponse, ApiError> {
    let mut choices: Vec<ChatChoice> = Vec::new();
    let mut replies: Vec<Reply> = Vec::new();
    let mut usage = Usage::default();
    let mut report = None;
    let mut prompt_logprobs = None;
    while let Some(piece) = answer.next().await {
        match piece? {
            Piece::Start { choice, prompt_logprobs: entries } => {
                prompt_logprobs = prompt_logprobs.or(entries);
                let mut news =
                    ChatChoice { index: choice, logprobs: head.logprobs(&[]), ..ChatChoice::default() };
                news.message.role = "assistant".into();
                choices.push(news);
            }
            Piece::Text { choice, text, logprobs } => {
                let delta = reply(&mut replies, choice, &head.format).push(text);
                let Some(choice) = choices.get_mut(choice) else { continue };
                choice.message.add(delta);
                if let Some(list) = &mut choice.logprobs {
                    logprobs.iter().for_each(|entry| list.push(&*head.text, entry));
                }
            }
            Piece::End { choice, reason, reward, alignment } => {
                report = report.or(alignment);
                let reply = reply(&mut replies, choice, &head.format);
                let delta = reply.finish();
                let Some(choice) = choices.get_mut(choice) else { continue };
                choice.message.add(delta);
                if choice.message.tool_calls.is_none() {
                    choice.message.content.get_or_insert_default();
                }
                choice.finish_reason = Some(reply.finish_reason(reason.as_str()).to_owned());
                choice.reward = reward;
            }
            Piece::Progress { .. } => {}
            Piece::Done(spent) => usage = spent,
        }
    }
    let alignment = report.map(|report| *report);
    let prompt_logprobs = prompt_logprobs.map(|entries| PromptLogprobs::new(&*head.text, &entries));
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
        prompt_logprobs,
        alignment,
    })
}

struct Chunks {
    head: Head,
    include_usage: bool,
    replies: Vec<Reply>,
}

impl Chunks {
    fn reply(&mut self, choice: usize) -> &mut Reply {
        reply(&mut self.replies, choice, &self.head.format)
    }

    fn envelope(&self) -> ChatChunk {
        let head = &self.head;
        ChatChunk {
            id: head.id.clone(),
            object: "chat.completion.chunk".into(),
            created: head.created,
            model: head.model.clone(),
            system_fingerprint: Some(head.fingerprint.clone()),
            choices: Vec::new(),
            usage: self.include_usage.then_some(None),
            alignment: None,
        }
    }

    fn of(&self, choice: ChatChunkChoice) -> ChatChunk {
        ChatChunk { choices: vec![choice], ..self.envelope() }
    }

    fn end(&mut self, index: usize, reason: FinishReason) -> (Option<ChatChunk>, ChatChunkChoice) {
        let reply = self.reply(index);
        let delta = reply.finish();
        let finish_reason = Some(reply.finish_reason(reason.as_str()).to_owned());
        let rest = ChatChunkChoice { index, delta, ..ChatChunkChoice::default() };
        let rest = (!rest.delta.is_empty()).then(|| self.of(rest));
        (rest, ChatChunkChoice { index, finish_reason, ..ChatChunkChoice::default() })
    }
}

impl Render for Chunks {
    type Chunk = ChatChunk;

    fn chunks(&mut self, piece: Piece) -> Vec<ChatChunk> {
        match piece {
            Piece::Start { choice, .. } => {
                let role = Some("assistant".into());
                let delta = Delta { role, content: Some(String::new()), ..Delta::default() };
                vec![self.of(ChatChunkChoice { index: choice, delta, ..ChatChunkChoice::default() })]
            }
            Piece::Text { choice, text, logprobs } => {
                let delta = self.reply(choice).push(text);
                let logprobs = if logprobs.is_empty() { None } else { self.head.logprobs(&logprobs) };
                // Text that may yet belong to a call is held back, its logprobs are not.
                if delta.is_empty() && logprobs.is_none() {
                    return Vec::new();
                }
                vec![self.of(ChatChunkChoice {
                    index: choice,
                    delta,
                    logprobs,
                    ..ChatChunkChoice::default()
                })]
            }
            Piece::End { choice, reason, reward, alignment } => {
                let (rest, end) = self.end(choice, reason);
                let mut last = self.of(ChatChunkChoice { reward, ..end });
                last.alignment = alignment.map(|report| *report);
                rest.into_iter().chain([last]).collect()
            }
            Piece::Done(usage) if self.include_usage => {
                vec![ChatChunk { usage: Some(Some(usage)), ..self.envelope() }]
            }
            Piece::Done(_) | Piece::Progress { .. } => Vec::new(),
        }
    }
}
