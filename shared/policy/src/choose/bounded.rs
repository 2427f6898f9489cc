//! Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016; Envoy's
//! `hash_balance_factor`) over the order that an [`Affinity`] gives the replicas: calls that belong together go to the first of it
//! that does not have more than its part of all requests. A hot key spreads over the next ones in its order, and comes back.

use super::{Affinity, Look};

/// How much more than the average a replica may have before calls are led on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound(f64);

impl Bound {
    /// The most that the factor may be.
    pub const MAX: f64 = 10.0;

    /// A bound of `factor` times the average: above 1, since somebody has to have more than the average, and at most [`Bound::MAX`].
    pub fn new(factor: f64) -> Option<Self> {
        (factor > 1.0 && factor <= Self::MAX).then_some(Self(factor))
    }

    /// How many requests one of `count` replicas may have, a new one included, where all have `total` without it.
    fn limit(self, total: u64, count: usize) -> u64 {
        // Rounded up as in the paper: so there is always a replica that has fewer. Numbers that a double does not hold exactly are far
        // beyond all that replicas can have.
        (self.0 * (total as f64 + 1.0) / count as f64).ceil() as u64
    }
}

impl Default for Bound {
    /// 1.25, as most have it: with less, calls are led on for little; with more, a hot key waits where others idle.
    fn default() -> Self {
        Self(1.25)
    }
}

/// Where an affinity leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    /// The one that takes the call.
    pub taken: usize,
    /// The one that it prefers.
    pub preferred: usize,
    /// How many requests each may have, this call included; `None` where there is no bound.
    pub limit: Option<u64>,
}

/// Where `affinity` leads among candidates of the same standing, each with its place; `None` only when there is none at all.
pub(super) fn lead(
    candidates: impl Iterator<Item = (usize, impl Look)> + Clone,
    affinity: Affinity,
    bound: Option<Bound>,
) -> Option<Led> {
    let best = |(index, candidate): (usize, _)| (affinity.preference(Look::identity(&candidate)), index);
    // Of equals the last, as it has always been.
    let preferred = candidates.clone().map(best).max()?.1;
    let Some(bound) = bound else { return Some(Led { taken: preferred, preferred, limit: None }) };
    let (total, count) = candidates
        .clone()
        .fold((0u64, 0), |(total, count), (_, candidate)| (total.saturating_add(candidate.load()), count + 1));
    let limit = bound.limit(total, count);
    // None is left only where requests have come since they were added up.
    let taken = candidates.filter(|(_, candidate)| candidate.load() < limit).map(best).max();
    Some(Led { taken: taken.map_or(preferred, |(_, index)| index), preferred, limit: Some(limit) })
}

#[cfg(test)]
mod tests;
