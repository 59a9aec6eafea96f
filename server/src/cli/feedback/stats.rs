//! `rectify feedback stats`. Leaves counting to the feedback crate.

use rectify_feedback::quality::Summary;

use super::Desk;
use crate::cli::CliError;

pub(super) async fn run(desk: &Desk) -> Result<(), CliError> {
    let summary = Summary::of(&desk.votes().await?);
    desk.say(&summary, &summary)
}
