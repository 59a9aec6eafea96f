//! Questions for people who label: which of two answers to one prompt is better. They come from answers with several
//! candidates, disputed ones first, with gold questions mixed in; nobody is asked the same twice. The answer is an
//! ordinary comparison, taken in like any vote.

use sha2::{Digest, Sha256};
use sqlx::Row;

use super::sql::Statement;
use super::{CandidateRecord, CompletionRecord, FeedbackKind, Store, StoreError};

/// One question in so many is a gold one, while there are any that the person has not answered.
const GOLD_EVERY: i64 = 8;
/// Answers looked at together.
const PAGE: i64 = 32;
/// What a person has compared or commented on is not asked again.
const UNASKED: &str = " AND NOT EXISTS (SELECT 1 FROM feedback WHERE feedback.completion_id = completions.id \
     AND feedback.kind IN ('comparison', 'comment') AND feedback.user_id = ";

/// One question: is candidate `a` or candidate `b` better?
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// The answers and their prompt.
    pub completion: CompletionRecord,
    /// Index of the candidate on the one side.
    pub a: u32,
    /// And on the other.
    pub b: u32,
}

/// Where a question may come from, in the order in which they are tried.
#[derive(Clone, Copy)]
enum Source {
    Gold,
    /// People's thumbs disagree on one of the choices.
    Disputed,
    Ordinary,
}

impl Store {
    /// The next question for `user`, or none if they have answered all. Which side is which depends on `seed` and the
    /// person; which two candidates are compared depends on `seed` alone, so that people answer the same question.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next_task(&self, user: &str, seed: u64) -> Result<Option<Task>, StoreError> {
        let failed = StoreError::database("find a question");
        let answered = "SELECT COUNT(*) FROM feedback WHERE kind = 'comparison' AND user_id = $1";
        let row = sqlx::query(answered).bind(user).fetch_one(&self.pool).await.map_err(&failed)?;
        let num_answered: i64 = row.try_get(0).map_err(&failed)?;
        let turn = (draw(seed, &["gold", user]) % GOLD_EVERY.unsigned_abs()).cast_signed();
        let mut sources = vec![Source::Disputed, Source::Ordinary];
        if num_answered % GOLD_EVERY == turn {
            sources.insert(0, Source::Gold);
        }
        for source in sources {
            if let Some(task) = self.task_from(source, user, seed).await? {
                return Ok(Some(task));
            }
        }
        Ok(None)
    }

    async fn task_from(&self, source: Source, user: &str, seed: u64) -> Result<Option<Task>, StoreError> {
        let mut offset = 0;
        loop {
            let mut statement = Statement::new("SELECT id FROM completions WHERE num_candidates > 1");
            statement.push(match source {
                Source::Gold => " AND gold IS NOT NULL",
                Source::Ordinary => " AND gold IS NULL",
                Source::Disputed => {
                    " AND gold IS NULL AND id IN (SELECT completion_id FROM feedback \
                     WHERE kind = 'thumb' AND superseded = 0 AND quarantined IS NULL \
                     GROUP BY completion_id, choice HAVING MIN(score) < MAX(score))"
                }
            });
            statement.push(UNASKED).bind(user)?.push(") ORDER BY created_at DESC, id LIMIT ").bind(PAGE)?;
            statement.push(" OFFSET ").bind(offset)?;
            let failed = StoreError::database("find a question");
            let rows = statement.query().fetch_all(&self.pool).await.map_err(&failed)?;
            for row in &rows {
                let id: String = row.try_get(0).map_err(&failed)?;
                // A row may have gone since; then it is no question.
                let Some(completion) = self.completion(&id).await? else { continue };
                if let Some((a, b)) = pair(&completion, user, seed) {
                    return Ok(Some(Task { completion, a, b }));
                }
            }
            if rows.len() < PAGE as usize {
                return Ok(None);
            }
            offset += PAGE;
        }
    }
}

/// Two candidates to compare, in the order in which `user` sees them.
fn pair(completion: &CompletionRecord, user: &str, seed: u64) -> Option<(u32, u32)> {
    let (one, other) = match completion.gold {
        Some(FeedbackKind::Comparison { better, worse, .. }) => (better.min(worse), better.max(worse)),
        Some(_) => return None,
        None => {
            let whole = |candidate: &&CandidateRecord| {
                !candidate.text.is_empty() && candidate.finish_reason.is_some()
            };
            let candidates: Vec<&CandidateRecord> = completion.candidates.iter().filter(whole).collect();
            let mut pairs = Vec::new();
            for (position, one) in candidates.iter().enumerate() {
                let others = candidates[position + 1..].iter().filter(|other| other.text != one.text);
                pairs.extend(others.map(|other| (one.index, other.index)));
            }
            let number = draw(seed, &["pair", &completion.id]).checked_rem(pairs.len() as u64)?;
            pairs[number as usize]
        }
    };
    let is_swapped = draw(seed, &["side", &completion.id, user]) % 2 == 1;
    Some(if is_swapped { (other, one) } else { (one, other) })
}

/// A number that looks random and is a function of its arguments.
fn draw(seed: u64, about: &[&str]) -> u64 {
    let mut digest = Sha256::new();
    digest.update(seed.to_le_bytes());
    for part in about {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let bytes: [u8; 32] = digest.finalize().into();
    bytes[..8].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
