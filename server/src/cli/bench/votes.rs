//! `rectify bench votes`: votes at a steady rate against a running server beside live streams, and what they do to the
//! streams. The votes are real: they stay in the server's store, so give it a data folder of its own.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream::FuturesUnordered};
use serde::Serialize;
use serde_json::{Value, json};

use super::serving::request;
use super::stats::Summary;
use super::traffic::Arrival;
use crate::cli::client::Client;
use crate::cli::progress::Progress;
use crate::cli::{CliError, ProgressMode, random};

/// Answers that the votes are about.
const ANSWERS: usize = 32;

/// Options of `rectify bench votes`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchVotesArgs {
    /// The server, such as http://127.0.0.1:8080.
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// A key of the server, if it asks for one.
    #[arg(long, env = "RECTIFY_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<String>,
    /// The model to ask for; by default the first the server names.
    #[arg(long)]
    pub model: Option<String>,
    /// Votes per second.
    #[arg(long, default_value_t = 1000, value_parser = crate::cli::args::positive)]
    pub rate: usize,
    /// Length of each of the two phases: streams alone, and streams beside votes.
    #[arg(long, default_value_t = 10, value_parser = crate::cli::args::positive)]
    pub seconds: usize,
    /// Streams that run all the time.
    #[arg(long, default_value_t = 4)]
    pub live: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints. Times are in seconds.
#[derive(Debug, Default, Serialize)]
struct Report {
    votes: usize,
    stored: usize,
    votes_per_s: f64,
    /// From the moment a vote was due to its acknowledgement.
    vote_s: Summary,
    /// Between tokens of the streams, without votes and beside them.
    itl_alone_s: Summary,
    itl_beside_s: Summary,
    streams_failed: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<String>,
}

/// Streams one answer after the other until `end`; the gaps between tokens.
async fn live(client: &Client, model: &str, stream: usize, end: Instant) -> (Vec<f64>, usize) {
    let (mut gaps, mut failed) = (Vec::new(), 0);
    for round in 0.. {
        if Instant::now() >= end {
            break;
        }
        let draw = |position: u64| random::between(stream as u64, 64 * round + position, 10, 399) as u32;
        let arrival = Arrival { at: Duration::ZERO, prompt: (0..48).map(draw).collect(), max_tokens: 64 };
        match request(client, model, &arrival).await {
            Ok(trace) => gaps.extend(trace.gaps),
            Err(_) => failed += 1,
        }
    }
    (gaps, failed)
}

async fn streams(client: &Client, model: &str, args: &BenchVotesArgs) -> (Vec<f64>, usize) {
    let end = Instant::now() + Duration::from_secs(args.seconds as u64);
    let running = (0..args.live).map(|stream| live(client, model, stream, end));
    let all = futures::future::join_all(running).await;
    all.into_iter().fold((Vec::new(), 0), |mut sum, (gaps, failed)| {
        sum.0.extend(gaps);
        (sum.0, sum.1 + failed)
    })
}

/// Answers to vote on.
async fn answers(client: &Client, model: &str) -> Result<Vec<String>, CliError> {
    let mut ids = Vec::with_capacity(ANSWERS);
    for number in 0..ANSWERS {
        let body = json!({"model": model, "prompt": [10 + number], "max_tokens": 4, "ignore_eos": true});
        let answer = client.post("/v1/completions", &body).await?;
        ids.push(answer["id"].as_str().unwrap_or_default().to_owned());
    }
    Ok(ids)
}

/// Casts every vote when it is due, whether or not those before are answered.
async fn votes(client: &Client, ids: &[String], args: &BenchVotesArgs) -> Vec<Result<f64, CliError>> {
    let start = Instant::now();
    // Names of their own for each run: a person votes once.
    let run = std::process::id();
    let vote = |number: usize| async move {
        let due = start + Duration::from_secs_f64(number as f64 / args.rate as f64);
        tokio::time::sleep_until(due.into()).await;
        let body = json!({
            "completion_id": ids[number % ids.len()], "kind": "thumb", "value": if number.is_multiple_of(3) { -1 } else { 1 },
            "user": format!("bench-{run}-{number}"),
        });
        client.post("/v1/feedback", &body).await.map(|_| due.elapsed().as_secs_f64())
    };
    let all: FuturesUnordered<_> = (0..args.rate * args.seconds).map(vote).collect();
    all.collect().await
}

async fn measure(args: &BenchVotesArgs, mode: ProgressMode) -> Result<Report, CliError> {
    let client = Client::new(&args.url, args.api_key.as_deref())?;
    let model = match &args.model {
        Some(model) => model.clone(),
        None => client.first_model().await?,
    };
    let mut progress = Progress::new(mode, "phases", 2, 0);
    let ids = answers(&client, &model).await?;
    let (alone, failed_alone) = streams(&client, &model, args).await;
    progress.update(1, |_| String::new());
    let began = Instant::now();
    let cast = async {
        let outcomes = votes(&client, &ids, args).await;
        (outcomes, began.elapsed().as_secs_f64())
    };
    let ((outcomes, seconds), (beside, failed_beside)) = futures::join!(cast, streams(&client, &model, args));
    progress.update(2, |_| String::new());
    progress.finish("");
    let mut report = Report {
        votes: outcomes.len(),
        itl_alone_s: Summary::of(alone),
        itl_beside_s: Summary::of(beside),
        streams_failed: failed_alone + failed_beside,
        ..Report::default()
    };
    let mut times = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        match outcome.map_err(|error| error.to_string()) {
            Ok(time) => times.push(time),
            Err(sentence) if !report.errors.contains(&sentence) => report.errors.push(sentence),
            Err(_) => {}
        }
    }
    report.stored = times.len();
    report.votes_per_s = times.len() as f64 / seconds;
    report.vote_s = Summary::of(times);
    Ok(report)
}

pub(super) fn run(args: &BenchVotesArgs, mode: ProgressMode) -> Result<(), CliError> {
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
            let (lost, votes) = (report.votes - report.stored, report.votes);
            Err(CliError::Refused(format!("{lost} of {votes} votes failed; the first says: {first}")))
        }
    }
}

fn table(report: &Report) -> String {
    format!(
        "{} of {} votes stored, {:.0} per second\n{}\n{}\n{}\n{}",
        report.stored,
        report.votes,
        report.votes_per_s,
        Summary::HEAD,
        report.vote_s.line("vote"),
        report.itl_alone_s.line("inter-token, alone"),
        report.itl_beside_s.line("inter-token, beside"),
    )
}
