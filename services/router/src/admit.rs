//! When a call may go to a replica: at once, after those that are before it, or not at all.
//!
//! Each model version has a [`crate::gate::Gate`]. While nobody waits, a call passes it by one compare-and-swap. A unary call keeps its place until it has ended,
//! with all of its attempts. A request on a stream waits for its turn and gives its place back as it is sent on: its answers may
//! be left unread for as long as the stream lasts, and a caller who reads nothing must not take the places of those who do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_client::tenant;
use weft_policy::admit::{Asked, Band};
use weft_policy::choose::identity;
use weft_types::{MIN_RESERVE, Result, SystemClock};

use crate::Inner;
use crate::gate::{Permit, too_late};
use crate::identify::Wanted;
use crate::route::{Routed, Target, route};

/// Replicas that are asked how soon they answer at best.
const LOOKS: usize = 16;

/// Waits for a call's turn, if a replica is ready for it; `None` where none is: such a call has to be held first, and takes no place
/// meanwhile. Whoever is refused is so at once.
pub(crate) async fn admit(router: &Inner, wanted: &Wanted<'_>, bytes: usize) -> Result<Option<Permit>> {
    let now = SystemClock::now();
    let (gate, asked) = {
        let table = router.table.load();
        let Routed::Ready(target) = route(&table, wanted.name, wanted.version, &wanted.marks(), now)? else {
            return Ok(None);
        };
        let gate = &target.ready.gate;
        if let Some(permit) = gate.try_enter(Band::of(wanted.priority), wanted.deadline, now) {
            return Ok(Some(permit));
        }
        (Arc::clone(gate), asked(wanted, &target, now))
    };
    let turn = gate.wait(asked, bytes, &router.room, now)?;
    // The answer must still reach the caller in time.
    let patience = wanted.deadline.remaining(now).saturating_sub(MIN_RESERVE);
    tokio::time::timeout(patience, turn).await.unwrap_or_else(|_| Err(too_late())).map(Some)
}

/// What decides over a call that cannot go at once.
fn asked(wanted: &Wanted<'_>, target: &Target<'_>, now: Instant) -> Asked {
    let quickest = target.ready.replicas.iter().take(LOOKS).filter_map(|replica| replica.pace.quickest(now));
    let needs = quickest.min_by(f32::total_cmp).and_then(|seconds| Duration::try_from_secs_f32(seconds).ok());
    Asked {
        band: Band::of(wanted.priority),
        tenant: wanted.metadata.map_or_else(|| identity(""), tenant::of),
        deadline: wanted.deadline,
        needs: needs.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
