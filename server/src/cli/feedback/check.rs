//! `rectify feedback check`. Leaves the rules to the feedback crate.

use std::path::PathBuf;

use rectify_feedback::quality::{QualityReport, assess, quarantine};
use rectify_feedback::snapshot::Snapshot;

use super::{Desk, refuse, usage};
use crate::cli::CliError;

/// Options of `rectify feedback check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// Also write the training snapshot that the votes would make into this new folder.
    #[arg(long, value_name = "DIR")]
    pub snapshot: Option<PathBuf>,
    /// Put the votes under suspicion into quarantine, where nothing is trained on them until somebody takes them out.
    #[arg(long)]
    pub quarantine: bool,
}

pub(super) async fn run(desk: &Desk, args: &CheckArgs) -> Result<(), CliError> {
    let votes = desk.votes().await?;
    let report = assess(&votes, &desk.quality);
    if args.quarantine {
        let suspects = quarantine(&votes, &desk.quality);
        let marked: Vec<(&str, Option<&str>)> =
            suspects.iter().map(|(id, reason)| (id.as_str(), Some(reason.code()))).collect();
        desk.store.quarantine(&marked).await.map_err(refuse)?;
    }
    desk.say(&report, &report)?;
    refused(&report)?;
    if let Some(folder) = &args.snapshot {
        Snapshot::build(&votes, &report, &desk.quality).write(folder).map_err(usage)?;
    }
    Ok(())
}

fn refused(report: &QualityReport) -> Result<(), CliError> {
    let stops: Vec<String> =
        report.stops().map(|finding| format!("{}: {}", finding.check, finding.message)).collect();
    if stops.is_empty() {
        return Ok(());
    }
    Err(CliError::Refused(format!("these votes may not be trained on: {}", stops.join("; "))))
}
