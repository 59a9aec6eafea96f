//! What becomes of votes, and the folder.

use super::*;
use crate::quality::testing::{thumb, vote};
use crate::quality::{QualityConfig, assess};
use crate::store::Margin;

fn snapshot(votes: &[Vote]) -> Snapshot {
    let config = QualityConfig::default();
    Snapshot::build(votes, &assess(votes, &config), &config)
}

fn texts(pairs: &[PreferenceRecord]) -> Vec<(String, String)> {
    let text = |text: &Text| text.to_messages("assistant")[0].content.clone();
    pairs.iter().map(|pair| (text(&pair.chosen), text(&pair.rejected))).collect()
}

fn compared(user: &str, at: i64, answers: &[&str], better: u32, worse: u32) -> Vote {
    vote(user, at, "P", answers, FeedbackKind::Comparison { better, worse, margin: Margin::Slightly })
}

#[test]
fn comparisons_edits_thumbs_and_losers_become_pairs() {
    let edit = FeedbackKind::Edit { text: "Edited.".into() };
    let votes = [
        vote(
            "a",
            1,
            "One?",
            &["x", "y"],
            FeedbackKind::Comparison { better: 1, worse: 0, margin: Margin::Better },
        ),
        vote("a", 2, "Two?", &["Original."], edit),
        thumb("a", 3, "Three?", "Up.", true),
        thumb("b", 4, "Three?", "Down.", false),
        vote("a", 5, "Four?", &["Best.", "Worse.", "Worst."], FeedbackKind::Thumb { up: true }),
    ];
    let made = snapshot(&votes);
    let want = [("y", "x"), ("Edited.", "Original."), ("Up.", "Down."), ("Best.", "Worst.")];
    assert_eq!(texts(&made.pairs), want.map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert_eq!(made.pairs[0].margin, Some(2.0 / 3.0));
    assert_eq!((made.pairs[3].reward_chosen, made.pairs[3].reward_rejected), (Some(1.0), Some(-1.0)));
    let labels: Vec<bool> = made.thumbs.iter().map(|thumb| thumb.label).collect();
    assert_eq!(labels, [true, false, true]);
    assert_eq!((made.edits.len(), made.prompts.len()), (1, 4));
    assert_eq!(made.about.pair_sources.len(), 4);
    assert_eq!(made.about.policy_versions["demo@base"], 5);
}

#[test]
fn the_majority_decides_and_a_draw_is_left_out() {
    let answers = ["x", "y"];
    let two_to_one = [
        compared("a", 1, &answers, 0, 1),
        compared("b", 2, &answers, 1, 0),
        compared("c", 3, &answers, 0, 1),
    ];
    assert_eq!(texts(&snapshot(&two_to_one).pairs), [("x".to_owned(), "y".to_owned())]);
    let draw = [thumb("a", 1, "P", "x", true), thumb("b", 2, "P", "x", false)];
    let made = snapshot(&draw);
    assert!(made.thumbs.is_empty());
    assert_eq!(made.about.reasons["disagreement"], 2);
}

#[test]
fn what_people_compared_is_not_outvoted_by_what_is_known_of_each() {
    let votes =
        [compared("a", 1, &["x", "y"], 1, 0), thumb("b", 2, "P", "x", true), thumb("b", 3, "P", "y", false)];
    let made = snapshot(&votes);
    assert_eq!(texts(&made.pairs), [("y".to_owned(), "x".to_owned())]);
    assert_eq!(made.about.pair_sources["comparison"], 1);
}

#[test]
fn the_same_votes_are_the_same_bytes_and_the_folder_reads_back() {
    let votes = [
        compared("a", 1, &["x", "y"], 1, 0),
        thumb("b", 2, "Q", "x\u{2028}\n", true),
        vote("c", 3, "R", &["x"], FeedbackKind::Edit { text: "z".into() }),
        vote("c", 4, "S", &["x"], FeedbackKind::Comment),
    ];
    let temporary = tempfile::tempdir().expect("a folder");
    let (one, two) = (temporary.path().join("one"), temporary.path().join("deep/two"));
    let made = snapshot(&votes);
    made.write(&one).expect("written");
    snapshot(&votes).write(&two).expect("written");
    for name in FILES.iter().chain(&["snapshot.json"]) {
        let read = |folder: &std::path::Path| std::fs::read(folder.join(name)).expect(name);
        assert_eq!(read(&one), read(&two), "{name}");
    }
    assert_eq!(Snapshot::read(&one).expect("reads back"), made);
    made.write(&one).expect("the same again is fine");
    let other = snapshot(&votes[..2]);
    assert_ne!(other.hash, made.hash);
    let error = other.write(&one).expect_err("another one").to_string();
    assert!(error.contains("holds something else"), "{error}");
    assert_eq!(made.about.left_out.len(), 1);
}

#[test]
fn a_changed_record_is_noticed() {
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path().join("s");
    snapshot(&[thumb("b", 2, "Q", "x", true)]).write(&folder).expect("written");
    let thumbs = folder.join("thumbs.jsonl");
    let text = std::fs::read_to_string(&thumbs).expect("read");
    std::fs::write(&thumbs, text.replace("true", "false")).expect("write");
    let error = Snapshot::read(&folder).expect_err("changed").to_string();
    assert!(error.contains("hash names"), "{error}");
}
