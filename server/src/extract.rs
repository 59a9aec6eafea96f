//! Request bodies: JSON into typed requests, with the place and cause of every mistake, and the list of fields nobody
//! read. Leaves the meaning of fields to `api`.

use std::fmt::Write as _;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponseParts, ResponseParts};
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// Names the request fields that were ignored.
pub const IGNORED_HEADER: HeaderName = HeaderName::from_static("x-rectify-ignored");

/// A JSON body of type `T` and the fields it has besides.
#[derive(Debug)]
pub struct ApiJson<T>(pub T, pub Ignored);

/// Request fields that nobody reads; as a response part, the header that says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored(pub Vec<String>);

impl IntoResponseParts for Ignored {
    type Error = std::convert::Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Self::Error> {
        if let Some(value) = self.header() {
            parts.headers_mut().insert(IGNORED_HEADER, value);
        }
        Ok(parts)
    }
}

impl Ignored {
    /// The header's value; field names come from outside, so only printable ASCII of them is kept.
    fn header(&self) -> Option<HeaderValue> {
        const MOST: usize = 32;
        let printable = |name: &String| -> String {
            name.chars().take(64).map(|c| if c.is_ascii_graphic() && c != ',' { c } else { '?' }).collect()
        };
        let mut names: Vec<String> = self.0.iter().take(MOST).map(printable).collect();
        if self.0.len() > MOST {
            names.push("...".into());
        }
        if names.is_empty() { None } else { HeaderValue::from_str(&names.join(",")).ok() }
    }
}

impl<S, T> FromRequest<S> for ApiJson<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        // Demanding the media type also keeps other origins' forms in a browser from reaching a loopback server.
        let is_json = request.headers().get(header::CONTENT_TYPE).is_some_and(is_json);
        if !is_json {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the body must be JSON with the header `Content-Type: application/json`",
            ));
        }
        let body = Bytes::from_request(request, state).await.map_err(unreadable)?;
        parse(&body)
    }
}

/// The parameters behind the `?` of a path, as `T`; unknown ones are refused by types that say so.
pub struct ApiQuery<T>(pub T);

impl<S, T> FromRequestParts<S> for ApiQuery<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let read = Query::<T>::try_from_uri(&parts.uri);
        read.map(|Query(query)| Self(query)).map_err(|rejection| {
            let cause = rejection.body_text();
            let cause = cause.split_once(": ").map_or(cause.as_str(), |(_, cause)| cause);
            ApiError::new(StatusCode::BAD_REQUEST, format!("a parameter of the path is wrong: {cause}"))
                .code("invalid_value")
        })
    }
}

/// The named parts of a path, as `T`.
pub struct ApiPath<T>(pub T);

impl<S, T> FromRequestParts<S> for ApiPath<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Send,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = Path::<T>::from_request_parts(parts, state).await;
        read.map(|Path(path)| Self(path)).map_err(|rejection| {
            let message = format!("a part of the path is wrong: {}", rejection.body_text());
            ApiError::new(StatusCode::BAD_REQUEST, message).code("invalid_value")
        })
    }
}

fn is_json(value: &HeaderValue) -> bool {
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn unreadable(rejection: BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is larger than this server takes (`server.max_body`); send less at once",
        )
        .code("body_too_large");
    }
    ApiError::new(StatusCode::BAD_REQUEST, "the body ended before it was complete")
}

/// Reads `T` from JSON, noting fields that nobody reads.
///
/// # Errors
/// 400 that names line, column and field.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<ApiJson<T>, ApiError> {
    // serde reads a list as the fields of a struct in their order, which nobody means.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "the body must be a JSON object, but is a list"));
    }
    let mut ignored = Ignored::default();
    let mut json = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let value =
        serde_ignored::deserialize(tracked, |path| ignored.0.push(path.to_string().replace(".?", "")))
            .map_err(|error| explain(&error, &track.path()))?;
    json.end().map_err(|error| explain(&error, &serde_path_to_error::Track::new().path()))?;
    Ok(ApiJson(value, ignored))
}

fn explain(error: &serde_json::Error, path: &serde_path_to_error::Path) -> ApiError {
    // serde_json ends its messages with the place; it reads better in front.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = error.to_string();
    let cause = in_plain_words(text.strip_suffix(&place).unwrap_or(&text));
    let whole = path.iter().next().is_none();
    if !error.is_data() {
        let mut message = format!(
            "the body is not valid JSON: {cause} at line {}, column {}",
            error.line(),
            error.column()
        );
        if !whole {
            let _ = write!(message, ", in `{path}`");
        }
        return ApiError::new(StatusCode::BAD_REQUEST, message).code("invalid_json");
    }
    let place = format!("line {}, column {}", error.line(), error.column());
    if whole {
        return ApiError::new(StatusCode::BAD_REQUEST, format!("{cause} ({place})")).code("invalid_type");
    }
    let param = path.to_string();
    ApiError::new(StatusCode::BAD_REQUEST, format!("`{param}`: {cause} ({place})"))
        .at(param)
        .code("invalid_type")
}

/// serde names Rust's types; people who write JSON know others.
fn in_plain_words(cause: &str) -> String {
    const WORDS: [(&str, &str); 9] = [
        ("expected usize", "expected a non-negative integer"),
        ("expected u64", "expected a non-negative integer"),
        ("expected u32", "expected a non-negative integer"),
        ("expected i64", "expected an integer"),
        ("expected i32", "expected an integer"),
        ("expected f32", "expected a number"),
        ("expected f64", "expected a number"),
        ("expected a sequence", "expected a list"),
        ("expected a map", "expected an object"),
    ];
    let plain = WORDS.iter().fold(cause.to_owned(), |text, (rust, word)| text.replace(rust, word));
    plain.split(", expected struct ").enumerate().fold(String::new(), |text, (i, part)| match i {
        0 => part.to_owned(),
        _ => format!("{text}, expected an object"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Body {
        #[serde(default)]
        top_p: Option<f32>,
        #[serde(default)]
        inner: Option<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    struct Inner {
        n: usize,
    }

    fn fail(json: &str) -> ApiError {
        parse::<Body>(json.as_bytes()).unwrap_err()
    }

    #[test]
    fn unread_fields_are_listed_with_their_path() {
        let body = r#"{"top_p": 0.5, "frobnicate": [1], "inner": {"n": 3, "m": null}}"#;
        let ApiJson(body, ignored) = parse::<Body>(body.as_bytes()).unwrap();
        assert_eq!((body.top_p, body.inner.unwrap().n), (Some(0.5), 3));
        assert_eq!(ignored.0, ["frobnicate", "inner.m"]);
        assert_eq!(ignored.header().unwrap(), "frobnicate,inner.m");
    }

    #[test]
    fn hostile_field_names_cannot_forge_headers() {
        let ignored = Ignored(vec!["a\r\nset-cookie: x".into(), "é,b".into()]);
        assert_eq!(ignored.header().unwrap(), "a??set-cookie:?x,??b");
    }

    #[test]
    fn wrong_types_name_field_and_place() {
        let error = fail("{\"inner\":\n {\"n\": -1}}");
        assert_eq!(error.param.as_deref(), Some("inner.n"));
        assert_eq!(
            error.message,
            "`inner.n`: invalid value: integer `-1`, expected a non-negative integer (line 2, column 9)"
        );
        let error = fail(r#"{"top_p": "hot"}"#);
        assert!(
            error.message.contains("invalid type: string \"hot\", expected a number"),
            "{}",
            error.message
        );
    }

    #[test]
    fn malformed_json_names_place_and_cause() {
        let error = fail("{\"top_p\": 1,\n}");
        assert_eq!((error.status.as_u16(), error.code), (400, Some("invalid_json")));
        assert!(error.message.contains("trailing comma at line 2, column 1"), "{}", error.message);
        assert!(fail("{} {}").message.contains("trailing characters at line 1, column 4"));
        assert!(fail("").message.contains("EOF"), "{}", fail("").message);
    }
}
