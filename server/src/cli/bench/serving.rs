//! `rectify bench serving`: ragged streaming traffic with Poisson arrivals against a running server, as it looks from
//! outside. Works against any server with OpenAI's `/v1/completions` that takes token ids.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream::FuturesUnordered};
use serde::Serialize;
use serde_json::{Value, json};

use super::stats::Summary;
use crate::cli::client::{Client, ServerEvent};
use crate::cli::progress::Progress;
use crate::cli::{CliError, ProgressMode, random};

/// Options of `rectify bench serving`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchServingArgs {
    /// The server, such as http://127.0.0.1:8080.
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// A key of the server, if it asks for one.
    #[arg(long, env = "RECTIFY_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<String>,
    /// The model to ask for; by default the first the server names.
    #[arg(long)]
    pub model: Option<String>,
    /// Requests to send.
    #[arg(long, default_value_t = 64, value_parser = crate::cli::args::positive)]
    pub requests: usize,
    /// Requests per second on average; 0 sends all at once.
    #[arg(long, default_value_t = 4.0)]
    pub rate: f64,
    /// Shortest and longest prompt.
    #[arg(long, default_value = "32-512", value_name = "LOW-HIGH", value_parser = range)]
    pub prompt_len: RangeInclusive<usize>,
    /// Shortest and longest answer, end-of-text ignored.
    #[arg(long, default_value = "16-256", value_name = "LOW-HIGH", value_parser = range)]
    pub gen_len: RangeInclusive<usize>,
    /// Prompts are random token ids below this; every model has more tokens.
    #[arg(long, default_value_t = 400, value_parser = crate::cli::args::positive, value_name = "TOKENS")]
    pub vocab_size: usize,
    /// Decides arrivals, lengths and prompts.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

fn range(text: &str) -> Result<RangeInclusive<usize>, String> {
    let ends = text.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    match ends {
        Some((low, high)) if 1 <= low && low <= high => Ok(low..=high),
        _ => Err("write LOW-HIGH with 1 ≤ LOW ≤ HIGH, such as 32-512".to_owned()),
    }
}

/// One request of the load.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arrival {
    pub(super) at: Duration,
    pub(super) prompt: Vec<usize>,
    pub(super) max_tokens: usize,
}

/// The load of a seed: exponential gaps between arrivals (a Poisson process), lengths uniform in their ranges.
fn load(args: &BenchServingArgs) -> Vec<Arrival> {
    // Ids below this are special tokens in most vocabularies.
    let first_id = 10.min(args.vocab_size - 1);
    let mut at = Duration::ZERO;
    let arrival = |index: usize| {
        let draw = |what: u64| random::mix(args.seed, 4 * index as u64 + what);
        if args.rate > 0.0 {
            at += Duration::from_secs_f64(-random::unit(draw(0), 0).ln() / args.rate);
        }
        let length = |what, range: &RangeInclusive<usize>| {
            random::between(draw(what), 0, *range.start(), *range.end())
        };
        let token = |position| random::between(draw(3), position as u64, first_id, args.vocab_size - 1);
        let prompt = (0..length(1, &args.prompt_len)).map(token).collect();
        Arrival { at, prompt, max_tokens: length(2, &args.gen_len) }
    };
    (0..args.requests).map(arrival).collect()
}

/// What one request saw.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// From sending to the first token, in seconds.
    ttft: Option<f64>,
    /// Between tokens, in seconds.
    pub(super) gaps: Vec<f64>,
    latency: f64,
    prompt_tokens: u64,
    completion_tokens: u64,
}

pub(super) async fn request(client: &Client, model: &str, arrival: &Arrival) -> Result<Trace, CliError> {
    let body = json!({
        "model": model, "prompt": arrival.prompt, "max_tokens": arrival.max_tokens, "temperature": 1.0,
        "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true},
    });
    let sent = Instant::now();
    let mut events = std::pin::pin!(client.stream("/v1/completions", &body).await?);
    let (mut trace, mut last, mut done) = (Trace::default(), sent, false);
    while let Some(event) = events.next().await {
        match event? {
            ServerEvent::Chunk(chunk) => {
                if let Some(usage) = chunk.get("usage").filter(|usage| usage.is_object()) {
                    trace.prompt_tokens = usage["prompt_tokens"].as_u64().unwrap_or(0);
                    trace.completion_tokens = usage["completion_tokens"].as_u64().unwrap_or(0);
                }
                let is_token = chunk["choices"][0]["text"].as_str().is_some_and(|text| !text.is_empty());
                if is_token {
                    match trace.ttft {
                        None => trace.ttft = Some(sent.elapsed().as_secs_f64()),
                        Some(_) => trace.gaps.push(last.elapsed().as_secs_f64()),
                    }
                    last = Instant::now();
                }
            }
            ServerEvent::Done => done = true,
            ServerEvent::Comment(_) => {}
        }
    }
    trace.latency = sent.elapsed().as_secs_f64();
    if done { Ok(trace) } else { Err(CliError::Refused("the answer ended before [DONE]".to_owned())) }
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
        requests: args.requests,
        completed: traces.len(),
        failed,
        request_rate: args.rate,
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

/// Sends the whole load and waits for every answer.
async fn measure(args: &BenchServingArgs, mode: ProgressMode) -> Result<Report, CliError> {
    let client = Client::new(&args.url, args.api_key.as_deref())?;
    let model = match &args.model {
        Some(model) => model.clone(),
        None => client.first_model().await?,
    };
    let load = load(args);
    let mut progress = Progress::new(mode, "requests", load.len() as u64, 0);
    let start = Instant::now();
    let mut running: FuturesUnordered<_> = load
        .iter()
        .map(|arrival| async {
            tokio::time::sleep_until((start + arrival.at).into()).await;
            request(&client, &model, arrival).await
        })
        .collect();
    let mut outcomes = Vec::with_capacity(load.len());
    while let Some(outcome) = running.next().await {
        outcomes.push(outcome);
        progress.update(outcomes.len() as u64, |_| String::new());
    }
    let report = report(args, outcomes, start.elapsed().as_secs_f64());
    progress.finish("");
    Ok(report)
}

pub(super) fn run(args: &BenchServingArgs, mode: ProgressMode) -> Result<(), CliError> {
    if !(args.rate >= 0.0 && args.rate.is_finite()) {
        return Err(CliError::Usage(format!("--rate: {} is no rate; give 0 or more per second", args.rate)));
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
            Command::Bench(BenchCommand::Serving(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_load_follows_its_seed_and_ranges() {
        let args = args("--requests 2000 --rate 50");
        let arrivals = load(&args);
        assert_eq!(arrivals, load(&args));
        assert!(arrivals.is_sorted_by_key(|arrival| arrival.at));
        for arrival in &arrivals {
            assert!((32..=512).contains(&arrival.prompt.len()) && (16..=256).contains(&arrival.max_tokens));
            assert!(arrival.prompt.iter().all(|id| (10..400).contains(id)));
        }
        // 2000 exponential gaps of 20 ms: 40 s ± 5 standard deviations of 0.9 s.
        let last = arrivals.last().expect("arrivals").at.as_secs_f64();
        assert!((last - 40.0).abs() < 4.5, "{last}");
        assert!(
            load(&super::BenchServingArgs { rate: 0.0, ..args }).iter().all(|arrival| arrival.at.is_zero())
        );
    }

    #[test]
    fn ranges_are_low_to_high() {
        assert_eq!(range("32-512"), Ok(32..=512));
        for bad in ["", "5", "0-3", "9-3", "a-b"] {
            assert!(range(bad).is_err(), "{bad}");
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
        let args = super::BenchServingArgs { url: fake_server(false).await, ..args(options) };
        let report = measure(&args, ProgressMode::Never).await.expect("a report");
        assert_eq!((report.completed, report.failed), (6, 0), "{:?}", report.errors);
        assert_eq!((report.prompt_tokens, report.completion_tokens), (42, 18));
        assert!(report.ttft_s.mean > 0.0 && report.latency_s.max >= report.ttft_s.max);
    }

    #[tokio::test]
    async fn failures_are_reported_with_the_servers_reason() {
        let args = super::BenchServingArgs {
            url: fake_server(true).await,
            ..args("--requests 4 --rate 50 --model m")
        };
        let report = measure(&args, ProgressMode::Never).await.expect("a report");
        assert_eq!((report.completed, report.failed), (2, 2));
        assert_eq!(report.errors, ["the server answers 429: too many"]);
    }
}
