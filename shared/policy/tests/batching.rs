//! The batching policy against fixed delays, in a simulation from fixed seeds.

#[path = "../benches/batching/simulate.rs"]
mod simulate;

use simulate::{Batcher, Curve, Scenario};

const SEEDS: u64 = 5;
const LOADS: [f64; 4] = [0.5, 0.8, 0.95, 1.2];

fn scenario(curve: Curve, load: f64, deadlines: &'static [f64]) -> Scenario {
    Scenario { curve, load, deadlines, requests: 6000, seed: 0 }
}

/// The best of the fixed batchers, each judged by its mean over the seeds.
fn best_fixed(scenario: &Scenario) -> f64 {
    Batcher::fixed(scenario.curve)
        .into_iter()
        .map(|batcher| simulate::mean(scenario, batcher, SEEDS))
        .fold(0.0, f64::max)
}

/// One setting for everything, against the fixed delay that turns out best for each case; with and without an admission that
/// refuses beforehand what it thinks infeasible.
#[test]
fn never_keeps_fewer_deadlines_than_the_best_fixed_delay() {
    for curve in Curve::ALL {
        for (load, deadlines) in
            LOADS.iter().flat_map(|load| [&[2.0][..], &[5.0], &[2.0, 5.0]].map(|each| (*load, each)))
        {
            let scenario = scenario(curve, load, deadlines);
            let best = best_fixed(&scenario);
            for admits in [false, true] {
                let policy = simulate::mean(&scenario, Batcher::learned(curve, admits), SEEDS);
                assert!(
                    policy >= best * 0.995,
                    "{scenario:?}, admission {admits}: {policy} of the policy, {best} of the best"
                );
            }
        }
    }
}

/// At 120 % five sixths can be served at the most. What could be lost beyond that is the noise of the model and of the arrivals.
#[test]
fn overload_is_served_at_nearly_the_full_rate() {
    for curve in Curve::ALL {
        for deadlines in [&[2.0][..], &[5.0]] {
            let policy = simulate::mean(&scenario(curve, 1.2, deadlines), Batcher::learned(curve, false), SEEDS);
            assert!(policy >= 0.9 / 1.2, "{curve:?}, {deadlines:?}: {policy}");
        }
    }
}

/// Near the capacity at least half of the misses of the best fixed delay are avoided, where it misses any.
#[test]
fn half_of_the_misses_at_the_edge_are_avoided() {
    for curve in Curve::ALL {
        let scenario = scenario(curve, 0.95, &[2.0]);
        let policy = simulate::mean(&scenario, Batcher::learned(curve, false), SEEDS);
        let best = best_fixed(&scenario);
        assert!(1.0 - policy <= 0.5 * (1.0 - best), "{curve:?}: {policy} of the policy, {best} of the best");
    }
}
