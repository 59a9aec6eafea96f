//! Bradley–Terry: a reward model's loss on one preference.

use super::{sigmoid, softplus};

/// Loss of one pair and its gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLoss {
    /// In nats.
    pub loss: f64,
    /// To the chosen answer's reward.
    pub grad_chosen: f64,
    /// To the rejected answer's reward.
    pub grad_rejected: f64,
}

/// `−ln σ(r_w − r_l − m) + c (r_w + r_l)²`.
///
/// The first term is Ouyang et al. 2022 (arXiv:2203.02155), Eq. 1, with the margin `m` of a graded label as in Touvron
/// et al. 2023 (arXiv:2307.09288), Eq. 2; the second centres rewards at zero (Eisenstein et al. 2023, arXiv:2312.09244).
pub fn bradley_terry(chosen: f64, rejected: f64, margin: f64, centering: f64) -> PairLoss {
    let difference = chosen - rejected - margin;
    let slope = -sigmoid(-difference);
    let sum = chosen + rejected;
    let centre = 2.0 * centering * sum;
    PairLoss {
        loss: softplus(-difference) + centering * sum * sum,
        grad_chosen: slope + centre,
        grad_rejected: -slope + centre,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn loss_and_gradient_are_pytorchs() {
        let fixture: Value = serde_json::from_str(include_str!("../../fixtures/bradley_terry.json")).unwrap();
        let cases = fixture["cases"].as_array().unwrap();
        assert!(cases.len() >= 8);
        for case in cases {
            let number = |name: &str| case[name].as_f64().unwrap();
            let got =
                bradley_terry(number("chosen"), number("rejected"), number("margin"), number("centering"));
            for (got, name) in
                [(got.loss, "loss"), (got.grad_chosen, "grad_chosen"), (got.grad_rejected, "grad_rejected")]
            {
                let want = number(name);
                assert!((got - want).abs() <= 1e-9 * want.abs().max(1.0), "{name} of {case}: {got}");
            }
        }
    }

    #[test]
    fn rewards_far_apart_neither_overflow_nor_vanish() {
        assert_eq!(bradley_terry(-2000.0, 2000.0, 0.0, 0.0).loss, 4000.0);
        assert_eq!(bradley_terry(2000.0, -2000.0, 0.0, 0.0).loss, 0.0);
    }
}
