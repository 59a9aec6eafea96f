//! The DPO family beside TRL's numbers.

use super::*;
use crate::losses::fixture::{Tokens, cases, close};
use serde_json::Value;

fn divergence(case: &Value) -> FDivergence {
    match case["f_divergence_type"].as_str().unwrap() {
        "reverse_kl" => FDivergence::ReverseKl,
        "forward_kl" => FDivergence::ForwardKl,
        "js_divergence" => FDivergence::JsDivergence,
        _ => FDivergence::Alpha(case["f_alpha_divergence_coef"].as_f64().unwrap()),
    }
}

fn loss(case: &Value) -> DpoLoss {
    let number = |name: &str| case[name].as_f64().unwrap();
    let types: Vec<DpoLossType> = serde_json::from_value(case["loss_type"].clone()).unwrap();
    let weights: Vec<f64> = serde_json::from_value(case["loss_weights"].clone()).unwrap();
    DpoLoss {
        terms: types.into_iter().zip(weights).collect(),
        beta: number("beta"),
        label_smoothing: number("label_smoothing"),
        discopop_tau: number("discopop_tau"),
        divergence: divergence(case),
        ld_alpha: case["ld_alpha"].as_f64(),
    }
}

#[test]
fn value_and_gradients_are_trls() {
    let mut seen = Vec::new();
    for case in cases(include_str!("../../../fixtures/losses_dpo.json")) {
        let loss = loss(&case);
        let policy = Tokens::new(&case["logprobs"]);
        let reference = Tokens::new(&case["reference"]);
        let reduced: Vec<[f64; 2]> = (0..reference.spans.len() / 2)
            .map(|pair| {
                let completions = reference.completions();
                let reduction = loss.pair_reduction(&completions, pair);
                [0, 1].map(|side| completions.reduce(2 * pair + side, reduction))
            })
            .collect();
        let weights: Option<Vec<f64>> = serde_json::from_value(case["weights"].clone()).unwrap();
        let batch =
            DpoBatch { policy: policy.completions(), reference: &reduced, weights: weights.as_deref() };
        let out = loss.evaluate(&batch, policy.pair_normalizer());
        close(&case, "loss", &[out.total.loss], &[case["loss"].as_f64().unwrap()]);
        close(&case, "grad", &out.total.grad, &Tokens::new(&case["grad"]).logprobs);
        let mean = |side: usize| {
            loss.beta * out.log_ratios.iter().map(|ratios| ratios[side]).sum::<f64>() / reduced.len() as f64
        };
        let rewards = ["rewards/chosen", "rewards/rejected"].map(|name| case[name].as_f64().unwrap());
        close(&case, "rewards", &[mean(0), mean(1)], &rewards);
        seen.extend(loss.terms.iter().map(|(loss_type, _)| *loss_type));
    }
    use DpoLossType::*;
    for loss_type in [
        Sigmoid,
        Cdpo,
        Hinge,
        Ipo,
        ExoPair,
        NcaPair,
        Robust,
        BcoPair,
        SppoHard,
        Aot,
        AotUnpaired,
        ApoZero,
        ApoDown,
        Discopop,
        Sft,
        SigmoidNorm,
    ] {
        assert!(seen.contains(&loss_type), "{loss_type:?} has no case");
    }
}

#[test]
fn a_policy_at_its_reference_starts_at_ln_2() {
    let logprobs = [-1.0, -2.0, -0.5];
    let spans = [0..2, 2..3];
    let batch = DpoBatch {
        policy: Completions { logprobs: &logprobs, spans: &spans },
        reference: &[[-3.0, -0.5]],
        weights: None,
    };
    let loss = DpoLoss {
        terms: vec![(DpoLossType::Sigmoid, 1.0)],
        beta: 0.1,
        label_smoothing: 0.0,
        discopop_tau: 0.05,
        divergence: FDivergence::ReverseKl,
        ld_alpha: None,
    };
    let out = loss.evaluate(&batch, Normalizer { examples: 1.0, tokens: 2.0 });
    assert_eq!(out.total.loss, std::f64::consts::LN_2);
    assert_eq!(out.total.grad, [-0.05, -0.05, 0.05]);
}
