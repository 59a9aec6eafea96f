//! Which experts a token's scores choose, and how much each counts: Shazeer et al. 2017 (arXiv:1701.06538), Eq. 3–5,
//! without noise. Leaves the experts to the decoder.

use super::backend::Route;
use super::config::ExpertsConfig;

/// For each expert the rows of `scores`, `[rows, count]`, that chose it, ascending. A row chooses its `per_token` best
/// experts, of equals the first, and weighs them by the softmax of all scores.
pub(super) fn routes(scores: &[f32], experts: &ExpertsConfig) -> Vec<Vec<Route>> {
    let mut routes = vec![Vec::new(); experts.count];
    let mut order: Vec<usize> = Vec::with_capacity(experts.count);
    for (row, scores) in (0..).zip(scores.chunks_exact(experts.count.max(1))) {
        order.clear();
        order.extend(0..experts.count);
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let chosen = &order[..experts.per_token.min(order.len())];
        let Some(best) = chosen.first().map(|&best| scores[best]) else { continue };
        let share = |expert: usize| (scores[expert] - best).exp();
        let total: f32 = match experts.normalised {
            true => chosen.iter().map(|&expert| share(expert)).sum(),
            false => (0..experts.count).map(share).sum(),
        };
        for &expert in chosen {
            routes[expert].push(Route { row, weight: share(expert) / total });
        }
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORES: [f32; 8] = [0.0, 2.0, 1.0, 2.0, 3.0, 0.0, 0.0, -1.0];

    fn weights(normalised: bool) -> Vec<Vec<(u32, f32)>> {
        let experts = ExpertsConfig { count: 4, per_token: 2, intermediate_size: 1, normalised };
        let pairs = |routes: &Vec<Route>| routes.iter().map(|route| (route.row, route.weight)).collect();
        routes(&SCORES, &experts).iter().map(pairs).collect()
    }

    #[test]
    fn the_best_are_chosen_and_of_equals_the_first() {
        let chosen = weights(true);
        let rows: Vec<Vec<u32>> =
            chosen.iter().map(|routes| routes.iter().map(|route| route.0).collect()).collect();
        assert_eq!(rows, [vec![1], vec![0, 1], vec![], vec![0]]);
        assert_eq!((chosen[1][0].1, chosen[3][0].1), (0.5, 0.5));
    }

    #[test]
    fn weights_are_those_of_all_experts_unless_normalised() {
        let sum = |weights: &[Vec<(u32, f32)>], row: u32| -> f32 {
            weights.iter().flatten().filter(|route| route.0 == row).map(|route| route.1).sum()
        };
        for row in [0, 1] {
            assert!((sum(&weights(true), row) - 1.0).abs() < 1e-6);
        }
        let total: f32 = [0.0f32, 2.0, 1.0, 2.0].iter().map(|x| x.exp()).sum();
        assert!((sum(&weights(false), 0) - 2.0 * 2f32.exp() / total).abs() < 1e-6);
    }
}
