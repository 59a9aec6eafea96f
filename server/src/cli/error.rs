//! How a command ends when it does not succeed: the sentence and the exit code. Leaves HTTP errors to the API.

use std::path::Path;

use rectify_engine::EngineError;

/// Why a command did not succeed. The message is one sentence that names the file, field or flag.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Everything ran, and the answer is no (exit code 1).
    #[error("{0}")]
    Refused(String),
    /// The arguments or the input cannot be used (exit code 2).
    #[error("{0}")]
    Usage(String),
    /// The configuration cannot be used (exit code 2).
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The engine refused or failed (2 for input, 1 for a failure while running).
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The person pressed Ctrl-C (exit code 130); what was done is kept.
    #[error("interrupted; {0}")]
    Interrupted(String),
    /// The reader of standard output has gone (exit code 0, nothing is said).
    #[error("standard output was closed")]
    BrokenPipe,
}

impl CliError {
    /// A file that could not be read or written.
    pub(crate) fn io(path: &Path, doing: &str, error: &std::io::Error) -> Self {
        Self::Usage(format!("{}: cannot {doing}: {error}", path.display()))
    }

    /// A failed write to standard output.
    pub(crate) fn stdout(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::BrokenPipe
        } else {
            Self::Usage(format!("standard output: cannot write: {error}"))
        }
    }

    /// 0 is success, 1 said no, 2 bad usage or input, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Refused(_)
            | Self::Engine(
                EngineError::Execution(_) | EngineError::Shutdown | EngineError::Overloaded { .. },
            ) => 1,
            Self::Usage(_) | Self::Config(_) | Self::Engine(_) => 2,
            Self::Interrupted(_) => 130,
        }
    }
}

/// clap's explanation of refused arguments as one sentence: its first paragraph, its tip, and where help is.
pub fn usage_sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.split("\nUsage:").next().unwrap_or(&text);
    let mut sentence = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with("For more information") {
            continue;
        }
        let line = line.strip_prefix("error: ").unwrap_or(line);
        if let Some(tip) = line.strip_prefix("tip: ") {
            sentence.push_str("; ");
            sentence.push_str(tip);
        } else if sentence.is_empty() {
            sentence.push_str(line);
        } else {
            sentence.push(' ');
            sentence.push_str(line);
        }
    }
    sentence.push_str(" (`--help` shows all options)");
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_interface() {
        assert_eq!(CliError::Refused(String::new()).exit_code(), 1);
        assert_eq!(CliError::Usage(String::new()).exit_code(), 2);
        assert_eq!(CliError::Interrupted(String::new()).exit_code(), 130);
        assert_eq!(CliError::Engine(EngineError::load("x", "missing")).exit_code(), 2);
        assert_eq!(CliError::Engine(EngineError::Execution("NaN".into())).exit_code(), 1);
    }
}
