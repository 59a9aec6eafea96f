//! What the rules found, as data and as a table for people: which votes are out and why, who is not trusted, what is
//! odd, and whether the data may be used. Leaves finding it to the rules.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::stats::Agreement;
use super::{Annotator, Balance, Exclusion, Quarantine, Reason};

/// The outcome of an assessment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QualityReport {
    /// Votes looked at.
    pub votes: usize,
    /// Ids of those that may be trained on, oldest first.
    pub included: Vec<String>,
    /// The others, in the order of the votes.
    pub excluded: Vec<Exclusion>,
    /// How many are out for each reason.
    pub reasons: BTreeMap<Reason, usize>,
    /// Votes that their person had changed.
    pub changed: usize,
    /// Clusters of near-duplicates that were thinned out.
    pub duplicate_clusters: usize,
    /// The version taken as the current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// Everybody who voted.
    pub annotators: Vec<Annotator>,
    /// What is odd.
    pub anomalies: Vec<Anomaly>,
    /// Mix and biases.
    pub balance: Balance,
    /// What every check measured.
    pub findings: Vec<Finding>,
}

/// What is odd about some votes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// Which kind.
    pub kind: AnomalyKind,
    /// Whose votes.
    pub who: Vec<String>,
    /// What was measured.
    pub what: String,
    /// The measure.
    pub measured: f64,
    /// Its limit.
    pub limit: f64,
    /// Votes concerned.
    pub votes: usize,
    /// When it began; 0 if it has no beginning.
    pub since: i64,
}

/// Kinds of anomalies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnomalyKind {
    /// Somebody voted faster than people do.
    PersonFlood,
    /// Near-identical texts came too thick.
    TextFlood,
    /// Somebody rewards texts that repeat themselves.
    RewardsRepetition,
    /// Somebody rewards one text whatever was asked.
    Campaign,
    /// One text is rewarded whatever was asked.
    SameAnswer,
    /// A group votes alike against the rest.
    Group,
}

impl AnomalyKind {
    /// Its code in reports.
    pub fn code(self) -> &'static str {
        match self {
            Self::PersonFlood => "person_flood",
            Self::TextFlood => "text_flood",
            Self::RewardsRepetition => "rewards_repetition",
            Self::Campaign => "campaign",
            Self::SameAnswer => "same_answer",
            Self::Group => "group",
        }
    }
}

/// What a check says of the data as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The check.
    pub check: String,
    /// What follows.
    pub level: Level,
    /// What was measured; none if there was nothing to measure.
    pub measured: Option<f64>,
    /// The limit.
    pub limit: Option<f64>,
    /// One sentence.
    pub message: String,
}

/// What follows from a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing.
    Ok,
    /// Somebody should look at it; the data may be used.
    Warn,
    /// The data may not be used.
    Stop,
}

impl QualityReport {
    /// The findings that forbid to use the data.
    pub fn stops(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.level == Level::Stop)
    }

    /// Whether the data may be used.
    pub fn usable(&self) -> bool {
        self.stops().next().is_none()
    }

    /// Annotators who are not trusted.
    pub fn quarantined(&self) -> impl Iterator<Item = &Annotator> {
        self.annotators.iter().filter(|annotator| annotator.quarantine.is_some())
    }
}

impl QualityReport {
    /// Those who are not trusted first, then those with most votes.
    fn write_people(&self, f: &mut fmt::Formatter<'_>, most: usize) -> fmt::Result {
        let mut people: Vec<&Annotator> = self.annotators.iter().filter(|person| person.votes > 0).collect();
        if people.is_empty() {
            return Ok(());
        }
        people.sort_by_key(|person| (person.quarantine.is_none(), std::cmp::Reverse(person.votes)));
        let quarantined = self.quarantined().count();
        writeln!(f, "\nPeople ({}, {quarantined} of them not trusted)", people.len())?;
        let heads = ["who", "votes", "right", "κ gold", "κ peers", "bias"];
        let [who, votes, right, gold, peers, bias] = heads;
        writeln!(f, "  {who:<20} {votes:>6} {right:>18} {gold:>7} {peers:>7} {bias:>6}")?;
        for person in people.iter().take(most) {
            let kappa = |agreement: &Option<Agreement>| {
                let kappa = agreement.and_then(|agreement| agreement.kappa);
                kappa.map_or_else(|| "–".to_owned(), |kappa| format!("{:.2}", kappa.value))
            };
            let (gold, peers) = (kappa(&person.gold), kappa(&person.peers));
            let Annotator { name, votes, accuracy, bias, .. } = person;
            let right = accuracy.to_string();
            write!(f, "  {name:<20} {votes:>6} {right:>18} {gold:>7} {peers:>7} {bias:>+6.2}")?;
            if let Some(Quarantine { reason, what, measured, limit }) = &person.quarantine {
                write!(f, "  {}: {what} {measured:.2} at most, limit {limit:.2}", reason.code())?;
            }
            writeln!(f)?;
        }
        rest(f, people.len(), most)
    }
}

impl fmt::Display for QualityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 20;
        writeln!(
            f,
            "{} votes, {} kept, {} changed by their person",
            self.votes,
            self.included.len(),
            self.changed
        )?;
        if !self.reasons.is_empty() {
            writeln!(f, "\nLeft out")?;
            for (reason, count) in &self.reasons {
                writeln!(f, "  {:<14} {count:>7}", reason.code())?;
            }
        }
        if !self.anomalies.is_empty() {
            writeln!(f, "\nAnomalies")?;
            for anomaly in self.anomalies.iter().take(MOST) {
                let Anomaly { kind, what, measured, limit, votes, .. } = anomaly;
                let who = people(&anomaly.who);
                writeln!(
                    f,
                    "  {:<18} {votes} votes of {who}: {what} {measured:.2}, limit {limit:.2}",
                    kind.code()
                )?;
            }
            rest(f, self.anomalies.len(), MOST)?;
        }
        self.write_people(f, MOST)?;
        writeln!(f, "\nChecks")?;
        for finding in &self.findings {
            let level = match finding.level {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Stop => "STOP",
            };
            writeln!(f, "  {level:<5} {:<12} {}", finding.check, finding.message)?;
        }
        Ok(())
    }
}

fn people(names: &[String]) -> String {
    match names {
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} others", rest.len()),
        [] => "nobody".to_owned(),
    }
}

fn rest(f: &mut fmt::Formatter<'_>, all: usize, shown: usize) -> fmt::Result {
    if all > shown { writeln!(f, "  … and {} more", all - shown) } else { Ok(()) }
}
