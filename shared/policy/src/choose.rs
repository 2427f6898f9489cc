//! Power of two choices (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001): of two replicas
//! drawn at random, the one with less to do. Calls that belong together go by [`Affinity`] instead.

mod affinity;

pub use affinity::{Affinity, identity};

use rand::{Rng, RngExt as _};

/// What the balancer knows of one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// What tells it from the others, the same in every process: [`identity`] of its name. Only affinity looks at it.
    pub identity: u64,
    /// Calls that this process has sent it and that have not ended.
    pub in_flight: u64,
    /// Its worker is shutting down: it still serves, but should not be given more.
    pub draining: bool,
    /// An earlier attempt of this call went to it.
    pub tried: bool,
}

/// Which candidates are looked at, the least first: the derived order is the policy.
///
/// An untried one that drains is better than a tried one that does not: the tried one has just failed this very call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    tried: bool,
    draining: bool,
}

/// What giving a candidate the call would cost, the least first: the derived order is the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    in_flight: u64,
    /// Its place in the draw. A tie must not go by name, or an idle mesh would send every call to the first replica.
    drawn: u8,
}

impl Candidate {
    const fn standing(&self) -> Standing {
        Standing { tried: self.tried, draining: self.draining }
    }
}

/// The index of the candidate that takes the call; `None` only when there is none at all.
///
/// With an affinity, it is the one of the best standing that the affinity prefers, however much that one has to do. Reads the
/// candidates at most three times, without allocating, so an iterator over live counters will do.
pub fn choose<R: Rng + ?Sized>(
    candidates: impl Iterator<Item = Candidate> + Clone,
    affinity: Option<Affinity>,
    rng: &mut R,
) -> Option<usize> {
    let (best, count) = best_standing(candidates.clone())?;
    if let Some(affinity) = affinity {
        let standing = candidates.enumerate().filter(|(_, candidate)| candidate.standing() == best);
        return standing.max_by_key(|(_, candidate)| affinity.preference(candidate.identity)).map(|(index, _)| index);
    }
    let first = rng.random_range(0..count);
    if count == 1 {
        return nth(candidates, best, first).map(|(index, _)| index);
    }
    // Drawn from the others, so that the two always differ.
    let other = rng.random_range(0..count - 1);
    let second = if other >= first { other + 1 } else { other };
    let drawn = [first, second].into_iter().zip(0u8..);
    let priced = drawn.filter_map(|(place, drawn)| {
        let (index, candidate) = nth(candidates.clone(), best, place)?;
        Some((Cost { in_flight: candidate.in_flight, drawn }, index))
    });
    priced.min().map(|(_, index)| index)
}

/// The best standing that any candidate has, and how many have it.
fn best_standing(candidates: impl Iterator<Item = Candidate>) -> Option<(Standing, usize)> {
    candidates.map(|candidate| candidate.standing()).fold(None, |best, standing| match best {
        Some((known, count)) if known == standing => Some((known, count + 1)),
        Some((known, count)) if known < standing => Some((known, count)),
        _ => Some((standing, 1)),
    })
}

fn nth(candidates: impl Iterator<Item = Candidate>, standing: Standing, place: usize) -> Option<(usize, Candidate)> {
    candidates.enumerate().filter(|(_, candidate)| candidate.standing() == standing).nth(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    fn candidate() -> impl Strategy<Value = Candidate> {
        (0u64..100, any::<bool>(), any::<bool>(), any::<u64>())
            .prop_map(|(in_flight, draining, tried, identity)| Candidate { identity, in_flight, draining, tried })
    }

    proptest! {
        #[test]
        fn keeps_off_tried_and_draining_replicas(
            all in proptest::collection::vec(candidate(), 0..12),
            key: Option<u64>,
            seed: u64,
        ) {
            let affinity = key.map(|key| Affinity::of("m", key));
            let chosen = choose(all.iter().copied(), affinity, &mut StdRng::seed_from_u64(seed));
            let Some(index) = chosen else { return Err(TestCaseError::fail("no choice")).or_else(|failed| if all.is_empty() { Ok(()) } else { Err(failed) }) };
            let chosen = all[index];
            prop_assert!(!chosen.tried || all.iter().all(|other| other.tried));
            prop_assert!(!chosen.draining || all.iter().all(|other| other.draining || other.tried != chosen.tried));
        }

        /// The one with the most in flight wins only when it is alone or ties.
        #[test]
        fn never_takes_the_single_worst(loads in proptest::collection::vec(0u64..50, 2..12), seed: u64) {
            let all = loads.iter().map(|in_flight| Candidate { in_flight: *in_flight, ..Candidate::default() });
            let index = choose(all, None, &mut StdRng::seed_from_u64(seed)).expect("there are candidates");
            prop_assert!(loads.iter().enumerate().any(|(other, load)| other != index && *load >= loads[index]));
        }
    }

    /// Idle replicas share calls evenly: each within five standard deviations of its share.
    #[test]
    fn idle_replicas_share_evenly() {
        const CALLS: usize = 50_000;
        for count in [2usize, 3, 7] {
            let mut rng = StdRng::seed_from_u64(7);
            let mut taken = vec![0usize; count];
            for _ in 0..CALLS {
                taken[choose(std::iter::repeat_n(Candidate::default(), count), None, &mut rng).expect("candidates")] +=
                    1;
            }
            let share = CALLS as f64 / count as f64;
            let tolerance = 5.0 * (share * (1.0 - 1.0 / count as f64)).sqrt();
            for calls in &taken {
                assert!((*calls as f64 - share).abs() < tolerance, "{taken:?}");
            }
        }
    }

    /// In a closed loop of 16 callers over 4 replicas, one ten times slower gets far less than a quarter of the calls.
    #[test]
    fn a_slow_replica_gets_less() {
        let service = [10u64, 10, 10, 100];
        let mut rng = StdRng::seed_from_u64(11);
        let (mut ends, mut in_flight, mut taken) = (Vec::new(), [0u64; 4], [0u64; 4]);
        let mut now = 0;
        for call in 0..20_000u64 {
            if call >= 16 {
                let next = (0..ends.len()).min_by_key(|slot| ends[*slot]).expect("calls run");
                let (end, replica): (u64, usize) = ends.swap_remove(next);
                now = end;
                in_flight[replica] -= 1;
            }
            let all = in_flight.iter().map(|in_flight| Candidate { in_flight: *in_flight, ..Candidate::default() });
            let replica = choose(all, None, &mut rng).expect("candidates");
            in_flight[replica] += 1;
            taken[replica] += 1;
            // Each replica serves at its own pace whatever its queue, so only the choice can protect the callers.
            ends.push((now + service[replica], replica));
        }
        assert!(taken[3] * 5 < taken[0], "{taken:?}");
        assert!(taken[..3].iter().all(|calls| *calls > 5_000), "{taken:?}");
    }
}
