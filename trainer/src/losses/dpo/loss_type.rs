//! The members of the DPO family, one formula each. Leaves batches and tokens to the module above.

use serde::{Deserialize, Serialize};

use crate::losses::dual::Dual;

/// A member of the family, under TRL's name. `r_w`, `r_l` are the log-ratios `ln π − ln π_ref` of chosen and rejected,
/// `h = r_w − r_l` (of the scores, under an f-divergence).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DpoLossType {
    /// `−ln σ(βh)`: DPO, Rafailov et al. 2023 (arXiv:2305.18290), Eq. 7.
    Sigmoid,
    /// `−(1 − ε) ln σ(βh) − ε ln σ(−βh)`: conservative DPO, Mitchell 2023. TRL 1.16 has it no more.
    Cdpo,
    /// `max(0, 1 − βh)`: SLiC-HF's hinge on DPO's margin, Zhao et al. 2023 (arXiv:2305.10425), Eq. 1.
    Hinge,
    /// `(h − 1/(2β))²` on log-ratios per token: Azar et al. 2023 (arXiv:2310.12036), Eq. 17.
    Ipo,
    /// `KL(σ(±βh) ‖ (1 − ε, ε))`: Ji et al. 2024 (arXiv:2402.00856), Eq. 16.
    ExoPair,
    /// `−ln σ(βr_w) − ½ ln σ(−βr_w) − ½ ln σ(−βr_l)`: Chen et al. 2024 (arXiv:2402.05369), Eq. 13 with two answers.
    NcaPair,
    /// `(−(1 − ε) ln σ(βh) + ε ln σ(−βh)) / (1 − 2ε)`: Chowdhury et al. 2024 (arXiv:2403.00409), Eq. 12.
    Robust,
    /// `−ln σ(βr_w) − ln σ(−βr_l)`: binary classifier optimisation on pairs, Jung et al. 2024 (arXiv:2404.04656), Eq. 11
    /// without its shift.
    BcoPair,
    /// `(r_w − 1/(2β))² + (r_l + 1/(2β))²`: SPPO with hard labels, Wu et al. 2024 (arXiv:2405.00675), Eq. 4.7.
    SppoHard,
    /// Quantiles of the policy's margins against the reference's: Melnyk et al. 2024 (arXiv:2406.05882), Eq. 3, paired.
    Aot,
    /// Quantiles of all chosen log-ratios against those of all rejected: the same paper, unpaired.
    AotUnpaired,
    /// `1 − σ(βr_w) + σ(βr_l)`: D'Oosterlinck et al. 2024 (arXiv:2408.06266), Eq. 7.
    ApoZero,
    /// `σ(βr_w) + 1 − σ(βh)`: the same paper, Eq. 8.
    ApoDown,
    /// Logistic and exponential loss, mixed by `σ(βh/τ)`: Lu et al. 2024 (arXiv:2406.08414), Eq. 5.
    Discopop,
    /// `−ln π(y_w)` per token.
    Sft,
    /// `−ln σ(βh)` on log-ratios per token: Lambert et al. 2024 (arXiv:2411.15124), Eq. 6.
    SigmoidNorm,
}

/// Strengths of the formulas.
#[derive(Clone, Copy, Debug)]
pub(super) struct Knobs {
    pub(super) beta: f64,
    pub(super) epsilon: f64,
    pub(super) discopop_tau: f64,
}

/// What a formula sees of a chosen answer (first) and a rejected one.
pub(super) struct Terms<const N: usize> {
    pub(super) ratios: [Dual<N>; 2],
    /// The same, unless there is an f-divergence.
    pub(super) scores: [Dual<N>; 2],
    pub(super) num_tokens: [f64; 2],
}

/// A chosen and a rejected answer that a loss compares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Meeting {
    /// The pair each comes from.
    pub(super) pairs: [usize; 2],
    pub(super) log_ratios: [f64; 2],
}

/// `−(1 − ε) ln σ(x) − ε ln σ(−x)`.
pub(in crate::losses) fn smoothed<const N: usize>(x: Dual<N>, epsilon: f64) -> Dual<N> {
    x.log_sigmoid() * (epsilon - 1.0) - (-x).log_sigmoid() * epsilon
}

impl DpoLossType {
    /// Uses `label_smoothing`.
    pub fn smooths_labels(self) -> bool {
        matches!(self, Self::Cdpo | Self::ExoPair | Self::Robust | Self::Aot | Self::AotUnpaired)
    }

    /// Compares pairs of a batch with each other.
    pub fn is_of_batch(self) -> bool {
        matches!(self, Self::Aot | Self::AotUnpaired)
    }

    /// Is a function of the difference of scores, and so has a meaning under any f-divergence.
    pub fn takes_divergences(self) -> bool {
        use DpoLossType::*;
        matches!(self, Sigmoid | Cdpo | SigmoidNorm | Hinge | Ipo | ExoPair | Robust | Discopop | Sft)
    }

    /// Who is compared with whom.
    pub(super) fn meetings(self, logprobs: &[[f64; 2]], log_ratios: &[[f64; 2]]) -> Vec<Meeting> {
        let each = log_ratios.iter().enumerate();
        match self {
            Self::Aot => {
                // The pair of the k-th smallest margin of the policy meets the k-th smallest of the reference.
                let margins: Vec<f64> = logprobs.iter().map(|[w, l]| w - l).collect();
                let mut reference: Vec<f64> = each.map(|(pair, [w, l])| margins[pair] - (w - l)).collect();
                reference.sort_by(f64::total_cmp);
                let order = ascending(&margins);
                let meet = |(pair, reference): (usize, f64)| Meeting {
                    pairs: [pair, pair],
                    log_ratios: [logprobs[pair][0], logprobs[pair][1] + reference],
                };
                order.into_iter().zip(reference).map(meet).collect()
            }
            Self::AotUnpaired => {
                let column = |side: usize| -> Vec<f64> { log_ratios.iter().map(|pair| pair[side]).collect() };
                let (chosen, rejected) = (ascending(&column(0)), ascending(&column(1)));
                let meet = |(w, l): (usize, usize)| Meeting {
                    pairs: [w, l],
                    log_ratios: [log_ratios[w][0], log_ratios[l][1]],
                };
                chosen.into_iter().zip(rejected).map(meet).collect()
            }
            _ => each.map(|(pair, ratios)| Meeting { pairs: [pair; 2], log_ratios: *ratios }).collect(),
        }
    }

    /// The loss of one comparison.
    pub(super) fn loss<const N: usize>(self, terms: &Terms<N>, knobs: Knobs) -> Dual<N> {
        let Terms { ratios: [chosen, rejected], scores, num_tokens } = *terms;
        let Knobs { beta, epsilon, discopop_tau } = knobs;
        let margin = (scores[0] - scores[1]) * beta;
        let mean_difference = scores[0] * num_tokens[0].recip() - scores[1] * num_tokens[1].recip();
        match self {
            Self::Sigmoid => -margin.log_sigmoid(),
            Self::Cdpo | Self::Aot | Self::AotUnpaired => smoothed(margin, epsilon),
            Self::Hinge => (-margin + 1.0).relu(),
            Self::Ipo => (mean_difference - (2.0 * beta).recip()).square(),
            Self::ExoPair => {
                margin.sigmoid() * (margin.log_sigmoid() - (-epsilon).ln_1p())
                    + (-margin).sigmoid() * ((-margin).log_sigmoid() - epsilon.ln())
            }
            Self::NcaPair => {
                let (chosen, rejected) = (chosen * beta, rejected * beta);
                -chosen.log_sigmoid() - ((-chosen).log_sigmoid() + (-rejected).log_sigmoid()) * 0.5
            }
            Self::Robust => {
                let clean = margin.log_sigmoid() * (1.0 - epsilon);
                ((-margin).log_sigmoid() * epsilon - clean) * (1.0 - 2.0 * epsilon).recip()
            }
            Self::BcoPair => -(chosen * beta).log_sigmoid() - (rejected * -beta).log_sigmoid(),
            Self::SppoHard => {
                let target = 0.5 / beta;
                (chosen - target).square() + (rejected + target).square()
            }
            Self::ApoZero => -(chosen * beta).sigmoid() + (rejected * beta).sigmoid() + 1.0,
            Self::ApoDown => (chosen * beta).sigmoid() - ((chosen - rejected) * beta).sigmoid() + 1.0,
            Self::Discopop => {
                let mix = (margin * discopop_tau.recip()).sigmoid();
                let logistic = -margin.log_sigmoid();
                logistic + mix * ((-margin).exp() - logistic)
            }
            Self::SigmoidNorm => -(mean_difference * beta).log_sigmoid(),
            // Per token, so not of this kind; see the module above.
            Self::Sft => chosen * 0.0,
        }
    }
}

/// Positions of `values`, smallest first; ties keep their order.
fn ascending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    order
}
