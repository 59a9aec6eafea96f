//! How many prompt tokens a step may hold while others decode, learnt from how long steps take. Changes when tokens are
//! computed, never what they are.

use std::time::Duration;

/// Keeps steps near a target time, and those of large models within twice what they take without a prompt.
#[derive(Debug)]
pub(super) struct Pacer {
    target: f64,
    /// Seconds of a step that only decodes; `None` before the first.
    decode: Option<f64>,
    /// Seconds that a prompt token adds; `None` before the first.
    prompt_token: Option<f64>,
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
    /// A pacer for steps of `target`; zero never limits.
    pub(super) fn new(target: Duration) -> Self {
        Self { target: target.as_secs_f64(), decode: None, prompt_token: None }
    }

    /// Prompt tokens that may join `num_decodes` decoding sequences.
    pub(super) fn prefill_limit(&self, num_decodes: usize) -> usize {
        if num_decodes == 0 || self.target == 0.0 {
            return usize::MAX;
        }
        let Some(prompt_token) = self.prompt_token else { return FIRST_GUESS };
        let decode = self.decode.unwrap_or(0.0);
        let room = self.target.max(STRETCH * decode) - decode;
        ((room / prompt_token) as usize).max(MIN_PREFILL)
    }

    /// A step of `num_decodes` decoding sequences and `num_prefill` prompt tokens took `time`.
    pub(super) fn observe(&mut self, num_decodes: usize, num_prefill: usize, time: Duration) {
        let seconds = time.as_secs_f64();
        if num_prefill == 0 && num_decodes > 0 {
            learn(&mut self.decode, seconds);
        } else if num_prefill >= MIN_PREFILL {
            let decode = self.decode.filter(|_| num_decodes > 0).unwrap_or(0.0);
            // Never zero, so that the limit stays finite.
            let of_prompt = (seconds - decode).max(LEAST_SHARE * seconds).max(1e-9);
            learn(&mut self.prompt_token, of_prompt / num_prefill as f64);
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

    fn pacer(milliseconds: u64) -> Pacer {
        Pacer::new(Duration::from_millis(milliseconds))
    }

    #[test]
    fn limits_prompts_only_beside_decodes() {
        let mut pacer = pacer(100);
        assert_eq!(pacer.prefill_limit(0), usize::MAX);
        assert_eq!(pacer.prefill_limit(4), FIRST_GUESS);
        pacer.observe(0, 500, Duration::from_millis(500));
        assert_eq!(pacer.prefill_limit(4), 100);
        pacer.observe(4, 0, Duration::from_millis(20));
        assert_eq!(pacer.prefill_limit(4), 80);
        assert_eq!(self::pacer(0).prefill_limit(4), usize::MAX);
    }

    #[test]
    fn slow_decodes_are_stretched_no_further_than_twice() {
        let mut pacer = pacer(20);
        pacer.observe(8, 0, Duration::from_millis(90));
        pacer.observe(8, 100, Duration::from_millis(190));
        assert_eq!(pacer.prefill_limit(8), 90);
        pacer.observe(8, 40, Duration::from_secs(9));
        assert_eq!(pacer.prefill_limit(8), MIN_PREFILL);
    }

    #[test]
    fn follows_the_machine() {
        let mut pacer = pacer(100);
        for _ in 0..100 {
            pacer.observe(0, 100, Duration::from_millis(10));
        }
        assert!((999..=1000).contains(&pacer.prefill_limit(1)));
        // A neighbour takes half of the machine.
        for _ in 0..100 {
            pacer.observe(1, 0, Duration::from_millis(20));
            pacer.observe(1, 100, Duration::from_millis(40));
        }
        assert!((399..=401).contains(&pacer.prefill_limit(1)));
    }
}
