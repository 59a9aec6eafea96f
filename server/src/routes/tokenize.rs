//! `POST /tokenize` and `POST /detokenize`. Leaves the wire types to `api::tokenize`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use crate::api::chat::ChatRequest;
use crate::api::tokenize::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse};
use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::extract::ApiJson;
use crate::text::Chat;

/// The tokens of a text or a conversation.
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "generation",
    request_body = TokenizeRequest,
    responses(
        (status = 200, description = "The tokens", body = TokenizeResponse),
        (status = 400, description = "A field is wrong", body = ErrorBody),
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
pub(super) async fn tokenize(
    State(app): State<App>,
    ApiJson(request, ignored): ApiJson<TokenizeRequest>,
) -> Result<Response, ApiError> {
    let policy = app.resolve(request.model.as_deref(), "")?.policy;
    let tokens = match (request.prompt, request.messages) {
        (Some(prompt), None) => {
            let add_special_tokens = request.add_special_tokens.unwrap_or(true);
            policy
                .tokenize(prompt.len(), move |text| Ok(text.encode_text(&prompt, add_special_tokens)?))
                .await?
        }
        (None, Some(messages)) => {
            let mut chat = ChatRequest { messages, tools: request.tools, ..ChatRequest::default() };
            let turns = chat.conversation()?;
            let size = turns.iter().map(|turn| turn.content.len()).sum();
            let chat = Chat {
                messages: chat.for_template(&turns),
                tools: chat.tool_use()?.map(|tools| tools.definitions),
                variables: request.chat_template_kwargs.unwrap_or_default(),
                add_generation_prompt: request.add_generation_prompt.unwrap_or(true),
            };
            policy.tokenize(size, move |text| Ok(text.encode_chat(&chat)?.tokens)).await?
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid(
                "messages",
                "prompt and messages exclude each other; leave one out",
            ));
        }
        (None, None) => {
            let message = "there is nothing to tokenise; give a `prompt` or `messages`";
            return Err(ApiError::invalid("prompt", message));
        }
    };
    let text_of = |&token: &u32| String::from_utf8_lossy(&policy.text.token_bytes(token)).into_owned();
    let token_strs = request.return_token_strs.unwrap_or(false).then(|| tokens.iter().map(text_of).collect());
    let (count, max_model_len) = (tokens.len(), policy.max_model_len);
    Ok((ignored, Json(TokenizeResponse { count, max_model_len, tokens, token_strs })).into_response())
}

/// The text of tokens.
#[utoipa::path(
    post,
    path = "/detokenize",
    tag = "generation",
    request_body = DetokenizeRequest,
    responses(
        (status = 200, description = "The text", body = DetokenizeResponse),
        (status = 400, description = "A token is not in the vocabulary", body = ErrorBody),
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
pub(super) async fn detokenize(
    State(app): State<App>,
    ApiJson(request, ignored): ApiJson<DetokenizeRequest>,
) -> Result<Response, ApiError> {
    let policy = app.resolve(request.model.as_deref(), "")?.policy;
    let tokens = request.tokens;
    policy.check_tokens("tokens", tokens.iter().copied())?;
    let prompt = policy.tokenize(4 * tokens.len(), move |text| Ok(text.decode(&tokens, false)?)).await?;
    Ok((ignored, Json(DetokenizeResponse { prompt })).into_response())
}
