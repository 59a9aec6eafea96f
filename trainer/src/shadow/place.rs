//! Where a loop works, and that it is the only one there: a lock on the folder of its runs between processes of one machine,
//! a lease in the store between machines. Leaves the work to `worker`.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rectify_feedback::store::Store;
use tokio::sync::Notify;

use super::ShadowError;
use super::remote::Remote;

/// The file that the process at work holds locked; the system lets go of it when the process ends, however it ends.
const LOCK: &str = "lock";

/// Where the loop works, and who is told.
#[derive(Clone)]
pub struct Place {
    /// The adapter that runs make versions of.
    pub name: String,
    /// Folder of the runs' files.
    pub folder: PathBuf,
    /// The store.
    pub store: Store,
    /// The runtime of the store's connections.
    pub remote: Remote,
    /// Who holds the lease: [`holder`] of the folder.
    pub holder: String,
    /// Told after each change of the serving pointer.
    pub changed: Arc<Notify>,
    /// Wakes the worker before its next look.
    pub wake: Arc<Notify>,
    /// Ends the worker: work is stopped where it can go on later.
    pub stop: Arc<AtomicBool>,
}

/// The holder of the lease for whoever works in `folder` on this machine. A process that follows one that was killed has its
/// name, and need not wait for the lease to run out.
pub fn holder(folder: &Path) -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    format!("{}:{}", machine.trim(), folder.display())
}

impl Place {
    /// The lock of the folder; `None` while another process of this machine has it.
    pub(super) fn lock(&self) -> Result<Option<File>, ShadowError> {
        let path = self.folder.join(LOCK);
        let fail = |error| ShadowError::io(&path, error);
        std::fs::create_dir_all(&self.folder).map_err(fail)?;
        let file = File::create(&path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(fail(error)),
        }
    }
}
