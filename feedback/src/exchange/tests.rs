//! Round trips: what is exported, imported and exported again is the same, in every format and kind of file.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::quality::testing::{thumb, vote};
use crate::store::{FeedbackKind, Margin, Vote};

type Fields = Map<String, Value>;

fn object(value: Value) -> Fields {
    let Value::Object(fields) = value else { panic!("{value}") };
    fields
}

fn read(rows: &[Fields], file: &str, gold: bool) -> Vec<Entry> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(file);
    write_rows(&path, rows).expect("written");
    let entries = import(&path, ImportOptions { gold, now: 5 }).expect("opens");
    entries.map(|entry| entry.expect("an entry")).collect()
}

fn votes(entries: Vec<Entry>) -> Vec<Vote> {
    let vote = |entry: Entry| {
        Some(Vote { feedback: entry.feedback?, completion: std::sync::Arc::new(entry.completion) })
    };
    entries.into_iter().filter_map(vote).collect()
}

fn again(rows: &[Fields], format: Format, file: &str) -> Vec<Fields> {
    let exported = export(&votes(read(rows, file, false)), format);
    assert_eq!(exported.skipped, 0);
    exported.rows
}

#[test]
fn rows_of_every_format_survive_the_store_and_every_kind_of_file() {
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    let preferences = [
        json!({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5, "reward_chosen": 1.5, "reward_rejected": -2.0, "id": 1, "annotator": "x"}),
        json!({"prompt": "a", "chosen": "b", "rejected": "c", "id": 1}),
    ];
    let chats = [
        json!({"prompt": [turn("system", "s"), turn("user", "u")], "chosen": [turn("assistant", "b")], "rejected": [turn("assistant", "c")]}),
    ];
    let thumbs = [json!({"prompt": "a", "completion": "b", "label": false, "created_at": 7, "user": "u"})];
    let messages = [json!({"messages": [turn("user", "u"), turn("assistant", "a")], "n": 1})];
    let split = [json!({"prompt": "a", "completion": "b"})];
    for (rows, format) in [
        (preferences.as_slice(), Format::Preference),
        (&chats, Format::Preference),
        (&thumbs, Format::Unpaired),
        (&messages, Format::Messages),
        (&split, Format::Messages),
    ] {
        let rows: Vec<Fields> = rows.iter().cloned().map(object).collect();
        for file in ["rows.jsonl", "rows.json", "rows.parquet"] {
            let mut found = again(&rows, format, file);
            // Parquet gives every row every column, null where there was none.
            found.iter_mut().for_each(|row| row.retain(|_, value| !value.is_null()));
            assert_eq!(found, rows, "{file}");
        }
    }
}

#[test]
fn people_and_times_are_taken_from_their_columns() {
    let rows =
        [object(json!({"prompt": "a", "completion": "b", "label": true, "created_at": 7, "annotator": "x"}))];
    let entries = read(&rows, "rows.jsonl", false);
    let feedback = entries[0].feedback.as_ref().expect("a vote");
    assert_eq!((feedback.user.as_deref(), feedback.created_at), (Some("x"), 7));
}

#[test]
fn importing_again_gives_the_same_ids_and_equal_rows_different_ones() {
    let row = object(json!({"prompt": "a", "completion": "b", "label": true}));
    let rows = [row.clone(), row];
    let ids =
        || read(&rows, "rows.jsonl", false).into_iter().map(|entry| entry.completion.id).collect::<Vec<_>>();
    assert_eq!(ids(), ids());
    assert_ne!(ids()[0], ids()[1]);
}

#[test]
fn gold_rows_are_questions_without_a_vote() {
    let rows = [object(json!({"prompt": "a", "completion": "b", "label": false}))];
    let entry = read(&rows, "rows.jsonl", true).pop().expect("one");
    assert_eq!(entry.completion.gold, Some(FeedbackKind::Thumb { up: false }));
    assert_eq!(entry.feedback, None);
}

fn all_kinds() -> Vec<Vote> {
    let compared = |better, worse, margin| FeedbackKind::Comparison { better, worse, margin };
    vec![
        thumb("a", 1, "One?", "Yes", true),
        thumb("b", 2, "One?", "Yes", false),
        vote("a", 3, "Two?", &["x", "y"], compared(1, 0, Margin::Slightly)),
        vote("a", 4, "Three?", &["No", "Maybe"], compared(0, 1, Margin::Better)),
        vote("a", 5, "Four?", &["Original"], FeedbackKind::Edit { text: "Yes".into() }),
        vote("a", 6, "Five?", &["Meh"], FeedbackKind::Rating { stars: 5 }),
    ]
}

#[test]
fn argillas_records_say_the_same_on_both_sides() {
    let served = all_kinds();
    let exported = export(&served, Format::Argilla);
    assert_eq!((exported.rows.len(), exported.skipped), (6, 0));
    let imported = votes(read(&exported.rows, "rows.json", false));
    let said = |votes: &[Vote], format| {
        let mut rows = export(votes, format).rows;
        rows.iter_mut()
            .for_each(|row| row.retain(|name, _| !name.starts_with("reward_") && name != "margin"));
        rows
    };
    for format in [Format::Preference, Format::Unpaired, Format::Messages] {
        assert_eq!(said(&imported, format), said(&served, format), "{format:?}");
    }
    let people = |votes: &[Vote]| votes.iter().map(|vote| vote.feedback.user.clone()).collect::<Vec<_>>();
    assert_eq!(people(&imported), people(&served));
}

#[test]
fn every_person_of_an_argilla_record_has_a_vote() {
    let record = object(json!({
        "fields": {"prompt": "2+2?", "response_a": "4", "response_b": "5"},
        "responses": {"better": [{"value": "response_a", "user_id": "u"}, {"value": "b", "user_id": "v"}, {"value": "tie", "user_id": "w"}]},
    }));
    let imported = votes(read(&[record], "rows.jsonl", false));
    let rows = export(&imported, Format::Preference).rows;
    let chosen: Vec<&str> = rows.iter().filter_map(|row| row["chosen"].as_str()).collect();
    assert_eq!(chosen, ["4", "5"]);
    assert_eq!(imported[1].feedback.user.as_deref(), Some("v"));
}

#[test]
fn whole_records_come_back_as_they_were() {
    let mut served = all_kinds();
    served[0].feedback.tags.insert("page".into(), json!({"n": 1}));
    let rows = export(&served, Format::Records).rows;
    assert_eq!(votes(read(&rows, "rows.jsonl", false)), served);
}

#[test]
fn rows_that_are_no_votes_are_refused_by_name() {
    for (row, part) in [
        (json!({"prompt": "a"}), "rows.jsonl:1: the line has none of `messages`"),
        (json!({"text": "a"}), "`text` lines do not say"),
        (json!({"messages": [{"role": "user", "content": "a"}]}), "`messages` must end with an answer"),
        (json!({"prompt": "a", "completion": "b", "label": "x"}), "`label` must be true or false"),
        (json!({"completion": {}, "feedback": {}}), "`completion` is no stored record"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.jsonl");
        write_rows(&path, &[object(row)]).expect("written");
        let mut entries = import(&path, ImportOptions { gold: false, now: 0 }).expect("opens");
        let error = entries.next().expect("one").expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_texts_survive_every_format_and_file(
        texts in prop::collection::vec(("\\PC{1,12}", "\\PC{1,12}", "\\PC{1,12}", any::<bool>()), 1..5),
        plain: bool,
    ) {
        let text = |role: &str, text: &str| {
            if plain { json!(text) } else { json!([{"role": role, "content": text}]) }
        };
        let rows = |format: Format| -> Vec<Fields> {
            let row = |(prompt, one, two, label): &(String, String, String, bool)| object(match format {
                Format::Preference => json!({"prompt": text("user", prompt), "chosen": text("assistant", one), "rejected": text("assistant", &format!("{two}."))}),
                Format::Unpaired => json!({"prompt": text("user", prompt), "completion": text("assistant", one), "label": label}),
                _ => json!({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": one}]}),
            });
            let distinct = texts.iter().filter(|(_, one, two, _)| *one != format!("{two}."));
            distinct.map(row).collect()
        };
        for format in [Format::Preference, Format::Unpaired, Format::Messages] {
            for file in ["rows.jsonl", "rows.json", "rows.parquet"] {
                let rows = rows(format);
                prop_assert_eq!(again(&rows, format, file), rows);
            }
        }
    }
}
