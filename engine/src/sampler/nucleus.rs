//! Top-p for flat distributions, whose nucleus holds a good part of the vocabulary. Leaves peaked ones to `choose`.

use rectify_kernels::{self as kernels, MASS_CHUNK};

use super::choose::{Mass, draw_plain};
use super::row::Row;
use super::top::Ranked;

/// Draws after which something must be wrong.
const MOST: usize = 1 << 16;

/// By how much sums of the same weights differ at most, taken together or apart, as part of the row's mass.
const ROUNDING: f64 = 1e-5;

/// Draws from the most likely tokens of `row` that together reach `wanted` of its `mass`, equal ones by token: from the whole row
/// until a token is one of them, so that where they end need not be found. Part of a pass over the row tells whether it is, and a
/// token that is not spares those after it in that order the question. `sums` are the mass of each chunk.
pub(super) fn draw(
    row: Row<'_>,
    mass: &Mass,
    wanted: f64,
    uniforms: impl Iterator<Item = f64>,
    (sums, weights): (&[f64], &mut Vec<f32>),
) -> Option<u32> {
    let mut outside: Option<Ranked> = None;
    for uniform in uniforms.take(MOST) {
        let token = draw_plain(row, mass, uniform, (sums, weights))?;
        let candidate = Ranked::new(row.logit(token as usize), token);
        if outside.is_some_and(|outside| candidate >= outside) {
            continue;
        }
        if is_inside(row.chunks().zip(sums.iter().copied()), mass, wanted, candidate) {
            return Some(token);
        }
        outside = Some(candidate);
    }
    None
}

/// Whether the tokens that are more likely than a candidate, or as likely and come before it, have less than `wanted` of the mass.
/// Looks at chunks, each with its mass, until what is left of the row could no longer make a difference.
fn is_inside<'a>(
    chunks: impl Iterator<Item = (&'a [f32], f64)>,
    mass: &Mass,
    wanted: f64,
    candidate: Ranked,
) -> bool {
    let Ranked { logit, token } = candidate;
    let sum_above = |part: &[f32], threshold| kernels::exp_sum_above(part, threshold, mass.max, mass.scale);
    let slack = ROUNDING * mass.total;
    let (mut above, mut left) = (0.0, mass.total);
    for (index, (chunk, sum)) in chunks.enumerate() {
        let (earlier, later) =
            chunk.split_at((token as usize).saturating_sub(index * MASS_CHUNK).min(chunk.len()));
        above += sum_above(earlier, logit.next_down()) + sum_above(later, logit);
        left -= sum;
        if above + left < wanted - slack || above > wanted + slack {
            break;
        }
    }
    above < wanted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sampler::choose::{Masses, Scratch};
    use crate::sampler::rng::Draw;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn draws_are_those_of_a_sorted_row(
            // In steps, so that some are alike; or a few values, so that many are.
            row in prop_oneof![
                prop::collection::vec((-2000i16..2000).prop_map(|x| f32::from(x) * 1e-3), 300..5000),
                prop::collection::vec((-2i8..2).prop_map(f32::from), 300..5000),
            ],
            top_p in 0.01f64..0.99,
            seed in any::<u64>(),
            scale in 0.5f32..2.0,
        ) {
            let mut scratch = Scratch::default();
            let plain = Row::new(&row, None);
            let scales = Masses { chosen: Some(scale), model: None };
            scratch.read(&row, scales);
            let mass = scratch.masses(plain, scales).unwrap().chosen.unwrap();
            let mut sorted: Vec<Ranked> = row.iter().zip(0..).map(|(&l, t)| Ranked::new(l, t)).collect();
            sorted.sort();
            let wanted = top_p * mass.total;
            let (mut nucleus, mut sum) = (Vec::new(), 0.0);
            for candidate in &sorted {
                // Where rounding decides, either is right.
                prop_assume!((sum - wanted).abs() > 1e-5 * wanted);
                if sum > wanted {
                    break;
                }
                sum += mass.weight(candidate.logit);
                nucleus.push(candidate.token);
            }
            let Scratch { weights, sums, .. } = &mut scratch;
            let draws = Draw { seed, candidate: 0, position: 0 };
            // The first of the plain draws that is in the nucleus.
            let expected = draws
                .uniforms()
                .find_map(|u| draw_plain(plain, &mass, u, (sums, weights)).filter(|token| nucleus.contains(token)));
            let token = draw(plain, &mass, wanted, draws.uniforms(), (sums, weights));
            prop_assert_eq!(token, expected);
        }
    }

    #[test]
    fn a_flat_rows_first_part_tells_of_most_tokens() {
        let row: Vec<f32> = (0..100 * MASS_CHUNK).map(|i| (i * 7919 % 10_007) as f32 * 1e-4).collect();
        let mut scratch = Scratch::default();
        let (plain, scales) = (Row::new(&row, None), Masses { chosen: Some(1.0), model: None });
        scratch.read(&row, scales);
        let mass = scratch.masses(plain, scales).unwrap().chosen.unwrap();
        // Whether a token of this logit is among the most likely that have nine tenths, and how many chunks it took to know.
        let look = |logit: f32| {
            let mut chunks = 0;
            let of_row = plain.chunks().zip(scratch.sums.iter().copied()).inspect(|_| chunks += 1);
            (is_inside(of_row, &mass, 0.9 * mass.total, Ranked::new(logit, 0)), chunks)
        };
        let looks = [0.99, 0.5, 0.25, 0.1, 0.01].map(look);
        assert_eq!(looks.map(|(inside, _)| inside), [true, true, true, false, false]);
        let chunks = looks.map(|(_, chunks)| chunks);
        assert!(
            chunks[0] <= 12 && chunks[1] <= 30 && chunks.iter().all(|&chunks| chunks < 100),
            "{chunks:?}"
        );
    }
}
