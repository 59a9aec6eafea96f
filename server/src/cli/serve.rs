//! `rectify serve`: its options over the configuration. Leaves serving to the HTTP side of this crate.

use super::{CliError, ModelArgs, NamedDir, ProgressMode};
use crate::config::{LogFormat, Secret};
use crate::{boot, serve};

/// Options of `rectify serve`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServeArgs {
    /// Address to listen on; by default 127.0.0.1.
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<String>,
    /// Port to listen on; by default 8080, and 0 takes a free one.
    #[arg(long)]
    pub port: Option<u16>,
    /// Name of the policy in requests; may be given several times. By default the folder's name,
    /// or the id on the hub.
    #[arg(long = "served-model-name", value_name = "NAME", num_args = 1..)]
    pub served_names: Vec<String>,
    /// A further policy and its name; may be given several times. Without --policy and a configuration these are all the
    /// policies, and the first answers requests that name none.
    #[arg(long = "model", value_name = "NAME=PATH|ID")]
    pub models: Vec<NamedDir>,
    /// A key that requests must carry, as `Authorization: Bearer KEY`; may be given several times. Without keys, everybody
    /// who reaches the address may use the server.
    #[arg(long = "api-key", env = "RECTIFY_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_keys: Vec<String>,
    /// Most sequences in a step; by default 256.
    #[arg(long, value_name = "N", value_parser = super::args::positive)]
    pub max_num_seqs: Option<usize>,
    /// Most tokens in a step; by default 2048.
    #[arg(long, value_name = "TOKENS", value_parser = super::args::positive)]
    pub max_num_batched_tokens: Option<usize>,
    /// Log level: error, warn, info, debug, trace, or directives such as info,rectify_engine=debug.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Log lines for people or one JSON object a line; on standard error.
    #[arg(long, value_enum)]
    pub log_format: Option<LogFormat>,
    /// Models.
    #[command(flatten)]
    pub model: ModelArgs,
}

pub(crate) fn run(args: ServeArgs, progress: ProgressMode) -> Result<(), CliError> {
    let usage = |error: crate::config::ConfigError| CliError::Usage(error.to_string());
    let mut config = boot::configure(&args.model).map_err(usage)?;
    if let Some(host) = args.host {
        config.server.host = host;
    }
    config.server.port = args.port.unwrap_or(config.server.port);
    if !args.served_names.is_empty() {
        config.model.served_names = args.served_names;
    }
    let names_none = config.model.path.is_none() && config.models.is_empty();
    for NamedDir { name, path } in &args.models {
        // How it is held stays as the file says.
        config.models.entry(name.clone()).or_default().path = Some(path.clone());
    }
    if let Some(first) = args.models.first().filter(|_| names_none) {
        config.default_model = Some(first.name.clone());
    }
    config.auth.api_keys.extend(args.api_keys.into_iter().map(Secret));
    let scheduler = &mut config.scheduler;
    scheduler.max_num_seqs = args.max_num_seqs.unwrap_or(scheduler.max_num_seqs);
    scheduler.max_num_batched_tokens =
        args.max_num_batched_tokens.unwrap_or(scheduler.max_num_batched_tokens);
    if let Some(level) = args.log_level {
        config.log.level = level;
    }
    config.log.format = args.log_format.unwrap_or(config.log.format);
    config.validate().map_err(CliError::Usage)?;
    serve::run(&config, progress)
}
