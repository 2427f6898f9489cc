//! Which target of a route takes a call: by weight, among those that can serve.

/// What a route's target brings to the draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its share of the calls, relative to the others; 0 takes none.
    pub weight: u32,
    /// Whether it has a replica that could take the call.
    pub ready: bool,
}

impl Share {
    const fn weight(self) -> u64 {
        // The widening cannot lose anything.
        if self.ready { self.weight as u64 } else { 0 }
    }
}

/// The index of the target that takes the call, given `unit` uniform in `[0, 1)`.
///
/// The share of a target that is not ready goes to the others in proportion. `None` when no target is both ready and
/// weighted: the caller holds the call, up to its deadline.
pub fn split(targets: impl Iterator<Item = Share> + Clone, unit: f64) -> Option<usize> {
    let total: u64 = targets.clone().map(Share::weight).sum();
    let last = total.checked_sub(1)?;
    // A route has at most 16 targets, so the total is below 2^36 and exact as a float.
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
        weights.iter().map(|(weight, ready)| Share { weight: *weight, ready: *ready })
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

    proptest! {
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
