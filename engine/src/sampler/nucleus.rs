//! Top-p for flat distributions, whose nucleus holds a good part of the vocabulary: finds where it ends without sorting.
//! Leaves peaked ones to `choose`.

use rectify_kernels::{self as kernels, MASS_CHUNK};

use super::choose::{Mass, chunk_at, place_at};
use super::top::Ranked;

/// Weights that a sum is taken above at a time.
const THRESHOLDS: usize = 3;
/// Neighbours among floating-point numbers that are left when the rest is sorted: weights within 0.4 % of each other.
const NARROW: u32 = 1 << 15;

/// Memory of a draw.
pub(super) struct Memory<'a> {
    pub(super) ranked: &'a mut Vec<Ranked>,
    pub(super) weights: &'a mut Vec<f32>,
    pub(super) sums: &'a mut Vec<f64>,
}

/// Draws from the most likely tokens of `row` that together reach `wanted` of the mass; `uniform` lies in [0, 1).
pub(super) fn draw(
    row: &[f32],
    mass: &Mass,
    wanted: f64,
    uniform: f64,
    Memory { ranked, weights, sums }: Memory<'_>,
) -> Option<u32> {
    mass.weights(row, weights)?;
    let low = cut(row, weights, mass.total, wanted, ranked);
    sums.clear();
    sums.extend(weights.chunks(MASS_CHUNK).map(|chunk| kernels::sums_above(chunk, [low])[0]));
    let target = uniform * sums.iter().sum::<f64>();
    let (chunk, before) = chunk_at(sums, target)?;
    let start = chunk * MASS_CHUNK;
    let part = &weights[start..row.len().min(start + MASS_CHUNK)];
    Some((start + place_at(part, before, target, low)?) as u32)
}

/// Takes away what lies beyond the nucleus of a row of `weights`, of which `wanted` of `total` are in the nucleus: what
/// remains above the returned weight is in it.
fn cut(row: &[f32], weights: &mut [f32], total: f64, wanted: f64, ranked: &mut Vec<Ranked>) -> f32 {
    // What is above `low` reaches it, for all that is not could not make up the rest; what is above `high`, nothing, does
    // not. Numbers above zero are in the order of their bits.
    let mut low = ((total - wanted) / (2 * weights.len()) as f64) as f32;
    let (mut high, mut above_high) = (2.0f32, 0.0);
    while high.to_bits() - low.to_bits() > NARROW {
        let step = (high.to_bits() - low.to_bits()) / (THRESHOLDS as u32 + 1);
        let thresholds: [f32; THRESHOLDS] =
            std::array::from_fn(|i| f32::from_bits(low.to_bits() + step * (i as u32 + 1)));
        let sums = kernels::sums_above(weights, thresholds);
        // Sums fall as thresholds rise.
        let reaching = sums.iter().take_while(|sum| **sum >= wanted).count();
        if let Some(last) = reaching.checked_sub(1) {
            low = thresholds[last];
        }
        if reaching < THRESHOLDS {
            (high, above_high) = (thresholds[reaching], sums[reaching]);
        }
    }
    ranked.clear();
    kernels::for_each_between(weights, low, high, |i| ranked.push(Ranked::new(row[i], i as u32)));
    ranked.sort_unstable();
    let mut sum = above_high;
    for candidate in ranked.iter() {
        let weight = &mut weights[candidate.token as usize];
        if sum >= wanted {
            *weight = 0.0;
        }
        sum += f64::from(*weight);
    }
    low
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sampler::choose::Scratch;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn draws_are_those_of_a_sorted_row(
            // In steps, so that some are alike; or a few values, so that many are.
            row in prop_oneof![
                prop::collection::vec((-2000i16..2000).prop_map(|x| f32::from(x) * 1e-3), 300..5000),
                prop::collection::vec((-2i8..2).prop_map(f32::from), 300..5000),
            ],
            top_p in 0.2f64..0.99,
            uniform in 0.0f64..1.0,
            scale in 0.5f32..2.0,
        ) {
            let mut scratch = Scratch::default();
            let [mass] = scratch.masses(&row, [scale]).unwrap();
            let weight = |logit: f32| (f64::from(scale) * f64::from(logit - mass.max)).exp();
            let mut sorted: Vec<Ranked> = row.iter().zip(0..).map(|(&l, t)| Ranked::new(l, t)).collect();
            sorted.sort();
            let wanted = top_p * mass.total;
            let (mut kept, mut sum) = (Vec::new(), 0.0);
            for candidate in &sorted {
                // Where rounding decides, either is right.
                prop_assume!((sum - wanted).abs() > 1e-5 * wanted);
                if sum > wanted {
                    break;
                }
                sum += weight(candidate.logit);
                kept.push(candidate.token);
            }
            kept.sort();
            let Scratch { ranked, weights, sums, .. } = &mut scratch;
            let token = draw(&row, &mass, wanted, uniform, Memory { ranked, weights, sums }).unwrap();
            let place = kept.binary_search(&token);
            prop_assert!(place.is_ok(), "{token} is not in the nucleus of {}", kept.len());
            let upto = |count| kept[..count].iter().map(|&token| weight(row[token as usize])).sum::<f64>();
            let place = place.unwrap();
            prop_assert!(upto(place) <= uniform * sum + 1e-5 * sum && uniform * sum <= upto(place + 1) + 1e-5 * sum);
        }
    }
}
