//! The largest k values of a row without sorting it. Leaves what k is to its callers.

use std::cmp::Ordering;

use rectify_kernels as kernels;

use super::row::{BLOCKS, Row};

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

/// The largest value of each block of a row: who looks for large values looks at few blocks.
#[derive(Clone, Debug, Default)]
pub(super) struct Peaks {
    of: Vec<f32>,
    sorted: Vec<f32>,
}

impl Peaks {
    /// Looks at a model's row, and sums it in the same pass ([`kernels::masses`]).
    pub(super) fn find(&mut self, logits: &[f32], scales: &[f32], sums: &mut Vec<f64>) {
        kernels::masses(logits, scales, &mut self.of, sums);
    }

    /// Looks again at a chunk that is not the model's; `found` are its peaks.
    pub(super) fn replace(&mut self, chunk: usize, found: &[f32]) {
        self.of[chunk * BLOCKS..][..found.len()].copy_from_slice(found);
    }

    /// Of each block.
    pub(super) fn maxima(&self) -> &[f32] {
        &self.of
    }

    /// The lowest token whose logit in `row` is its largest; `None` without one above minus infinity.
    pub(super) fn position(&self, row: Row<'_>) -> Option<u32> {
        let largest = self.of.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let block = self.of.iter().position(|peak| *peak == largest && *peak > f32::NEG_INFINITY)?;
        let place = row.block(block).iter().position(|x| *x == largest)?;
        Some((block * kernels::MAXIMA_BLOCK + place) as u32)
    }

    /// Adds to `out` what is above `threshold`; `rise` says after each block above what the next must be, if that is more.
    fn above(
        &self,
        row: Row<'_>,
        mut threshold: f32,
        out: &mut Vec<Ranked>,
        mut rise: impl FnMut(&mut Vec<Ranked>) -> f32,
    ) {
        for (i, &peak) in self.of.iter().enumerate() {
            if peak > threshold {
                let (block, start) = (row.block(i), i * kernels::MAXIMA_BLOCK);
                kernels::for_each_above(block, threshold, |j| {
                    out.push(Ranked::new(block[j], (start + j) as u32))
                });
                threshold = threshold.max(rise(out));
            }
        }
    }

    /// Puts the values of `row` from `least` on into `out`, in the order of their tokens.
    pub(super) fn at_least(&self, row: Row<'_>, least: f32, out: &mut Vec<Ranked>) {
        out.clear();
        self.above(row, least.next_down(), out, |_| f32::NEG_INFINITY);
    }

    /// Puts the `k` largest values of `row` into `out`, largest first; equal ones by token. Minus infinity is not
    /// among them.
    pub(super) fn top(&mut self, row: Row<'_>, k: usize, out: &mut Vec<Ranked>) {
        out.clear();
        if k == 0 {
            return;
        }
        let start = self.bound(k);
        self.above(row, start, out, |out| {
            if out.len() < 2 * k + kernels::MAXIMA_BLOCK {
                return f32::NEG_INFINITY;
            }
            keep(out, k);
            out[k - 1].logit
        });
        keep(out, k);
        out.sort_unstable();
    }

    /// Something below the `k` largest values: as many blocks have one as large as the `k`-th of the maxima.
    fn bound(&mut self, k: usize) -> f32 {
        if k > self.of.len() {
            return f32::NEG_INFINITY;
        }
        self.sorted.clone_from(&self.of);
        let (_, bound, _) = self.sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        bound.next_down()
    }
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
            let (mut peaks, mut out) = (Peaks::default(), Vec::new());
            peaks.find(&row, &[], &mut Vec::new());
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let plain = Row::new(&row, None);
            prop_assert_eq!(peaks.position(plain), row.iter().position(|x| *x == largest).map(|i| i as u32));
            peaks.top(plain, k, &mut out);
            prop_assert_eq!(out, sorted);
            let mut from = Vec::new();
            peaks.at_least(plain, 3.0, &mut from);
            let expected: Vec<Ranked> =
                row.iter().zip(0..).filter(|(l, _)| **l >= 3.0).map(|(&l, t)| Ranked::new(l, t)).collect();
            prop_assert_eq!(from, expected);
        }
    }

    #[test]
    fn equal_maxima_go_to_the_lower_index_and_nan_is_passed_over() {
        let mut row = vec![0.0; 5000];
        (row[4500], row[3000], row[2]) = (9.0, 9.0, f32::NAN);
        let mut peaks = Peaks::default();
        let mut first = |row: &[f32]| {
            peaks.find(row, &[], &mut Vec::new());
            peaks.position(Row::new(row, None))
        };
        assert_eq!(first(&row), Some(3000));
        assert_eq!(first(&[]), None);
        assert_eq!(first(&[f32::NAN]), None);
        assert_eq!(first(&[f32::NEG_INFINITY; 3]), None);
    }
}
