//! Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", 2005): every target has a score
//! for every key, and the highest takes it. A target that gets more weight takes keys from the others, one that gets less or goes
//! loses its own, and no key moves between two targets that stay as they are. Routers agree without talking.

use super::Share;
use crate::Affinity;

/// The index of the target that takes the calls with this key: each takes a part of all keys by its weight, among those that are
/// ready.
pub(super) fn stick(targets: impl Iterator<Item = Share>, key: Affinity) -> Option<usize> {
    let able = targets.enumerate().filter(|(_, target)| target.weight() > 0);
    let scored = able.map(|(index, target)| (index, score(target, key)));
    scored.max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(index, _)| index)
}

fn score(target: Share, key: Affinity) -> f64 {
    // Half a step from both ends, so that the logarithm is neither zero nor infinite; 52 bits and the half are exact.
    let unit = ((key.preference(target.identity) >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
    -(target.weight() as f64) / unit.ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::choose::identity;

    const KEYS: u64 = 2_000;

    fn targets(weights: &[(u32, bool)]) -> Vec<Share> {
        let target = |(index, (weight, ready)): (usize, &(u32, bool))| Share {
            weight: *weight,
            ready: *ready,
            identity: identity(&format!("m{index}@0")),
            ..Share::default()
        };
        weights.iter().enumerate().map(target).collect()
    }

    fn taken(targets: &[Share], key: u64) -> Option<usize> {
        stick(targets.iter().copied(), Affinity::of("r", key))
    }

    proptest! {
        /// Growth moves keys into the target that grew and nowhere else; what shrinks or is not ready any more gives up its own.
        #[test]
        fn only_what_must_move_moves(
            weights in proptest::collection::vec((0u32..100, any::<bool>()), 1..16),
            which: prop::sample::Index,
            weight in 0u32..100,
            ready: bool,
        ) {
            let before = targets(&weights);
            let changed = which.index(before.len());
            let mut after = before.clone();
            (after[changed].weight, after[changed].ready) = (weight, ready);
            let grew = after[changed].weight() >= before[changed].weight();
            for key in 0..200 {
                let (old, new) = (taken(&before, key), taken(&after, key));
                let moved = if grew { new } else { old };
                prop_assert!(old == new || moved == Some(changed), "{key}: {old:?} to {new:?}, {changed} changed");
            }
        }
    }

    /// Each target's part of the keys is within five standard deviations of what its weight says.
    #[test]
    fn keys_are_shared_by_weight() {
        for weights in [&[1, 1][..], &[1, 9], &[50, 30, 20, 0], &[1_000_000, 1_000_000, 500_000]] {
            let targets = targets(&weights.iter().map(|weight| (*weight, true)).collect::<Vec<_>>());
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0u32; weights.len()];
            (0..KEYS).filter_map(|key| taken(&targets, key)).for_each(|target| counts[target] += 1);
            for (count, weight) in counts.iter().zip(weights) {
                let part = f64::from(*weight) / f64::from(total);
                let tolerance = 5.0 * (KEYS as f64 * part * (1.0 - part)).sqrt();
                assert!((f64::from(*count) - part * KEYS as f64).abs() <= tolerance, "{counts:?} of {weights:?}");
            }
        }
    }
}
