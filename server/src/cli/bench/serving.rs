//! `rectify bench serving`: ragged streaming traffic with Poisson arrivals against a running server, as it looks from
//! outside, or against the engine in this process. Works against any server with OpenAI's `/v1/completions` that takes token
//! ids. Leaves the traffic itself to `traffic`, and what the server costs beside the engine to `overhead`.

use std::time::Instant;

use futures::{StreamExt, stream::FuturesUnordered};
use rectify_engine::request::Event;
use rectify_engine::{EngineError, EngineHandle, GenerateRequest, SamplingParams};
use serde::Serialize;
use serde_json::{Value, json};

use super::stats::Summary;
use super::traffic::{Arrival, Trace, TrafficArgs};
use crate::boot;
use crate::cli::client::{Client, ServerEvent};
use crate::cli::local::Local;
use crate::cli::progress::Progress;
use crate::cli::{CliError, ModelArgs, ProgressMode};

/// Options of `rectify bench serving`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchServingArgs {
    /// The server, such as http://127.0.0.1:8080; or --policy, for the engine without a server.
    #[arg(long, value_name = "URL", required_unless_present = "policy", conflicts_with = "policy")]
    pub url: Option<String>,
    /// A key of the server, if it asks for one.
    #[arg(long, env = "RECTIFY_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<String>,
    /// The model to ask for; by default the first the server names.
    #[arg(long)]
    pub model: Option<String>,
    /// What is sent.
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// Send as much before, uncounted, so that memory and caches are warm.
    #[arg(long)]
    pub warm_up: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Models, without a server.
    #[command(flatten)]
    pub models: ModelArgs,
}

/// Who answers.
enum Target {
    Server { client: Client, model: String },
    Engine(Box<Local>),
}

impl Target {
    async fn new(args: &BenchServingArgs, mode: ProgressMode) -> Result<Self, CliError> {
        let Some(url) = &args.url else {
            let local = Local::boot(&boot::configure(&args.models)?, mode)?;
            return Ok(Self::Engine(Box::new(local)));
        };
        let client = Client::new(url, args.api_key.as_deref())?;
        let model = match &args.model {
            Some(model) => model.clone(),
            None => client.first_model().await?,
        };
        Ok(Self::Server { client, model })
    }

    async fn send(&self, arrival: &Arrival) -> Result<Trace, CliError> {
        match self {
            Self::Server { client, model } => request(client, model, arrival).await,
            Self::Engine(local) => generate(&local.engine, arrival).await,
        }
    }
}

/// Sends one request to a server.
pub(super) async fn request(client: &Client, model: &str, arrival: &Arrival) -> Result<Trace, CliError> {
    let body = json!({
        "model": model, "prompt": arrival.prompt, "max_tokens": arrival.max_tokens, "temperature": 1.0,
        "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true},
    });
    let mut trace = Trace::start();
    let mut events = std::pin::pin!(client.stream("/v1/completions", &body).await?);
    let mut done = false;
    while let Some(event) = events.next().await {
        match event? {
            ServerEvent::Chunk(chunk) => {
                if let Some(usage) = chunk.get("usage").filter(|usage| usage.is_object()) {
                    trace.prompt_tokens = usage["prompt_tokens"].as_u64().unwrap_or(0);
                    trace.completion_tokens = usage["completion_tokens"].as_u64().unwrap_or(0);
                }
                if chunk["choices"][0]["text"].as_str().is_some_and(|text| !text.is_empty()) {
                    trace.token();
                }
            }
            ServerEvent::Done => done = true,
            ServerEvent::Comment(_) => {}
        }
    }
    if done { Ok(trace.end()) } else { Err(CliError::Refused("the answer ended before [DONE]".to_owned())) }
}

/// Sends the same request to the engine.
pub(super) async fn generate(engine: &EngineHandle, arrival: &Arrival) -> Result<Trace, CliError> {
    let sampling = SamplingParams {
        max_tokens: arrival.max_tokens,
        temperature: 1.0,
        ignore_eos: true,
        ..SamplingParams::default()
    };
    let request = GenerateRequest {
        prompt: arrival.prompt.clone(),
        messages: [].into(),
        sampling,
        num_choices: 1,
        alignment: None,
        adapter: None,
        priority: 0,
    };
    let mut trace = Trace::start();
    let mut events = engine.generate(request).await?;
    while let Some(event) = events.next().await {
        match event {
            Event::Token { text, .. } if !text.is_empty() => trace.token(),
            Event::Failed(error) => return Err(error.into()),
            Event::Done(usage) => {
                trace.prompt_tokens = usage.prompt_tokens as u64;
                trace.completion_tokens = usage.completion_tokens as u64;
                return Ok(trace.end());
            }
            _ => {}
        }
    }
    Err(EngineError::Shutdown.into())
}

/// What `--json` prints. Times are in seconds.
#[derive(Debug, Serialize)]
struct Report {
    requests: usize,
    completed: usize,
    failed: usize,
    request_rate: f64,
    duration_s: f64,
    prompt_tokens: u64,
    completion_tokens: u64,
    requests_per_s: f64,
    tokens_per_s: f64,
    ttft_s: Summary,
    itl_s: Summary,
    latency_s: Summary,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<String>,
}

fn report(args: &BenchServingArgs, outcomes: Vec<Result<Trace, CliError>>, duration: f64) -> Report {
    let (mut traces, mut errors) = (Vec::new(), Vec::new());
    let mut failed = 0;
    for outcome in outcomes {
        match outcome {
            Ok(trace) => traces.push(trace),
            Err(error) => {
                failed += 1;
                let sentence = error.to_string();
                if !errors.contains(&sentence) {
                    errors.push(sentence);
                }
            }
        }
    }
    let completion_tokens = traces.iter().map(|trace| trace.completion_tokens).sum();
    Report {
        requests: args.traffic.requests,
        completed: traces.len(),
        failed,
        request_rate: args.traffic.rate,
        duration_s: duration,
        prompt_tokens: traces.iter().map(|trace| trace.prompt_tokens).sum(),
        completion_tokens,
        requests_per_s: traces.len() as f64 / duration,
        tokens_per_s: completion_tokens as f64 / duration,
        ttft_s: Summary::of(traces.iter().filter_map(|trace| trace.ttft).collect()),
        latency_s: Summary::of(traces.iter().map(|trace| trace.latency).collect()),
        itl_s: Summary::of(traces.into_iter().flat_map(|trace| trace.gaps).collect()),
        errors,
    }
}

async fn measure(args: &BenchServingArgs, mode: ProgressMode) -> Result<Report, CliError> {
    let target = Target::new(args, mode).await?;
    if args.warm_up {
        // Other prompts: of the same ones the prefix cache would hold everything.
        let others = TrafficArgs { seed: !args.traffic.seed, ..args.traffic.clone() };
        send_all(&target, &others.arrivals(), mode).await;
    }
    let start = Instant::now();
    let outcomes = send_all(&target, &args.traffic.arrivals(), mode).await;
    Ok(report(args, outcomes, start.elapsed().as_secs_f64()))
}

/// Sends the whole load and waits for every answer.
async fn send_all(target: &Target, load: &[Arrival], mode: ProgressMode) -> Vec<Result<Trace, CliError>> {
    let mut progress = Progress::new(mode, "requests", load.len() as u64, 0);
    let start = Instant::now();
    let mut running: FuturesUnordered<_> = load
        .iter()
        .map(|arrival| async {
            tokio::time::sleep_until((start + arrival.at).into()).await;
            target.send(arrival).await
        })
        .collect();
    let mut outcomes = Vec::with_capacity(load.len());
    while let Some(outcome) = running.next().await {
        outcomes.push(outcome);
        progress.update(outcomes.len() as u64, |_| String::new());
    }
    progress.finish("");
    outcomes
}

pub(super) fn run(args: &BenchServingArgs, mode: ProgressMode) -> Result<(), CliError> {
    let rate = args.traffic.rate;
    if !(rate >= 0.0 && rate.is_finite()) {
        return Err(CliError::Usage(format!("--rate: {rate} is no rate; give 0 or more per second")));
    }
    let report = crate::cli::runtime()?.block_on(measure(args, mode))?;
    if args.json {
        let value = serde_json::to_value(&report).unwrap_or(Value::Null);
        super::print(&value.to_string())?;
    } else {
        super::print(&table(&report))?;
    }
    match report.errors.first() {
        None => Ok(()),
        Some(first) => {
            let (failed, requests) = (report.failed, report.requests);
            Err(CliError::Refused(format!("{failed} of {requests} requests failed; the first says: {first}")))
        }
    }
}

fn table(report: &Report) -> String {
    let head = format!(
        "{} of {} requests in {:.1} s: {:.2} requests/s, {:.1} tokens/s ({} prompt and {} generated tokens)",
        report.completed,
        report.requests,
        report.duration_s,
        report.requests_per_s,
        report.tokens_per_s,
        report.prompt_tokens,
        report.completion_tokens,
    );
    [
        head,
        Summary::HEAD.to_owned(),
        report.ttft_s.line("time to first token"),
        report.itl_s.line("inter-token latency"),
        report.latency_s.line("end to end"),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{BenchCommand, Cli, Command};
    use clap::Parser;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn args(options: &str) -> BenchServingArgs {
        let line = format!("rectify bench serving --url http://127.0.0.1:1 {options}");
        match Cli::try_parse_from(line.split_whitespace()).expect("valid").command {
            Command::Bench(BenchCommand::Serving(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    /// A server that streams three tokens, or refuses every second request.
    async fn fake_server(refuse: bool) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            for index in 0.. {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                let mut head = vec![0; 1 << 16];
                let _ = socket.read(&mut head).await.expect("a request");
                let body = if refuse && index % 2 == 1 {
                    let body = r#"{"error":{"message":"too many"}}"#;
                    format!(
                        "HTTP/1.1 429 No\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    )
                } else {
                    let token = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n".repeat(3);
                    let usage =
                        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\n";
                    format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{token}{usage}data: [DONE]\n\n")
                };
                socket.write_all(body.as_bytes()).await.expect("an answer");
            }
        });
        url
    }

    #[tokio::test]
    async fn every_request_is_counted_once() {
        let options = "--requests 6 --rate 100 --model m --gen-len 3-3 --prompt-len 1-2";
        let args = super::BenchServingArgs { url: Some(fake_server(false).await), ..args(options) };
        let report = measure(&args, ProgressMode::Never).await.expect("a report");
        assert_eq!((report.completed, report.failed), (6, 0), "{:?}", report.errors);
        assert_eq!((report.prompt_tokens, report.completion_tokens), (42, 18));
        assert!(report.ttft_s.mean > 0.0 && report.latency_s.max >= report.ttft_s.max);
    }

    #[tokio::test]
    async fn failures_are_reported_with_the_servers_reason() {
        let args = super::BenchServingArgs {
            url: Some(fake_server(true).await),
            ..args("--requests 4 --rate 50 --model m")
        };
        let report = measure(&args, ProgressMode::Never).await.expect("a report");
        assert_eq!((report.completed, report.failed), (2, 2));
        assert_eq!(report.errors, ["the server answers 429: too many"]);
    }
}
