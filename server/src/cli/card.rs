//! `rectify card`: the model card of an adapter version. Leaves its text to the trainer.

use std::io::Write;

use rectify_trainer::card::{self, Statement};
use rectify_trainer::registry::Version;

use super::CliError;
use super::adapters::{RegistryArgs, registry_error};
use crate::config::CardSection;

/// Options of `rectify card`.
#[derive(Clone, Debug, clap::Args)]
pub struct CardArgs {
    /// The version, as demo@3.
    #[arg(value_name = "NAME@VERSION")]
    pub version: Version,
    /// Where it is.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

pub(crate) fn run(args: CardArgs) -> Result<(), CliError> {
    let (config, registry) = args.registry.open()?;
    let statement = statement(&config.card)?;
    let text = super::runtime()?
        .block_on(card::compose(&registry, &args.version, &statement))
        .map_err(registry_error)?;
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(|error| CliError::stdout(&error))
}

/// What the configuration says of the model, its constitution read.
///
/// # Errors
/// [`CliError::Usage`] naming the file that cannot be read.
pub(crate) fn statement(section: &CardSection) -> Result<Statement, CliError> {
    let read = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path)
            .map_err(|error| CliError::Usage(format!("`card.constitution`: {}: {error}", path.display())))
    };
    Ok(Statement {
        constitution: section.constitution.as_ref().map(read).transpose()?,
        knowledge_cutoff: section.knowledge_cutoff.clone(),
        known_limits: section.known_limits.clone(),
    })
}
