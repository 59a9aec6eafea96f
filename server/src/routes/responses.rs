//! `POST /v1/responses`: a chat under another name, with events of its own when streamed. Leaves the wire types to
//! `api::responses` and the request's meaning to `chat`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::chat::plan;
use super::sse::{self, Render};
use crate::answer::{Answer, Piece};
use crate::api::chat::{AssistantMessage, Delta};
use crate::api::responses::{OutputItem, OutputPart, ResponseEvent, ResponseObject, ResponsesRequest};
use crate::api::tools::FunctionCall;
use crate::api::{new_id, unix_time};
use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::extract::ApiJson;
use crate::reply::{Reply, ReplyFormat};

/// Answer a conversation, in the form of OpenAI's newer endpoint.
#[utoipa::path(
    post,
    path = "/v1/responses",
    tag = "generation",
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The response; with `stream`, one event as the data of each server-sent event", content(
            (ResponseObject = "application/json"),
            (ResponseEvent = "text/event-stream"),
        )),
        (status = 400, description = "A field is wrong", body = ErrorBody),
        (status = 404, description = "No such model", body = ErrorBody),
        (status = 429, description = "Too many requests wait", body = ErrorBody),
    )
)]
pub(super) async fn create(
    State(app): State<App>,
    ApiJson(request, ignored): ApiJson<ResponsesRequest>,
) -> Result<Response, ApiError> {
    let model = request.model.clone().unwrap_or_else(|| app.policy_name().to_owned());
    let is_stream = request.stream.unwrap_or(false);
    let id = new_id("resp");
    let response = ResponseObject::new(id.clone(), unix_time(), model, &request);
    let (plan, format) = plan(&app, request.into_chat()?, &id).await?;
    let answer = Answer::start(&app, plan).await?;
    if is_stream {
        return Ok((ignored, sse::stream(answer, Events::new(response, &format))).into_response());
    }
    Ok((ignored, Json(collect(answer, response, &format).await?)).into_response())
}

/// The whole response, from the same pieces a stream is made of.
async fn collect(
    mut answer: Answer,
    mut response: ResponseObject,
    format: &ReplyFormat,
) -> Result<ResponseObject, ApiError> {
    let (mut reply, mut message) = (Reply::new(format), AssistantMessage::default());
    while let Some(piece) = answer.next().await {
        match piece? {
            Piece::Text { text, .. } => message.add(reply.push(text)),
            Piece::End { reason, alignment, .. } => {
                message.add(reply.finish());
                response.end(reason.as_str());
                response.alignment = alignment.map(|report| *report);
            }
            Piece::Done(usage) => response.usage = Some(usage.into()),
            Piece::Start { .. } | Piece::Progress { .. } => {}
        }
    }
    if message.tool_calls.is_none() {
        message.content.get_or_insert_default();
    }
    response.output = OutputItem::all(message);
    Ok(response)
}

/// Pieces to events; each has its number.
struct Events {
    response: ResponseObject,
    reply: Reply,
    /// The item that is being said, and its text or arguments so far.
    open: Option<(OutputItem, String)>,
    sequence_number: usize,
}

impl Events {
    fn new(response: ResponseObject, format: &ReplyFormat) -> Self {
        Self { response, reply: Reply::new(format), open: None, sequence_number: 0 }
    }

    fn event(&mut self, kind: &str, mut fields: Value) -> Value {
        fields["type"] = kind.into();
        fields["sequence_number"] = self.sequence_number.into();
        self.sequence_number += 1;
        fields
    }

    fn whole(&mut self, kind: &str) -> Value {
        let response = serde_json::to_value(&self.response).unwrap_or_default();
        self.event(kind, json!({"response": response}))
    }

    /// An event of the open item.
    fn of_item(&mut self, kind: &str, mut fields: Value) -> Value {
        let id = self.open.as_ref().map(|(item, _)| item.id.clone());
        fields["item_id"] = id.into();
        fields["output_index"] = self.response.output.len().into();
        self.event(kind, fields)
    }

    fn begin(&mut self, item: OutputItem, out: &mut Vec<Value>) {
        self.end_item(out);
        let item = OutputItem { status: "in_progress".to_owned(), ..item };
        let output_index = self.response.output.len();
        out.push(
            self.event("response.output_item.added", json!({"output_index": output_index, "item": &item})),
        );
        let is_reasoning = item.kind == "reasoning";
        let has_parts = item.content.is_some();
        self.open = Some((item, String::new()));
        if has_parts {
            let part = OutputPart::new(is_reasoning, String::new());
            out.push(self.of_item("response.content_part.added", json!({"content_index": 0, "part": part})));
        }
    }

    fn end_item(&mut self, out: &mut Vec<Value>) {
        let Some((item, text)) = self.open.clone() else { return };
        let mut item = OutputItem { status: "completed".to_owned(), ..item };
        if item.kind == "function_call" {
            out.push(self.of_item("response.function_call_arguments.done", json!({"arguments": text})));
            item.arguments = Some(text);
        } else {
            let is_reasoning = item.kind == "reasoning";
            let part = OutputPart::new(is_reasoning, text.clone());
            let done = if is_reasoning {
                self.of_item("response.reasoning_text.done", json!({"content_index": 0, "text": text}))
            } else {
                let fields = json!({"content_index": 0, "text": text, "logprobs": []});
                self.of_item("response.output_text.done", fields)
            };
            out.push(done);
            out.push(self.of_item("response.content_part.done", json!({"content_index": 0, "part": &part})));
            item.content = Some(vec![part]);
        }
        let output_index = self.response.output.len();
        out.push(
            self.event("response.output_item.done", json!({"output_index": output_index, "item": &item})),
        );
        self.response.output.push(item);
        self.open = None;
    }

    /// Adds to the open item, which is of `kind`, or to a new one.
    fn say(&mut self, kind: &str, new: impl FnOnce() -> OutputItem, text: &str, out: &mut Vec<Value>) {
        if self.open.as_ref().is_none_or(|(item, _)| item.kind != kind) {
            self.begin(new(), out);
        }
        if let Some((_, said)) = &mut self.open {
            said.push_str(text);
        }
        out.push(match kind {
            "reasoning" => {
                self.of_item("response.reasoning_text.delta", json!({"content_index": 0, "delta": text}))
            }
            "message" => self.of_item(
                "response.output_text.delta",
                json!({"content_index": 0, "delta": text, "logprobs": []}),
            ),
            _ => self.of_item("response.function_call_arguments.delta", json!({"delta": text})),
        });
    }

    fn add(&mut self, delta: Delta, out: &mut Vec<Value>) {
        if let Some(text) = delta.reasoning_content {
            self.say("reasoning", || OutputItem::reasoning(None), &text, out);
        }
        if let Some(text) = delta.content {
            self.say("message", || OutputItem::message(None), &text, out);
        }
        for call in delta.tool_calls.unwrap_or_default() {
            if let (Some(id), Some(name)) = (call.id, call.function.name) {
                self.begin(OutputItem::call(id, FunctionCall { name, arguments: String::new() }), out);
            }
            if !call.function.arguments.is_empty() {
                self.say("function_call", OutputItem::default, &call.function.arguments, out);
            }
        }
    }
}

impl Render for Events {
    type Chunk = Value;
    const ENDS_WITH_DONE: bool = false;

    fn name(event: &Value) -> Option<&str> {
        event["type"].as_str()
    }

    fn chunks(&mut self, piece: Piece) -> Vec<Value> {
        let mut out = Vec::new();
        match piece {
            Piece::Start { .. } => {
                out.push(self.whole("response.created"));
                out.push(self.whole("response.in_progress"));
            }
            Piece::Text { text, .. } => {
                let delta = self.reply.push(text);
                self.add(delta, &mut out);
            }
            Piece::End { reason, alignment, .. } => {
                let delta = self.reply.finish();
                self.add(delta, &mut out);
                if self.open.is_none() && self.response.output.is_empty() {
                    self.begin(OutputItem::message(None), &mut out);
                }
                self.end_item(&mut out);
                self.response.end(reason.as_str());
                self.response.alignment = alignment.map(|report| *report);
            }
            Piece::Done(usage) => {
                self.response.usage = Some(usage.into());
                let is_cut = self.response.status == "incomplete";
                out.push(self.whole(if is_cut { "response.incomplete" } else { "response.completed" }));
            }
            Piece::Progress { .. } => {}
        }
        out
    }

    fn failed(&mut self, error: &ApiError) -> Option<Value> {
        let body = error.body().error;
        self.response.status = "failed".to_owned();
        self.response.error = Some(json!({"code": body.code.unwrap_or(body.kind), "message": body.message}));
        Some(self.whole("response.failed"))
    }
}
