//! Ragged traffic: when requests arrive, how long they are, and what one of them saw. Leaves sending them to `serving`.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::cli::random;

/// Which requests are sent.
#[derive(Clone, Debug, clap::Args)]
pub struct TrafficArgs {
    /// Requests to send.
    #[arg(long, default_value_t = 64, value_parser = crate::cli::args::positive)]
    pub requests: usize,
    /// Requests per second on average; 0 sends all at once.
    #[arg(long, default_value_t = 4.0)]
    pub rate: f64,
    /// Shortest and longest prompt.
    #[arg(long, default_value = "32-512", value_name = "LOW-HIGH", value_parser = range)]
    pub prompt_len: RangeInclusive<usize>,
    /// Shortest and longest answer, end-of-text ignored.
    #[arg(long, default_value = "16-256", value_name = "LOW-HIGH", value_parser = range)]
    pub gen_len: RangeInclusive<usize>,
    /// Prompts are random token ids below this; every model has more tokens.
    #[arg(long, default_value_t = 400, value_parser = crate::cli::args::positive, value_name = "TOKENS")]
    pub vocab_size: usize,
    /// Decides arrivals, lengths and prompts.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

fn range(text: &str) -> Result<RangeInclusive<usize>, String> {
    let ends = text.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    match ends {
        Some((low, high)) if 1 <= low && low <= high => Ok(low..=high),
        _ => Err("write LOW-HIGH with 1 ≤ LOW ≤ HIGH, such as 32-512".to_owned()),
    }
}

/// One request of the traffic.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arrival {
    pub(super) at: Duration,
    pub(super) prompt: Vec<u32>,
    pub(super) max_tokens: usize,
}

impl TrafficArgs {
    /// The traffic of a seed: exponential gaps between arrivals (a Poisson process), lengths uniform in their ranges.
    pub(super) fn arrivals(&self) -> Vec<Arrival> {
        // Ids below this are special tokens in most vocabularies.
        let first_id = 10.min(self.vocab_size - 1);
        let mut at = Duration::ZERO;
        let arrival = |index: usize| {
            let draw = |what: u64| random::mix(self.seed, 4 * index as u64 + what);
            if self.rate > 0.0 {
                at += Duration::from_secs_f64(-random::unit(draw(0), 0).ln() / self.rate);
            }
            let length = |what, range: &RangeInclusive<usize>| {
                random::between(draw(what), 0, *range.start(), *range.end())
            };
            let token =
                |position| random::between(draw(3), position as u64, first_id, self.vocab_size - 1) as u32;
            let prompt = (0..length(1, &self.prompt_len)).map(token).collect();
            Arrival { at, prompt, max_tokens: length(2, &self.gen_len) }
        };
        (0..self.requests).map(arrival).collect()
    }
}

/// What one request saw.
#[derive(Debug)]
pub(super) struct Trace {
    sent: Instant,
    last: Instant,
    /// From sending to the first token, in seconds.
    pub(super) ttft: Option<f64>,
    /// Between tokens, in seconds.
    pub(super) gaps: Vec<f64>,
    /// From sending to the end, in seconds.
    pub(super) latency: f64,
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
}

impl Trace {
    /// Of a request that is sent now.
    pub(super) fn start() -> Self {
        let (sent, gaps) = (Instant::now(), Vec::new());
        Self { sent, last: sent, ttft: None, gaps, latency: 0.0, prompt_tokens: 0, completion_tokens: 0 }
    }

    /// A token has come.
    pub(super) fn token(&mut self) {
        let now = Instant::now();
        let since_last = (now - std::mem::replace(&mut self.last, now)).as_secs_f64();
        match self.ttft {
            None => self.ttft = Some(since_last),
            Some(_) => self.gaps.push(since_last),
        }
    }

    /// The answer is complete.
    pub(super) fn end(self) -> Self {
        Self { latency: self.sent.elapsed().as_secs_f64(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        traffic: TrafficArgs,
    }

    #[test]
    fn the_traffic_follows_its_seed_and_ranges() {
        let args = Command::try_parse_from(["bench", "--requests", "2000", "--rate", "50"]).expect("valid");
        let args = args.traffic;
        let arrivals = args.arrivals();
        assert_eq!(arrivals, args.arrivals());
        assert!(arrivals.is_sorted_by_key(|arrival| arrival.at));
        for arrival in &arrivals {
            assert!((32..=512).contains(&arrival.prompt.len()) && (16..=256).contains(&arrival.max_tokens));
            assert!(arrival.prompt.iter().all(|id| (10..400).contains(id)));
        }
        // 2000 exponential gaps of 20 ms: 40 s ± 5 standard deviations of 0.9 s.
        let last = arrivals.last().expect("arrivals").at.as_secs_f64();
        assert!((last - 40.0).abs() < 4.5, "{last}");
        assert!(TrafficArgs { rate: 0.0, ..args }.arrivals().iter().all(|arrival| arrival.at.is_zero()));
    }

    #[test]
    fn ranges_are_low_to_high() {
        assert_eq!(range("32-512"), Ok(32..=512));
        for bad in ["", "5", "0-3", "9-3", "a-b"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
