//! What a person can say of an answer, and how it is written: `kind` and `value`, on the wire, in the store and in files
//! alike. Leaves whose vote it is, and on what, to `records`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::RecordError;

/// Most bytes of an edit.
const MAX_EDIT: usize = 1 << 20;

/// What a person says of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum FeedbackKind {
    /// Thumb up or down.
    Thumb {
        /// Up.
        up: bool,
    },
    /// Stars.
    Rating {
        /// 1 to 5.
        stars: u8,
    },
    /// One answer is better than another one.
    Comparison {
        /// The better one: on the wire a choice, in the store the index of a candidate.
        better: u32,
        /// The other one, in the same numbering.
        worse: u32,
        /// By how much. With a tie, neither is better.
        margin: Margin,
    },
    /// What the answer should have been.
    Edit {
        /// The whole better answer.
        text: String,
    },
    /// What the person did with the answer.
    Implicit(Signal),
    /// Words only.
    Comment,
}

/// How much better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Margin {
    /// No difference.
    Tie,
    /// Hardly.
    Negligibly,
    /// A little.
    Slightly,
    /// Clearly.
    #[default]
    Better,
    /// By far.
    Significantly,
}

/// What a person did with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// Took it.
    Copied,
    /// Asked for another one.
    Regenerated,
    /// Left.
    Abandoned,
}

/// Every kind, as it is written.
pub const KINDS: [&str; 6] = ["thumb", "rating", "comparison", "edit", "implicit", "comment"];

impl FeedbackKind {
    /// The word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Thumb { .. } => KINDS[0],
            Self::Rating { .. } => KINDS[1],
            Self::Comparison { .. } => KINDS[2],
            Self::Edit { .. } => KINDS[3],
            Self::Implicit(_) => KINDS[4],
            Self::Comment => KINDS[5],
        }
    }

    /// What stands beside the word; null for a comment.
    pub fn value(&self) -> Value {
        match self {
            Self::Thumb { up } => json!(if *up { 1 } else { -1 }),
            Self::Rating { stars } => json!(stars),
            Self::Comparison { better, worse, margin } => {
                json!({"better": better, "worse": worse, "margin": margin})
            }
            Self::Edit { text } => json!(text),
            Self::Implicit(signal) => json!(signal),
            Self::Comment => Value::Null,
        }
    }

    /// What can be counted without reading the value: 1 or -1 of a thumb, the stars of a rating.
    pub(super) fn score(&self) -> Option<i64> {
        match self {
            Self::Thumb { up } => Some(if *up { 1 } else { -1 }),
            Self::Rating { stars } => Some(i64::from(*stars)),
            _ => None,
        }
    }

    /// Reads the word and what stands beside it.
    ///
    /// # Errors
    /// One sentence that names `kind` or `value`.
    pub fn read(kind: &str, value: Value) -> Result<Self, RecordError> {
        let refuse =
            |right: &str| RecordError::new(format!("`value` must be {right} where `kind` is `{kind}`"));
        match kind {
            "thumb" => match value {
                Value::Bool(up) => Ok(Self::Thumb { up }),
                value => match value.as_f64() {
                    Some(1.0) => Ok(Self::Thumb { up: true }),
                    Some(-1.0) => Ok(Self::Thumb { up: false }),
                    _ => Err(refuse("1 (up) or -1 (down)")),
                },
            },
            "rating" => match value.as_f64() {
                Some(stars) if (1.0..=5.0).contains(&stars) && stars.fract() == 0.0 => {
                    Ok(Self::Rating { stars: stars as u8 })
                }
                _ => Err(refuse("a whole number from 1 to 5")),
            },
            "comparison" => comparison(value)
                .ok_or_else(|| refuse(r#"an object such as {"better": 0, "worse": 1, "margin": "slightly"}, of two different answers; margins are significantly, better, slightly, negligibly and tie"#)),
            "edit" => match value {
                Value::String(text) if !text.is_empty() && text.len() <= MAX_EDIT => Ok(Self::Edit { text }),
                Value::String(text) if !text.is_empty() => Err(refuse("at most 1 MiB of text")),
                _ => Err(refuse("the better answer, as a string")),
            },
            "implicit" => serde_json::from_value(value)
                .map(Self::Implicit)
                .map_err(|_| refuse("`copied`, `regenerated` or `abandoned`")),
            "comment" if value.is_null() => Ok(Self::Comment),
            "comment" => Err(RecordError::new("a comment has no `value`; its words stand in `comment`")),
            other => {
                let known = KINDS.join(", ");
                Err(RecordError::new(format!("`kind` is `{other}`, which is none of {known}")))
            }
        }
    }
}

fn comparison(value: Value) -> Option<FeedbackKind> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fields {
        better: u32,
        worse: u32,
        #[serde(default)]
        margin: Margin,
    }
    let Fields { better, worse, margin } = serde_json::from_value(value).ok()?;
    (better != worse).then_some(FeedbackKind::Comparison { better, worse, margin })
}

/// The form of [`FeedbackKind`] in JSON.
#[derive(Serialize, Deserialize)]
struct Written {
    kind: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    value: Value,
}

impl TryFrom<Written> for FeedbackKind {
    type Error = RecordError;

    fn try_from(Written { kind, value }: Written) -> Result<Self, RecordError> {
        Self::read(&kind, value)
    }
}

impl From<FeedbackKind> for Written {
    fn from(kind: FeedbackKind) -> Self {
        Self { kind: kind.name().into(), value: kind.value() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_as_it_is_written() {
        for (kind, value) in [
            ("thumb", json!(1)),
            ("thumb", json!(-1)),
            ("rating", json!(5)),
            ("comparison", json!({"better": 1, "worse": 0, "margin": "tie"})),
            ("edit", json!("Better.")),
            ("implicit", json!("copied")),
            ("comment", Value::Null),
        ] {
            let read = FeedbackKind::read(kind, value.clone()).expect(kind);
            assert_eq!((read.name(), read.value()), (kind, value));
            let written = serde_json::to_string(&read).expect("JSON");
            assert_eq!(serde_json::from_str::<FeedbackKind>(&written).expect(&written), read);
        }
        assert_eq!(FeedbackKind::read("thumb", json!(true)), Ok(FeedbackKind::Thumb { up: true }));
    }

    #[test]
    fn what_is_no_vote_is_refused_by_name() {
        for (kind, value, sentence) in [
            ("thumb", json!(0), "`value` must be 1 (up) or -1 (down) where `kind` is `thumb`"),
            ("thumb", Value::Null, "`value` must be 1 (up) or -1 (down) where `kind` is `thumb`"),
            ("rating", json!(6), "`value` must be a whole number from 1 to 5 where `kind` is `rating`"),
            ("rating", json!(2.5), "`value` must be a whole number from 1 to 5 where `kind` is `rating`"),
            ("edit", json!(""), "`value` must be the better answer, as a string where `kind` is `edit`"),
            (
                "implicit",
                json!("liked"),
                "`value` must be `copied`, `regenerated` or `abandoned` where `kind` is `implicit`",
            ),
            ("comment", json!("x"), "a comment has no `value`; its words stand in `comment`"),
            (
                "like",
                json!(1),
                "`kind` is `like`, which is none of thumb, rating, comparison, edit, implicit, comment",
            ),
        ] {
            assert_eq!(FeedbackKind::read(kind, value).expect_err(kind).0, sentence);
        }
        for value in [
            json!({"better": 0, "worse": 0}),
            json!({"better": 0}),
            json!({"better": 0, "worse": 1, "margin": "much"}),
        ] {
            assert!(FeedbackKind::read("comparison", value).is_err());
        }
    }
}
