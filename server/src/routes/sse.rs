//! Server-sent events: an answer's pieces as chunks, progress as comments, `[DONE]` at the end. Leaves the chunks'
//! JSON to the endpoints.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::answer::{Answer, Piece};
use crate::error::ApiError;

/// Proxies close connections that are silent for a minute or less.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Turns pieces into an endpoint's chunks.
pub(super) trait Render: Send + 'static {
    /// The chunk's JSON.
    type Chunk: Serialize;
    /// The chunks for `piece`, in order; often one, sometimes none.
    fn chunks(&mut self, piece: Piece) -> Vec<Self::Chunk>;
    /// The event's name, where the endpoint names its events.
    fn name(_: &Self::Chunk) -> Option<&str> {
        None
    }
    /// The last chunk of an answer that failed; by default an event called `error` with the error's body.
    fn failed(&mut self, _: &ApiError) -> Option<Self::Chunk> {
        None
    }
    /// Whether `[DONE]` is the last event.
    const ENDS_WITH_DONE: bool = true;
}

enum State {
    /// Frames that are made but not sent.
    Running(VecDeque<Event>),
    /// Only `[DONE]` is left.
    Closing,
    Ended,
}

/// The response that streams `answer`. When the client leaves, it is dropped and the answer with it.
pub(super) fn stream<R: Render>(answer: Answer, render: R) -> Response {
    let frames = futures::stream::unfold(
        (answer, render, State::Running(VecDeque::new())),
        |(mut answer, mut render, state)| async move {
            let (frame, state) = match state {
                State::Ended => return None,
                State::Closing if R::ENDS_WITH_DONE => (Event::default().data("[DONE]"), State::Ended),
                State::Closing => return None,
                State::Running(mut made) => match made.pop_front() {
                    Some(frame) => (frame, State::Running(made)),
                    None => match next_frame(&mut answer, &mut render).await {
                        Some(next) => next,
                        None if R::ENDS_WITH_DONE => (Event::default().data("[DONE]"), State::Ended),
                        None => return None,
                    },
                },
            };
            Some((Ok::<_, Infallible>(frame), (answer, render, state)))
        },
    );
    Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// The next frame; `None` once the answer has ended.
async fn next_frame<R: Render>(answer: &mut Answer, render: &mut R) -> Option<(Event, State)> {
    loop {
        let piece = match answer.next().await? {
            Err(error) => {
                let last = render.failed(&error).and_then(|chunk| frame::<R>(&chunk).ok());
                return Some((last.unwrap_or_else(|| failed(&error)), State::Closing));
            }
            Ok(Piece::Progress { done, of }) => {
                let comment = Event::default().comment(format!("candidates {done}/{of} done"));
                return Some((comment, State::Running(VecDeque::new())));
            }
            Ok(piece) => piece,
        };
        let frames = render.chunks(piece);
        match frames.iter().map(frame::<R>).collect::<Result<VecDeque<Event>, _>>() {
            Ok(mut frames) => {
                if let Some(first) = frames.pop_front() {
                    return Some((first, State::Running(frames)));
                }
            }
            Err(error) => {
                tracing::error!(%error, "a chunk could not be written as JSON");
                let status = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
                let error = ApiError::new(status, "the answer could not be written as JSON");
                return Some((failed(&error), State::Closing));
            }
        }
    }
}

fn frame<R: Render>(chunk: &R::Chunk) -> Result<Event, axum::Error> {
    let event = R::name(chunk).map_or_else(Event::default, |name| Event::default().event(name));
    event.json_data(chunk)
}

fn failed(error: &ApiError) -> Event {
    Event::default().event("error").json_data(error.body()).unwrap_or_default()
}
