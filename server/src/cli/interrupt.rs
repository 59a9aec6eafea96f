//! Ctrl-C and SIGTERM as a flag: the first asks the work to stop where nothing is lost, the second ends the process.
//! Leaves stopping to the commands.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::CliError;

/// Exit code of a process that was interrupted.
pub(crate) const INTERRUPTED: u8 = 130;

/// A flag that becomes true at the first signal.
///
/// # Errors
/// [`CliError::Refused`] if the system gives no thread or no signal handler.
pub(crate) fn flag() -> Result<Arc<AtomicBool>, CliError> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    let refuse = |error: std::io::Error| CliError::Refused(format!("cannot listen for signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refuse)?;
    let listen = move || {
        runtime.block_on(async {
            signal().await;
            raised.store(true, Ordering::Relaxed);
            signal().await;
        });
        std::process::exit(i32::from(INTERRUPTED));
    };
    std::thread::Builder::new().name("rectify-signals".into()).spawn(listen).map_err(refuse)?;
    Ok(flag)
}

/// Waits for Ctrl-C or SIGTERM.
pub(crate) async fn signal() {
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! { () = interrupt => {}, _ = terminate.recv() => {} }
            return;
        }
    }
    interrupt.await;
}
