//! An HTTP endpoint that judges a batch of completions at once. Leaves retries to whoever runs the endpoint: an answer that
//! does not come ends the run, which `--resume` continues.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Judge, Judged};
use crate::error::TrainError;

/// The endpoint.
pub(super) struct Endpoint {
    url: String,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

#[derive(Deserialize)]
struct Answer {
    rewards: Vec<Option<f64>>,
}

impl Endpoint {
    pub(super) fn new(url: &str, timeout_seconds: f64) -> Result<Self, TrainError> {
        let refuse = |reason: String| TrainError::config("reward", format!("{url}: {reason}"));
        let timeout = Duration::try_from_secs_f64(timeout_seconds)
            .map_err(|_| refuse(format!("timeout_seconds is {timeout_seconds}, but must be above 0")))?;
        let client = reqwest::Client::builder().timeout(timeout).no_proxy().build();
        let client = client.map_err(|error| refuse(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| refuse(error.to_string()))?;
        Ok(Self { url: url.to_owned(), client, runtime })
    }

    fn ask(&self, body: &Value) -> Result<Answer, String> {
        let answer = async {
            let response = self.client.post(&self.url).json(body).send().await?.error_for_status()?;
            response.json::<Answer>().await
        };
        self.runtime.block_on(answer).map_err(|error| {
            let mut sentence = error.without_url().to_string();
            if sentence.is_empty() {
                sentence.push_str("no answer");
            }
            sentence
        })
    }
}

impl Judge for Endpoint {
    fn rewards(&self, completions: &[Judged<'_>]) -> Result<Vec<f64>, TrainError> {
        let list = |of: &dyn Fn(&Judged<'_>) -> Value| completions.iter().map(of).collect::<Vec<Value>>();
        let body = json!({
            "completions": list(&|judged| judged.completion.into()),
            "prompts": list(&|judged| json!(judged.prompt.text)),
            "columns": list(&|judged| json!(judged.prompt.columns)),
        });
        let refuse = |reason: String| TrainError::Reward { name: self.url.clone(), reason };
        let answer = self.ask(&body).map_err(refuse)?;
        if answer.rewards.len() != completions.len() {
            return Err(refuse(format!(
                "answered {} rewards for {} completions",
                answer.rewards.len(),
                completions.len()
            )));
        }
        Ok(answer.rewards.into_iter().map(|reward| reward.unwrap_or(f64::NAN)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::super::words::tests::prompt;
    use super::*;

    /// Answers one request with `body` and gives what was asked.
    fn serve(body: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/judge", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut asked, mut buffer) = (String::new(), [0; 4096]);
            while !asked.ends_with('}') {
                let count = stream.read(&mut buffer).unwrap();
                asked.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            }
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .unwrap();
            asked
        });
        (url, server)
    }

    #[test]
    fn completions_are_posted_and_rewards_come_back() {
        let prompt = prompt(r#"{"answer": 4}"#);
        let judged = ["4", "5"].map(|completion| Judged { prompt: &prompt, completion, num_tokens: 1 });
        let (url, server) = serve(r#"{"rewards": [1.5, null]}"#);
        let rewards = Endpoint::new(&url, 5.0).unwrap().rewards(&judged).unwrap();
        assert_eq!(rewards[0], 1.5);
        assert!(rewards[1].is_nan());
        let asked = server.join().unwrap();
        assert!(asked.starts_with("POST /judge"), "{asked}");
        assert!(asked.contains(r#""completions":["4","5"]"#) && asked.contains(r#""answer":4"#), "{asked}");

        let (url, server) = serve(r#"{"rewards": [1]}"#);
        let error = Endpoint::new(&url, 5.0).unwrap().rewards(&judged).unwrap_err().to_string();
        assert!(error.contains("answered 1 rewards for 2 completions"), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn an_endpoint_that_is_not_there_is_named() {
        let prompt = prompt("{}");
        let judged = [Judged { prompt: &prompt, completion: "4", num_tokens: 1 }];
        let error = Endpoint::new("http://127.0.0.1:9/x", 5.0).unwrap().rewards(&judged).unwrap_err();
        assert!(error.to_string().contains("http://127.0.0.1:9/x"), "{error}");
    }
}
