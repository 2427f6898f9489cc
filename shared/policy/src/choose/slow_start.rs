//! Slow start (Envoy's `slow_start_config`, with its aggression of 1 and its least weight of 10 %): a replica that has just come
//! takes a growing share of the calls, so that caches, connections and what is learned of it are there before the load is.

use std::time::Duration;

/// How long it lasts. Workers execute a model before they say that it is ready, so little is left to warm up.
const WINDOW: Duration = Duration::from_secs(10);
/// The share that a replica begins with.
const LEAST: f32 = 0.1;

/// The share of a full one's calls that a replica takes which has been there for so long.
pub(super) fn share(there_for: Duration) -> f32 {
    (there_for.as_secs_f32() / WINDOW.as_secs_f32()).clamp(LEAST, 1.0)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::super::{Candidate, choose};
    use super::*;

    const CALLS: u32 = 20_000;

    /// The share of the calls that the last of three replicas gets, the others being old.
    fn taken(age: f32, busy: u64) -> f32 {
        let old = Candidate { in_flight: busy, there_for: Duration::from_secs(3600), ..Candidate::default() };
        let new = Candidate { in_flight: 0, there_for: Duration::from_secs_f32(age), ..old };
        let mut rng = StdRng::seed_from_u64(2);
        let is_new = |_: &u32| choose([old, old, new].into_iter(), None, &mut rng) == Some(2);
        (0..CALLS).filter(is_new).count() as f32 / CALLS as f32
    }

    /// An idle newcomer is the cheaper one in every pair that it is drawn in, which are two of three: without slow start it would take
    /// 67 % of the calls at once.
    #[test]
    fn a_newcomer_beside_busy_ones_takes_a_share_that_grows_with_its_age() {
        for (age, expected) in [(0.0, 0.1), (1.0, 0.1), (2.5, 0.25), (5.0, 0.5), (9.0, 0.9), (10.0, 1.0), (60.0, 1.0)] {
            let share = taken(age, 5) * 1.5;
            assert!((share - expected).abs() < 0.02, "{share} at {age} s");
        }
    }

    /// Where nobody is busy it is not left without any calls either, which it would be if its cost were divided by its share.
    #[test]
    fn a_newcomer_among_idle_ones_gets_calls_too() {
        let (young, old) = (taken(0.0, 0) * 3.0, taken(60.0, 0) * 3.0);
        assert!((young - 0.1).abs() < 0.02 && (old - 1.0).abs() < 0.02, "{young} {old}");
    }

    /// A mesh that has just begun is not slowed down: where all are equally new, all is as if they were old.
    #[test]
    fn equally_new_replicas_take_what_old_ones_would() {
        let run = |age: u64| -> Vec<Option<usize>> {
            let mut rng = StdRng::seed_from_u64(9);
            let all = [3, 0, 5, 1].map(|in_flight| Candidate {
                in_flight,
                there_for: Duration::from_millis(age),
                ..Candidate::default()
            });
            (0..1_000).map(|_| choose(all.into_iter(), None, &mut rng)).collect()
        };
        assert_eq!(run(0), run(3_600_000));
        assert_eq!(run(2_500), run(3_600_000));
    }

    #[test]
    fn the_only_replica_takes_everything() {
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(choose(std::iter::once(Candidate::default()), None, &mut rng), Some(0));
    }
}
