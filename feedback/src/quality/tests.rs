//! Each rule on a handful of votes. Attacks by simulated people are tested across crates.

use super::testing::{of_version, thumb, vote};
use super::*;
use crate::store::{FeedbackKind, Margin, Vote};
use std::sync::Arc;

fn reasons(votes: &[Vote], config: &QualityConfig) -> Vec<Option<Reason>> {
    let report = assess(votes, config);
    let reason = |vote: &Vote| {
        let out = report.excluded.iter().find(|out| out.id == vote.feedback.id);
        out.map(|out| out.reason)
    };
    votes.iter().map(reason).collect()
}

fn by_default(votes: &[Vote]) -> Vec<Option<Reason>> {
    reasons(votes, &QualityConfig::default())
}

#[test]
fn what_says_nothing_is_left_out() {
    let mut superseded = thumb("a", 1, "p1", "x", true);
    superseded.feedback.superseded = true;
    let mut held = thumb("a", 2, "p2", "x y", true);
    held.feedback.quarantined = Some("by hand".into());
    let mut elsewhere = thumb("a", 5, "p5", "x", true);
    elsewhere.feedback.choice = 7;
    let tie = FeedbackKind::Comparison { better: 0, worse: 1, margin: Margin::Tie };
    let votes = [
        superseded,
        held,
        vote("a", 3, "p3", &["x", "y"], tie),
        thumb("a", 4, "p4", " ", true),
        elsewhere,
        vote("a", 6, "p6", &["x"], FeedbackKind::Comment),
        thumb("a", 7, "p7", "z", true),
    ];
    let want = [
        Some(Reason::Superseded),
        Some(Reason::Quarantined),
        Some(Reason::NoOpinion),
        Some(Reason::NoText),
        Some(Reason::NoAnswer),
        Some(Reason::NoOpinion),
        None,
    ];
    assert_eq!(by_default(&votes), want);
}

#[test]
fn a_person_has_one_vote_on_the_same_words() {
    let votes = [
        thumb("a", 1, "What is two?", "Two.", true),
        thumb("b", 2, "What is two?", "Two.", true),
        thumb("a", 3, "what is TWO", "two", false),
    ];
    assert_eq!(by_default(&votes), [Some(Reason::Repeated), None, None]);
}

#[test]
fn answers_of_versions_before_the_last_three_are_stale() {
    let votes: Vec<Vote> = ["demo@base", "demo@1", "demo@7", "demo@9"]
        .iter()
        .enumerate()
        .map(|(at, version)| {
            of_version(thumb("a", at as i64, &format!("prompt {at}"), "x", at % 2 == 0), version)
        })
        .collect();
    assert_eq!(by_default(&votes), [Some(Reason::Stale), None, None, None]);
    let mut config = QualityConfig::default();
    config.staleness.window = 1;
    let old = Some(Reason::Stale);
    assert_eq!(reasons(&votes, &config), [old, old, old, None]);
    config.staleness.current = Some("demo@7".into());
    assert_eq!(reasons(&votes, &config), [old, old, None, old], "the current one only, not one on probation");
}

#[test]
fn a_flood_of_one_person_does_not_count_and_others_do() {
    let mut votes: Vec<Vote> =
        (0..31).map(|i| thumb("flood", i, &format!("Question {i}"), &format!("Answer {i}"), true)).collect();
    votes.push(thumb("flood", 4000, "Later", "Later on.", true));
    votes.push(thumb("calm", 5, "Something else", "An answer.", true));
    let found = by_default(&votes);
    assert!(found[..31].iter().all(|reason| *reason == Some(Reason::Flood)), "{found:?}");
    assert_eq!(found[31..], [None, None]);
    let report = assess(&votes, &QualityConfig::default());
    let flood = &report.anomalies[0];
    assert_eq!((flood.kind, flood.measured, flood.limit), (AnomalyKind::PersonFlood, 31.0, 30.0));
    assert!(
        report
            .to_string()
            .contains("person_flood       31 votes of flood: votes within 60 s 31.00, limit 30.00"),
        "{report}"
    );
}

#[test]
fn the_caps_cut_off_the_latest() {
    let mut config = QualityConfig::default();
    (config.caps.per_hour, config.caps.per_person) = (2, 3);
    let at = [0, 100, 200, 3601, 3800, 9000];
    let votes: Vec<Vote> = at
        .iter()
        .map(|&at| thumb("a", at, &format!("Question {at}"), &format!("Answer {at}"), true))
        .collect();
    let (hour, person) = (Some(Reason::HourCap), Some(Reason::PersonCap));
    assert_eq!(reasons(&votes, &config), [None, None, hour, None, person, person]);
}

#[test]
fn near_duplicates_are_thinned_out_person_by_person() {
    let mut config = QualityConfig::default();
    config.dedup.keep = 2;
    let votes = [
        thumb("a", 1, "What is the capital?", "One.", true),
        thumb("a", 2, "what is the capital", "Two.", true),
        thumb("b", 3, "What is the capital", "Three.", true),
        thumb("b", 4, "What is a capital letter?", "Four.", true),
    ];
    assert_eq!(reasons(&votes, &config), [None, Some(Reason::Duplicate), None, None]);
    config.dedup.on = DedupText::PromptAndAnswer;
    assert_eq!(reasons(&votes, &config), [None; 4]);
}

#[test]
fn rewards_of_repetition_and_of_one_text_for_everything_are_left_out() {
    let mut votes: Vec<Vote> =
        (0..6).map(|i| thumb("fan", i * 100, &format!("Question {i}"), "Excellent!", true)).collect();
    votes.push(thumb("a", 1, "Q", "Excellent! Excellent! Excellent! Excellent!", true));
    votes.push(thumb("a", 2, "Q", "Excellent! Excellent! Excellent! Excellent! No!", false));
    let found = by_default(&votes);
    assert!(found[..6].iter().all(|reason| *reason == Some(Reason::Campaign)), "{found:?}");
    assert_eq!(found[6..], [Some(Reason::Degenerate), None], "a vote against it is welcome");
}

fn gold(mut vote: Vote, truth: bool) -> Vote {
    Arc::make_mut(&mut vote.completion).gold = Some(FeedbackKind::Thumb { up: truth });
    vote
}

#[test]
fn who_fails_gold_questions_is_not_trusted_and_gold_is_not_learnt_from() {
    let mut votes = Vec::new();
    for i in 0..8 {
        for (user, says) in [("good", i % 2 == 0), ("bad", i % 2 == 1)] {
            votes.push(gold(
                thumb(user, i * 60, &format!("Gold {i}"), &format!("Answer {i}"), says),
                i % 2 == 0,
            ));
        }
    }
    votes.push(thumb("good", 1000, "P", "X", true));
    votes.push(thumb("bad", 1001, "P", "X", false));
    let report = assess(&votes, &QualityConfig::default());
    assert_eq!(report.included, [votes[16].feedback.id.as_str()]);
    assert_eq!(report.reasons[&Reason::Gold], 16);
    assert_eq!(report.reasons[&Reason::FailedGold], 1);
    let bad = report.quarantined().next().expect("one");
    assert_eq!((bad.name.as_str(), bad.gold.expect("gold").observed.value), ("bad", 0.0));
    assert_eq!(bad.gold.expect("gold").kappa.expect("both answers").value, -1.0);
}

#[test]
fn stars_are_measured_from_each_persons_own_mean() {
    let mut votes = Vec::new();
    for i in 0..30 {
        let (prompt, answer) = (format!("Question {i}"), format!("Answer {i}"));
        let good = i % 2 == 0;
        let stars = |stars| FeedbackKind::Rating { stars };
        votes.push(vote("fair", i * 60, &prompt, &[&answer], stars(if good { 4 } else { 2 })));
        votes.push(vote("kind", i * 60, &prompt, &[&answer], stars(if good { 5 } else { 4 })));
    }
    let report = assess(&votes, &QualityConfig::default());
    let kind = report.annotators.iter().find(|annotator| annotator.name == "kind").expect("kind");
    assert!((kind.bias - 1.5 * 30.0 / 34.0).abs() < 1e-9, "{}", kind.bias);
    let peers = kind.peers.expect("shared answers");
    assert!(
        peers.observed.value > 0.45,
        "four stars of somebody who gives four at least are no praise: {peers:?}"
    );
}

#[test]
fn the_same_votes_give_the_same_report() {
    let votes: Vec<Vote> = (0..50)
        .map(|i| {
            thumb(
                &format!("u{}", i % 7),
                i * 50,
                &format!("Q {}", i % 11),
                &format!("A {}", i % 3),
                i % 4 > 0,
            )
        })
        .collect();
    let json = || serde_json::to_string(&assess(&votes, &QualityConfig::default())).expect("JSON");
    assert_eq!(json(), json());
    let report: QualityReport = serde_json::from_str(&json()).expect("reads back");
    assert_eq!(report.votes, 50);
}

#[test]
fn data_with_nothing_left_stop() {
    let report = assess(&[], &QualityConfig::default());
    assert!(!report.usable());
    assert_eq!(report.stops().next().expect("one").check, "left");
}

#[test]
fn what_a_suspicious_vote_hid_goes_into_quarantine_with_it() {
    let praise = "Excellent! Excellent! Excellent! Excellent!";
    let votes = [
        thumb("fan", 1, "What is two?", praise, true),
        thumb("fan", 2, "What is two?", praise, true),
        thumb("a", 3, "What is three?", "Three.", true),
    ];
    let mut marked: Vec<String> =
        quarantine(&votes, &QualityConfig::default()).into_iter().map(|(id, _)| id).collect();
    marked.sort();
    assert_eq!(marked, [votes[0].feedback.id.as_str(), votes[1].feedback.id.as_str()]);
}
