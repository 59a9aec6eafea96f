//! Soft best-of-N (arXiv:2505.03156): the winner is drawn, in proportion to `exp(R/λ)`, which trades reward for
//! closeness to the policy.

use super::Ended;
use crate::sampler::Draw;

/// Rewards over `temperature` with Gumbel noise: their order is a draw without replacement in proportion to
/// `exp(R/temperature)` (Yellott 1977; Kool et al. 2019, arXiv:1903.06059). The noise is a function of the seed and the
/// candidate, at a position that no token has.
pub(super) fn perturbed<'a>(
    ended: &[Ended<'a>],
    temperature: f64,
    seed: u64,
) -> impl Iterator<Item = Ended<'a>> {
    ended.iter().map(move |&candidate| {
        let noise = gumbel(Draw { seed, candidate: candidate.index, position: usize::MAX }.uniform());
        Ended { value: candidate.value.map(|value| value / temperature + noise), ..candidate }
    })
}

fn gumbel(uniform: f64) -> f64 {
    -(-uniform.ln()).ln()
}

#[cfg(test)]
mod tests {
    use super::super::Select;
    use super::super::tests::ended;

    const VALUES: [f64; 4] = [0.5, -1.0, 1.5, 0.0];

    fn shares(temperature: f32, place: usize) -> Vec<f64> {
        const ROUNDS: u64 = 20_000;
        let ended: Vec<_> = VALUES.iter().enumerate().map(|(i, &value)| ended(i, Some(value), "")).collect();
        let mut counts = [0u32; 4];
        for seed in 0..ROUNDS {
            counts[Select::Softmax { temperature }.rank(&ended, seed)[place]] += 1;
        }
        counts.iter().map(|&count| f64::from(count) / ROUNDS as f64).collect()
    }

    #[test]
    fn first_and_second_place_are_drawn_in_proportion_to_the_exponentials() {
        let temperature = 0.7;
        let weights = VALUES.map(|value| (value / f64::from(temperature)).exp());
        let total: f64 = weights.iter().sum();
        let first = weights.map(|weight| weight / total);
        let second = |i: usize| -> f64 {
            (0..4).filter(|&j| j != i).map(|j| first[j] * weights[i] / (total - weights[j])).sum()
        };
        for (i, (share, next)) in shares(temperature, 0).iter().zip(shares(temperature, 1)).enumerate() {
            // Four standard errors at most.
            assert!((share - first[i]).abs() < 0.0142, "{i}: {share} for {}", first[i]);
            assert!((next - second(i)).abs() < 0.0142, "{i}: {next} for {}", second(i));
        }
    }

    #[test]
    fn little_temperature_is_argmax_and_a_seed_repeats() {
        let ended: Vec<_> = VALUES.iter().enumerate().map(|(i, &value)| ended(i, Some(value), "")).collect();
        for seed in 0..200 {
            assert_eq!(Select::Softmax { temperature: 1e-3 }.rank(&ended, seed), [2, 0, 3, 1]);
            let soft = Select::Softmax { temperature: 1.0 };
            assert_eq!(soft.rank(&ended, seed), soft.rank(&ended, seed));
        }
    }
}
