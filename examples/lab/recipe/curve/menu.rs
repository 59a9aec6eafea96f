//! The settings that are tried. Leaves trying them to the rest.

use rectify_engine::alignment::{Alignment, Method};
use rectify_engine::strategy::{AdaptiveSettings, Extractor, Select};

/// Where the recording knows the reward of a part, in tokens: wherever a check of the menu may be.
pub(super) const PARTS: [usize; 18] =
    [4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256];
/// Candidates of strategies that are not chosen but shown.
const SHOWN: usize = 16;
/// Checks without a limit.
const ALL: usize = usize::MAX;
/// Times that a strategy is played on a prompt, at least, whose cost depends on which candidates come first.
const ORDERS: usize = 8;

/// A strategy with its settings.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(super) strategy: &'static str,
    /// As a request writes them.
    pub(super) words: String,
    pub(super) alignment: Alignment,
}

impl Setting {
    fn new(strategy: &'static str, words: String, n: usize, method: Method, select: Select) -> Self {
        Self { strategy, words, alignment: Alignment { method, select, ..Alignment::best_of(n) } }
    }

    /// How many times it is played on `num_candidates`.
    pub(super) fn rounds(&self, num_candidates: usize) -> usize {
        match self.alignment.method {
            Method::Adaptive(_) => ORDERS,
            _ => (num_candidates / self.alignment.n).max(1),
        }
    }
}

pub(super) fn speculative_rejection(most: usize) -> Vec<Setting> {
    let mut menu = Vec::new();
    for n in [8, 16, 24, 32, 48, 64, 96, 128] {
        for first_check in [4, 6, 8, 10, 12, 16, 20, 24, 32] {
            for alpha in [0.5, 0.75, 0.875] {
                for max_checks in [1, 2, ALL] {
                    let method = Method::SpeculativeRejection { alpha, first_check, max_checks };
                    let limit =
                        if max_checks == ALL { String::new() } else { format!(" max_checks={max_checks}") };
                    let words = format!("n={n} alpha={alpha} first_check={first_check}{limit}");
                    menu.push(Setting::new("speculative_rejection", words, n, method, Select::Argmax));
                }
            }
        }
    }
    menu.retain(|setting| setting.alignment.n <= most);
    menu
}

/// The prior is what single answers get, in `(mean, std)`; costs are in its standard deviations.
pub(super) fn adaptive(most: usize, (reward_mean, reward_std): (f32, f32)) -> Vec<Setting> {
    let mut menu = Vec::new();
    for cost in [0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002, 0.001] {
        for prior_weight in [1.0, 4.0, 16.0, 64.0] {
            for (first, round) in [(2, 2), (4, 4)] {
                let cost = cost * reward_std;
                let settings = AdaptiveSettings { cost, first, round, reward_mean, reward_std, prior_weight };
                let words = format!(
                    "n={most} cost={cost:.4} first={first} round={round} prior_weight={prior_weight} \
                     reward_mean={reward_mean:.2} reward_std={reward_std:.2}"
                );
                menu.push(Setting::new("adaptive", words, most, Method::Adaptive(settings), Select::Argmax));
            }
        }
    }
    menu
}

/// Best-of-N that picks otherwise.
pub(super) fn selections() -> Vec<Setting> {
    let pick = |strategy, words: &str, select| {
        Setting::new(strategy, format!("n={SHOWN} {words}"), SHOWN, Method::BestOfN, select)
    };
    vec![
        pick("softmax", "select_temperature=0.25", Select::Softmax { temperature: 0.25 }),
        pick("softmax", "select_temperature=1", Select::Softmax { temperature: 1.0 }),
        pick("mbr", "mbr_weight=1", Select::Mbr { weight: 1.0 }),
        pick("majority", "extract=text", Select::Majority(Extractor::Text)),
    ]
}

/// Strategies that draw what no recording has.
pub(super) fn blockwise() -> Vec<Setting> {
    let block = |(n, block_tokens)| {
        let words = format!("n={n} block_tokens={block_tokens}");
        Setting::new("blockwise", words, n, Method::Blockwise { block_tokens }, Select::Argmax)
    };
    [(2, 16), (4, 8), (4, 16), (4, 32), (8, 16)].map(block).into()
}
