//! `rectify serve`: its options. Leaves serving to the HTTP side of this crate.

use super::{CliError, ModelArgs};

/// Options of `rectify serve`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServeArgs {
    /// Address to listen on; by default 127.0.0.1.
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<String>,
    /// Port to listen on; by default 8080.
    #[arg(long)]
    pub port: Option<u16>,
    /// Models.
    #[command(flatten)]
    pub model: ModelArgs,
}

pub(crate) fn run(_args: ServeArgs) -> Result<(), CliError> {
    Err(CliError::Refused("`rectify serve` is not built yet".to_owned()))
}
