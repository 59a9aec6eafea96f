//! An event of a streamed response, as the API's description has it. Leaves making events to the route.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{OutputItem, OutputPart, ResponseObject};

/// An event of a streamed response: which of the fields it has follows from its `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseEvent {
    /// `response.created`, `response.output_text.delta` and so on; also the name of the server-sent event.
    #[serde(rename = "type")]
    pub kind: String,
    /// From 0 on.
    pub sequence_number: usize,
    /// Of `response.created`, `.in_progress`, `.completed`, `.incomplete` and `.failed`: the response so far.
    pub response: Option<ResponseObject>,
    /// Of `response.output_item.added` and `.done`: the item.
    pub item: Option<OutputItem>,
    /// The item the event is about, by its id.
    pub item_id: Option<String>,
    /// The item the event is about, by its place.
    pub output_index: Option<usize>,
    /// The part of the item that the event is about: always 0.
    pub content_index: Option<usize>,
    /// Of `response.content_part.added` and `.done`: the part.
    pub part: Option<OutputPart>,
    /// Of `.delta` events: what is new of the text or the arguments.
    pub delta: Option<String>,
    /// Of `response.output_text.done` and `response.reasoning_text.done`: all of the text.
    pub text: Option<String>,
    /// Of `response.function_call_arguments.done`: all of the arguments.
    pub arguments: Option<String>,
    /// Of `response.output_text` events: always empty.
    #[schema(value_type = Option<Vec<Object>>)]
    pub logprobs: Option<Vec<Value>>,
}
