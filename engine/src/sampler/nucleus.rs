//! Top-p for flat distributions, whose nucleus holds a good part of the vocabulary: finds where it ends without sorting.
//! Leaves peaked ones to `choose`.

use super::choose::Mass;
use super::top::Ranked;

/// Intervals of the histogram, and how many of them make a nat.
const BINS: usize = 1024;
const BINS_PER_NAT: f32 = 32.0;

/// Draws from the most likely tokens of `row` that together reach `wanted` of the mass; `uniform` lies in [0, 1).
pub(super) fn draw(
    row: &[f32],
    mass: &Mass,
    wanted: f64,
    uniform: f64,
    ranked: &mut Vec<Ranked>,
) -> Option<u32> {
    let (last, kept) = boundary(row, mass, wanted, ranked)?;
    let target = uniform * kept;
    let mut sum = 0.0;
    let mut chosen = None;
    for (&logit, token) in row.iter().zip(0..) {
        if Ranked::new(logit, token) <= last {
            let weight = mass.weight(logit);
            sum += weight;
            // Never a token that cannot be, wherever rounding leaves the target.
            if weight > 0.0 {
                chosen = Some(token);
            }
            if sum > target {
                break;
            }
        }
    }
    chosen
}

/// The last token of the nucleus in order of likelihood, and the nucleus' mass. Only the interval of the histogram in
/// which the nucleus ends is sorted.
fn boundary(row: &[f32], mass: &Mass, wanted: f64, ranked: &mut Vec<Ranked>) -> Option<(Ranked, f64)> {
    let bin = |logit: f32| (((mass.max - logit) * mass.scale * BINS_PER_NAT) as usize).min(BINS - 1);
    let mut masses = vec![0.0; BINS];
    for &logit in row {
        masses[bin(logit)] += mass.weight(logit);
    }
    let mut sum = 0.0;
    let mut end = BINS - 1;
    for (index, mass) in masses.iter().enumerate() {
        if sum + mass >= wanted {
            end = index;
            break;
        }
        sum += mass;
    }
    ranked.clear();
    let in_last = row.iter().zip(0..).filter(|(logit, _)| bin(**logit) == end);
    ranked.extend(in_last.map(|(&logit, token)| Ranked::new(logit, token)));
    ranked.sort_unstable();
    for candidate in ranked.iter() {
        sum += mass.weight(candidate.logit);
        if sum >= wanted {
            return Some((*candidate, sum));
        }
    }
    ranked.last().map(|candidate| (*candidate, sum))
}
