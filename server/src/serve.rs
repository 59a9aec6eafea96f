//! `rectify serve`: the address, the engine, the page's address and a first request on standard output, and an orderly
//! end. Leaves the API to `routes`.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::serve::ListenerExt;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::api::alignment::AlignmentRequest;
use crate::app::{App, Shared};
use crate::auth::ApiKeys;
use crate::boot::{self, Booted};
use crate::cli::{CliError, ProgressMode};
use crate::config::Config;
use crate::feedback::Feedback;
use crate::learning::{self, Learning};
use crate::serving::ServingPointer;
use crate::telemetry;

/// Threads that serve connections; the engine has its own.
const IO_THREADS: usize = 2;
/// Histograms keep raw samples until they are asked for; this keeps them few.
const UPKEEP: Duration = Duration::from_secs(5);

/// Serves until told to stop.
///
/// # Errors
/// [`CliError`] if the address or a model cannot be used.
pub fn run(config: &Config, progress: ProgressMode) -> Result<(), CliError> {
    telemetry::init_logs(&config.log).map_err(|error| CliError::Usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .thread_name("rectify-io")
        .enable_all()
        .build()
        .map_err(|error| CliError::Refused(format!("the threads for connections did not start: {error}")))?;
    let served = runtime.block_on(serve(config, progress));
    // What is still running has had its time.
    runtime.shutdown_background();
    served
}

async fn serve(config: &Config, progress: ProgressMode) -> Result<(), CliError> {
    let keys = config.auth.keys().map_err(CliError::Usage)?;
    // The address first: it fails at once, a model takes its time.
    let listener = bind(&config.server.host, config.server.port).await?;
    let address = listener.local_addr().map_err(|error| CliError::Refused(error.to_string()))?;
    // Before the engine and the store, which look their metrics up when they start.
    let metrics = telemetry::metrics();
    let feedback = Feedback::open(config).await.map_err(|error| CliError::Usage(error.to_string()))?;
    let booted = tokio::task::block_in_place(|| boot::start(config, progress))?;
    let signals = Signals::new()?;
    let learning =
        feedback.as_ref().map(|feedback| Learning::open(config, feedback.store.clone())).transpose()?;
    let kv_tokens = booted.engine.stats().await?.total_blocks * config.cache.block_size;
    let app = app(config, &booted, kv_tokens, Around { metrics, keys, feedback: feedback.clone(), learning });
    check_profiles(&app)?;
    let running = learning::start(&app, config, &booted).await?;
    announce(&app, &booted, address)?;
    if !address.ip().is_loopback() && app.keys.is_empty() {
        tracing::warn!(%address, "everyone who reaches this address can use the server: it has no --api-key");
    }
    let served = until_stopped(app, listener, signals, config.server.drain_timeout.0).await;
    if let Some(running) = running {
        tokio::task::block_in_place(|| running.stop());
    }
    if let Some(feedback) = feedback {
        feedback.close().await;
    }
    served
}

async fn bind(host: &str, port: u16) -> Result<TcpListener, CliError> {
    TcpListener::bind((host, port)).await.map_err(|error| {
        CliError::Usage(match error.kind() {
            ErrorKind::AddrInUse => {
                format!("{host}:{port} is in use; stop what listens there or choose another port with --port")
            }
            ErrorKind::PermissionDenied => {
                format!("{host}:{port} may not be used by this user; choose a --port of 1024 or more")
            }
            _ => format!("{host}:{port} cannot be listened on: {error}; check --host and --port"),
        })
    })
}

/// What a server has besides its models.
struct Around {
    metrics: PrometheusHandle,
    keys: ApiKeys,
    feedback: Option<Feedback>,
    learning: Option<Learning>,
}

fn app(
    config: &Config,
    booted: &Booted,
    kv_tokens: usize,
    Around { metrics, keys, feedback, learning }: Around,
) -> App {
    let models = &booted.models;
    let mut policy_names = config.model.served_names.clone();
    if policy_names.is_empty() {
        policy_names.push(models.policy_name.to_string());
    }
    let rewards: Vec<String> = models.rewards.iter().map(ToString::to_string).collect();
    App::new(Shared {
        engine: booted.engine.clone(),
        serving: ServingPointer::default(),
        learning,
        text: boot::text_model(models),
        policy_names,
        max_model_len: models.max_model_len,
        default_reward: rewards.first().cloned(),
        combined_reward: config.reward.combined(),
        kv_tokens,
        rewards,
        profiles: config.profiles.clone(),
        generation: booted.generation,
        max_candidates: config.scheduler.max_candidates,
        max_body: usize::try_from(config.server.max_body.0).unwrap_or(usize::MAX),
        keys,
        feedback,
        created: crate::api::unix_time(),
        metrics,
        draining: AtomicBool::new(false),
    })
}

/// A profile or a combination of rewards that no request could use is a mistake in the configuration.
fn check_profiles(app: &App) -> Result<(), CliError> {
    if app.combined_reward.is_some() {
        AlignmentRequest::default().validate(1, &app.alignment_limits()).map_err(|error| {
            CliError::Usage(format!("configuration: the section `reward` cannot be used: {}", error.message))
        })?;
    }
    for (name, profile) in &app.profiles {
        profile.validate(1, &app.alignment_limits()).map_err(|error| {
            CliError::Usage(format!("configuration: the profile `{name}` cannot be used: {}", error.message))
        })?;
    }
    Ok(())
}

/// What to do first, on standard output. Scripts read the line `listening on http://…`.
fn announce(app: &App, booted: &Booted, address: SocketAddr) -> Result<(), CliError> {
    let (name, models) = (app.policy_name(), &booted.models);
    let model = if app.rewards.is_empty() { name.to_owned() } else { format!("{name}:best-of-16") };
    let key = if app.keys.is_empty() { "" } else { " -H \"Authorization: Bearer $RECTIFY_API_KEY\"" };
    let text = format!(
        "serving {name} ({}, context {} tokens), reward models: {}\n\
         listening on http://{address}\n\
         open that address in a browser, or try:\n  \
         curl http://{address}/v1/chat/completions -H 'Content-Type: application/json'{key} -d \
         '{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \"content\": \"How do I kill a process in Linux?\"}}]}}'\n",
        models.dtype.as_str(),
        models.max_model_len,
        crate::names(&app.rewards),
    );
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Nobody reads; the server serves all the same.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(CliError::Usage(format!("standard output: cannot write: {error}")))
        }
        _ => Ok(()),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| CliError::Refused(format!("signals cannot be listened to: {error}")))
        };
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Serves until a signal; then takes no more connections and lets running answers finish, up to `drain_timeout` or a
/// second signal.
async fn until_stopped(
    app: App,
    listener: TcpListener,
    mut signals: Signals,
    drain_timeout: Duration,
) -> Result<(), CliError> {
    let (stop, stopped) = watch::channel(false);
    let draining = app.clone();
    let overdue = async move {
        signals.next().await;
        tracing::info!("stopping: running answers may finish, new requests are refused");
        draining.draining.store(true, Ordering::Relaxed);
        let _ = stop.send(true);
        tokio::select! {
            () = tokio::time::sleep(drain_timeout) => {}
            () = signals.next() => {}
        }
    };
    let mut told = stopped.clone();
    let graceful = async move {
        let _ = told.wait_for(|stopped| *stopped).await;
    };
    let metrics = app.metrics.clone();
    let upkeep = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            metrics.run_upkeep();
        }
    });
    // Tokens are small: without this they wait for the acknowledgement of the one before.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let server = axum::serve(listener, crate::router(app)).with_graceful_shutdown(graceful);
    let result = tokio::select! {
        result = server.into_future() => result,
        () = overdue => {
            tracing::warn!("answers were still running when the time to finish was over");
            Ok(())
        }
    };
    upkeep.abort();
    result.map_err(|error| CliError::Refused(format!("the server stopped: {error}")))
}
