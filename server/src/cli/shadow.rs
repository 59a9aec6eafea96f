//! `rectify shadow`: the shadow trainer as a process of its own, beside servers on the same store and registry. Leaves the
//! loop to the trainer, and serving to `serve`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{CliError, ModelArgs, ProgressMode, interrupt};
use crate::feedback::open_store;
use crate::learning::{Learning, Parts, worker};
use crate::{boot, telemetry};

/// Options of `rectify shadow`.
#[derive(Clone, Debug, clap::Args)]
pub struct ShadowArgs {
    /// Models: those of the servers, whose engine this process has a copy of.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Threads of the store's connections.
const IO_THREADS: usize = 1;

pub(crate) fn run(args: ShadowArgs, progress: ProgressMode) -> Result<(), CliError> {
    let config = boot::configure(&args.model)?;
    telemetry::init_logs(&config.log).map_err(|error| CliError::Usage(error.to_string()))?;
    let refuse = |error: &dyn std::fmt::Display| CliError::Refused(error.to_string());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .thread_name(crate::serve::IO_THREAD_NAME)
        .enable_all()
        .build()
        .map_err(|error| refuse(&error))?;
    let store = runtime.block_on(open_store(config.store_url().as_deref()))?;
    // Before the engine, whose threads inherit it.
    config.shadow.priority.take();
    let booted = boot::start_one(&config, config.shadow.policy.as_deref(), progress)?;
    let learning = Learning::open(&config, store, &booted.models.policy_name)?;
    let stop = interrupt::flag()?;
    let worker = {
        let _runtime = runtime.enter();
        worker(&Parts { learning: &learning, booted: &booted, config: &config, stop: Arc::clone(&stop) })?
    };
    worker.run();
    if stop.load(Ordering::Relaxed) {
        return Err(CliError::Interrupted(
            "the run goes on where it is when the shadow trainer starts again".to_owned(),
        ));
    }
    Ok(())
}
