//! How well a reward model did on its hold-out, as its own folder tells: the log of its training, or its card. Leaves what
//! is asked of it to the methods.

use std::path::Path;

use serde_json::Value;

use super::RewardSpec;
use crate::error::TrainError;

/// Refuses reward models that say they were right on less than `required` of their held-out pairs. Those that say nothing
/// pass: their names are returned.
///
/// # Errors
/// [`TrainError::Config`] naming the folder.
pub(crate) fn check(rewards: &[RewardSpec], required: f64) -> Result<Vec<String>, TrainError> {
    let mut silent = Vec::new();
    for reward in rewards {
        let RewardSpec::Model { path } = reward else { continue };
        match accuracy(path) {
            Some(accuracy) if accuracy < required => {
                let message = format!(
                    "{} was right on {:.1} % of its held-out pairs, below {:.0} %: a policy would learn its mistakes; train \
                     it further, or lower min_reward_accuracy",
                    path.display(),
                    100.0 * accuracy,
                    100.0 * required
                );
                return Err(TrainError::config("reward", message));
            }
            Some(_) => {}
            None => silent.push(path.display().to_string()),
        }
    }
    Ok(silent)
}

/// The last `eval_accuracy` of the folder's log, or that of its card.
fn accuracy(folder: &Path) -> Option<f64> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let logged = |line: &str| serde_json::from_str::<Value>(line).ok()?.get("eval_accuracy")?.as_f64();
    let on_card = |line: &str| line.strip_prefix("| eval_accuracy | ")?.trim_end_matches(" |").parse().ok();
    let log = read("train_log.jsonl");
    log.lines().rev().find_map(logged).or_else(|| read("README.md").lines().find_map(on_card))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reward_model_that_says_it_guesses_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let rewards = [RewardSpec::Model { path: folder.path().to_owned() }, RewardSpec::Json {}];
        assert_eq!(check(&rewards, 0.65).unwrap().len(), 1, "a silent one passes");
        std::fs::write(folder.path().join("README.md"), "| metric | value |\n| eval_accuracy | 0.6 |\n")
            .unwrap();
        let error = check(&rewards, 0.65).unwrap_err().to_string();
        assert!(error.contains("right on 60.0 % of its held-out pairs, below 65 %"), "{error}");
        assert!(check(&rewards, 0.5).unwrap().is_empty());
        let log =
            "{\"step\": 1, \"eval_accuracy\": 0.5}\n{\"step\": 2, \"eval_accuracy\": 0.9}\n{\"step\": 3}\n";
        std::fs::write(folder.path().join("train_log.jsonl"), log).unwrap();
        assert!(check(&rewards, 0.65).unwrap().is_empty());
    }
}
