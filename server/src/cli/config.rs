//! `rectify config`: the configuration as it takes effect, its errors, its schema. Leaves all of them to the
//! configuration itself.

use std::path::PathBuf;

use super::CliError;

/// Options of `rectify config`.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArgs {
    /// The YAML configuration file.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do with it.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What to do with the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum ConfigCommand {
    /// Print the configuration that takes effect: file, environment and defaults.
    Print,
    /// Check it; exit 2 with the first error.
    Check,
    /// Print its JSON schema.
    Schema,
}

pub(crate) fn run(_args: ConfigArgs) -> Result<(), CliError> {
    Err(CliError::Refused("`rectify config` is not built yet".to_owned()))
}
