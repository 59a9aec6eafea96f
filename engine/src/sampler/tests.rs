//! The sampler against definitions written the slow way.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn pool() -> Pool {
    Pool::new(2).unwrap()
}

fn row<'a>(logits: &'a [f32], params: &'a SamplingParams, position: usize) -> SampleRow<'a> {
    let draw = Draw { seed: 11, candidate: 0, position };
    SampleRow {
        logits,
        mask: None,
        params,
        draw,
        prompt: &[],
        output: &[],
        end_tokens: &[],
        wants_logprob: false,
    }
}

fn one(row: SampleRow<'_>) -> Sampled {
    Sampler::default().sample(&pool(), &[row]).remove(0).unwrap()
}

/// Probabilities after temperature, min-p, top-k and top-p, by sorting everything.
fn reference(logits: &[f32], params: &SamplingParams) -> Vec<f64> {
    let scaled: Vec<f64> = logits.iter().map(|&x| f64::from(x) / f64::from(params.temperature)).collect();
    let max = scaled.iter().copied().fold(f64::MIN, f64::max);
    let mut p: Vec<f64> = scaled.iter().map(|x| (x - max).exp()).collect();
    let normalise = |p: &mut Vec<f64>| {
        let total: f64 = p.iter().sum();
        p.iter_mut().for_each(|x| *x /= total);
    };
    p.iter_mut().filter(|x| **x < f64::from(params.min_p)).for_each(|x| *x = 0.0);
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a]).then(a.cmp(&b)));
    if params.top_k > 0 {
        order.iter().skip(params.top_k).for_each(|&i| p[i] = 0.0);
    }
    normalise(&mut p);
    let mut sum = 0.0;
    for &i in &order {
        if sum >= f64::from(params.top_p) {
            p[i] = 0.0;
        }
        sum += p[i];
    }
    normalise(&mut p);
    p
}

/// Pearson's statistic stays below its 0.9999 quantile (Wilson–Hilferty), and nothing impossible is drawn.
fn check_frequencies(logits: &[f32], params: &SamplingParams) {
    let n = 20_000;
    let expected = reference(logits, params);
    let rows: Vec<SampleRow<'_>> = (0..n).map(|position| row(logits, params, position)).collect();
    let mut counts = vec![0.0; logits.len()];
    for sampled in Sampler::default().sample(&pool(), &rows) {
        counts[sampled.unwrap().token as usize] += 1.0;
    }
    let (mut statistic, mut cells) = (0.0, 0);
    let (mut rare, mut rare_expected) = (0.0, 0.0);
    for (&count, &p) in counts.iter().zip(&expected) {
        assert!(p > 0.0 || count == 0.0, "a token of probability 0 was drawn");
        let mean = p * n as f64;
        if mean >= 5.0 {
            statistic += (count - mean) * (count - mean) / mean;
            cells += 1;
        } else {
            rare += count;
            rare_expected += mean;
        }
    }
    if rare_expected >= 5.0 {
        statistic += (rare - rare_expected) * (rare - rare_expected) / rare_expected;
        cells += 1;
    }
    let freedom = f64::from(cells.max(2) - 1);
    let spread = 2.0 / (9.0 * freedom);
    let limit = freedom * (1.0 - spread + 3.719 * spread.sqrt()).powi(3);
    assert!(statistic < limit, "χ² = {statistic:.1} with {freedom} degrees of freedom, limit {limit:.1}");
}

#[test]
fn frequencies_match_the_distribution() {
    // Longer than a chunk, so that the two-level search is used; most of the mass lies on few tokens.
    let logits: Vec<f32> = (0..2500).map(|i| ((i * 37 % 101) as f32 / 10.0) - (i % 13) as f32).collect();
    let small: Vec<f32> = (0..12).map(|i| (i as f32 * 1.7).sin() * 2.0).collect();
    let base = SamplingParams::default();
    for params in [
        base.clone(),
        SamplingParams { temperature: 0.5, ..base.clone() },
        SamplingParams { temperature: 1.7, top_k: 5, ..base.clone() },
        SamplingParams { top_p: 0.7, ..base.clone() },
        // A nucleus of more tokens than are looked at first.
        SamplingParams { top_p: 0.9, temperature: 6.0, ..base.clone() },
        SamplingParams { min_p: 0.2, temperature: 0.8, ..base.clone() },
        SamplingParams { top_k: 8, top_p: 0.9, min_p: 0.05, ..base.clone() },
        SamplingParams { top_p: 0.8, min_p: 0.02, temperature: 1.3, ..base },
    ] {
        check_frequencies(&logits, &params);
        check_frequencies(&small, &params);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn frequencies_match_random_distributions(
        logits in prop::collection::vec(-4.0f32..4.0, 2..40),
        temperature in 0.3f32..2.0,
        top_k in 0usize..20,
        // Away from values where rounding decides whether a token belongs to the nucleus.
        top_p in prop_oneof![Just(1.0f32), 0.3f32..0.95],
    ) {
        let params = SamplingParams { temperature, top_k, top_p, ..SamplingParams::default() };
        check_frequencies(&logits, &params);
    }
}

#[test]
fn a_flat_row_wider_than_the_first_nucleus_is_still_cut_at_top_p() {
    let logits = vec![0.0; 4000];
    let params = SamplingParams { top_p: 0.5, ..SamplingParams::default() };
    let rows: Vec<SampleRow<'_>> = (0..500).map(|position| row(&logits, &params, position)).collect();
    let tokens: Vec<u32> =
        Sampler::default().sample(&pool(), &rows).into_iter().map(|sampled| sampled.unwrap().token).collect();
    assert!(tokens.iter().all(|&token| token < 2000));
    assert!(tokens.iter().any(|&token| token > 1500));
}

#[test]
fn greedy_takes_the_lowest_of_equals() {
    let params = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    assert_eq!(one(row(&[0.0, 3.0, 3.0, 1.0], &params, 0)).token, 1);
}

#[test]
fn logprobs_are_natural_logs_of_the_raw_distribution() {
    let logits = [1.0f32, 2.0, 3.0, -1.0];
    // Everything that changes sampling is on; none of it may show in the logprobs.
    let params = SamplingParams {
        temperature: 0.0,
        logit_bias: vec![(0, 50.0)],
        top_k: 1,
        logprobs: Some(2),
        ..SamplingParams::default()
    };
    let sampled = one(row(&logits, &params, 0));
    let lse = logits.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln() as f32;
    assert_eq!(sampled.token, 0);
    assert!((sampled.logprob - (1.0 - lse)).abs() < 1e-6);
    let logprobs = sampled.logprobs.unwrap();
    assert_eq!(logprobs.own.token, 0);
    assert_eq!(logprobs.top.iter().map(|top| top.token).collect::<Vec<_>>(), [2, 1]);
    assert!((logprobs.top[0].logprob - (3.0 - lse)).abs() < 1e-6);
}

#[test]
fn logprobs_can_be_those_of_the_distribution_at_the_temperature() {
    let logits = [1.0f32, 2.0, 3.0, -1.0];
    for bias in [vec![], vec![(0, 50.0)]] {
        let params = SamplingParams {
            temperature: 0.5,
            logit_bias: bias,
            logprobs: Some(1),
            logprobs_at_temperature: true,
            ..SamplingParams::default()
        };
        let sampled = one(row(&logits, &params, 0));
        let lse = logits.iter().map(|x| (2.0 * f64::from(*x)).exp()).sum::<f64>().ln() as f32;
        let expected = 2.0 * logits[sampled.token as usize] - lse;
        assert!((sampled.logprob - expected).abs() < 1e-6);
        let logprobs = sampled.logprobs.unwrap();
        assert!((logprobs.top[0].logprob - (6.0 - lse)).abs() < 1e-6);
        assert_eq!(logprobs.own.logprob, sampled.logprob);
    }
}

#[test]
fn penalties_change_what_they_name() {
    let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let choose = |params: SamplingParams, logits: &[f32], prompt: &[u32], output: &[u32]| {
        one(SampleRow { prompt, output, end_tokens: &[0], ..row(logits, &params, output.len()) }).token
    };
    let logits = [2.0, 1.9, 1.5, 1.0];
    assert_eq!(choose(greedy.clone(), &logits, &[0], &[0]), 0);
    assert_eq!(choose(SamplingParams { presence_penalty: 0.2, ..greedy.clone() }, &logits, &[], &[0]), 1);
    // Not for tokens of the prompt.
    assert_eq!(choose(SamplingParams { presence_penalty: 0.2, ..greedy.clone() }, &logits, &[0], &[]), 0);
    let frequency = SamplingParams { frequency_penalty: 0.2, ..greedy.clone() };
    assert_eq!(choose(frequency.clone(), &logits, &[], &[0, 1, 1]), 0);
    assert_eq!(choose(frequency, &logits, &[], &[0, 0, 0, 1, 1, 1]), 2);
    let repetition = SamplingParams { repetition_penalty: 2.0, ..greedy.clone() };
    assert_eq!(choose(repetition.clone(), &logits, &[0], &[1]), 2);
    assert_eq!(choose(repetition, &[-1.0, -1.5], &[0], &[]), 1);
    assert_eq!(choose(SamplingParams { logit_bias: vec![(3, 5.0)], ..greedy.clone() }, &logits, &[], &[]), 3);
    let min_tokens = SamplingParams { min_tokens: 2, ..greedy };
    assert_eq!(choose(min_tokens.clone(), &logits, &[], &[5]), 1);
    assert_eq!(choose(min_tokens, &logits, &[], &[5, 5]), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn changes_choose_as_from_a_copy_of_the_row(
        logits in prop::collection::vec(-9.0f32..9.0, 1..5000),
        prompt in prop::collection::vec(0u32..6000, 0..20),
        output in prop::collection::vec(0u32..6000, 0..20),
        bias in prop::collection::vec((0u32..6000, -20.0f32..20.0), 0..4),
        (repetition_penalty, presence_penalty) in (prop_oneof![Just(1.0f32), 0.5f32..2.0], -2.0f32..2.0),
        (temperature, top_k, top_p) in (
            prop_oneof![Just(0.0f32), Just(1.0), 0.02f32..2.0],
            prop_oneof![Just(0usize), 1usize..300],
            prop_oneof![Just(1.0f32), 0.1f32..1.0],
        ),
        min_tokens in 0usize..30,
        at_temperature in any::<bool>(),
    ) {
        let plain = SamplingParams {
            temperature,
            top_k,
            top_p,
            logprobs: Some(5),
            logprobs_at_temperature: at_temperature,
            ..SamplingParams::default()
        };
        let params = SamplingParams {
            logit_bias: bias.clone(),
            repetition_penalty,
            presence_penalty,
            min_tokens,
            ..plain.clone()
        };
        let mut copy = logits.clone();
        let known = |token: &u32| (*token as usize) < logits.len();
        for (token, bias) in bias.iter().filter(|(token, _)| known(token)) {
            copy[*token as usize] += bias;
        }
        if output.len() < min_tokens {
            copy[0] = f32::NEG_INFINITY;
        }
        let (said, all): (BTreeSet<u32>, BTreeSet<u32>) =
            (output.iter().copied().collect(), prompt.iter().chain(&output).copied().collect());
        for &token in all.iter().filter(|token| known(token)) {
            let logit = &mut copy[token as usize];
            *logit = if *logit > 0.0 { *logit / repetition_penalty } else { *logit * repetition_penalty };
        }
        for &token in said.iter().filter(|token| known(token)) {
            copy[token as usize] -= presence_penalty;
        }
        prop_assume!(copy.iter().any(|logit| logit.is_finite()));
        let changing = SampleRow { prompt: &prompt, output: &output, end_tokens: &[0], ..row(&logits, &params, 3) };
        let (changed, copied) = (one(changing), one(row(&copy, &plain, 3)));
        prop_assert_eq!(changed.token, copied.token);
        // Logprobs are the model's all the same.
        let model = &one(row(&logits, &plain, 3)).logprobs.unwrap().top;
        let logprobs = changed.logprobs.unwrap();
        prop_assert_eq!(&logprobs.top, model);
        let scale = if at_temperature && temperature > 0.0 { 1.0 / temperature } else { 1.0 };
        let above = scale * (logits[model[0].token as usize] - logits[changed.token as usize]);
        prop_assert!((logprobs.own.logprob - (model[0].logprob - above)).abs() <= 1e-3, "{logprobs:?}");
    }
}

#[test]
fn a_row_that_is_no_distribution_fails_alone() {
    for temperature in [0.0, 1.0] {
        let params = SamplingParams { temperature, ..SamplingParams::default() };
        let rows: [&[f32]; 4] =
            [&[1.0, f32::NAN], &[1.0, 2.0], &[f32::NEG_INFINITY, f32::NEG_INFINITY], &[0.0, f32::INFINITY]];
        let rows = rows.map(|logits| row(logits, &params, 0));
        let ok: Vec<bool> = Sampler::default().sample(&pool(), &rows).iter().map(Result::is_ok).collect();
        assert_eq!(ok, [false, true, false, false]);
    }
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    let logits: Vec<Vec<f32>> =
        (0..40).map(|r| (0..3000).map(|i| ((i * (r + 3)) % 97) as f32 / 9.0).collect()).collect();
    let settings: Vec<SamplingParams> = (0..40)
        .map(|r| SamplingParams {
            top_k: r % 3 * 7,
            frequency_penalty: (r % 2) as f32,
            logprobs: (r % 5 == 0).then_some(3),
            ..SamplingParams::default()
        })
        .collect();
    let output = [1, 2, 2, 3];
    let rows: Vec<SampleRow<'_>> = (0..40)
        .map(|r| SampleRow { output: &output, wants_logprob: true, ..row(&logits[r], &settings[r], r) })
        .collect();
    let together = Sampler::default().sample(&pool(), &rows);
    for (row, sampled) in rows.iter().zip(together) {
        assert_eq!(sampled.unwrap(), one(*row));
    }
}
