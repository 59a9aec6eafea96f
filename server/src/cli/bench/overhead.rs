//! `rectify bench overhead`: what the HTTP server costs. The same streams go to the engine and through a server to a client
//! that takes no time, in turns, in one process: both meet the same memory, and what else the machine does. Leaves the traffic
//! to `traffic` and the engine's side to `serving`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rectify_engine::EngineHandle;
use serde::Serialize;
use serde_json::json;

use super::processor::Processor;
use super::serving::generate;
use super::stats::{Summary, middle};
use super::traffic::{Arrival, TrafficArgs};
use crate::boot::{self, Booted};
use crate::cli::progress::Progress;
use crate::cli::{CliError, ModelArgs, ProgressMode};
use crate::{serve, telemetry};

/// Options of `rectify bench overhead`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchOverheadArgs {
    /// Models.
    #[command(flatten)]
    pub models: ModelArgs,
    /// Streams at once.
    #[arg(long, default_value_t = 64, value_parser = crate::cli::args::positive)]
    pub streams: usize,
    /// Tokens of each prompt.
    #[arg(long, default_value_t = 32, value_parser = crate::cli::args::positive)]
    pub prompt_len: usize,
    /// Tokens of each answer, end-of-text ignored.
    #[arg(long, default_value_t = 128, value_parser = crate::cli::args::positive)]
    pub gen_len: usize,
    /// Rounds, each once without and once with the server.
    #[arg(long, default_value_t = 15, value_parser = crate::cli::args::positive)]
    pub rounds: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// One round.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    engine_s: f64,
    server_s: f64,
    /// Of all cores' time with the server, what its own threads took.
    server_cpu_share: f64,
    /// Of all cores' time, what the host gave to others.
    stolen_share: f64,
}

impl Round {
    /// Of the time with a server, how much is not there without it.
    fn lost(&self) -> f64 {
        1.0 - self.engine_s / self.server_s
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    streams: usize,
    gen_len: usize,
    tokens_per_s: f64,
    /// The median of the rounds, and where it lies with a probability of 95 %.
    lost: f64,
    lost_interval: [f64; 2],
    server_cpu_share: f64,
    stolen_share: f64,
    rounds: Vec<Round>,
}

/// A folder that is deleted in the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The requests of a round; no two rounds have the same prompts, which the prefix cache would know.
fn streams(args: &BenchOverheadArgs, round: usize, over_http: bool) -> Vec<Arrival> {
    let traffic = TrafficArgs {
        requests: args.streams,
        rate: 0.0,
        prompt_len: args.prompt_len..=args.prompt_len,
        gen_len: args.gen_len..=args.gen_len,
        vocab_size: 400,
        seed: 2 * round as u64 + u64::from(over_http),
    };
    traffic.arrivals()
}

/// Seconds the engine takes for all requests.
async fn without_server(engine: &EngineHandle, arrivals: Vec<Arrival>) -> Result<f64, CliError> {
    let start = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for arrival in arrivals {
        let engine = engine.clone();
        running.spawn(async move { generate(&engine, &arrival).await });
    }
    while let Some(trace) = running.join_next().await {
        trace.map_err(|error| CliError::Refused(format!("a stream broke: {error}")))??;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds the server takes for all requests, with a client on a thread of its own, which is none of the server's.
fn with_server(address: SocketAddr, arrivals: &[Arrival]) -> Result<f64, CliError> {
    let client = std::thread::scope(|scope| scope.spawn(|| read_all(address, arrivals)).join());
    client.unwrap_or_else(|_| Err(CliError::Refused("the client of the bench panicked".to_owned())))
}

/// Sends all requests and reads one answer, and the others when that one has ended: until then their bytes wait in the kernel,
/// and no core is taken from the server, as none would be by a client elsewhere.
fn read_all(address: SocketAddr, arrivals: &[Arrival]) -> Result<f64, CliError> {
    let failed = |error: std::io::Error| CliError::Refused(format!("the server at {address}: {error}"));
    let mut sockets = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        let body = json!({
            "prompt": arrival.prompt, "max_tokens": arrival.max_tokens, "temperature": 1.0, "ignore_eos": true, "stream": true,
        });
        let body = body.to_string();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        sockets.push((TcpStream::connect(address).map_err(failed)?, head + &body));
    }
    let start = Instant::now();
    for (socket, request) in &mut sockets {
        socket.write_all(request.as_bytes()).map_err(failed)?;
    }
    let mut answer = Vec::new();
    for (socket, _) in &mut sockets {
        answer.clear();
        socket.read_to_end(&mut answer).map_err(failed)?;
        if !answer.windows(12).any(|end| end == b"data: [DONE]") {
            let start = String::from_utf8_lossy(&answer[..answer.len().min(400)]).into_owned();
            return Err(CliError::Refused(format!("an answer ended before [DONE]; it begins: {start}")));
        }
    }
    Ok(start.elapsed().as_secs_f64())
}

async fn measure(args: &BenchOverheadArgs, folder: &Path, mode: ProgressMode) -> Result<Report, CliError> {
    let mut config = boot::configure(&args.models)?;
    // Answers are kept as always, where nobody looks for them.
    config.server.data_dir = folder.to_owned();
    config.store.url = None;
    // Before the engine, which looks its metrics up when it starts.
    telemetry::metrics();
    let booted: Booted = tokio::task::block_in_place(|| boot::start_one(&config, None, mode))?;
    let address = serve::on_loopback(&config, std::slice::from_ref(&booted)).await?;
    let mut progress = Progress::new(mode, "rounds", args.rounds as u64, 0);
    let mut rounds = Vec::with_capacity(args.rounds);
    // The first warms memory and caches.
    for index in 0..=args.rounds {
        let (mut engine_s, mut server_s, mut server_cpu_share) = (0.0, 0.0, 0.0);
        let before = Processor::now(serve::IO_THREAD_NAME);
        // Which comes first takes turns too. The engine begins, whose refusals are sentences.
        for over_http in [index % 2 == 1, index % 2 == 0] {
            let arrivals = streams(args, index, over_http);
            if over_http {
                let before = Processor::now(serve::IO_THREAD_NAME);
                server_s = tokio::task::block_in_place(|| with_server(address, &arrivals))?;
                server_cpu_share = Processor::now(serve::IO_THREAD_NAME).since(before).own_share();
            } else {
                engine_s = without_server(&booted.engine, arrivals).await?;
            }
        }
        let stolen_share = Processor::now(serve::IO_THREAD_NAME).since(before).stolen_share();
        if index > 0 {
            rounds.push(Round { engine_s, server_s, server_cpu_share, stolen_share });
            progress.update(index as u64, |_| String::new());
        }
    }
    progress.finish("");
    Ok(report(args, rounds))
}

fn report(args: &BenchOverheadArgs, rounds: Vec<Round>) -> Report {
    let median = |value: fn(&Round) -> f64| Summary::of(rounds.iter().map(value).collect()).p50;
    let tokens = (args.streams * args.gen_len) as f64;
    Report {
        streams: args.streams,
        gen_len: args.gen_len,
        tokens_per_s: tokens / median(|round| round.server_s),
        lost: median(Round::lost),
        lost_interval: middle(rounds.iter().map(Round::lost).collect()),
        server_cpu_share: median(|round| round.server_cpu_share),
        stolen_share: median(|round| round.stolen_share),
        rounds,
    }
}

pub(super) fn run(args: &BenchOverheadArgs, mode: ProgressMode) -> Result<(), CliError> {
    let folder = Folder(std::env::temp_dir().join(format!("rectify-bench-{}", std::process::id())));
    let runtime = serve::runtime()?;
    let report = runtime.block_on(measure(args, &folder.0, mode));
    // The store is in the folder.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    let report = report?;
    if args.json {
        return super::print(&serde_json::to_string(&report).unwrap_or_default());
    }
    let [low, high] = report.lost_interval.map(|lost| 100.0 * lost);
    super::print(&format!(
        "{} streams of {} tokens over HTTP: {:.1} tokens/s, {:.1} % of the time for the server [{low:.1}, {high:.1}]\n\
         the server's own threads: {:.2} % of the cores' time; given to others by the host: {:.1} %",
        report.streams,
        report.gen_len,
        report.tokens_per_s,
        100.0 * report.lost,
        100.0 * report.server_cpu_share,
        100.0 * report.stolen_share,
    ))
}
