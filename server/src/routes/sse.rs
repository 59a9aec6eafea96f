//! Server-sent events: an answer's pieces as chunks, progress as comments, `[DONE]` at the end. Leaves the chunks'
//! JSON to the endpoints.

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
    /// The chunk for `piece`, if it makes one.
    fn chunk(&mut self, piece: Piece) -> Option<Self::Chunk>;
}

enum State {
    Running,
    /// Only `[DONE]` is left.
    Closing,
    Ended,
}

/// The response that streams `answer`. When the client leaves, it is dropped and the answer with it.
pub(super) fn stream<R: Render>(answer: Answer, render: R) -> Response {
    let frames = futures::stream::unfold(
        (answer, render, State::Running),
        |(mut answer, mut render, state)| async move {
            let (frame, state) = match state {
                State::Ended => return None,
                State::Closing => (Event::default().data("[DONE]"), State::Ended),
                State::Running => next_frame(&mut answer, &mut render).await,
            };
            Some((Ok::<_, Infallible>(frame), (answer, render, state)))
        },
    );
    Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

async fn next_frame<R: Render>(answer: &mut Answer, render: &mut R) -> (Event, State) {
    loop {
        let piece = match answer.next().await {
            None => return (Event::default().data("[DONE]"), State::Ended),
            Some(Err(error)) => return (failed(&error), State::Closing),
            Some(Ok(Piece::Progress { done, of })) => {
                return (Event::default().comment(format!("candidates {done}/{of} done")), State::Running);
            }
            Some(Ok(piece)) => piece,
        };
        if let Some(chunk) = render.chunk(piece) {
            return match Event::default().json_data(chunk) {
                Ok(frame) => (frame, State::Running),
                Err(error) => {
                    tracing::error!(%error, "a chunk could not be written as JSON");
                    let status = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
                    (
                        failed(&ApiError::new(status, "the answer could not be written as JSON")),
                        State::Closing,
                    )
                }
            };
        }
    }
}

fn failed(error: &ApiError) -> Event {
    Event::default().event("error").json_data(error.body()).unwrap_or_default()
}
