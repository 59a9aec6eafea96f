//! `rectify serve`: the address, the engine, the page's address and a first request on standard output, and an orderly
//! end. Leaves the API to `routes`.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::serve::{Listener, ListenerExt, Serve};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
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
use crate::policy::{AdapterOwners, Policy};
use crate::serving::ServingPointer;
use crate::telemetry;

/// Threads that serve connections; the engine has its own.
const IO_THREADS: usize = 2;
/// What they are called, and no thread of the engine is.
pub(crate) const IO_THREAD_NAME: &str = "rectify-io";
/// Histograms keep raw samples until they are asked for; this keeps them few.
const UPKEEP: Duration = Duration::from_secs(5);

/// Serves until told to stop.
///
/// # Errors
/// [`CliError`] if the address or a model cannot be used.
pub fn run(config: &Config, progress: ProgressMode) -> Result<(), CliError> {
    telemetry::init_logs(&config.log).map_err(|error| CliError::Usage(error.to_string()))?;
    let runtime = runtime()?;
    let served = runtime.block_on(serve(config, progress));
    // What is still running has had its time.
    runtime.shutdown_background();
    served
}

/// The threads that serve connections.
pub(crate) fn runtime() -> Result<Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .thread_name(IO_THREAD_NAME)
        .enable_all()
        .build()
        .map_err(|error| CliError::Refused(format!("the threads for connections did not start: {error}")))
}

/// Serves policies that run already at a free port of this machine, as long as the runtime lives; nothing is learnt. Metrics
/// must be installed.
pub(crate) async fn on_loopback(config: &Config, booted: &[Booted]) -> Result<SocketAddr, CliError> {
    let listener = bind("127.0.0.1", 0).await?;
    let address = listener.local_addr().map_err(|error| CliError::Refused(error.to_string()))?;
    let feedback = Feedback::open(config).await.map_err(|error| CliError::Usage(error.to_string()))?;
    let around = Around { metrics: telemetry::metrics(), keys: ApiKeys::default(), feedback, learning: None };
    let server = server(listener, app(config, booted, around).await?);
    tokio::spawn(async { server.await });
    Ok(address)
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
    let learns = learning_policy(config, &booted)?;
    let open =
        |feedback: &Feedback| Learning::open(config, feedback.store.clone(), &learns.models.policy_name);
    let learning = feedback.as_ref().map(open).transpose()?;
    let app = app(config, &booted, Around { metrics, keys, feedback: feedback.clone(), learning }).await?;
    check_profiles(&app)?;
    let running = learning::start(&app, config, learns).await?;
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

/// The policy that the shadow trainer trains.
fn learning_policy<'a>(config: &Config, booted: &'a [Booted]) -> Result<&'a Booted, CliError> {
    let name = config.shadow.policy.as_ref();
    let found = booted.iter().find(|booted| name.is_none_or(|name| booted.names.contains(name)));
    found.ok_or_else(|| {
        let known = crate::names(booted.iter().flat_map(|booted| &booted.names));
        let name = name.map_or("", String::as_str);
        CliError::Usage(format!(
            "configuration: `shadow.policy` is `{name}`, which is not among the policies: {known}"
        ))
    })
}

async fn app(
    config: &Config,
    booted: &[Booted],
    Around { metrics, keys, feedback, learning }: Around,
) -> Result<App, CliError> {
    let mut policies = Vec::with_capacity(booted.len());
    let adapters = AdapterOwners::default();
    for booted in booted {
        let kv_tokens = booted.engine.stats().await?.total_blocks * config.cache.block_size;
        let policy = Arc::new(Policy {
            names: booted.names.clone(),
            engine: booted.engine.clone(),
            serving: ServingPointer::default(),
            text: boot::text_model(&booted.models),
            max_model_len: booted.models.max_model_len,
            kv_tokens,
            generation: booted.generation,
        });
        for adapter in booted.engine.adapters().await? {
            adapters.insert(&adapter.name, &policy);
        }
        policies.push(policy);
    }
    let mut policies = policies.into_iter();
    let policy = policies.next().ok_or_else(|| CliError::Refused("no policy was started".to_owned()))?;
    let rewards = booted.first().map_or(&[][..], |booted| &booted.models.rewards);
    let rewards: Vec<String> = rewards.iter().map(ToString::to_string).collect();
    Ok(App::new(Shared {
        policy,
        others: policies.collect(),
        adapters,
        learning,
        default_reward: rewards.first().cloned(),
        combined_reward: config.reward.combined(),
        rewards,
        profiles: config.profiles.clone(),
        max_candidates: config.scheduler.max_candidates,
        max_body: config.server.max_body.bytes(),
        keys,
        feedback,
        created: crate::api::unix_time(),
        metrics,
        draining: AtomicBool::new(false),
    }))
}

/// A profile or a combination of rewards that no request could use is a mistake in the configuration.
fn check_profiles(app: &App) -> Result<(), CliError> {
    if app.combined_reward.is_some() {
        let limits = app.alignment_limits(&app.policy);
        AlignmentRequest::default().validate(1, &limits).map_err(|error| {
            CliError::Usage(format!("configuration: the section `reward` cannot be used: {}", error.message))
        })?;
    }
    for (name, profile) in &app.profiles {
        // What one policy has room for, another may not.
        let checked = app.policies().map(|policy| profile.validate(1, &app.alignment_limits(policy)));
        checked.reduce(Result::or).transpose().map_err(|error| {
            CliError::Usage(format!("configuration: the profile `{name}` cannot be used: {}", error.message))
        })?;
    }
    Ok(())
}

/// What to do first, on standard output. Scripts read the line `listening on http://…`.
fn announce(app: &App, booted: &[Booted], address: SocketAddr) -> Result<(), CliError> {
    let name = app.policy_name();
    let policies = booted.iter().map(|Booted { models, .. }| {
        let (name, dtype) = (&models.policy_name, models.dtype.as_str());
        format!("{name} ({dtype}, context {} tokens)", models.max_model_len)
    });
    let model = if app.rewards.is_empty() { name.to_owned() } else { format!("{name}:best-of-16") };
    let key = if app.keys.is_empty() { "" } else { " -H \"Authorization: Bearer $RECTIFY_API_KEY\"" };
    let text = format!(
        "serving {}, reward models: {}\n\
         listening on http://{address}\n\
         open that address in a browser, or try:\n  \
         curl http://{address}/v1/chat/completions -H 'Content-Type: application/json'{key} -d \
         '{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \"content\": \"How do I kill a process in Linux?\"}}]}}'\n",
        crate::names(policies),
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
    let server = server(listener, app).with_graceful_shutdown(graceful);
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

/// The routes, at what `listener` listens on.
fn server(listener: TcpListener, app: App) -> Serve<impl Listener<Addr = SocketAddr>, Router, Router> {
    // Tokens are small: without this they wait for the acknowledgement of the one before.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, crate::router(app))
}
