//! The learning loop over HTTP: runs, versions, the serving pointer and the audit log. Leaves their meaning to the shadow
//! loop and the store.

use rectify_feedback::store::{Event, ServingPointer, TrainingRun};
use rectify_trainer::shadow::{label, registry_name};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

/// Who asks for a change; the audit log keeps it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub struct ChangeRequest {
    /// Who; `api` if nobody says.
    #[serde(default)]
    pub by: Option<String>,
}

impl ChangeRequest {
    /// Who asks.
    pub fn by(&self) -> &str {
        self.by.as_deref().filter(|by| !by.is_empty()).unwrap_or("api")
    }
}

/// A run to start.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub struct StartRunRequest {
    /// Who; `api` if nobody says.
    #[serde(default)]
    pub by: Option<String>,
    /// `dpo`, `kto`, `sft`, `ppo` or `grpo` instead of the configured method; `reward` trains a reward model, which `ppo`
    /// and `grpo` learn from once it is right often enough.
    #[serde(default)]
    pub algorithm: Option<String>,
}

/// A run of the shadow trainer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunEntry {
    /// Its id.
    pub id: String,
    /// `training.run`.
    pub object: String,
    /// `snapshot`, `training`, `candidate`, `validating`, `awaiting_approval`, `published`, `probation`; and in the end
    /// `kept`, `rejected`, `rolled_back`, `failed` or `cancelled`.
    pub state: String,
    /// What started it: `records`, or who.
    pub trigger: String,
    /// The method, once the data are known.
    pub algorithm: String,
    /// The version that was active when it began.
    pub base_version: String,
    /// The version it has made, as `demo@3`.
    pub version: Option<String>,
    /// SHA-256 of its data.
    pub snapshot: Option<String>,
    /// What else is known: counts of the data, last metrics, the gate's sentence, the probation's comparison.
    pub detail: Value,
    /// Why it failed.
    pub error: Option<String>,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// Milliseconds since 1970.
    pub updated_at: i64,
}

impl From<TrainingRun> for RunEntry {
    fn from(run: TrainingRun) -> Self {
        Self {
            object: "training.run".into(),
            version: run.version.as_deref().map(|version| label(&registry_name(&run), Some(version))),
            id: run.id,
            state: run.state,
            trigger: run.trigger,
            algorithm: run.algorithm,
            base_version: run.base_version,
            snapshot: run.snapshot,
            detail: run.detail,
            error: run.error,
            created_at: run.created_at,
            updated_at: run.updated_at,
        }
    }
}

/// Runs, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunList {
    /// `list`.
    pub object: String,
    /// The runs.
    pub data: Vec<RunEntry>,
}

/// Which version answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PointerEntry {
    /// The policy.
    pub name: String,
    /// What answers, as `demo@3` or `demo@base`.
    pub active: String,
    /// What answered before.
    pub previous: String,
    /// The candidate on probation.
    pub canary: Option<String>,
    /// Its share of new requests.
    pub share: f64,
    /// Since when, in milliseconds since 1970.
    pub since: i64,
}

impl From<ServingPointer> for PointerEntry {
    fn from(pointer: ServingPointer) -> Self {
        let version = |version: Option<&str>| label(&pointer.name, version);
        Self {
            active: version(pointer.version.as_deref()),
            previous: version(pointer.previous.as_deref()),
            canary: pointer.canary.as_deref().map(|canary| version(Some(canary))),
            share: pointer.share,
            since: pointer.since,
            name: pointer.name,
        }
    }
}

/// A version of the registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VersionEntry {
    /// The policy.
    pub name: String,
    /// Its number.
    pub version: u64,
    /// `manifest.json`: content hash, base, parent, data, settings and metrics.
    pub manifest: Value,
    /// `gate_report.json`, if the gate has judged it.
    pub gate_report: Option<Value>,
    /// `MODEL_CARD.md`, if it has one.
    pub model_card: Option<String>,
    /// Whether it is the active version, or the candidate on probation.
    pub serving: Option<String>,
}

/// Where the audit log is read from.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub struct EventQuery {
    /// Only events behind this number.
    pub after: Option<i64>,
    /// At most so many; 100 if unset, 1000 at most.
    pub limit: Option<u32>,
}

/// A part of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventList {
    /// `list`.
    pub object: String,
    /// Oldest first.
    pub data: Vec<EventEntry>,
}

/// Something that happened. Each event holds the hash of the one before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventEntry {
    /// Counted from 1, without gaps.
    pub seq: i64,
    /// Milliseconds since 1970.
    pub at: i64,
    /// What: `run_started`, `snapshot`, `trained`, `candidate`, `awaiting_approval`, `published`, `probation`, `kept`,
    /// `rejected`, `rolled_back`, `promoted`, `failed`, `cancelled`, and the store's own.
    pub kind: String,
    /// To what: a run, a version.
    pub subject: String,
    /// The rest.
    pub body: Value,
    /// Of the event before; empty for the first.
    pub prev_hash: String,
    /// SHA-256 of all of the above.
    pub hash: String,
}

impl From<Event> for EventEntry {
    fn from(event: Event) -> Self {
        let Event { seq, at, kind, subject, body, prev_hash, hash } = event;
        Self { seq, at, kind, subject, body, prev_hash, hash }
    }
}
