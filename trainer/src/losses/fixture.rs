//! What the tests of losses share: cases of a fixture, tokens as lists per completion, and closeness.

use std::ops::Range;

use serde_json::Value;

use super::{Completions, Normalizer};

/// The cases of a fixture's text.
pub(super) fn cases(text: &str) -> Vec<Value> {
    let fixture: Value = serde_json::from_str(text).unwrap();
    let cases = fixture["cases"].as_array().unwrap().clone();
    assert!(cases.len() >= 3);
    cases
}

/// Lists of numbers, one per completion, laid end to end.
pub(super) struct Tokens {
    pub(super) logprobs: Vec<f64>,
    pub(super) spans: Vec<Range<usize>>,
}

impl Tokens {
    pub(super) fn new(lists: &Value) -> Self {
        let lists: Vec<Vec<f64>> = serde_json::from_value(lists.clone()).unwrap();
        let mut tokens = Self { logprobs: Vec::new(), spans: Vec::new() };
        for list in lists {
            let start = tokens.logprobs.len();
            tokens.logprobs.extend(list);
            tokens.spans.push(start..tokens.logprobs.len());
        }
        tokens
    }

    pub(super) fn completions(&self) -> Completions<'_> {
        Completions { logprobs: &self.logprobs, spans: &self.spans }
    }

    /// Of a whole step of pairs with the likelihood of the chosen.
    pub(super) fn pair_normalizer(&self) -> Normalizer {
        let chosen = self.spans.iter().step_by(2).map(|span| span.len() as f64);
        Normalizer { examples: (self.spans.len() / 2) as f64, tokens: chosen.sum() }
    }
}

/// Every number within 1e-6 of the fixture's.
pub(super) fn close(case: &Value, what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what} of {case}");
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= 1e-6 * want.abs().max(1.0), "{what} of {case}: {got}, not {want}");
    }
}
