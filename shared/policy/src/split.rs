//! Which target of a route takes a call: the one that it is marked for, else by weight, among those that can serve.

mod sticky;

use crate::Affinity;
use sticky::stick;

/// The most targets that a route has.
pub const MAX_TARGETS: usize = 16;

/// What a route's target brings to the draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Its share of the calls, relative to the others; 0 takes none.
    pub weight: u32,
    /// Whether it has a replica that could take the call.
    pub ready: bool,
    /// Whether the call is marked for it.
    pub matches: bool,
    /// What tells it from the others, the same in every process: [`crate::choose::identity`] of its name. Only keys look at it.
    pub identity: u64,
}

/// What decides about a call that is not marked for any target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draw {
    /// A number, uniform in `[0, 1)`.
    Unit(f64),
    /// What it has in common with other calls: all of them go the same way.
    Key(Affinity),
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The call is marked for the target.
    Match,
    /// Its key.
    Key,
    /// The weights.
    Weight,
}

/// The index of the target that takes the call, and what decided.
///
/// The first target that the call is marked for takes it, ready or not: whoever marks a call wants that target's answer or none.
/// `None` when it is not marked, and no target is both ready and weighted: the caller holds the call, up to its deadline.
pub fn assign(targets: impl Iterator<Item = Share> + Clone, draw: Draw) -> Option<(usize, Rule)> {
    if let Some(index) = targets.clone().position(|target| target.matches) {
        return Some((index, Rule::Match));
    }
    match draw {
        Draw::Unit(unit) => split(targets, unit).map(|index| (index, Rule::Weight)),
        Draw::Key(key) => stick(targets, key).map(|index| (index, Rule::Key)),
    }
}

/// The part of the unmarked calls that each target takes, from 0 to 1; all are 0 when none can serve.
pub fn parts(targets: impl Iterator<Item = Share> + Clone) -> impl Iterator<Item = f64> {
    let total: u64 = targets.clone().map(Share::weight).sum();
    // The total is below 2^36 and exact as a float.
    targets.map(move |target| target.weight() as f64 / total.max(1) as f64)
}

impl Share {
    const fn weight(self) -> u64 {
        // The widening cannot lose anything.
        if self.ready { self.weight as u64 } else { 0 }
    }
}

/// The index of the target that takes the call, given `unit` uniform in `[0, 1)`.
///
/// The share of a target that is not ready goes to the others in proportion.
fn split(targets: impl Iterator<Item = Share> + Clone, unit: f64) -> Option<usize> {
    let total: u64 = targets.clone().map(Share::weight).sum();
    let last = total.checked_sub(1)?;
    // A route has at most `MAX_TARGETS`, so the total is below 2^36 and exact as a float.
    let mut point = ((unit.clamp(0.0, 1.0) * total as f64) as u64).min(last);
    targets.map(Share::weight).position(|weight| match point.checked_sub(weight) {
        Some(rest) => {
            point = rest;
            false
        }
        None => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(weights: &[(u32, bool)]) -> impl Iterator<Item = Share> + Clone {
        weights.iter().map(|(weight, ready)| Share { weight: *weight, ready: *ready, ..Share::default() })
    }

    #[test]
    fn the_line_is_cut_by_weight() {
        let weights = [(1, true), (0, true), (2, true), (5, false), (1, true)];
        let table =
            [(0.0, 0), (0.24, 0), (0.25, 2), (0.74, 2), (0.75, 4), (0.999, 4), (1.0, 4), (-1.0, 0), (f64::NAN, 0)];
        for (unit, target) in table {
            assert_eq!(split(shares(&weights), unit), Some(target), "{unit}");
        }
    }

    #[test]
    fn nothing_ready_or_nothing_weighted_takes_no_call() {
        for weights in [&[][..], &[(3, false)], &[(0, true), (0, true)], &[(0, true), (9, false)]] {
            assert_eq!(split(shares(weights), 0.5), None);
        }
    }

    fn any_share() -> impl Strategy<Value = Share> {
        (0u32..50, any::<bool>(), any::<bool>(), any::<u64>()).prop_map(|(weight, ready, matches, identity)| Share {
            weight,
            ready,
            matches,
            identity,
        })
    }

    fn any_draw() -> impl Strategy<Value = Draw> {
        let key = any::<u64>().prop_map(|key| Draw::Key(Affinity::of("r", key)));
        prop_oneof![(0.0f64..1.0).prop_map(Draw::Unit), key]
    }

    proptest! {
        /// A mark goes before weights, keys and readiness; without one, only what is ready and weighted is taken.
        #[test]
        fn marks_go_first(targets in proptest::collection::vec(any_share(), 0..MAX_TARGETS), draw in any_draw()) {
            let taken = assign(targets.iter().copied(), draw);
            match targets.iter().position(|target| target.matches) {
                Some(first) => prop_assert_eq!(taken, Some((first, Rule::Match))),
                None => {
                    let able = |target: &Share| target.ready && target.weight > 0;
                    prop_assert_eq!(taken.is_some(), targets.iter().any(able));
                    let rule = if matches!(draw, Draw::Unit(_)) { Rule::Weight } else { Rule::Key };
                    prop_assert!(taken.is_none_or(|(index, by)| able(&targets[index]) && by == rule));
                }
            }
        }

        /// The parts are what is left to those that can serve, and everything unless there is none.
        #[test]
        fn parts_make_a_whole(targets in proptest::collection::vec(any_share(), 0..MAX_TARGETS)) {
            let parts: Vec<f64> = parts(targets.iter().copied()).collect();
            let able = |target: &Share| target.ready && target.weight > 0;
            let whole = if targets.iter().any(able) { 1.0 } else { 0.0 };
            prop_assert!((parts.iter().sum::<f64>() - whole).abs() < 1e-9);
            prop_assert!(parts.iter().zip(&targets).all(|(part, target)| (*part > 0.0) == able(target)));
        }

        /// Walking the line in equal steps gives every ready target its share, to within one step.
        #[test]
        fn shares_are_exact(weights in proptest::collection::vec((0u32..50, any::<bool>()), 1..16)) {
            const STEPS: u32 = 10_000;
            let total: u64 = shares(&weights).map(Share::weight).sum();
            let mut taken = vec![0u32; weights.len()];
            for step in 0..STEPS {
                match split(shares(&weights), (f64::from(step) + 0.5) / f64::from(STEPS)) {
                    Some(target) => taken[target] += 1,
                    None => prop_assert_eq!(total, 0),
                }
            }
            for (taken, share) in taken.iter().zip(shares(&weights)) {
                let want = share.weight() as f64 / total.max(1) as f64 * f64::from(STEPS);
                prop_assert!((f64::from(*taken) - want).abs() <= 1.0, "{taken} for {want}");
            }
        }
    }
}
