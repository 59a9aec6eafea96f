//! Picking winners among candidates that have ended: one rule a file, each a pure function of rewards, texts and a seed.
//! Leaves which candidates run, and how far, to the strategies.

mod majority;
mod mbr;
mod softmax;

use std::cmp::Ordering;

pub use majority::{Extractor, Pattern};

use crate::EngineError;
use crate::alignment::MAX_COMPARED;

/// How winners are picked.
#[derive(Clone, Debug, PartialEq)]
pub enum Select {
    /// The highest rewards; ties go to the lower index.
    Argmax,
    /// Each with a probability in proportion to `exp(R/temperature)`, without replacement.
    Softmax {
        /// Above 0; towards 0 it is `Argmax`, towards infinity a uniform draw.
        temperature: f32,
    },
    /// The highest `R + weight · mean similarity to all candidates`.
    Mbr {
        /// What agreement with the others is worth, in units of the reward.
        weight: f32,
    },
    /// The most common answer; rewards decide between equally common ones and within one.
    Majority(Extractor),
}

/// A candidate that ended, as a rule sees it.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// The candidate.
    pub index: usize,
    /// Its reward after what its length costs; none if the reward model failed on it.
    pub value: Option<f64>,
    /// Its tokens.
    pub num_tokens: usize,
    /// Its text.
    pub text: &'a str,
}

impl Select {
    /// Every candidate by index, best first. Those without a reward come last, first the one that would have ended first
    /// had all run side by side: the fewest tokens, then the lower index.
    pub fn rank(&self, ended: &[Ended<'_>], seed: u64) -> Vec<usize> {
        match self {
            Self::Argmax => order(ended.iter().copied()),
            Self::Softmax { temperature } => order(softmax::perturbed(ended, f64::from(*temperature), seed)),
            Self::Mbr { weight } => order(mbr::agreeing(ended, f64::from(*weight))),
            Self::Majority(extractor) => majority::rank(ended, extractor),
        }
    }

    /// Checks every range for `n` candidates.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] naming the field and what would be right.
    pub fn validate(&self, n: usize) -> Result<(), EngineError> {
        match self {
            Self::Softmax { temperature } if !(temperature.is_finite() && *temperature > 0.0) => {
                let message =
                    format!("alignment.select_temperature is {temperature}, but must be a number above 0");
                Err(EngineError::invalid("alignment.select_temperature", message))
            }
            Self::Mbr { weight } if !weight.is_finite() => Err(EngineError::invalid(
                "alignment.mbr_weight",
                "alignment.mbr_weight must be a finite number",
            )),
            Self::Mbr { .. } if n > MAX_COMPARED => {
                let message = format!(
                    "alignment.n is {n}, but `mbr` compares every two candidates and takes {MAX_COMPARED} at most"
                );
                Err(EngineError::invalid("alignment.n", message))
            }
            _ => Ok(()),
        }
    }
}

/// The better of two candidates comes first.
fn compare(a: &Ended<'_>, b: &Ended<'_>) -> Ordering {
    match (a.value, b.value) {
        (Some(x), Some(y)) => y.total_cmp(&x).then(a.index.cmp(&b.index)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => (a.num_tokens, a.index).cmp(&(b.num_tokens, b.index)),
    }
}

fn order<'a>(ended: impl IntoIterator<Item = Ended<'a>>) -> Vec<usize> {
    let mut ended: Vec<Ended<'a>> = ended.into_iter().collect();
    ended.sort_by(compare);
    ended.iter().map(|ended| ended.index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn ended<'a>(index: usize, value: Option<f64>, text: &'a str) -> Ended<'a> {
        Ended { index, value, num_tokens: text.len(), text }
    }

    #[test]
    fn the_highest_reward_wins_and_ties_go_to_the_lower_index() {
        let ended = [
            ended(0, Some(1.0), "a"),
            ended(1, None, "bb"),
            ended(2, Some(2.0), "c"),
            ended(3, None, "d"),
            ended(4, Some(2.0), "e"),
        ];
        assert_eq!(Select::Argmax.rank(&ended, 0), [2, 4, 0, 3, 1]);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for (select, n) in [
            (Select::Softmax { temperature: 0.0 }, 4),
            (Select::Softmax { temperature: f32::NAN }, 4),
            (Select::Mbr { weight: f32::INFINITY }, 4),
            (Select::Mbr { weight: 1.0 }, MAX_COMPARED + 1),
        ] {
            assert!(select.validate(n).is_err(), "{select:?}");
        }
        assert!(Select::Mbr { weight: 1.0 }.validate(MAX_COMPARED).is_ok());
    }
}
