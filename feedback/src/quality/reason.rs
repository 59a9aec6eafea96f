//! Why a vote is left out. Leaves deciding it to the rules.

use serde::{Deserialize, Serialize};

/// Why a vote is left out; a vote has one reason, that of the first rule that catches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The same person changed it later.
    Superseded,
    /// The store holds it in quarantine.
    Quarantined,
    /// The store keeps no text of the answer.
    NoText,
    /// It names an answer that is not in its record.
    NoAnswer,
    /// It says nothing that could be learnt: a tie, three stars, a comment, a signal.
    NoOpinion,
    /// It answers a gold question: it measures the person, and is not learnt from.
    Gold,
    /// The same person said as much of the same words elsewhere; the latest counts.
    Repeated,
    /// The answer is of a version outside the window.
    Stale,
    /// It rewards a text that repeats itself.
    Degenerate,
    /// The person rewards one and the same text everywhere.
    Campaign,
    /// One and the same text is rewarded for too many prompts.
    SameAnswer,
    /// Too many votes of one person in a short time.
    Flood,
    /// Too many near-identical texts in a short time.
    TextFlood,
    /// The person failed the gold questions.
    FailedGold,
    /// The person is wrong too often by what everybody else and the reward model say.
    Unreliable,
    /// The person belongs to a group that votes alike against the rest.
    Coordinated,
    /// Beyond the person's votes of an hour.
    HourCap,
    /// Beyond the person's votes in all.
    PersonCap,
    /// Beyond the votes kept of near-duplicate texts.
    Duplicate,
}

impl Reason {
    /// Its code in reports.
    pub fn code(self) -> &'static str {
        match self {
            Self::Superseded => "superseded",
            Self::Quarantined => "quarantined",
            Self::NoText => "no_text",
            Self::NoAnswer => "no_answer",
            Self::NoOpinion => "no_opinion",
            Self::Gold => "gold",
            Self::Repeated => "repeated",
            Self::Stale => "stale",
            Self::Degenerate => "degenerate",
            Self::Campaign => "campaign",
            Self::SameAnswer => "same_answer",
            Self::Flood => "flood",
            Self::TextFlood => "text_flood",
            Self::FailedGold => "failed_gold",
            Self::Unreliable => "unreliable",
            Self::Coordinated => "coordinated",
            Self::HourCap => "hour_cap",
            Self::PersonCap => "person_cap",
            Self::Duplicate => "duplicate",
        }
    }

    /// Whether the vote could not have been learnt from anyway.
    pub fn is_housekeeping(self) -> bool {
        self <= Self::Stale
    }

    /// Whether it speaks of an attempt to mislead, rather than of housekeeping.
    pub fn is_suspicion(self) -> bool {
        matches!(
            self,
            Self::Degenerate
                | Self::Campaign
                | Self::SameAnswer
                | Self::Flood
                | Self::TextFlood
                | Self::FailedGold
                | Self::Unreliable
                | Self::Coordinated
        )
    }
}

/// A vote that is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exclusion {
    /// Id of the vote.
    pub id: String,
    /// Whose it is.
    pub annotator: String,
    /// Why.
    pub reason: Reason,
}
