//! `rectify adapters promote` and `rollback`: moves the serving pointer in the store, which servers follow within a second.
//! Leaves what may follow what to the shadow loop.

use rectify_feedback::store::{ServingPointer, Store};
use rectify_trainer::registry::Registry;
use rectify_trainer::shadow::{ShadowError, label, ops};

use crate::cli::CliError;
use crate::config::Config;
use crate::feedback::open_store;

/// Who the audit log names.
const BY: &str = "rectify adapters";

/// Makes a version the active one.
pub(super) async fn promote(config: &Config, registry: &Registry, label: &str) -> Result<String, CliError> {
    let Some((name, version)) =
        label.split_once('@').filter(|(name, version)| !name.is_empty() && !version.is_empty())
    else {
        return Err(CliError::Usage(format!(
            "`{label}` is no version: write NAME@VERSION, such as demo@3 or demo@base"
        )));
    };
    let store = open(config).await?;
    let pointer = ops::promote(&store, registry, name, version, BY).await.map_err(refused)?;
    Ok(told(&pointer))
}

/// Takes the candidate on probation back, or goes back to the version before.
pub(super) async fn roll_back(config: &Config, name: &str) -> Result<String, CliError> {
    let store = open(config).await?;
    let pointer = ops::roll_back(&store, name, BY).await.map_err(refused)?;
    Ok(told(&pointer))
}

async fn open(config: &Config) -> Result<Store, CliError> {
    open_store(config.store_url().as_deref()).await
}

fn told(pointer: &ServingPointer) -> String {
    let of = |version: Option<&str>| label(&pointer.name, version);
    format!("{} is active\n", of(pointer.version.as_deref()))
}

fn refused(error: ShadowError) -> CliError {
    match error {
        ShadowError::Refused(_) | ShadowError::Stale(_) => CliError::Refused(error.to_string()),
        other => CliError::Usage(other.to_string()),
    }
}
