//! `/up` and `/down`: a vote on the last answer, sent to the server that gave it, or kept in this machine's own store.
//! Leaves what a vote is to the `feedback` crate.

use rectify_feedback::store::{CompletionRecord, FeedbackKind, NewFeedback, Writer, WriterConfig};
use serde_json::json;

use crate::cli::CliError;
use crate::cli::client::Client;
use crate::feedback::open_store;

/// The last answer, as far as a vote needs it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answered {
    /// By a server, under this id.
    Server(String),
    /// In this process.
    Local(Box<CompletionRecord>),
}

/// Where the votes of a chat without a server are kept.
#[derive(Clone, Debug)]
pub(crate) struct LocalStore {
    /// None if nothing is to be kept.
    pub(crate) url: Option<String>,
    /// Whether words are kept.
    pub(crate) store_text: bool,
}

/// Sends a vote to the server that answered.
pub(super) async fn send(
    client: &Client,
    id: &str,
    up: bool,
    comment: Option<String>,
) -> Result<(), CliError> {
    let body = json!({
        "completion_id": id, "kind": "thumb", "value": if up { 1 } else { -1 }, "comment": comment, "replace": true,
    });
    client.post("/v1/feedback", &body).await.map(|_| ())
}

/// Keeps a vote and the answer it is about. The store is open only for this: a server may use it meanwhile.
pub(super) async fn keep(
    store: &LocalStore,
    record: &CompletionRecord,
    up: bool,
    comment: Option<String>,
) -> Result<(), CliError> {
    let open = open_store(store.url.as_deref()).await?;
    let config = WriterConfig { store_text: store.store_text, ..WriterConfig::default() };
    let writer = Writer::start(open.clone(), config);
    writer.completion(record.clone());
    let new =
        NewFeedback { comment, replace: true, ..NewFeedback::new(&record.id, FeedbackKind::Thumb { up }) };
    let stored = writer.feedback(new).await.map_err(|error| CliError::Refused(error.to_string()));
    writer.close().await;
    open.close().await;
    stored.map(|_| ())
}

#[cfg(test)]
mod tests {
    use rectify_feedback::store::{CandidateRecord, Store, VoteFilter};

    use super::*;

    #[tokio::test]
    async fn a_changed_vote_replaces_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("feedback.db").display());
        let store = LocalStore { url: Some(url.clone()), store_text: true };
        let candidate = CandidateRecord { choice: Some(0), text: "Hi.".into(), ..CandidateRecord::default() };
        let record =
            CompletionRecord { id: "a".into(), candidates: vec![candidate], ..CompletionRecord::default() };
        keep(&store, &record, true, None).await.unwrap();
        keep(&store, &record, false, Some("too short".into())).await.unwrap();
        let votes = Store::open(&url).await.unwrap().votes(&VoteFilter::default()).await.unwrap();
        assert_eq!(votes.len(), 1);
        assert_eq!(votes[0].feedback.kind, FeedbackKind::Thumb { up: false });
        assert_eq!(votes[0].feedback.comment.as_deref(), Some("too short"));
        assert_eq!(votes[0].answer().map(|answer| answer.text.as_str()), Some("Hi."));
        let none = LocalStore { url: None, store_text: true };
        assert_eq!(keep(&none, &record, true, None).await.unwrap_err().exit_code(), 2);
    }
}
