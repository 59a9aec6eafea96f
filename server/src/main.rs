//! The `rectify` binary: parses the command line, dispatches, and turns the outcome into an exit code. Leaves every
//! command to `rectify_server::cli`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use rectify_server::cli::{Cli, CliError, usage_sentence};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse_arguments(&error),
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, CliError::BrokenPipe) {
                say(&error.to_string());
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// `--help` and `--version` go to standard output with 0; anything else is one sentence and 2.
fn refuse_arguments(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        say(&usage_sentence(error));
        ExitCode::from(2)
    } else {
        let _ = error.print();
        ExitCode::SUCCESS
    }
}

fn say(sentence: &str) {
    // Nothing is left to tell when standard error is gone.
    let _ = writeln!(std::io::stderr().lock(), "rectify: {sentence}");
}
