//! Calls stay in their zone while its replicas have no more to do than others: two are drawn in the zone, two as if there were no zones,
//! and the better of the first takes the call unless it costs much more than the better of the others. Envoy reaches the same by telling
//! each zone's share of callers and replicas; this needs to know nothing of other routers, as requests and latency show what they do.

use super::{Candidate, Prospect};

/// How many times the cost of one drawn anywhere a local one may have. Cost goes with the square of requests, so a local replica has
/// up to a fifth more of them than the less busy of two others; a crossing between zones that latency shows comes on top.
const SPILL: f32 = 1.5;

/// Whether a call stays with the local candidate, given what is expected of it and of one that was drawn anywhere.
pub(super) fn stays(near: Prospect, drawn: Prospect) -> bool {
    match (near.is_late, drawn.is_late) {
        (true, false) => false,
        (false, true) => true,
        _ => near.cost <= drawn.cost * SPILL,
    }
}

/// Whether some of these are in the zone, and some are not: only then is there anything to prefer.
pub(super) fn matters(local: usize, count: usize) -> bool {
    (1..count).contains(&local)
}

/// Whether it is in the zone.
pub(super) const fn is_local((_, candidate): &(usize, Candidate)) -> bool {
    candidate.local
}

#[cfg(test)]
mod tests;
