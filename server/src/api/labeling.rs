//! Questions for people who label, on the wire: two answers to one prompt, and which is better. Leaves which question
//! comes next to the store.

use rectify_feedback::store::{FeedbackKind, Margin, NewFeedback, Task};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::feedback::person;
use super::stored::{StoredMessage, stored_messages};
use crate::error::ApiError;

/// Who labels.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LabelingQuery {
    /// The person; nobody is asked the same twice.
    pub user: Option<String>,
}

/// A question: which of two answers is better?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelingTask {
    /// `labeling.task`.
    pub object: String,
    /// For the answer's path.
    pub id: String,
    /// The conversation.
    pub messages: Vec<StoredMessage>,
    /// The answer on the one side.
    pub a: String,
    /// The answer on the other.
    pub b: String,
}

impl From<Task> for LabelingTask {
    fn from(Task { completion, a, b }: Task) -> Self {
        let text = |index| completion.candidate(index).map(|c| c.text.clone()).unwrap_or_default();
        Self {
            object: "labeling.task".into(),
            id: format!("{}.{a}.{b}", completion.id),
            a: text(a),
            b: text(b),
            messages: stored_messages(completion.messages),
        }
    }
}

/// A person's answer to a question.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct LabelRequest {
    /// `a`, `b`, `tie`, or `skip` for a question that the person cannot answer.
    pub preference: String,
    /// How much better: `significantly`, `better`, `slightly` or `negligibly`.
    #[serde(default)]
    pub margin: Option<String>,
    /// The person.
    pub user: String,
    /// In words.
    #[serde(default)]
    pub comment: Option<String>,
}

impl LabelRequest {
    /// The vote that answers the question `id`.
    ///
    /// # Errors
    /// 404 for an id that is no question's, 400 naming the first field at fault.
    pub fn into_new(self, id: &str) -> Result<NewFeedback, ApiError> {
        let Some((completion_id, a, b)) = read_id(id) else {
            let message = format!("there is no question `{id}`; GET /v1/labeling/next gives one");
            return Err(ApiError::new(axum::http::StatusCode::NOT_FOUND, message).code("task_not_found"));
        };
        let user = person("user", self.user)?;
        let margin = match self.margin {
            None => Margin::Better,
            Some(text) => match serde_json::from_value(json!(text)) {
                Ok(margin) if margin != Margin::Tie => margin,
                _ => {
                    let message = format!(
                        "margin is `{text}`, but must be significantly, better, slightly or negligibly"
                    );
                    return Err(ApiError::invalid("margin", message));
                }
            },
        };
        let (kind, word) = match self.preference.as_str() {
            "a" => (FeedbackKind::Comparison { better: a, worse: b, margin }, "answered"),
            "b" => (FeedbackKind::Comparison { better: b, worse: a, margin }, "answered"),
            "tie" => (FeedbackKind::Comparison { better: a, worse: b, margin: Margin::Tie }, "answered"),
            "skip" => (FeedbackKind::Comment, "skipped"),
            other => {
                let message = format!("preference is `{other}`, but must be a, b, tie or skip");
                return Err(ApiError::invalid("preference", message));
            }
        };
        let mut new = NewFeedback {
            of_candidates: true,
            user: Some(user),
            comment: self.comment.filter(|comment| !comment.trim().is_empty()),
            ..NewFeedback::new(completion_id, kind)
        };
        new.tags.insert("labeling".to_owned(), json!(word));
        Ok(new)
    }
}

/// The parts of a question's id: the answer, and the candidates on both sides.
fn read_id(id: &str) -> Option<(&str, u32, u32)> {
    let (rest, b) = id.rsplit_once('.')?;
    let (completion_id, a) = rest.rsplit_once('.')?;
    let (a, b) = (a.parse().ok()?, b.parse().ok()?);
    (a != b && !completion_id.is_empty()).then_some((completion_id, a, b))
}
