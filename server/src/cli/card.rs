//! `rectify card`: the model card of an adapter version. Leaves its text to the trainer.

use std::io::Write;

use rectify_trainer::card::{Card, Statement};
use rectify_trainer::gate::GateReport;
use rectify_trainer::registry::{GATE_REPORT, Manifest, Registry};

use super::CliError;
use super::adapters::{RegistryArgs, Version, registry_error};
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

/// Generations of ancestors that a card tells of.
const MAX_ANCESTORS: usize = 20;

pub(crate) fn run(args: CardArgs) -> Result<(), CliError> {
    let (config, registry) = args.registry.open()?;
    let statement = statement(&config.card)?;
    let text = super::runtime()?.block_on(card(&registry, &args.version, &statement))?;
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(|error| CliError::stdout(&error))
}

/// The card of a version, from what the registry has of it now.
async fn card(registry: &Registry, version: &Version, statement: &Statement) -> Result<String, CliError> {
    let manifest = registry.manifest(&version.name, version.number).await.map_err(registry_error)?;
    let gate = gate_report(registry, version).await?;
    let ancestors = ancestors(registry, &manifest).await;
    let card = Card { manifest: &manifest, ancestors: &ancestors, gate: gate.as_ref(), statement };
    Ok(card.markdown())
}

/// What the gate found on a version; `None` if it has not run.
pub(super) async fn gate_report(
    registry: &Registry,
    version: &Version,
) -> Result<Option<GateReport>, CliError> {
    let bytes = registry.get(&version.name, version.number, GATE_REPORT).await.map_err(registry_error)?;
    let parse = |bytes: Vec<u8>| {
        serde_json::from_slice(&bytes).map_err(|error| {
            CliError::Usage(format!("{version}: its {GATE_REPORT} is no report of this gate: {error}"))
        })
    };
    bytes.map(parse).transpose()
}

/// The versions that a version was trained from, nearest first, as far as the registry knows them.
async fn ancestors(registry: &Registry, manifest: &Manifest) -> Vec<Manifest> {
    let mut found: Vec<Manifest> = Vec::new();
    while found.len() < MAX_ANCESTORS {
        let last = found.last().unwrap_or(manifest);
        let Some(Ok(parent)) = last.provenance.parent.as_deref().map(str::parse::<Version>) else { break };
        match registry.manifest(&parent.name, parent.number).await {
            Ok(parent) => found.push(parent),
            Err(_) => break,
        }
    }
    found
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
