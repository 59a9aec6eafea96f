//! `rectify chat`: a conversation in the terminal, with an engine in this process or a running server.

use super::{CliError, ModelArgs};

/// Options of `rectify chat`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ChatArgs {
    /// Talk to a running server instead of loading a model, such as http://127.0.0.1:8080.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Candidates per answer; above 1 the reward model picks the best.
    #[arg(short, long, default_value_t = 1, value_parser = super::args::positive, value_name = "N")]
    pub n: usize,
    /// A system prompt.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Models.
    #[command(flatten)]
    pub model: ModelArgs,
}

pub(crate) fn run(_args: ChatArgs) -> Result<(), CliError> {
    Err(CliError::Refused("`rectify chat` is not built yet".to_owned()))
}
