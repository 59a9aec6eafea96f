//! The policy-gradient losses beside TRL's own code and PyTorch: `fixtures/policy_gradient.py`.

use serde_json::Value;

use super::*;

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../fixtures/policy_gradient.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn close(got: f64, want: f64, what: &str) {
    assert!((got - want).abs() <= 1e-6 * want.abs().max(1.0), "{what}: {got}, but {want} in the fixture");
}

fn close_rows(got: &[Vec<f64>], want: &Value, what: &str) {
    let want = rows(want);
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(got.len(), want.len());
        got.iter().zip(want).for_each(|(got, want)| close(*got, *want, what));
    }
}

fn parse<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn grpo_and_its_gradient_are_trls() {
    let fixture = fixture();
    let cases = fixture["grpo"].as_array().unwrap();
    assert!(cases.len() >= 19);
    let (logprobs, old, reference, sampling) = (
        rows(&fixture["logprobs"]),
        rows(&fixture["old"]),
        rows(&fixture["ref"]),
        rows(&fixture["sampling"]),
    );
    let advantages = numbers(&fixture["advantages"]);
    let lengths: Vec<usize> = logprobs.iter().map(Vec::len).collect();
    let total: usize = lengths.iter().sum();
    for case in cases {
        let settings = Grpo {
            clip: ClipRange { low: 0.2, high: 0.28, delta: case["delta"].as_f64() },
            importance: parse(&case["level"]),
            beta: number(&case["beta"]),
            unbiased_kl: case["unbiased"].as_bool().unwrap(),
        };
        let weights = token_weights(
            parse(&case["loss_type"]),
            &lengths,
            fixture["max_completion_length"].as_u64().unwrap() as usize,
            number(&fixture["num_items_in_batch"]) / number(&fixture["steps_per_generation"]),
        );
        let (mut loss, mut kl, mut low, mut high, mut grads) = (0.0, 0.0, 0.0, 0.0, Vec::new());
        for row in 0..lengths.len() {
            let ratios = match case["mode"].as_str() {
                Some(_) => {
                    importance_ratios(&old[row], &sampling[row], parse(&case["mode"]), None, Some(1.2))
                }
                None => Vec::new(),
            };
            let completion = GrpoCompletion {
                logprobs: &logprobs[row],
                old_logprobs: if case["old"].as_bool().unwrap() { &old[row] } else { &[] },
                ref_logprobs: &reference[row],
                importance_ratios: &ratios,
                advantage: advantages[row],
            };
            let out = grpo(&settings, &completion);
            loss += weights[row] * out.loss;
            grads.push(out.grad.iter().map(|grad| weights[row] * grad).collect());
            kl += out.kl / total as f64;
            let share = match settings.importance {
                ImportanceLevel::Token => lengths[row] as f64 / total as f64,
                ImportanceLevel::Sequence => 1.0 / lengths.len() as f64,
            };
            low += share * out.clipped_low;
            high += share * out.clipped_high;
        }
        let name = case.to_string();
        close(loss, number(&case["loss"]), &name);
        close_rows(&grads, &case["grad"], &name);
        for (got, key) in [(kl, "kl"), (low, "low"), (high, "high")] {
            close(got, number(&case[key]), key);
        }
    }
    assert!(cases.iter().any(|case| number(&case["low"]) > 0.0));
    assert!(cases.iter().any(|case| number(&case["high"]) > 0.0));
}

#[test]
fn rloo_and_its_gradient_are_trls() {
    let fixture = fixture();
    let (logprobs, old) = (rows(&fixture["logprobs"]), rows(&fixture["old"]));
    let clip = ClipRange { low: 0.2, high: 0.28, delta: None };
    let (mut loss, mut low, mut high, mut grads) = (0.0, 0.0, 0.0, Vec::new());
    for ((logprobs, old), advantage) in logprobs.iter().zip(&old).zip(numbers(&fixture["advantages"])) {
        let out = rloo(logprobs, old, advantage, clip);
        loss += out.loss / 4.0;
        grads.push(vec![out.slope / 4.0; logprobs.len()]);
        low += f64::from(u8::from(out.clipped == Clipped::Low)) / 4.0;
        high += f64::from(u8::from(out.clipped == Clipped::High)) / 4.0;
    }
    let want = &fixture["rloo"];
    close(loss, number(&want["loss"]), "loss");
    close_rows(&grads, &want["grad"], "grad");
    close(low, number(&want["low"]), "low");
    close(high, number(&want["high"]), "high");
}

#[test]
fn advantages_are_trls() {
    let fixture = fixture();
    let want = &fixture["group"];
    let (rewards, generations) =
        (numbers(&want["rewards"]), want["num_generations"].as_u64().unwrap() as usize);
    for (got, key) in [
        (group_advantages(&rewards, generations, ScaleRewards::Group), "group"),
        (group_advantages(&rewards, generations, ScaleRewards::Batch), "batch"),
        (group_advantages(&rewards, generations, ScaleRewards::None), "none"),
        (leave_one_out(&rewards, generations, false), "leave_one_out"),
        (leave_one_out(&rewards, generations, true), "normalized"),
    ] {
        for (got, want) in got.iter().zip(numbers(&want[key])) {
            close(*got, want, key);
        }
    }
}

#[test]
fn ppo_and_its_gradients_are_pytorchs() {
    let fixture = fixture();
    let want = &fixture["ppo"];
    let setting = |name: &str| number(&want[name]);
    let (logprobs, old, reference) =
        (rows(&fixture["logprobs"]), rows(&fixture["old"]), rows(&fixture["ref"]));
    let (values, old_values) = (rows(&want["values"]), rows(&want["old_values"]));
    let total = logprobs.iter().map(Vec::len).sum::<usize>() as f64;
    let (mut rewards, mut advantages, mut returns) = (Vec::new(), Vec::new(), Vec::new());
    for (row, score) in numbers(&want["scores"]).into_iter().enumerate() {
        let of_row = token_rewards(&old[row], &reference[row], score, setting("beta"));
        let (advantage, target) = gae(&of_row, &old_values[row], setting("gamma"), setting("lam"));
        rewards.push(of_row);
        advantages.push(advantage);
        returns.push(target);
    }
    close_rows(&rewards, &want["rewards"], "rewards");
    close_rows(&advantages, &want["advantages"], "advantages");
    close_rows(&returns, &want["returns"], "returns");
    let mut scaled = advantages.clone();
    whiten(scaled.iter_mut().flatten(), false);
    close_rows(&scaled, &want["scaled"], "scaled");
    whiten(advantages.iter_mut().flatten(), true);
    close_rows(&advantages, &want["whitened"], "whitened");

    let clip = ClipRange::symmetric(setting("clip"));
    let (mut policy_loss, mut value_sum, mut num_clipped) = (0.0, 0.0, 0.0);
    let (mut grads, mut grads_values) = (Vec::new(), Vec::new());
    for row in 0..logprobs.len() {
        let policy = (0..logprobs[row].len())
            .map(|t| clipped_surrogate(logprobs[row][t] - old[row][t], advantages[row][t], clip));
        policy_loss += policy.clone().map(|token| token.loss).sum::<f64>() / total;
        grads.push(policy.map(|token| token.slope / total).collect());
        let losses = (0..values[row].len())
            .map(|t| value_loss(values[row][t], old_values[row][t], returns[row][t], setting("value_clip")));
        value_sum += losses.clone().map(|token| token.loss).sum::<f64>() / total;
        num_clipped += losses.clone().filter(|token| token.is_clipped).count() as f64;
        grads_values.push(losses.map(|token| setting("vf_coef") * token.slope / total).collect());
    }
    close(policy_loss, setting("policy_loss"), "policy loss");
    close(value_sum, setting("value_loss"), "value loss");
    close(num_clipped / total, setting("value_clipfrac"), "clipped values");
    close_rows(&grads, &want["grad"], "gradient of logprobs");
    close_rows(&grads_values, &want["grad_values"], "gradient of values");
}

#[test]
fn the_weight_of_the_divergence_follows_its_target() {
    let mut kl = AdaptiveKl { coefficient: 0.1, target: Some(6.0), horizon: 10_000.0 };
    kl.update(60.0, 500);
    assert!((kl.coefficient - 0.1 * 1.01).abs() < 1e-12, "an error counts 0.2 at most");
    kl.update(6.0, 500);
    assert!((kl.coefficient - 0.1 * 1.01).abs() < 1e-12);
    kl.update(0.0, 500);
    assert!((kl.coefficient - 0.1 * 1.01 * 0.99).abs() < 1e-12);
    let mut fixed = AdaptiveKl { target: None, ..kl };
    fixed.update(60.0, 500);
    assert_eq!(fixed.coefficient, kl.coefficient);
}
