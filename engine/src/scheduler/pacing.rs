//! How many prompt tokens a step may hold while others decode, learnt from how long each model takes. Changes when tokens are
//! computed, never what they are.

use std::time::Duration;

use crate::ids::ModelId;

/// Keeps steps near a target time, and those of large models within twice what they take without a prompt.
#[derive(Debug)]
pub(super) struct Pacer {
    target: f64,
    /// By model.
    paces: Vec<Pace>,
}

/// How long a model takes.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Seconds of its part of a step if it only decodes; `None` before the first.
    decode: Option<f64>,
    /// Seconds that a prompt token adds; `None` before the first.
    prompt_token: Option<f64>,
}

/// What a model is to do in a step, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) num_decodes: usize,
    /// Prompts or texts wait for it.
    pub(super) has_prefill: bool,
}

/// Prompt tokens of a mixed step before anything was measured.
const FIRST_GUESS: usize = 128;
/// Fewer would spend the step on overhead.
const MIN_PREFILL: usize = 32;
/// Weight of a new measurement.
const WEIGHT: f64 = 0.2;
/// A mixed step takes this many times a step of decodes, if that is longer than the target.
const STRETCH: f64 = 2.0;
/// Least share of a mixed step that is its prompt's: decodes that ended since were counted with the others.
const LEAST_SHARE: f64 = 0.25;

impl Pacer {
    /// A pacer for steps of `target` over so many models; zero never limits.
    pub(super) fn new(target: Duration, num_models: usize) -> Self {
        Self { target: target.as_secs_f64(), paces: vec![Pace::default(); num_models] }
    }

    /// Tokens of prompts and texts that may join what decodes; `work` is by model. As many as of the dearest kind that waits.
    pub(super) fn prefill_limit(&self, work: impl Iterator<Item = Work> + Clone) -> usize {
        let of_models = || work.clone().zip(&self.paces);
        if self.target == 0.0 || of_models().all(|(work, _)| work.num_decodes == 0) {
            return usize::MAX;
        }
        let decoding = of_models().filter(|(work, _)| work.num_decodes > 0);
        let decode: f64 = decoding.filter_map(|(_, pace)| pace.decode).sum();
        let room = self.target.max(STRETCH * decode) - decode;
        let limit = |pace: &Pace| match pace.prompt_token {
            Some(prompt_token) => ((room / prompt_token) as usize).max(MIN_PREFILL),
            None => FIRST_GUESS,
        };
        let waiting = of_models().filter(|(work, _)| work.has_prefill);
        waiting.map(|(_, pace)| limit(pace)).min().unwrap_or(usize::MAX)
    }

    /// `num_decodes` decoding sequences and `num_prefill` prompt tokens of a model took `time`.
    pub(super) fn observe(&mut self, model: ModelId, num_decodes: usize, num_prefill: usize, time: Duration) {
        let pace = &mut self.paces[model.index()];
        let seconds = time.as_secs_f64();
        if num_prefill == 0 && num_decodes > 0 {
            learn(&mut pace.decode, seconds);
        } else if num_prefill >= MIN_PREFILL {
            let decode = pace.decode.filter(|_| num_decodes > 0).unwrap_or(0.0);
            // Never zero, so that the limit stays finite.
            let of_prompt = (seconds - decode).max(LEAST_SHARE * seconds).max(1e-9);
            learn(&mut pace.prompt_token, of_prompt / num_prefill as f64);
        }
    }
}

/// Moves an average towards a new measurement, which is all of it if it is the first.
fn learn(average: &mut Option<f64>, new: f64) {
    let average = average.get_or_insert(new);
    *average += WEIGHT * (new - *average);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: ModelId = ModelId(0);
    const SMALL: ModelId = ModelId(1);

    fn pacer(milliseconds: u64) -> Pacer {
        Pacer::new(Duration::from_millis(milliseconds), 2)
    }

    /// What may join so many decodes, if prompts of the same model wait.
    fn limit(pacer: &Pacer, num_decodes: usize) -> usize {
        pacer.prefill_limit([Work { num_decodes, has_prefill: true }].into_iter())
    }

    fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn limits_prompts_only_beside_decodes() {
        let mut pacer = pacer(100);
        assert_eq!(limit(&pacer, 0), usize::MAX);
        assert_eq!(limit(&pacer, 4), FIRST_GUESS);
        pacer.observe(LARGE, 0, 500, milliseconds(500));
        assert_eq!(limit(&pacer, 4), 100);
        pacer.observe(LARGE, 4, 0, milliseconds(20));
        assert_eq!(limit(&pacer, 4), 80);
        assert_eq!(limit(&self::pacer(0), 4), usize::MAX);
    }

    #[test]
    fn slow_decodes_are_stretched_no_further_than_twice() {
        let mut pacer = pacer(20);
        pacer.observe(LARGE, 8, 0, milliseconds(90));
        pacer.observe(LARGE, 8, 100, milliseconds(190));
        assert_eq!(limit(&pacer, 8), 90);
        pacer.observe(LARGE, 8, 40, Duration::from_secs(9));
        assert_eq!(limit(&pacer, 8), MIN_PREFILL);
    }

    #[test]
    fn follows_the_machine() {
        let mut pacer = pacer(100);
        for _ in 0..100 {
            pacer.observe(LARGE, 0, 100, milliseconds(10));
        }
        assert!((999..=1000).contains(&limit(&pacer, 1)));
        // A neighbour takes half of the machine.
        for _ in 0..100 {
            pacer.observe(LARGE, 1, 0, milliseconds(20));
            pacer.observe(LARGE, 1, 100, milliseconds(40));
        }
        assert!((399..=401).contains(&limit(&pacer, 1)));
    }

    #[test]
    fn a_large_models_prompts_are_not_cut_by_what_those_of_a_small_one_cost() {
        let mut pacer = pacer(100);
        pacer.observe(LARGE, 0, 100, milliseconds(200));
        pacer.observe(SMALL, 0, 100, milliseconds(10));
        pacer.observe(SMALL, 1, 0, milliseconds(20));
        // By model: whether its prompts wait. The small one decodes.
        let limit = |prefill: [bool; 2]| {
            let work = [(0, prefill[0]), (1, prefill[1])];
            let work = work.map(|(num_decodes, has_prefill)| Work { num_decodes, has_prefill });
            pacer.prefill_limit(work.into_iter())
        };
        assert_eq!(limit([false, true]), 800);
        assert_eq!(limit([true, false]), 40);
        assert_eq!(limit([true, true]), 40);
        assert_eq!(limit([false, false]), usize::MAX);
    }
}
