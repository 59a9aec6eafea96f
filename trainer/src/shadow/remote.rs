//! Calls from the loop's thread into the runtime. Futures run on the runtime's own threads and never on the caller's,
//! whose low priority would otherwise stay with whatever a future starts, a connection's thread among them.

use std::future::Future;

use tokio::runtime::Handle;

use super::ShadowError;

/// The way into a runtime from a thread outside it.
#[derive(Clone, Debug)]
pub struct Remote(Handle);

impl Remote {
    /// Into `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self(runtime)
    }

    /// Waits for a future.
    ///
    /// # Errors
    /// What the future says, or [`ShadowError::Broken`] if it panicked or the runtime has ended.
    pub fn wait<T, E>(
        &self,
        future: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, ShadowError>
    where
        T: Send + 'static,
        E: Into<ShadowError> + Send + 'static,
    {
        let joined = self.0.block_on(self.0.spawn(future));
        joined
            .map_err(|error| ShadowError::Broken(format!("a call into the runtime ended: {error}")))?
            .map_err(Into::into)
    }

    /// Starts a future that ends when what is returned is dropped.
    pub fn start(&self, future: impl Future<Output = ()> + Send + 'static) -> Background {
        Background(self.0.spawn(future))
    }
}

/// A future in the background; dropping it ends it.
#[derive(Debug)]
pub struct Background(tokio::task::JoinHandle<()>);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}
