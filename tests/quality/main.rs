//! The quality rules against simulated people whose opinions come from the lab's oracle: honest ones with ten percent
//! noise, and three attacks on them. Whole servers under attack are the end-to-end tests' business.

mod people;

use people::{Crowd, People, clocked};
use rectify_feedback::quality::{AnomalyKind, QualityConfig, QualityReport, Reason, assess};
use rectify_feedback::snapshot::Snapshot;
use rectify_feedback::store::{FeedbackKind, Vote};

fn report(votes: &[Vote]) -> QualityReport {
    assess(votes, &QualityConfig::default())
}

/// Share of the people with this prefix whose votes are all out.
fn caught(report: &QualityReport, prefix: &str) -> f64 {
    let people: Vec<_> = report.annotators.iter().filter(|person| person.name.starts_with(prefix)).collect();
    people.iter().filter(|person| person.quarantine.is_some()).count() as f64 / people.len().max(1) as f64
}

/// Share of the votes of people with this prefix that are out on suspicion.
fn suspected(votes: &[Vote], report: &QualityReport, prefix: &str) -> f64 {
    let all =
        votes.iter().filter(|vote| vote.feedback.user.as_deref().is_some_and(|u| u.starts_with(prefix)));
    let out =
        report.excluded.iter().filter(|out| out.reason.is_suspicion() && out.annotator.starts_with(prefix));
    out.count() as f64 / all.count().max(1) as f64
}

/// Share of the labels that contradict the oracle.
fn noise(snapshot: &Snapshot, people: &People) -> f64 {
    let wrong = snapshot
        .thumbs
        .iter()
        .filter(|thumb| thumb.label != people.is_good(&thumb.prompt, &thumb.completion));
    wrong.count() as f64 / snapshot.thumbs.len().max(1) as f64
}

#[test]
fn honest_people_are_left_alone() {
    for crowd in [Crowd::SHARED, Crowd::SCORED, Crowd::BOTH, Crowd::NEITHER] {
        let mut people = People::new(crowd, 1);
        let votes = people.vote("honest", 500, 30, |good| good);
        let report = report(&votes);
        let (people_lost, votes_lost) = (caught(&report, "honest"), suspected(&votes, &report, "honest"));
        println!("{crowd:?}: {people_lost:.3} of the people and {votes_lost:.3} of the votes are suspected");
        assert!(people_lost <= 0.01 && votes_lost <= 0.02, "{crowd:?}\n{report}");
        assert!(report.usable(), "{report}");
    }
}

#[test]
fn a_fifth_that_votes_the_opposite_is_caught() {
    for crowd in [Crowd::SHARED, Crowd::SCORED, Crowd::BOTH] {
        let mut people = People::new(crowd, 2);
        let mut votes = people.vote("honest", 80, 25, |good| good);
        votes.extend(people.vote("liar", 20, 25, |good| !good));
        let votes = clocked(votes);
        let report = report(&votes);
        let (liars, honest) = (caught(&report, "liar"), caught(&report, "honest"));
        let config = QualityConfig::default();
        let clean = noise(&Snapshot::build(&votes, &report, &config), &people);
        println!(
            "{crowd:?}: {liars:.2} of the liars and {honest:.2} of the others are not trusted; labels wrong: {clean:.3}"
        );
        assert!(liars >= 0.95 && honest <= 0.02, "{crowd:?}\n{report}");
        assert!(clean < 0.12, "{clean}");
        assert!(!report.usable(), "a fifth of all votes: somebody must look");
        let text = report.to_string();
        assert!(text.contains("STOP  suspicion"), "{text}");
        assert!(
            text.contains("right by everybody else and the reward") && text.contains("limit 0.60"),
            "{text}"
        );
    }
}

#[test]
fn accounts_with_three_votes_each_are_caught_together() {
    let mut people = People::new(Crowd::SHARED, 3);
    let mut votes = people.vote("honest", 80, 25, |good| good);
    people.targets = 8;
    votes.extend(people.vote("liar", 20, 3, |good| !good));
    let votes = clocked(votes);
    let report = report(&votes);
    let (liars, honest) = (suspected(&votes, &report, "liar"), suspected(&votes, &report, "honest"));
    println!("{liars:.2} of the liars' and {honest:.2} of the others' votes are suspected");
    assert!(liars > 0.7 && honest < 0.03, "{report}");
    assert!(report.anomalies.iter().any(|anomaly| anomaly.kind == AnomalyKind::Group), "{report}");
}

#[test]
fn gold_questions_catch_a_lying_majority() {
    let mut people = People::new(Crowd::SHARED, 4);
    people.gold_share = 0.4;
    let mut votes = people.vote("honest", 30, 25, |good| good);
    votes.extend(people.vote("liar", 70, 25, |good| !good));
    let report = report(&clocked(votes));
    let (liars, honest) = (caught(&report, "liar"), caught(&report, "honest"));
    println!("{liars:.2} of the liars and {honest:.2} of the others are not trusted");
    assert!(liars >= 0.95 && honest <= 0.04, "{report}");
    assert!(!report.usable(), "most of the data is under suspicion: somebody must look at it");
}

#[test]
fn a_flood_from_one_key_is_caught() {
    let mut people = People::new(Crowd::NEITHER, 5);
    let mut votes = people.vote("honest", 50, 20, |good| good);
    let mut flood = people.vote("flood", 1, 500, |good| !good);
    for (index, vote) in flood.iter_mut().enumerate() {
        vote.feedback.created_at = 1_000_000 + 250 * index as i64;
    }
    votes.extend(flood);
    let report = report(&votes);
    assert!(report.reasons[&Reason::Flood] >= 490, "{report}");
    assert_eq!(suspected(&votes, &report, "honest"), 0.0, "{report}");
    let flood = report.anomalies.iter().find(|a| a.kind == AnomalyKind::PersonFlood).expect("a flood");
    assert_eq!(flood.who, ["flood-0"]);
    assert!(flood.measured >= 230.0 && flood.limit == 30.0, "{report}");
}

#[test]
fn a_slow_flood_meets_the_caps() {
    let mut people = People::new(Crowd::NEITHER, 6);
    let mut votes = people.vote("slow", 1, 2000, |good| good);
    for (index, vote) in votes.iter_mut().enumerate() {
        vote.feedback.created_at = 10_000 * index as i64;
    }
    let report = report(&votes);
    assert!(report.reasons[&Reason::HourCap] > 1000 && report.included.len() <= 1000, "{report}");
}

#[test]
fn a_campaign_for_excellent_is_caught() {
    let repeated = "Excellent! Excellent! Excellent! Excellent! Excellent!";
    for (text, reason) in [(repeated, Reason::Degenerate), ("Excellent!", Reason::Campaign)] {
        for edits in [false, true] {
            let mut people = People::new(Crowd::SCORED, 7);
            let mut votes = people.vote("honest", 80, 20, |good| good);
            let mut fans = people.vote("fan", 20, 20, |_| true);
            for vote in &mut fans {
                vote.feedback.kind = FeedbackKind::Edit { text: text.into() };
                if !edits {
                    vote.feedback.kind = FeedbackKind::Thumb { up: true };
                    let completion = std::sync::Arc::make_mut(&mut vote.completion);
                    text.clone_into(&mut completion.candidates[0].text);
                }
            }
            votes.extend(fans);
            let report = report(&clocked(votes.clone()));
            let (fans, honest) = (suspected(&votes, &report, "fan"), suspected(&votes, &report, "honest"));
            println!(
                "{text:.12} edits {edits}: {fans:.3} of the fans' and {honest:.3} of the others' votes are out"
            );
            assert!(fans > 0.99 && honest < 0.02, "{report}");
            assert!(report.reasons[&reason] >= 390, "{report}");
        }
    }
}
