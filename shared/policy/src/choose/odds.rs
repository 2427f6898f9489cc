//! How likely each replica is to be chosen: the choice's own rules, over every draw that it could make.

use super::{Best, Candidate, Look as _, Terms, compare, led, passed_on, prospects, zone};

/// The probability of each candidate to take a call now that has time enough, in their order; the sum is 1 unless there is none.
///
/// The work grows with the square of their number: it is for answers to operators, not for calls.
pub fn odds(candidates: &[Candidate], terms: impl Into<Terms>) -> Vec<f64> {
    let Terms { affinity, bound, .. } = terms.into();
    let mut odds = vec![0.0; candidates.len()];
    let Some(best) = Best::of(candidates.iter().copied()) else { return odds };
    if let Some(affinity) = affinity {
        if let Some(led) = led(candidates, affinity, bound) {
            odds[led.taken] = 1.0;
        }
        return odds;
    }
    let indexed = candidates.iter().copied().enumerate();
    let equals: Vec<_> = indexed.filter(|(_, candidate)| candidate.standing() == best.standing).collect();
    if !zone::matters(best.local, best.count) {
        drawn(&equals, &mut odds);
        return odds;
    }
    let (mut anywhere, mut nearby) = (odds.clone(), odds.clone());
    drawn(&equals, &mut anywhere);
    let local: Vec<_> = equals.iter().copied().filter(zone::is_local).collect();
    drawn(&local, &mut nearby);
    // The two draws are independent of each other.
    for (near, of_near) in &local {
        for (other, of_other) in &equals {
            let both = nearby[*near] * anywhere[*other];
            let stays = share_that_stays((*near, of_near), (*other, of_other));
            odds[*near] += both * stays;
            odds[*other] += both * (1.0 - stays);
        }
    }
    odds
}

fn share_that_stays((near, of_near): (usize, &Candidate), (other, of_other): (usize, &Candidate)) -> f64 {
    let (at_near, at_other) = prospects(of_near, of_other, None);
    if near != other && zone::stays(at_near, at_other) { 1.0 - f64::from(passed_on(of_near, of_other)) } else { 0.0 }
}

/// Adds how likely each is to be the better of two that are drawn from these.
fn drawn(pool: &[(usize, Candidate)], odds: &mut [f64]) {
    if let [(index, _)] = pool {
        odds[*index] = 1.0;
    }
    // Each of these ordered pairs is drawn equally often.
    let draws = (pool.len() * pool.len().saturating_sub(1)) as f64;
    for (place, one) in pool.iter().enumerate() {
        for (_, other) in pool.iter().enumerate().filter(|(other, _)| *other != place) {
            let pair = compare(*one, *other, None);
            let passed_on = f64::from(pair.passed_on());
            odds[pair.better.0] += (1.0 - passed_on) / draws;
            odds[pair.other.0] += passed_on / draws;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::super::{Affinity, Bound, choose};
    use super::*;

    fn candidate() -> impl Strategy<Value = Candidate> {
        let latency = proptest::option::of(0.0f32..0.1);
        let flag = || proptest::bool::weighted(0.2);
        let there_for = (0u64..20).prop_map(Duration::from_secs);
        (0u64..5, latency, (flag(), flag(), flag()), any::<(u64, bool)>(), there_for).prop_map(
            |(in_flight, latency, (draining, tried, ejected), (identity, local), there_for)| Candidate {
                identity,
                in_flight,
                local,
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
            factor in 0.5f64..3.0,
            seed: u64,
        ) {
            const DRAWS: u32 = 2_000;
            let affinity = key.map(|key| Affinity::of("m", key));
            let terms = Terms { affinity, bound: Bound::new(factor), remaining: None };
            let odds = odds(&all, terms);
            let mut rng = StdRng::seed_from_u64(seed);
            let mut taken = vec![0u32; all.len()];
            for _ in 0..DRAWS {
                if let Some(index) = choose(all.iter().copied(), terms, &mut rng) {
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
