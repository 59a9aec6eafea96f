//! The largest k values of a row without sorting it. Leaves what k is to its callers.

use std::cmp::Ordering;

use rectify_kernels as kernels;

/// A token and its logit, ordered from the most likely down, then by token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranked {
    pub(super) logit: f32,
    pub(super) token: u32,
}

impl Ranked {
    pub(super) fn new(logit: f32, token: u32) -> Self {
        Self { logit, token }
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

/// Values looked at together: most chunks hold nothing above the threshold and cost one maximum.
const CHUNK: usize = 1024;

/// Puts the `k` largest values of `row` into `out`, largest first; equal ones by token.
pub(super) fn top(row: &[f32], k: usize, out: &mut Vec<Ranked>) {
    out.clear();
    if k == 0 {
        return;
    }
    let mut threshold = f32::NEG_INFINITY;
    for (chunk, start) in row.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
        let is_filling = out.len() < k;
        if !is_filling && kernels::max(chunk) <= threshold {
            continue;
        }
        let above = chunk.iter().zip(start..).filter(|(logit, _)| is_filling || **logit > threshold);
        out.extend(above.map(|(&logit, token)| Ranked::new(logit, token)));
        if out.len() >= 2 * k + CHUNK {
            keep(out, k);
            threshold = out[k - 1].logit;
        }
    }
    keep(out, k);
    out.sort_unstable();
}

/// Keeps the first `k` of the order, the last of them at its place.
fn keep(out: &mut Vec<Ranked>, k: usize) {
    if out.len() > k {
        out.select_nth_unstable(k - 1);
        out.truncate(k);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_the_head_of_a_full_sort(
            // Few distinct values, so that ties are common; longer than several chunks.
            row in prop::collection::vec((-8i8..8).prop_map(f32::from), 1..5000),
            k in 0usize..600,
        ) {
            let mut sorted: Vec<Ranked> = row.iter().zip(0..).map(|(&l, t)| Ranked::new(l, t)).collect();
            sorted.sort();
            sorted.truncate(k);
            let mut out = Vec::new();
            top(&row, k, &mut out);
            prop_assert_eq!(out, sorted);
        }
    }
}
