//! The server's memory follows the store: whatever moves the serving pointer, here or in another process, is loaded and
//! served from the next request on. Leaves moving it to the shadow loop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rectify_engine::model::adapter::Adapter;
use rectify_feedback::store::{ServingPointer, Store};
use rectify_trainer::registry::Registry;
use rectify_trainer::shadow::{ShadowError, ops};
use tokio::sync::Notify;

use crate::policy::Policy;
use crate::serving::{Canary, Serving};

/// How often the store is asked, for changes by other processes.
const POLL: Duration = Duration::from_secs(1);

/// What is served of a policy, as the store says it.
pub(super) struct Follower {
    policy: Arc<Policy>,
    store: Store,
    registry: Registry,
    /// Where adapters of the registry are kept on this machine.
    cache: PathBuf,
    followed: Option<ServingPointer>,
    /// The trouble it is in has not been told yet.
    was_silent: bool,
}

impl Follower {
    /// A follower that has not looked yet.
    pub(super) fn new(policy: Arc<Policy>, store: Store, registry: Registry, cache: PathBuf) -> Self {
        Self { policy, store, registry, cache, followed: None, was_silent: true }
    }

    /// Serves what the store says now. Adapters are read and packed on other threads, and only then is the pointer of the
    /// requests moved; if one cannot be loaded, nothing changes.
    ///
    /// # Errors
    /// What the store or the registry says, or a version that cannot be loaded.
    pub(super) async fn follow(&mut self) -> Result<(), ShadowError> {
        let name = self.policy.name().to_owned();
        let pointer = ops::pointer(&self.store, &name).await?;
        if self.followed.as_ref() == Some(&pointer) {
            return Ok(());
        }
        let begun = Instant::now();
        let active = self.load(&name, pointer.version.as_deref()).await?;
        let canary = match &pointer.canary {
            Some(version) => {
                let adapter = self.load(&name, Some(version)).await?;
                Some(Canary { adapter, share: pointer.share })
            }
            None => None,
        };
        let loaded = begun.elapsed();
        let serving = Serving { active, canary };
        let (from, to) =
            (self.policy.serving.get().active_version().to_owned(), serving.active_version().to_owned());
        let swapping = Instant::now();
        self.policy.serving.set(serving);
        if self.followed.is_some() {
            metrics::histogram!("rectify_swap_seconds").record(swapping.elapsed());
            metrics::histogram!("rectify_adapter_load_seconds").record(loaded);
            if from != to {
                metrics::counter!("rectify_swaps_total").increment(1);
            }
            if self.followed.as_ref().is_some_and(|before| is_rollback(before, &pointer)) {
                metrics::counter!("rectify_rollbacks_total").increment(1);
            }
        }
        report(&pointer);
        tracing::info!(
            from,
            to,
            canary = pointer.canary.as_deref(),
            share = pointer.share,
            ?loaded,
            "serving"
        );
        self.followed = Some(pointer);
        Ok(())
    }

    /// The adapter of a version: the one in memory, or from the registry.
    async fn load(&self, name: &str, version: Option<&str>) -> Result<Option<Arc<Adapter>>, ShadowError> {
        let Some(version) = version else { return Ok(None) };
        if let Some(adapter) = self.policy.serving.get().adapter(version) {
            return Ok(Some(adapter));
        }
        let adapter = load(&self.policy, &self.registry, &self.cache, (name, version)).await?;
        Ok(Some(Arc::new(adapter)))
    }

    /// Follows, and tells of a trouble once: what is served goes on.
    async fn look(&mut self) {
        let followed = self.follow().await;
        if let Err(error) = &followed
            && self.was_silent
        {
            let policy = self.policy.name();
            tracing::error!(policy, %error, "the served version stays, since the new one cannot be loaded");
            metrics::counter!("rectify_swap_failures_total").increment(1);
        }
        self.was_silent = followed.is_ok();
    }
}

/// Follows until the process ends.
pub(super) async fn run(mut followers: Vec<Follower>, changed: Arc<Notify>) {
    loop {
        let _ = tokio::time::timeout(POLL, changed.notified()).await;
        for follower in &mut followers {
            follower.look().await;
        }
    }
}

/// Reads a version of the registry and packs it, off the threads that serve.
///
/// # Errors
/// If the registry does not have it whole, or it does not fit the policy.
async fn load(
    policy: &Policy,
    registry: &Registry,
    cache: &std::path::Path,
    (name, version): (&str, &str),
) -> Result<Adapter, ShadowError> {
    let number: u64 = version.parse().map_err(|_| {
        ShadowError::NotFound(format!("the store names the version `{name}@{version}`, which is no number"))
    })?;
    let folder = registry.fetch(name, number, cache).await?;
    let (engine, name, version) = (policy.engine.clone(), name.to_owned(), version.to_owned());
    let read = tokio::task::spawn_blocking(move || engine.read_adapter(&name, &folder));
    let adapter = read.await.map_err(|_| ShadowError::Broken("reading an adapter panicked".to_owned()))??;
    Ok(adapter.with_version(&version))
}

/// Whether the candidate of `before` was taken back, or the version before it is active again.
fn is_rollback(before: &ServingPointer, after: &ServingPointer) -> bool {
    let taken_back = before.canary.is_some() && after.canary.is_none() && after.version == before.version;
    taken_back || (after.version != before.version && after.version == before.previous)
}

fn report(pointer: &ServingPointer) {
    let number = |version: Option<&str>| version.and_then(|version| version.parse().ok()).unwrap_or(0.0);
    let gauge = |arm: &'static str| metrics::gauge!("rectify_adapter_version", "name" => pointer.name.clone(), "arm" => arm);
    gauge("active").set(number(pointer.version.as_deref()));
    gauge("canary").set(number(pointer.canary.as_deref()));
    metrics::gauge!("rectify_canary_share", "name" => pointer.name.clone()).set(pointer.share);
}
