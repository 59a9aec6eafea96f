//! How many prompt tokens a step may hold while others decode, learnt from how long each model takes. Changes when tokens are
//! computed, never what they are.

use std::time::Duration;

use crate::ids::ModelId;

/// Shares the time of steps between sequences that decode and those that wait for a prompt or text: one that waits may take three
/// quarters of the time of all that decode, each further one as much as these, until a step takes the target.
#[derive(Debug)]
pub(super) struct Pacer {
    target: f64,
    /// By model.
    paces: Vec<Pace>,
}

/// How long a model takes.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Sequences that decoded in its last step, and seconds of that if it had only decoded; `None` before it did.
    decode: Option<(usize, f64)>,
    /// The same of its last step that only decoded, as it was measured.
    last: Option<(usize, f64)>,
    /// Seconds that a prompt token adds; `None` before the first. From steps that also decode, once there are any: there
    /// weights are read for both, but products are of few rows.
    prompt_token: Option<f64>,
}

/// What a model is to do in a step, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) num_decodes: usize,
    /// Prompts and texts that wait for it.
    pub(super) num_prefills: usize,
}

/// Prompt tokens of a mixed step before anything was measured.
const FIRST_GUESS: usize = 128;
/// Fewer would take a prompt too many steps.
const MIN_PREFILL: usize = 4;
/// Rows that linear layers take at once: one more costs about as much as all of the next ones.
const PANEL_ROWS: usize = 8;
/// Weight of a new measurement.
const WEIGHT: f64 = 0.2;
/// A measurement this many times what was expected counts as that, for it says more about the machine's other work.
const SURPRISE: f64 = 1.5;
/// A mixed step takes this many times a step of decodes if one waits. Below two, since what was learnt lags behind contexts that
/// grow, and steps vary.
const STRETCH: f64 = 1.75;
/// Least share of a mixed step that is its prompt's: decodes that ended since were counted with the others.
const LEAST_SHARE: f64 = 0.25;

impl Pacer {
    /// A pacer for steps of `target` over so many models; zero never limits.
    pub(super) fn new(target: Duration, num_models: usize) -> Self {
        Self { target: target.as_secs_f64(), paces: vec![Pace::default(); num_models] }
    }

    /// Tokens of prompts and texts that may join what decodes; `work` is by model. As many as of the dearest kind that waits.
    pub(super) fn prefill_limit(&self, work: impl Iterator<Item = Work> + Clone) -> usize {
        let num_decodes: usize = work.clone().map(|work| work.num_decodes).sum();
        if self.target == 0.0 || num_decodes == 0 {
            return usize::MAX;
        }
        let num_prefills: usize = work.clone().map(|work| work.num_prefills).sum();
        let of_models = || work.clone().zip(&self.paces);
        let decoding = of_models().filter(|(work, _)| work.num_decodes > 0);
        let decode = decoding.map(|(work, pace)| pace.decode_seconds(work.num_decodes)).sum::<Option<f64>>();
        let room = decode.map_or(self.target, |decode| {
            let shared = decode * (STRETCH + num_prefills.saturating_sub(1) as f64);
            shared.min(self.target).max(STRETCH * decode) - decode
        });
        let waiting = of_models().filter(|(work, _)| work.num_prefills > 0);
        waiting.map(|(work, pace)| pace.prefill_limit(work.num_decodes, room)).min().unwrap_or(usize::MAX)
    }

    /// `num_decodes` decoding sequences and `num_prefill` prompt tokens of a model took `time`.
    pub(super) fn observe(&mut self, model: ModelId, num_decodes: usize, num_prefill: usize, time: Duration) {
        let pace = &mut self.paces[model.index()];
        let seconds = time.as_secs_f64();
        let mut decode = pace.decode_seconds(num_decodes);
        if num_prefill == 0 {
            // What disturbs a step rarely disturbs the next, and an average of all would be of the slow ones: the faster of two.
            let last = pace.last.replace((num_decodes, seconds)).filter(|last| last.0 == num_decodes);
            learn(&mut decode, last.map_or(seconds, |(_, last)| seconds.min(last)));
        }
        if num_prefill >= MIN_PREFILL && (num_decodes > 0 || pace.decode.is_none()) {
            let decode = decode.filter(|_| num_decodes > 0).unwrap_or(0.0);
            // Never zero, so that the limit stays finite.
            let of_prompt = (seconds - decode).max(LEAST_SHARE * seconds).max(1e-9);
            learn(&mut pace.prompt_token, of_prompt / num_prefill as f64);
        }
        if num_decodes > 0 {
            pace.decode = decode.map(|seconds| (num_decodes, seconds));
        }
    }
}

impl Pace {
    /// Seconds of a step of `num_decodes` decodes: a row more costs what a prompt's does, but no more than its share of the others.
    fn decode_seconds(&self, num_decodes: usize) -> Option<f64> {
        let (known, seconds) = self.decode?;
        let by_share = seconds * num_decodes as f64 / known as f64;
        let by_row = seconds + (num_decodes as f64 - known as f64) * self.prompt_token.unwrap_or(0.0);
        Some(by_row.clamp(seconds.min(by_share), seconds.max(by_share)))
    }

    /// Tokens for which `room` seconds are enough, so that with the decodes they fill the rows that linear layers take at once.
    fn prefill_limit(&self, num_decodes: usize, room: f64) -> usize {
        let tokens = self.prompt_token.map_or(FIRST_GUESS, |prompt_token| (room / prompt_token) as usize);
        let rows = num_decodes + tokens.max(MIN_PREFILL + PANEL_ROWS - 1);
        rows / PANEL_ROWS * PANEL_ROWS - num_decodes
    }
}

/// Moves an average towards a new measurement, which is all of it if it is the first.
fn learn(average: &mut Option<f64>, new: f64) {
    let average = average.get_or_insert(new);
    *average += WEIGHT * (new.clamp(*average / SURPRISE, *average * SURPRISE) - *average);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: ModelId = ModelId(0);
    const SMALL: ModelId = ModelId(1);

    fn pacer(milliseconds: u64) -> Pacer {
        Pacer::new(Duration::from_millis(milliseconds), 2)
    }

    /// What may join so many decodes, if so many prompts of the same model wait.
    fn limit(pacer: &Pacer, num_decodes: usize, num_prefills: usize) -> usize {
        pacer.prefill_limit([Work { num_decodes, num_prefills }].into_iter())
    }

    fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    /// What a small model on a few cores takes: weights, rows in panels, and a prompt's row the more, the later it stands.
    fn machine(num_decodes: usize, num_prefill: usize, position: usize) -> Duration {
        let panels = (num_decodes + num_prefill).div_ceil(PANEL_ROWS);
        Duration::from_micros((2000 + 400 * panels + num_prefill * (50 + position / 40)) as u64)
    }

    #[test]
    fn limits_prompts_only_beside_decodes() {
        let mut pacer = pacer(100);
        assert_eq!(limit(&pacer, 0, 1), usize::MAX);
        assert_eq!(limit(&pacer, 8, 1), FIRST_GUESS);
        assert_eq!(limit(&pacer, 8, 0), usize::MAX);
        pacer.observe(LARGE, 0, 500, milliseconds(500));
        assert_eq!(limit(&pacer, 4, 1), 100);
        pacer.observe(LARGE, 4, 0, milliseconds(80));
        assert_eq!(limit(&pacer, 4, 1), 60);
        assert_eq!(limit(&self::pacer(0), 4, 1), usize::MAX);
    }

    #[test]
    fn a_long_prompt_does_not_double_the_time_between_others_tokens() {
        let mut pacer = pacer(25);
        let mut position = 0;
        pacer.observe(LARGE, 0, 300, milliseconds(30));
        (0..50).for_each(|_| pacer.observe(LARGE, 8, 0, machine(8, 0, 0)));
        let mut num_steps = 0;
        while position < 2000 {
            let num_prefill = limit(&pacer, 8, 1);
            let time = machine(8, num_prefill, position);
            // What the first of them cost is not known yet.
            assert!(num_steps < 5 || time <= 2 * machine(8, 0, 0), "{time:?} at {position}");
            assert!(time < milliseconds(25));
            pacer.observe(LARGE, 8, num_prefill, time);
            position += num_prefill;
            num_steps += 1;
        }
        assert!(num_steps < 250, "{num_steps}");
    }

    #[test]
    fn prompts_take_more_of_a_step_as_more_of_them_wait() {
        let mut pacer = pacer(100);
        pacer.observe(LARGE, 8, 0, milliseconds(10));
        (0..50).for_each(|_| pacer.observe(LARGE, 8, 10, milliseconds(20)));
        let steps = [1, 2, 5, 500].map(|num_prefills| 10 + limit(&pacer, 8, num_prefills));
        assert_eq!(steps, [18, 26, 50, 98]);
        // Steps of decodes that already take longer than the target are stretched, too.
        (0..50).for_each(|_| pacer.observe(LARGE, 8, 0, milliseconds(200)));
        assert_eq!(limit(&pacer, 8, 500), 144);
    }

    #[test]
    fn rows_fill_panels_and_prompts_never_stand_still() {
        let mut pacer = pacer(20);
        pacer.observe(LARGE, 8, 0, milliseconds(90));
        (0..50).for_each(|_| pacer.observe(LARGE, 8, 10, Duration::from_secs(9)));
        for num_decodes in 1..40 {
            let num_prefill = limit(&pacer, num_decodes, 1);
            assert!((MIN_PREFILL..MIN_PREFILL + PANEL_ROWS).contains(&num_prefill));
            assert_eq!((num_decodes + num_prefill) % PANEL_ROWS, 0);
        }
    }

    #[test]
    fn follows_the_machine_but_not_every_interruption() {
        let mut pacer = pacer(100);
        (0..100).for_each(|_| pacer.observe(LARGE, 8, 0, milliseconds(40)));
        (0..100).for_each(|_| pacer.observe(LARGE, 8, 40, milliseconds(60)));
        assert_eq!(limit(&pacer, 8, 1), 56);
        // Every fourth step of decodes is interrupted.
        (0..100).for_each(|i| pacer.observe(LARGE, 8, 0, milliseconds(if i % 4 == 3 { 120 } else { 40 })));
        assert_eq!(limit(&pacer, 8, 1), 56);
        // A neighbour takes half of the machine.
        (0..100).for_each(|_| pacer.observe(LARGE, 8, 0, milliseconds(80)));
        (0..100).for_each(|_| pacer.observe(LARGE, 8, 40, milliseconds(120)));
        assert_eq!(limit(&pacer, 8, 1), 56);
    }

    #[test]
    fn knows_what_more_decodes_take_before_it_has_seen_them_alone() {
        let mut pacer = pacer(100);
        pacer.observe(LARGE, 8, 0, milliseconds(20));
        (0..50).for_each(|_| pacer.observe(LARGE, 8, 8, milliseconds(28)));
        // Ten more than were alone: 38 ms, of which three quarters are for prompts, a millisecond each.
        assert_eq!(limit(&pacer, 26, 1), 22);
        for num_decodes in 9..=26 {
            pacer.observe(LARGE, num_decodes, 8, milliseconds(20 + num_decodes as u64));
        }
        assert_eq!(limit(&pacer, 26, 1), 22);
    }

    #[test]
    fn a_large_models_prompts_are_not_cut_by_what_those_of_a_small_one_cost() {
        let mut pacer = pacer(100);
        pacer.observe(LARGE, 0, 100, milliseconds(200));
        pacer.observe(SMALL, 0, 100, milliseconds(10));
        pacer.observe(SMALL, 8, 0, milliseconds(80));
        // By model: how many of its prompts wait. The small one decodes.
        let limit = |num_prefills: [usize; 2]| {
            let work = [(0, num_prefills[0]), (8, num_prefills[1])];
            let work = work.map(|(num_decodes, num_prefills)| Work { num_decodes, num_prefills });
            pacer.prefill_limit(work.into_iter())
        };
        assert_eq!(limit([0, 1]), 600);
        assert_eq!(limit([1, 0]), 24);
        assert_eq!(limit([1, 1]), 24);
        assert_eq!(limit([0, 0]), usize::MAX);
    }
}
