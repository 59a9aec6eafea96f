//! A small client of a running server (ours, or any that speaks OpenAI's API): requests with streamed answers. Leaves
//! what is asked and shown to `chat` and `bench serving`.

use futures::{Stream, StreamExt};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::Value;

use super::CliError;

/// A server by its address.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    base: String,
    http: reqwest::Client,
}

/// What a server-sent event stream says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ServerEvent {
    /// A keep-alive comment, such as `candidates 5/16 done`.
    Comment(String),
    /// A chunk of the answer.
    Chunk(Value),
    /// The answer is complete.
    Done,
}

impl Client {
    /// A client of `url`, with or without `/v1`, that sends `key`, if there is one, with each request.
    ///
    /// # Errors
    /// [`CliError::Usage`] if it is no http address, or the key no header can carry.
    pub(crate) fn new(url: &str, key: Option<&str>) -> Result<Self, CliError> {
        let base = url.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base);
        if !base.starts_with("http://") || base.len() == "http://".len() {
            return Err(CliError::Usage(format!(
                "--url: `{url}` is no address this command can reach; write one such as http://127.0.0.1:8080"
            )));
        }
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let value = HeaderValue::from_str(&format!("Bearer {key}"));
            let value =
                value.map_err(|_| CliError::Usage("--api-key: no header can carry this key".to_owned()))?;
            headers.insert(AUTHORIZATION, value);
        }
        let http =
            reqwest::Client::builder().no_proxy().default_headers(headers).build().map_err(|error| {
                CliError::Refused(format!("--url: no HTTP client could be made: {error}"))
            })?;
        Ok(Self { base: base.to_owned(), http })
    }

    /// The first model the server names.
    ///
    /// # Errors
    /// [`CliError::Refused`] if the server does not answer or names none.
    pub(crate) async fn first_model(&self) -> Result<String, CliError> {
        let path = "/v1/models";
        let sent = self.http.get(format!("{}{path}", self.base)).send().await;
        let response = sent.map_err(|error| self.unreachable(&error))?;
        let body: Value =
            accepted(response).await?.json().await.map_err(|error| self.broken(path, &error))?;
        let name = body["data"][0]["id"].as_str().map(str::to_owned);
        name.ok_or_else(|| CliError::Refused(format!("{}{path}: the server names no model", self.base)))
    }

    /// Posts `body` and reads the answer.
    ///
    /// # Errors
    /// [`CliError::Refused`] with the server's own sentence if it refuses.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        let sent = self.http.post(format!("{}{path}", self.base)).json(body).send().await;
        let response = accepted(sent.map_err(|error| self.unreachable(&error))?).await?;
        response.json().await.map_err(|error| self.broken(path, &error))
    }

    /// Posts `body` and streams the answer.
    ///
    /// # Errors
    /// [`CliError::Refused`] with the server's own sentence if it refuses; the stream's items fail if it breaks off.
    pub(crate) async fn stream(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<impl Stream<Item = Result<ServerEvent, CliError>> + use<>, CliError> {
        let sent = self.http.post(format!("{}{path}", self.base)).json(body).send().await;
        let response = accepted(sent.map_err(|error| self.unreachable(&error))?).await?;
        let (client, path) = (self.clone(), path.to_owned());
        let mut events = EventParser::default();
        Ok(response.bytes_stream().flat_map(move |bytes| {
            let parsed = match bytes {
                Ok(bytes) => events.feed(&bytes),
                Err(error) => vec![Err(client.broken(&path, &error).to_string())],
            };
            futures::stream::iter(parsed).map(|event| event.map_err(CliError::Refused))
        }))
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        CliError::Refused(format!("{}: the server does not answer: {}", self.base, root_cause(error)))
    }

    fn broken(&self, path: &str, error: &reqwest::Error) -> CliError {
        CliError::Refused(format!("{}{path}: the answer broke off: {}", self.base, root_cause(error)))
    }
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Turns OpenAI's error body into its sentence.
async fn accepted(response: reqwest::Response) -> Result<reqwest::Response, CliError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body: Value = response.json().await.unwrap_or(Value::Null);
    let message = body["error"]["message"].as_str().unwrap_or("no reason given");
    Err(CliError::Refused(format!("the server answers {}: {message}", status.as_u16())))
}

/// Cuts a byte stream into events. Fields other than `data` and comments are not used by OpenAI's API.
#[derive(Debug, Default)]
struct EventParser {
    line: Vec<u8>,
}

impl EventParser {
    fn feed(&mut self, bytes: &[u8]) -> Vec<Result<ServerEvent, String>> {
        let mut events = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
                events.extend(event(line.trim_end_matches('\r')));
            } else {
                self.line.push(byte);
            }
        }
        events
    }
}

fn event(line: &str) -> Option<Result<ServerEvent, String>> {
    if let Some(comment) = line.strip_prefix(':') {
        return Some(Ok(ServerEvent::Comment(comment.trim().to_owned())));
    }
    let data = line.strip_prefix("data:")?.trim();
    if data == "[DONE]" {
        return Some(Ok(ServerEvent::Done));
    }
    let chunk: Value = match serde_json::from_str(data) {
        Ok(chunk) => chunk,
        Err(error) => return Some(Err(format!("the server sent a chunk that is not JSON: {error}"))),
    };
    match chunk["error"]["message"].as_str() {
        Some(message) => Some(Err(format!("the server failed: {message}"))),
        None => Some(Ok(ServerEvent::Chunk(chunk))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_survive_any_cut_of_the_bytes() {
        let text = ": candidates 1/4 done\n\ndata: {\"a\":\"é\"}\r\n\r\nevent: x\ndata:{\"b\":2}\n\ndata: [DONE]\n\n";
        let expected = [
            ServerEvent::Comment("candidates 1/4 done".into()),
            ServerEvent::Chunk(json!({"a": "é"})),
            ServerEvent::Chunk(json!({"b": 2})),
            ServerEvent::Done,
        ];
        for cut in 0..=text.len() {
            let mut parser = EventParser::default();
            let mut events = parser.feed(&text.as_bytes()[..cut]);
            events.extend(parser.feed(&text.as_bytes()[cut..]));
            let events: Vec<_> = events.into_iter().map(|event| event.expect("valid")).collect();
            assert_eq!(events, expected, "cut at {cut}");
        }
    }

    #[test]
    fn an_error_in_the_stream_is_the_servers_sentence() {
        let event = event(r#"data: {"error":{"message":"out of memory","type":"server_error"}}"#);
        assert_eq!(event, Some(Err("the server failed: out of memory".into())));
        assert!(super::event("data: {").expect("an event").is_err());
    }

    #[test]
    fn an_address_may_end_in_v1() {
        for url in ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"] {
            assert_eq!(Client::new(url, None).expect(url).base, "http://h:1");
        }
        for url in ["h:1", "https://h", "http://", ""] {
            let error = Client::new(url, None).expect_err(url).to_string();
            assert!(error.starts_with("--url"), "{error}");
        }
    }
}
