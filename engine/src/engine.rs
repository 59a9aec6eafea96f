//! The engine's thread: commands in, steps, events out. Leaves decisions to the scheduler, the sampler and the
//! strategy.

use tokio::sync::mpsc;

use crate::handle::Command;
use crate::{EngineConfig, EngineError, EngineHandle, EngineParts};

/// All engine state. Lives on one thread; see [`start`].
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    parts: EngineParts,
}

impl Engine {
    /// An idle engine.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if the configuration is out of range.
    pub fn new(config: EngineConfig, parts: EngineParts) -> Result<Self, EngineError> {
        config.validate()?;
        Ok(Self { config, parts })
    }

    /// Serves `commands` until every [`EngineHandle`] is gone.
    pub fn run(self, mut commands: mpsc::Receiver<Command>) {
        tracing::debug!(config = ?self.config, parts = ?self.parts, "the engine runs");
        while commands.blocking_recv().is_some() {}
    }
}

/// Starts an engine on a thread of its own, where `build` makes its parts; returns when they are built. The engine ends
/// when the last handle and the last event stream are gone.
///
/// # Errors
/// What `build` or [`Engine::new`] says, or [`EngineError::Shutdown`] if the thread could not be started or panicked.
pub fn start(
    config: EngineConfig,
    build: impl FnOnce() -> Result<EngineParts, EngineError> + Send + 'static,
) -> Result<EngineHandle, EngineError> {
    let (handle, commands) = EngineHandle::new();
    let (report, built) = std::sync::mpsc::sync_channel(1);
    let body = move || match build().and_then(|parts| Engine::new(config, parts)) {
        Ok(engine) => {
            let _ = report.send(Ok(()));
            engine.run(commands);
        }
        Err(error) => {
            let _ = report.send(Err(error));
        }
    };
    std::thread::Builder::new()
        .name("rectify-engine".into())
        .spawn(body)
        .map_err(|error| EngineError::Execution(format!("the engine's thread did not start: {error}")))?;
    built.recv().map_err(|_| EngineError::Shutdown)??;
    Ok(handle)
}
