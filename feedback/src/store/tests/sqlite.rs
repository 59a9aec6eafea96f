//! What only a store in a file can show: damage, other files, folders that cannot be written, words that are gone.

use std::fs;
use std::path::Path;

use super::*;

fn url(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

#[tokio::test]
async fn a_store_survives_being_opened_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a folder with % and ?").join("feedback #1.db");
    let strange = url(&path);
    assert!(Store::open(&strange).await.is_err(), "a question mark would begin the driver's settings");
    let path = folder.path().join("Ein Ordner mit 100% Ümläut").join("feedback #1.db");
    let store = Store::open(&url(&path)).await.expect("a new store");
    with_completions(&store, &["a"]).await;
    store.close().await;
    assert!(path.is_file(), "the file is where the URL says");
    let store = Store::open(&url(&path)).await.expect("the same store");
    assert!(store.completion("a").await.expect("read").is_some());
}

#[tokio::test]
async fn two_may_open_a_new_store_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = url(&folder.path().join("feedback.db"));
    let open = || {
        let url = url.clone();
        tokio::spawn(async move { Store::open(&url).await.map(drop) })
    };
    for task in [open(), open(), open()] {
        assert_eq!(task.await.expect("no panic"), Ok(()));
    }
}

#[tokio::test]
async fn what_cannot_be_a_store_is_refused_in_a_sentence() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("notes.txt");
    fs::write(
        &file,
        "these are notes, and they are long enough to be taken for a header of a database file, nearly\n"
            .repeat(20),
    )
    .expect("write");
    for (url, says) in [
        (url(&file), "is a file of another kind"),
        (url(folder.path()), "is a folder, but must be a file"),
        (url(&file.join("feedback.db")), "cannot be written"),
        ("mysql://host/db".into(), "must begin with sqlite://"),
        ("postgres://me:secret@127.0.0.1:9/db".into(), "cannot be reached"),
    ] {
        let error = Store::open(&url).await.map(drop).expect_err(&url).to_string();
        assert!(error.contains(says), "{error}");
        assert!(!error.contains("secret") && error.lines().count() == 1, "{error}");
    }
    assert!(
        fs::read_to_string(&file).expect("read").starts_with("these are notes"),
        "nothing was overwritten"
    );
}

#[tokio::test]
async fn damage_is_found_when_a_store_is_opened() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("feedback.db");
    let store = Store::open(&url(&path)).await.expect("a new store");
    let ids: Vec<String> = (0..200).map(|n| format!("c{n}")).collect();
    with_completions(&store, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    store.close().await;
    let mut bytes = fs::read(&path).expect("read");
    let sound = bytes.clone();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0x5a);
    fs::write(&path, bytes).expect("write");
    let error = Store::open(&url(&path)).await.map(drop).expect_err("damaged");
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
    // Of a file that counts as large only what says what is served is read.
    fs::write(&path, sound).expect("write");
    let store = Store::open(&url(&path)).await.expect("sound again");
    assert_eq!(store.quick_check(0).await, Ok(()));
}

#[tokio::test]
async fn deleted_words_are_gone_from_the_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("feedback.db");
    let store = Store::open(&url(&path)).await.expect("a new store");
    with_completions(&store, &["a"]).await;
    let vote = NewFeedback { comment: Some("words of a comment".into()), ..thumb("a", "asker", true) };
    cast(&store, &vote).await.expect("a vote");
    let found = || {
        let files =
            fs::read_dir(folder.path()).expect("the folder").map(|entry| entry.expect("a file").path());
        let text: Vec<u8> = files.flat_map(|file| fs::read(file).expect("read")).collect();
        ["answer 1 of a", "words of a comment"]
            .map(|words| text.windows(words.len()).any(|window| window == words.as_bytes()))
    };
    assert_eq!(found(), [true, true]);
    store.delete_user("asker").await.expect("deleted");
    assert_eq!(found(), [false, false]);
}
