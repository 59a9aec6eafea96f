//! What the metrics of every method on pairs have in common, under TRL's names. Leaves losses to `losses`.

use super::logprobs::TokenLogprobs;
use super::method::Stats;

const SIDES: [&str; 2] = ["chosen", "rejected"];

/// Adds the metrics of a batch of pairs: their rewards and log-probabilities, chosen and rejected, and the policy's
/// answer to both, of which `policy.spans` are the completions.
pub(crate) fn add_metrics(
    stats: &mut Stats,
    policy: &TokenLogprobs,
    rewards: &[[f64; 2]],
    logprobs: &[[f64; 2]],
) {
    for ([chosen, rejected], logprobs) in rewards.iter().zip(logprobs) {
        for (side, (reward, logprob)) in SIDES.iter().zip([chosen, rejected].into_iter().zip(logprobs)) {
            stats.add(&format!("rewards/{side}"), *reward, 1.0);
            stats.add(&format!("logps/{side}"), *logprob, 1.0);
        }
        stats.add("rewards/accuracies", f64::from(u8::from(chosen > rejected)), 1.0);
        stats.add("rewards/margins", chosen - rejected, 1.0);
    }
    for (index, span) in policy.spans.iter().enumerate() {
        let (side, count) = (SIDES[index % 2], span.len() as f64);
        let logits = policy.sum(index, |token| f64::from(token.mean_logit));
        stats.add(&format!("logits/{side}"), logits, count);
        stats.add("entropy", policy.sum(index, |token| f64::from(token.entropy)), count);
        if side == SIDES[0] {
            let right = policy.sum(index, |token| f64::from(u8::from(token.is_argmax)));
            stats.add("mean_token_accuracy", right, count);
        }
    }
}
