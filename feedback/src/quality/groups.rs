//! Groups of annotators who contradict everybody and the reward on the same items, more of them than err by chance, and
//! are judged together. Catches many accounts with few votes each. Leaves single annotators to `annotators`.

use std::collections::BTreeMap;

use super::Reason;
use super::accuracy::Likelihood;
use super::annotators::{Annotator, Calibration, Quarantine};
use super::config::AnnotatorRules;
use super::minhash::Clusters;
use super::report::{Anomaly, AnomalyKind};

/// The truth of an item is taken as sure from this probability on.
const SURE: f64 = 0.8;
/// Items on which so many err are expected by chance at most this often in all.
const MAX_CHANCE_ITEMS: f64 = 0.01;

/// Marks the members of groups; returns one anomaly for each group.
pub(crate) fn find(calibration: &mut Calibration, rules: &AnnotatorRules) -> Vec<Anomaly> {
    let mut clusters = Clusters::new(calibration.annotators.len());
    for against in contradicted(calibration) {
        // Somebody who is mostly right does not become part of a group by one slip.
        let suspects = against
            .into_iter()
            .filter(|&annotator| calibration.annotators[annotator].accuracy.value < rules.min_accuracy);
        let suspects: Vec<usize> = suspects.collect();
        suspects.windows(2).for_each(|pair| clusters.join(pair[0], pair[1]));
    }
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for annotator in 0..calibration.annotators.len() {
        groups.entry(clusters.first(annotator)).or_default().push(annotator);
    }
    let mut anomalies = Vec::new();
    for members in groups.into_values().filter(|members| members.len() >= rules.min_group) {
        let mut together = Likelihood::default();
        for (answer, &right) in calibration.opinions.answers.iter().zip(&calibration.model.others) {
            if members.binary_search(&answer.annotator).is_ok() {
                together.observe(right);
            }
        }
        let measured = together.accuracy().interval.high;
        if measured >= rules.min_accuracy {
            continue;
        }
        anomalies.push(Anomaly {
            kind: AnomalyKind::Group,
            who: members.iter().map(|&member| calibration.annotators[member].name.clone()).collect(),
            what: "votes of a group that are right by everybody else and the reward, at most".to_owned(),
            measured,
            limit: rules.min_accuracy,
            votes: members.iter().map(|&member| calibration.annotators[member].votes).sum(),
            since: 0,
        });
        for member in members {
            let annotator: &mut Annotator = &mut calibration.annotators[member];
            annotator.quarantine.get_or_insert_with(|| Quarantine {
                reason: Reason::Coordinated,
                measured,
                limit: rules.min_accuracy,
                what: "votes of the group that are right by everybody else and the reward".to_owned(),
            });
        }
    }
    anomalies
}

/// For each item that more people contradict than err by chance: who does.
fn contradicted(calibration: &Calibration) -> Vec<Vec<usize>> {
    let truth = &calibration.model.truth;
    let mut of_item: BTreeMap<usize, (u32, Vec<usize>)> = BTreeMap::new();
    let (mut wrong, mut sure) = (0.0, 0.0);
    for answer in &calibration.opinions.answers {
        let truth = truth[answer.item];
        if truth.max(1.0 - truth) >= SURE {
            let (all, against) = of_item.entry(answer.item).or_default();
            *all += 1;
            sure += 1.0;
            if answer.says != (truth > 0.5) {
                against.push(answer.annotator);
                wrong += 1.0;
            }
        }
    }
    // What an ordinary person gets wrong; the floor keeps a perfect crowd from making two slips a conspiracy.
    let ordinary = (wrong / f64::max(sure, 1.0)).clamp(0.1, 0.3);
    let limit = MAX_CHANCE_ITEMS / of_item.len().max(1) as f64;
    let unlikely =
        |(all, against): &(u32, Vec<usize>)| binomial_tail(against.len() as u32, *all, ordinary) < limit;
    of_item.into_values().filter(unlikely).map(|(_, against)| against).collect()
}

/// `P(X ≥ k)` of `n` trials with probability `p`.
fn binomial_tail(k: u32, n: u32, p: f64) -> f64 {
    let mut term = (1.0 - p).powi(n as i32);
    let mut below = 0.0;
    for i in 0..k {
        below += term;
        term *= f64::from(n - i) / f64::from(i + 1) * p / (1.0 - p);
    }
    (1.0 - below).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binomial_tail_is_exact() {
        assert!((binomial_tail(1, 3, 0.5) - 0.875).abs() < 1e-12);
        assert!((binomial_tail(2, 2, 0.1) - 0.01).abs() < 1e-12);
        assert_eq!(binomial_tail(0, 5, 0.3), 1.0);
    }
}
