//! How many prompt tokens a step may hold while others decode, learnt from how long steps take. Changes when tokens are
//! computed, never what they are.

use std::time::Duration;

/// Keeps steps near a target time.
#[derive(Debug)]
pub(super) struct Pacer {
    target: Duration,
    /// Moving average; `None` before the first prefill.
    seconds_per_token: Option<f64>,
}

/// Tokens of a mixed step before anything was measured.
const FIRST_GUESS: usize = 256;
/// Fewer would spend the step on overhead.
const MIN_PREFILL: usize = 32;
/// Weight of a new measurement.
const WEIGHT: f64 = 0.2;

impl Pacer {
    /// A pacer for steps of `target`; zero never limits.
    pub(super) fn new(target: Duration) -> Self {
        Self { target, seconds_per_token: None }
    }

    /// Prompt tokens that may join `num_decodes` decoding sequences.
    pub(super) fn prefill_limit(&self, num_decodes: usize) -> usize {
        if num_decodes == 0 || self.target.is_zero() {
            return usize::MAX;
        }
        let Some(seconds) = self.seconds_per_token else { return FIRST_GUESS };
        let tokens = (self.target.as_secs_f64() / seconds) as usize;
        tokens.saturating_sub(num_decodes).max(MIN_PREFILL)
    }

    /// A step of `num_tokens` tokens took `time`. Steps of decodes alone say nothing about prompts.
    pub(super) fn observe(&mut self, num_tokens: usize, num_prefill: usize, time: Duration) {
        if num_prefill < MIN_PREFILL || num_tokens == 0 {
            return;
        }
        // Never zero, so that the limit stays finite.
        let seconds = (time.as_secs_f64() / num_tokens as f64).max(1e-9);
        let average = self.seconds_per_token.get_or_insert(seconds);
        *average += WEIGHT * (seconds - *average);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_prompts_only_beside_decodes() {
        let mut pacer = Pacer::new(Duration::from_millis(100));
        assert_eq!(pacer.prefill_limit(0), usize::MAX);
        assert_eq!(pacer.prefill_limit(4), FIRST_GUESS);
        pacer.observe(500, 496, Duration::from_millis(500));
        assert_eq!(pacer.prefill_limit(4), 96);
        assert_eq!(pacer.prefill_limit(99), MIN_PREFILL);
        assert_eq!(Pacer::new(Duration::ZERO).prefill_limit(4), usize::MAX);
    }

    #[test]
    fn follows_the_machine_and_ignores_pure_decodes() {
        let mut pacer = Pacer::new(Duration::from_millis(100));
        pacer.observe(64, 0, Duration::from_secs(1));
        assert_eq!(pacer.prefill_limit(1), FIRST_GUESS);
        for _ in 0..100 {
            pacer.observe(100, 100, Duration::from_millis(10));
        }
        assert_eq!(pacer.prefill_limit(1), 999);
    }
}
