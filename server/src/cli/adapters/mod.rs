//! `rectify adapters`: what a registry holds, one file for each command that is more than a few lines. Leaves storage to the
//! trainer's registry.

mod diff;
mod list;
mod serving;

use std::io::Write;
use std::path::PathBuf;

use rectify_trainer::registry::{Registry, RegistryError, Version};

use super::{CliError, ModelArgs};
use crate::boot;
use crate::config::Config;

/// Options of `rectify adapters`.
#[derive(Clone, Debug, clap::Args)]
pub struct AdaptersArgs {
    /// Where the versions are.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: AdaptersCommand,
}

/// What to do with the adapter versions.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum AdaptersCommand {
    /// Names and versions, with where they come from and what the gate said.
    List {
        /// Of this name alone.
        name: Option<String>,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Everything that is known of a version, as JSON.
    Show {
        /// The version, as demo@3.
        #[arg(value_name = "NAME@VERSION")]
        version: Version,
    },
    /// What changed from one version to another: origin, gate, weights.
    Diff {
        /// The version to compare with.
        #[arg(value_name = "NAME@VERSION")]
        from: Version,
        /// The version that is compared.
        #[arg(value_name = "NAME@VERSION")]
        to: Version,
    },
    /// Make a version the active one: servers on this store follow within a second.
    Promote {
        /// The version, as demo@3, or demo@base for none.
        #[arg(value_name = "NAME@VERSION")]
        version: String,
    },
    /// Take the candidate on probation back; without one, make the version before the active one again.
    Rollback {
        /// The policy.
        name: String,
    },
    /// Copy a version into a folder that PEFT, vLLM and rectify load.
    Export {
        /// The version, as demo@3.
        #[arg(value_name = "NAME@VERSION")]
        version: Version,
        /// The folder, which must be new or empty.
        folder: PathBuf,
    },
}

/// Where the registry is.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RegistryArgs {
    /// file://FOLDER or s3://BUCKET/PREFIX; by default the configuration's, or `adapters` in the data folder.
    #[arg(long, global = true, value_name = "URL")]
    pub registry: Option<String>,
    /// A YAML configuration file.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder for what the server keeps.
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl RegistryArgs {
    /// The configuration and the registry it leads to.
    ///
    /// # Errors
    /// [`CliError`] naming the file or address that cannot be used.
    pub(crate) fn open(&self) -> Result<(Config, Registry), CliError> {
        let args = ModelArgs {
            config: self.config.clone(),
            data_dir: self.data_dir.clone(),
            ..ModelArgs::default()
        };
        let mut config = boot::configure(&args)?;
        config.registry.url = self.registry.clone().or(config.registry.url);
        let registry = Registry::open(&config.registry_url()).map_err(registry_error)?;
        Ok((config, registry))
    }
}

pub(super) fn registry_error(error: RegistryError) -> CliError {
    CliError::Usage(error.to_string())
}

pub(crate) fn run(args: AdaptersArgs) -> Result<(), CliError> {
    let (config, registry) = args.registry.open()?;
    let work = async {
        match &args.command {
            AdaptersCommand::List { name, json } => list::list(&registry, name.as_deref(), *json).await,
            AdaptersCommand::Show { version } => list::show(&registry, version).await,
            AdaptersCommand::Diff { from, to } => diff::diff(&registry, from, to).await,
            AdaptersCommand::Promote { version } => serving::promote(&config, &registry, version).await,
            AdaptersCommand::Rollback { name } => serving::roll_back(&config, name).await,
            AdaptersCommand::Export { version, folder } => export(&registry, version, folder).await,
        }
    };
    let text = super::runtime()?.block_on(work)?;
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(|error| CliError::stdout(&error))
}

async fn export(registry: &Registry, version: &Version, folder: &PathBuf) -> Result<String, CliError> {
    if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(CliError::Usage(format!("{}: is not empty; export into a new folder", folder.display())));
    }
    let files = registry.export(&version.name, version.number, folder).await.map_err(registry_error)?;
    Ok(format!("{version} is in {}: {}\n", folder.display(), files.join(", ")))
}
