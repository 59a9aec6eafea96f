//! `rectify config`: the configuration as it takes effect, its errors, its schema. Leaves all of them to the
//! configuration itself.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::{CliError, ModelArgs};
use crate::boot;
use crate::config::Config;

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

pub(crate) fn run(args: ConfigArgs) -> Result<(), CliError> {
    let load = || boot::configure(&ModelArgs { config: args.config.clone(), ..ModelArgs::default() });
    let text = match args.command {
        ConfigCommand::Print => load()?.to_yaml()?,
        ConfigCommand::Check => {
            load()?;
            let what = args.config.as_deref().map_or("the configuration".into(), Path::to_string_lossy);
            format!("{what} is fine\n")
        }
        ConfigCommand::Schema => {
            let schema = serde_json::to_string_pretty(&Config::schema());
            schema.map_err(|error| CliError::Refused(error.to_string()))? + "\n"
        }
    };
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(|error| CliError::stdout(&error))
}
