//! How likely each replica is to be chosen: the choice's own rules, over every draw that it could make.

use super::{Affinity, Candidate, Look as _, best_standing, compare};

/// The probability of each candidate to take a call now that has time enough, in their order; the sum is 1 unless there is none.
///
/// The work grows with the square of their number: it is for answers to operators, not for calls.
pub fn odds(candidates: &[Candidate], affinity: Option<Affinity>) -> Vec<f64> {
    let mut odds = vec![0.0; candidates.len()];
    let Some((best, count)) = best_standing(candidates.iter().copied()) else { return odds };
    let indexed = || candidates.iter().copied().enumerate().filter(|(_, candidate)| candidate.standing() == best);
    if affinity.is_some() || count == 1 {
        let key = |candidate: &Candidate| affinity.map(|affinity| affinity.preference(candidate.identity));
        if let Some((index, _)) = indexed().max_by_key(|(_, candidate)| key(candidate)) {
            odds[index] = 1.0;
        }
        return odds;
    }
    // Each of these ordered pairs is drawn equally often.
    let draws = (count * (count - 1)) as f64;
    for (place, one) in indexed().enumerate() {
        for (_, other) in indexed().enumerate().filter(|(other, _)| *other != place) {
            let pair = compare(one, other, None);
            let passed_on = f64::from(pair.passed_on());
            odds[pair.better.0] += (1.0 - passed_on) / draws;
            odds[pair.other.0] += passed_on / draws;
        }
    }
    odds
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::super::choose;
    use super::*;

    fn candidate() -> impl Strategy<Value = Candidate> {
        let latency = proptest::option::of(0.0f32..0.1);
        let flag = || proptest::bool::weighted(0.2);
        let there_for = (0u64..20).prop_map(Duration::from_secs);
        (0u64..5, latency, (flag(), flag(), flag()), any::<u64>(), there_for).prop_map(
            |(in_flight, latency, (draining, tried, ejected), identity, there_for)| Candidate {
                identity,
                in_flight,
                latency,
                there_for,
                ejected,
                draining,
                tried,
                ..Candidate::default()
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What is told is what the choice does: over many draws, each candidate is within five standard deviations.
        #[test]
        fn agrees_with_the_choice(
            all in proptest::collection::vec(candidate(), 0..8),
            key: Option<u64>,
            seed: u64,
        ) {
            const DRAWS: u32 = 2_000;
            let affinity = key.map(|key| Affinity::of("m", key));
            let odds = odds(&all, affinity);
            let mut rng = StdRng::seed_from_u64(seed);
            let mut taken = vec![0u32; all.len()];
            for _ in 0..DRAWS {
                if let Some(index) = choose(all.iter().copied(), affinity, &mut rng) {
                    taken[index] += 1;
                }
            }
            let whole = if all.is_empty() { 0.0 } else { 1.0 };
            prop_assert!((odds.iter().sum::<f64>() - whole).abs() < 1e-9);
            for (odds, taken) in odds.iter().zip(taken) {
                let tolerance = 5.0 * (f64::from(DRAWS) * odds * (1.0 - odds).max(0.0)).sqrt() + 1e-6;
                prop_assert!((f64::from(taken) - odds * f64::from(DRAWS)).abs() <= tolerance, "{taken} for {odds}");
            }
        }
    }
}
