//! A `rectify serve` of its own for each test, and the HTTP and SSE calls the tests make. Leaves what to expect to the
//! tests.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::Value;

/// Long enough for a busy machine of two cores, short enough that a hang is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// `tests/fixtures`.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tests/fixtures")
}

/// A folder of the fixture models, as `llama/policy`.
pub(crate) fn model(name: &str) -> String {
    fixtures().join("models").join(name).to_str().unwrap().to_owned()
}

/// The command `rectify ARGS` in a folder.
pub(crate) fn rectify(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rectify"));
    command.args(args).args(["--progress", "never"]).current_dir(folder);
    command
}

/// What it says if it succeeds.
pub(crate) fn run(folder: &Path, args: &[&str]) -> Output {
    let output = rectify(folder, args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// What PyTorch computed for a family.
pub(crate) fn expected(family: &str) -> Value {
    let text = std::fs::read_to_string(model(family) + "/expected.json").unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    log: Arc<Mutex<String>>,
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    /// Keeps the data folder for as long as the server runs, if it is the server's own.
    owned_data: Option<tempfile::TempDir>,
    pub(crate) http: reqwest::Client,
}

/// A server's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The body of a success.
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// The one sentence of an error with this status.
    pub(crate) fn refused(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        let error = &self.body["error"];
        let message =
            error["message"].as_str().unwrap_or_else(|| panic!("no OpenAI error body: {}", self.body));
        assert!(error["type"].is_string(), "{error}");
        assert!(!message.contains('\n'), "more than one line: {message}");
        assert!(message.len() < 400, "not one sentence: {message}");
        message.to_owned()
    }
}

/// A stream's server-sent events.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// The JSON chunks, without `[DONE]`.
    pub(crate) chunks: Vec<Value>,
    /// Comment lines, without their colon.
    pub(crate) comments: Vec<String>,
    /// `[DONE]` came last.
    pub(crate) done: bool,
}

impl Stream {
    fn line(&mut self, line: &str) {
        if let Some(data) = line.strip_prefix("data:") {
            assert!(!self.done, "an event after [DONE]: {line}");
            match data.trim() {
                "[DONE]" => self.done = true,
                json => self.chunks.push(serde_json::from_str(json).unwrap()),
            }
        } else if let Some(comment) = line.strip_prefix(':') {
            self.comments.push(comment.trim().to_owned());
        }
    }

    /// The text of choice `index`, put together from a chat stream's deltas or a completion stream's texts.
    pub(crate) fn text(&self, index: usize) -> String {
        let choices = self.chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
        let of_index = choices.filter(|choice| choice["index"] == index);
        let piece = |choice: &Value| {
            choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default().to_owned()
        };
        of_index.map(piece).collect()
    }
}

impl Server {
    /// The demo in the binary.
    pub(crate) async fn demo() -> Self {
        Self::start(&[]).await
    }

    /// The `llama` fixture as policy, with its two reward models: `helpful` (adapter and head on the policy's base, the
    /// default) and `own` (own weights, tokenizer and template).
    pub(crate) async fn llama(options: &[&str]) -> Self {
        let (policy, adapter, own) =
            (model("llama/policy"), model("llama/reward-adapter"), model("llama/reward"));
        let rewards = [format!("helpful={adapter}"), format!("own={own}")];
        let mut all =
            vec!["--policy", &policy, "--dtype", "float32", "--reward", &rewards[0], "--reward", &rewards[1]];
        all.extend(options);
        Self::start(&all).await
    }

    pub(crate) async fn start(options: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut server = Self::at(data.path(), options).await;
        server.owned_data = Some(data);
        server
    }

    /// On the data folder of another server, which has ended.
    pub(crate) async fn at(data: &Path, options: &[&str]) -> Self {
        Self::within(data, options, &[]).await
    }

    /// With variables of the environment.
    pub(crate) async fn within(data: &Path, options: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rectify"))
            .args(["serve", "--port", "0", "--data-dir", data.to_str().unwrap()])
            .args(options)
            .envs(variables.iter().copied())
            .current_dir(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (found, address) = mpsc::channel();
        follow(child.stdout.take().unwrap(), &log, found.clone());
        follow(child.stderr.take().unwrap(), &log, found);
        let deadline = Instant::now() + PATIENCE;
        let url = loop {
            match address.recv_timeout(Duration::from_millis(100)) {
                Ok(url) => break url,
                Err(_) if child.try_wait().unwrap().is_none() && Instant::now() < deadline => {}
                Err(_) => {
                    let _ = child.kill();
                    panic!("the server did not print its address:\n{}", log.lock().unwrap());
                }
            }
        };
        let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
        let server = Self { child, log, url, owned_data: None, http };
        while server.get("/ready").await.status != 200 {
            assert!(Instant::now() < deadline, "the server is not ready:\n{}", server.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }

    /// Everything the server wrote so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.answer(self.http.get(format!("{}{path}", self.url))).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.answer(self.http.post(format!("{}{path}", self.url)).json(&body)).await
    }

    /// Sends bytes that need not be JSON.
    pub(crate) async fn post_raw(&self, path: &str, body: &'static str) -> Answer {
        let request =
            self.http.post(format!("{}{path}", self.url)).header("content-type", "application/json");
        self.answer(request.body(body)).await
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap_or_else(|error| panic!("{error}:\n{}", self.log()));
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer { status, headers, body }
    }

    pub(crate) async fn stream(&self, path: &str, body: Value) -> Stream {
        self.try_stream(path, body).await.unwrap()
    }

    /// A stream to its end; the error is the connection's.
    pub(crate) async fn try_stream(&self, path: &str, body: Value) -> Result<Stream, reqwest::Error> {
        let response = self.http.post(format!("{}{path}", self.url)).json(&body).send().await?;
        assert_eq!(response.status(), 200);
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        let (mut stream, mut bytes, mut rest) = (Stream::default(), response.bytes_stream(), Vec::new());
        while let Some(piece) = bytes.next().await {
            rest.extend_from_slice(&piece?);
            while let Some(end) = rest.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                stream.line(std::str::from_utf8(&line).unwrap().trim_end());
            }
        }
        Ok(stream)
    }

    /// The text of `/metrics`.
    pub(crate) async fn metrics(&self) -> String {
        self.get("/metrics").await.ok().as_str().unwrap().to_owned()
    }

    /// The sum of a metric over its labels that contain `label` (all of them if it is empty).
    pub(crate) async fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.metrics().await;
        let samples = text.lines().filter_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            let (metric, labels) = key.split_once('{').unwrap_or((key, ""));
            (metric == name && labels.contains(label)).then(|| value.parse::<f64>().unwrap())
        });
        let samples: Vec<f64> = samples.collect();
        assert!(!samples.is_empty(), "no metric {name} with `{label}` in:\n{text}");
        samples.iter().sum()
    }

    /// Sends a signal by name, as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Kills the process, as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies a pipe of the server into the log, line by line, and reports the first address in it.
fn follow(pipe: impl Read + Send + 'static, log: &Arc<Mutex<String>>, found: mpsc::Sender<String>) {
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if let Some(at) = line.find("http://127.0.0.1:") {
                let address: String = line[at..]
                    .chars()
                    .enumerate()
                    .take_while(|&(i, c)| i < 17 || c.is_ascii_digit())
                    .map(|(_, c)| c)
                    .collect();
                let _ = found.send(address);
            }
            let mut log = log.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    });
}

/// A number of a JSON answer.
pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

/// The string of a JSON answer.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}"))
}

/// Asserts that two lists of numbers agree within `tolerance`.
pub(crate) fn close(found: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len(), "{found:?} against {wanted:?}");
    for (index, (a, b)) in found.iter().zip(wanted).enumerate() {
        assert!((a - b).abs() <= tolerance, "at {index}: {a} instead of {b}");
    }
}
