//! All rules in their order, and what they say of the data as a whole. Leaves each rule to its file.

use std::collections::BTreeMap;

use super::accuracy::Likelihood;
use super::annotators::{Calibration, calibrate};
use super::ballot::Ballot;
use super::dedup::{TextClusters, thin_out};
use super::report::{Finding, Level};
use super::{Balance, DedupText, Exclusion, QualityConfig, QualityReport, Reason, StopRules};
use super::{balance, campaign, flood, groups, housekeeping};
use crate::store::Vote;

/// Decides which votes may be trained on. The same votes and settings give the same report.
pub fn assess(votes: &[Vote], config: &QualityConfig) -> QualityReport {
    let mut ballot = Ballot::new(votes);
    housekeeping::unusable(&mut ballot);
    // Before repeated votes are folded into one: saying the same over and over is a flood too.
    let mut anomalies = flood::people(&mut ballot, &config.flood);
    housekeeping::repeated(&mut ballot);
    // Old votes and gold answers are not learnt from, but show whom to trust.
    let mut calibration = calibrate(&ballot, &config.annotators);
    let group_anomalies = groups::find(&mut calibration, &config.annotators);
    ballot.exclude_each(|vote| vote.completion.gold.is_some().then_some(Reason::Gold));
    let current = housekeeping::stale(&mut ballot, &config.staleness);

    anomalies.extend(campaign::find(&mut ballot, &config.campaign));
    let exact = TextClusters::of(&ballot, &config.dedup, DedupText::PromptAndAnswer);
    anomalies.extend(flood::texts(&mut ballot, &config.flood, &exact, config.dedup.keep));
    anomalies.extend(group_anomalies);
    let quarantined: Vec<Option<Reason>> = calibration
        .annotators
        .iter()
        .map(|annotator| annotator.quarantine.as_ref().map(|quarantine| quarantine.reason))
        .collect();
    for vote in ballot.remaining() {
        if let Some(reason) = quarantined[ballot.annotator[vote]] {
            ballot.exclude(vote, reason);
        }
    }
    flood::caps(&mut ballot, &config.caps);
    let duplicate_clusters = match config.dedup.on {
        DedupText::PromptAndAnswer => thin_out(&mut ballot, &exact, config.dedup.keep),
        DedupText::Prompt => {
            let clusters = TextClusters::of(&ballot, &config.dedup, DedupText::Prompt);
            thin_out(&mut ballot, &clusters, config.dedup.keep)
        }
    };

    let balance = balance::measure(&ballot, &config.balance);
    let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
    ballot.out.iter().flatten().for_each(|reason| *reasons.entry(*reason).or_default() += 1);
    let mut findings = vec![
        something_left(&ballot),
        suspicion(&reasons, ballot.remaining().len(), &config.stop),
        noise(&ballot, &calibration, &config.stop),
    ];
    findings.extend(of_balance(&balance, config));
    let id = |vote: usize| votes[vote].feedback.id.clone();
    let excluded = ballot.out.iter().enumerate().filter_map(|(vote, reason)| {
        let annotator = ballot.annotators[ballot.annotator[vote]].clone();
        Some(Exclusion { id: id(vote), annotator, reason: (*reason)? })
    });
    QualityReport {
        votes: votes.len(),
        included: ballot.remaining().into_iter().map(id).collect(),
        excluded: excluded.collect(),
        reasons,
        changed: votes.iter().filter(|vote| vote.feedback.replaces.is_some()).count(),
        duplicate_clusters,
        current,
        annotators: calibration.annotators,
        anomalies,
        balance,
        findings,
    }
}

/// Puts the votes under suspicion into quarantine until none is left: what one of them hid, as an earlier vote of the
/// same person on the same words, comes to light with the next assessment. Returns their ids and reasons.
pub fn quarantine(votes: &[Vote], config: &QualityConfig) -> Vec<(String, Reason)> {
    /// Each round takes at least one vote out; this many are enough for anything but a contrived case.
    const ROUNDS: usize = 32;
    let (mut votes, mut marked) = (votes.to_vec(), Vec::new());
    for _ in 0..ROUNDS {
        let report = assess(&votes, config);
        let suspects: BTreeMap<String, Reason> = report
            .excluded
            .into_iter()
            .filter(|out| out.reason.is_suspicion())
            .map(|out| (out.id, out.reason))
            .collect();
        if suspects.is_empty() {
            break;
        }
        votes.retain(|vote| !suspects.contains_key(&vote.feedback.id));
        marked.extend(suspects);
    }
    marked
}

fn finding(check: &str, level: Level, measured: Option<f64>, limit: f64, message: String) -> Finding {
    Finding { check: check.to_owned(), level, measured, limit: Some(limit), message }
}

fn something_left(ballot: &Ballot<'_>) -> Finding {
    let left = ballot.remaining().len();
    let level = if left == 0 { Level::Stop } else { Level::Ok };
    finding(
        "left",
        level,
        Some(left as f64),
        1.0,
        format!("{left} of {} votes may be used", ballot.votes.len()),
    )
}

/// Of the votes that could be learnt from, how many are suspect.
fn suspicion(reasons: &BTreeMap<Reason, usize>, left: usize, rules: &StopRules) -> Finding {
    let count = |wanted: fn(Reason) -> bool| -> usize {
        reasons.iter().filter(|(reason, _)| wanted(**reason)).map(|(_, count)| count).sum()
    };
    let suspect = count(Reason::is_suspicion);
    let votes = left + count(|reason| !reason.is_housekeeping());
    let share = suspect as f64 / votes.max(1) as f64;
    let level = match share {
        share if share > rules.max_suspect => Level::Stop,
        share if share > 0.0 => Level::Warn,
        _ => Level::Ok,
    };
    let (percent, limit) = (100.0 * share, 100.0 * rules.max_suspect);
    let which = reasons.iter().filter(|(reason, _)| reason.is_suspicion());
    let which: Vec<String> = which.map(|(reason, count)| format!("{} {count}", reason.code())).collect();
    let which = if which.is_empty() { String::new() } else { format!(" ({})", which.join(", ")) };
    let message = format!(
        "{suspect} of {votes} votes, {percent:.1} %, are under suspicion{which}; at most {limit:.0} % may be"
    );
    finding("suspicion", level, Some(share), rules.max_suspect, message)
}

/// How often those who are still in are right, taken together.
fn noise(ballot: &Ballot<'_>, calibration: &Calibration, rules: &StopRules) -> Finding {
    let mut together = Likelihood::default();
    let opinions = &calibration.opinions;
    for (vote, &right) in opinions.votes.iter().zip(&calibration.model.others) {
        if ballot.out[*vote].is_none() {
            together.observe(right);
        }
    }
    let accuracy = together.accuracy();
    let level = if accuracy.interval.high < rules.min_accuracy { Level::Stop } else { Level::Ok };
    let message = if accuracy.evidence < 1.0 {
        "nothing is known of how right the votes are: no shared answers, rewards or gold questions".to_owned()
    } else {
        format!("votes are right {} of the time; at least {:.2}", accuracy.interval, rules.min_accuracy)
    };
    finding("noise", level, Some(accuracy.interval.value), rules.min_accuracy, message)
}

fn of_balance(balance: &Balance, config: &QualityConfig) -> [Finding; 3] {
    let rules = &config.balance;
    let warn = |warn: bool| if warn { Level::Warn } else { Level::Ok };
    let share = balance.safety_share();
    let safety = format!(
        "{:.0} % of the votes teach safety, {} of them by a refusal; 10 % is recommended, above {:.0} % a model refuses too much",
        100.0 * share,
        balance.refusals,
        100.0 * rules.max_safety
    );
    let measured = |interval: &Option<super::stats::Interval>, what: &str| match interval {
        Some(interval) => format!("{what} {interval}"),
        None => format!("{what}: nothing to measure"),
    };
    let over = |interval: &Option<super::stats::Interval>, limit: f64| {
        warn(interval.is_some_and(|interval| interval.low > limit))
    };
    let value = |interval: &Option<super::stats::Interval>| interval.map(|interval| interval.value);
    let Balance { longer, flattery, .. } = balance;
    [
        finding("mix", warn(share > rules.max_safety), Some(share), rules.max_safety, safety),
        finding(
            "length",
            over(longer, rules.max_longer),
            value(longer),
            rules.max_longer,
            measured(longer, "the longer answer is preferred"),
        ),
        finding(
            "sycophancy",
            over(flattery, rules.max_flattery),
            value(flattery),
            rules.max_flattery,
            measured(flattery, "agreeing or praising openings are liked more by"),
        ),
    ]
}
