//! The one error of the HTTP API: OpenAI's error body with its status, and the one mapping from the engine's errors.
//! Leaves finding errors to the edge (`extract`, `api`) and to the engine.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rectify_engine::EngineError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// OpenAI's error body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// One sentence: what is wrong and what would be right.
    pub message: String,
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The request field at fault.
    pub param: Option<String>,
    /// A word for programs, as `model_not_found` or `context_length_exceeded`.
    pub code: Option<String>,
}

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The request field at fault.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
    /// One sentence.
    pub message: String,
}

impl ApiError {
    /// An error of `status` without field or code.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, param: None, code: None, message: message.into() }
    }

    /// 400 for the request field `param`.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message).at(param).code("invalid_value")
    }

    /// 404 for a name no model, adapter or reward model has.
    pub fn model_not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message).at("model").code("model_not_found")
    }

    /// Names the field at fault.
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Sets the word for programs.
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// The body, also used as an event in the middle of a stream.
    pub fn body(&self) -> ErrorBody {
        let kind = match self.status.as_u16() {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let (message, param) = (self.message.clone(), self.param.clone());
        ErrorBody {
            error: ErrorDetail { message, kind: kind.into(), param, code: self.code.map(str::to_owned) },
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::InvalidRequest { param, .. } => Self::invalid(param, message),
            EngineError::NotFound { kind: "reward model", .. } => Self::model_not_found(message).at("reward"),
            EngineError::NotFound { .. } => Self::model_not_found(message),
            EngineError::ContextLength { .. } => {
                Self::new(StatusCode::BAD_REQUEST, message).at("messages").code("context_length_exceeded")
            }
            EngineError::Overloaded { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, message).code("overloaded")
            }
            EngineError::Load { .. } => Self::new(StatusCode::BAD_REQUEST, message).code("load_failed"),
            EngineError::Execution(cause) => {
                tracing::error!(%cause, "the model failed");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the model failed on this request; the server's log has the cause",
                )
                .code("model_failed")
            }
            EngineError::Shutdown => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down; try another replica")
                    .code("shutting_down")
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_errors_become_the_status_clients_act_on() {
        let cases = [
            (EngineError::invalid("top_p", "bad"), 400, Some("invalid_value")),
            (
                EngineError::ContextLength { prompt_len: 9, max_tokens: 1, max_model_len: 8 },
                400,
                Some("context_length_exceeded"),
            ),
            (
                EngineError::NotFound { kind: "model", name: "x".into(), known: "available: a".into() },
                404,
                Some("model_not_found"),
            ),
            (EngineError::Overloaded { waiting: 3 }, 429, Some("overloaded")),
            (EngineError::Shutdown, 503, Some("shutting_down")),
        ];
        for (error, status, code) in cases {
            let api = ApiError::from(error);
            assert_eq!((api.status.as_u16(), api.code), (status, code), "{api:?}");
        }
    }

    #[test]
    fn internals_stay_out_of_server_errors() {
        let api = ApiError::from(EngineError::Execution("NaN in layer 3 at 0x7f".into()));
        assert_eq!(api.status.as_u16(), 500);
        assert!(!api.message.contains("layer 3"), "{}", api.message);
        assert_eq!(api.body().error.kind, "server_error");
    }
}
