//! The learning loop inside a server: its memory follows the store, the shadow trainer runs on a thread behind everything
//! else, and receivers are told of events. Leaves the loop to the trainer.

mod follow;
mod shadow;
mod webhooks;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rectify_feedback::store::Store;
use rectify_trainer::registry::Registry;
use rectify_trainer::shadow::ShadowError;
use tokio::sync::Notify;

use crate::app::App;
use crate::boot::Booted;
use crate::cli::CliError;
use crate::config::{Config, IfDamaged};

use follow::Follower;
pub use shadow::{Parts, worker};

/// What handlers know of the loop.
#[derive(Clone, Debug)]
pub struct Learning {
    /// Runs, the serving pointer, the audit log.
    pub store: Store,
    /// Versions.
    pub registry: Registry,
    /// The name of the policy that learns.
    pub policy: String,
    /// Folder of the runs' files.
    pub runs: PathBuf,
    /// Share of new requests that a candidate on probation answers.
    pub share: f64,
    /// Told when the serving pointer has moved.
    pub changed: Arc<Notify>,
    /// Told when the shadow trainer has something to do.
    pub wake: Arc<Notify>,
}

impl Learning {
    /// The loop of a server with this configuration, in which `policy` learns.
    ///
    /// # Errors
    /// If the registry's address cannot be opened.
    pub fn open(config: &Config, store: Store, policy: &str) -> Result<Self, CliError> {
        let registry =
            Registry::open(&config.registry_url()).map_err(|error| CliError::Usage(error.to_string()))?;
        Ok(Self {
            store,
            registry,
            policy: policy.to_owned(),
            runs: config.server.data_dir.join("training"),
            share: config.probation.share,
            changed: Arc::default(),
            wake: Arc::default(),
        })
    }
}

/// What runs in the background; dropping it leaves it running, [`Running::stop`] ends it.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    wake: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Ends the shadow trainer where it can go on later. Blocks until then.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where adapters of the registry are kept on this machine.
fn cache(config: &Config) -> PathBuf {
    config.server.data_dir.join("cache")
}

/// Serves of each policy what the store says is active, and starts what goes on in the background. `booted` is the policy
/// that learns.
///
/// # Errors
/// [`CliError::Refused`] if the active version cannot be loaded, unless the configuration says to serve the base then.
pub async fn start(app: &App, config: &Config, booted: &Booted) -> Result<Option<Running>, CliError> {
    let Some(learning) = app.learning.clone() else { return Ok(None) };
    let mut followers = Vec::new();
    for policy in app.policies() {
        let (store, registry) = (learning.store.clone(), learning.registry.clone());
        let mut follower = Follower::new(Arc::clone(policy), store, registry, cache(config));
        match (follower.follow().await, config.registry.if_damaged) {
            (Ok(()), _) => {}
            (Err(error), IfDamaged::ServeBase) => {
                tracing::error!(%error, "the active version cannot be loaded; the base is served, as `registry.if_damaged` says");
            }
            (Err(error), IfDamaged::Refuse) => return Err(unservable(&error)),
        }
        followers.push(follower);
    }
    tokio::spawn(follow::run(followers, Arc::clone(&learning.changed)));
    if !config.webhooks.is_empty() {
        tokio::spawn(webhooks::run(learning.store.clone(), config.webhooks.clone(), reqwest::Client::new()));
    }
    let stop = Arc::<AtomicBool>::default();
    let thread = if config.shadow.enabled {
        let parts = Parts { learning: &learning, booted, config, stop: Arc::clone(&stop) };
        let worker = tokio::task::block_in_place(|| worker(&parts))?;
        let thread = std::thread::Builder::new().name("rectify-shadow".into());
        let priority = config.shadow.priority;
        let thread = thread.spawn(move || {
            priority.take();
            worker.run();
        });
        Some(
            thread
                .map_err(|error| CliError::Refused(format!("the shadow trainer did not start: {error}")))?,
        )
    } else {
        None
    };
    Ok(Some(Running { stop, wake: learning.wake, thread }))
}

fn unservable(error: &ShadowError) -> CliError {
    CliError::Refused(format!(
        "the version that was active cannot be served: {error}. Restore it, or set `registry.if_damaged: serve_base` to \
         serve the policy without an adapter until it is back"
    ))
}
