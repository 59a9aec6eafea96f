//! Intervals of the gate: one for each kind of measurement, and the share of error that each look may spend when a check
//! may stop early. Closed forms throughout, so that the same answers give the same report. Leaves thresholds to `verdict`.

pub use rectify_feedback::quality::stats::Interval;

/// Both ends and the value through a growing function.
pub(super) fn map(interval: Interval, f: impl Fn(f64) -> f64) -> Interval {
    Interval { value: f(interval.value), low: f(interval.low), high: f(interval.high) }
}

/// Wilson's score interval (Wilson 1927; Newcombe 1998, Statistics in Medicine 17:857, method 3) for a mean of numbers
/// between 0 and 1, one per prompt. For numbers that are only 0 and 1 it is the usual one; numbers between (ties, means over
/// several samples) vary less than those, so that it is then wider than it had to be.
pub(super) fn wilson(values: &[f64], alpha: f64) -> Interval {
    let n = values.len() as f64;
    if values.is_empty() {
        return Interval { value: f64::NAN, low: 0.0, high: 1.0 };
    }
    let p = values.iter().sum::<f64>() / n;
    let z2 = normal_quantile(1.0 - alpha / 2.0).powi(2);
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = (z2 * (p * (1.0 - p) / n + z2 / (4.0 * n * n))).sqrt() / (1.0 + z2 / n);
    // None of n is compatible with a rate of 0, whatever rounding says.
    let low = if p == 0.0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if p == 1.0 { 1.0 } else { (centre + half).min(1.0) };
    Interval { value: p, low, high }
}

/// Difference of two paired proportions, first − second: Newcombe 1998 (Statistics in Medicine 17:2635, method 10), Wilson's
/// intervals of both put together with their correlation. Unlike a t interval it keeps a width when all pairs agree. Numbers
/// between 0 and 1 (means over several samples) count as the share of their samples in each cell of the table.
pub(super) fn paired_difference(pairs: &[(f64, f64)], alpha: f64) -> Interval {
    let n = pairs.len() as f64;
    if pairs.is_empty() {
        return Interval { value: f64::NAN, low: -1.0, high: 1.0 };
    }
    let count = |cell: fn(f64, f64) -> f64| pairs.iter().map(|&(x, y)| cell(x, y)).sum::<f64>();
    let (a, b) = (count(|x, y| x * y), count(|x, y| x * (1.0 - y)));
    let (c, d) = (count(|x, y| (1.0 - x) * y), count(|x, y| (1.0 - x) * (1.0 - y)));
    let (first, second): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let (first, second) = (wilson(&first, alpha), wilson(&second, alpha));
    let margins = ((a + b) * (c + d) * (a + c) * (b + d)).sqrt();
    let cross = a * d - b * c;
    let corrected = if cross > 0.0 { (cross - n / 2.0).max(0.0) } else { cross };
    let phi = if margins > 0.0 { corrected / margins } else { 0.0 };
    let half = |x: f64, y: f64| (x * x - 2.0 * phi * x * y + y * y).max(0.0).sqrt();
    let value = (b - c) / n;
    Interval {
        value,
        low: value - half(first.value - first.low, second.high - second.value),
        high: value + half(first.high - first.value, second.value - second.low),
    }
}

/// A ratio of two sums over prompts, as tokens of both arms: its linearised variance with Student's t (Cochran, Sampling
/// Techniques, 3rd ed. 1977, §2.11 and §6.3). Prompts are the unit, because what belongs to one prompt hangs together.
pub(super) fn ratio(pairs: &[(f64, f64)], alpha: f64) -> Interval {
    let n = pairs.len() as f64;
    let (above, below) = pairs.iter().fold((0.0, 0.0), |(x, y), pair| (x + pair.0, y + pair.1));
    let value = above / below;
    if pairs.len() < 2 || !value.is_finite() {
        return Interval { value, low: f64::NEG_INFINITY, high: f64::INFINITY };
    }
    let residuals: f64 = pairs.iter().map(|(x, y)| (x - value * y).powi(2)).sum();
    let error = (n / (n - 1.0) * residuals).sqrt() / below.abs();
    let half = student_quantile(1.0 - alpha / 2.0, n - 1.0) * error;
    Interval { value, low: value - half, high: value + half }
}

/// A statistic of all prompts from its values without each of them: the jackknife (Tukey 1958; Efron 1982) with Student's
/// t. A bootstrap would draw answers twice and so find too few different ones.
pub(super) fn jackknife(value: f64, without: &[f64], alpha: f64) -> Interval {
    let n = without.len() as f64;
    if without.len() < 2 || !value.is_finite() {
        return Interval { value, low: f64::NEG_INFINITY, high: f64::INFINITY };
    }
    let mean = without.iter().sum::<f64>() / n;
    let variance = (n - 1.0) / n * without.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let half = student_quantile(1.0 - alpha / 2.0, n - 1.0) * variance.sqrt();
    Interval { value, low: value - half, high: value + half }
}

/// How many prompts there are at each look, and the error that look may make. With `early` there are looks after each
/// quarter, and the error `alpha` is spent as O'Brien and Fleming's boundary spends it, `2 − 2Φ(z/√t)` (Lan and DeMets 1983,
/// Biometrika 70:659). The increments are used as they are, one after the other: by the union bound all looks together err
/// no more often than `alpha`, and no joint distribution is needed.
pub(super) fn looks(num_prompts: usize, alpha: f64, early: bool) -> Vec<(usize, f64)> {
    const LOOKS: usize = 4;
    if !early || num_prompts < 2 * LOOKS {
        return vec![(num_prompts, alpha)];
    }
    let z = normal_quantile(1.0 - alpha / 2.0);
    let spent = |share: f64| 2.0 - 2.0 * normal(z / share.sqrt());
    let mut before = 0.0;
    let look = |k: usize| {
        let end = num_prompts * k / LOOKS;
        let now = spent(end as f64 / num_prompts as f64);
        let own = now - before;
        before = now;
        (end, own)
    };
    (1..=LOOKS).map(look).collect()
}

/// Φ, by the series of Marsaglia (2004, Journal of Statistical Software 11:4).
fn normal(x: f64) -> f64 {
    if x.abs() > 8.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut sum, mut term, mut i) = (x, x, 1.0);
    loop {
        i += 2.0;
        term *= x * x / i;
        let next = sum + term;
        if next == sum {
            let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
            return 0.5 + sum * density;
        }
        sum = next;
    }
}

/// Φ⁻¹ by bisection: it is asked for a handful of times.
fn normal_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        if normal(middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

/// Student's quantile for `freedom` degrees: exact for 1 and 2, Cornish and Fisher's expansion from 3 on (Abramowitz and
/// Stegun 1964, 26.7.5), within 2 % at 3 and 0.1 % from 6 on.
fn student_quantile(p: f64, freedom: f64) -> f64 {
    if freedom < 1.5 {
        return (std::f64::consts::PI * (p - 0.5)).tan();
    }
    if freedom < 2.5 {
        return (2.0 * p - 1.0) * (2.0 / (4.0 * p * (1.0 - p))).sqrt();
    }
    let z = normal_quantile(p);
    let power = |k| z.powi(k);
    z + (power(3) + z) / (4.0 * freedom)
        + (5.0 * power(5) + 16.0 * power(3) + 3.0 * z) / (96.0 * freedom.powi(2))
        + (3.0 * power(7) + 19.0 * power(5) + 17.0 * power(3) - 15.0 * z) / (384.0 * freedom.powi(3))
        + (79.0 * power(9) + 776.0 * power(7) + 1482.0 * power(5) - 1920.0 * power(3) - 945.0 * z)
            / (92160.0 * freedom.powi(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, wanted: f64, tolerance: f64) {
        assert!((found - wanted).abs() <= tolerance, "{found}, not {wanted}");
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        close(normal_quantile(0.975), 1.959_964, 1e-6);
        close(normal_quantile(0.005), -2.575_829, 1e-6);
        for (freedom, wanted) in [(1.0, 12.706), (2.0, 4.303), (3.0, 3.182), (6.0, 2.447), (30.0, 2.042)] {
            close(student_quantile(0.975, freedom), wanted, 0.02 * wanted);
        }
        close(student_quantile(0.995, 10.0), 3.169, 0.003);
    }

    #[test]
    fn wilson_is_newcombes_example() {
        // 81 of 263: Newcombe 1998, table I, method 3.
        let values: Vec<f64> = (0..263).map(|i| f64::from(u8::from(i < 81))).collect();
        let interval = wilson(&values, 0.05);
        close(interval.low, 0.2553, 5e-5);
        close(interval.high, 0.3662, 5e-5);
        assert_eq!(wilson(&[0.0; 9], 0.05).low, 0.0);
        assert_eq!(wilson(&[1.0; 9], 0.05).high, 1.0);
    }

    #[test]
    fn paired_differences_are_newcombes_example() {
        // 36, 12, 2 and 0 of 50: Newcombe 1998, table II, method 10 gives 0.0569 to 0.3404.
        let cells = [((1.0, 1.0), 36), ((1.0, 0.0), 12), ((0.0, 1.0), 2)];
        let pairs: Vec<(f64, f64)> =
            cells.iter().flat_map(|(cell, count)| std::iter::repeat_n(*cell, *count)).collect();
        let interval = paired_difference(&pairs, 0.05);
        close(interval.value, 0.2, 1e-9);
        close(interval.low, 0.0569, 5e-4);
        close(interval.high, 0.3404, 5e-4);
        // Two samples of each: half of them in a cell of its own.
        let means = paired_difference(&[(0.5, 0.0); 40], 0.05);
        assert_eq!(means, paired_difference(&[(1.0, 0.0), (0.0, 0.0)].repeat(20), 0.05));
        let agree = paired_difference(&[(1.0, 1.0); 20], 0.05);
        assert!(agree.low < -0.05 && agree.value == 0.0 && agree.high > 0.05, "{agree:?}");
    }

    #[test]
    fn a_ratio_of_equal_arms_is_certain_and_one_prompt_tells_nothing() {
        let pairs: Vec<(f64, f64)> = (1..9).map(|i| (f64::from(i), f64::from(i))).collect();
        assert_eq!(ratio(&pairs, 0.05), Interval { value: 1.0, low: 1.0, high: 1.0 });
        assert_eq!(ratio(&[(3.0, 1.0)], 0.05).high, f64::INFINITY);
        let noisy = ratio(&[(10.0, 8.0), (12.0, 13.0), (9.0, 9.0), (20.0, 17.0)], 0.05);
        assert!(noisy.low < noisy.value && noisy.value < noisy.high);
    }

    #[test]
    fn the_jackknife_of_a_mean_is_the_t_interval() {
        let values: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 16.0];
        let mean = values.iter().sum::<f64>() / 5.0;
        let without: Vec<f64> = values.iter().map(|x| (5.0 * mean - x) / 4.0).collect();
        let interval = jackknife(mean, &without, 0.05);
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 4.0;
        close(interval.high - mean, student_quantile(0.975, 4.0) * (variance / 5.0).sqrt(), 1e-9);
    }

    #[test]
    fn all_looks_together_spend_the_error_and_early_ones_little() {
        let plan = looks(100, 0.05, true);
        assert_eq!(plan.iter().map(|(end, _)| *end).collect::<Vec<_>>(), [25, 50, 75, 100]);
        close(plan.iter().map(|(_, alpha)| alpha).sum::<f64>(), 0.05, 1e-9);
        assert!(plan[0].1 < 1e-3 && plan[3].1 > 0.02, "{plan:?}");
        assert_eq!(looks(100, 0.05, false), [(100, 0.05)]);
        assert_eq!(looks(5, 0.05, true), [(5, 0.05)]);
    }

    /// A rate exactly at the threshold must not be called certain more often than the error that was allowed, however often
    /// the numbers are looked at.
    #[test]
    fn looking_four_times_errs_no_more_often_than_once() {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(11);
        let (rate, rounds) = (0.3, 4000);
        let mut wrong = 0;
        for _ in 0..rounds {
            let values: Vec<f64> = (0..120).map(|_| f64::from(u8::from(rng.random_bool(rate)))).collect();
            let certain = |(end, alpha): &(usize, f64)| {
                let interval = wilson(&values[..*end], *alpha);
                interval.low > rate || interval.high < rate
            };
            wrong += usize::from(looks(120, 0.05, true).iter().any(certain));
        }
        assert!((wrong as f64) < 0.06 * f64::from(rounds), "{wrong} of {rounds}");
    }
}
