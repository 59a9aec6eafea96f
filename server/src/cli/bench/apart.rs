//! Best-of-N in two halves, one after the other: what generating costs without scoring, and scoring without generating.
//! Leaves both at once to `generate`.

use std::time::Instant;

use rectify_engine::handle::EventStream;
use rectify_engine::request::{Event, ScoreInput, ScoreRequest};
use rectify_engine::{EngineError, GenerateRequest};
use serde::Serialize;

use super::stats::Summary;
use crate::cli::CliError;
use crate::cli::local::Local;

/// Seconds of each half.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Apart {
    generation_s: f64,
    scoring_s: f64,
}

impl Apart {
    /// The medians of several.
    pub(super) fn median(halves: &[Self]) -> Self {
        let median = |half: fn(&Self) -> f64| Summary::of(halves.iter().map(half).collect()).p50;
        Self { generation_s: median(|apart| apart.generation_s), scoring_s: median(|apart| apart.scoring_s) }
    }

    /// The share of `total_s` that neither half accounts for; below 0 where doing both at once saves time.
    pub(super) fn beyond(&self, total_s: f64) -> f64 {
        (total_s - self.generation_s - self.scoring_s) / total_s
    }

    /// For people.
    pub(super) fn line(&self, total_s: f64) -> String {
        let Self { generation_s, scoring_s } = self;
        let beyond = 100.0 * self.beyond(total_s);
        format!(
            "one after the other: generation {generation_s:.3} s, scoring {scoring_s:.3} s; both at once {beyond:+.1} %"
        )
    }
}

/// Generates `request`, whose candidates nobody scores, and then scores them.
pub(super) async fn measure(local: &Local, request: GenerateRequest) -> Result<Apart, CliError> {
    let messages = request.messages.clone();
    let mut candidates = vec![String::new(); request.num_choices];
    let start = Instant::now();
    let events = local.engine.generate(request).await?;
    drain(events, |event| {
        if let Event::Token { index, text, .. } | Event::Finished { index, text, .. } = event
            && let Some(candidate) = candidates.get_mut(index)
        {
            candidate.push_str(&text);
        }
    })
    .await?;
    let generation_s = start.elapsed().as_secs_f64();
    let input = ScoreInput::Candidates { messages, candidates };
    let start = Instant::now();
    let events = local.engine.score(ScoreRequest { reward: None, input, priority: 0 }).await?;
    drain(events, drop).await?;
    Ok(Apart { generation_s, scoring_s: start.elapsed().as_secs_f64() })
}

async fn drain(mut events: EventStream, mut see: impl FnMut(Event)) -> Result<(), CliError> {
    while let Some(event) = events.next().await {
        match event {
            Event::Failed(error) => return Err(error.into()),
            Event::Done(_) => return Ok(()),
            event => see(event),
        }
    }
    Err(EngineError::Shutdown.into())
}
